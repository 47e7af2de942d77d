"""Name the likely causes of an invalid, slower or failed run from what was seen of it, with the figures.

Each cause is looked for by one function. What is a mere consequence of another cause that was found is not named
beside it: retransmits are explained by Cilium's own drops, a receiver that cannot keep up by the CPU limit of
its pod. Nothing is named that no figure points to; an empty answer means that none of the known causes shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, median

from bigtcp_bench.analysis.verdicts import NodePressure
from bigtcp_bench.in_cluster.treatment import CLASSIC_MAX_PACKET_BYTES, LIMITS, proves
from bigtcp_bench.planning.plan import SCENARIOS, Arm, Family
from bigtcp_bench.planning.thresholds import Thresholds

Figure = int | float | str

#: What a run is invalid beyond by default. A plan may let more pass, but the cause is the same.
_GATES = Thresholds.model_validate({})
#: Retransmitted segments per gigabyte. Of segments of 1,448 B this is 0.3 %, with which a flow whose round trip
#: takes 0.1 ms is held at 2.6 Gbit/s (Mathis et al. 1997: 1.22 · MSS / RTT / √loss). Without loss the lab had at
#: most 50, on a machine with five times as many busy processes as CPUs.
RETRANSMITS_PER_GB = 2_000
#: Share of its busy time in which the sender waited for the receiver's window. Half: for longer than for all else
#: together. BBR hardly ever fills a window, other congestion controls do.
WINDOW_LIMITED_SHARE = 0.5
#: CPUs that the receiver's process used for each stream: one thread reads a stream, and cannot use more than one.
SATURATED_CPUS = 0.95
#: How often the receiver closed its window, on average over the repetitions: a mean, because it comes in bursts.
#: By itself it says little: the lab on a busy machine closed some, too.
ZERO_WINDOWS = 1
#: Share of the time in which something on the receiver's node waited for a CPU. Half: more often than not.
CPU_WAIT_SHARE = 0.5
#: CPU time of the receiver's process as a share of the sender's. Receiving costs about as much: without a fault of
#: its own the lab's median was 0.6 to 1.6, on however busy a machine, and a recorded cluster's 1.1.
STARVED_SHARE = 0.5
#: Packets that Cilium dropped, of all that it handled on a node: a run's own packets are most of these. Every node
#: drops a few, such as what is addressed to pods that have gone.
DROPPED_SHARE = 0.001
#: "Packet too big" per repetition. A new path may tell of its MTU once or twice; a hop that refuses what BIG TCP
#: sends tells of it again and again.
TOO_BIG_MESSAGES = 10
#: Reasons under which Cilium counts what it did not drop: numbers below ``DropMin`` in pkg/monitor/api/drop.go.
_NO_DROPS = (
    "Success",
    "Interface",
    "Plaintext",
    "LB:",
    "LB,",
    "Fragmented packet",
    "Missed tail call to custom",
    "MTU error message",
)

TOO_BIG_COUNTER = "snmp6/Ip6InTooBigErrors"
CILIUM_COUNTERS = "cilium/"


@dataclass(frozen=True)
class Measured:
    """One repetition of a stream: what its pods saw of it. None: not known.

    ``sender_b`` and ``receiver_b`` are mean bytes per packet. ``window_limited_share`` is the share of its busy
    time in which the sender waited for the receiver's window (``ss``: ``rwnd_limited``). CPU time of processes is
    in CPUs (1 is one whole CPU). ``cpu_wait_share`` is the share of the time in which something on the receiver's
    node waited for a CPU (``/proc/pressure/cpu``). ``zero_windows`` is how often the receiver closed its window,
    ``too_big_messages`` is how many ICMPv6 "packet too big" the sender got.
    """

    block: int
    arm: Arm
    generation: int
    scenario: str
    repetition: int
    sender_b: float | None = None
    receiver_b: float | None = None
    retransmits_per_gb: float | None = None
    window_limited_share: float | None = None
    sender_cpus: float | None = None
    receiver_cpus: float | None = None
    cpu_wait_share: float | None = None
    zero_windows: float | None = None
    too_big_messages: float | None = None


@dataclass(frozen=True)
class CapturedStream:
    """Mean bytes per packet at both ends of a captured stream, on a way that no stream of the plan takes."""

    block: int
    arm: Arm
    way: str
    sender_b: float | None = None
    receiver_b: float | None = None


@dataclass(frozen=True)
class NodeSetting:
    """What a switch found on one node: what its agent was told, by family, and the limits of its devices in bytes.

    ``max_gso`` is what the agent says of itself, by family; ``limits`` maps a device to its limits.
    """

    block: int
    arm: Arm
    node: str
    told: Mapping[str, bool] = field(default_factory=dict)
    max_gso: Mapping[str, int | None] = field(default_factory=dict)
    limits: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class PodLimits:
    """The limits of a pod's eth0 in bytes, as the pod found them."""

    block: int
    arm: Arm
    generation: int
    pod: str
    limits: Mapping[str, int]


