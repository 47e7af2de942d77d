"""What both pods counted in one repetition: a choice of what explains why a figure moved.

It is all that gates and diagnosis know of a repetition beside its results, so that neither reads documents again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bigtcp_bench.readings.agent_log import Document, Repetition, Snapshot
from bigtcp_bench.readings.counters import (
    BUSY,
    DEVICE_COUNTERS,
    USED_CPUS,
    WATCHED,
    WINDOW_LIMITED,
    Counter,
    growth,
    machine_counters,
    network_counters,
    throttling_counters,
    waiting_counters,
)
from bigtcp_bench.readings.measurements import End

_SOCKET_TIMES = {BUSY: re.compile(r"\bbusy:(\d+)ms"), WINDOW_LIMITED: re.compile(r"\brwnd_limited:(\d+)ms")}
_USED: dict[End, str] = {"sender": "host_total", "receiver": "remote_total"}

#: Beside those of the pod's own device. The first three sources are files in /proc/net, of which each pod has its
#: own; ``softnet``, ``cpu`` and ``pressure`` are the whole node's, ``cgroup`` the pod's.
CHOSEN = (
    "snmp/IpInReceives",
    "snmp/IpOutRequests",
    "snmp/IpInDiscards",
    "snmp/IpOutDiscards",
    "snmp/TcpInSegs",
    "snmp/TcpOutSegs",
    "snmp/TcpRetransSegs",
    "snmp/TcpInErrs",
    "snmp/TcpOutRsts",
    "netstat/IpExtInOctets",
    "netstat/IpExtOutOctets",
    "netstat/TcpExtTCPTimeouts",
    "netstat/TcpExtTCPLostRetransmit",
    "netstat/TcpExtTCPBacklogDrop",
    "netstat/TcpExtTCPRcvQDrop",
    "netstat/TcpExtTCPToZeroWindowAdv",
    "netstat/TcpExtListenOverflows",
    "netstat/TcpExtListenDrops",
    "snmp6/Ip6InReceives",
    "snmp6/Ip6OutRequests",
    "snmp6/Ip6InOctets",
    "snmp6/Ip6OutOctets",
    "snmp6/Ip6InTooBigErrors",
    "snmp6/Ip6InDiscards",
    "snmp6/Ip6OutDiscards",
    "snmp6/Icmp6InPktTooBigs",
    "softnet/dropped",
    "softnet/time_squeeze",
    "cpu/steal_s",
    "cgroup/nr_periods",
    "cgroup/nr_throttled",
    "cgroup/throttled_s",
    "pressure/cpu_s",
)


@dataclass(frozen=True)
class PodCounter:
    """By how much one counter of one end grew during a repetition."""

    end: End
    counter: str
    value: float


def pod_counters(repetition: Repetition) -> Iterator[PodCounter]:
    """Yield the chosen counters that grew at either end; none of an end that has no snapshot before and after."""
    document = repetition.document
    ends: tuple[tuple[End, Snapshot | None, Snapshot | None], ...] = (
        ("sender", document.client.before, document.client.after),
        ("receiver", document.server.before, document.server.after),
    )
    for end, before, after in ends:
        if before is None or after is None:
            continue
        device = before.device
        chosen = {*CHOSEN, *(f"device/{device}/{name}" for name in DEVICE_COUNTERS)}
        found = growth(_counters(before, device), _counters(after, device)).grown
        yield from (PodCounter(end, name, found[name]) for name in sorted(chosen & found.keys()))
        if (watched_s := after.monotonic_s - before.monotonic_s) > 0:
            yield PodCounter(end, WATCHED, watched_s)
        yield from _of_traffic(document, end)


def _of_traffic(document: Document, end: End) -> Iterator[PodCounter]:
    """Yield what the programs that carried the traffic say of themselves, where they say it."""
    used: Any = document.traffic
    for name in ("iperf3", "end", "cpu_utilization_percent", _USED[end]):
        used = used.get(name) if isinstance(used, dict) else None
    if isinstance(used, int | float) and used > 0:
        yield PodCounter(end, USED_CPUS, used / 100)
    if end == "sender":
        sockets = document.traffic.get("sockets")
        for name, pattern in _SOCKET_TIMES.items():
            if times_ms := pattern.findall(sockets if isinstance(sockets, str) else ""):
                yield PodCounter(end, name, sum(map(int, times_ms)) / 1000)


def _counters(snapshot: Snapshot, device: str | None) -> dict[str, Counter]:
    seen = snapshot.model_dump()
    return {
        **network_counters(seen, [device] if device else []),
        **machine_counters(seen),
        **throttling_counters(seen),
        **waiting_counters(seen),
    }
