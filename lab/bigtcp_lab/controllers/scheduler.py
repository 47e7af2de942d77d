"""The scheduler: gives every pod that has none a node, or says why there is none for it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from bigtcp_lab.api.conditions import set_condition
from bigtcp_lab.api.copies import copied
from bigtcp_lab.api.discovery import NODES, PODS
from bigtcp_lab.api.events import record_event
from bigtcp_lab.api.pods import bind
from bigtcp_lab.api.store import Store

from .placement import misfit, preference

Object = dict[str, Any]

WATCHED = (PODS, NODES)


async def reconcile(store: Store) -> None:
    """Assign each waiting pod to the fitting node it likes best, among equals to the one with the fewest pods."""
    pods = store.look(PODS)
    waiting = [copied(pod) for pod in pods if _waits(pod)]
    if not waiting:
        return
    nodes = store.look(NODES)
    running: dict[str, list[Object]] = {node["metadata"]["name"]: [] for node in nodes}
    for pod in pods:
        if pod["spec"].get("nodeName") in running and pod["status"].get("phase") not in ("Succeeded", "Failed"):
            running[pod["spec"]["nodeName"]].append(pod)
    for pod in waiting:
        spec, metadata = pod["spec"], pod["metadata"]
        reasons = {name: misfit(pod, node, running[name]) for node in nodes if (name := node["metadata"]["name"])}
        fitting = [name for name, reason in reasons.items() if reason is None]
        if not fitting:
            await _refuse(store, pod, Counter(reason for reason in reasons.values() if reason))
            continue
        liked = {node["metadata"]["name"]: preference(spec, node) for node in nodes}
        chosen = min(fitting, key=lambda name: (-liked[name], len(running[name]), name))
        running[chosen].append(pod)
        bound = await bind(store, pod, chosen)
        message = f"Successfully assigned {metadata['namespace']}/{metadata['name']} to {chosen}"
        await record_event(store, bound, "Scheduled", message, component="default-scheduler")


def _waits(pod: Object) -> bool:
    if pod["spec"].get("nodeName") or "deletionTimestamp" in pod["metadata"]:
        return False
    return bool(pod["spec"]["schedulerName"] == "default-scheduler")


async def _refuse(store: Store, pod: Object, reasons: Counter[str]) -> None:
    number = sum(reasons.values())
    told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "no nodes"
    message = (
        f"0/{number} nodes are available: {told}. no new claims to deallocate, preemption: 0/{number} nodes are "
        f"available: {number} Preemption is not helpful for scheduling."
    )
    if set_condition(pod, "PodScheduled", "False", reason="Unschedulable", message=message):
        told_pod = await store.update(PODS, pod, "status")
        await record_event(
            store, told_pod, "FailedScheduling", message, warning=True, component="default-scheduler"
        )
