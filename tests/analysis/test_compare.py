from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtcp_bench.analysis.compare import Comparison, compare_run
from bigtcp_bench.planning.metrics import metrics_of
from tests.analysis.runs import make_frame, make_plan

MIRRORED = {"faster": "slower", "slower": "faster"}
seeds = st.integers(0, 10_000)


def compare_one(metric: str, plan=None, frame=None, **fields) -> Comparison:
    plan = plan or make_plan()
    frame = make_frame(plan, **fields) if frame is None else frame
    (found,) = [comparison for comparison in compare_run(frame, plan) if comparison.metric == metric]
    return found


def test_every_metric_of_every_scenario_is_compared():
    plan = make_plan(scenarios=["ipv4-rr", "ipv6-stream-8", "ipv6-rate"])
    found = [(comparison.scenario, comparison.metric) for comparison in compare_run(make_frame(plan), plan)]
    assert found == [
        (name, metric.name)
        for name, traffic in (("ipv4-rr", "rr"), ("ipv6-stream-8", "stream"), ("ipv6-rate", "rate"))
        for metric in metrics_of(traffic)
    ]


@pytest.mark.parametrize(
    ("scenario", "metric", "change", "verdict"),
    [
        ("ipv4-stream-1", "throughput_bps", 0.5, "faster"),
        ("ipv4-stream-1", "throughput_bps", -0.3, "slower"),
        ("ipv4-stream-1", "cpu_s_per_gb_sender", -0.3, "faster"),
        ("ipv4-stream-1", "retransmits_per_gb", 0.9, "slower"),
        ("ipv4-rr", "transactions_per_s", 0.3, "faster"),
        ("ipv4-rr", "latency_p99_us", 0.3, "slower"),
        ("ipv4-rr", "latency_p50_us", 0.0, "equivalent"),
    ],
)
def test_verdict_is_in_the_metrics_own_direction(scenario, metric, change, verdict):
    plan = make_plan(scenarios=[scenario])
    comparison = compare_one(metric, plan, effect={metric: change})
    assert comparison.verdict == verdict
    assert comparison.change == pytest.approx(change, abs=0.05)
    assert comparison.ci_low < comparison.change < comparison.ci_high


def test_bytes_per_packet_are_evidence_not_a_verdict():
    comparison = compare_one("bytes_per_packet_sender")
    assert comparison.verdict == "evidence"
    assert comparison.change == pytest.approx(150 / 59 - 1, rel=0.01)


def test_inconclusive_says_what_could_have_been_seen():
    comparison = compare_one("throughput_bps", noise=0.15)
    assert comparison.verdict == "inconclusive"
    assert comparison.smallest_detectable_change > 0.1
    assert f"{comparison.smallest_detectable_change:.1%}" in comparison.reasons[0]


def test_small_but_real_change_is_flagged():
    comparison = compare_one("throughput_bps", make_plan(generations=12), effect={"throughput_bps": 0.03})
    assert (comparison.verdict, comparison.below_margin) == ("faster", True)


def test_drift_is_no_effect_of_the_arm():
    plan = make_plan(order="off,on", generations=6)
    comparison = compare_one("throughput_bps", plan, noise=0.002, drift=0.2)
    assert comparison.verdict in ("inconclusive", "equivalent")
    assert comparison.change == pytest.approx(0, abs=0.02)
    assert comparison.drift == pytest.approx(0.2, abs=0.05)


@pytest.mark.parametrize("order", ["off,on,off", "on,off,on", "off,on,on,off", "off,on,off,on,off", "off,on"])
def test_any_order_of_blocks_finds_the_effect(order):
    comparison = compare_one("throughput_bps", make_plan(order=order), effect={"throughput_bps": 0.5})
    assert comparison.verdict == "faster"


def test_a_run_of_one_arm_is_compared_with_itself():
    comparison = compare_one("throughput_bps", make_plan(order="off,off", generations=6))
    assert comparison.n_off == comparison.n_on == 6
    assert comparison.verdict in ("equivalent", "inconclusive")


def test_zero_is_an_ordinary_value_of_retransmits():
    plan = make_plan()
    frame = make_frame(plan)
    frame.loc[frame["metric"] == "retransmits_per_gb", "value"] = 0.0
    both_zero = compare_one("retransmits_per_gb", plan, frame)
    assert (both_zero.verdict, both_zero.change) == ("equivalent", 0)
    frame.loc[(frame["metric"] == "retransmits_per_gb") & (frame["arm"] == "on"), "value"] = 30.0
    only_on = compare_one("retransmits_per_gb", plan, frame)
    assert (only_on.verdict, only_on.change) == ("slower", None)


