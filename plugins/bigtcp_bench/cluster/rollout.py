"""Whether a cluster's Cilium has come to rest: what it is now, and what is still going on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bigtcp_bench.cluster.api import CONFIGMAP, DAEMONSET, POD, ClusterApi, JsonObject
from bigtcp_bench.cluster.cilium import (
    AGENT_LABELS,
    CONFIGMAP_NAME,
    agent_pod,
    find_cilium,
    rollout_state,
)
from bigtcp_bench.cluster.environment import merged_config, overriding
from bigtcp_bench.cluster.guard import read_lease
from bigtcp_bench.upgrade import BIG_TCP_KEYS, DATAPATH_KEYS, Fingerprint


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
    the agents of ``nodes`` and the CiliumNodeConfigs that select them.
    """
    cilium = find_cilium(api)
    config_map = api.get(CONFIGMAP, CONFIGMAP_NAME, cilium.namespace)
    applied = overriding(api, cilium, nodes)
    fingerprint = Fingerprint(cilium.image, merged_config(config_map.get("data") or {}, applied))
    lease = read_lease(api)
    if lease is not None and lease.live(api.now()):
        return Observation(fingerprint, f"{lease.owner} holds the cluster")
    state = rollout_state(api.get(DAEMONSET, cilium.daemonset, cilium.namespace))
    if state:
        return Observation(fingerprint, state)
    written = config_written_at(config_map)
    agents = api.select(POD, cilium.namespace, labels=AGENT_LABELS)
    older = sum(agent["metadata"]["creationTimestamp"] < written for agent in agents)
    if older:
        return Observation(
            fingerprint, f"{older} of {len(agents)} agents were started before {CONFIGMAP_NAME} was changed"
        )
    for node, configs in applied.items():
        agent = agent_pod(api, cilium, node)
        for item in configs:
            if agent is not None and agent["metadata"]["creationTimestamp"] < config_written_at(item):
                what = f"CiliumNodeConfig {item['metadata']['name']}"
                return Observation(fingerprint, f"the agent on {node} was started before {what} was changed")
    return Observation(fingerprint)


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
