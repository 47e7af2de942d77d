"""From a repetition to its figures: what is wrong with it, its metrics, and the proof of effect."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, ValidationError

from bigtcp_bench.errors import validation_sentence
from bigtcp_bench.planning.metrics import GIGABYTE, METRICS, metrics_of
from bigtcp_bench.readings.agent_log import Around, Repetition, RequestResponse, Seen, Snapshot
from bigtcp_bench.readings.cpu import CPU_PARTS, cpu_parts
from bigtcp_bench.readings.frames import clipped
from bigtcp_bench.readings.orders import MeasureOrders
from bigtcp_bench.readings.proc import CPU_KINDS, cpu_ticks

#: A measured window shorter than this share of the ordered one was cut off; iperf3's own jitter is below 1 %.
MIN_DURATION_SHARE = 0.9
#: A fixed-rate stream below this share of its rate did not run at equal load.
MIN_RATE_SHARE = 0.9
#: Less of a node's CPU time than this, after its idle load was subtracted, is the noise of what was subtracted.
MIN_OWN_CPU_SHARE = 0.1
#: A receiver may get a little more than was sent in the same seconds, namely what was on its way when they began:
#: some megabytes of buffers. Beyond this share somebody has counted wrongly.
MAX_RECEIVED_SHARE = 1.1

End = Literal["sender", "receiver"]
#: How many CPUs of each end's node were busy before the block, and with what: ``cpu_load`` of ``proc_stat``.
#: A sentence, where a node had not come to rest: then nobody can tell what is to be subtracted.
IdleLoads = Mapping[End, Mapping[str, float] | str]


# --- iperf3 documents -------------------------------------------------------------------------------------------
# The fields below are alike in iperf3 3.12 to 3.20; what newer ones add (milliseconds, fq_rate, …) is ignored.


class _Sum(Seen):
    seconds: float = Field(ge=0)
    bytes: int = Field(ge=0)
    bits_per_second: float = Field(ge=0)
    retransmits: int | None = Field(default=None, ge=0)


class _Received(Seen):
    bytes: int = Field(ge=0)


class _Stream(Seen):
    receiver: _Received


class _End(Seen):
    streams: tuple[_Stream, ...]
    sum_sent: _Sum
    sum_received: _Sum


class _Iperf3(Seen):
    end: _End


# --- What is wrong with it --------------------------------------------------------------------------------------


def problems(repetition: Repetition, orders: MeasureOrders) -> list[str]:
    """Return every reason why ``repetition`` is a failed one, one sentence each; empty when it is sound.

    The documents decide, not exit codes: iperf3 3.19 ends with 0 after SIGTERM.
    """
    if repetition.error:  # what the torso of a failed run lacks is no news
        return [clipped(f"{repetition.name}: {repetition.error}")]
    check = _rr_problems if repetition.traffic == "rr" else _iperf3_problems
    return [clipped(f"{repetition.name}: {problem}") for problem in check(repetition, orders)]


def _rr_problems(repetition: Repetition, orders: MeasureOrders) -> Iterator[str]:
    rr = repetition.document.rr
    if rr is None:
        yield "the document has no request/response result"
        return
    yield from _too_short(rr.seconds, orders)
    if not rr.transactions:
        yield "no transaction was counted"
    ordered = {scenario.name: scenario.request_bytes or orders.request_bytes for scenario in orders.scenarios}
    size = ordered.get(repetition.scenario, orders.request_bytes)
    if rr.request_bytes != size:
        yield f"requests had {rr.request_bytes} bytes instead of {size}"


def _iperf3_problems(repetition: Repetition, orders: MeasureOrders) -> Iterator[str]:
    document = repetition.document.iperf3
    if document is None:
        yield "the document has no iperf3 result"
        return
    if document.get("error"):
        yield f"iperf3: {document['error']}"
        return
    try:
        end = _Iperf3.model_validate(document).end
    except ValidationError as error:
        yield validation_sentence(error, "iperf3's result")
        return
    yield from _too_short(min(end.sum_sent.seconds, end.sum_received.seconds), orders)
    if len(end.streams) != repetition.streams:
        yield f"iperf3 ran {len(end.streams)} streams instead of {repetition.streams}"
    if not end.sum_received.bytes:
        yield "the receiver got no bytes"
    elif any(_exceeds(end, what) for what in ("bytes", "bits_per_second")):
        yield (
            f"the receiver got {end.sum_received.bytes:,} bytes where {end.sum_sent.bytes:,} were sent, so one of "
            "the two ends has counted wrongly"
        )
    elif silent := sum(not stream.receiver.bytes for stream in end.streams):
        yield f"{silent} of {len(end.streams)} streams brought no bytes to the receiver"
    if repetition.traffic == "rate" and end.sum_received.bits_per_second < MIN_RATE_SHARE * orders.rate_bps:
        yield (
            f"the stream reached {end.sum_received.bits_per_second / 1e6:,.0f} of the ordered "
            f"{orders.rate_bps / 1e6:,.0f} Mbit/s, so its CPU cost is not at equal load; order a lower rate_bps"
        )


def _exceeds(end: _End, what: str) -> bool:
    return bool(getattr(end.sum_received, what) > MAX_RECEIVED_SHARE * getattr(end.sum_sent, what))


def _too_short(seconds: float, orders: MeasureOrders) -> Iterator[str]:
    if seconds < MIN_DURATION_SHARE * orders.duration_s:
        yield f"measured for {seconds:.2f} s instead of {orders.duration_s} s"


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


class _Absent(Exception):
    """A metric cannot be computed; the text says why."""


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
    results: dict[str, float | str] = {}
    for metric in metrics_of(repetition.traffic):
        try:
            if metric.name in _CPU_COST:
                value = _cpu_cost(repetition, *_CPU_COST[metric.name], idle or {})
            else:
                value = _COMPUTE[metric.name](repetition)
        except _Absent as reason:
            results[metric.name] = str(reason)
        except OverflowError:
            results[metric.name] = "its figures are beyond all bounds"
        else:
            results[metric.name] = value if math.isfinite(value) else "its figures are beyond all bounds"
    return results


def _throughput_bps(repetition: Repetition) -> float:
    return _iperf3_end(repetition).sum_received.bits_per_second


def _retransmits_per_gb(repetition: Repetition) -> float:
    sent = _iperf3_end(repetition).sum_sent
    if sent.retransmits is None:
        raise _Absent("iperf3 did not count retransmissions")
    if not sent.bytes:
        raise _Absent("nothing was sent")
    return sent.retransmits / (sent.bytes / GIGABYTE)


def _iperf3_end(repetition: Repetition) -> _End:
    try:
        return _Iperf3.model_validate(repetition.document.iperf3).end
    except ValidationError as error:
        raise _Absent(validation_sentence(error, "iperf3's result")) from error


def _transactions_per_s(repetition: Repetition) -> float:
    rr = _rr(repetition)
    return rr.transactions / rr.seconds


def _rr(repetition: Repetition) -> RequestResponse:
    rr = repetition.document.rr
    if rr is None or not rr.transactions or not rr.seconds:
        raise _Absent("no transaction was counted")
    return rr


def _latency(name: str) -> Callable[[Repetition], float]:
    return lambda repetition: float(getattr(_rr(repetition).latency_us, name))


def _cpu_cost(repetition: Repetition, end: End, part: str, idle: IdleLoads) -> float:
    """Return CPU seconds per gigabyte, without those that the node used before the block in the same time."""
    used_s = _cpu_seconds(repetition, end)
    moved = _counted(repetition, end, "tx_bytes") + _counted(repetition, end, "rx_bytes")
    if not moved:
        raise _Absent(f"the {end}'s device moved no bytes")
    load = idle.get(end)
    if isinstance(load, str):
        raise _Absent(load)
    if load is not None:
        before, after = _pair(repetition, end)
        passed_s = after.monotonic_s - before.monotonic_s
        if used_s["busy"] - load["busy"] * passed_s < MIN_OWN_CPU_SHARE * used_s["busy"]:
            raise _Absent(
                f"the {end}'s node used hardly more CPU time than before the block, "
                f"when {load['busy']:.2f} of its CPUs were busy"
            )
        used_s = {name: seconds - load[name] * passed_s for name, seconds in used_s.items()}
    return used_s[part] / (moved / GIGABYTE)


def _softirq_share(end: End) -> Callable[[Repetition], float]:
    def compute(repetition: Repetition) -> float:
        used_s = _cpu_seconds(repetition, end)
        if not used_s["busy"]:
            raise _Absent(f"the {end}'s node used no CPU time")
        return used_s["softirq"] / used_s["busy"]

    return compute


def _bytes_per_packet(end: End) -> Callable[[Repetition], float]:
    direction = "tx" if end == "sender" else "rx"

    def compute(repetition: Repetition) -> float:
        packets = _counted(repetition, end, f"{direction}_packets")
        if not packets:
            raise _Absent(f"the {end}'s device counted no packets")
        return _counted(repetition, end, f"{direction}_bytes") / packets

    return compute


_COMPUTE: dict[str, Callable[[Repetition], float]] = {
    "throughput_bps": _throughput_bps,
    "transactions_per_s": _transactions_per_s,
    "latency_p50_us": _latency("p50"),
    "latency_p90_us": _latency("p90"),
    "latency_p99_us": _latency("p99"),
    "softirq_share_sender": _softirq_share("sender"),
    "softirq_share_receiver": _softirq_share("receiver"),
    "retransmits_per_gb": _retransmits_per_gb,
    "bytes_per_packet_sender": _bytes_per_packet("sender"),
    "bytes_per_packet_receiver": _bytes_per_packet("receiver"),
}


_ENDS: tuple[End, End] = ("sender", "receiver")
#: Metric → the end, and which part of its CPU time.
_CPU_COST: dict[str, tuple[End, str]] = {
    f"{'cpu' if part == 'busy' else part}_s_per_gb_{end}": (end, part)
    for end in _ENDS
    for part in ("busy", *CPU_PARTS)
}


def _around(repetition: Repetition, end: End) -> Around:
    """Return the snapshots of one end: the client is the one that sends the data."""
    return repetition.document.client if end == "sender" else repetition.document.server


def _pair(repetition: Repetition, end: End) -> tuple[Snapshot, Snapshot]:
    around = _around(repetition, end)
    if around.before is None or around.after is None:
        raise _Absent(f"the {end} has no snapshot {'before' if around.before is None else 'after'} the repetition")
    return around.before, around.after


def _counted(repetition: Repetition, end: End, counter: str) -> int:
    """Return by how much a counter of the end's device grew. Raises _Absent."""
    before, after = _pair(repetition, end)
    name = before.device
    if name is None:
        raise _Absent(f"no device of the {end} has the address that was used")
    first, last = before.devices.get(name), after.devices.get(name)
    if first is None or last is None or first.index != last.index:
        raise _Absent(f"device {name} of the {end} went away or was replaced during the repetition")
    start, stop = getattr(first, counter), getattr(last, counter)
    if start is None or stop is None:
        raise _Absent(f"device {name} of the {end} has no counter {counter}")
    if stop < start:
        raise _Absent(f"{counter} of device {name} of the {end} went back from {start} to {stop}: it was reset")
    return int(stop - start)


def _cpu_seconds(repetition: Repetition, end: End) -> dict[str, float]:
    """Return the CPU seconds of the end's whole node: ``busy`` and the parts of it. Raises _Absent."""
    before, after = _pair(repetition, end)
    start, stop = _cpu_ticks(before, end), _cpu_ticks(after, end)
    grown = {kind: stop[kind] - start[kind] for kind in CPU_KINDS}
    for kind, ticks in grown.items():
        # Waiting for I/O, and idle time of a CPU that went offline, may run back (proc(5)).
        if ticks < 0 and kind not in ("idle", "iowait"):
            raise _Absent(
                f"the {kind} time of the {end}'s node went back from {start[kind]} to {stop[kind]} ticks"
            )
    return cpu_parts({kind: ticks / before.user_hz for kind, ticks in grown.items()})


def _cpu_ticks(snapshot: Snapshot, end: End) -> dict[str, int]:
    ticks = cpu_ticks(snapshot.proc_stat)
    if ticks is None:
        raise _Absent(f"the {end}'s /proc/stat does not begin with the CPU times that proc(5) names")
    return ticks
