"""The OpenAPI documents: just enough for kubectl to see that the server validates and takes dry runs."""

from __future__ import annotations

import json
from typing import Any

from .discovery import RESOURCES, Resource

V2_PROTOBUF_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
_PARAMETERS = [
    {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
    for name in ("dryRun", "fieldManager", "fieldValidation", "force")
]
_KIND_EXTENSION = "x-kubernetes-group-version-kind"
_VERSION = {"title": "Kubernetes", "version": "v1.36.2"}


def v2() -> dict[str, Any]:
    """Return the answer to ``GET /openapi/v2`` in JSON."""
    paths = {_path(resource): _operations(resource) for resource in RESOURCES}
    return {"swagger": "2.0", "info": _VERSION, "paths": paths, "definitions": {}}


def v2_protobuf() -> bytes:
    """Return the answer to ``GET /openapi/v2`` as kubectl before 1.27 asks for it: which kinds take dry runs.

    The numbers are the fields' in gnostic's OpenAPIv2.proto.
    """
    dry_run = _field(8, _field(1, _field(2, _field(3, _field(2, b"query") + _field(4, b"dryRun")))))
    paths = b""
    for resource in RESOURCES:
        kind = json.dumps(_kind(resource)).encode()
        extension = _field(13, _field(1, _KIND_EXTENSION.encode()) + _field(2, _field(2, kind)))
        paths += _field(2, _field(1, _path(resource).encode()) + _field(2, _field(8, dry_run + extension)))
    return _field(1, b"2.0") + _field(8, paths)


def _field(number: int, content: bytes) -> bytes:
    """Return a protobuf field of text, bytes or a message."""
    length, size = b"", len(content)
    while size >= 0x80:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def v3_paths() -> dict[str, Any]:
    """Return the answer to ``GET /openapi/v3``: where each group's document is."""
    groups = sorted({_group_path(resource) for resource in RESOURCES})
    return {"paths": {group: {"serverRelativeURL": f"/openapi/v3/{group}?hash=lab"} for group in groups}}


def v3(group_path: str) -> dict[str, Any] | None:
    """Return the answer to ``GET /openapi/v3/<group path>``, or ``None`` for a group that is not served."""
    paths = {
        _path(resource): _operations(resource) for resource in RESOURCES if _group_path(resource) == group_path
    }
    if not paths:
        return None
    return {"openapi": "3.0.0", "info": _VERSION, "paths": paths, "components": {"schemas": {}}}


def _group_path(resource: Resource) -> str:
    return f"apis/{resource.api_version}" if resource.group else f"api/{resource.version}"


def _path(resource: Resource) -> str:
    place = "namespaces/{namespace}/" if resource.namespaced else ""
    return f"/{_group_path(resource)}/{place}{resource.plural}/{{name}}"


def _operations(resource: Resource) -> dict[str, Any]:
    operation = {_KIND_EXTENSION: _kind(resource), "parameters": _PARAMETERS}
    return {"put": operation, "patch": operation, "parameters": []}


def _kind(resource: Resource) -> dict[str, str]:
    return {"group": resource.group, "version": resource.version, "kind": resource.kind}