def test_zero_cannot_be_a_ratio():
    plan = make_plan()
    frame = make_frame(plan)
    frame.loc[(frame["metric"] == "cpu_s_per_gb_sender") & (frame["block"] == 1), "value"] = 0.0
    comparison = compare_one("cpu_s_per_gb_sender", plan, frame)
    assert comparison.verdict == "invalid"
    assert "only values above 0" in comparison.reasons[0]


def test_too_few_generations_are_inconclusive():
    comparison = compare_one(
        "throughput_bps", make_plan(order="off,on", generations=1), effect={"throughput_bps": 1}
    )
    assert comparison.verdict == "inconclusive"
    assert comparison.change == pytest.approx(1, abs=0.1)


def test_a_metric_without_an_arm_is_invalid():
    plan = make_plan()
    frame = make_frame(plan)
    comparison = compare_one("throughput_bps", plan, frame[frame["arm"] == "off"])
    assert comparison.verdict == "invalid"
    assert "not measured in arm on" in comparison.reasons[0]


def test_reasons_make_invalid_but_keep_the_numbers():
    plan = make_plan(scenarios=["ipv4-stream-1", "ipv6-stream-1"])
    found = compare_run(make_frame(plan), plan, scenario_reasons={"ipv4-stream-1": ["it drifted"]})
    verdicts = {(item.scenario, item.verdict == "invalid") for item in found}
    assert verdicts == {("ipv4-stream-1", True), ("ipv6-stream-1", False)}
    assert found[0].reasons == ("it drifted",)
    assert found[0].change is not None


def test_a_noisier_switch_widens_the_interval():
    plan = make_plan()
    frame = make_frame(plan)
    key = ("ipv4-stream-1", "throughput_bps")
    widths = []
    for spread in (0.0, 0.01, 0.05):
        comparison = compare_run(frame, plan, switch_sds={key: spread})[0]
        widths.append(comparison.ci_high - comparison.ci_low)
    assert widths == sorted(widths)
    assert widths[2] > 2 * widths[0]


@given(seed=seeds, factor=st.floats(1e-6, 1e6), change=st.floats(-0.2, 0.2))
@settings(max_examples=25, deadline=None)
def test_scaling_units_never_changes_a_verdict(seed, factor, change):
    plan = make_plan(scenarios=["ipv4-stream-1"], generations=2, repetitions=1)
    frame = make_frame(plan, seed, noise=0.03, effect={"throughput_bps": change, "retransmits_per_gb": 5 * change})
    scaled = frame.assign(value=frame["value"] * factor)
    for before, after in zip(compare_run(frame, plan), compare_run(scaled, plan), strict=True):
        assert before.verdict == after.verdict
        assert before.change == pytest.approx(after.change, rel=1e-6, abs=1e-9)
        assert before.ci_low == pytest.approx(after.ci_low, rel=1e-6, abs=1e-9)


@given(seed=seeds, change=st.floats(-0.2, 0.2), order=st.sampled_from(["off,on,off", "off,on", "off,on,off,on"]))
@settings(max_examples=25, deadline=None)
def test_swapping_arms_mirrors_the_verdict(seed, change, order):
    swap = {"off": "on", "on": "off"}
    plan = make_plan(order=order, generations=2, repetitions=1)
    mirror = make_plan(order=[swap[arm] for arm in plan.order], generations=2, repetitions=1)
    frame = make_frame(plan, seed, noise=0.03, effect={"throughput_bps": change, "retransmits_per_gb": 5 * change})
    mirrored = frame.assign(arm=frame["arm"].map(swap))
    for before, after in zip(compare_run(frame, plan), compare_run(mirrored, mirror), strict=True):
        assert after.verdict == MIRRORED.get(before.verdict, before.verdict)
        assert after.below_margin == before.below_margin
        if before.metric == "throughput_bps":
            assert math.log1p(after.change) == pytest.approx(-math.log1p(before.change), abs=1e-9)
            assert math.log1p(after.ci_low) == pytest.approx(-math.log1p(before.ci_high), abs=1e-9)


@given(seed=seeds, shuffle=seeds)
@settings(max_examples=15, deadline=None)
def test_order_of_repetitions_changes_nothing(seed, shuffle):
    plan = make_plan(generations=2, repetitions=3)
    frame = make_frame(plan, seed, noise=0.05)
    keys = ["block", "generation", "scenario", "metric"]
    random = np.random.default_rng(shuffle)
    permuted = frame.copy()
    permuted["repetition"] = frame.groupby(keys)["repetition"].transform(lambda group: random.permutation(group))
    permuted = permuted.sample(frac=1, random_state=shuffle)
    assert compare_run(permuted, plan) == compare_run(frame, plan)
