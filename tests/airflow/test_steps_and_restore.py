"""What the steps of a run do when the cluster cannot be put back, or nobody can be told that it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException, AirflowTaskTimeout

from bigtcp_bench.airflow import connections
from bigtcp_bench.airflow.steps import closing, opening, telling
from bigtcp_bench.airflow.steps.perform import perform
from bigtcp_bench.airflow.steps.step import DagRunStep
from bigtcp_bench.cluster import restore
from bigtcp_bench.cluster.api import ApiUnreachable
from bigtcp_bench.errors import PreconditionFailed, RestoreFailed, WarehouseError
from bigtcp_bench.report.view import RunView
from bigtcp_bench.warehouse.store import Warehouse
from bigtcp_lab.api.discovery import DAEMONSETS, PODS
from tests.cluster.simulated import Client, Cluster, run
from tests.cluster.test_restore import RUN, open_and_switch
from tests.support.nights import CLUSTER, add_night

DAG_ID, RUN_ID = RUN.split("/")


@pytest.fixture
def warehouse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_warehouse: Callable[[Path], Warehouse]
) -> Warehouse:
    """Return the warehouse of the connection, with the run in it."""
    made = new_warehouse(tmp_path / "warehouse.db")
    number = add_night(made, 0, dag_id=DAG_ID, run_id=RUN_ID)
    made.update_run(number, status="running")
    monkeypatch.setattr(connections, "warehouse", lambda: made)
    monkeypatch.setattr(connections, "cluster_name", lambda _conn_id: CLUSTER)
    monkeypatch.setattr(closing, "STORE_EVERY_S", 0.0)
    monkeypatch.setattr(closing, "STORE_S", 0.2)
    return made


def step_on(api: Client | None, task_id: str = "restore_config", *, last_try: bool = False) -> DagRunStep:
    params = {"plan": "nightly"}
    made = DagRunStep(DAG_ID, RUN_ID, task_id, "manual", params, dict, last_try=last_try)
    made.__dict__.update(api=api)
    return made


def away() -> Warehouse:
    raise WarehouseError("the warehouse postgresql://host/bigtcp cannot be used: connection refused")


def unreachable(*_: object, **__: object) -> None:
    raise ApiUnreachable("the Kubernetes API gave no usable answer for 180 s", 0)


def test_without_a_warehouse_the_cluster_is_put_back_all_the_same(warehouse, monkeypatch, capsys):
    cluster = Cluster()
    before = cluster.state()
    open_and_switch(cluster, "on")
    monkeypatch.setattr(connections, "warehouse", away)
    # Another attempt would find nothing to restore, and could not tell any more what was done.
    with pytest.raises(AirflowFailException, match="as it was before the run, but the warehouse does not know it"):
        perform("restore_config", step_on(cluster.client()))
    assert cluster.state() == before


def test_a_warehouse_that_comes_back_is_told_what_was_done(warehouse, monkeypatch):
    cluster = Cluster()
    open_and_switch(cluster, "on")
    answers = [away, away, lambda: warehouse]
    monkeypatch.setattr(connections, "warehouse", lambda: answers.pop(0)())
    assert perform("restore_config", step_on(cluster.client()))["state"] == "verified"
    assert warehouse.run(1)["restore_result"]["state"] == "verified"


def test_what_was_put_back_is_said_once_and_that_there_was_nothing_too(warehouse, said):
    cluster = Cluster()
    open_and_switch(cluster, "on")
    perform("restore_config", step_on(cluster.client()))
    assert len([text for text in said if text.startswith("restored what")]) == 1
    said.clear()
    perform("restore_config", step_on(cluster.client()))
    assert len([text for text in said if text.startswith("nothing to restore")]) == 1


@pytest.mark.parametrize("with_warehouse", [True, False])
def test_whatever_keeps_the_cluster_from_being_put_back_is_not_verified_and_tried_again(
    with_warehouse, warehouse, monkeypatch
):
    cluster = Cluster()
    before = cluster.state()
    open_and_switch(cluster, "on")
    api = cluster.client()
    api.interrupt = unreachable
    if not with_warehouse:
        monkeypatch.setattr(connections, "warehouse", away)
    with pytest.raises(AirflowException, match="could not be put back: the Kubernetes API gave no") as caught:
        perform("restore_config", step_on(api))
    assert not isinstance(caught.value, AirflowFailException), "Airflow would not try it again"
    if with_warehouse:
        assert warehouse.run(1)["restore_result"]["state"] == "not_verified"
        assert "the Kubernetes API gave no usable answer" in warehouse.run(1)["reasons"][0]
    monkeypatch.setattr(connections, "warehouse", lambda: warehouse)
    assert perform("restore_config", step_on(cluster.client()))["state"] == "verified"
    assert warehouse.run(1)["restore_result"]["state"] == "verified"
    assert cluster.state() == before


def test_a_cilium_that_is_being_replaced_is_tried_again(warehouse):
    cluster = Cluster()
    open_and_switch(cluster, "on")

    cluster.reconcile = lambda: None
    for name in cluster.nodes:
        for pod in cluster.agents(name):
            run(cluster.store.delete(PODS, pod["metadata"]["name"], "kube-system", grace_period_seconds=0))
    run(cluster.store.delete(DAEMONSETS, "cilium", "kube-system"))
    with pytest.raises(
        AirflowException, match="agent on node node1 was not Ready within 180 s: there is"
    ) as caught:
        perform("restore_config", step_on(cluster.client()))
    assert not isinstance(caught.value, AirflowFailException)


def test_an_api_that_is_away_for_almost_its_limit_costs_a_restore_nothing():
    cluster = Cluster()
    before = cluster.state()
    open_and_switch(cluster, "on")
    api = cluster.client()

    def late(moment: str, change: int) -> None:
        # The third change has to be sent again and again; nobody can renew meanwhile.
        if (moment, change) == ("before", 3):
            cluster.time += 195

    api.interrupt = late
    assert restore.restore(api, "test", holder=RUN).outcome == "restored"
    assert cluster.state() == before


class Told:
    """What the run's end was told as."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.views: list[RunView] = []
        monkeypatch.setattr(telling, "tell_slack", lambda _step, view, budget_s: self.views.append(view))


