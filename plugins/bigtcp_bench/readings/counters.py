"""What a snapshot of the agent counts, by name, and by how much each counter grew from one snapshot to the next.

A growth is a fact or it is absent, with the reason: a counter that ran back was reset, one that appeared or
vanished has no first or last value, and a device that was replaced counts from its own beginning. Only counters
that the kernel keeps in 32 bits wrap within anybody's run; that is undone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bigtcp_bench.readings import proc

Snapshot = Mapping[str, Any]

DEVICE_COUNTERS = (
    "rx_bytes",
    "rx_packets",
    "rx_dropped",
    "rx_errors",
    "tx_bytes",
    "tx_packets",
    "tx_dropped",
    "tx_errors",
)
#: What of a repetition is stored beside the counters of kernel and devices, by the end it is of.
#: For how long the counters of an end were watched.
WATCHED = "time/watched_s"
#: How long the sockets of a sender had something to send, and how long of it the receiver's window was closed
#: (``ss -i``); together, if there are several.
BUSY, WINDOW_LIMITED = "ss/busy_s", "ss/rwnd_limited_s"
#: How many CPUs the process that carried the traffic used on average, as iperf3 says of both ends.
USED_CPUS = "iperf3/cpus"
#: Entries of ``/proc/net/snmp`` that are settings or the state of this moment.
_NO_COUNTERS = {
    "IpForwarding",
    "IpDefaultTTL",
    "TcpRtoAlgorithm",
    "TcpRtoMin",
    "TcpRtoMax",
    "TcpMaxConn",
}
#: Types of ICMP messages, which have no entry before the first one was seen.
_SPARSE = re.compile(r"(In|Out)Type\d+$")
#: Machines whose kernels count in ``unsigned long`` of 32 bits, as ``uname -m`` says it.
_32_BIT_MACHINE = re.compile(r"i[3-6]86|armv[5-7]\w*")
#: The number of a queue, or of what goes with one, in a driver's names. By the forms of drivers in Linux: mlx5
#: ``rx3_packets`` and ``ch3_events``, ice ``rx_queue_3_packets``, bnxt ``[3]: rx_ucast_packets``, gve
#: ``rx_bytes[3]``, i40e ``rx-3.packets``, sfc ``tx-xdp-cpu-3.tx_packets``, mana and ionic ``rx_3_packets``, hns3
#: ``rxq3_packets``, be2net ``rxq3: rx_bytes``, ionic ``txq_3_sg_cntr_1``, idpf ``rx_q-3_pkts``, qede
#: ``3: rcv_pkts``, nfp ``rvec_3_rx_pkts``, stmmac ``q3_rx_pkt_n``, enetc ``Rx ring  3 frames``, hv_netvsc
#: ``cpu3_rx_packets``. Neither a class of traffic (``rx_prio3_bytes``) nor a size of packets
#: (``rx_64_byte_packets``, ``rx_65_to_127_octets``) is a queue.
_QUEUE = re.compile(
    r"(?:^|(?<=[^A-Za-z0-9]))"
    r"(?P<what>[rt]xq?[-_]?|[rt]x_q-|ch|q|cpu|rvec_|tx-xdp-cpu-|queue_|[RT]x ring +|(?<=\[)|(?=[0-9]+: ))"
    r"[0-9]+(?=[_.:\]-]|\b)"
    r"(?!_?(?:to|byte_|bytes_phy|octets?\b|oct_|or_|max\b|[0-9])|$)"
)
#: Names of a pod's end of its cable on Cilium's nodes: it comes and goes with the pod.
POD_CABLE = "lxc"
#: Gauges out of ``/proc/meminfo``, in bytes.
_MEMORY = ("MemTotal", "MemAvailable", "Slab")


@dataclass(frozen=True)
class Counter:
    """One counter, read once.

    ``parts`` are what its value is the sum of, each with its own life: a CPU, a queue, a device. Each is ``bits``
    wide. ``scale`` makes the unit of the name of the unit of the parts. Parts of a ``sparse`` counter do not exist
    before they count for the first time.
    """

    parts: Mapping[str, int]
    bits: int = 64
    scale: float = 1.0
    sparse: bool = False


@dataclass(frozen=True)
class Growth:
    """By how much counters grew (those that did not are left out), and of which nobody can tell, and why."""

    grown: dict[str, float]
    unknown: dict[str, str]


def difference(before: int, after: int, bits: int = 64) -> int | None:
    """Return by how much one part of a counter grew; None if it was reset.

    One of 32 bits that is smaller afterwards has wrapped, if it then grew by less than half of its range.
    """
    if after >= before:
        return after - before
    if bits == 32 and before < 2**32:
        wrapped = after + 2**32 - before
        return wrapped if wrapped < 2**31 else None
    return None


def growth(before: Mapping[str, Counter], after: Mapping[str, Counter]) -> Growth:
    """Return by how much each counter grew between two readings of the same boot."""
    grown: dict[str, float] = {}
    unknown: dict[str, str] = {}
    for name in {**before, **after}:
        first, last = before.get(name), after.get(name)
        if last is None:
            unknown[name] = "vanished"
            continue
        if first is None and not last.sparse:
            unknown[name] = "appeared"
            continue
        parts = _parts_grown(first.parts if first else {}, last)
        if isinstance(parts, str):
            unknown[name] = parts
        elif parts:
            grown[name] = parts * last.scale
    return Growth(grown, unknown)


def _parts_grown(before: Mapping[str, int], last: Counter) -> int | str:
    """Return the sum of the growth of all parts, or why there is none."""
    if last.sparse:
        before = {**dict.fromkeys(last.parts, 0), **before}
    if before.keys() != last.parts.keys():
        return "was replaced"
    total = 0
    for part, value in last.parts.items():
        step = difference(before[part], value, last.bits)
        if step is None:
            return f"ran back from {before[part]} to {value}"
        total += step
    return total


def network_counters(snapshot: Snapshot, devices: Iterable[str]) -> dict[str, Counter]:
    """Return the counters of a network namespace: of these ``devices``, and of its protocols."""
    found: dict[str, Counter] = {}
    for device in devices:
        values = snapshot["devices"].get(device) or {}
        for name in DEVICE_COUNTERS:
            if values.get(name) is not None:
                found[f"device/{device}/{name}"] = Counter({f"index {values.get('index')}": int(values[name])})
    bits = 32 if _32_BIT_MACHINE.fullmatch(snapshot.get("machine") or "") else 64
    for table in ("snmp", "netstat"):
        for name, value in proc.two_line_table(snapshot.get(table)):
            # Neither a setting nor the number of connections at this moment is a counter.
            if name not in _NO_COUNTERS and not name.endswith("CurrEstab"):
                found[f"{table}/{name}"] = Counter({"": value}, bits, sparse=bool(_SPARSE.search(name)))
    for name, value in proc.named_lines(snapshot.get("snmp6")).items():
        found[f"snmp6/{name}"] = Counter({"": value}, bits, sparse=bool(_SPARSE.search(name)))
    return found


def machine_counters(snapshot: Snapshot) -> dict[str, Counter]:
    """Return the counters of a whole machine, wherever they are read: softnet, CPU time, interrupts, softirqs."""
    softnet = proc.softnet(snapshot.get("softnet_stat"))
    found = {f"softnet/{name}": Counter(by_cpu, bits=32) for name, by_cpu in softnet.items()}
    scale = 1 / int(snapshot.get("user_hz") or 100)
    for kind, ticks in (proc.cpu_ticks(snapshot.get("proc_stat")) or {}).items():
        found[f"cpu/{kind}_s"] = Counter({"": ticks}, scale=scale)
    total, softirqs = proc.interrupts(snapshot.get("proc_stat"))
    if total is not None:
        found["interrupts/total"] = Counter({"": total})
    # The sums of /proc/softirqs over all CPUs, each of which the kernel keeps in 32 bits (fs/proc/stat.c).
    found |= {f"softirqs/{kind}": Counter({"": count}, bits=32) for kind, count in softirqs.items()}
    return found


def throttling_counters(snapshot: Snapshot) -> dict[str, Counter]:
    """Return how often, and how long, a CPU limit held back the pod that took the snapshot (cgroup v2)."""
    values = proc.named_lines(snapshot.get("cgroup_cpu_stat"))
    found = {
        f"cgroup/{name}": Counter({"": values[name]}) for name in ("nr_periods", "nr_throttled") if name in values
    }
    if "throttled_usec" in values:
        found["cgroup/throttled_s"] = Counter({"": values["throttled_usec"]}, scale=1e-6)
    return found


def waiting_counters(snapshot: Snapshot) -> dict[str, Counter]:
    """Return for how long something on the machine waited for a CPU."""
    waited = proc.waited_us(snapshot.get("cpu_pressure"))
    return {} if waited is None else {"pressure/cpu_s": Counter({"": waited}, scale=1e-6)}


def driver_counters(snapshot: Snapshot) -> dict[str, Counter]:
    """Return what drivers count (``ethtool -S``); the queues of a device are added up, their number is a star."""
    parts: dict[str, dict[str, int]] = {}
    for device, values in snapshot["devices"].items():
        for name, value in (values.get("ethtool") or {}).items():
            whole = _QUEUE.sub(r"\g<what>*", name)
            parts.setdefault(f"ethtool/{device}/{whole}", {})[f"index {values.get('index')}, {name}"] = int(value)
    return {name: Counter(values) for name, values in parts.items()}


def gauges(snapshot: Snapshot) -> dict[str, float]:
    """Return what a machine had at the moment of the snapshot and what does not only grow, by name."""
    found: dict[str, float] = {}
    for name in ("count", "max"):
        value = proc.number(snapshot.get(f"conntrack_{name}"))
        if value is not None:
            found[f"conntrack/{name}"] = float(value)
    memory = proc.memory(snapshot.get("meminfo"))
    return found | {f"memory/{name}_bytes": float(memory[name]) for name in _MEMORY if name in memory}
