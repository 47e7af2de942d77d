"""Diagnose a stored run: the evidence out of its rows and documents, and the causes found in it back into them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bigtcp_bench.analysis.diagnosis import (
    CILIUM_COUNTERS,
    TOO_BIG_COUNTER,
    CapturedStream,
    Cause,
    Evidence,
    Measured,
    NodeCounters,
    NodeSetting,
    PodLimits,
    Throttled,
    diagnose,
)
from bigtcp_bench.analysis.verdicts import ENDS, Captures
from bigtcp_bench.judging.comparisons import known
from bigtcp_bench.judging.facts import captures_of, facts_of, throttled_of
from bigtcp_bench.planning.plan import SCENARIOS, Arm, unproven_ways
from bigtcp_bench.readings.counters import BUSY, USED_CPUS, WATCHED, WINDOW_LIMITED

if TYPE_CHECKING:
    import pandas as pd

    from bigtcp_bench.warehouse.store import Warehouse

#: Stands in the place of a cause where a run was measured and none of the known ones shows.
NONE_FOUND = "none-found"
_NONE_FOUND = Cause(NONE_FOUND, "none of the known causes shows in what was seen of the run", {}, strength=0.0)

#: Stands for what a switch says of an agent that does not come: in its own words, as nothing else is stored of it.
AGENT_NOT_READY = "agent-not-ready"
_AGENT_NOT_READY = re.compile(
    r"the Cilium agent on node (?P<node>\S+) (?:does not start|was not Ready)|the rolling restart of DaemonSet "
)

#: Counter → by how much it grew at one end in a repetition; one that did not grow is not there.
Counted = Mapping[str, float]

#: States of a series that ask for an explanation.
_BAD_STATES = {"suspect", "regression"}
#: What of a pod's counters a cause is read from, beside what is measured.
_WAITED, _ZERO_WINDOWS, _TOO_BIG = "pressure/cpu_s", "netstat/TcpExtTCPToZeroWindowAdv", "snmp6/Icmp6InPktTooBigs"


def diagnose_run(warehouse: Warehouse, number: int) -> list[Cause]:
    """Store the likely causes of what is wrong with a run, in place of those stored before, and return them.

    None are stored for a run with which nothing is wrong. One that was measured and shows no known cause says so,
    by the cause ``NONE_FOUND``; one that was refused before has its reason.
    """
    causes: list[Cause] = []
    if needs_diagnosis(warehouse, number):
        evidence = evidence_of(warehouse, number)
        causes = [*_agents_not_ready(warehouse.run(number)["reasons"]), *diagnose(evidence)]
        if not causes and evidence.measured:
            causes = [_NONE_FOUND]
    rows = [{**vars(cause), "cause": cause.name, "position": place} for place, cause in enumerate(causes, 1)]
    warehouse.store_diagnosis(number, rows)
    return causes


def _agents_not_ready(reasons: Sequence[str]) -> Iterator[Cause]:
    """Yield the first reason of a run that is an agent's; the restore after it may say the same once more."""
    for reason in reasons:
        if found := _AGENT_NOT_READY.search(reason):
            yield Cause(AGENT_NOT_READY, reason, {}, node=found["node"])
            return


def needs_diagnosis(warehouse: Warehouse, number: int) -> bool:
    """Return whether a run is invalid or failed, slower with BIG TCP in some metric, or worse than usual."""
    if warehouse.run(number)["status"] in ("invalid", "failed"):
        return True
    comparisons, judgements = warehouse.comparisons_frame(number), warehouse.judgements_frame(number)
    slower = (comparisons["verdict"] == "slower") & ~comparisons["below_margin"].astype(bool)
    return bool(slower.any() or judgements["state"].isin(_BAD_STATES).any())


def evidence_of(warehouse: Warehouse, number: int) -> Evidence:
    """Return all that a run's rows and documents tell of causes; little of a run that was refused or pruned."""
    row = warehouse.run(number)
    blocks = warehouse.blocks_frame(number).set_index("block")
    arms: Any = blocks["arm"].to_dict()
    facts = facts_of([one for one in warehouse.raw_documents(number, repetitions=False) if one.block in arms], {})
    counted = warehouse.pod_counters_frame(number)
    plan = row["plan"] or {}
    scenarios = [name for name in plan.get("scenarios") or () if name in SCENARIOS]
    return Evidence(
        families=tuple(dict.fromkeys(SCENARIOS[name].family for name in scenarios)),
        # A run that never switches BIG TCP on asks nothing of the devices.
        ceilings=(row["environment"] or {}).get("tso_max_size") or {} if "on" in plan.get("order", ()) else {},
        settings=tuple(_settings(blocks["switch_report"].to_dict(), arms)),
        pods=tuple(
            PodLimits(block, arms[block], generation, pod, limits)
            for (block, generation, pod), limits in sorted(facts.device_limits.items())
        ),
        measured=tuple(_measured(counted, arms, warehouse.results_frame(number))),
        captured=tuple(_captured(captures_of(warehouse.packet_sizes_frame(number)), arms, scenarios)),
        counters=tuple(_counters(warehouse.counters_frame(number))),
        pressure=tuple(facts.pressure),
        throttled=tuple(
            Throttled(block, generation, pod, share)
            for (block, generation, pod), share in sorted(throttled_of(counted).items())
        ),
    )


