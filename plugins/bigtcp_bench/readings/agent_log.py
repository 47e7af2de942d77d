"""What came out of a pod: the agent's frames found in a log, validated, and turned into measurements."""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bigtcp_bench.errors import validation_sentence
from bigtcp_bench.in_cluster.measure import MARKER, VERSION
from bigtcp_bench.planning.metrics import GIGABYTE, METRICS, Traffic, metrics_of
from bigtcp_bench.planning.plan import Arm, Family
from bigtcp_bench.readings.cpu import CPU_KINDS, CPU_PARTS, busy_share, cpu_parts, cpu_ticks
from bigtcp_bench.readings.orders import MeasureOrders

#: A measured window shorter than this share of the ordered one was cut off; iperf3's own jitter is below 1 %.
MIN_DURATION_SHARE = 0.9
#: A fixed-rate stream below this share of its rate did not run at equal load.
MIN_RATE_SHARE = 0.9
#: Less of a node's CPU time than this, after its idle load was subtracted, is the noise of what was subtracted.
MIN_OWN_CPU_SHARE = 0.1
#: Largest document accepted (a repetition is about 0.3 MB): a damaged or hostile frame must not fill the memory.
MAX_DOCUMENT_BYTES = 64_000_000

End = Literal["sender", "receiver"]
#: How many CPUs of each end's node were busy before the block, and with what: ``cpu_load`` of ``proc_stat``.
IdleLoads = Mapping[End, Mapping[str, float]]


class _Seen(BaseModel):
    """Something the agent saw. Unknown fields are ignored: a newer agent or iperf3 may say more."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


# --- Snapshots --------------------------------------------------------------------------------------------------


class Device(_Seen):
    """One network device as the kernel told it. Limits in bytes, absent where the kernel has no such limit."""

    index: int
    kind: str | None = None
    mtu: int | None = None
    operstate: str | None = None
    master: str | None = None
    peer_index: int | None = None
    addresses: tuple[str, ...] = ()

    gso_max_size: int | None = None
    gro_max_size: int | None = None
    tso_max_size: int | None = None
    gso_ipv4_max_size: int | None = None
    gro_ipv4_max_size: int | None = None

    rx_bytes: int | None = None
    rx_packets: int | None = None
    rx_dropped: int | None = None
    rx_errors: int | None = None
    tx_bytes: int | None = None
    tx_packets: int | None = None
    tx_dropped: int | None = None
    tx_errors: int | None = None

    #: In a probe only.
    driver: str | None = None
    firmware: str | None = None
    bus: str | None = None
    speed_mbps: int | None = None
    #: What the driver counts, by its own names.
    ethtool: dict[str, int] = {}

    @property
    def limits(self) -> dict[str, int]:
        """Return limit → bytes, of those the kernel has."""
        names = ("gso_max_size", "gro_max_size", "tso_max_size", "gso_ipv4_max_size", "gro_ipv4_max_size")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class Snapshot(_Seen):
    """Everything one end counted at one moment; the text fields are files of /proc as they were."""

    time_s: float
    monotonic_s: float
    user_hz: int = Field(gt=0)
    #: As ``uname -m`` says it.
    machine: str | None = None
    #: The device that the traffic of this end goes through; None in a probe.
    device: str | None = None
    devices: dict[str, Device]
    proc_stat: str | None = None
    snmp: str | None = None
    snmp6: str | None = None
    netstat: str | None = None
    softnet_stat: str | None = None
    sockstat: str | None = None
    sockstat6: str | None = None
    meminfo: str | None = None
    loadavg: str | None = None
    cpu_pressure: str | None = None
    cgroup_cpu_stat: str | None = None
    conntrack_count: str | None = None
    conntrack_max: str | None = None


class Capabilities(_Seen):
    """Which families' BIG TCP the kernel has, by the attributes of its loopback device."""

    ipv4_big_tcp: bool
    ipv6_big_tcp: bool


class Host(_Seen):
    """What one machine and image are; ``tools`` are the first lines of their version output, None if missing."""

    hostname: str
    kernel_release: str
    machine: str | None = None
    boot_id: str | None = None
    cpu_count: int | None = None
    tcp_congestion_control: str | None = None
    tools: dict[str, str | None] = {}
    capabilities: Capabilities


