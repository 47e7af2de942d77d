"""Objects that belong to others: owner references, and the owner's view of its pods."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]


def owner_reference(owner: Object) -> Object:
    """Return the reference by which a controlled object names ``owner``."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def controlled(objects: list[Object], owner: Object) -> list[Object]:
    """Return those of ``objects`` whose controller is ``owner``."""
    uid = owner["metadata"]["uid"]
    return [
        obj
        for obj in objects
        if any(r["uid"] == uid and r.get("controller") for r in obj["metadata"].get("ownerReferences") or [])
    ]


def is_ready(pod: Object) -> bool:
    """Return whether a pod's Ready condition holds."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
