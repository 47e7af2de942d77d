"""Waits for nodes that are busy: with other work before a switch, with their own agents' start after it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from bigtcp_bench.cluster import probe
from bigtcp_bench.cluster.api import Before, ClusterApi
from bigtcp_bench.cluster.cilium import Progress
from bigtcp_bench.cluster.node_counters import LOAD_SAMPLE_S, read_nodes
from bigtcp_bench.cluster.nodes import NodePair
from bigtcp_bench.errors import BenchError, PreconditionFailed
from bigtcp_bench.planning.plan import Plan
from bigtcp_bench.readings.cpu import busy_share, cpu_load

#: Between two looks: probes are load themselves, and what nodes do rarely ends within seconds.
PAUSE_S = 20.0
#: The same after agents were restarted, whose start takes seconds to a minute.
REST_PAUSE_S = 5.0
#: A node is at rest if it uses hardly more than before: two seconds of a quiet machine differ by a tenth of a CPU,
#: and an agent that starts takes one or two.
REST_CPUS, REST_SHARE = 0.3, 0.25
#: In a node's document of the beginning of a block: why what it used then is not what it uses at rest.
RESTLESS = "restless"


def await_quiet(
    api: ClusterApi,
    plan: Plan,
    pair: NodePair,
    documents: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    progress: Progress = lambda text: None,
) -> dict[str, float]:
    """Wait until both nodes are quiet enough, and return how many of its CPUs each then uses.

    At once where the plan only warns, with what ``documents`` say: a first reading of both nodes with their load,
    if there is one. None of our pods may be running. Raises PreconditionFailed, naming node and share, if a node
    is busy and the plan refuses that, or still is after ``wait_s``.
    """
    gate = plan.load_gate
    if gate.mode == "warn":
        return busy_cpus(documents or {})
    for waited in api.poll(gate.wait_s if gate.mode == "wait" else 0, PAUSE_S):
        if documents is None:
            probes = probe.probe_nodes(api, plan, pair.names, sample_s=LOAD_SAMPLE_S)
            documents = {name: seen.document for name, seen in probes.items()}
        busy = _busy(documents, gate.busy_share)
        if not busy:
            return busy_cpus(documents)
        if not waited and gate.mode == "wait":
            progress(f"{busy}; waiting up to {gate.wait_s} s for less")
        documents = None
    patience = f" and stayed so for {gate.wait_s} s" if gate.mode == "wait" else ""
    raise PreconditionFailed(
        f"{busy}{patience}; choose a quieter hour, keep others off with a taint, or set load_gate in the plan"
    )


def busy_cpus(documents: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return how many of its CPUs each node used over the sample in its document, where that can be told."""
    loads = {name: cpu_load(one.get("earlier"), one.get("snapshot")) for name, one in documents.items()}
    return {name: load["busy"] for name, load in loads.items() if load is not None}


def prepare_rest(
    api: ClusterApi, plan: Plan, pair: NodePair, labels: Mapping[str, str], *, before: Before | None = None
) -> None:
    """Begin the first look of ``read_at_rest`` while the last pods end: those start more slowly than these end.

    What still ended when they sampled is load, and then there is another look. What cannot be created now is made
    later.
    """
    with contextlib.suppress(BenchError):
        probe.prepare(api, plan, pair.names, labels, sample_s=LOAD_SAMPLE_S, before=before)


def read_at_rest(
    api: ClusterApi,
    plan: Plan,
    pair: NodePair,
    usual: Mapping[str, float],
    *,
    prepared: Mapping[str, str] | None = None,
    progress: Progress = lambda text: None,
) -> dict[str, dict[str, Any]]:
    """Return the documents of both nodes with their load, once that is what it was before agents were restarted.

    ``usual`` is how many CPUs each node used before. One that still uses more after ``load_gate.rest_s`` has the
    reason in its document, under RESTLESS. ``prepared`` are the labels given to ``prepare_rest``, if that was
    called.
    """
    rest_s = plan.load_gate.rest_s
    documents: dict[str, dict[str, Any]] = {}
    restless: dict[str, str] = {}
    for waited in api.poll(rest_s, REST_PAUSE_S):
        documents = read_nodes(api, plan, pair, sample_s=LOAD_SAMPLE_S, prepared=prepared)
        restless = {
            name: f"node {name} used {busy:.2f} CPUs, and {usual[name]:.2f} before its agent was restarted"
            for name, busy in busy_cpus(documents).items()
            if name in usual and busy > usual[name] + max(REST_CPUS, REST_SHARE * usual[name])
        }
        if not restless:
            return documents
        if not waited and rest_s:
            progress(f"{'; '.join(restless.values())}; waiting up to {rest_s} s for less")
    for name, reason in restless.items():
        documents[name][RESTLESS] = f"it had not come to rest within {rest_s} s: {reason}"
        progress(f"there is no CPU cost of node {name} in this block: {documents[name][RESTLESS]}")
    return documents


def _busy(documents: Mapping[str, Mapping[str, Any]], limit: float) -> str:
    """Return which nodes use more than ``limit`` of their CPU time, in words; empty if none does."""
    shares = {name: _share(one) for name, one in documents.items()}
    over = [f"node {name} is {share:.0%} busy" for name, share in shares.items() if share > limit]
    return f"{' and '.join(over)} with other work, where at most {limit:.0%} is allowed" if over else ""


def _share(document: Mapping[str, Any]) -> float:
    """Return the share of its CPU time that a node used over the sample in its document; 0 where it has none."""
    stats = [(document.get(moment) or {}).get("proc_stat") for moment in ("earlier", "snapshot")]
    return busy_share(*stats) or 0.0
