"""The patch formats of the API: JSON patch, merge patch, strategic merge patch."""

from __future__ import annotations

from typing import Any

import jsonpatch

from .copies import copied
from .status import ApiError, bad_request, unprocessable_patch

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

#: By which key the items of a list are the same item, for the lists that Kubernetes merges instead of replacing
#: (``patchMergeKey`` in its API types; ports have two, a Service's come first). Lists not named here are atomic.
MERGE_KEYS: dict[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "secrets": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "ports": ("containerPort", "port"),
    "hostAliases": ("ip",),
    "hostIPs": ("ip",),
    "podIPs": ("ip",),
    "conditions": ("type",),
    "addresses": ("type",),
    "ownerReferences": ("uid",),
    "topologySpreadConstraints": ("topologyKey",),
}
#: Lists of plain values that are merged as sets.
MERGED_SETS = frozenset({"finalizers"})


def json_patch(obj: dict[str, Any], operations: Any) -> dict[str, Any]:
    """Return ``obj`` after RFC 6902 ``operations``; 422 when one does not apply, a failed ``test`` included."""
    try:
        return jsonpatch.apply_patch(obj, operations)
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException):
        raise unprocessable_patch() from None
    except (TypeError, AttributeError, KeyError):
        raise bad_request("error decoding patch: expected a list of JSON patch operations") from None


def merge_patch(target: Any, patch: Any) -> Any:
    """Return ``target`` after an RFC 7386 merge ``patch``: ``null`` deletes, lists are replaced."""
    if not isinstance(patch, dict):
        return copied(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def strategic_merge(target: Any, patch: Any) -> Any:
    """Return ``target`` after a strategic merge ``patch``: like a merge patch, but known lists merge by key.

    Understands ``$patch: replace|delete``, ``$deleteFromPrimitiveList/<field>``, ``$retainKeys`` and
    ``$setElementOrder/<field>``.
    """
    if not isinstance(patch, dict):
        return copied(patch)
    if patch.get("$patch") == "replace":
        return {key: copied(value) for key, value in patch.items() if key != "$patch"}
    if patch.get("$patch") == "delete":
        return {}
    result = dict(target) if isinstance(target, dict) else {}
    if "$retainKeys" in patch:
        result = {key: value for key, value in result.items() if key in patch["$retainKeys"]}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            field = key.partition("/")[2]
            result[field] = [item for item in result.get(field) or [] if item not in value]
        elif key.startswith("$"):
            continue
        elif value is None:
            result.pop(key, None)
        elif isinstance(value, list):
            result[key] = _merge_lists(key, result.get(key), value)
        else:
            result[key] = strategic_merge(result.get(key), value)
    for key, order in patch.items():
        if key.startswith("$setElementOrder/"):
            field = key.partition("/")[2]
            if field in result:
                result[field] = _reorder(field, result[field], order)
    return result


def merge_key(field: str, items: list[Any]) -> str | None:
    """Return the key that tells ``items`` of the list ``field`` apart, or ``None`` for an atomic list."""
    for key in MERGE_KEYS.get(field, ()):
        if items and all(isinstance(item, dict) and key in item for item in items):
            return key
    return None


def _merge_lists(field: str, old: Any, new: list[Any]) -> list[Any]:
    old = old if isinstance(old, list) else []
    if field in MERGED_SETS:
        return [*old, *(item for item in new if item not in old)]
    directives = [item for item in new if isinstance(item, dict) and list(item) == ["$patch"]]
    if directives:  # [{"$patch": "replace"}, …] replaces the list
        return [copied(item) for item in new if item not in directives]
    key = merge_key(field, new)
    if key is None:
        return copied(new)
    result = list(old)
    for item in new:
        place = next((i for i, known in enumerate(result) if known.get(key) == item[key]), None)
        if item.get("$patch") == "delete":
            if place is not None:
                del result[place]
        elif place is None:
            result.append(strategic_merge({}, item))
        else:
            result[place] = strategic_merge(result[place], item)
    return result


def _reorder(field: str, items: list[Any], order: list[Any]) -> list[Any]:
    key = merge_key(field, order)
    wanted = [item[key] if key else item for item in order]

    def rank(item: Any) -> int:
        value = item.get(key) if key else item
        return wanted.index(value) if value in wanted else len(wanted)

    return sorted(items, key=rank)


def apply_patch(obj: dict[str, Any], content_type: str, patch: Any, *, custom: bool) -> dict[str, Any]:
    """Return ``obj`` after ``patch`` of that ``content_type``; ``custom`` resources know no strategic one."""
    match content_type:
        case "application/json-patch+json":
            return json_patch(obj, patch)
        case "application/merge-patch+json":
            return merge_patch(obj, patch)
        case "application/strategic-merge-patch+json" if not custom:
            return strategic_merge(obj, patch)
    accepted = ", ".join([JSON_PATCH, MERGE_PATCH, *([] if custom else [STRATEGIC_MERGE_PATCH]), APPLY_PATCH])
    message = f"the body of the request was in an unknown format - accepted media types include: {accepted}"
    raise ApiError(415, "UnsupportedMediaType", message, {})
