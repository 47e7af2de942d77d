"""Which change the upgrade watch starts a run for, and that it is one run however often it looks."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred

from bigtcp_bench.airflow import watch
from bigtcp_bench.airflow.dag_ids import DAG_ID
from bigtcp_bench.airflow.params import dag_params, plan_of_params
from bigtcp_bench.airflow.watch import UpgradeWatchOperator, changed_since, run_to_trigger
from bigtcp_bench.cluster.environment import cluster_uid
from bigtcp_bench.cluster.fingerprint import UPGRADE_PLAN, Fingerprint, datapath_config
from bigtcp_bench.cluster.rollout import observe
from bigtcp_bench.warehouse.store import Warehouse
from bigtcp_lab.api.discovery import CILIUMNODECONFIGS
from tests.cluster.simulated import Cluster, run
from tests.support.nights import CLUSTER, add_night


def fingerprint(version: str) -> Fingerprint:
    return Fingerprint(f"quay.io/cilium/cilium:v{version}", datapath_config({"routing-mode": "native"}))


OLD, NEW = fingerprint("1.18.3"), fingerprint("1.18.4")


def night(warehouse: Warehouse, number: int, cilium: Fingerprint, status: str = "valid", **columns: Any) -> int:
    run = add_night(
        warehouse, number, images={"cilium": cilium.image}, cilium_config=dict(cilium.config), **columns
    )
    warehouse.update_run(run, status=status)
    return run


def looked(warehouse: Warehouse, live: Fingerprint) -> str:
    """Return the id of the run that one watch would trigger."""
    return run_to_trigger(warehouse, CLUSTER, DAG_ID, changed_since(warehouse, CLUSTER, live), live)[0]


def test_without_a_valid_run_there_is_nothing_to_compare_with(warehouse):
    night(warehouse, 0, OLD, status="failed")
    night(warehouse, 1, OLD, is_aa=True)
    with pytest.raises(AirflowSkipException, match="no valid run of lab"):
        changed_since(warehouse, CLUSTER, NEW)


def test_what_was_measured_already_is_no_change(warehouse):
    night(warehouse, 0, NEW)
    number = night(warehouse, 1, OLD)
    with pytest.raises(AirflowSkipException, match=f"is what run {number} measured"):
        changed_since(warehouse, CLUSTER, OLD)
    assert changed_since(warehouse, CLUSTER, NEW) == number


def test_the_run_says_why_and_fits_the_form(warehouse):
    number = night(warehouse, 0, OLD)
    _, why = run_to_trigger(warehouse, CLUSTER, DAG_ID, number, NEW)
    assert why == (
        f"Cilium has changed since run {number}: "
        "image quay.io/cilium/cilium:v1.18.3 → quay.io/cilium/cilium:v1.18.4"
    )
    params = {name: param.value for name, param in dag_params().items()} | {"plan": UPGRADE_PLAN, "note": why}
    plan = plan_of_params(params)
    assert (plan.name, plan.order) == ("upgrade", ("off", "on", "off", "on", "off", "on"))


def test_however_often_it_looks_it_is_one_run(warehouse):
    night(warehouse, 0, OLD)
    first = looked(warehouse, NEW)
    assert looked(warehouse, NEW) == first
    # Whatever becomes of other runs, and of this one.
    night(warehouse, 1, NEW, status="failed")
    night(warehouse, 2, OLD, status="invalid")
    assert looked(warehouse, NEW) == first
    run = night(warehouse, 3, NEW, status="running", run_id=first, dag_id=DAG_ID)
    with pytest.raises(AirflowSkipException, match=r"has been started already and is running$"):
        looked(warehouse, NEW)
    warehouse.store_block(run, {"block": 1, "arm": "off"})
    warehouse.finish_run(run, "failed", ["block 1: nothing was measured"])
    with pytest.raises(AirflowSkipException, match="already and is failed: block 1: nothing was measured"):
        looked(warehouse, NEW)


def test_a_run_that_failed_before_it_measured_anything_is_made_again_twice(warehouse):
    night(warehouse, 0, OLD)
    names = []
    for number in (1, 2, 3):
        names.append(looked(warehouse, NEW))
        run = night(warehouse, number, NEW, run_id=names[-1], dag_id=DAG_ID)
        warehouse.finish_run(run, "failed", ["node node1 is 90% busy with other work"])
    assert names == [names[0], f"{names[0]}__2", f"{names[0]}__3"]
    with pytest.raises(AirflowSkipException, match=f"run {names[2]} .* is failed: node node1 is 90% busy"):
        looked(warehouse, NEW)


def test_a_night_that_measures_the_change_during_the_wait_does_not_take_the_place_of_the_run(warehouse):
    night(warehouse, 0, OLD)
    noticed = changed_since(warehouse, CLUSTER, NEW)
    first = looked(warehouse, NEW)
    night(warehouse, 1, NEW)
    assert run_to_trigger(warehouse, CLUSTER, DAG_ID, noticed, NEW)[0] == first
    with pytest.raises(AirflowSkipException, match="is what run 2 measured"):
        changed_since(warehouse, CLUSTER, NEW)


def test_a_change_that_is_taken_back_during_the_wait_is_not_measured(warehouse):
    noticed = night(warehouse, 0, OLD)
    with pytest.raises(AirflowSkipException, match=f"again what run {noticed} measured"):
        run_to_trigger(warehouse, CLUSTER, DAG_ID, noticed, OLD)


def test_a_change_that_comes_again_is_a_new_one(warehouse):
    night(warehouse, 0, OLD)
    first = looked(warehouse, NEW)
    night(warehouse, 1, NEW, run_id=first, dag_id=DAG_ID)
    back = looked(warehouse, OLD)
    night(warehouse, 2, OLD, run_id=back, dag_id=DAG_ID)
    again = looked(warehouse, NEW)
    assert len({first, back, again}) == 3


def test_an_upgrade_that_failed_and_was_taken_back_is_tried_again_after_the_next_night(warehouse):
    night(warehouse, 0, OLD)
    first = looked(warehouse, NEW)
    night(warehouse, 1, NEW, status="failed", run_id=first, dag_id=DAG_ID)
    night(warehouse, 2, OLD)
    assert looked(warehouse, NEW) != first


def test_a_cluster_is_measured_by_its_own_dag(monkeypatch):
    monkeypatch.setenv("BIGTCP_BENCH_CLUSTERS", "prod,stage-2")
    made = [
        UpgradeWatchOperator(task_id="watch_cilium", kubernetes_conn_id=name).benchmark
        for name in ("prod", "stage-2")
    ]
    assert made == ["bigtcp_benchmark", "bigtcp_benchmark_stage-2"]


@pytest.fixture
def looking(warehouse, monkeypatch) -> Callable[[Cluster], BaseException]:
    """Return what one look of the watch at a cluster ends with."""
    monkeypatch.setenv("BIGTCP_BENCH_CLUSTERS", "k8s")
    context = {"ti": SimpleNamespace(get_dag=lambda _: SimpleNamespace(is_paused=False))}

    def look(cluster: Cluster) -> BaseException:
        monkeypatch.setattr(watch.connections, "warehouse", lambda: warehouse)
        monkeypatch.setattr(watch.connections, "cluster_name", lambda _: CLUSTER)
        monkeypatch.setattr(watch.connections, "cluster_api", lambda _: cluster.client())
        operator = UpgradeWatchOperator(task_id="watch_cilium", kubernetes_conn_id="k8s")
        with pytest.raises((AirflowSkipException, TaskDeferred)) as ended:
            operator.execute(context)
        return ended.value

    return look


def test_a_node_configuration_for_the_nodes_of_the_last_run_is_a_change(warehouse, looking):
    cluster = Cluster()
    night(warehouse, 0, observe(cluster.client()).fingerprint)
    assert "is what run 1 measured" in str(looking(cluster))
    body = {
        "metadata": {"name": "site", "namespace": "kube-system"},
        "spec": {"nodeSelector": {}, "defaults": {"mtu": "9000"}},
    }
    run(cluster.store.create(CILIUMNODECONFIGS, body))
    deferred = looking(cluster)
    assert isinstance(deferred, TaskDeferred)
    assert deferred.trigger.nodes == ["node1", "node2"]


def test_another_cluster_of_the_same_name_is_no_change(warehouse, looking):
    cluster = Cluster()
    uid = cluster_uid(cluster.client())
    night(warehouse, 0, NEW, environment={"cluster_uid": uid})
    assert isinstance(looking(cluster), TaskDeferred)
    night(warehouse, 1, NEW, environment={"cluster_uid": "of another"})
    assert str(looking(cluster)).startswith("run 2 was on another cluster, also called lab")


def test_a_change_is_measured_against_a_run_of_the_same_cluster(warehouse):
    first = night(warehouse, 0, OLD, environment={"cluster_uid": "A"})
    night(warehouse, 1, OLD, environment={"cluster_uid": "B"})
    noticed = night(warehouse, 2, NEW, environment={"cluster_uid": "A"})
    live = fingerprint("1.18.5")
    assert f"since run {noticed}:" in run_to_trigger(warehouse, CLUSTER, DAG_ID, noticed, live)[1]
    # Taken back and seen while it waits: the run before counts, but not that of the other cluster.
    night(warehouse, 3, live, environment={"cluster_uid": "A"})
    warehouse.update_run(noticed, status="invalid")
    assert f"since run {first}:" in run_to_trigger(warehouse, CLUSTER, DAG_ID, noticed, live)[1]


def test_clusters_are_kept_apart(warehouse):
    night(warehouse, 0, OLD)
    night(warehouse, 1, NEW, cluster="prod")
    assert changed_since(warehouse, CLUSTER, NEW) == 1
    with pytest.raises(AirflowSkipException):
        changed_since(warehouse, "prod", NEW)
