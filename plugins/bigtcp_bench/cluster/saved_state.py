"""What the cluster was like before: the saved state, written once, before the first change.

It is a ConfigMap, enough to put everything back without Airflow and without the warehouse. What is in it, and how
it is read, is in ``in_cluster/protocol.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

from bigtcp_bench import __version__
from bigtcp_bench.cluster import agent_settings, probe
from bigtcp_bench.cluster.api import CONFIGMAP, DAEMONSET, NODE, ClusterApi, Conflict, JsonObject
from bigtcp_bench.cluster.cilium import (
    Cilium,
    Merged,
    config_values,
    find_cilium,
    read_status,
    ready_agent,
)
from bigtcp_bench.cluster.lease import Fence
from bigtcp_bench.cluster.nodes import NodePair
from bigtcp_bench.errors import FenceLost, PreconditionFailed, RestoreFailed
from bigtcp_bench.in_cluster import protocol
from bigtcp_bench.in_cluster.protocol import (
    NAMESPACE,
    NODE_CONFIG_NAME,
    STATE_NAME,
    WINDOW,
    SavedNode,
    SavedState,
    merged_settings,
    words,
)
from bigtcp_bench.in_cluster.treatment import KEYS
from bigtcp_bench.planning.plan import Plan

#: What helps where an agent has other settings than its configuration says.
DRIFT_ADVICE = "restart Cilium's agents first, or take out the CiliumNodeConfig that they do not follow"


def read_state(api: ClusterApi) -> SavedState | None:
    """Return the saved state, or None. Raises RestoreFailed if it is there but cannot be understood."""
    found = api.find(CONFIGMAP, STATE_NAME, NAMESPACE)
    return _read(found) if found is not None else None


def _read(found: JsonObject) -> SavedState:
    try:
        return protocol.read_saved(found)
    except protocol.Unreadable as error:
        raise RestoreFailed(
            f"ConfigMap {NAMESPACE}/{STATE_NAME}: {error}; the cluster must be put back by hand: delete the "
            f"CiliumNodeConfig {NODE_CONFIG_NAME}, the node label {WINDOW}, then this ConfigMap"
        ) from error


def open_state(api: ClusterApi, fence: Fence) -> SavedState:
    """Return the saved state of this fence's window. Raises FenceLost if there is none: nothing may be changed."""
    fence.check()
    found = api.find(CONFIGMAP, STATE_NAME, NAMESPACE)
    if found is not None and found["metadata"].get("deletionTimestamp"):
        raise FenceLost(
            f"the saved state {NAMESPACE}/{STATE_NAME} is being deleted, or its namespace is, so {fence.holder} "
            "may change nothing any more; its teardown, or bigtcp-bench restore, puts the cluster back"
        )
    state = _read(found) if found is not None else None
    if state is None or (state.holder, state.window) != (fence.holder, fence.window):
        raise FenceLost(
            f"{fence.holder} holds the cluster but has saved no state of it, so it may change nothing; "
            "start the run again from its first task"
        )
    return state


def describe(api: ClusterApi, fence: Fence, plan: Plan, pair: NodePair) -> SavedState:
    """Return the state of the cluster now. Raises PreconditionFailed where no restart could bring it back."""
    cilium = find_cilium(api)
    data = config_values(api, cilium)
    daemonset = api.get(DAEMONSET, cilium.daemonset, cilium.namespace)
    configs = api.select(cilium.node_config, cilium.namespace) if cilium.node_config else []
    found = next((one for one in configs if one["metadata"]["name"] == NODE_CONFIG_NAME), None)
    probes = probe.probe_nodes(api, plan, pair.names)
    nodes = {}
    for role, node in zip(("client", "server"), pair.nodes, strict=True):
        machine = api.get(NODE, node.name)
        agent = ready_agent(api, cilium, node.name)
        name = agent["metadata"]["name"]
        seen = probes[node.name]
        told, merged = agent_settings.read_told(api, cilium, name)
        expected = merged_settings(KEYS, data, configs, machine["metadata"].get("labels") or {})
        if merged != expected:
            # No restart could bring back what is in force now.
            raise PreconditionFailed(f"node {node.name}: {drift_text(merged, expected)}; {DRIFT_ADVICE}")
        pending = agent_settings.pending(api, cilium, daemonset, node.name, told)
        if pending:
            # The first switch would put it in force.
            text = agent_settings.pending_text(pending)
            raise PreconditionFailed(f"node {node.name}: {text}; {agent_settings.PENDING_ADVICE}")
        nodes[node.name] = SavedNode(
            role=role,
            machine=protocol.machine_of(machine),
            boot=protocol.boot_of(machine),
            agent_pod=name,
            agent_uid=agent["metadata"]["uid"],
            merged={str(family): value for family, value in merged.items()},
            limits=seen.limits(seen.limited_devices(read_status(api, cilium, name), node.internal_ips)),
        )
    if plan.scope == "cluster":
        elsewhere = agent_settings.pending_elsewhere(api, cilium, daemonset, pair.names)
        if elsewhere:
            text = agent_settings.elsewhere_text(elsewhere)
            raise PreconditionFailed(f"{text}; {agent_settings.PENDING_ADVICE}")
    return state_of(
        plan,
        cilium,
        nodes,
        holder=fence.holder,
        window=fence.window,
        saved_at_s=api.now(),
        data=data,
        node_config=found,
    )


def state_of(
    plan: Plan,
    cilium: Cilium,
    nodes: dict[str, SavedNode],
    *,
    holder: str,
    window: str,
    saved_at_s: float,
    data: Mapping[str, str],
    node_config: JsonObject | None,
) -> SavedState:
    """Return what a run saves; ``data`` is that of ``cilium-config``, ``node_config`` has our name."""
    return SavedState(
        package_version=__version__,
        holder=holder,
        window=window,
        saved_at=protocol.micro_time(saved_at_s),
        plan=plan.name,
        scope=plan.scope,
        image=plan.image,
        image_pull_secrets=plan.image_pull_secrets,
        cilium_namespace=cilium.namespace,
        cilium_daemonset=cilium.daemonset,
        cilium_image=cilium.image,
        node_config=protocol.as_saved(node_config) if node_config is not None else None,
        config_map={key: data.get(key) for key in KEYS.values()},
        nodes=nodes,
    )


def drift_text(merged: Merged, expected: Merged) -> str:
    """Return what is wrong where an agent has other settings than a new one would have; DRIFT_ADVICE helps."""
    return f"the agent runs with BIG TCP {words(merged)}, but its configuration now says {words(expected)}"


def save(api: ClusterApi, fence: Fence, state: SavedState) -> None:
    """Write ``state`` down. Raises PreconditionFailed if another run has written its own."""
    try:
        api.create(CONFIGMAP, protocol.state_object(state), NAMESPACE, before=fence.check)
    except Conflict:
        saved = read_state(api)
        if saved is None or saved.window != state.window:
            raise PreconditionFailed(
                f"another run saved its state in {NAMESPACE}/{STATE_NAME} at the same moment"
            ) from None