@dataclass(frozen=True)
class Throttled:
    """In which share of the scheduler's periods a CPU limit held a pod back, in its worst repetition."""

    block: int
    generation: int
    pod: str
    share: float


@dataclass(frozen=True)
class NodeCounters:
    """By how much those of a node's counters grew in a block that a cause is read from; names as stored."""

    block: int
    arm: Arm
    node: str
    grown: Mapping[str, float]


@dataclass(frozen=True)
class Evidence:
    """All that the causes are looked for in; everything may be empty.

    ``families`` are the IP families that the run measures. ``ceilings`` maps a node to the ``tso_max_size`` of the
    devices that carry its pods' traffic, in bytes.
    """

    families: Sequence[Family] = ()
    ceilings: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    settings: Sequence[NodeSetting] = ()
    pods: Sequence[PodLimits] = ()
    measured: Sequence[Measured] = ()
    captured: Sequence[CapturedStream] = ()
    counters: Sequence[NodeCounters] = ()
    pressure: Sequence[NodePressure] = ()
    throttled: Sequence[Throttled] = ()


@dataclass(frozen=True)
class Cause:
    """One likely cause: where it shows most, a sentence, and the figures.

    ``strength`` is from 0 (at the threshold) to 1 (beyond all doubt, such as what a device says of itself).
    ``explains`` names causes that would have been named without this one.
    """

    name: str
    sentence: str
    figures: Mapping[str, Figure]
    strength: float = 1.0
    scenario: str | None = None
    arm: Arm | None = None
    node: str | None = None
    explains: tuple[str, ...] = ()


def diagnose(evidence: Evidence) -> list[Cause]:
    """Return the likely causes, each once, the strongest first; empty if none of the known ones shows."""
    found = {name: cause for name, look in _LOOKS.items() if (cause := look(evidence)) is not None}
    explained = {name: [other for other in _EXPLAINS.get(name, ()) if other in found] for name in found}
    consequences = {other for others in explained.values() for other in others}
    causes = {name: cause for name, cause in found.items() if name not in consequences}
    named = [replace(cause, explains=tuple(explained[name])) for name, cause in causes.items()]
    return sorted(named, key=lambda cause: -cause.strength)


# --- One function for each cause --------------------------------------------------------------------------------


def nic_limit(evidence: Evidence) -> Cause | None:
    """Find a device that cannot take packets above 65,536 B, so that nothing on its node can."""
    weak = [
        (node, device, ceiling)
        for node, devices in evidence.ceilings.items()
        for device, ceiling in devices.items()
        if ceiling <= CLASSIC_MAX_PACKET_BYTES
    ]
    if not weak:
        return None
    node, device, ceiling = weak[0]
    return Cause(
        "nic-limit",
        f"device {device} of node {node} takes packets of at most {ceiling:,} B (tso_max_size), so BIG TCP cannot "
        f"be on there{_more(len(weak), 'device')}",
        {"tso_max_size": ceiling, "device": device},
        node=node,
    )


