from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtcp_bench.analysis.compare import Comparison, compare_run, effective_df, generation_medians
from bigtcp_bench.analysis.noise import measure_noise
from bigtcp_bench.planning.metrics import METRICS, metrics_of
from bigtcp_bench.planning.plan import blocks, load_plan
from tests.analysis.runs import make_frame, make_plan

MIRRORED = {"faster": "slower", "slower": "faster"}
seeds = st.integers(0, 10_000)
#: One metric of each kind: the others are compared as one of these.
KINDS = (
    *("throughput_bps", "retransmits_per_gb", "cpu_s_per_gb_sender"),
    *("user_s_per_gb_sender", "softirq_share_sender", "bytes_per_packet_sender"),
)


def compared(frame: pd.DataFrame, plan, **known) -> list[Comparison]:
    return compare_run(generation_medians(frame, plan), plan, **known)


def compare_one(metric: str, plan=None, frame=None, **fields) -> Comparison:
    plan = plan or make_plan()
    frame = make_frame(plan, **fields) if frame is None else frame
    # Each metric is compared by itself, so the others need not be.
    of_frame = compared(frame[frame["metric"] == metric], plan)
    (found,) = [comparison for comparison in of_frame if comparison.metric == metric]
    return found


def test_every_metric_of_every_scenario_is_compared():
    plan = make_plan(scenarios=["ipv4-rr", "ipv6-stream-8", "ipv6-rate"])
    found = [(comparison.scenario, comparison.metric) for comparison in compared(make_frame(plan), plan)]
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
        ("ipv4-stream-1", "retransmits_per_gb", 9.0, "slower"),
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


def test_the_kinds_are_all_there_are():
    def kind(metric):
        return metric.scale, metric.unit == "1", metric.better, metric.floor, metric.judged

    everything = [metric for traffic in ("stream", "rate") for metric in metrics_of(traffic)]
    assert sorted(kind(METRICS[name]) for name in KINDS) == sorted({kind(metric) for metric in everything})


def drifted(plan, bend: float, seed: int, noise: float = 0.01):
    """Return a throughput without an effect whose ends are ``bend`` above its middle."""
    frame = make_frame(plan, seed, noise=noise, metrics=("throughput_bps",))
    first, total = {}, 0
    for block in blocks(plan):
        first[block.number] = total
        total += block.generations
    position = frame["block"].map(first) + frame["generation"] - 1
    return frame.assign(value=frame["value"] * (1 + bend * (2 * position / (total - 1) - 1) ** 2))


@pytest.mark.parametrize("bend", [0.06, -0.06])
@pytest.mark.parametrize("name", ["quick", "nightly", "upgrade"])
def test_a_drift_that_bends_is_no_effect_in_any_plan_that_is_shipped(name, bend):
    plan = make_plan(order=load_plan(name).order, generations=load_plan(name).generations, repetitions=1)
    called = [
        compare_one("throughput_bps", plan, drifted(plan, bend, seed, 0.02)).verdict in ("faster", "slower")
        for seed in range(40)
    ]
    # Three blocks called nearly all of these better or worse when a bend was taken for an effect.
    assert sum(called) <= 8


@pytest.mark.parametrize("order", ["off,on,off", "off,on,off,on,off", "off,on,off,on,off,on", "off,on"])
@pytest.mark.parametrize("scenario", ["ipv4-stream-1", "ipv4-rate"])
@given(seed=seeds, share=st.floats(0, 1), noise=st.floats(0.01, 3), change=st.floats(-0.99, 5))
@settings(max_examples=15)
def test_no_interval_leaves_what_the_metric_can_be(order, scenario, seed, share, noise, change):
    plan = make_plan(scenarios=[scenario], order=order, generations=2, repetitions=1)
    random = np.random.default_rng(seed)
    frame = make_frame(plan, seed, noise=0.3, metrics=KINDS)
    linear = frame["metric"].isin([name for name, metric in METRICS.items() if metric.scale == "linear"])
    shares = frame["unit"] == "1"
    wild = np.exp(random.normal(0, noise, len(frame))) * (random.random(len(frame)) < share)
    value = np.where(linear, wild * np.where(frame["arm"] == "on", 1 + change, 1), frame["value"])
    frame["value"] = np.where(shares, np.minimum(value, 1.0), value)
    for found in compared(frame, plan):
        figures = (found.change, found.ci_low, found.ci_high)
        assert all(figure is None or figure >= -1 for figure in figures)
        if METRICS[found.metric].unit == "1" and found.change is not None:
            off = found.off_median if found.off_median else None
            assert (found.ci_low is None) == (found.ci_high is None)
            assert off is None or found.ci_high is None or math.isfinite(found.ci_high)
        if found.verdict == "inconclusive":
            assert found.ci_high is None or found.ci_high <= 10
            assert found.reasons


