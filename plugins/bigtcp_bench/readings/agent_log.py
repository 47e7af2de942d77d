"""What came out of a pod: the agent's frames found in a log, and each validated once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bigtcp_bench.errors import validation_sentence
from bigtcp_bench.planning.plan import Arm, Family, NetworkPath, Traffic, Way
from bigtcp_bench.readings import frames, proc
from bigtcp_bench.readings.cpu import busy_share
from bigtcp_bench.readings.orders import CaptureOrders, MeasureOrders


class Seen(BaseModel):
    """Something the agent saw. Unknown fields are ignored: a newer agent or iperf3 may say more."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


# --- Snapshots --------------------------------------------------------------------------------------------------


class Device(Seen):
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


class Snapshot(Seen):
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


class Capabilities(Seen):
    """Which families' BIG TCP the kernel has, by the attributes of its loopback device."""

    ipv4_big_tcp: bool
    ipv6_big_tcp: bool


class Host(Seen):
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
        return proc.load_average(self.snapshot.loadavg)


# --- Frames -----------------------------------------------------------------------------------------------------


class Ready(Seen):
    """The server serves."""

    iperf_port: int
    rr_port: int
    control_port: int
    host: Host | None = None


class Hello(Seen):
    """The client reached its server: both ends, with tools and device limits, before the first repetition."""

    run_key: str
    block: int
    arm: Arm
    generation: int
    #: Family → reason, for each address of the server that could not be reached.
    unreachable: dict[str, str] = {}
    client: Probe
    server: Probe


class Done(Seen):
    """The client carried out all orders."""

    run_key: str
    block: int
    generation: int
    repetitions: int
    failed: int
    elapsed_s: float


class Reach(Seen):
    """Over which families a server could not be reached, and why; empty if over all. ``service``: through it."""

    unreachable: dict[Family, str]
    service: dict[Family, str] = {}


class Bucket(Seen):
    """Packets of at most ``upper_bytes`` each, and above the bound before that; bytes with the IP header."""

    upper_bytes: int = Field(gt=0)
    packets: int = Field(ge=0)
    bytes: int = Field(ge=0)


class Sizes(Seen):
    """How large the packets of one connection were on one end's device, and how many the capture lost."""

    device: str
    sent: tuple[Bucket, ...]
    received: tuple[Bucket, ...]
    #: Of all packets on the device meanwhile: how many there were, and how many of them were not looked at.
    seen: int = Field(ge=0)
    dropped: int = Field(ge=0)


class Captured(Seen):
    """The packets of one stream, captured at both ends; ``error`` says why there are none."""

    run_key: str
    block: int
    arm: Arm
    family: Family
    path: NetworkPath = "pod"
    #: Where it was sent, which whoever has ordered it knows.
    node: str = ""
    error: str | None
    sender: Sizes | None = None
    receiver: Sizes | None = None
    #: The whole document as it came, to be kept.
    stored: bytes = Field(default=b"", repr=False)

    @property
    def way(self) -> Way:
        """Return which way the stream took."""
        return Way(self.family, self.path)

    @property
    def kind(self) -> str:
        """Return under which kind its document is kept."""
        where = "" if self.path == "pod" else f"@{self.path}"
        return f"capture:{self.family}{where}" + (f":{self.node}" if self.path == "same-node" else "")


class Around(Seen):
    """The snapshots of one end before and after a repetition."""

    before: Snapshot | None = None
    after: Snapshot | None = None