class Probe(Host):
    """A node, seen from its own network namespace."""

    snapshot: Snapshot
    #: What was counted some seconds before, if that was ordered.
    earlier: Snapshot | None = None

    @property
    def busy_share(self) -> float | None:
        """Return the share of the node's CPU time that was used just before, None if it was not sampled."""
        return busy_share(self.earlier.proc_stat, self.snapshot.proc_stat) if self.earlier else None

    @property
    def load_average(self) -> tuple[float, float, float] | None:
        """Return the load of the last 1, 5 and 15 minutes."""
        numbers = re.match(r"([\d.]+) ([\d.]+) ([\d.]+)\s", self.snapshot.loadavg or "")
        return (float(numbers[1]), float(numbers[2]), float(numbers[3])) if numbers else None


# --- Frames -----------------------------------------------------------------------------------------------------


class Ready(_Seen):
    """The server serves."""

    iperf_port: int
    rr_port: int
    control_port: int
    host: Host | None = None


class Hello(_Seen):
    """The client reached its server: both ends, with tools and device limits, before the first repetition."""

    run_key: str
    block: int
    arm: Arm
    generation: int
    #: Family → reason, for each address of the server that could not be reached.
    unreachable: dict[str, str] = {}
    client: Probe
    server: Probe


class Done(_Seen):
    """The client carried out all orders."""

    run_key: str
    block: int
    generation: int
    repetitions: int
    failed: int
    elapsed_s: float


class Reach(_Seen):
    """Over which families a server could not be reached, and why; empty if over all."""

    unreachable: dict[Family, str]


class Bucket(_Seen):
    """Packets of at most ``upper_bytes`` each, and above the bound before that; bytes with the IP header."""

    upper_bytes: int = Field(gt=0)
    packets: int = Field(ge=0)
    bytes: int = Field(ge=0)


class Sizes(_Seen):
    """How large the packets of one connection were on one end's device, and how many the capture lost."""

    device: str
    sent: tuple[Bucket, ...]
    received: tuple[Bucket, ...]
    #: Of all packets on the device meanwhile: how many there were, and how many of them were not looked at.
    seen: int = Field(ge=0)
    dropped: int = Field(ge=0)


class Captured(_Seen):
    """The packets of one stream, captured at both ends; ``error`` says why there are none."""

    run_key: str
    block: int
    arm: Arm
    family: Family
    error: str | None
    sender: Sizes | None = None
    receiver: Sizes | None = None
    #: The whole document as the agent wrote it, to be kept.
    raw: dict[str, Any] = Field(default={}, repr=False)


class Around(_Seen):
    """The snapshots of one end before and after a repetition."""

    before: Snapshot | None = None
    after: Snapshot | None = None


class Latency(_Seen):
    """Latencies of all counted transactions, in microseconds."""

    p50: float = Field(gt=0)
    p90: float = Field(gt=0)
    p99: float = Field(gt=0)


class RequestResponse(_Seen):
    """What the agent's own request/response client counted."""

    request_bytes: int
    transactions: int = Field(ge=0)
    seconds: float = Field(ge=0)
    latency_us: Latency


class Document(_Seen):
    """The raw document of a repetition, as far as measurements are made of it."""

    client: Around = Around()
    server: Around = Around()
    iperf3: dict[str, Any] | None = None
    rr: RequestResponse | None = None


class Repetition(_Seen):
    """One scenario, run once: its key, how it went, and everything that was seen."""

    run_key: str
    block: int
    arm: Arm
    generation: int
    scenario: str
    family: Family
    traffic: Traffic
    streams: int
    repetition: int
    started_s: float
    elapsed_s: float
    #: Why the agent itself calls it failed; None when it saw nothing wrong. See `problems` for the verdict.
    error: str | None
    document: Document = Field(default=Document(), repr=False)
    #: The whole document as the agent wrote it, to be kept.
    raw: dict[str, Any] = Field(default={}, repr=False)

    @property
    def name(self) -> str:
        """Return what to call it in a sentence."""
        return f"{self.scenario} repetition {self.repetition} (block {self.block}, generation {self.generation})"


