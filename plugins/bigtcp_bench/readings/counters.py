"""What a snapshot of the agent counts, by name, and by how much each counter grew from one snapshot to the next.

A growth is a fact or it is absent, with the reason: a counter that ran back was reset, one that appeared or
vanished has no first or last value, and a device that was replaced counts from its own beginning. Only counters
that the kernel keeps in 32 bits wrap within anybody's run; that is undone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bigtcp_bench.readings.cpu import CPU_KINDS

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
#: Columns of a line of ``/proc/net/softnet_stat``, hexadecimal, one line per CPU (net/core/net-procfs.c).
SOFTNET_COLUMNS = {0: "processed", 1: "dropped", 2: "time_squeeze"}
#: The column that has the line's CPU, since Linux 5.10. Lines of CPUs that are offline are left out.
_SOFTNET_CPU = 12
#: Kinds on the ``softirq`` line of ``/proc/stat``, after its total: softirq_to_name in kernel/softirq.c.
SOFTIRQ_KINDS = ("HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU")
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
#: The number of a queue in a driver's names, as mlx5, ice, virtio and bnxt write it: ``rx3_packets``,
#: ``rx_queue_3_bytes``, ``[3]: rx_ucast_packets``. A class of traffic (``rx_prio3_bytes``) is no queue.
_QUEUE = re.compile(r"(?<=^rx)\d+|(?<=^tx)\d+|(?<=^ch)\d+|(?<=queue_)\d+|(?<=^\[)\d+")
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
        for name, value in _two_line_table(snapshot.get(table) or ""):
            found[f"{table}/{name}"] = Counter({"": value}, bits, sparse=bool(_SPARSE.search(name)))
    for line in (snapshot.get("snmp6") or "").splitlines():
        name, _, text = line.partition(" ")
        if text.strip().isdigit():
            found[f"snmp6/{name}"] = Counter({"": int(text)}, bits, sparse=bool(_SPARSE.search(name)))
    return found


def machine_counters(snapshot: Snapshot) -> dict[str, Counter]:
    """Return the counters of a whole machine, wherever they are read: softnet, CPU time, interrupts, softirqs."""
    found = {**_softnet(snapshot.get("softnet_stat") or "")}
    lines = {
        words[0]: words[1:] for line in (snapshot.get("proc_stat") or "").splitlines() if (words := line.split())
    }
    scale = 1 / int(snapshot.get("user_hz") or 100)
    for kind, ticks in zip(CPU_KINDS, _numbers(lines.get("cpu")), strict=False):
        found[f"cpu/{kind}_s"] = Counter({"": ticks}, scale=scale)
    for total in _numbers(lines.get("intr"))[:1]:
        found["interrupts/total"] = Counter({"": total})
    # The sums of /proc/softirqs over all CPUs, each of which the kernel keeps in 32 bits (fs/proc/stat.c).
    for kind, count in zip(SOFTIRQ_KINDS, _numbers(lines.get("softirq"))[1:], strict=False):
        found[f"softirqs/{kind}"] = Counter({"": count}, bits=32)
    return found


def throttling_counters(snapshot: Snapshot) -> dict[str, Counter]:
    """Return how often, and how long, a CPU limit held back the pod that took the snapshot (cgroup v2)."""
    lines = (snapshot.get("cgroup_cpu_stat") or "").splitlines()
    values = {name: int(text) for name, _, text in (line.partition(" ") for line in lines) if text.isdigit()}
    found = {
        f"cgroup/{name}": Counter({"": values[name]}) for name in ("nr_periods", "nr_throttled") if name in values
    }
    if "throttled_usec" in values:
        found["cgroup/throttled_s"] = Counter({"": values["throttled_usec"]}, scale=1e-6)
    return found


def driver_counters(snapshot: Snapshot) -> dict[str, Counter]:
    """Return what drivers count (``ethtool -S``); the queues of a device are added up, their number is a star."""
    parts: dict[str, dict[str, int]] = {}
    for device, values in snapshot["devices"].items():
        for name, value in (values.get("ethtool") or {}).items():
            whole = f"ethtool/{device}/{_QUEUE.sub('*', name)}"
            parts.setdefault(whole, {})[f"index {values.get('index')}, {name}"] = int(value)
    return {name: Counter(values) for name, values in parts.items()}


def gauges(snapshot: Snapshot) -> dict[str, float]:
    """Return what a machine had at the moment of the snapshot and what does not only grow, by name."""
    found: dict[str, float] = {}
    for name in ("count", "max"):
        text = (snapshot.get(f"conntrack_{name}") or "").strip()
        if text.isdigit():
            found[f"conntrack/{name}"] = float(text)
    lines = (line.split() for line in (snapshot.get("meminfo") or "").splitlines())
    memory = {words[0].rstrip(":"): words[1] for words in lines if len(words) > 1}
    for name in _MEMORY:
        if memory.get(name, "").isdigit():
            found[f"memory/{name}_bytes"] = float(memory[name]) * 1024
    return found


def _two_line_table(text: str) -> Iterator[tuple[str, int]]:
    """Read ``/proc/net/snmp`` and ``netstat``: a line of names, then a line of values, under one heading."""
    lines = text.splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        heading, _, rest = names.partition(":")
        if not values.startswith(f"{heading}:"):
            continue
        for name, value in zip(rest.split(), values.partition(":")[2].split(), strict=False):
            whole = f"{heading}{name}"
            # Neither signs (an unlimited setting) nor the number of connections at this moment is a counter.
            if value.isdigit() and whole not in _NO_COUNTERS and not name.endswith("CurrEstab"):
                yield whole, int(value)


def _softnet(text: str) -> dict[str, Counter]:
    rows = [line.split() for line in text.splitlines() if line.strip()]
    if not rows or not all(re.fullmatch(r"[0-9a-f]+", word) for row in rows for word in row):
        return {}
    numbers = [[int(word, 16) for word in row] for row in rows]
    parts: dict[str, dict[str, int]] = {name: {} for name in SOFTNET_COLUMNS.values()}
    for position, row in enumerate(numbers):
        cpu = f"CPU {row[_SOFTNET_CPU]}" if len(row) > _SOFTNET_CPU else f"line {position} of {len(rows)}"
        for column, name in SOFTNET_COLUMNS.items():
            if column < len(row):
                parts[name][cpu] = row[column]
    return {f"softnet/{name}": Counter(values, bits=32) for name, values in parts.items() if values}


def _numbers(words: list[str] | None) -> list[int]:
    return [int(word) for word in words] if words and all(word.isdigit() for word in words) else []
