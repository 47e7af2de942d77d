"""The real DAG, through Airflow, on a lab that cannot be measured: each run must end in one sentence."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bigtcp_bench.cluster import restore
from bigtcp_bench.cluster.nodes import choose_pair
from bigtcp_bench.cluster.window import open_window
from bigtcp_bench.planning.plan import load_plan
from bigtcp_lab import daemon
from tests.e2e.runs import Installation, causes

pytestmark = [pytest.mark.lab, pytest.mark.e2e]


@pytest.fixture
def setting_ignored(installation: Installation) -> Iterator[None]:
    """Have the lab's agents ignore BIG TCP during the test."""
    folder = installation.airflow.kubeconfig.parent
    daemon.set_fault(folder, "setting-ignored", True)
    yield
    daemon.set_fault(folder, "setting-ignored", False)


@pytest.mark.usefixtures("setting_ignored")
def test_a_cluster_that_cannot_be_measured_is_restored_and_not_judged(installation: Installation) -> None:
    """Only Airflow shows that the teardowns run after a task that failed, and that the run fails."""
    before = installation.cluster_state()
    # The arm that fails comes first: nothing that is measured before would show more.
    run = installation.run(order="on,off,on", scenarios=["ipv4-rr"])
    assert run.state == "failed"
    assert run.row["status"] == "failed"
    for word in ("could not be proven to be on", "node1"):
        assert word in run.row["reasons"][0]
    assert installation.warehouse.comparisons_frame(run.number).empty
    assert causes(installation.warehouse, run.number) == ["setting-not-effective"]
    assert installation.cluster_state() == before


def test_a_cluster_that_another_run_holds_is_refused_and_left_to_it(installation: Installation) -> None:
    before, api, plan = installation.cluster_state(), installation.api, load_plan("quick")
    window = open_window(api, "other-dag/run", plan, choose_pair(api, plan))
    try:
        refused = installation.run(scenarios=["ipv4-rr"])
        window.fence.check()
    finally:
        restore.restore(api, "the other run has ended", holder="other-dag/run")
    assert (refused.state, refused.row["status"]) == ("failed", "failed")
    assert "the cluster is held by other-dag/run" in refused.row["reasons"][0]
    assert refused.row["checks"] in (None, [])
    assert installation.cluster_state() == before