@dataclass
class AgentLog:
    """Everything an agent's log holds. ``damaged`` has one sentence for each frame that could not be read."""

    ready: Ready | None = None
    hello: Hello | None = None
    repetitions: list[Repetition] = field(default_factory=list)
    done: Done | None = None
    reach: Reach | None = None
    probe: Probe | None = None
    captures: list[Captured] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def missing(self, orders: MeasureOrders) -> list[tuple[str, int]]:
        """Return (scenario, repetition) of everything ordered that left no frame: the pod died before."""
        found = {(repetition.scenario, repetition.repetition) for repetition in self.repetitions}
        return [
            (scenario.name, number)
            for scenario in orders.scenarios
            for number in range(1, orders.repetitions + 1)
            if (scenario.name, number) not in found
        ]


def parse_log(text: str) -> AgentLog:
    """Return the frames in ``text``: a pod's log, or what of it there is. Raises nothing.

    Lines around the frames, prefixes (kubelet's and Airflow's timestamps) and frames that come twice, as they
    do when a log is read again after a lost connection, do no harm. A truncated frame is named in ``damaged``.
    """
    log = AgentLog()
    seen: set[tuple[int, int, str, int]] = set()
    for number, line in enumerate(re.split(r"[\r\n]+", text), 1):
        for frame in _frames_in(line):
            if isinstance(frame, str):
                log.damaged.append(f"log line {number}: {frame}")
                continue
            try:
                _take(log, frame, seen)
            except ValidationError as error:
                log.damaged.append(validation_sentence(error, f"log line {number}, frame {frame.get('kind')!r}"))
            except _Damaged as error:
                log.damaged.append(f"log line {number}, frame {frame.get('kind')!r}: {error}")
    return log


class _Damaged(Exception):
    """A frame cannot be read; the text says why."""


def _frames_in(line: str) -> Iterator[dict[str, Any] | str]:
    """Yield every frame in ``line``, or a sentence where something only begins like one."""
    position = line.find(MARKER)
    while position >= 0:
        start = position + len(MARKER)
        try:
            frame, end = json.JSONDecoder().raw_decode(line, start)
        except (ValueError, RecursionError):
            frame, end = None, start
        if isinstance(frame, dict):
            yield frame
        else:
            yield f"a frame that is no whole JSON object: {line[start : start + 60]!r}"
        position = line.find(MARKER, end)


def _take(log: AgentLog, frame: dict[str, Any], seen: set[tuple[int, int, str, int]]) -> None:
    """Add one frame to ``log``. Raises ValidationError or _Damaged."""
    if frame.get("v") != VERSION:
        raise _Damaged(f"has version {frame.get('v')!r}; this package reads {VERSION}")
    kind = frame.get("kind")
    if kind == "repetition":
        repetition = _repetition(frame)
        key = (repetition.block, repetition.generation, repetition.scenario, repetition.repetition)
        if key not in seen:
            seen.add(key)
            log.repetitions.append(repetition)
    elif kind == "hello":
        log.hello = Hello.model_validate({**frame, **_document(frame)})
    elif kind == "done":
        log.done = Done.model_validate(frame)
    elif kind == "capture":
        document = _document(frame)
        captured = Captured.model_validate({**frame, **document, "raw": document})
        if captured.family not in {one.family for one in log.captures}:
            log.captures.append(captured)
    elif kind == "reach":
        log.reach = Reach.model_validate(frame)
    elif kind == "probe":
        log.probe = Probe.model_validate(_document(frame))
    elif kind == "ready":
        log.ready = Ready.model_validate({**frame, "host": _document(frame)})
    else:
        raise _Damaged("is of no kind that this package knows")


def _repetition(frame: dict[str, Any]) -> Repetition:
    """Return a repetition; one whose document is damaged still counts, as a failed one."""
    fields = {name: value for name, value in frame.items() if name not in ("document", "raw")}
    try:
        raw = _document(frame)
        document = Document.model_validate(raw)
    except (ValidationError, _Damaged) as error:
        shown = validation_sentence(error, "document") if isinstance(error, ValidationError) else str(error)
        fields["error"] = f"{fields.get('error') or 'its document is damaged'} ({shown})"
        return Repetition.model_validate(fields)
    return Repetition.model_validate({**fields, "document": document, "raw": raw})


