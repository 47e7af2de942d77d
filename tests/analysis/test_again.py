from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtcp_bench.analysis import again
from bigtcp_bench.analysis.compare import Comparison, compare_run, generation_medians
from bigtcp_bench.planning.plan import blocks, rerun_plan
from tests.analysis.runs import make_frame, make_plan

STREAM = "ipv4-stream-1"
THROUGHPUT = (STREAM, "throughput_bps")
ORDERS = ("off,on,off,on,off", "off,on,off,on,off,on", "off,on,off")


def plan_of(**fields):
    return make_plan(**{"scenarios": [STREAM, "ipv4-rr"], "order": ORDERS[0], "generations": 2, **fields})


def comparison(half: float, change: float = 0.0, **fields) -> Comparison:
    low, high = (1 + change) / (1 + half) - 1, (1 + change) * (1 + half) - 1
    found = Comparison(*THROUGHPUT, 10.0, 10.0, change, low, high, 0.95, 0.05, 8, 8, 0.06, 0.5, "inconclusive")
    return replace(found, **fields)


def both(plan, noise=0.01, effect=0.2, seed=1):
    """Return the generations of a run of ``plan`` and of what came after it, and all results in one frame."""
    later = rerun_plan(plan, plan.scenarios)
    frames = [make_frame(one, seed + n, noise, {"throughput_bps": effect}) for n, one in enumerate((plan, later))]
    return [generation_medians(frame, one) for frame, one in zip(frames, (plan, later), strict=True)]


@given(half=st.floats(0.001, 3), change=st.floats(-0.9, 10))
def test_the_half_width_is_that_of_the_ratio(half, change):
    assert again.half_width(comparison(half, change)) == pytest.approx(half)


@pytest.mark.parametrize(
    "fields", [{"ci_low": None}, {"ci_high": None}, {"verdict": "invalid"}, {"ci_low": -1.0}, {"ci_low": -1.5}]
)
def test_without_an_interval_nothing_is_wide(fields):
    one = comparison(0.04, **fields)
    assert again.half_width(one) is None
    assert again.wanted([one], plan_of()) == []
    assert again.more_generations(one, 0.03) is None


def test_what_is_too_wide_but_not_hopeless_is_wanted_wherever_it_lies():
    plan = plan_of()
    # Sixteen generations and eight more: what is within 6.1 % now will be within 5 %.
    halves = {0.029: False, 0.031: True, 0.06: True, 0.062: False}
    for half, due in halves.items():
        for change in (-0.3, -0.05, 0.0, 0.05, 0.5):
            assert again.wanted([comparison(half, change)], plan) == ([STREAM] if due else [])
    assert again.too_wide([comparison(0.2)], plan) == [comparison(0.2)]


def test_only_the_main_metric_decides():
    other = comparison(0.04, metric="cpu_s_per_gb_sender")
    unknown = comparison(0.04, scenario="of-another-version")
    assert again.wanted([other, unknown], plan_of()) == []


@pytest.mark.parametrize("fields", [{"precision": None}, {"again": 0}, {"order": "off,off"}])
def test_nothing_is_wanted_where_the_plan_wants_none(fields):
    assert again.wanted([comparison(0.04)], plan_of(**fields)) == []


def test_more_generations_are_those_of_the_square_root():
    assert again.more_generations(comparison(0.06), 0.03) == 48
    assert again.more_generations(comparison(0.03), 0.03) == 0
    assert again.more_generations(comparison(0.02), 0.03) == 0


@pytest.mark.parametrize("order", ORDERS)
def test_all_generations_are_in_one_model(order):
    plan = plan_of(order=order)
    own, later = both(plan)
    found = {(one.scenario, one.metric): one for one in again.pooled(own, later, plan)}
    alone = {(one.scenario, one.metric): one for one in compare_run(own, plan)}
    one, first = found[THROUGHPUT], alone[THROUGHPUT]
    assert (one.n_off, one.n_on) == (first.n_off + 4, first.n_on + 4)
    assert one.verdict == "faster"
    assert one.change == pytest.approx(0.2, abs=0.02)
    assert again.half_width(one) < again.half_width(first)


@pytest.mark.parametrize(("order", "same"), [("off,on,off,on,off", True), ("off,on,off,on,off,on", False)])
def test_without_a_switch_between_them_two_blocks_are_one(order, same, monkeypatch):
    plan = plan_of(order=order)
    own, later = both(plan)
    seen: list[pd.DataFrame] = []
    monkeypatch.setattr(again, "compare_run", lambda frame, *_, **__: seen.append(frame) or [])
    again.pooled(own, later, plan)
    (frame,) = seen
    rows = frame[(frame["scenario"] == STREAM) & (frame["metric"] == "throughput_bps")].sort_values("position")
    assert rows["position"].tolist() == list(range(len(rows)))
    assert len(rows) == sum(one.generations for one in blocks(plan)) + 8
    planned = len(blocks(plan))
    assert rows["block"].nunique() == planned + (2 if same else 3)
    # An arm is in force for a whole block.
    assert (rows.groupby("block")["on"].nunique() == 1).all()


def test_only_what_was_measured_again_is_pooled_and_what_may_not_be_judged_stays():
    plan = plan_of()
    own, later = both(plan)
    part = later[later["scenario"] == STREAM]
    found = again.pooled(own, part, plan)
    assert {one.scenario for one in found} == {STREAM}
    first = compare_run(own, plan)
    wrong = [replace(one, verdict="invalid") if one.metric == "latency_p99_us" else one for one in first]
    kept = again.replaced(wrong, found)
    assert [(one.scenario, one.metric) for one in kept] == [(one.scenario, one.metric) for one in first]
    assert {one.n_off for one in kept if one.scenario == STREAM and one.verdict != "evidence"} == {12}
    assert {one.n_off for one in kept if one.scenario == "ipv4-rr" and one.verdict == "invalid"} == {8}
    lost = [replace(one, verdict="invalid") for one in found]
    assert again.replaced(first, lost) == first


def test_a_drift_over_both_parts_is_no_effect():
    plan = plan_of()
    own, later = both(plan, effect=0.0)
    slope = 0.06 / 23
    shifted = [
        frame.assign(value=frame["value"] * np.exp(slope * (frame["position"] + start)))
        for frame, start in ((own, 0), (later, 16))
    ]
    found = {(one.scenario, one.metric): one for one in again.pooled(*shifted, plan)}
    assert abs(found[THROUGHPUT].change) < 0.01
    assert found[THROUGHPUT].drift == pytest.approx(0.06, abs=0.02)
