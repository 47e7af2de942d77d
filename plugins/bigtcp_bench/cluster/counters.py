"""How much the counters of both nodes grew: device, protocol and softirq counters, and Cilium's own."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from bigtcp_bench.cluster import probe
from bigtcp_bench.cluster.api import ClusterApi, CommandFailed
from bigtcp_bench.cluster.cilium import AGENT_CONTAINER, Cilium, find_cilium, ready_agent
from bigtcp_bench.cluster.nodes import NodePair

#: In a node's document, beside the probe's own fields: what ``cilium-dbg bpf metrics list`` counted.
CILIUM_METRICS = "cilium_bpf_metrics"
#: Between the two readings at the beginning of a block: 200 ticks of every CPU tell 50 % from 40 %, and a run of
#: three blocks gets six seconds longer.
LOAD_SAMPLE_S = 2.0
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
#: Columns of a ``cpu`` line of ``/proc/stat``, in ticks.
CPU_COLUMNS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


class Packed(Protocol):
    """A stored document: JSON, compressed."""

    @property
    def document(self) -> bytes:
        """Return zlib-compressed JSON."""


def read_nodes(
    api: ClusterApi, pair: NodePair, image: str, *, pull_secrets: Sequence[str] = (), sample_s: float = 0
) -> dict[str, dict[str, Any]]:
    """Return for each node one document with its probe and the counters of its Cilium agent.

    With ``sample_s`` also an earlier reading, from that many seconds before, which tells the node's load.
    """
    cilium = find_cilium(api)
    documents = {}
    seen_nodes = probe.probe_nodes(api, pair.names, image, pull_secrets=pull_secrets, sample_s=sample_s)
    for name, seen in seen_nodes.items():
        agent = ready_agent(api, cilium, name)
        documents[name] = {
            **seen.document,
            CILIUM_METRICS: bpf_metrics(api, cilium, agent["metadata"]["name"]),
        }
    return documents


def bpf_metrics(api: ClusterApi, cilium: Cilium, pod: str) -> list[dict[str, Any]]:
    """Return what an agent counted (``cilium-dbg bpf metrics list``); empty if it cannot say."""
    for binary in cilium.binaries:
        try:
            argv = [binary, "bpf", "metrics", "list", "-o", "json"]
            text = api.exec(cilium.namespace, pod, AGENT_CONTAINER, argv)
            return list(json.loads(text)) if text.strip() else []
        except (CommandFailed, ValueError):
            continue
    return []


def deltas(documents: Mapping[tuple[int, str], Packed], arms: Mapping[int, str]) -> list[dict[str, Any]]:
    """Return the growth of every counter of every node during every block, as rows of the warehouse.

    ``documents`` maps (block, ``node-begin:<node>`` or ``node-end:<node>``) to the stored document, ``arms``
    block → arm. A block without both documents, or whose node was restarted between them, has no rows.
    """
    rows: list[dict[str, Any]] = []
    for (block, kind), packed in sorted(documents.items(), key=lambda item: item[0]):
        moment, _, node = kind.partition(":")
        end = documents.get((block, f"node-end:{node}"))
        if moment != "node-begin" or end is None or block not in arms:
            continue
        before, after = (json.loads(zlib.decompress(item.document)) for item in (packed, end))
        if before.get("boot_id") != after.get("boot_id"):
            continue
        for counter, value in sorted(growth(before, after).items()):
            rows.append({"block": block, "arm": arms[block], "node": node, "counter": counter, "value": value})
    return rows


def growth(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float]:
    """Return by how much each counter in both documents grew; those that did not change or ran back are left out.

    A counter that is smaller afterwards was reset, by an agent or a device that was replaced.
    """
    first, last = dict(counters_of(before)), dict(counters_of(after))
    return {name: last[name] - first.get(name, 0.0) for name in last if last[name] > first.get(name, 0.0)}


def counters_of(document: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield (name, value) of every counter in a node's document, such as ``device/eth0/tx_packets``."""
    snapshot = document["snapshot"]
    for device, values in snapshot["devices"].items():
        # A pod's end of its cable comes and goes with the pod; its device's whole life is one generation.
        if device.startswith("lxc"):
            continue
        for name in DEVICE_COUNTERS:
            if values.get(name) is not None:
                yield f"device/{device}/{name}", float(values[name])
    for table in ("snmp", "netstat"):
        yield from ((f"{table}/{name}", value) for name, value in _two_line_table(snapshot.get(table) or ""))
    for line in (snapshot.get("snmp6") or "").splitlines():
        name, _, value = line.partition(" ")
        if value.strip().isdigit():
            yield f"snmp6/{name}", float(value)
    yield from _softnet(snapshot.get("softnet_stat") or "")
    yield from _cpu(snapshot.get("proc_stat") or "", int(snapshot.get("user_hz") or 100))
    yield from _cilium(document.get(CILIUM_METRICS) or [])


def _two_line_table(text: str) -> Iterator[tuple[str, float]]:
    """Read ``/proc/net/snmp`` and ``netstat``: a line of names, then a line of values, under one heading."""
    lines = text.splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        heading, _, rest = names.partition(":")
        if not values.startswith(f"{heading}:"):
            continue
        for name, value in zip(rest.split(), values.partition(":")[2].split(), strict=False):
            # Neither signs (an unlimited setting) nor the number of connections at this moment is a counter.
            if value.isdigit() and name != "CurrEstab":
                yield f"{heading}{name}", float(value)


def _softnet(text: str) -> Iterator[tuple[str, float]]:
    rows = [[int(word, 16) for word in line.split()] for line in text.splitlines() if line.strip()]
    for column, name in SOFTNET_COLUMNS.items():
        if rows:
            yield f"softnet/{name}", float(sum(row[column] for row in rows if len(row) > column))


def _cpu(text: str, user_hz: int) -> Iterator[tuple[str, float]]:
    first = text.splitlines()[:1]
    if first and first[0].startswith("cpu "):
        for name, ticks in zip(CPU_COLUMNS, first[0].split()[1:], strict=False):
            yield f"cpu/{name}_s", int(ticks) / user_hz


def _cilium(entries: list[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    """Sum Cilium's counters over source lines, which differ from one version to the next."""
    sums: dict[str, float] = {}
    for entry in entries:
        reason, direction = str(entry.get("reason", "")), str(entry.get("direction", "")).lower()
        for unit in ("packets", "bytes"):
            name = f"cilium/{reason}/{direction}/{unit}"
            sums[name] = sums.get(name, 0.0) + float(entry.get(unit) or 0)
    yield from sums.items()