def setting_not_effective(evidence: Evidence) -> Cause | None:
    """Find what contradicts an arm: agents, devices or pods that do not have it, or packets that do not."""
    return _strongest(
        [*_of_nodes(evidence), *_of_pods(evidence), *_of_packets(evidence)],
        "contradiction",
    )


def _of_nodes(evidence: Evidence) -> Iterator[Cause]:
    for seen in evidence.settings:
        for family in evidence.families:
            told = seen.told.get(family)
            if told is not None and told != (seen.arm == "on"):
                yield _contradiction(
                    f"the Cilium agent of node {seen.node} was told {_on_off(told)} for {family} when arm "
                    f"{seen.arm} was to be in force, so something overrules the setting",
                    {"told": _on_off(told), "family": family},
                    arm=seen.arm,
                    node=seen.node,
                )
            for device, limits in seen.limits.items():
                for name in LIMITS[family]:
                    value = limits.get(name, CLASSIC_MAX_PACKET_BYTES)
                    if not proves(value, seen.arm):
                        agent = seen.max_gso.get(family)
                        figures: dict[str, Figure] = {name: value, "device": device}
                        if agent is not None:
                            figures["agent_max_gso"] = agent
                        says = f", although its agent says {agent:,} B" if agent and agent != value else ""
                        yield _contradiction(
                            f"{name} of {device} on node {seen.node} is {value:,} B in arm {seen.arm}{says}",
                            figures,
                            arm=seen.arm,
                            node=seen.node,
                        )


def _of_pods(evidence: Evidence) -> Iterator[Cause]:
    for seen in evidence.pods:
        for name in (name for family in evidence.families for name in LIMITS[family]):
            value = seen.limits.get(name)
            if value is not None and not proves(value, seen.arm):
                yield _contradiction(
                    f"{name} of the {seen.pod} pod is {value:,} B in arm {seen.arm} (block {seen.block}), so the "
                    "pod was made under another setting",
                    {name: value, "block": seen.block, "pod": seen.pod},
                    arm=seen.arm,
                )


def _of_packets(evidence: Evidence) -> Iterator[Cause]:
    for scenario, way, arm, sender, _ in _packet_sizes(evidence):
        if sender is not None and not proves(sender, arm):
            yield _contradiction(
                f"{way}packets left the sender with {sender:,.0f} B on average in arm {arm}",
                {"bytes_per_packet_sender": round(sender)},
                scenario=scenario,
                arm=arm,
            )


def _packet_sizes(evidence: Evidence) -> Iterator[tuple[str | None, str, Arm, float | None, float | None]]:
    """Yield scenario, arm and mean packet sizes at both ends; of captured streams the way instead of the scenario.

    They are medians, but where each node has its turn: there the one that proves its arm least is to be named.
    """
    for (scenario, arm), rows in _streams(evidence):
        if SCENARIOS[scenario].path == "same-node":
            sizes = _least_proven([(row.sender_b, row.receiver_b) for row in rows], arm)
        else:
            sizes = _median(row.sender_b for row in rows), _median(row.receiver_b for row in rows)
        yield scenario, "", arm, *sizes
    captured: dict[tuple[str, Arm], list[tuple[float | None, float | None]]] = {}
    for stream in evidence.captured:
        captured.setdefault((stream.way, stream.arm), []).append((stream.sender_b, stream.receiver_b))
    for (way, arm), streams in captured.items():
        yield None, f"{way}: ", arm, *_least_proven(streams, arm)


def _least_proven(
    sizes: Sequence[tuple[float | None, float | None]], arm: Arm
) -> tuple[float | None, float | None]:
    """Return the sizes at both ends that speak most against ``arm``; (None, None) where none are known of both."""
    known = [(sender, receiver) for sender, receiver in sizes if sender is not None and receiver is not None]
    if not known:
        return None, None
    return min(known, key=min) if arm == "on" else max(known, key=max)


