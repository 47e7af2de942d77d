"""Server-side apply: which manager applied which fields, and what an apply changes."""

from __future__ import annotations

import json
from typing import Any

from .copies import copied
from .discovery import Resource
from .patch import merge_key, strategic_merge
from .status import ApiError

#: A field set in the notation of ``managedFields``: ``f:<field>``, ``k:{"<key>":"<value>"}`` and ``.``.
FieldSet = dict[str, Any]
#: Fields nobody owns: they say which object it is.
_IDENTITY = ("apiVersion", "kind", "metadata.name", "metadata.namespace", "metadata.managedFields")


def field_set(value: dict[str, Any], path: str = "") -> FieldSet:
    """Return the fields that an applied configuration names."""
    fields: FieldSet = {}
    for key, item in value.items():
        place = f"{path}.{key}" if path else key
        if place not in _IDENTITY:
            fields[f"f:{key}"] = _fields_of(key, item, place)
    return {key: item for key, item in fields.items() if key != "f:metadata" or item}


def _fields_of(field: str, item: Any, place: str) -> FieldSet:
    if isinstance(item, dict):
        return field_set(item, place)
    key = merge_key(field, item) if isinstance(item, list) else None
    if key is None:
        return {}
    return {f"k:{json.dumps({key: entry[key]})}": {".": {}, **field_set(entry, place)} for entry in item}


def applied(
    resource: Resource, live: dict[str, Any], body: dict[str, Any], manager: str, *, force: bool, time: str
) -> dict[str, Any]:
    """Return ``live`` (``{}`` when there is none) after ``manager`` has applied ``body``.

    Fields that the manager applied earlier and that ``body`` no longer names are removed, unless another manager
    applies them too. Raises ``ApiError`` 409 when another manager applied a different value, without ``force``.
    """
    entries = (live.get("metadata") or {}).get("managedFields") or []
    mine = next((entry for entry in entries if entry["manager"] == manager), None)
    others = [entry for entry in entries if entry is not mine]
    wanted = field_set(body)
    conflicts = {
        ".".join(path): entry["manager"]
        for entry in others
        for path in _different(entry["fieldsV1"], wanted, live, body)
    }
    if conflicts and not force:
        raise _conflict(conflicts)
    result = copied(live)
    if mine is not None:
        kept: FieldSet = wanted
        for entry in others:
            kept = strategic_merge(kept, entry["fieldsV1"])
        _remove(result, mine["fieldsV1"], kept)
    result = strategic_merge(result, {key: value for key, value in body.items() if value is not None})
    if force:
        others = [{**entry, "fieldsV1": _without(entry["fieldsV1"], wanted, live, body)} for entry in others]
    result.setdefault("metadata", {})["managedFields"] = [
        *others,
        {
            "manager": manager,
            "operation": "Apply",
            "apiVersion": resource.api_version,
            # the same configuration again is no change at all
            "time": mine["time"] if mine is not None and mine["fieldsV1"] == wanted else time,
            "fieldsType": "FieldsV1",
            "fieldsV1": wanted,
        },
    ]
    return result


def _child(value: Any, step: str) -> Any:
    """Return what a step of a field set leads to, or ``None``."""
    if step.startswith("f:"):
        return value.get(step[2:]) if isinstance(value, dict) else None
    keys = json.loads(step[2:])
    items = value if isinstance(value, list) else []
    return next((item for item in items if keys.items() <= item.items()), None)


def _different(theirs: FieldSet, mine: FieldSet, live: Any, body: Any) -> list[list[str]]:
    """Return the paths of leaves in both field sets whose live value is not the one in ``body``."""
    found: list[list[str]] = []
    for step in theirs.keys() & mine.keys() - {"."}:
        old, new = _child(live, step), _child(body, step)
        if theirs[step] or mine[step]:
            found += [[step[2:], *rest] for rest in _different(theirs[step], mine[step], old, new)]
        elif old != new:
            found.append([step[2:]])
    return sorted(found)


def _without(theirs: FieldSet, mine: FieldSet, live: Any, body: Any) -> FieldSet:
    """Return ``theirs`` less the leaves that a forced apply has taken over."""
    result: FieldSet = {}
    for step, inner in theirs.items():
        if step not in mine or step == ".":
            result[step] = inner
        elif inner or mine[step]:
            result[step] = _without(inner, mine[step], _child(live, step), _child(body, step))
        elif _child(live, step) == _child(body, step):
            result[step] = inner
    return result


def _remove(value: Any, owned: FieldSet, kept: FieldSet) -> None:
    """Remove from ``value``, in place, what ``owned`` names and ``kept`` does not."""
    for step, inner in owned.items():
        if step == ".":
            continue
        if step not in kept:
            if step.startswith("f:"):
                _drop(value, step, inner)
            else:
                item = _child(value, step)
                if item is not None:
                    value.remove(item)
        elif inner:
            _remove(_child(value, step), inner, kept[step])


def _drop(value: Any, step: str, inner: FieldSet) -> None:
    """Remove one field, but of a mapping only what was owned: others may have added to it."""
    if not isinstance(value, dict) or step[2:] not in value:
        return
    child = value[step[2:]]
    if inner and isinstance(child, dict | list):
        _remove(child, inner, {})
        if child:
            return
    del value[step[2:]]


def _conflict(conflicts: dict[str, str]) -> ApiError:
    causes = [
        {"reason": "FieldManagerConflict", "message": f'conflict with "{manager}"', "field": f".{path}"}
        for path, manager in conflicts.items()
    ]
    managers = ", ".join(f'"{name}"' for name in sorted(set(conflicts.values())))
    fields = "".join(f"\n- .{path}" for path in conflicts)
    number = len(conflicts)
    message = f"Apply failed with {number} conflict{'s' if number > 1 else ''}: conflicts with {managers}:{fields}"
    return ApiError(409, "Conflict", message, {"causes": causes})
