"""The conditions in an object's status: what holds, since when and why."""

from __future__ import annotations

from typing import Any

from .store import now


def condition(obj: dict[str, Any], kind: str) -> str:
    """Return ``True``, ``False`` or ``Unknown`` for a condition of ``obj``; an empty string when it has none."""
    conditions = (obj.get("status") or {}).get("conditions") or []
    return next((entry["status"] for entry in conditions if entry["type"] == kind), "")


def is_ready(obj: dict[str, Any]) -> bool:
    """Return whether a pod or node is ready."""
    return condition(obj, "Ready") == "True"


def set_condition(obj: dict[str, Any], kind: str, value: str, *, reason: str = "", message: str = "") -> bool:
    """Set a condition in ``obj``'s status in place; returns whether that changed anything."""
    conditions: list[dict[str, Any]] = obj["status"].setdefault("conditions", [])
    old = next((c for c in conditions if c["type"] == kind), None)
    new = {"lastProbeTime": None, "lastTransitionTime": now(), "status": value, "type": kind}
    new["observedGeneration"] = obj["metadata"].get("generation", 1)
    new.update({key: text for key, text in (("reason", reason), ("message", message)) if text})
    if old is None:
        conditions.append(new)
        return True
    if old["status"] == value:
        new["lastTransitionTime"] = old["lastTransitionTime"]
    changed = new != old
    conditions[conditions.index(old)] = new
    return changed
