"""A changed Cilium on the lab: the watch notices it, waits for the rollout, and triggers one run."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kubernetes.client import AppsV1Api
from kubernetes.config import new_client_from_config

from bigtcp_bench.cluster.cilium import await_rollout, find_cilium
from bigtcp_bench.cluster.rollout import observe
from bigtcp_bench.resources import dags_dir
from tests.e2e.runs import Installation
from tests.support.nights import add_night

pytestmark = [pytest.mark.lab, pytest.mark.e2e]

NEW = "quay.io/cilium/cilium:v1.18.4"


@pytest.fixture
def cluster(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give the lab a name of its own and a night of its present Cilium; put its Cilium back afterwards."""
    name = "upgraded lab"
    connection = json.loads(os.environ["AIRFLOW_CONN_KUBERNETES_DEFAULT"])
    connection["extra"]["cluster_name"] = name
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps(connection))
    before = observe(installation.api).fingerprint
    add_night(
        installation.warehouse,
        0,
        cluster=name,
        images={"cilium": before.image},
        cilium_config=dict(before.config),
    )
    yield name
    set_image(installation, before.image)
    await_rollout(installation.api, find_cilium(installation.api))


def set_image(installation: Installation, image: str) -> None:
    with contextlib.closing(new_client_from_config(str(installation.airflow.kubeconfig))) as client:
        spec = {"template": {"spec": {"containers": [{"name": "cilium-agent", "image": image}]}}}
        AppsV1Api(client).patch_namespaced_daemon_set("cilium", "kube-system", {"spec": spec})


@pytest.fixture
def watch(cluster: str) -> Callable[[], tuple[str, dict[str, str]]]:
    """Return what runs the watch once and says the states of its run and of its tasks."""
    from airflow.dag_processing.dagbag import DagBag

    dag = DagBag(dag_folder=str(dags_dir() / "bigtcp_upgrade_watch.py")).dags["bigtcp_upgrade_watch"]

    def once() -> tuple[str, dict[str, str]]:
        run = dag.test(run_conf={"settle_s": 1})
        return str(run.state), {task.task_id: str(task.state) for task in run.get_task_instances()}

    return once


def triggered() -> list[Any]:
    from airflow.models.dagrun import DagRun

    return [run for run in DagRun.find(dag_id="bigtcp_benchmark") if run.run_id.startswith("upgrade__")]


def test_a_changed_cilium_is_noticed_waited_for_and_measured_once(installation: Installation, watch):
    set_image(installation, NEW)
    assert watch() == ("success", {"watch_cilium": "success", "trigger_benchmark": "success"})
    assert observe(installation.api).unsettled == ""
    (run,) = triggered()
    assert run.run_id.startswith("upgrade__upgraded-lab__")
    assert run.run_type == "operator_triggered"
    assert run.conf["plan"] == "upgrade"
    assert "image quay.io/cilium/cilium:v1.18.3 → quay.io/cilium/cilium:v1.18.4" in run.conf["note"]
    # The run is only queued here, and already the next watch has nothing to do.
    assert watch() == ("success", {"watch_cilium": "success", "trigger_benchmark": "skipped"})
    assert [found.run_id for found in triggered()] == [run.run_id]
