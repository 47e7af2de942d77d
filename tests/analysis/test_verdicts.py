from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from bigtcp_bench.analysis.compare import generation_medians
from bigtcp_bench.analysis.verdicts import (
    NodePressure,
    RunFacts,
    completeness_problems,
    control_problems,
    drift_problems,
    effect_problems,
    environment_problems,
    judge_run,
    limit_problems,
    loss_problems,
    pressure_problems,
    setting_problems,
)
from bigtcp_bench.planning.plan import SCENARIOS, Way, captured_ways
from bigtcp_bench.planning.thresholds import Thresholds
from tests.analysis.runs import make_captures, make_frame, make_plan

PLAN = make_plan(scenarios=["ipv4-stream-1", "ipv6-rr"])
CAPTURES = make_captures(PLAN)
PROVEN = RunFacts(captures=CAPTURES)
ON = {"gso_ipv4_max_size": 196_608, "gro_ipv4_max_size": 196_608, "gso_max_size": 196_608, "gro_max_size": 196_608}
OFF = dict.fromkeys(ON, 65_536)


@pytest.fixture
def frame() -> pd.DataFrame:
    return make_frame(PLAN)


def set_packets(frame: pd.DataFrame, end: str, arm: str, value: float, block: int | None = None) -> pd.DataFrame:
    rows = (frame["metric"] == f"bytes_per_packet_{end}") & (frame["arm"] == arm)
    if block is not None:
        rows &= frame["block"] == block
    return frame.assign(value=frame["value"].mask(rows, value))


def test_a_sound_run_is_valid(frame):
    facts = RunFacts(
        environments={(block, "begin"): {"kernel": "6.18"} for block in (1, 2, 3)},
        device_limits={(1, 1, "client"): OFF, (2, 1, "client"): ON, (2, 1, "server"): ON},
        pressure=[NodePressure(1, "node1", 0.01, 0.05)],
        captures=CAPTURES,
        control=10.1,
        control_history=[10.0] * 20,
    )
    verdict = judge_run(frame, PLAN, facts)
    assert (verdict.status, verdict.reasons) == ("valid", ())
    assert {comparison.verdict for comparison in verdict.comparisons} <= {"equivalent", "inconclusive", "evidence"}


def test_an_invalid_run_judges_nothing(frame):
    verdict = judge_run(set_packets(frame, "sender", "on", 59_000.0), PLAN, PROVEN)
    assert verdict.status == "invalid"
    assert {comparison.verdict for comparison in verdict.comparisons} == {"invalid"}
    assert verdict.comparisons[0].change is not None


@pytest.mark.parametrize(
    ("end", "arm", "value", "words"),
    [
        ("sender", "on", 59_000.0, "arm on: packets at the sender averaged only 59,000 B in 6 of 6 generations"),
        (
            "receiver",
            "on",
            1_448.0,
            "reached the receiver with 1,448 B in 6 of 6 generations; they were segmented",
        ),
        ("sender", "off", 150_000.0, "arm off: packets at the sender averaged 150,000 B"),
        ("receiver", "off", 65_537.0, "arm off: packets at the receiver averaged 65,537 B"),
    ],
)
def test_proof_of_effect_is_required(frame, end, arm, value, words):
    (problem,) = effect_problems(set_packets(frame, end, arm, value), PLAN, CAPTURES)
    assert words in problem


def test_one_block_without_effect_is_enough(frame):
    (problem,) = effect_problems(set_packets(frame, "sender", "off", 150_000.0, block=3), PLAN, CAPTURES)
    assert "3 of 6 generations" in problem


def test_exactly_the_classic_limit_is_off_and_not_on(frame):
    frame = set_packets(set_packets(frame, "sender", "off", 65_536.0), "sender", "on", 65_536.0)
    (problem,) = effect_problems(frame, PLAN, CAPTURES)
    assert "arm on" in problem


def test_no_reading_is_no_proof(frame):
    problems = effect_problems(frame[frame["metric"] != "bytes_per_packet_receiver"], PLAN, CAPTURES)
    assert problems == [
        "ipv4-stream-1, arm off: no bytes per packet were read at the receiver",
        "ipv4-stream-1, arm on: no bytes per packet were read at the receiver",
    ]


def test_request_response_needs_no_big_packets(frame):
    small = (frame["scenario"] == "ipv6-rr") & frame["metric"].str.startswith("bytes_per_packet")
    assert effect_problems(frame.assign(value=frame["value"].mask(small, 900.0)), PLAN, CAPTURES) == []


