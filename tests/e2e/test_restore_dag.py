"""The break-glass DAG: after a run that was killed, it puts the cluster back."""

from __future__ import annotations

import pytest

from bigtcp_bench.cluster import bigtcp_switch
from bigtcp_bench.cluster.nodes import choose_pair
from bigtcp_bench.cluster.window import open_window
from bigtcp_bench.planning.plan import load_plan
from bigtcp_bench.resources import dags_dir
from tests.e2e.runs import Installation

pytestmark = [pytest.mark.lab, pytest.mark.e2e]


def test_the_restore_dag_undoes_what_a_dead_run_left(installation: Installation):
    from airflow.dag_processing.dagbag import DagBag

    before = installation.cluster_state()
    api, plan = installation.api, load_plan("quick")
    pair = choose_pair(api, plan)
    window = open_window(api, "a/dead-run", plan, pair)
    bigtcp_switch.switch(api, window.fence, "on", pair, plan)
    changed = installation.cluster_state()
    assert changed["limits"] != before["limits"]

    dag = DagBag(dag_folder=str(dags_dir())).dags["bigtcp_restore"]
    # The dead run's lease has not expired yet, so it takes force.
    assert str(dag.test(run_conf={}).state) == "failed"
    assert installation.cluster_state()["limits"] == changed["limits"]
    dag = DagBag(dag_folder=str(dags_dir())).dags["bigtcp_restore"]
    assert str(dag.test(run_conf={"force": True}).state) == "success"
    assert installation.cluster_state() == before
