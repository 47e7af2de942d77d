"""What the counters of both pods say of one repetition: a choice of those that explain why a figure moved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bigtcp_bench.readings.agent_log import Repetition, Snapshot
from bigtcp_bench.readings.counters import (
    DEVICE_COUNTERS,
    Counter,
    growth,
    machine_counters,
    network_counters,
    throttling_counters,
)
from bigtcp_bench.readings.measurements import End

#: Beside those of the pod's own device. The first three sources are files in /proc/net, of which each pod has its
#: own; ``softnet`` and ``cpu`` are the whole node's, ``cgroup`` the pod's.
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


def _counters(snapshot: Snapshot, device: str | None) -> dict[str, Counter]:
    seen = snapshot.model_dump()
    return {
        **network_counters(seen, [device] if device else []),
        **machine_counters(seen),
        **throttling_counters(seen),
    }
