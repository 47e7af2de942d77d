"""From a repetition to its figures: what is wrong with it, its metrics, and the proof of effect."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from bigtcp_bench.in_cluster.kind import GIGABYTE, Unreadable
from bigtcp_bench.in_cluster.traffic import KINDS
from bigtcp_bench.planning.metrics import METRICS, OF_ENDS, End, metrics_of
from bigtcp_bench.readings.agent_log import Around, Repetition, Snapshot
from bigtcp_bench.readings.cpu import cpu_parts
from bigtcp_bench.readings.frames import clipped
from bigtcp_bench.readings.orders import MeasureOrders
from bigtcp_bench.readings.proc import CPU_KINDS, cpu_ticks

#: Less of a node's CPU time than this, after its idle load was subtracted, is the noise of what was subtracted.
MIN_OWN_CPU_SHARE = 0.1

#: How many CPUs of each end's node were busy before the block, and with what: ``cpu_load`` of ``proc_stat``.
#: A sentence, where a node had not come to rest: then nobody can tell what is to be subtracted.
IdleLoads = Mapping[End, Mapping[str, float] | str]


# --- What is wrong with it --------------------------------------------------------------------------------------


def problems(repetition: Repetition, orders: MeasureOrders) -> list[str]:
    """Return every reason why ``repetition`` is a failed one, one sentence each; empty when it is sound.

    The documents decide, not exit codes: iperf3 3.19 ends with 0 after SIGTERM.
    """
    if repetition.error:  # what the torso of a failed run lacks is no news
        return [clipped(f"{repetition.name}: {repetition.error}")]
    return [clipped(f"{repetition.name}: {problem}") for problem in _problems(repetition, orders)]


def _problems(repetition: Repetition, orders: MeasureOrders) -> Iterator[str]:
    told = orders.model_dump(mode="json")
    ordered = {scenario["name"]: scenario for scenario in told["scenarios"]}
    scenario = {**ordered.get(repetition.scenario, {}), "family": repetition.family, "streams": repetition.streams}
    try:
        yield from KINDS[repetition.traffic].problems(repetition.document.traffic, told, scenario)
    except Unreadable as reason:
        yield str(reason)


# --- Measurements -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measurement:
    """One value of one metric of one repetition."""

    scenario: str
    repetition: int
    metric: str
    value: float
    unit: str


@dataclass(frozen=True)
class Proof:
    """How large packets really were on the pods' own devices, and how large they might be (bytes).

    ``on`` must be above 65,536 at the sender of a bulk stream, ``off`` at or below. None: see `absences`.
    """

    scenario: str
    repetition: int
    bytes_per_packet_sender: float | None
    bytes_per_packet_receiver: float | None
    gso_limit_sender: int | None
    gro_limit_receiver: int | None


def measurements(repetition: Repetition, idle: IdleLoads | None = None) -> list[Measurement]:
    """Return every metric of the scenario's traffic that can be computed; `absences` explains the others.

    Meant for repetitions without `problems`. Units and definitions:

    - throughput is what the receiver got (``end.sum_received``) in the measured seconds;
    - transactions and latencies are of all transactions in the measured seconds;
    - CPU seconds per gigabyte, softirq share and bytes per packet are differences of counters over the *whole*
      repetition, omitted seconds included, for CPU time and for bytes alike: the kernel's counters cannot be
      read at the very moment when iperf3 begins to count, and two windows that differ would be worse than one
      that is a little longer. Bytes are those of the pod's own device, both directions, so that the same
      definition holds for request/response;
    - CPU time is of the whole node and of all kinds but idle and waiting for I/O. From CPU seconds per gigabyte,
      and from their parts user, system and softirq, what the node used before the block is subtracted, for as long
      as the snapshots are apart. ``idle`` says how many CPUs that were; at an end it does not name, nothing is;
    - the share of softirq is that of all CPU seconds, nothing subtracted;
    - retransmits are those of the measured seconds, per gigabyte sent in them.
    """
    return evaluated(repetition, idle)[0]


def evaluated(repetition: Repetition, idle: IdleLoads | None = None) -> tuple[list[Measurement], dict[str, str]]:
    """Return what `measurements` returns, and metric → reason for each metric that it leaves out."""
    values = _evaluate(repetition, idle)
    measured = [
        Measurement(repetition.scenario, repetition.repetition, name, value, METRICS[name].unit)
        for name, value in values.items()
        if not isinstance(value, str)
    ]
    return measured, {name: value for name, value in values.items() if isinstance(value, str)}


def absences(repetition: Repetition, idle: IdleLoads | None = None) -> list[str]:
    """Return one sentence for each metric that `measurements` leaves out, such as a counter that was reset."""
    return [
        f"{repetition.name}: no {METRICS[name].label}: {reason}"
        for name, reason in evaluated(repetition, idle)[1].items()
    ]


def proof(repetition: Repetition) -> Proof:
    """Return the proof of effect of ``repetition``."""
    values = _evaluate(repetition)

    def value_of(name: str) -> float | None:
        value = values[name]
        return None if isinstance(value, str) else value

    def limit_of(end: End, name: str) -> int | None:
        around = _around(repetition, end)
        device = around.before.devices.get(around.before.device or "") if around.before else None
        return device.limits.get(name) if device else None

    family = "ipv4_" if repetition.family == "ipv4" else ""
    return Proof(
        scenario=repetition.scenario,
        repetition=repetition.repetition,
        bytes_per_packet_sender=value_of("bytes_per_packet_sender"),
        bytes_per_packet_receiver=value_of("bytes_per_packet_receiver"),
        gso_limit_sender=limit_of("sender", f"gso_{family}max_size"),
        gro_limit_receiver=limit_of("receiver", f"gro_{family}max_size"),
    )


def _evaluate(repetition: Repetition, idle: IdleLoads | None = None) -> dict[str, float | str]:
    """Return metric → value, or the reason why there is none, for every metric of the traffic."""
    document, ends = repetition.document.traffic, _Ends(repetition, idle or {})
    compute: dict[str, Callable[[], float]] = {
        **{one.name: partial(read, document) for one, read in KINDS[repetition.traffic].metrics.items()},
        **{one.name: partial(read, ends) for one, read in OF_ENDS.items()},
    }
    results: dict[str, float | str] = {}
    for metric in metrics_of(repetition.traffic):
        try:
            value = compute[metric.name]()
        except Unreadable as reason:
            results[metric.name] = str(reason)
        except OverflowError:
            results[metric.name] = "its figures are beyond all bounds"
        else:
            results[metric.name] = value if math.isfinite(value) else "its figures are beyond all bounds"
    return results


class _Ends:
    """What was counted at both ends of one repetition; the client is the one that sends the data."""

    def __init__(self, repetition: Repetition, idle: IdleLoads) -> None:
        self._repetition = repetition
        self._idle = idle

    def cpu_s_per_gb(self, end: End, part: str) -> float:
        """Return CPU seconds per gigabyte, without those that the node used before the block in the same time."""
        used_s = self._cpu_seconds(end)
        moved = self._counted(end, "tx_bytes") + self._counted(end, "rx_bytes")
        if not moved:
            raise Unreadable(f"the {end}'s device moved no bytes")
        load = self._idle.get(end)
        if isinstance(load, str):
            raise Unreadable(load)
        if load is not None:
            before, after = self._pair(end)
            passed_s = after.monotonic_s - before.monotonic_s
            if used_s["busy"] - load["busy"] * passed_s < MIN_OWN_CPU_SHARE * used_s["busy"]:
                raise Unreadable(
                    f"the {end}'s node used hardly more CPU time than before the block, "
                    f"when {load['busy']:.2f} of its CPUs were busy"
                )
            used_s = {name: seconds - load[name] * passed_s for name, seconds in used_s.items()}
        return used_s[part] / (moved / GIGABYTE)

    def softirq_share(self, end: End) -> float:
        """Return the share of softirq in the CPU seconds of the end's node, nothing subtracted."""
        used_s = self._cpu_seconds(end)
        if not used_s["busy"]:
            raise Unreadable(f"the {end}'s node used no CPU time")
        return used_s["softirq"] / used_s["busy"]

    def bytes_per_packet(self, end: End) -> float:
        """Return the mean size of the packets on the end's device, in the direction of the data."""
        direction = "tx" if end == "sender" else "rx"
        packets = self._counted(end, f"{direction}_packets")
        if not packets:
            raise Unreadable(f"the {end}'s device counted no packets")
        return self._counted(end, f"{direction}_bytes") / packets

    def _pair(self, end: End) -> tuple[Snapshot, Snapshot]:
        around = _around(self._repetition, end)
        if around.before is None or around.after is None:
            lacking = "before" if around.before is None else "after"
            raise Unreadable(f"the {end} has no snapshot {lacking} the repetition")
        return around.before, around.after

    def _counted(self, end: End, counter: str) -> int:
        """Return by how much a counter of the end's device grew. Raises Unreadable."""
        before, after = self._pair(end)
        name = before.device
        if name is None:
            raise Unreadable(f"no device of the {end} has the address that was used")
        first, last = before.devices.get(name), after.devices.get(name)
        if first is None or last is None or first.index != last.index:
            raise Unreadable(f"device {name} of the {end} went away or was replaced during the repetition")
        start, stop = getattr(first, counter), getattr(last, counter)
        if start is None or stop is None:
            raise Unreadable(f"device {name} of the {end} has no counter {counter}")
        if stop < start:
            raise Unreadable(
                f"{counter} of device {name} of the {end} went back from {start} to {stop}: it was reset"
            )
        return int(stop - start)

    def _cpu_seconds(self, end: End) -> dict[str, float]:
        """Return the CPU seconds of the end's whole node: ``busy`` and the parts of it. Raises Unreadable."""
        before, after = self._pair(end)
        start, stop = _cpu_ticks(before, end), _cpu_ticks(after, end)
        grown = {kind: stop[kind] - start[kind] for kind in CPU_KINDS}
        for kind, ticks in grown.items():
            # Waiting for I/O, and idle time of a CPU that went offline, may run back (proc(5)).
            if ticks < 0 and kind not in ("idle", "iowait"):
                raise Unreadable(
                    f"the {kind} time of the {end}'s node went back from {start[kind]} to {stop[kind]} ticks"
                )
        return cpu_parts({kind: ticks / before.user_hz for kind, ticks in grown.items()})


def _around(repetition: Repetition, end: End) -> Around:
    return repetition.document.client if end == "sender" else repetition.document.server


def _cpu_ticks(snapshot: Snapshot, end: End) -> dict[str, int]:
    ticks = cpu_ticks(snapshot.proc_stat)
    if ticks is None:
        raise Unreadable(f"the {end}'s /proc/stat does not begin with the CPU times that proc(5) names")
    return ticks
