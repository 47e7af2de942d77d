"""The node controller: taints nodes that are not ready and says that their pods are not ready either."""

from __future__ import annotations

from typing import Any

from bigtcp_lab.api.conditions import condition, is_ready, set_condition
from bigtcp_lab.api.discovery import NODES, PODS
from bigtcp_lab.api.store import Store, now

Object = dict[str, Any]

WATCHED = (NODES,)
#: The taint of a node whose Ready condition has this status.
_TAINTS = {"False": "node.kubernetes.io/not-ready", "Unknown": "node.kubernetes.io/unreachable"}


async def reconcile(store: Store) -> None:
    """Make each node's taints tell whether it is ready, and mark the pods of nodes that are not."""
    for node in await store.list(NODES):
        wanted = _TAINTS.get(condition(node, "Ready"))
        taints = (node.get("spec") or {}).get("taints") or []
        kept = [taint for taint in taints if taint["key"] not in _TAINTS.values() or taint["key"] == wanted]
        present = {(taint["key"], taint["effect"]) for taint in kept}
        for effect in ("NoSchedule", "NoExecute"):
            if wanted and (wanted, effect) not in present:
                kept.append({"key": wanted, "effect": effect, "timeAdded": now()})
        if kept != taints:
            spec = {key: value for key, value in (node.get("spec") or {}).items() if key != "taints"}
            await store.update(NODES, {**node, "spec": {**spec, "taints": kept} if kept else spec})
        if wanted:
            await _mark_pods(store, node["metadata"]["name"])


async def _mark_pods(store: Store, node: str) -> None:
    for pod in await store.list(PODS, field_selector=f"spec.nodeName={node},status.phase=Running"):
        if is_ready(pod):
            set_condition(pod, "Ready", "False", reason="NodeNotReady")
            await store.update(PODS, pod, "status")