def packed(document: dict[str, Any]) -> bytes:
    """Return a document as the warehouse keeps it (its encoding ``zlib+json``)."""
    return zlib.compress(json.dumps(document).encode())


def unpacked(data: bytes) -> dict[str, Any]:
    """Return the document of ``packed``."""
    document: dict[str, Any] = json.loads(zlib.decompress(data))
    return document


def _document(frame: dict[str, Any]) -> dict[str, Any]:
    try:
        decoder = zlib.decompressobj()
        text = decoder.decompress(base64.b64decode(frame["doc"], validate=True), MAX_DOCUMENT_BYTES)
        if not decoder.eof:
            raise _Damaged(f"its document is cut off, or larger than {MAX_DOCUMENT_BYTES} bytes")
        document = json.loads(text)
    except (KeyError, TypeError, ValueError, binascii.Error, zlib.error, RecursionError) as error:
        raise _Damaged(f"its document cannot be unpacked: {type(error).__name__}: {error}") from error
    if not isinstance(document, dict):
        raise _Damaged(f"its document is no JSON object but {type(document).__name__}")
    return document


# --- iperf3 documents -------------------------------------------------------------------------------------------
# The fields below are alike in iperf3 3.12 to 3.20; what newer ones add (milliseconds, fq_rate, …) is ignored.


class _Sum(_Seen):
    seconds: float = Field(ge=0)
    bytes: int = Field(ge=0)
    bits_per_second: float = Field(ge=0)
    retransmits: int | None = Field(default=None, ge=0)


class _Received(_Seen):
    bytes: int = Field(ge=0)


class _Stream(_Seen):
    receiver: _Received


class _End(_Seen):
    streams: tuple[_Stream, ...]
    sum_sent: _Sum
    sum_received: _Sum


class _Iperf3(_Seen):
    end: _End


# --- What is wrong with it --------------------------------------------------------------------------------------


def problems(repetition: Repetition, orders: MeasureOrders) -> list[str]:
    """Return every reason why ``repetition`` is a failed one, one sentence each; empty when it is sound.

    The documents decide, not exit codes: iperf3 3.19 ends with 0 after SIGTERM.
    """
    if repetition.error:  # what the torso of a failed run lacks is no news
        return [f"{repetition.name}: {repetition.error}"]
    check = _rr_problems if repetition.traffic == "rr" else _iperf3_problems
    return [f"{repetition.name}: {problem}" for problem in check(repetition, orders)]


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
    elif silent := sum(not stream.receiver.bytes for stream in end.streams):
        yield f"{silent} of {len(end.streams)} streams brought no bytes to the receiver"
    if repetition.traffic == "rate" and end.sum_received.bits_per_second < MIN_RATE_SHARE * orders.rate_bps:
        yield (
            f"the stream reached {end.sum_received.bits_per_second / 1e6:,.0f} of the ordered "
            f"{orders.rate_bps / 1e6:,.0f} Mbit/s, so its CPU cost is not at equal load; order a lower rate_bps"
        )


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
    return [
        Measurement(repetition.scenario, repetition.repetition, name, value, METRICS[name].unit)
        for name, value in _evaluate(repetition, idle).items()
        if not isinstance(value, str)
    ]


def absences(repetition: Repetition, idle: IdleLoads | None = None) -> list[str]:
    """Return one sentence for each metric that `measurements` leaves out, such as a counter that was reset."""
    return [
        f"{repetition.name}: no {METRICS[name].label}: {reason}"
        for name, reason in absent(repetition, idle).items()
    ]


def absent(repetition: Repetition, idle: IdleLoads | None = None) -> dict[str, str]:
    """Return metric → reason for each metric that `measurements` leaves out."""
    return {name: value for name, value in _evaluate(repetition, idle).items() if isinstance(value, str)}


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
                results[metric.name] = _cpu_cost(repetition, *_CPU_COST[metric.name], idle or {})
            else:
                results[metric.name] = _COMPUTE[metric.name](repetition)
        except _Absent as reason:
            results[metric.name] = str(reason)
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
