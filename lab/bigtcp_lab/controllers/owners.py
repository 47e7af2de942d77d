"""Objects that belong to others: owner references, and the pods that owners make from their templates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..api.copies import copied

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


def controlled(objects: Iterable[Object], owner: Object) -> list[Object]:
    """Return those of ``objects`` whose controller is ``owner``."""
    uid = owner["metadata"]["uid"]
    return [
        obj
        for obj in objects
        if any(r["uid"] == uid and r.get("controller") for r in obj["metadata"].get("ownerReferences") or [])
    ]


def pod_of(owner: Object) -> Object:
    """Return a pod, not yet stored, from the template of a Job or DaemonSet."""
    template = copied(owner["spec"]["template"])
    metadata = template.get("metadata") or {}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{owner['metadata']['name']}-",
            "namespace": owner["metadata"]["namespace"],
            "labels": metadata.get("labels") or {},
            "annotations": metadata.get("annotations") or {},
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": template["spec"],
    }