@given(seed=seeds, noise=st.floats(0.001, 0.02), change=st.floats(-0.05, 0.05))
@settings(max_examples=25)
def test_what_is_called_equivalent_is_drawn_within_the_margin(seed, noise, change):
    plan = make_plan(order="off,on,off,on,off", generations=2, repetitions=1)
    effect = {"throughput_bps": change, "retransmits_per_gb": change, "softirq_share_sender": change}
    for found in compared(make_frame(plan, seed, noise=noise, effect=effect, metrics=KINDS), plan):
        drawn = found.ci_low, found.ci_high
        if found.verdict == "equivalent" and not METRICS[found.metric].floor:
            assert -found.margin < found.ci_low <= 0 <= found.ci_high < found.margin, drawn
        elif found.verdict == "inconclusive" and found.ci_low is not None and METRICS[found.metric].scale == "log":
            # On other scales the change relative to arm on, tested too, does not follow from the drawn one.
            assert not (1 / (1 + found.margin) - 1 < found.ci_low and found.ci_high < found.margin), drawn


def test_counts_that_come_and_go_are_too_noisy_to_tell_without_figures():
    plan = make_plan(order="off,on,off,on,off", generations=2)
    frame = make_frame(plan)
    random = np.random.default_rng(2)
    bursts = random.choice([0.0, 0.0, 5.0, 4_000.0], size=len(frame))
    frame["value"] = np.where(frame["metric"] == "retransmits_per_gb", bursts, frame["value"])
    found = compare_one("retransmits_per_gb", plan, frame)
    assert (found.verdict, found.change, found.ci_low, found.ci_high) == ("inconclusive", None, None, None)
    assert found.reasons == ("too noisy to tell: this run could not have seen any change that is possible",)
    assert found.off_median is not None


def test_inconclusive_says_what_could_have_been_seen():
    comparison = compare_one("throughput_bps", noise=0.15)
    assert comparison.verdict == "inconclusive"
    assert comparison.smallest_detectable_change > 0.1
    assert f"{comparison.smallest_detectable_change:.1%}" in comparison.reasons[0]


def test_small_but_real_change_is_flagged():
    comparison = compare_one("throughput_bps", make_plan(generations=12), effect={"throughput_bps": 0.03})
    assert (comparison.verdict, comparison.below_margin) == ("faster", True)


def test_pods_of_two_kinds_take_turns_and_either_is_compared_as_if_it_were_alone():
    both = make_plan(scenarios=["ipv4-stream-1", "ipv4-stream-1@same-node"])
    alone = make_plan(scenarios=["ipv4-stream-1"])
    frame = make_frame(both, drift=0.1)
    for name, one in (("ipv4-stream-1", alone), ("ipv4-stream-1@same-node", both)):
        medians = generation_medians(frame[frame["scenario"] == name], both)
        assert sorted(set(medians["position"])) == list(range(sum(block.generations for block in blocks(one))))
    of_one = frame[frame["scenario"] == "ipv4-stream-1"].copy()
    of_one["generation"] = (of_one["generation"] + 1) // 2
    expected = compared(of_one, alone)
    assert [one for one in compared(frame, both) if one.scenario == "ipv4-stream-1"] == expected
    noise = [one for one in measure_noise(frame, both) if one.scenario == "ipv4-stream-1"]
    assert noise == measure_noise(of_one, alone)


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
    frame.loc[(frame["metric"] == "retransmits_per_gb") & (frame["arm"] == "on"), "value"] = 300.0
    only_on = compare_one("retransmits_per_gb", plan, frame)
    assert (only_on.verdict, only_on.change, only_on.below_margin) == ("slower", None, False)


