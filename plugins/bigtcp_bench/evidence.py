"""From a run's stored documents to the facts that its gates judge: limits, environment, CPU pressure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bigtcp_bench.analysis.verdicts import NodePressure, RunFacts
from bigtcp_bench.pods.results import unpacked
from bigtcp_bench.proc_stat import busy_share, cpu_ticks

if TYPE_CHECKING:
    from bigtcp_bench.warehouse.records import RawDocument


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
            environments.setdefault(block, {})[f"Cilium on {node}"] = proof.get("cilium")
    return RunFacts(environments=environments, device_limits=limits, pressure=pressure)


def _limits(snapshot: Mapping[str, Any]) -> dict[str, int]:
    device = snapshot["devices"].get(snapshot.get("device") or "") or {}
    return {name: value for name, value in device.items() if name.endswith("_max_size") and value is not None}


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
