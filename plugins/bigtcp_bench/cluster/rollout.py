"""Whether a cluster's Cilium has come to rest: what it is now, and what is still going on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bigtcp_bench.cluster.api import CONFIGMAP, DAEMONSET, NODE, POD, ClusterApi, JsonObject
from bigtcp_bench.cluster.cilium import (
    AGENT_LABELS,
    CONFIGMAP_NAME,
    Cilium,
    agent_pod,
    find_cilium,
    is_of_template,
    is_ready,
)
from bigtcp_bench.cluster.environment import merged_config, overriding
from bigtcp_bench.cluster.fingerprint import BIG_TCP_KEYS, DATAPATH_KEYS, Fingerprint
from bigtcp_bench.cluster.lease import read_lease
from bigtcp_bench.cluster.nodes import node_info
from bigtcp_bench.in_cluster.protocol import is_observed, rollout_state

#: Agents that cannot follow because their node is not Ready are left out of account up to this many. Each is
#: looked up by itself, and a cluster with more dead nodes is not at rest in any case.
MAX_EXCUSED = 100


@dataclass(frozen=True)
class Observation:
    """What Cilium is at this moment; ``unsettled`` says what has to end before it can be measured, if anything."""

    fingerprint: Fingerprint
    unsettled: str = ""


def observe(api: ClusterApi, nodes: Sequence[str] = ()) -> Observation:
    """Return what Cilium is now on ``nodes``, which are measured, and whether it has come to rest.

    It has when no benchmark holds the cluster (one that does restarts agents itself), every agent runs the present
    template and is available, and every agent was started after the configuration of the datapath was last
    written: Helm changes ``cilium-config`` without restarting anything, unless told otherwise. The same goes for
    the agents of ``nodes`` and the CiliumNodeConfigs that select them. Agents of nodes that are not Ready are not
    waited for, unless the benchmark measures there.
    """
    cilium = find_cilium(api)
    config_map = api.get(CONFIGMAP, CONFIGMAP_NAME, cilium.namespace)
    applied = overriding(api, cilium, nodes)
    fingerprint = Fingerprint(cilium.image, merged_config(config_map.get("data") or {}, applied))
    lease = read_lease(api)
    if lease is not None and lease.live(api.now()):
        return Observation(fingerprint, f"{lease.owner} holds the cluster")
    unsettled = _unsettled(api, cilium, nodes, config_written_at(config_map)) or _unread(api, cilium, applied)
    return Observation(fingerprint, unsettled)


def _unsettled(api: ClusterApi, cilium: Cilium, nodes: Sequence[str], config_written: str) -> str:
    """Return what is still going on, or nothing; lists the agents only once the DaemonSet's counts allow it."""
    daemonset = api.get(DAEMONSET, cilium.daemonset, cilium.namespace)
    state = rollout_state(daemonset)
    status = daemonset.get("status") or {}
    desired = status.get("desiredNumberScheduled", 0)
    followed = min(status.get("updatedNumberScheduled", 0), status.get("numberAvailable", 0))
    if state and not (is_observed(daemonset) and 0 < desired <= followed + MAX_EXCUSED):
        return state
    agents = api.select(POD, cilium.namespace, labels=AGENT_LABELS, metadata_only=True)
    if state:
        behind = [agent for agent in agents if not is_of_template(agent, daemonset)]
        if len(agents) < desired or _awaited(api, cilium, nodes, behind):
            return state
        whole = api.select(POD, cilium.namespace, labels=AGENT_LABELS)
        if _awaited(api, cilium, nodes, [agent for agent in whole if not is_ready(agent)]):
            return state
    older = [agent for agent in agents if agent["metadata"]["creationTimestamp"] < config_written]
    if _awaited(api, cilium, nodes, older):
        return f"{len(older)} of {len(agents)} agents were started before {CONFIGMAP_NAME} was changed"
    return ""


def _unread(api: ClusterApi, cilium: Cilium, applied: Mapping[str, Sequence[JsonObject]]) -> str:
    """Return which CiliumNodeConfig the agent of a node has not read yet, or nothing; ``applied``: by node."""
    for node, configs in applied.items():
        agent = agent_pod(api, cilium, node) if configs else None
        for item in configs:
            if agent is not None and agent["metadata"]["creationTimestamp"] < config_written_at(item):
                what = f"CiliumNodeConfig {item['metadata']['name']}"
                return f"the agent on {node} was started before {what} was changed"
    return ""


def _awaited(api: ClusterApi, cilium: Cilium, nodes: Sequence[str], agents: Sequence[JsonObject]) -> bool:
    """Return whether one of ``agents`` is to be waited for: its node is Ready, measured, or labelled for that."""
    if len(agents) > MAX_EXCUSED:
        return True
    for agent in agents:
        # A list of one: the right to get the pods of that namespace is wanted for nothing else.
        there = api.select(POD, cilium.namespace, fields=f"metadata.name={agent['metadata']['name']}")
        node = there[0]["spec"].get("nodeName") if there else None
        if node is None or node in nodes:
            return True
        found = api.find(NODE, node)
        if found is not None and (node_info(found).ready or node_info(found).labelled):
            return True
    return False


def config_written_at(found: JsonObject) -> str:
    """Return when a key of the datapath was last written (RFC 3339 in UTC), or nothing if the API does not say.

    ``found`` is ``cilium-config`` or a CiliumNodeConfig. The API server keeps a time for each party that has
    written an object, with the fields that it owns. The keys that the benchmark writes itself do not count.
    """
    fields = {f"f:{key}" for key in DATAPATH_KEYS if key not in BIG_TCP_KEYS}
    times = []
    for entry in found["metadata"].get("managedFields") or []:
        owned = entry.get("fieldsV1") or {}
        if fields & (owned.get("f:data") or (owned.get("f:spec") or {}).get("f:defaults") or {}).keys():
            times.append(entry.get("time") or "")
    return max(times, default="")