@pytest.mark.parametrize(
    ("metric", "off", "on", "verdict", "below_margin"),
    [
        ("retransmits_per_gb", 2.6, 8.5, "equivalent", False),
        ("retransmits_per_gb", 0.0, 30.0, "equivalent", False),
        ("retransmits_per_gb", 400.0, 700.0, "slower", False),
        ("retransmits_per_gb", 20_000.0, 20_400.0, "slower", True),
        ("softirq_share_sender", 0.02, 0.021, "equivalent", False),
        ("softirq_share_sender", 0.02, 0.04, "slower", False),
    ],
)
def test_what_is_little_for_the_metric_is_no_change(metric, off, on, verdict, below_margin):
    plan = make_plan(order="off,on,off,on,off", generations=2)
    frame = make_frame(plan)
    value = np.where(frame["arm"] == "on", on, off) * np.random.default_rng(1).normal(1, 0.001, len(frame))
    frame["value"] = np.where(frame["metric"] == metric, value, frame["value"])
    found = compare_one(metric, plan, frame)
    assert (found.verdict, found.below_margin) == (verdict, below_margin), (found.ci_low, found.ci_high)


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
    found = compared(make_frame(plan), plan, scenario_reasons={"ipv4-stream-1": ["it drifted"]})
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
        comparison = compared(frame, plan, switch_sds={key: spread})[0]
        widths.append(comparison.ci_high - comparison.ci_low)
    assert widths == sorted(widths)
    assert widths[2] > 2 * widths[0]


def test_what_is_known_beforehand_adds_degrees_of_freedom_up_to_a_limit():
    assert [effective_df(10, noise, 3.0) for noise in (3.0, 2.0, 1.0, 0.0)] == [10, 22.5, 30, 30]


@given(seed=seeds, factor=st.floats(1e-6, 1e6), change=st.floats(-0.2, 0.2))
@settings(max_examples=25)
def test_scaling_units_never_changes_a_verdict(seed, factor, change):
    plan = make_plan(scenarios=["ipv4-stream-1"], generations=2, repetitions=1)
    effect = {"throughput_bps": change, "retransmits_per_gb": 5 * change}
    frame = make_frame(plan, seed, noise=0.03, effect=effect, metrics=KINDS)
    # Where there is a floor, it has the metric's own unit.
    fixed = frame["metric"].map(lambda name: METRICS[name].floor > 0)
    scaled = frame.assign(value=frame["value"] * np.where(fixed, 1.0, factor))
    for before, after in zip(compared(frame, plan), compared(scaled, plan), strict=True):
        assert before.verdict == after.verdict
        if before.metric not in KINDS:
            continue
        if before.ci_low is not None:
            assert (before.p_value < 0.05) == (before.ci_low > 0 or before.ci_high < 0)
        assert before.change == pytest.approx(after.change, rel=1e-6, abs=1e-9)
        assert before.ci_low == pytest.approx(after.ci_low, rel=1e-6, abs=1e-9)


@given(seed=seeds, change=st.floats(-0.2, 0.2), order=st.sampled_from(["off,on,off", "off,on", "off,on,off,on"]))
@settings(max_examples=25)
def test_swapping_arms_mirrors_the_verdict(seed, change, order):
    swap = {"off": "on", "on": "off"}
    plan = make_plan(order=order, generations=2, repetitions=1)
    mirror = make_plan(order=[swap[arm] for arm in plan.order], generations=2, repetitions=1)
    effect = {"throughput_bps": change, "retransmits_per_gb": 5 * change}
    frame = make_frame(plan, seed, noise=0.03, effect=effect, metrics=KINDS)
    mirrored = frame.assign(arm=frame["arm"].map(swap))
    for before, after in zip(compared(frame, plan), compared(mirrored, mirror), strict=True):
        assert after.verdict == MIRRORED.get(before.verdict, before.verdict)
        assert after.below_margin == before.below_margin
        if before.off_median and before.on_median:  # nothing is relative to zero
            assert (after.change is None) == (before.change is None)
        if before.metric == "throughput_bps" and before.change is not None:
            assert math.log1p(after.change) == pytest.approx(-math.log1p(before.change), abs=1e-9)
            assert math.log1p(after.ci_low) == pytest.approx(-math.log1p(before.ci_high), abs=1e-9)


@given(seed=seeds, shuffle=seeds)
@settings(max_examples=15)
def test_order_of_repetitions_changes_nothing(seed, shuffle):
    plan = make_plan(generations=2, repetitions=3)
    frame = make_frame(plan, seed, noise=0.05, metrics=KINDS)
    keys = ["block", "generation", "scenario", "metric"]
    random = np.random.default_rng(shuffle)
    permuted = frame.copy()
    permuted["repetition"] = frame.groupby(keys)["repetition"].transform(lambda group: random.permutation(group))
    permuted = permuted.sample(frac=1, random_state=shuffle)
    assert compared(permuted, plan) == compared(frame, plan)
