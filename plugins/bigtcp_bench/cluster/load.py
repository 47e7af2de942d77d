"""Waits for, or refuses, nodes that are busy with other work, as the plan's ``load_gate`` says."""

from __future__ import annotations

from collections.abc import Mapping

from bigtcp_bench.cluster.api import ClusterApi
from bigtcp_bench.cluster.cilium import Progress
from bigtcp_bench.cluster.node_counters import LOAD_SAMPLE_S
from bigtcp_bench.cluster.nodes import NodePair
from bigtcp_bench.cluster.probe import NodeProbe, probe_nodes
from bigtcp_bench.errors import PreconditionFailed
from bigtcp_bench.planning.plan import Plan

#: Between two looks: probes are load themselves, and what nodes do rarely ends within seconds.
PAUSE_S = 20.0


def await_quiet(
    api: ClusterApi,
    plan: Plan,
    pair: NodePair,
    probes: Mapping[str, NodeProbe] | None = None,
    *,
    progress: Progress = lambda text: None,
) -> None:
    """Return when both nodes are quiet enough, at once where the plan only warns; none of our pods may be running.

    ``probes`` are a first reading, if there is one. Raises PreconditionFailed, naming node and share, if a node is
    busy and the plan refuses that, or still is after ``wait_s``.
    """
    gate = plan.load_gate
    if gate.mode == "warn":
        return
    for waited in api.poll(gate.wait_s if gate.mode == "wait" else 0, PAUSE_S):
        if probes is None:
            probes = probe_nodes(
                api, pair.names, plan.image, pull_secrets=plan.image_pull_secrets, sample_s=LOAD_SAMPLE_S
            )
        busy = _busy(probes, gate.busy_share)
        if not busy:
            return
        if not waited and gate.mode == "wait":
            progress(f"{busy}; waiting up to {gate.wait_s} s for less")
        probes = None
    patience = f" and stayed so for {gate.wait_s} s" if gate.mode == "wait" else ""
    raise PreconditionFailed(
        f"{busy}{patience}; choose a quieter hour, keep others off with a taint, or set load_gate in the plan"
    )


def _busy(probes: Mapping[str, NodeProbe], limit: float) -> str:
    """Return which nodes use more than ``limit`` of their CPU time, in words; empty if none does."""
    shares = {name: seen.busy_share or 0.0 for name, seen in probes.items()}
    over = [f"node {name} is {share:.0%} busy" for name, share in shares.items() if share > limit]
    return f"{' and '.join(over)} with other work, where at most {limit:.0%} is allowed" if over else ""
