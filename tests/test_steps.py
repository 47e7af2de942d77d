"""Steps with everything around them made up: what a block does about its control."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from bigtcp_bench import steps
from bigtcp_bench.cluster import bigtcp_switch, load, pods
from bigtcp_bench.cluster.pods import PodFailed
from bigtcp_bench.errors import PreconditionFailed, SwitchFailed
from bigtcp_bench.plan import CONTROL, Block, validate_plan
from bigtcp_bench.pods import control
from bigtcp_bench.pods.results import Measurement
from bigtcp_bench.report.view import RunView
from bigtcp_bench.steps import DagRunStep
from bigtcp_bench.warehouse.store import Warehouse
from tests.support.nights import add_night

BLOCK = Block(number=2, arm="on", slot=2, generations=2, arm_offset=0)


@pytest.fixture
def step(tmp_path: Path) -> DagRunStep:
    """Return the step of a run that is already stored, on no cluster at all."""
    warehouse = Warehouse(f"sqlite:///{tmp_path}/warehouse.db")
    warehouse.migrate()
    made = DagRunStep("bigtcp_benchmark", "night 0", "enable_big_tcp", "manual", {}, dict)
    plan = validate_plan({"scenarios": "ipv4-rr"})
    made.__dict__.update(warehouse=warehouse, number=add_night(warehouse, 0), plan=plan, api=None, pair=None)
    return made


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(steps, "say", found.append)
    return found


def test_the_control_of_a_block_outlives_its_generations_and_is_reported(step, said, monkeypatch):
    measured = [Measurement(CONTROL, 1, "transactions_per_s", 36_123.0, "1/s")]
    monkeypatch.setattr(control, "measure_control", lambda *_, **__: measured)
    step._measure_control(BLOCK)
    step.warehouse.store_generation(step.number, 2, 1, results=[])
    assert said == ["block 2: the control has 36,123 transactions/s between the nodes themselves"]
    view = RunView.from_warehouse(step.warehouse, step.number)
    assert view.control is not None
    assert (view.control.value, view.control.usual) == (pytest.approx(36_123.0), None)
    assert (view.proofs, view.measuring_time_s) == ((), 0)


def test_a_control_that_fails_is_said_and_missing(step, said, monkeypatch):
    def fail(*_: object, **__: object) -> list[Measurement]:
        raise PodFailed("pod bigtcp-bench/bigtcp-control-server-x ended with Error 1: cannot listen on port 15202")

    monkeypatch.setattr(control, "measure_control", fail)
    step._measure_control(BLOCK)
    (line,) = said
    assert line.startswith("block 2 has no control: pod bigtcp-bench/bigtcp-control-server-x ended")
    assert step.warehouse.results_frame(step.number).empty


class Held:
    """A fence that holds, as far as it is asked."""

    def renewing(self):
        return contextlib.nullcontext()

    def check(self):
        return None


def test_busy_nodes_end_a_block_before_anything_is_switched(step, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PreconditionFailed("node node1 is 90% busy with other work, where at most 50% is allowed")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the arm was switched on busy nodes")

    monkeypatch.setattr(DagRunStep, "fence", lambda self: Held())
    monkeypatch.setattr(pods, "delete_pods", lambda *_: [])
    monkeypatch.setattr(load, "await_quiet", refuse)
    monkeypatch.setattr(bigtcp_switch, "switch", never)
    with pytest.raises(PreconditionFailed, match="90% busy"):
        step._switched(BLOCK, "plan")


def test_what_a_switch_found_that_is_not_proven_is_kept_for_the_diagnosis(step, said, monkeypatch):
    limits = {"eth0": {"gso_ipv4_max_size": 65_536, "gro_ipv4_max_size": 65_536, "tso_max_size": 524_280}}
    proof = {"merged": {"ipv4": True, "ipv6": True}, "max_gso": {"ipv4": 196_608}, "limits": limits}

    def fail(*_: object, **__: object) -> None:
        raise SwitchFailed("BIG TCP could not be proven to be on", {"arm": "on", "nodes": {"node1": proof}})

    monkeypatch.setattr(DagRunStep, "fence", lambda self: Held())
    monkeypatch.setattr(pods, "delete_pods", lambda *_: [])
    monkeypatch.setattr(load, "await_quiet", lambda *_, **__: None)
    monkeypatch.setattr(bigtcp_switch, "switch", fail)
    with pytest.raises(SwitchFailed):
        step._switched(BLOCK, "plan")
    step.warehouse.update_run(step.number, status="failed", reasons=["not proven"])
    said.clear()
    step._diagnose()
    (line,) = said
    assert line.startswith(
        "likely cause setting-not-effective: gso_ipv4_max_size of eth0 on node node1 is 65,536 B"
    )
    (cause,) = RunView.from_warehouse(step.warehouse, step.number).causes
    assert (cause.name, cause.arm, cause.node) == ("setting-not-effective", "on", "node1")


def test_a_document_that_cannot_be_read_costs_the_diagnosis_and_not_the_run(step, said):
    raw = {"block": 1, "generation": 1, "kind": "hello", "document": b"not compressed"}
    step.warehouse.store_block(step.number, {"block": 1, "arm": "off"})
    step.warehouse.store_raw(step.number, [raw])
    step.warehouse.update_run(step.number, status="invalid", reasons=["drift"])
    step._diagnose()
    (line,) = said
    assert line.startswith("the run could not be diagnosed: Error -3 while decompressing data")
