"""The sentences are those of the real gates, so that both stay in step."""

from __future__ import annotations

from bigtcp_bench.analysis.verdicts import (
    NodePressure,
    environment_problems,
    judge_run,
    limit_problems,
    loss_problems,
    pressure_problems,
)
from bigtcp_bench.planning.thresholds import Thresholds
from bigtcp_bench.report.reasons import headline_reason, not_judged, reason_lines
from tests.analysis.runs import make_frame, make_plan
from tests.analysis.test_verdicts import OFF
from tests.report.views import comparison

PLAN = make_plan(scenarios=["ipv4-stream-1", "ipv6-stream-1", "ipv4-rate"])


def test_devices_of_the_wrong_arm_are_one_line_however_many_pods_had_them():
    wrong = {(2, generation, pod): OFF for generation in (1, 2, 3) for pod in ("client", "server")}
    reasons = limit_problems(wrong, PLAN)
    assert len(reasons) == 24
    (line,) = reason_lines(reasons)
    assert line == (
        "block 2 (arm on), generation 1: gso_ipv4_max_size of the client pod is 65,536 B; it must be above "
        "65,536 B (likewise block 2 (arm on) generation 2 and block 2 (arm on) generation 3)"
    )
    assert headline_reason(reasons).endswith("above 65,536 B (and 23 like it)")


def test_loss_in_every_scenario_is_one_line_with_all_of_them():
    frame = make_frame(PLAN)
    lossy = frame["metric"] == "retransmits_per_gb"
    found = loss_problems(frame.assign(value=frame["value"].mask(lossy, 50_000.0)), PLAN)
    reasons = [sentence for sentences in found.values() for sentence in sentences]
    (line,) = reason_lines(reasons)
    assert line.startswith("ipv4-rate, arm off: 50,000 segments per gigabyte were retransmitted")
    assert line.endswith("(likewise ipv4-rate arm on, ipv4-stream-1 arm off, ipv4-stream-1 arm on and 2 more)")


def test_drift_of_every_scenario_is_one_line_with_one_kind_of_minus_sign():
    frame = make_frame(PLAN)
    drifted = frame.assign(value=frame["value"].mask(frame["block"] == 3, frame["value"] * 0.7))
    verdict = judge_run(drifted, make_plan(scenarios=["ipv4-stream-1", "ipv6-stream-1"]))
    lines = [line for line in reason_lines(verdict.reasons) if "moved by" in line]
    assert len(lines) == 1
    assert "moved by \N{MINUS SIGN}3" in lines[0]
    assert lines[0].endswith("(likewise ipv6-stream-1)")


def test_what_is_not_the_same_stays_apart():
    thresholds = Thresholds.model_validate({})
    reasons = [
        *pressure_problems([NodePressure(1, "node1", 0.2), NodePressure(2, "node1", 0.0, 0.9)], thresholds),
        *environment_problems({(1, "begin"): {"kernel": "6.1", "cilium": "1"}, (2, "end"): {"kernel": "6.2"}}),
    ]
    # With a space, as everywhere else.
    told = [reason.replace("%", " %") for reason in reasons]
    assert "20.0 % of the CPU time" in told[0]
    assert reason_lines(reasons) == told
    assert headline_reason(reasons) == f"{told[0]} (and 2 more)"
    assert headline_reason(()) == "no reason was stored"


def test_what_was_not_measured_is_told_in_the_words_of_the_table():
    def missing(scenario, metric):
        reason = f"{metric} of {scenario} was not measured in arm on"
        return comparison(scenario, metric, 1.0, None, verdict="invalid", reasons=(reason,))

    cpu = ("cpu_s_per_gb_sender", "cpu_s_per_gb_receiver")
    found = [missing(scenario, metric) for scenario in ("ipv4-rate", "ipv6-rate") for metric in cpu]
    found.append(missing("ipv6-rr", "latency_p50_us"))
    assert not_judged(found) == [
        "CPU sender and CPU receiver of ipv4-rate and ipv6-rate; latency p50 of ipv6-rr: not measured in arm on"
    ]


def test_reasons_of_the_whole_run_are_not_told_of_single_comparisons_again():
    one = comparison("ipv6-rr", "latency_p50_us", 1.0, 2.0, verdict="invalid", reasons=("node2 was rebooted",))
    assert not_judged([one]) == ["node2 was rebooted"]
    assert not_judged([one], besides=["node2 was rebooted"]) == []