@pytest.mark.parametrize("scenario", ["ipv4-rr", "ipv6-rate"])
def test_a_family_without_a_stream_is_proven_by_captures_or_the_run_is_invalid(scenario):
    plan = make_plan(scenarios=[scenario])
    frame, captures, family = make_frame(plan), make_captures(plan), scenario[:4]
    assert judge_run(frame, plan, RunFacts(captures=captures)).status == "valid"
    unproven = judge_run(frame, plan)
    assert unproven.status == "invalid"
    assert unproven.reasons[1] == (
        f"{family}, arm on: no packets were captured at both ends in block 2, and no bulk stream proves what BIG "
        "TCP did"
    )
    for block, end, size, words in [
        (1, "sender", 90_000.0, "arm off: packets at the sender averaged 90,000 B in 1 of 2 captures"),
        (3, "receiver", 90_000.0, "arm off: packets at the receiver averaged 90,000 B in 1 of 2 captures"),
        (2, "sender", 59_000.0, "arm on: packets at the sender averaged only 59,000 B in 1 of 1 captures"),
        (2, "receiver", 1_470.0, "reached the receiver with 1,470 B in 1 of 1 captures; they were segmented"),
    ]:
        wrong = judge_run(frame, plan, RunFacts(captures={**captures, (block, Way(family), end): (size,)}))
        assert wrong.status == "invalid"
        assert wrong.reasons[0].startswith(f"{family}, ")
        assert words in wrong.reasons[0]
    for lost in captures:
        fewer = {key: size for key, size in captures.items() if key != lost}
        (reason,) = judge_run(frame, plan, RunFacts(captures=fewer)).reasons
        assert f"no packets were captured at both ends in block {lost[0]}" in reason


def test_on_one_node_each_of_the_two_is_proven_by_itself():
    plan = make_plan(scenarios=["ipv4-rr@same-node"], generations=2)
    frame, captures, way = make_frame(plan), make_captures(plan), Way("ipv4", "same-node")
    assert judge_run(frame, plan, RunFacts(captures=captures)).status == "valid"
    assert len(captures[2, way, "sender"]) == 2
    for sizes, words in [
        ((180_000.0, 60_000.0), "averaged only 60,000 B in 1 of 2 captures"),
        ((180_000.0,), "no packets were captured at both ends in block 2"),
    ]:
        wrong = judge_run(frame, plan, RunFacts(captures={**captures, (2, way, "sender"): sizes}))
        assert wrong.reasons[0].startswith("ipv4 (same-node), arm on: ")
        assert words in wrong.reasons[0]


@settings(deadline=None, max_examples=40)
@given(
    st.sets(st.sampled_from(sorted(SCENARIOS)), min_size=1),
    st.sampled_from(["off,on,off", "on,off", "off,off", "off,on,off,on,off"]),
    st.booleans(),
)
def test_whatever_is_judged_is_proven_at_both_ends_in_every_arm(names, order, packet_sizes):
    plan = make_plan(scenarios=sorted(names), order=order, packet_sizes=packet_sizes, generations=1)
    ways = {SCENARIOS[name].way for name in names}
    streams = {SCENARIOS[name].way for name in names if SCENARIOS[name].traffic == "stream"}
    assert ways == streams | set(captured_ways(plan)), "what no stream proves is captured, whatever the plan says"
    frame = make_frame(plan)
    assert effect_problems(frame, plan, make_captures(plan)) == []
    told = {problem.partition(",")[0] for problem in effect_problems(frame, plan, {})}
    assert told == {str(way) for way in ways - streams}


def test_missing_repetitions(frame):
    assert completeness_problems(frame, PLAN) == []
    one_missing = frame[~((frame["block"] == 1) & (frame["generation"] == 1) & (frame["repetition"] == 1))]
    assert completeness_problems(one_missing, PLAN) == []
    generation_missing = frame[~((frame["block"] == 1) & (frame["generation"] == 1))]
    problems = completeness_problems(generation_missing, PLAN)
    assert problems[0] == "ipv4-stream-1, arm off: only 10 of 12 repetitions succeeded; at least 11 are needed"
    assert len(problems) == 2


def test_as_many_repetitions_as_are_needed_are_enough_and_count_by_their_headline():
    plan = make_plan(generations=1, repetitions=5)
    frame = make_frame(plan)
    for lost, problems in ((5,), 0), ((4, 5), 1):
        missing = (frame["block"] == 1) & frame["repetition"].isin(lost)
        for gone in (missing, missing & (frame["metric"] == "throughput_bps")):
            assert len(completeness_problems(frame[~gone], plan)) == problems