def _contradiction(sentence: str, figures: Mapping[str, Figure], **scope: str | None) -> Cause:
    return Cause("setting-not-effective", sentence, figures, **scope)  # type: ignore[arg-type]


def segmented_on_the_way(evidence: Evidence) -> Cause | None:
    """Find streams, captured ones too, whose packets were large at the sender and small at the receiver."""
    found = []
    for scenario, way, arm, sender, receiver in _packet_sizes(evidence):
        if arm != "on" or sender is None or receiver is None:
            continue
        if sender > CLASSIC_MAX_PACKET_BYTES >= receiver:
            found.append(
                Cause(
                    "segmented-on-the-way",
                    f"{way}packets of {sender:,.0f} B left the sender and reached the receiver with "
                    f"{receiver:,.0f} B: a device between them takes no big ones",
                    {"bytes_per_packet_sender": round(sender), "bytes_per_packet_receiver": round(receiver)},
                    strength=1 - receiver / CLASSIC_MAX_PACKET_BYTES,
                    scenario=scenario,
                    arm=arm,
                )
            )
    return _strongest(found, "scenario")


def too_big_at_a_hop(evidence: Evidence) -> Cause | None:
    """Find IPv6 packets that a hop refused to forward because they were too big for it."""
    found = []
    for seen in evidence.counters:
        errors = seen.grown.get(TOO_BIG_COUNTER, 0)
        if errors > TOO_BIG_MESSAGES:
            found.append(
                Cause(
                    "too-big-at-a-hop",
                    f"node {seen.node} forwards by IP and refused {errors:,.0f} IPv6 packets as too big in block "
                    f"{seen.block} (Ip6InTooBigErrors)",
                    {"Ip6InTooBigErrors": errors, "block": seen.block},
                    strength=_beyond(errors, TOO_BIG_MESSAGES),
                    arm=seen.arm,
                    node=seen.node,
                )
            )
    for (scenario, arm), rows in _streams(evidence):
        told = _median(row.too_big_messages for row in rows)
        if told is not None and told > TOO_BIG_MESSAGES:
            found.append(
                Cause(
                    "too-big-at-a-hop",
                    f"a hop that forwards by IP told the sender {told:,.0f} times in a repetition that a packet "
                    "was too big for it (Icmp6InPktTooBigs)",
                    {"Icmp6InPktTooBigs": told},
                    strength=_beyond(told, TOO_BIG_MESSAGES),
                    scenario=scenario,
                    arm=arm,
                )
            )
    return _strongest(found, "place")


def receiver_cpu(evidence: Evidence) -> Cause | None:
    """Find streams whose receiver cannot keep up: its process uses a whole CPU, or gets far too little of one.

    iperf3's server does nothing but read. A window that it closes, or keeps the sender waiting for, says that it
    does not come to it; so does a queue for its node's CPUs where it got far less of them than the sender.
    """
    found = []
    for (scenario, arm), rows in _streams(evidence):
        seen = {
            name: _median(getattr(row, name) for row in rows)
            for name in ("window_limited_share", "receiver_cpus", "sender_cpus", "cpu_wait_share")
        }
        closed = [row.zero_windows for row in rows if row.zero_windows is not None]
        seen["zero_windows"] = fmean(closed) if closed else None
        for strength, sentence in _too_slow(SCENARIOS[scenario].streams, **seen):
            figures = {name: round(value, 3) for name, value in seen.items() if value is not None}
            found.append(Cause("receiver-cpu", sentence, figures, strength=strength, scenario=scenario, arm=arm))
            break
    return _strongest(found, "stream")