def _settings(reports: Mapping[Any, Mapping[str, Any] | None], arms: Mapping[int, Arm]) -> Iterator[NodeSetting]:
    for block, report in reports.items():
        for node, proof in ((report or {}).get("nodes") or {}).items():
            yield NodeSetting(
                block=int(block),
                arm=arms[block],
                node=node,
                told=proof.get("merged") or {},
                max_gso=proof.get("max_gso") or {},
                limits={
                    device: {name: value for name, value in limits.items() if value is not None}
                    for device, limits in (proof.get("limits") or {}).items()
                },
            )


def _measured(counters: pd.DataFrame, arms: Mapping[int, Arm], results: pd.DataFrame) -> Iterator[Measured]:
    keys = ["block", "generation", "scenario", "repetition"]
    values = results.pivot_table(index=keys, columns="metric", values="value", aggfunc="first").to_dict("index")
    counted: dict[Any, dict[str, Counted]] = {}
    groups: Any = counters.groupby([*keys, "end"])
    for (*place, end), rows in groups:
        counted.setdefault(tuple(place), {})[end] = dict(zip(rows["counter"], rows["value"], strict=True))
    for place in sorted({*values, *counted}):
        block, generation, scenario, repetition = place
        if scenario not in SCENARIOS or block not in arms:
            continue
        metrics, ends = values.get(place, {}), counted.get(place, {})
        sender, receiver = ends.get("sender", {}), ends.get("receiver", {})
        yield Measured(
            block=block,
            arm=arms[block],
            generation=generation,
            scenario=scenario,
            repetition=repetition,
            sender_b=known(metrics.get("bytes_per_packet_sender")),
            receiver_b=known(metrics.get("bytes_per_packet_receiver")),
            retransmits_per_gb=known(metrics.get("retransmits_per_gb")),
            window_limited_share=_share(sender, WINDOW_LIMITED, BUSY),
            sender_cpus=sender.get(USED_CPUS),
            receiver_cpus=receiver.get(USED_CPUS),
            cpu_wait_share=_share(receiver, _WAITED, WATCHED),
            zero_windows=_grown(receiver, _ZERO_WINDOWS),
            too_big_messages=_grown(sender, _TOO_BIG),
        )


def _captured(captures: Captures, arms: Mapping[int, Arm], scenarios: Sequence[str]) -> Iterator[CapturedStream]:
    """Yield the captured streams on ways that no stream of the plan takes; those say more themselves."""
    ways = unproven_ways(scenarios)
    for block, way in sorted({(block, way) for block, way, _ in captures if block in arms and way in ways}):
        ends = (captures.get((block, way, end), ()) for end in ENDS)
        for sender_b, receiver_b in itertools.zip_longest(*ends):
            yield CapturedStream(block, arms[block], str(way), sender_b, receiver_b)


def _grown(end: Counted, name: str) -> float | None:
    """Return by how much a counter of one end grew; None if nothing of its file was counted, as after a reset."""
    source = name.partition("/")[0]
    return end.get(name, 0.0) if any(other.startswith(f"{source}/") for other in end) else None


def _share(end: Counted, part: str, whole: str) -> float | None:
    """Return the share of the time ``whole`` that ``part`` was; None if the whole is not known."""
    return min(1.0, end.get(part, 0.0) / end[whole]) if end.get(whole) else None


def _counters(frame: pd.DataFrame) -> Iterator[NodeCounters]:
    names = frame["counter"]
    frame = frame[(names == TOO_BIG_COUNTER) | names.str.startswith(CILIUM_COUNTERS)]
    groups: Any = frame.groupby(["block", "arm", "node"])
    for (block, arm, node), rows in groups:
        yield NodeCounters(int(block), arm, node, dict(zip(rows["counter"], rows["value"], strict=True)))