def test_missing_block(frame):
    frame = frame[frame["block"] != 3]
    problems = [f"{name}: nothing was measured in block 3 (arm off)" for name in PLAN.scenarios]
    assert completeness_problems(frame, PLAN) == problems
    assert judge_run(frame, PLAN, PROVEN).reasons == tuple(problems)


def test_a_drift_is_beyond_the_limit_and_chance():
    """As a t test of two blocks says it, with the spread within all blocks, for each scenario and arm at once."""
    plan = make_plan(order="off,on,off,on,off", generations=2)
    frame = generation_medians(make_frame(plan, metrics=["throughput_bps"]), plan)
    spread = np.where(frame["position"] % 2, 1, -1)

    def told(moved: float, noise: float, last: int = 5) -> int:
        level = moved * (frame["block"] == last) + noise * spread
        return len(drift_problems(frame.assign(value=np.exp(level)), plan))

    # Sixteen generations in five blocks, each as far from the mean of its block as the noise is.
    limit = special.stdtrit(16 - 5, 1 - 0.05 / 2 / 2) * math.sqrt(16 / (16 - 5) * (1 / 2 + 1 / 2))
    assert [told(share * limit, 1.0) for share in (-1.01, -0.99, 0.99, 1.01)] == [1, 0, 0, 1]
    assert [told(math.log(1.15) + more, 1e-6) for more in (-0.001, 0.001)] == [0, 1]
    assert told(1.0, 1e-6, last=3) == 0, "it is the first and the last block of an arm that are compared"


def test_without_two_generations_in_a_block_no_drift_is_told():
    plan = make_plan(generations=1)
    frame = generation_medians(make_frame(plan, noise=0.0, metrics=["throughput_bps"]), plan)
    for of_last, told in ((10, True), (0, False)):
        moved = frame.assign(value=frame["value"].where(frame["block"] != 3, frame["value"] * of_last))
        assert bool(drift_problems(moved, plan)) is told
        assert drift_problems(moved[moved["position"] != 2], plan) == {}
    assert drift_problems(frame[frame["block"] != 3], plan) == {}


def test_drift_of_one_scenario_spoils_only_that_one(frame):
    late = (frame["block"] == 3) & (frame["scenario"] == "ipv4-stream-1") & (frame["metric"] == "throughput_bps")
    drifted = frame.assign(value=frame["value"].mask(late, frame["value"] * 0.7))
    (problem,) = drift_problems(generation_medians(drifted, PLAN), PLAN)["ipv4-stream-1"]
    assert "throughput of arm off moved by -3" in problem
    assert "from block 1 to block 3" in problem
    verdict = judge_run(drifted, PLAN, PROVEN)
    assert verdict.status == "valid"
    invalid = {item.scenario for item in verdict.comparisons if item.verdict == "invalid"}
    assert invalid == {"ipv4-stream-1"}


def test_drift_of_every_scenario_spoils_the_run(frame):
    headlines = frame["metric"].isin(["throughput_bps", "transactions_per_s"])
    drifted = frame.assign(value=frame["value"].mask(headlines & (frame["block"] == 3), frame["value"] * 0.7))
    verdict = judge_run(drifted, PLAN, PROVEN)
    assert verdict.status == "invalid"
    assert len(verdict.reasons) == 2


def test_noise_is_not_taken_for_drift():
    medians = [generation_medians(make_frame(PLAN, seed, noise=0.15), PLAN) for seed in range(40)]
    tripped = [one for one in medians if drift_problems(one, PLAN)]
    assert len(tripped) <= 5


def test_loss_of_packets(frame):
    lossy = frame["metric"] == "retransmits_per_gb"
    (problem,) = loss_problems(frame.assign(value=frame["value"].mask(lossy, 50_000.0)), PLAN)["ipv4-stream-1"][:1]
    assert "50,000 segments per gigabyte were retransmitted" in problem
    assert loss_problems(frame, PLAN) == {}


def test_limits_of_the_wrong_arm():
    (problem, *more) = limit_problems(
        {(2, 1, "server"): {**ON, "gro_max_size": 65_536}, (1, 1, "client"): OFF}, PLAN
    )
    assert problem == (
        "block 2 (arm on), generation 1: gro_max_size of the server pod is 65,536 B; it must be above 65,536 B"
    )
    assert more == []
    too_large = limit_problems({(3, 2, "client"): ON}, PLAN)
    assert len(too_large) == 4
    assert too_large[0].endswith("it must be at most 65,536 B")
    assert limit_problems({(2, 1, "client"): {}}, PLAN) == [], "what a kernel has not is the checks' business"


