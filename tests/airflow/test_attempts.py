"""A run that is cleared in Airflow, wholly or in part: what its steps then do, on a simulated cluster."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from bigtcp_bench.airflow import connections
from bigtcp_bench.airflow.generation_operator import IperfGenerationOperator
from bigtcp_bench.airflow.params import dag_params
from bigtcp_bench.airflow.steps import telling
from bigtcp_bench.airflow.steps.perform import perform
from bigtcp_bench.airflow.steps.step import DagRunStep
from bigtcp_bench.cluster import restore
from bigtcp_bench.measuring.generation import generations_of
from bigtcp_bench.notify.run_messages import run_message
from bigtcp_bench.planning.plan import SLOT_ARMS, blocks, task_ids
from bigtcp_bench.report.summary import run_summary
from bigtcp_bench.report.view import RunView
from bigtcp_bench.warehouse.store import Warehouse
from tests.cluster.simulated import Cluster

DAG_ID, RUN_ID = "bigtcp_benchmark", "scheduled__1"
EARLIER, NOW = "ipv4-stream-1", "ipv4-rr"
DONE = {task_ids(SLOT_ARMS, slot)[0]: "success" for slot in range(1, len(SLOT_ARMS) + 1)}

CHANGED = "were changed in the warehouse after the run had begun"
SWITCH = task_ids(SLOT_ARMS, 1)[0]

Step = Callable[..., DagRunStep]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def step(cluster: Cluster, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> Step:
    """Return what makes a task of the run: ``states`` of the other tasks, ``params`` of the form."""
    monkeypatch.setattr(connections, "cluster_name", lambda _conn_id: "prod")
    monkeypatch.setattr(connections, "airflow_api", lambda: None)
    monkeypatch.setattr(telling, "tell_slack", lambda *_, **__: [])

    def make(task_id: str, states: Mapping[str, str] | None = None, **params: Any) -> DagRunStep:
        form = {name: param.value for name, param in dag_params().items()} | {"scenarios": [NOW]} | params
        made = DagRunStep(DAG_ID, RUN_ID, task_id, "scheduled", form, lambda: states or {})
        made.__dict__.update(warehouse=warehouse, api=cluster.client())
        return made

    return make


@pytest.fixture
def earlier(step: Step, warehouse: Warehouse, cluster: Cluster) -> int:
    """Return the first attempt of the run, measured, valid, and put back."""
    begun = step("check_kernel", scenarios=[EARLIER])
    number: int = perform("check_kernel", begun)["run"]
    for block in blocks(warehouse.plan_of(number)):
        key = {"block": block.number, "arm": block.arm}
        warehouse.store_block(number, key)
        place = key | {"generation": 1, "scenario": EARLIER, "repetition": 1}
        values = {"throughput_bps": 1e10, "bytes_per_packet_sender": 9e4, "bytes_per_packet_receiver": 9e4}
        warehouse.store_results(
            number, [place | {"metric": name, "value": value} for name, value in values.items()]
        )
    medians = {"off_median": 1e10, "on_median": 2e10, "change": 1.0}
    row = {"scenario": EARLIER, "metric": "throughput_bps", "verdict": "faster"}
    warehouse.store_comparisons(number, [row | medians])
    warehouse.update_run(number, restore_result={"state": "verified", "detail": "as it was"})
    warehouse.finish_run(number, "valid")
    cluster.time += 86_400
    return number


def says_nothing_of_the_earlier(warehouse: Warehouse, number: int) -> None:
    view = RunView.from_warehouse(warehouse, number)
    assert (view.comparisons, view.proofs, view.restore.state) == ((), (), "pending")
    for text in (run_summary(view), str(run_message(view))):
        assert EARLIER not in text
        assert "Gbit/s" not in text


def test_cleared_wholly_it_begins_anew_by_its_plan_of_now(step, warehouse, earlier):
    again = step("check_kernel")
    number = perform("check_kernel", again)["run"]
    assert number == again.number == warehouse.find_run("prod", DAG_ID, RUN_ID) != earlier
    assert warehouse.plan_of(number).scenarios == (NOW,)
    assert warehouse.run(earlier)["status"] == "valid"
    assert warehouse.comparisons_frame(earlier)["verdict"].tolist() == ["faster"]
    says_nothing_of_the_earlier(warehouse, number)
    # The task is killed and tried again.
    assert perform("check_kernel", step("check_kernel"))["run"] == number


def test_refused_before_it_changed_anything_it_says_nothing_of_the_earlier(step, warehouse, earlier):
    with pytest.raises(AirflowFailException, match="generations"):
        perform("check_kernel", step("check_kernel", generations=99))
    number = warehouse.find_run("prod", DAG_ID, RUN_ID)
    assert number != earlier
    assert warehouse.run(number)["status"] == "failed"
    says_nothing_of_the_earlier(warehouse, number)


def test_cleared_from_the_setup_on_it_is_checked_and_measured_anew(step, warehouse, earlier, cluster):
    again = step("snapshot_config", {"check_kernel": "success"})
    perform("snapshot_config", again)
    assert again.number != earlier
    assert again.plan.scenarios == (NOW,)
    assert warehouse.run(again.number)["environment"]["pair"] == warehouse.run(earlier)["environment"]["pair"]
    assert restore.leftovers(cluster.client()) != []


def test_cleared_from_a_later_switch_on_it_is_refused_before_the_cluster_is_touched(
    step, warehouse, earlier, cluster
):
    before = cluster.state()
    with pytest.raises(AirflowFailException, match="only a part of the run was cleared"):
        perform("snapshot_config", step("snapshot_config", {"disable_big_tcp": "success"}))
    number = warehouse.find_run("prod", DAG_ID, RUN_ID)
    assert number != earlier
    assert warehouse.run(number)["status"] == "failed"
    assert warehouse.run(number)["reasons"][0].startswith("only a part of the run was cleared")
    says_nothing_of_the_earlier(warehouse, number)
    assert restore.leftovers(cluster.client()) == []
    assert cluster.state() == before
    # Without its setup, as "only failed" clears, it gets no further.
    warehouse.finish_run(number, "failed", ["x"])
    with pytest.raises(AirflowFailException, match="from check_kernel on"):
        perform("switch", step("enable_big_tcp"), 2)


def test_with_only_its_judging_cleared_it_is_the_same_attempt(step, warehouse, earlier):
    again = step("snapshot_config", DONE)
    perform("snapshot_config", again)
    assert again.number == earlier
    ended = warehouse.run(earlier)["finished_at"]
    perform("close_run", step("close_run", DONE))
    assert (warehouse.run(earlier)["status"], warehouse.run(earlier)["finished_at"]) == ("valid", ended)
    with pytest.raises(AirflowSkipException, match="cleared alone"):
        perform("check_kernel", step("check_kernel", DONE))
    assert warehouse.attempts(earlier) == [earlier]


def test_a_generation_cleared_alone_is_refused(step, warehouse, earlier, monkeypatch):
    monkeypatch.setattr(connections, "warehouse", lambda: warehouse)
    monkeypatch.setattr(connections, "cluster_api", lambda _conn_id: None)
    first, measured = blocks(warehouse.plan_of(earlier))[0], len(warehouse.results_frame(earlier))
    where = {"run": earlier, "run_key": f"{DAG_ID}/{RUN_ID}", "nodes": ("node1", "node2")}
    generation = generations_of(first, **where, scenarios=warehouse.plan_of(earlier).scenarios)[0]
    for task_id, attempts in (("rerun_test_iperf3", 1), ("test_iperf3", 2), ("test_iperf3", 2)):
        operator = IperfGenerationOperator(
            task_id=task_id, generation=generation.model_dump(mode="json"), kubernetes_conn_id="k8s"
        )
        with pytest.raises(AirflowFailException, match="has ended"):
            operator.execute({})
        assert len(warehouse.attempts(earlier)) == attempts
    assert warehouse.run(warehouse.attempts(earlier)[-1])["reasons"] != []
    assert len(warehouse.results_frame(earlier)) == measured, "what was measured stays as it is"


@pytest.mark.parametrize("what", ["image", "nodes"])
def test_a_run_does_not_obey_what_was_changed_in_the_warehouse_after_it_had_begun(
    step, warehouse, cluster, monkeypatch, what
):
    left: dict[str, Any] = {}

    def task(name: str) -> DagRunStep:
        made = dataclasses.replace(step(name), left_by=left.get)
        made.__dict__.update(warehouse=warehouse, api=cluster.client())
        return made

    def changed(row: Mapping[str, Any]) -> dict[str, Any]:
        plan, environment = copy.deepcopy(row["plan"]), copy.deepcopy(row["environment"])
        pair = environment["pair"]
        if what == "image":
            plan["image"] = "attacker.example/own:1"
        else:
            pair["client"], pair["server"] = pair["server"], pair["client"]
        return {"plan": plan, "environment": environment}

    before = cluster.state()
    left["check_kernel"] = perform("check_kernel", task("check_kernel"))
    number = left["check_kernel"]["run"]
    warehouse.update_run(number, **changed(warehouse.run(number)))
    with pytest.raises(AirflowFailException, match=CHANGED):
        perform("snapshot_config", task("snapshot_config"))
    assert cluster.state() == before

    # Cleared, and changed only when it has taken the cluster.
    left["check_kernel"] = perform("check_kernel", task("check_kernel"))
    number = left["check_kernel"]["run"]
    left["snapshot_config"] = perform("snapshot_config", task("snapshot_config"))
    switch = task(SWITCH)
    of = {"run": number, "run_key": switch.run_key, "nodes": switch.pair.names, "choice": switch.choice}
    generation = generations_of(blocks(switch.plan)[0], **of, scenarios=switch.plan.scenarios)[0]
    taken = cluster.state()
    warehouse.update_run(number, **changed(warehouse.run(number)))
    with pytest.raises(AirflowFailException, match=CHANGED):
        perform("switch", task(SWITCH), 1)
    monkeypatch.setattr(connections, "warehouse", lambda: warehouse)
    monkeypatch.setattr(connections, "cluster_api", lambda _conn_id: cluster.client())
    operator = IperfGenerationOperator(
        task_id="test_iperf3", generation=generation.model_dump(mode="json"), kubernetes_conn_id="k8s"
    )
    with pytest.raises(AirflowFailException, match=CHANGED):
        operator.execute({})
    assert cluster.state() == taken
    # The way back asks for neither.
    assert perform("restore_config", task("restore_config"))
    assert cluster.state() == before