def _too_slow(
    streams: int,
    *,
    window_limited_share: float | None,
    receiver_cpus: float | None,
    sender_cpus: float | None,
    cpu_wait_share: float | None,
    zero_windows: float | None,
) -> Iterator[tuple[float, str]]:
    """Yield in how far, and in words, a receiver cannot keep up; nothing if it can."""
    if receiver_cpus is not None and receiver_cpus / streams >= SATURATED_CPUS:
        used = receiver_cpus / streams
        yield (
            _beyond(used, SATURATED_CPUS),
            f"the receiver's process used {used:.0%} of a CPU for each stream, which is all there is for one",
        )
    share = receiver_cpus / sender_cpus if receiver_cpus is not None and sender_cpus else None
    if share is not None and share < STARVED_SHARE:
        got = f"its process got only {receiver_cpus:.1%} of a CPU where the sender's used {sender_cpus:.1%}"
        if (zero_windows or 0) >= ZERO_WINDOWS:
            yield (
                1 - share / STARVED_SHARE,
                f"the receiver closed its window {zero_windows:.1f} times per repetition, and {got}",
            )
        if (cpu_wait_share or 0) >= CPU_WAIT_SHARE:
            yield (
                1 - share / STARVED_SHARE,
                f"the receiver's node had work waiting for a CPU in {cpu_wait_share:.0%} of the time, and {got}",
            )
    if window_limited_share is not None and window_limited_share > WINDOW_LIMITED_SHARE:
        yield (
            _beyond(window_limited_share, WINDOW_LIMITED_SHARE),
            f"the sender waited for the receiver's window in {window_limited_share:.0%} of its time",
        )


def retransmits(evidence: Evidence) -> Cause | None:
    """Find streams that lost so much that the loss decides their throughput."""
    found = []
    for (scenario, arm), rows in _streams(evidence):
        value = _median(row.retransmits_per_gb for row in rows)
        if value is not None and value > RETRANSMITS_PER_GB:
            found.append(
                Cause(
                    "retransmits",
                    f"{value:,.0f} segments per gigabyte were retransmitted: the path loses packets",
                    {"retransmits_per_gb": round(value)},
                    strength=_beyond(value, RETRANSMITS_PER_GB),
                    scenario=scenario,
                    arm=arm,
                )
            )
    return _strongest(found, "stream")


def cilium_drops(evidence: Evidence) -> Cause | None:
    """Find packets that Cilium itself dropped, by the reason that it gives."""
    found = []
    nodes = sorted({seen.node for seen in evidence.counters})
    for node in nodes:
        packets: dict[tuple[str, str], float] = {}
        for seen in evidence.counters:
            for name, value in seen.grown.items():
                if seen.node == node and name.startswith(CILIUM_COUNTERS) and name.endswith("/packets"):
                    reason, _, direction = name[len(CILIUM_COUNTERS) : -len("/packets")].rpartition("/")
                    packets[reason, direction] = packets.get((reason, direction), 0) + value
        total = sum(packets.values())
        for (reason, direction), dropped in packets.items():
            if reason.startswith(_NO_DROPS) or dropped <= DROPPED_SHARE * total:
                continue
            share = dropped / total
            found.append(
                Cause(
                    "cilium-drops",
                    f"Cilium on node {node} dropped {dropped:,.0f} packets ({direction}), {share:.2%} of all that "
                    f'it handled: "{reason}"',
                    {"reason": reason, "direction": direction, "packets": dropped, "share": round(share, 5)},
                    strength=_beyond(share, DROPPED_SHARE),
                    node=node,
                )
            )
    return _strongest(found, "reason")


def noisy_neighbour(evidence: Evidence) -> Cause | None:
    """Find nodes that were busy with other work just before a block, while nothing was measured."""
    found = [
        Cause(
            "noisy-neighbour",
            f"node {seen.node} was {seen.busy_before_share:.0%} busy with other work before block {seen.block}",
            {"busy_before_share": round(seen.busy_before_share, 3), "block": seen.block},
            strength=_beyond(seen.busy_before_share, _GATES.busy_limit),
            node=seen.node,
        )
        for seen in evidence.pressure
        if seen.busy_before_share is not None and seen.busy_before_share > _GATES.busy_limit
    ]
    return _strongest(found, "block")