def fail_in(monkeypatch: pytest.MonkeyPatch, step: DagRunStep, failure: BaseException) -> None:
    def fails(_step: DagRunStep) -> None:
        raise failure

    monkeypatch.setattr(opening, step.task_id, fails)
    perform(step.task_id, step)


def test_a_restore_that_fails_in_the_setup_is_told_after_the_last_try(warehouse, monkeypatch):
    told = Told(monkeypatch)
    failure = RestoreFailed("the cluster is not as it was before night 1: node2 has no agent")
    with pytest.raises(AirflowException):
        fail_in(monkeypatch, step_on(None, "snapshot_config"), failure)
    assert (told.views, warehouse.run(1)["status"]) == ([], "running")
    with pytest.raises(AirflowException):
        fail_in(monkeypatch, step_on(None, "snapshot_config", last_try=True), failure)
    row = warehouse.run(1)
    assert (row["status"], row["restore_result"]["state"]) == ("failed", "not_verified")
    assert row["finished_at"] is not None
    (view,) = told.views
    assert view.restore.state == "not_verified"


@pytest.mark.parametrize("failure", [KeyError("status"), AirflowTaskTimeout("Timeout, PID: 7")])
def test_whatever_ends_the_setup_for_good_closes_the_run(failure, warehouse, monkeypatch):
    told = Told(monkeypatch)
    with pytest.raises(type(failure)):
        fail_in(monkeypatch, step_on(None, "snapshot_config"), failure)
    assert warehouse.run(1)["status"] == "running"
    with pytest.raises(type(failure)):
        fail_in(monkeypatch, step_on(None, "snapshot_config", last_try=True), failure)
    row = warehouse.run(1)
    assert (row["status"], row["restore_result"]) == ("failed", None)
    (reason,) = row["reasons"]
    assert "snapshot_config" in reason
    assert str(failure) in reason
    assert len(told.views) == 1


def test_a_setup_that_skips_leaves_the_run_alone(warehouse, monkeypatch):
    told = Told(monkeypatch)
    with pytest.raises(AirflowSkipException):
        fail_in(monkeypatch, step_on(None, "check_kernel", last_try=True), AirflowSkipException("dry run"))
    assert (told.views, warehouse.run(1)["status"]) == ([], "running")


def test_a_run_that_cannot_be_closed_ends_with_its_own_failure(warehouse, monkeypatch):
    monkeypatch.setattr(connections, "warehouse", away)
    with pytest.raises(AirflowException, match="node2 has no agent"):
        fail_in(monkeypatch, step_on(None, "snapshot_config", last_try=True), RestoreFailed("node2 has no agent"))


@pytest.mark.parametrize(("try_number", "last"), [(1, False), (2, True)])
def test_a_task_knows_whether_airflow_tries_it_again(try_number, last, monkeypatch):
    instance = SimpleNamespace(dag_id=DAG_ID, task_id="snapshot_config", try_number=try_number, max_tries=1)
    run = SimpleNamespace(run_id=RUN_ID, run_type="manual")
    context = {"ti": instance, "dag_run": run, "params": {}, "dag": SimpleNamespace(task_ids=[])}
    monkeypatch.setenv("AIRFLOW_VAR_BIGTCP_INSTALLATION", "here")
    step = DagRunStep.of(context)
    assert step.last_try is last
    assert step.run_key == f"{DAG_ID}/{RUN_ID}@here"


class Variables:
    """Airflow's own, in the database of one Airflow; another task may set one first."""

    def __init__(self, monkeypatch, first=None):
        self.kept, self.first = {}, first
        monkeypatch.setattr("airflow.sdk.Variable", self)

    def get(self, name, default=None):
        return self.kept.get(name, default)

    def set(self, name, value, description):
        self.kept[name] = self.first or value


def test_an_installation_has_a_name_of_its_own_that_lasts(monkeypatch):
    Variables(monkeypatch)
    one = connections.installation()
    assert connections.installation() == one
    Variables(monkeypatch)
    assert connections.installation() != one
    Variables(monkeypatch, first="another-task")
    assert connections.installation() == "another-task"


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 41])
def test_an_installation_is_named_by_a_short_word(monkeypatch, name):
    Variables(monkeypatch).kept["bigtcp_installation"] = name
    with pytest.raises(PreconditionFailed, match=r"bigtcp_installation = .*must be up to 40 letters"):
        connections.installation()
