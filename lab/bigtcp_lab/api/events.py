"""Writing Kubernetes events: what happened to an object, told to the people who describe it."""

from __future__ import annotations

import time
from typing import Any

from .discovery import EVENTS
from .store import Store, now


async def record_event(
    store: Store,
    involved: dict[str, Any],
    reason: str,
    message: str,
    *,
    warning: bool = False,
    component: str = "kubelet",
    host: str = "",
    field_path: str = "",
) -> None:
    """Record that ``reason`` happened to the object ``involved``; the same event again only raises its count."""
    metadata = involved["metadata"]
    namespace = metadata.get("namespace") or "default"
    reference = {
        "apiVersion": involved["apiVersion"],
        "kind": involved["kind"],
        "name": metadata["name"],
        "namespace": metadata.get("namespace", ""),
        "resourceVersion": metadata["resourceVersion"],
        "uid": metadata["uid"],
    }
    if field_path:
        reference["fieldPath"] = field_path
    for event in store.look(EVENTS):
        found = (event["involvedObject"].get("uid"), event["reason"], event["message"])
        if found == (metadata["uid"], reason, message):
            await store.update(EVENTS, {**event, "count": event.get("count", 1) + 1, "lastTimestamp": now()})
            return
    event = {
        "metadata": {"name": f"{metadata['name']}.{time.time_ns():x}", "namespace": namespace},
        "involvedObject": {key: value for key, value in reference.items() if value},
        "reason": reason,
        "message": message,
        "type": "Warning" if warning else "Normal",
        "count": 1,
        "eventTime": None,
        "firstTimestamp": now(),
        "lastTimestamp": now(),
        "source": {"component": component, **({"host": host} if host else {})},
        "reportingComponent": component,
        "reportingInstance": host,
    }
    await store.create(EVENTS, event, namespace)
