"""From a run's stored documents to the facts that its gates judge: limits, environment, CPU time of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bigtcp_bench.analysis.verdicts import End, Moment, NodePressure, RunFacts
from bigtcp_bench.cluster.fingerprint import DATAPATH_KEYS
from bigtcp_bench.planning.plan import Way
from bigtcp_bench.readings.cpu import busy_share
from bigtcp_bench.readings.frames import unpacked
from bigtcp_bench.readings.proc import cpu_ticks

if TYPE_CHECKING:
    import pandas as pd

    from bigtcp_bench.warehouse.records import RawDocument

#: End → the pod there.
PODS = {"sender": "client", "receiver": "server"}
#: End → in which direction the data of a captured stream passes its device; the rest are acknowledgements.
DATA_DIRECTIONS = {"sender": "sent", "receiver": "received"}


def facts_of(documents: Sequence[RawDocument], switch_reports: Mapping[Any, Mapping[str, Any] | None]) -> RunFacts:
    """Return the facts in ``documents`` (of one run) and in the reports of the switches, by block."""
    limits: dict[tuple[int, int, str], dict[str, int]] = {}
    nodes: dict[tuple[int, str], dict[str, Any]] = {}
    for stored in documents:
        if stored.kind == "hello":
            hello = unpacked(stored.document)
            for pod in ("client", "server"):
                limits[stored.block, stored.generation, pod] = _limits(hello[pod]["snapshot"])
        elif stored.kind.startswith("node-"):
            nodes[stored.block, stored.kind.removeprefix("node-")] = unpacked(stored.document)
    pressure = [
        NodePressure(block, node, _steal_share(begin, nodes.get((block, f"end:{node}"))), _busy_before(begin))
        for (block, kind), begin in nodes.items()
        for moment, _, node in [kind.partition(":")]
        if moment == "begin"
    ]
    environments, settings, unread = _circumstances(nodes, switch_reports)
    return RunFacts(
        environments=environments,
        settings=settings,
        unread=unread,
        device_limits=limits,
        pressure=pressure,
    )


Values = dict[str, str | None]


def _circumstances(
    nodes: Mapping[tuple[int, str], Mapping[str, Any]], switch_reports: Mapping[Any, Mapping[str, Any] | None]
) -> tuple[dict[Moment, Values], dict[Moment, Values], list[str]]:
    """Return what must last the whole run, and what each block, at every moment; and what could not be read.

    The switch has read the agents at a block's beginning, the nodes' documents at its end.
    """
    environments: dict[Moment, Values] = {}
    settings: dict[Moment, Values] = {}
    unread = []
    for (block, kind), document in sorted(nodes.items()):
        word, _, node = kind.partition(":")
        moment: Moment = (block, "begin" if word == "begin" else "end")
        environment, setting = environments.setdefault(moment, {}), settings.setdefault(moment, {})
        environment[f"kernel of {node}"] = document.get("kernel_release")
        environment[f"boot of {node}"] = document.get("boot_id")
        proof = ((switch_reports.get(block) or {}).get("nodes") or {}).get(node) or {}
        devices = document["snapshot"].get("devices") or {}
        for name in proof.get("limits") or {}:
            gone = bool(devices) and name not in devices
            environment[f"{name} of {node}"] = "gone" if gone else _device_words(devices.get(name))
            for limit, value in sorted(_limits_of(devices.get(name)).items()):
                setting[f"{limit} of {name} on {node}"] = f"{value:,} B"
        agent = document.get("agent")
        if agent is not None and "error" in agent:
            unread.append(
                f"block {block}: what Cilium was on {node} at the end of the block could not be read: "
                f"{agent['error']}"
            )
        elif agent is not None:
            _add_agent(node, agent, environment, setting)
    for block, report in switch_reports.items():
        for node, proof in ((report or {}).get("nodes") or {}).items():
            begin: Moment = (block, "begin")
            _add_agent(node, proof, environments.setdefault(begin, {}), settings.setdefault(begin, {}))
    return environments, settings, unread


def _add_agent(node: str, agent: Mapping[str, Any], environment: Values, setting: Values) -> None:
    """Add what an agent is and was told: what lasts the whole run, and what begins anew in each block."""
    environment[f"Cilium on {node}"] = agent.get("cilium")
    environment[f"Cilium's image on {node}"] = agent.get("image")
    config = agent.get("config")
    if config is not None:
        environment.update({f"Cilium's {key} on {node}": config.get(key, "not set") for key in DATAPATH_KEYS})
    environment[f"Cilium's other settings on {node} (their digest)"] = agent.get("others")
    if "agent_uid" not in agent or "template" not in agent:
        return  # told by an older package
    setting[f"the Cilium agent on {node}"] = f"{agent['agent_pod']} ({agent['agent_uid']})"
    setting[f"restarts of the Cilium agent on {node}"] = str(agent["restarts"])
    setting["generation of Cilium's DaemonSet"] = str(agent["template"])
    for family, on in (agent.get("merged") or {}).items():
        setting[f"BIG TCP for {family} as the agent on {node} was told it"] = "on" if on else "off"


def captures_of(sizes: pd.DataFrame) -> dict[tuple[int, Way, End], tuple[float, ...]]:
    """Return the mean bytes of the packets that carried the data of each captured stream, by block, way and end.

    There is one for each node that sent. ``sizes`` is as ``Warehouse.packet_sizes_frame`` returns it.
    """
    columns = ("block", "family", "path", "end", "node", "direction", "packets", "bytes")
    sums: dict[tuple[Any, ...], tuple[int, int]] = {}
    for *stream, direction, packets, size in zip(*(sizes[name].tolist() for name in columns), strict=True):
        if DATA_DIRECTIONS.get(stream[3]) == direction:
            known = sums.get(tuple(stream), (0, 0))
            sums[tuple(stream)] = known[0] + packets, known[1] + size
    found: dict[tuple[int, Way, End], tuple[float, ...]] = {}
    for (block, family, path, end, _), (packets, size) in sorted(sums.items()):
        if packets:
            key = (block, Way(family, path), end)
            found[key] = (*found.get(key, ()), size / packets)
    return found


def throttled_of(counters: pd.DataFrame) -> dict[tuple[int, int, str], float]:
    """Return in which share of the scheduler's periods a CPU limit held a pod back, in its worst repetition.

    By block, generation and pod; ``counters`` is as ``Warehouse.pod_counters_frame`` returns it. Without a limit
    there are no periods (cpu.stat in Documentation/admin-guide/cgroup-v2.rst).
    """
    keys = ["block", "generation", "scenario", "repetition", "end"]
    of_limits = counters[counters["counter"].isin(["cgroup/nr_periods", "cgroup/nr_throttled"])]
    found: dict[tuple[int, int, str], float] = {}
    wide = of_limits.pivot_table(index=keys, columns="counter", values="value").fillna(0.0)
    shares: Any = wide.to_dict("index")
    for (block, generation, _, _, end), values in shares.items():
        if periods := values.get("cgroup/nr_periods", 0.0):
            place = (int(block), int(generation), PODS[end])
            share = values.get("cgroup/nr_throttled", 0.0) / periods
            found[place] = max(share, found.get(place, 0.0))
    return found


def _limits(snapshot: Mapping[str, Any]) -> dict[str, int]:
    return _limits_of(snapshot["devices"].get(snapshot.get("device") or ""))


def _limits_of(device: Mapping[str, Any] | None) -> dict[str, int]:
    seen = device or {}
    return {name: value for name, value in seen.items() if name.endswith("_max_size") and value is not None}


def _device_words(device: Mapping[str, Any] | None) -> str | None:
    """Return what figures depend on in a network device, in words; None if nothing is known of it."""
    seen = device or {}
    words = [seen.get("driver"), seen.get("firmware"), f"MTU {seen['mtu']}" if seen.get("mtu") else None]
    words.append(f"{seen['speed_mbps']} Mbit/s" if seen.get("speed_mbps") else None)
    return ", ".join(word for word in words if word) or None


def _steal_share(begin: Mapping[str, Any], end: Mapping[str, Any] | None) -> float | None:
    if end is None or end.get("boot_id") != begin.get("boot_id"):
        return None
    first, last = (cpu_ticks(one["snapshot"].get("proc_stat")) or {} for one in (begin, end))
    grown = {kind: last[kind] - first[kind] for kind in first if kind in last}
    if any(ticks < 0 for kind, ticks in grown.items() if kind not in ("idle", "iowait")):
        return None  # it was reset
    total = sum(grown.values())
    return grown["steal"] / total if total > 0 else None


def _busy_before(begin: Mapping[str, Any]) -> float | None:
    """Return the share of CPU time that was used between the two readings at the beginning of a block."""
    earlier = begin.get("earlier") or {}
    return busy_share(earlier.get("proc_stat"), begin["snapshot"].get("proc_stat"))
