"""The garbage collector: deletes what has lost its owners or grown old, and lets owners wait for what they own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from bigtcp_lab.api.discovery import EVENTS, LEASES, Resource, stored_resources
from bigtcp_lab.api.store import Store, timestamp

Object = dict[str, Any]

#: Leases are renewed every few seconds and events written all the time; neither owns anything.
WATCHED = tuple(resource for resource in stored_resources() if resource not in (EVENTS, LEASES))
#: How long events are kept, as by a real API server, and how often old ones are looked for.
_EVENT_LIFE_S = 3600
_EVENT_INTERVAL_S = 60.0


async def reconcile(store: Store) -> float:
    """Delete orphans and old events; carry out deletions that asked for dependents to go first or to stay."""
    # Timestamps of Kubernetes are in order as text.
    oldest = timestamp(datetime.now(UTC) - timedelta(seconds=_EVENT_LIFE_S))
    for event in store.look(EVENTS):
        if (event["lastTimestamp"] or event["metadata"]["creationTimestamp"]) < oldest:
            await store.delete(EVENTS, event["metadata"]["name"], event["metadata"]["namespace"])
    found = [(resource, obj) for resource in [*WATCHED, LEASES] for obj in store.look(resource)]
    alive = {obj["metadata"]["uid"] for _, obj in found}
    for resource, obj in found:
        finalizers = obj["metadata"].get("finalizers") or []
        if "deletionTimestamp" in obj["metadata"] and {"orphan", "foregroundDeletion"} & set(finalizers):
            await _finish_owner(store, resource, obj, found)
        owners = obj["metadata"].get("ownerReferences") or []
        if owners and not any(owner["uid"] in alive for owner in owners):
            await _delete(store, resource, obj)
    return _EVENT_INTERVAL_S


async def _finish_owner(
    store: Store, resource: Resource, owner: Object, found: list[tuple[Resource, Object]]
) -> None:
    metadata = owner["metadata"]
    dependents = [
        (kind, obj)
        for kind, obj in found
        if any(r["uid"] == metadata["uid"] for r in obj["metadata"].get("ownerReferences") or [])
    ]
    if "orphan" in metadata["finalizers"]:
        for kind, obj in dependents:
            left = [r for r in obj["metadata"]["ownerReferences"] if r["uid"] != metadata["uid"]]
            await store.update(kind, {**obj, "metadata": {**obj["metadata"], "ownerReferences": left}})
    elif dependents:
        for kind, obj in dependents:
            await _delete(store, kind, obj)
        return  # comes back when they are gone
    left = [name for name in metadata["finalizers"] if name not in ("orphan", "foregroundDeletion")]
    await store.update(resource, {**owner, "metadata": {**metadata, "finalizers": left}})


async def _delete(store: Store, resource: Resource, obj: Object) -> None:
    metadata = obj["metadata"]
    if "deletionTimestamp" not in metadata:
        await store.delete(resource, metadata["name"], metadata.get("namespace"), uid=metadata["uid"])
