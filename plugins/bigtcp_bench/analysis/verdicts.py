"""Decide whether a run may be judged at all: proof of effect and validity gates, each a sentence when it trips.

Gates that concern the whole run make the run invalid; those that concern one scenario make only its comparisons
invalid. Every gate is a pure function from frames and facts to reasons, and an empty answer means "passed".
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from bigtcp_bench.analysis.compare import Comparison, compare_run, generation_medians, series_of
from bigtcp_bench.analysis.levels import robust_level
from bigtcp_bench.in_cluster.treatment import CLASSIC_MAX_PACKET_BYTES, LIMITS, proves
from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.planning.plan import SCENARIOS, Arm, Plan, Way, blocks, captured_places, unproven_ways
from bigtcp_bench.planning.thresholds import Thresholds

End = Literal["sender", "receiver"]
ENDS: tuple[End, End] = ("sender", "receiver")

#: A block, and whether it is its beginning or its end. Sorted, moments are in the order of time.
Moment = tuple[int, Literal["begin", "end"]]
#: (block, way, end) → mean bytes of the packets that carried the data of each captured stream.
Captures = Mapping[tuple[int, Way, End], Sequence[float]]


@dataclass(frozen=True)
class NodePressure:
    """How much of one node's CPU time during (or just before) ``block`` was not the benchmark's, as shares.

    ``steal_share`` was taken by the hypervisor during the block; ``busy_before_share`` was used just before it,
    while nothing was measured. None: not known.
    """

    block: int
    node: str
    steal_share: float | None = None
    busy_before_share: float | None = None


@dataclass(frozen=True)
class RunFacts:
    """What is known about a run beside its results; everything may be empty.

    ``environments``: moment → names and values that must be the same from the first to the last (nodes, kernel,
    Cilium, …). ``settings``: moment → those that may differ from block to block, but not within one (the agents
    themselves, limits of devices). ``unread``: what should have been read and was not, a sentence each.
    ``device_limits``: (block, generation, pod) → limits of that pod's eth0 as rtnetlink names them, in bytes.
    ``pressure``: the nodes' CPU time that was not the benchmark's. ``throttled``: (block, generation, pod) → share
    of the scheduler's periods in which a CPU limit held that pod back, the worst of its repetitions. ``captures``:
    how large the packets of the streams were that are captured at the beginning of a block. ``control`` and
    ``control_history``: tonight's value of a measurement that BIG TCP cannot touch, and those of the nights
    before, oldest first.
    """

    environments: Mapping[Moment, Mapping[str, str | None]] = field(default_factory=dict)
    settings: Mapping[Moment, Mapping[str, str | None]] = field(default_factory=dict)
    unread: Sequence[str] = ()
    device_limits: Mapping[tuple[int, int, str], Mapping[str, int]] = field(default_factory=dict)
    pressure: Sequence[NodePressure] = ()
    throttled: Mapping[tuple[int, int, str], float] = field(default_factory=dict)
    captures: Captures = field(default_factory=dict)
    control: float | None = None
    control_history: Sequence[float] = ()


@dataclass(frozen=True)
class RunVerdict:
    """The outcome of a run that was measured to its end: ``reasons`` is empty exactly when it is valid."""

    status: Literal["valid", "invalid"]
    reasons: tuple[str, ...]
    comparisons: tuple[Comparison, ...]


def judge_run(
    frame: pd.DataFrame,
    plan: Plan,
    facts: RunFacts | None = None,
    switch_sds: Mapping[tuple[str, str], float] | None = None,
) -> RunVerdict:
    """Return status, reasons and comparisons of a run from its results, its plan and what else is known of it.

    ``frame`` is as for ``compare.generation_medians``, ``switch_sds`` as for ``compare.compare_run``. A run none
    of whose scenarios can be judged is invalid as a whole.
    """
    facts = facts or RunFacts()
    thresholds = plan.thresholds
    run_reasons = [
        *completeness_problems(frame, plan),
        *effect_problems(frame, plan, facts.captures),
        *limit_problems(facts.device_limits, plan),
        *environment_problems(facts.environments),
        *setting_problems(facts.settings),
        *facts.unread,
        *pressure_problems(facts.pressure, thresholds),
        *throttle_problems(facts.throttled, thresholds),
        *control_problems(facts.control, facts.control_history, thresholds),
    ]
    generations = generation_medians(frame, plan)
    by_scenario: dict[str, list[str]] = {}
    for problems in (drift_problems(generations, plan), loss_problems(frame, plan)):
        for scenario, sentences in problems.items():
            by_scenario.setdefault(scenario, []).extend(sentences)
    if not run_reasons and all(name in by_scenario for name in plan.scenarios):
        run_reasons = [sentence for sentences in by_scenario.values() for sentence in sentences]
    comparisons = compare_run(
        generations, plan, run_reasons=run_reasons, scenario_reasons=by_scenario, switch_sds=switch_sds
    )
    return RunVerdict("invalid" if run_reasons else "valid", tuple(run_reasons), tuple(comparisons))


def effect_problems(frame: pd.DataFrame, plan: Plan, captures: Captures) -> list[str]:
    """Return why it is not proven that BIG TCP acted in arm on and did not in arm off, at both ends.

    Mean bytes per packet must be above 65,536 in arm on and at or below it in arm off, at the sender and at the
    receiver: those of every generation of a bulk stream, for only these fill packets to the limit. A way that no
    bulk stream of the plan takes is proven by the stream that is captured in each block.
    """
    problems = []
    of_generations: dict[tuple[str, str, str, int, int], list[float]] = {}
    for *generation, value in _rows(frame, "scenario", "arm", "metric", "block", "generation", "value"):
        if generation[2].startswith("bytes_per_packet_") and math.isfinite(value):
            of_generations.setdefault(tuple(generation), []).append(value)
    known: dict[tuple[str, str, str], list[float]] = {}
    for key, values in of_generations.items():
        known.setdefault(key[:3], []).append(median(values))
    arms: list[Arm] = [arm for arm in ("off", "on") if arm in plan.order]
    for name in plan.scenarios:
        if not SCENARIOS[name].kind.fills_packets:
            continue
        for arm in arms:
            sizes: dict[End, npt.NDArray[np.float64]] = {}
            for end in ENDS:
                if (found := known.get((name, arm, f"bytes_per_packet_{end}"))) is not None:
                    sizes[end] = np.array(found)
                else:
                    problems.append(f"{name}, arm {arm}: no bytes per packet were read at the {end}")
            if len(sizes) == len(ENDS) and (problem := _effect_problem(name, arm, sizes, "generations")):
                problems.append(problem)
    for way in unproven_ways(plan.scenarios):
        for arm in arms:
            problems += _capture_problems(way, arm, plan, captures)
    return problems


def _capture_problems(way: Way, arm: Arm, plan: Plan, captures: Captures) -> list[str]:
    """Return why the captured streams of ``way`` do not prove ``arm``; nothing if they do."""
    wanted = {block.number: len(captured_places(way, block)) for block in blocks(plan) if block.arm == arm}
    missing = [
        number
        for number, count in wanted.items()
        if any(len(captures.get((number, way, end), ())) < count for end in ENDS)
    ]
    if missing:
        return [
            f"{way}, arm {arm}: no packets were captured at both ends in block {', '.join(map(str, missing))}, "
            "and no bulk stream proves what BIG TCP did"
        ]
    sizes = {end: np.array([size for number in wanted for size in captures[number, way, end]]) for end in ENDS}
    problem = _effect_problem(str(way), arm, sizes, "captures")
    return [problem] if problem else []


def _effect_problem(name: str, arm: Arm, sizes: Mapping[End, npt.NDArray[np.float64]], what: str) -> str | None:
    total = f"{len(sizes['sender'])} {what}"
    limit = f"{CLASSIC_MAX_PACKET_BYTES:,} B"
    if arm == "off":
        for end in ENDS:
            wrong = sizes[end][sizes[end] > CLASSIC_MAX_PACKET_BYTES]
            if len(wrong):
                return (
                    f"{name}, arm off: packets at the {end} averaged {wrong.max():,.0f} B in {len(wrong)} of "
                    f"{total}; without BIG TCP they cannot exceed {limit}, so it was still on"
                )
        return None
    small = {end: sizes[end][sizes[end] <= CLASSIC_MAX_PACKET_BYTES] for end in ENDS}
    if len(small["sender"]):
        return (
            f"{name}, arm on: packets at the sender averaged only {small['sender'].min():,.0f} B in "
            f"{len(small['sender'])} of {total}; with BIG TCP they must exceed {limit}, so it had no effect"
        )
    if len(small["receiver"]):
        return (
            f"{name}, arm on: packets left the sender with {np.nanmedian(sizes['sender']):,.0f} B on average but "
            f"reached the receiver with {small['receiver'].min():,.0f} B in {len(small['receiver'])} of {total}; "
            f"they were segmented to {limit} or less on the way"
        )
    return None


def completeness_problems(frame: pd.DataFrame, plan: Plan) -> list[str]:
    """Return which scenarios lack measurements: a whole block of them, or too many repetitions of an arm.

    A repetition counts when it has the scenario's headline metric; one of fixed rate whatever it has, since on a
    busy node it may have run well and have no CPU cost that could be told. How many may be missing is
    ``thresholds.min_complete_share``.
    """
    problems = []
    headlines = {name: SCENARIOS[name].kind.headline for name in plan.scenarios}
    at_fixed_rate = {name for name in plan.scenarios if SCENARIOS[name].traffic == "rate"}
    counted = {
        (name, block, *repetition)
        for metric, name, block, *repetition in _rows(
            frame, "metric", "scenario", "block", "generation", "repetition"
        )
        if name in at_fixed_rate or metric == headlines.get(name)
    }
    present = Counter(repetition[:2] for repetition in counted)
    for name in plan.scenarios:
        expected: dict[Arm, int] = {"off": 0, "on": 0}
        found: dict[Arm, int] = {"off": 0, "on": 0}
        empty = []
        for block in blocks(plan):
            expected[block.arm] += block.generations * plan.repetitions
            count = present[name, block.number]
            found[block.arm] += count
            if not count:
                empty.append(f"{block.number} (arm {block.arm})")
        if empty:
            problems.append(f"{name}: nothing was measured in block {', '.join(empty)}")
            continue
        share = plan.thresholds.min_complete_share
        problems += [
            f"{name}, arm {arm}: only {found[arm]} of {expected[arm]} repetitions succeeded; at least "
            f"{math.ceil(share * expected[arm] - 1e-9)} are needed"
            for arm in expected
            if found[arm] < share * expected[arm] - 1e-9
        ]
    return problems


def drift_problems(generations: pd.DataFrame, plan: Plan) -> dict[str, list[str]]:
    """Return, by scenario, where the headline metric moved by itself between the first and last block of an arm.

    It must have moved by more than ``thresholds.drift_limit`` and beyond chance (at the confidence level, over all
    scenarios and arms together). Moderate drift is no problem: the comparison models it. ``generations`` are
    those of ``compare.generation_medians``.
    """
    thresholds = plan.thresholds
    series = series_of(generations)
    by_arm: dict[Arm, list[int]] = {"off": [], "on": []}
    for block in blocks(plan):
        by_arm[block.arm].append(block.number)
    pairs = {arm: (numbers[0], numbers[-1]) for arm, numbers in by_arm.items() if len(numbers) > 1}
    tests = len(pairs) * len(plan.scenarios)
    problems: dict[str, list[str]] = {}
    for name in plan.scenarios:
        headline = SCENARIOS[name].kind.headline
        measured = series.get((name, headline))
        if measured is None:
            continue
        above = measured.value > 0
        values, numbers = np.log(measured.value[above]), measured.block[above]
        logs = {int(number): values[numbers == number] for number in np.unique(numbers)}
        df = sum(len(values) - 1 for values in logs.values())
        if df < 1:
            continue
        variance = sum(float(((values - values.mean()) ** 2).sum()) for values in logs.values()) / df
        for arm, (first, last) in pairs.items():
            if first not in logs or last not in logs:
                continue
            moved = float(logs[last].mean() - logs[first].mean())
            error = math.sqrt(variance * (1 / len(logs[first]) + 1 / len(logs[last])))
            quantile = float(special.stdtrit(df, 1 - (1 - thresholds.confidence_level) / 2 / tests))
            if abs(moved) > max(math.log1p(thresholds.drift_limit), quantile * error):
                problems.setdefault(name, []).append(
                    f"{name}: {METRICS[headline].label} of arm {arm} moved by {math.expm1(moved):+.0%} from block "
                    f"{first} to block {last}; more than {thresholds.drift_limit:.0%} is no steady state"
                )
    return problems


def loss_problems(frame: pd.DataFrame, plan: Plan) -> dict[str, list[str]]:
    """Return, by scenario, the arms that retransmitted more than ``thresholds.retransmit_limit_per_gb``."""
    limit = plan.thresholds.retransmit_limit_per_gb
    lost: dict[tuple[str, str], list[float]] = {}
    for metric, name, arm, value in _rows(frame, "metric", "scenario", "arm", "value"):
        if metric == "retransmits_per_gb" and name in plan.scenarios and math.isfinite(value):
            lost.setdefault((name, arm), []).append(value)
    problems: dict[str, list[str]] = {}
    for (name, arm), values in sorted(lost.items()):
        if (value := median(values)) > limit:
            problems.setdefault(name, []).append(
                f"{name}, arm {arm}: {value:,.0f} segments per gigabyte were retransmitted; above {limit:,.0f} "
                "the path loses packets, and the loss is what would be measured"
            )
    return problems


def _rows(frame: pd.DataFrame, *columns: str) -> Iterator[tuple[Any, ...]]:
    """Return the rows of ``columns`` as tuples: grouping so few by pandas takes several times as long."""
    return zip(*(frame[name].tolist() for name in columns), strict=True)


def limit_problems(device_limits: Mapping[tuple[int, int, str], Mapping[str, int]], plan: Plan) -> list[str]:
    """Return the pods whose eth0 did not have the limits of its arm: above 65,536 B in arm on, not above in off.

    ``device_limits`` maps (block, generation, pod) to limits in bytes. Limits that a kernel does not report are
    the business of the preflight checks, not of this gate.
    """
    arms = {block.number: block.arm for block in blocks(plan)}
    families = sorted({SCENARIOS[name].family for name in plan.scenarios})
    problems = []
    for (block, generation, pod), limits in sorted(device_limits.items()):
        for name in (limit for family in families for limit in LIMITS[family]):
            value = limits.get(name)
            if value is not None and not proves(value, arms[block]):
                wanted = "above" if arms[block] == "on" else "at most"
                problems.append(
                    f"block {block} (arm {arms[block]}), generation {generation}: {name} of the {pod} pod is "
                    f"{value:,} B; it must be {wanted} {CLASSIC_MAX_PACKET_BYTES:,} B"
                )
    return problems


def environment_problems(environments: Mapping[Moment, Mapping[str, str | None]]) -> list[str]:
    """Return what was not the same at every moment of the run: kernel, Cilium, whatever ``environments`` names.

    Names that are unknown (absent or None) at a moment are not compared there.
    """
    problems = []
    for name in sorted({name for environment in environments.values() for name in environment}):
        known = {
            moment: value
            for moment, environment in sorted(environments.items())
            if (value := environment.get(name)) is not None
        }
        if len(set(known.values())) > 1:
            shown = ", ".join(
                f"{value!r} {'in' if moment == 'begin' else 'at the end of'} block {block}"
                for (block, moment), value in _changes(known.items())
            )
            problems.append(f"{name} changed during the run: {shown}")
    return problems


def setting_problems(settings: Mapping[Moment, Mapping[str, str | None]]) -> list[str]:
    """Return what was not at the end of a block what it had been at its beginning; the unknown is not compared."""
    problems = []
    for block in sorted({block for block, _ in settings}):
        begin, end = settings.get((block, "begin"), {}), settings.get((block, "end"), {})
        for name in sorted(begin.keys() & end.keys()):
            if begin[name] is not None and end[name] is not None and begin[name] != end[name]:
                problems.append(
                    f"block {block}: {name} changed within the block, from {begin[name]!r} to {end[name]!r}"
                )
    return problems


def pressure_problems(pressure: Iterable[NodePressure], thresholds: Thresholds) -> list[str]:
    """Return the blocks in which a node's CPU was not the benchmark's own."""
    problems = []
    for item in pressure:
        if item.steal_share is not None and item.steal_share > thresholds.steal_limit:
            problems.append(
                f"block {item.block}: the hypervisor took {item.steal_share:.1%} of the CPU time of node "
                f"{item.node}; at most {thresholds.steal_limit:.1%} is allowed"
            )
        if item.busy_before_share is not None and item.busy_before_share > thresholds.busy_limit:
            problems.append(
                f"block {item.block}: node {item.node} was {item.busy_before_share:.0%} busy with other work "
                f"before the block; at most {thresholds.busy_limit:.0%} is allowed"
            )
    return problems


def throttle_problems(throttled: Mapping[tuple[int, int, str], float], thresholds: Thresholds) -> list[str]:
    """Return the pods that a CPU limit held back: their figures say how large the limit is."""
    return [
        f"block {block}, generation {generation}: a CPU limit held the {pod} pod back in {share:.0%} of the "
        f"scheduler's periods; at most {thresholds.throttle_limit:.0%} is allowed (is there a LimitRange?)"
        for (block, generation, pod), share in sorted(throttled.items())
        if share > thresholds.throttle_limit
    ]


def control_problems(control: float | None, history: Sequence[float], thresholds: Thresholds) -> list[str]:
    """Return whether the control (traffic that BIG TCP cannot touch) is too far off its median of the last nights.

    Too far is more than ``thresholds.control_limit`` and, where the nights themselves differ much, more than
    ``thresholds.suspect_sds`` of their standard deviations. A smaller change leaves the run valid: both arms have
    it, and across nights it says that the infrastructure is to blame.
    """
    usual = usual_control(history, thresholds)
    if control is None or usual is None:
        return []
    _, sd = robust_level([math.log(value) for value in history[-thresholds.control_nights :]])
    limit = max(thresholds.control_limit, thresholds.suspect_sds * sd)
    if abs(control / usual - 1) <= limit:
        return []
    change = control / usual - 1
    return [
        f"the control between the nodes themselves is {abs(change):.1%} {'above' if change > 0 else 'below'} its "
        f"median of the last nights; beyond {limit:.0%} the infrastructure itself has changed"
    ]


def usual_control(history: Sequence[float], thresholds: Thresholds) -> float | None:
    """Return the median of the newest ``thresholds.control_nights`` values of ``history`` (oldest first).

    None while there are fewer than ``thresholds.learning_nights``: until then nothing is usual.
    """
    recent = history[-thresholds.control_nights :]
    if len(recent) < min(thresholds.learning_nights, thresholds.control_nights):
        return None
    return float(np.median(recent))


def _changes(values: Iterable[tuple[Moment, str]]) -> list[tuple[Moment, str]]:
    """Return the first of each stretch of equal values."""
    result: list[tuple[Moment, str]] = []
    for moment, value in values:
        if not result or result[-1][1] != value:
            result.append((moment, value))
    return result
