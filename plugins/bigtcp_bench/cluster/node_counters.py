"""How much the counters of both nodes grew during a block, and what each node had at its begin and end."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any, Protocol

from bigtcp_bench.cluster import at_once, probe
from bigtcp_bench.cluster.agents import agent_document
from bigtcp_bench.cluster.api import ClusterApi, CommandFailed
from bigtcp_bench.cluster.cilium import AGENT_CONTAINER, Cilium, find_cilium, ready_or_any_agent
from bigtcp_bench.cluster.nodes import NodePair
from bigtcp_bench.planning.plan import Plan
from bigtcp_bench.readings.counters import (
    POD_CABLE,
    Counter,
    Growth,
    driver_counters,
    gauges,
    growth,
    machine_counters,
    network_counters,
)
from bigtcp_bench.readings.cpu import cpu_load

#: In a node's document, beside the probe's own fields: what ``cilium-dbg bpf metrics list`` counted ...
CILIUM_METRICS = "cilium_bpf_metrics"
#: ... and, at the end of a block, what the agent is and was told.
AGENT = "agent"
#: Between the two readings at the beginning of a block: 200 ticks of every CPU tell 50 % from 40 %, and a run of
#: three blocks gets six seconds longer.
LOAD_SAMPLE_S = 2.0
#: Gauges are stored beside the counters, under their name with the moment at its end.
MOMENTS = ("begin", "end")


class Packed(Protocol):
    """A stored document: JSON, compressed."""

    @property
    def document(self) -> bytes:
        """Return zlib-compressed JSON."""


def read_nodes(
    api: ClusterApi,
    plan: Plan,
    pair: NodePair,
    *,
    sample_s: float = 0,
    agents: bool = False,
    prepared: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return for each node one document with its probe and the counters of its Cilium agent.

    With ``sample_s`` also an earlier reading, from that many seconds before, which tells the node's load. With
    ``agents`` also what the agent is and was told. Agents are asked while the probes start, or after a sample, for
    it is load. ``prepared`` is that of ``probe.probing``.
    """
    cilium = find_cilium(api)
    with probe.probing(api, plan, pair.names, sample_s=sample_s, prepared=prepared) as collect:
        seen_nodes = collect() if sample_s else None
        asked = at_once.begin(lambda: _told(api, cilium, pair, agents))
        seen_nodes = seen_nodes or collect()
    told = asked.result()
    return {name: {**seen.document, **told[name]} for name, seen in seen_nodes.items()}


def _told(api: ClusterApi, cilium: Cilium, pair: NodePair, agents: bool) -> dict[str, dict[str, Any]]:
    def ask(name: str) -> dict[str, Any]:
        document = at_once.begin(lambda: agent_document(api, cilium, name)) if agents else None
        pod = ready_or_any_agent(api, cilium, name)
        counted = None if pod is None else bpf_metrics(api, cilium, pod["metadata"]["name"])
        return {CILIUM_METRICS: counted, **({AGENT: document.result()} if document else {})}

    return at_once.of_each(pair.names, ask)


def bpf_metrics(api: ClusterApi, cilium: Cilium, pod: str) -> list[dict[str, Any]] | None:
    """Return what an agent counted (``cilium-dbg bpf metrics list``); None if it cannot say."""
    for binary in cilium.binaries:
        try:
            argv = [binary, "bpf", "metrics", "list", "-o", "json"]
            text = api.exec(cilium.namespace, pod, AGENT_CONTAINER, argv)
            # It prints nothing at all, instead of an empty list, when nothing was counted.
            return list(json.loads(text)) if text.strip() else []
        except (CommandFailed, ValueError):
            continue
    return None


def deltas(
    documents: Mapping[tuple[int, str], Packed], arms: Mapping[int, str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return what every node counted during every block, as rows of the warehouse, and what cannot be told.

    ``documents`` maps (block, ``node-begin:<node>`` or ``node-end:<node>``) to the stored document, ``arms``
    block → arm. A block without both documents, or whose node was restarted between them, has no rows; the second
    list has a sentence for each of these, and for counters of which nobody knows by how much they grew.
    """
    rows: list[dict[str, Any]] = []
    gaps: list[str] = []
    for (block, kind), packed in sorted(documents.items(), key=lambda item: item[0]):
        moment, _, node = kind.partition(":")
        if moment != "node-begin" or block not in arms:
            continue
        end = documents.get((block, f"node-end:{node}"))
        if end is None:
            gaps.append(f"block {block}: node {node} has no counters of the block's end")
            continue
        before, after = (json.loads(zlib.decompress(item.document)) for item in (packed, end))
        if before.get("boot_id") is None or before["boot_id"] != after.get("boot_id"):
            gaps.append(f"block {block}: node {node} was restarted, so its counters tell nothing")
            continue
        found = node_growth(before, after)
        values = found.grown | gauges_of(before, after)
        rows += [
            {"block": block, "arm": arms[block], "node": node, "counter": counter, "value": value}
            for counter, value in sorted(values.items())
        ]
        if found.unknown:
            shown = ", ".join(f"{name} {why}" for name, why in sorted(found.unknown.items())[:3])
            gaps.append(f"block {block}: node {node} has {len(found.unknown)} counters that tell nothing: {shown}")
    return rows, gaps


def node_growth(before: Mapping[str, Any], after: Mapping[str, Any]) -> Growth:
    """Return by how much the counters of a node grew between two of its documents, of the same boot.

    Cilium's are left out where an agent could not say them: what is not in its list would then not be zero.
    """
    first, last = counters_of(before), counters_of(after)
    entries = before.get(CILIUM_METRICS), after.get(CILIUM_METRICS)
    if entries[0] is not None and entries[1] is not None:
        first, last = first | _cilium(entries[0]), last | _cilium(entries[1])
    return growth(first, last)


def counters_of(document: Mapping[str, Any]) -> dict[str, Counter]:
    """Return the counters of a node's kernel and drivers by name, such as ``device/eth0/tx_packets``."""
    snapshot = document["snapshot"]
    devices = [name for name in snapshot["devices"] if not name.startswith(POD_CABLE)]
    return {
        **network_counters(snapshot, devices),
        **machine_counters(snapshot),
        **driver_counters(snapshot),
    }


def gauges_of(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float]:
    """Return what is no counter, by name: values at the block's begin and end, and the load before it."""
    found = {
        f"{name}_{moment}": value
        for moment, document in zip(MOMENTS, (before, after), strict=True)
        for name, value in gauges(document["snapshot"]).items()
    }
    load = cpu_load(before.get("earlier"), before["snapshot"]) or {}
    return found | {f"idle/{kind}_cpus_begin": value for kind, value in load.items()}


def _cilium(entries: list[dict[str, Any]]) -> dict[str, Counter]:
    """Return Cilium's counters, each summed over the lines of source that counted."""
    parts: dict[str, dict[str, int]] = {}
    for entry in entries:
        reason, direction = str(entry.get("reason", "")), str(entry.get("direction", "")).lower()
        line = f"{entry.get('file')}:{entry.get('line')}"
        for unit in ("packets", "bytes"):
            values = parts.setdefault(f"cilium/{reason}/{direction}/{unit}", {})
            values[line] = values.get(line, 0) + int(entry.get(unit) or 0)
    return {name: Counter(values, sparse=True) for name, values in parts.items()}
