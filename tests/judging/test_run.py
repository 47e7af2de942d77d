"""What is measured again in a run, and what becomes of its verdicts by that."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from bigtcp_bench.airflow.steps import verdict as steps
from bigtcp_bench.analysis.again import half_width
from bigtcp_bench.judging.comparisons import stored_comparisons
from bigtcp_bench.judging.noise import known_noise
from bigtcp_bench.judging.run import JudgedRun
from bigtcp_bench.planning.plan import Block, Plan, blocks, rerun_plan, validate_plan
from bigtcp_bench.report.view import RunView
from bigtcp_bench.warehouse.store import Warehouse
from tests.analysis.runs import make_frame

STREAM, RR = "ipv4-stream-1", "ipv4-rr"
MAIN = {STREAM: "throughput_bps", RR: "transactions_per_s"}
#: With this noise and these seeds the main metrics are not known to 3 %, and within reach of the margin.
NOISE, SEEDS = 0.03, {"plan": 4, "rerun": 5}


def measured(warehouse: Warehouse, noise: float = NOISE, **fields: object) -> tuple[JudgedRun, Plan]:
    """Return a run with all blocks of its plan, judged as the task ``compare`` does, with BIG TCP at +20 %."""
    plan = validate_plan(
        {
            "scenarios": [STREAM, RR],
            "order": "off,on,off,on,off",
            "generations": 2,
            "packet_sizes": False,
            **fields,
        }
    )
    number = warehouse.start_run(
        {
            "cluster": "lab",
            "dag_id": "bigtcp_benchmark",
            "run_id": "night",
            "started_at": datetime(2026, 11, 28, 2, tzinfo=UTC),
            "plan": plan.model_dump(mode="json"),
            "plan_name": plan.name,
            "block_order": ",".join(plan.order),
        }
    )
    store(warehouse, number, plan, blocks(plan), "plan", noise)
    run = JudgedRun(warehouse, number)
    found = run.verdict()
    warehouse.store_comparisons(number, found.comparisons)
    warehouse.update_run(number, status=found.status, reasons=list(found.reasons))
    assert found.status == "valid", found.reasons
    return run, plan


def store(
    warehouse: Warehouse, number: int, plan: Plan, planned: Sequence[Block], purpose: str, noise: float
) -> None:
    effect = dict.fromkeys(MAIN.values(), 0.2)
    frame = make_frame(plan, SEEDS[purpose], noise, effect)
    shift = planned[0].number - 1
    for block in planned:
        row = {"block": block.number, "arm": block.arm, "purpose": purpose}
        moments = {
            name: datetime(2026, 11, 28, 2, block.number, tzinfo=UTC) for name in ("started_at", "finished_at")
        }
        warehouse.store_block(number, row | moments)
    warehouse.store_results(number, frame.assign(block=frame["block"] + shift).to_dict("records"))


def measure_again(run: JudgedRun, noise: float = NOISE) -> None:
    due = run.due()
    store(run.warehouse, run.number, rerun_plan(run.plan, due), run.rerun_blocks(due), "rerun", noise)


def main_of(run: JudgedRun) -> dict[str, object]:
    found = stored_comparisons(run.warehouse.comparisons_frame(run.number))
    return {one.scenario: one for one in found if MAIN[one.scenario] == one.metric}


def test_what_is_not_known_well_enough_is_due_whatever_day_it_is(warehouse):
    run, _ = measured(warehouse)
    warehouse.update_run(run.number, is_night=False)
    assert run.due() == [STREAM, RR]


@pytest.mark.parametrize("fields", [{"precision": None}, {"again": 0}, {"precision": 0.2}, {"noise": 0.002}])
def test_nothing_is_due_that_the_plan_does_not_want_or_that_is_known(warehouse, fields):
    run, _ = measured(warehouse, **fields)
    assert run.due() == []


def test_verdicts_are_those_of_all_blocks(warehouse):
    run, _ = measured(warehouse)
    before = main_of(run)
    measure_again(run)
    rerun = run.rerun(run.due())
    assert (rerun.reasons, rerun.far_off) == ((), ())
    assert {series[1] for series in rerun.pairs} >= set(MAIN.values())
    warehouse.store_comparisons(run.number, run.pooled(rerun))
    after = main_of(run)
    for name in MAIN:
        assert (before[name].n_on, after[name].n_on) == (8, 12)
        assert half_width(after[name]) < half_width(before[name])
    frame = warehouse.comparisons_frame(run.number)
    assert len(frame) == len(run.verdict().comparisons)


def test_a_rerun_that_does_not_count_changes_no_verdict(warehouse):
    run, plan = measured(warehouse)
    due = run.due()
    again = run.rerun_blocks(due)
    store(warehouse, run.number, rerun_plan(plan, due), again, "rerun", NOISE)
    lost = {"block": again[1].number, "generation": 1}
    failure = {**lost, "arm": "on", "reason": "no pods"}
    warehouse.store_generation(run.number, **lost, results=[], failures=[failure])
    assert run.rerun(due).reasons


def test_two_blocks_of_one_arm_say_how_much_of_a_difference_is_chance(warehouse):
    run, _ = measured(warehouse, order="off,off", repetitions=2)
    lines = run.calibrate()
    levels = {noise.level: noise.sd for noise in known_noise(warehouse, "lab") if noise.metric == MAIN[STREAM]}
    assert set(levels) >= {"repetition", "generation"}
    # Of each level there is ``NOISE``.
    assert all(0 <= sd < 3 * NOISE for sd in levels.values())
    assert levels["repetition"] > NOISE / 3
    for found in (lines, RunView.from_warehouse(warehouse, run.number).noise):
        assert [line.partition(": ")[0] for line in found] == [f"noise of {name}, {MAIN[name]}" for name in MAIN]


def test_a_run_fails_with_the_tasks_that_it_needs_and_without_its_restore(warehouse):
    run, _ = measured(warehouse)
    assert run.outcome({}, "close_run") == ("failed", ["the run was ended before it was judged"])
    warehouse.update_run(run.number, restore_result={"state": "verified"})
    states = dict.fromkeys(("close_run", "rerun_enable_big_tcp"), "failed") | {"notify": "skipped"}
    assert run.outcome(states, "close_run") == ("valid", [])
    states |= {"compare": "upstream_failed", "baseline_iperf3": "failed"}
    assert run.outcome(states, "close_run") == ("failed", ["task baseline_iperf3 ended failed"])
    warehouse.update_run(run.number, status="invalid", reasons=["lost"])
    assert run.outcome({}, "close_run") == ("invalid", ["lost"])


class Step:
    """The task ``compare_rerun`` of one run, without a cluster."""

    def __init__(self, run: JudgedRun) -> None:
        self.run, self.number, self.warehouse = run, run.number, run.warehouse


def test_a_second_try_judges_as_the_first(warehouse, monkeypatch):
    monkeypatch.setattr(steps, "_measured_again", lambda step, due: step.run.rerun(due))
    monkeypatch.setattr(steps.telling, "diagnose", lambda step: None)
    # So little that what was wide stays wider than 3 % with all blocks, and is due once more.
    run, _ = measured(warehouse, precision=0.01)
    measure_again(run)
    for _ in range(2):
        found = steps.compare_rerun(Step(run))
        assert found == {"rerun": [STREAM, RR], "counted": True, "reasons": []}
        assert {name: one.n_on for name, one in main_of(run).items()} == {STREAM: 12, RR: 12}
        details = warehouse.judgements_frame(run.number)["details"].tolist()
        assert details
        assert all(one["rerun"]["far_off"] is False and len(one["rerun"]["pairs"]) == 2 for one in details)
        # The plan's own blocks are the night's first value.
        assert len({tuple(one["rerun"]["first"]) for one in details}) == len(details)
    view = RunView.from_warehouse(warehouse, run.number)
    assert view.unknown.startswith("not known to ±1 %: ipv4-stream-1 ±")
    assert "more pairs of pods" in view.unknown