class Document(BaseModel):
    """The raw document of a repetition: the snapshots of both ends, and what its kind of traffic has seen."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    client: Around = Around()
    server: Around = Around()

    @property
    def traffic(self) -> dict[str, Any]:
        """Return what the kind of traffic has seen, as it came: the kind reads it."""
        return self.model_extra or {}


class Repetition(Seen):
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
    #: The whole document as it came, to be kept.
    stored: bytes = Field(default=b"", repr=False)

    @property
    def name(self) -> str:
        """Return what to call it in a sentence."""
        return f"{self.scenario} repetition {self.repetition} (block {self.block}, generation {self.generation})"


#: Frames that were damaged or refused are named up to this many: a hostile log may have a million.
MAX_NAMED = 100

#: Block, generation, scenario and number of a repetition.
Key = tuple[int, int, str, int]


@dataclass
class AgentLog:
    """What an agent's log holds, as far as it was read; of what was ordered, if ``orders`` are given.

    ``damaged`` has a sentence for each frame that could not be read, or that nobody has ordered.
    """

    orders: MeasureOrders | CaptureOrders | None = None
    ready: Ready | None = None
    hello: Hello | None = None
    repetitions: list[Repetition] = field(default_factory=list)
    done: Done | None = None
    reach: Reach | None = None
    probe: Probe | None = None
    captures: list[Captured] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    #: Each repetition found so far, and whether its document was sound.
    found: dict[Key, bool] = field(default_factory=dict)

    def read(self, text: str) -> Iterator[Repetition]:
        """Take all frames in ``text``, a log or what of it there is; yield repetitions, each once. Raises nothing.

        Lines around the frames, prefixes (kubelet's and Airflow's timestamps) and frames that come twice, as they
        do when a log is read again after a lost connection, do no harm: a sound copy is unpacked once, and one
        whose document is damaged is yielded, as a failed one, and again when a sound copy turns up.
        """
        for number, line in enumerate(re.split(r"[\r\n]+", text), 1):
            for frame in frames.frames_in(line):
                where = f"log line {number}"
                try:
                    if isinstance(frame, str):
                        raise frames.Damaged(frame)
                    where = f"{where}, frame {frames.clipped(repr(frame.get('kind')), 40)}"
                    repetition = self._take(frame)
                except ValidationError as error:
                    self._name(validation_sentence(error, where))
                except frames.Damaged as error:
                    self._name(f"{where}: {error}")
                else:
                    if repetition is not None:
                        yield repetition

    def missing(self, orders: MeasureOrders) -> list[tuple[str, int]]:
        """Return (scenario, repetition) of everything ordered that left no frame: the pod died before."""
        found = {(scenario, number) for _, _, scenario, number in self.found}
        return [
            (scenario.name, number)
            for scenario in orders.scenarios
            for number in range(1, orders.repetitions + 1)
            if (scenario.name, number) not in found
        ]

    def _name(self, sentence: str) -> None:
        if len(self.damaged) < MAX_NAMED:
            self.damaged.append(frames.clipped(sentence))

    def _take(self, frame: dict[str, Any]) -> Repetition | None:
        """Take one frame; return it if it is a new repetition. Raises Damaged or ValidationError."""
        fields = frames.fields_of(frame)
        self._refuse_not_ordered(fields)
        kind = fields.get("kind")
        if kind == "repetition":
            return self._repetition(frame, fields)
        if kind == "hello":
            self.hello = self.hello or Hello.model_validate({**fields, **frames.document_of(frame)[0]})
        elif kind == "done":
            self.done = self.done or Done.model_validate(fields)
        elif kind == "capture":
            document, stored = frames.document_of(frame)
            captured = Captured.model_validate({**fields, **document, "stored": stored})
            if captured.way not in {one.way for one in self.captures}:
                self.captures.append(captured)
        elif kind == "reach":
            self.reach = self.reach or Reach.model_validate(fields)
        elif kind == "probe":
            document, _ = frames.document_of(frame, frames.MAX_NODE_BYTES)
            self.probe = self.probe or Probe.model_validate(document)
        elif kind == "ready":
            self.ready = self.ready or Ready.model_validate({**fields, "host": frames.document_of(frame)[0]})
        else:
            raise frames.Damaged("is of no kind that this package knows")
        return None

    def _repetition(self, frame: dict[str, Any], fields: dict[str, Any]) -> Repetition | None:
        """Return a repetition; one whose document is damaged still counts, as a failed one."""
        # Of the frame alone, so that nothing is unpacked twice.
        bare = Repetition.model_validate({**fields, "document": {}, "stored": b""})
        key = (bare.block, bare.generation, bare.scenario, bare.repetition)
        if self.found.get(key):
            return None
        try:
            document, stored = frames.document_of(frame)
            found = Repetition.model_validate({**fields, "document": document, "stored": stored})
        except (ValidationError, frames.Damaged) as error:
            if key in self.found:
                return None
            shown = validation_sentence(error, "document") if isinstance(error, ValidationError) else str(error)
            reason = frames.clipped(f"{bare.error or 'its document is damaged'} ({shown})")
            self.found[key] = False
            return bare.model_copy(update={"error": reason})
        self.found[key] = True
        return found

    def _refuse_not_ordered(self, fields: Mapping[str, Any]) -> None:
        """Raise Damaged if a frame says that something else was measured than this pod was told to."""
        kind, orders = fields.get("kind"), self.orders
        if orders is None or kind not in ("hello", "repetition", "done", "capture"):
            return
        wanted = {name: getattr(orders, name) for name in _ORDERED if hasattr(orders, name) and name in fields}
        if kind == "repetition" and isinstance(orders, MeasureOrders):
            scenarios = {scenario.name: scenario for scenario in orders.scenarios}
            name = fields.get("scenario")
            scenario = scenarios.get(name) if isinstance(name, str) else None
            if scenario is None:
                raise frames.Damaged(f"is of scenario {_shown(name)}, which was not ordered")
            wanted |= {"family": scenario.family, "traffic": scenario.traffic, "streams": scenario.streams}
            if fields.get("repetition") not in range(1, orders.repetitions + 1):
                raise frames.Damaged(
                    f"is of repetition {_shown(fields.get('repetition'))}, where {orders.repetitions} were ordered"
                )
        if kind == "capture" and isinstance(orders, CaptureOrders):
            told = (fields.get("family"), fields.get("path"))
            if told not in list(orders.ways):
                raise frames.Damaged(f"is of family {_shown(told[0])} and path {_shown(told[1])}, not ordered")
        for name, value in wanted.items():
            if fields.get(name) != value:
                raise frames.Damaged(f"is of {name} {_shown(fields.get(name))}, where {value!r} was ordered")


#: What a frame says of itself, and its orders too.
_ORDERED = ("run_key", "block", "arm", "generation")


def _shown(value: Any) -> str:
    return frames.clipped(repr(value), 60)


def parse_log(text: str, orders: MeasureOrders | CaptureOrders | None = None) -> AgentLog:
    """Return all that is in ``text``, a pod's log or what of it there is. Raises nothing."""
    log = AgentLog(orders)
    newest = {(one.block, one.generation, one.scenario, one.repetition): one for one in log.read(text)}
    log.repetitions = list(newest.values())
    return log