def test_limits_of_a_family_that_is_not_measured_do_not_matter():
    plan = make_plan(scenarios=["ipv6-stream-1"])
    assert limit_problems({(2, 1, "client"): {**ON, "gso_ipv4_max_size": 65_536}}, plan) == []


def test_environment_must_not_change():
    (problem,) = environment_problems(
        {
            (1, "begin"): {"kernel": "6.18.1", "cilium": "1.18"},
            (1, "end"): {"kernel": "6.18.1"},
            (2, "begin"): {"kernel": "6.18.2", "cilium": None},
            (3, "begin"): {"kernel": "6.18.2"},
        }
    )
    assert problem == "kernel changed during the run: '6.18.1' in block 1, '6.18.2' in block 2"
    late = {(1, "begin"): {"cilium": "1.18"}, (3, "end"): {"cilium": "1.19"}, (3, "begin"): {"cilium": "1.18"}}
    assert environment_problems(late) == [
        "cilium changed during the run: '1.18' in block 1, '1.19' at the end of block 3"
    ]


def test_what_a_block_began_with_must_be_there_at_its_end(frame):
    settings = {
        (1, "begin"): {"agent": "a", "limit": None, "restarts": "0"},
        (1, "end"): {"agent": "a", "limit": "1 B", "restarts": None},
        (2, "begin"): {"agent": "b"},
        (2, "end"): {"agent": "c"},
        (3, "begin"): {"agent": "d"},
    }
    expected = "block 2: agent changed within the block, from 'b' to 'c'"
    assert setting_problems(settings) == [expected]
    judged = judge_run(frame, PLAN, RunFacts(captures=CAPTURES, settings=settings, unread=["nobody knows"]))
    assert (judged.status, judged.reasons) == ("invalid", (expected, "nobody knows"))


def test_cpu_time_must_be_the_benchmarks():
    steal, busy = pressure_problems(
        [NodePressure(1, "node1", 0.2), NodePressure(2, "node2", 0.0, 0.9), NodePressure(3, "node1", 0.05, 0.5)],
        Thresholds.model_validate({}),
    )
    assert steal.startswith("block 1: the hypervisor took 20.0% of the CPU time of node node1")
    assert busy.startswith("block 2: node node2 was 90% busy")


def test_control_must_be_as_usual():
    thresholds = Thresholds.model_validate({})
    assert control_problems(8.6, [10.0] * 20, thresholds) == []
    assert [len(control_problems(5.0, [10.0] * nights, thresholds)) for nights in (13, 14)] == [0, 1]
    assert control_problems(5.0, [10.0] * 5, Thresholds.model_validate({"control_nights": 5})) != []
    assert control_problems(None, [10.0] * 20, thresholds) == []
    (problem,) = control_problems(8.0, [1.0] * 20 + [10.0] * 20, thresholds)
    assert problem.startswith(
        "the control between the nodes themselves is 20.0% below its median of the last nights; beyond 15% "
    )


def test_a_control_that_is_never_the_same_may_be_further_off():
    thresholds = Thresholds.model_validate({})
    noisy = [9.0, 11.0, 10.0, 9.5, 10.5, 9.2, 10.9] * 3
    assert control_problems(8.0, noisy, thresholds) == []
    assert control_problems(5.0, noisy, thresholds) != []


def test_a_control_that_has_changed_for_good_is_the_usual_one_after_a_while():
    thresholds = Thresholds.model_validate({})
    nights = [10.0] * 20
    invalid = 0
    while control_problems(6.0, nights, thresholds):
        invalid += 1
        nights.append(6.0)
    assert invalid <= thresholds.control_nights / 2


def test_a_fixed_rate_without_cpu_cost_was_measured_all_the_same():
    plan = make_plan(scenarios=["ipv4-rate"])
    proven = RunFacts(captures=make_captures(plan))
    frame = make_frame(plan)
    without = frame[~frame["metric"].str.contains("_s_per_gb_")]
    verdict = judge_run(without, plan, proven)
    assert verdict.status == "valid", verdict.reasons
    costs = [one for one in verdict.comparisons if one.metric == "cpu_s_per_gb_sender"]
    assert [one.verdict for one in costs] == ["invalid"]
    assert costs[0].reasons == ("cpu_s_per_gb_sender of ipv4-rate was not measured in arm off and on",)
    nothing = without[without["block"] != 2]
    assert "nothing was measured in block 2" in judge_run(nothing, plan, proven).reasons[0]
