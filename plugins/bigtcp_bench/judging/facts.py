"""From a run's stored documents to the facts that its gates judge: limits, environment, CPU time of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bigtcp_bench.analysis.verdicts import End, NodePressure, RunFacts
from bigtcp_bench.cluster.fingerprint import DATAPATH_KEYS
from bigtcp_bench.planning.plan import Way
from bigtcp_bench.readings.agent_log import unpacked
from bigtcp_bench.readings.cpu import busy_share, cpu_ticks

if TYPE_CHECKING:
    import pandas as pd

    from bigtcp_bench.warehouse.records import RawDocument

#: End → in which direction the data of a captured stream passes its device; the rest are acknowledgements.
DATA_DIRECTIONS = {"sender": "sent", "receiver": "received"}


def facts_of(documents: Sequence[RawDocument], switch_reports: Mapping[Any, Mapping[str, Any] | None]) -> RunFacts:
    """Return the facts in ``documents`` (of one run) and in the reports of the switches, by block."""
    limits: dict[tuple[int, int, str], dict[str, int]] = {}
    nodes: dict[tuple[int, str], dict[str, Any]] = {}
    throttled: dict[tuple[int, int, str], float] = {}
    for stored in documents:
        if stored.kind == "hello":
            hello = unpacked(stored.document)
            for pod in ("client", "server"):
                limits[stored.block, stored.generation, pod] = _limits(hello[pod]["snapshot"])
        elif stored.kind == "repetition":
            repetition = unpacked(stored.document)
            for pod in ("client", "server"):
                share = _throttled_share(repetition.get(pod))
                if share is not None:
                    key = (stored.block, stored.generation, pod)
                    throttled[key] = max(share, throttled.get(key, 0.0))
        elif stored.kind.startswith("node-"):
            nodes[stored.block, stored.kind.removeprefix("node-")] = unpacked(stored.document)
    environments: dict[int, dict[str, str | None]] = {}
    pressure = []
    for (block, moment_and_node), begin in nodes.items():
        moment, _, node = moment_and_node.partition(":")
        if moment != "begin":
            continue
        environment = environments.setdefault(block, {})
        environment[f"kernel of {node}"] = begin.get("kernel_release")
        environment[f"boot of {node}"] = begin.get("boot_id")
        pressure.append(
            NodePressure(block, node, _steal_share(begin, nodes.get((block, f"end:{node}"))), _busy_before(begin))
        )
    for block, report in switch_reports.items():
        for node, proof in ((report or {}).get("nodes") or {}).items():
            environment = environments.setdefault(block, {})
            environment[f"Cilium on {node}"] = proof.get("cilium")
            config = proof.get("config")
            if config is not None:
                environment.update(
                    {f"Cilium's {key} on {node}": config.get(key, "not set") for key in DATAPATH_KEYS}
                )
            devices = nodes.get((block, f"begin:{node}"), {}).get("snapshot", {}).get("devices", {})
            for name in proof.get("limits") or {}:
                environment[f"{name} of {node}"] = _device_words(devices.get(name))
    return RunFacts(environments=environments, device_limits=limits, pressure=pressure, throttled=throttled)


def captures_of(sizes: pd.DataFrame) -> dict[tuple[int, Way, End], float]:
    """Return the mean bytes of the packets that carried the data of each captured stream, by block, way and end.

    ``sizes`` is as ``Warehouse.packet_sizes_frame`` returns it.
    """
    data = sizes[sizes["end"].map(DATA_DIRECTIONS) == sizes["direction"]]
    sums: Any = data.groupby(["block", "family", "end"])[["packets", "bytes"]].sum()
    return {
        (int(block), Way(family), end): size / packets
        for (block, family, end), packets, size in sums.itertuples()
        if packets
    }


def _limits(snapshot: Mapping[str, Any]) -> dict[str, int]:
    device = snapshot["devices"].get(snapshot.get("device") or "") or {}
    return {name: value for name, value in device.items() if name.endswith("_max_size") and value is not None}


def _device_words(device: Mapping[str, Any] | None) -> str | None:
    """Return what figures depend on in a network device, in words; None if nothing is known of it."""
    seen = device or {}
    words = [seen.get("driver"), seen.get("firmware"), f"MTU {seen['mtu']}" if seen.get("mtu") else None]
    words.append(f"{seen['speed_mbps']} Mbit/s" if seen.get("speed_mbps") else None)
    return ", ".join(word for word in words if word) or None


def _throttled_share(end: Mapping[str, Any] | None) -> float | None:
    """Return the share of the scheduler's periods of a repetition in which a limit held the pod back.

    None without a limit: then there are no periods (cpu.stat in Documentation/admin-guide/cgroup-v2.rst).
    """
    before, after = (_cpu_stat((end or {}).get(moment)) for moment in ("before", "after"))
    periods = after.get("nr_periods", 0) - before.get("nr_periods", 0)
    return (after["nr_throttled"] - before.get("nr_throttled", 0)) / periods if periods > 0 else None


def _cpu_stat(snapshot: Mapping[str, Any] | None) -> dict[str, int]:
    lines = ((snapshot or {}).get("cgroup_cpu_stat") or "").splitlines()
    return {name: int(value) for name, _, value in (line.partition(" ") for line in lines) if value.isdigit()}


def _steal_share(begin: Mapping[str, Any], end: Mapping[str, Any] | None) -> float | None:
    if end is None or end.get("boot_id") != begin.get("boot_id"):
        return None
    first, last = (cpu_ticks(one["snapshot"].get("proc_stat")) or {} for one in (begin, end))
    grown = {kind: last[kind] - first[kind] for kind in first if kind in last}
    total = sum(grown.values())
    return grown["steal"] / total if total > 0 else None


def _busy_before(begin: Mapping[str, Any]) -> float | None:
    """Return the share of CPU time that was used between the two readings at the beginning of a block."""
    earlier = begin.get("earlier") or {}
    return busy_share(earlier.get("proc_stat"), begin["snapshot"].get("proc_stat"))
