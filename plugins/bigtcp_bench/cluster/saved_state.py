"""What the cluster was like before the first change: a ConfigMap, written once.

It holds enough to put everything back without Airflow and without the warehouse.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from bigtcp_bench import __version__
from bigtcp_bench.cluster import pods, probe
from bigtcp_bench.cluster.api import CONFIGMAP, ClusterApi, Conflict, JsonObject
from bigtcp_bench.cluster.cilium import (
    KEYS,
    Limits,
    Merged,
    config_values,
    expected_merged,
    find_cilium,
    read_merged,
    read_status,
    ready_agent,
)
from bigtcp_bench.cluster.lease import Fence, micro_time
from bigtcp_bench.cluster.nodes import NodePair
from bigtcp_bench.cluster.protocol import HOLDER, NODE_CONFIG_NAME, STATE_KEY, STATE_NAME, WINDOW
from bigtcp_bench.errors import FenceLost, PreconditionFailed, RestoreFailed, validation_sentence
from bigtcp_bench.planning.plan import Plan, Scope

#: Of the saved state; the guardian in the cluster refuses one that it does not know.
STATE_VERSION = 1

#: What helps where an agent has other settings than its configuration says.
DRIFT_ADVICE = "restart Cilium's agents first, or take out the CiliumNodeConfig that they do not follow"


class SavedNode(BaseModel):
    """One node before the first change. ``limits`` are those of the devices that Cilium selects."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: str
    agent_pod: str
    agent_uid: str
    merged: Merged
    expected: Merged
    limits: Limits


class SavedNodeConfig(BaseModel):
    """A CiliumNodeConfig of our name that was there before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: dict[str, str]
    annotations: dict[str, str]
    spec: dict[str, Any]


class SavedState(BaseModel):
    """Everything that is needed to put the cluster back, as it was before a run's first change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = STATE_VERSION
    package_version: str
    holder: str
    window: str
    saved_at: str
    plan: str
    scope: Scope
    image: str
    image_pull_secrets: tuple[str, ...] = ()
    cilium_namespace: str
    cilium_daemonset: str
    cilium_image: str
    node_config: SavedNodeConfig | None
    config_map: dict[str, str | None]
    nodes: dict[str, SavedNode]


def read_state(api: ClusterApi) -> SavedState | None:
    """Return the saved state, or None. Raises RestoreFailed if it is there but cannot be understood."""
    found = api.find(CONFIGMAP, STATE_NAME, pods.BENCH_NAMESPACE)
    if found is None:
        return None
    where = f"ConfigMap {pods.BENCH_NAMESPACE}/{STATE_NAME}"
    try:
        return SavedState.model_validate_json((found.get("data") or {}).get(STATE_KEY, ""))
    except ValidationError as error:
        raise RestoreFailed(
            f"{validation_sentence(error, where)}; the cluster must be put back by hand: delete the "
            f"CiliumNodeConfig {NODE_CONFIG_NAME}, the node label {WINDOW}, then this ConfigMap"
        ) from error


def open_state(api: ClusterApi, fence: Fence) -> SavedState:
    """Return the saved state of this fence's window. Raises FenceLost if there is none: nothing may be changed."""
    fence.check()
    state = read_state(api)
    if state is None or (state.holder, state.window) != (fence.holder, fence.window):
        raise FenceLost(
            f"{fence.holder} holds the cluster but has saved no state of it, so it may change nothing; "
            "start the run again from its first task"
        )
    return state


def describe(api: ClusterApi, fence: Fence, plan: Plan, pair: NodePair) -> SavedState:
    """Return what the cluster is like now. Raises PreconditionFailed where it could not be put back."""
    cilium = find_cilium(api)
    data = config_values(api, cilium)
    node_config = None
    if cilium.node_config is not None:
        found = api.find(cilium.node_config, NODE_CONFIG_NAME, cilium.namespace)
        if found is not None:
            node_config = SavedNodeConfig(
                labels=found["metadata"].get("labels") or {},
                annotations=found["metadata"].get("annotations") or {},
                spec=found.get("spec") or {},
            )
    probes = probe.probe_nodes(api, pair.names, plan.image, pull_secrets=plan.image_pull_secrets)
    nodes = {}
    for role, node in zip(("client", "server"), pair.nodes, strict=True):
        agent = ready_agent(api, cilium, node.name)
        name = agent["metadata"]["name"]
        seen = probes[node.name]
        merged, expected = read_merged(api, cilium, name), expected_merged(api, cilium, node.name)
        if merged != expected:
            # No restart could bring back what is in force now.
            raise PreconditionFailed(f"node {node.name}: {drift_text(merged, expected)}; {DRIFT_ADVICE}")
        nodes[node.name] = SavedNode(
            role=role,
            agent_pod=name,
            agent_uid=agent["metadata"]["uid"],
            merged=merged,
            expected=expected,
            limits=seen.limits(seen.limited_devices(read_status(api, cilium, name), node.internal_ips)),
        )
    return SavedState(
        package_version=__version__,
        holder=fence.holder,
        window=fence.window,
        saved_at=micro_time(api.now()),
        plan=plan.name,
        scope=plan.scope,
        image=plan.image,
        image_pull_secrets=plan.image_pull_secrets,
        cilium_namespace=cilium.namespace,
        cilium_daemonset=cilium.daemonset,
        cilium_image=cilium.image,
        node_config=node_config,
        config_map={key: data.get(key) for key in KEYS.values()},
        nodes=nodes,
    )


def drift_text(merged: Merged, expected: Merged) -> str:
    """Return what is wrong where an agent has other settings than a new one would have; DRIFT_ADVICE helps."""
    return f"the agent runs with BIG TCP {_words(merged)}, but its configuration now says {_words(expected)}"


def _words(merged: Merged) -> str:
    return " and ".join(f"{'on' if value else 'off'} for {family}" for family, value in merged.items())


def save(api: ClusterApi, fence: Fence, state: SavedState) -> None:
    """Write the saved state into the cluster, once, while the fence holds."""
    body = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": STATE_NAME,
            "namespace": pods.BENCH_NAMESPACE,
            "labels": {"app.kubernetes.io/name": "bigtcp-bench"},
            "annotations": {HOLDER: state.holder, WINDOW: state.window},
        },
        # Written once; only deleting it ends a window.
        "immutable": True,
        "data": {STATE_KEY: json.dumps(state.model_dump(), indent=1)},
    }
    try:
        api.create(CONFIGMAP, body, pods.BENCH_NAMESPACE, before=fence.check)
    except Conflict:
        saved = read_state(api)
        if saved is None or saved.window != state.window:
            raise PreconditionFailed(
                f"another run saved its state in {pods.BENCH_NAMESPACE}/{STATE_NAME} at the same moment"
            ) from None


def as_saved(found: JsonObject) -> SavedNodeConfig:
    """Return what of a CiliumNodeConfig is saved."""
    meta = found["metadata"]
    return SavedNodeConfig(
        labels=meta.get("labels") or {}, annotations=meta.get("annotations") or {}, spec=found.get("spec") or {}
    )