def throttled(evidence: Evidence) -> Cause | None:
    """Find pods that a CPU limit held back."""
    found = [
        Cause(
            "throttled",
            f"a CPU limit held the {seen.pod} pod back in {seen.share:.0%} of the scheduler's periods (block "
            f"{seen.block}, generation {seen.generation})",
            {"throttled_share": round(seen.share, 3), "pod": seen.pod, "block": seen.block},
            strength=_beyond(seen.share, _GATES.throttle_limit),
        )
        for seen in evidence.throttled
        if seen.share > _GATES.throttle_limit
    ]
    return _strongest(found, "pod")


def steal(evidence: Evidence) -> Cause | None:
    """Find nodes from which the hypervisor took CPU time."""
    found = [
        Cause(
            "steal",
            f"the hypervisor took {seen.steal_share:.1%} of the CPU time of {seen.node} in block {seen.block}",
            {"steal_share": round(seen.steal_share, 4), "block": seen.block},
            strength=_beyond(seen.steal_share, _GATES.steal_limit),
            node=seen.node,
        )
        for seen in evidence.pressure
        if seen.steal_share is not None and seen.steal_share > _GATES.steal_limit
    ]
    return _strongest(found, "block")


_LOOKS: dict[str, Callable[[Evidence], Cause | None]] = {
    "nic-limit": nic_limit,
    "setting-not-effective": setting_not_effective,
    "too-big-at-a-hop": too_big_at_a_hop,
    "segmented-on-the-way": segmented_on_the_way,
    "cilium-drops": cilium_drops,
    "throttled": throttled,
    "steal": steal,
    "noisy-neighbour": noisy_neighbour,
    "receiver-cpu": receiver_cpu,
    "retransmits": retransmits,
}
CAUSES = tuple(_LOOKS)
"""Every cause that is known, those that the cluster tells of itself before those that traffic lets guess."""

#: Cause → what follows from it, and is then no cause of its own. A refused packet is lost, and the sender falls
#: back to small ones; small packets cost the receiver more; who does not get the CPU cannot keep up.
_EXPLAINS: dict[str, tuple[str, ...]] = {
    "nic-limit": ("setting-not-effective",),
    "too-big-at-a-hop": ("setting-not-effective", "segmented-on-the-way", "retransmits"),
    "segmented-on-the-way": ("receiver-cpu", "retransmits"),
    "cilium-drops": ("retransmits",),
    "throttled": ("receiver-cpu",),
    "steal": ("receiver-cpu",),
}


def _streams(evidence: Evidence) -> Iterator[tuple[tuple[str, Arm], list[Measured]]]:
    """Yield the repetitions of every bulk stream in either arm: only these fill packets to the limit."""
    groups: dict[tuple[str, Arm], list[Measured]] = {}
    for row in evidence.measured:
        if SCENARIOS[row.scenario].kind.fills_packets:
            groups.setdefault((row.scenario, row.arm), []).append(row)
    yield from groups.items()


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _beyond(value: float, threshold: float) -> float:
    """Return how far a figure is beyond its threshold: 0 at it, towards 1 at many times as much."""
    return 1 - threshold / value


def _strongest(found: Sequence[Cause], what: str) -> Cause | None:
    """Return the cause where it shows most, saying in how many more places it does."""
    if not found:
        return None
    first = max(found, key=lambda cause: cause.strength)
    return replace(first, sentence=first.sentence + _more(len(found), what))


def _more(count: int, what: str) -> str:
    if count == 1:
        return ""
    return f" (and {count - 1} more such {what}{'s' if count > 2 else ''})"


def _on_off(value: bool) -> str:
    return "on" if value else "off"
