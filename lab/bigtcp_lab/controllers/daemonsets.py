"""The DaemonSet controller: one pod per fitting node, replaced when it ends or its template changes."""

from __future__ import annotations

import functools
import hashlib
import json
import marshal
import math
from collections import defaultdict
from typing import Any

from bigtcp_lab.api.conditions import is_ready
from bigtcp_lab.api.discovery import DAEMONSETS, NODES, PODS
from bigtcp_lab.api.events import record_event
from bigtcp_lab.api.store import TEMPLATE_GENERATION, Store

from .owners import controlled, pod_of
from .placement import misfit

Object = dict[str, Any]

WATCHED = (DAEMONSETS, PODS, NODES)
_COMPONENT = "daemonset-controller"
#: Taints that daemon pods put up with, added to those of the template.
_TOLERATED = (
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
)


async def reconcile(store: Store) -> None:
    """Bring the pods and the status of every DaemonSet up to date."""
    nodes = sorted(store.look(NODES), key=lambda node: str(node["metadata"]["name"]))
    for daemonset in store.look(DAEMONSETS):
        if "deletionTimestamp" not in daemonset["metadata"]:
            await _reconcile_one(store, daemonset, nodes)


async def _reconcile_one(store: Store, daemonset: Object, nodes: list[Object]) -> None:
    namespace = daemonset["metadata"]["namespace"]
    by_node: dict[str, list[Object]] = defaultdict(list)
    for pod in controlled(store.look(PODS), daemonset):
        by_node[target_node(pod)].append(pod)
    wanted = [node["metadata"]["name"] for node in nodes if misfit(_pod(daemonset, node), node, []) is None]
    for node in nodes:
        name = node["metadata"]["name"]
        for pod in by_node[name]:
            if "deletionTimestamp" in pod["metadata"]:
                continue
            ended = pod["status"].get("phase") in ("Failed", "Succeeded")
            if ended or name not in wanted:
                await _delete(store, daemonset, pod)
        if name in wanted and not by_node[name]:
            created = await store.create(PODS, _pod(daemonset, node), namespace)
            message = f"Created pod: {created['metadata']['name']}"
            await record_event(store, daemonset, "SuccessfulCreate", message, component=_COMPONENT)
            by_node[name].append(created)
    if daemonset["spec"]["updateStrategy"]["type"] == "RollingUpdate":
        await _roll(store, daemonset, {name: by_node[name] for name in wanted})
    await _write_status(store, daemonset, by_node, wanted)


async def _roll(store: Store, daemonset: Object, by_node: dict[str, list[Object]]) -> None:
    """Delete pods of an older template, never leaving more nodes without a ready pod than is allowed."""
    allowed = _max_unavailable(daemonset, len(by_node))
    serving = {name: pod for name, pods in by_node.items() for pod in pods if _serves(pod)}
    old = {name: pod for name, pods in by_node.items() for pod in pods if _is_old(pod, daemonset)}
    for name, pod in old.items():
        if name not in serving:  # it serves nobody: nothing is lost
            await _delete(store, daemonset, pod)
    missing = len(by_node) - len(serving)
    for name in sorted(old.keys() & serving.keys())[: max(0, allowed - missing)]:
        await _delete(store, daemonset, old[name])


async def _write_status(
    store: Store, daemonset: Object, by_node: dict[str, list[Object]], wanted: list[str]
) -> None:
    present = {name: [p for p in by_node[name] if "deletionTimestamp" not in p["metadata"]] for name in wanted}
    ready = sum(any(is_ready(pod) for pod in pods) for pods in present.values())
    updated = sum(any(pod_hash(pod) == template_hash(daemonset) for pod in pods) for pods in present.values())
    status = {
        "currentNumberScheduled": sum(bool(pods) for pods in present.values()),
        "desiredNumberScheduled": len(wanted),
        "numberAvailable": ready,
        "numberMisscheduled": sum(bool(pods) for name, pods in by_node.items() if name not in wanted),
        "numberReady": ready,
        "observedGeneration": daemonset["metadata"]["generation"],
        "updatedNumberScheduled": updated,
    }
    if ready < len(wanted):
        status["numberUnavailable"] = len(wanted) - ready
    # without a version: only this controller writes the status, and a client's change must not undo it
    metadata = {key: daemonset["metadata"][key] for key in ("name", "namespace", "uid")}
    await store.update(DAEMONSETS, {"metadata": metadata, "status": status}, "status")


async def _delete(store: Store, daemonset: Object, pod: Object) -> None:
    metadata = pod["metadata"]
    if "deletionTimestamp" in metadata:
        return
    await store.delete(PODS, metadata["name"], metadata["namespace"], uid=metadata["uid"])
    message = f"Deleted pod: {metadata['name']}"
    await record_event(store, daemonset, "SuccessfulDelete", message, component=_COMPONENT)


def _serves(pod: Object) -> bool:
    return is_ready(pod) and "deletionTimestamp" not in pod["metadata"]


def _is_old(pod: Object, daemonset: Object) -> bool:
    return "deletionTimestamp" not in pod["metadata"] and pod_hash(pod) != template_hash(daemonset)


def template_hash(daemonset: Object) -> str:
    """Return what tells one version of a DaemonSet's pod template from another."""
    return _hash(marshal.dumps(daemonset["spec"]["template"], 2))


@functools.lru_cache(maxsize=64)
def _hash(template: bytes) -> str:
    text = json.dumps(marshal.loads(template), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def pod_hash(pod: Object) -> str:
    """Return the template version that a daemon pod was made from."""
    return (pod["metadata"].get("labels") or {}).get("controller-revision-hash", "")


def target_node(pod: Object) -> str:
    """Return the node that a daemon pod is on, or meant for while it is not yet scheduled."""
    if name := pod["spec"].get("nodeName"):
        return name
    affinity = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return affinity["nodeSelectorTerms"][0]["matchFields"][0]["values"][0]


def _pod(daemonset: Object, node: Object) -> Object:
    pod = pod_of(daemonset)
    labels = pod["metadata"]["labels"]
    labels["controller-revision-hash"] = template_hash(daemonset)
    labels["pod-template-generation"] = daemonset["metadata"]["annotations"][TEMPLATE_GENERATION]
    spec = pod["spec"]
    spec["tolerations"] = [*(spec.get("tolerations") or []), *_tolerations(spec)]
    only_here = {"key": "metadata.name", "operator": "In", "values": [node["metadata"]["name"]]}
    terms = {"nodeSelectorTerms": [{"matchFields": [only_here]}]}
    if matches := _own_affinity(spec):
        terms["nodeSelectorTerms"] = [{**term, "matchFields": [only_here]} for term in matches]
    spec.setdefault("affinity", {})["nodeAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": terms}
    return pod


def _own_affinity(spec: Object) -> list[Object]:
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    return required.get("nodeSelectorTerms") or []


def _tolerations(spec: Object) -> list[Object]:
    tolerated = [*_TOLERATED]
    if spec.get("hostNetwork"):
        tolerated.append(("node.kubernetes.io/network-unavailable", "NoSchedule"))
    return [{"key": key, "operator": "Exists", "effect": effect} for key, effect in tolerated]


def _max_unavailable(daemonset: Object, desired: int) -> int:
    value = (daemonset["spec"]["updateStrategy"].get("rollingUpdate") or {}).get("maxUnavailable", 1)
    if isinstance(value, str) and value.endswith("%"):
        return max(1, math.ceil(int(value.removesuffix("%")) * desired / 100))
    return int(value)
