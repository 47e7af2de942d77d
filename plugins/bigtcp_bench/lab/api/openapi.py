"""The OpenAPI documents: just enough for kubectl to see that the server validates and takes dry runs."""

from __future__ import annotations

from typing import Any

from .discovery import RESOURCES, Resource

#: OpenAPI v2 in protobuf, as kubectl before 1.27 asks for it: a document that says nothing but ``swagger: "2.0"``.
V2_PROTOBUF = b"\n\x032.0"
V2_PROTOBUF_TYPE = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
_PARAMETERS = [
    {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
    for name in ("dryRun", "fieldManager", "fieldValidation", "force")
]
_VERSION = {"title": "Kubernetes", "version": "v1.36.2"}


def v2() -> dict[str, Any]:
    """Return the answer to ``GET /openapi/v2`` in JSON."""
    paths = {_path(resource): _operations(resource) for resource in RESOURCES}
    return {"swagger": "2.0", "info": _VERSION, "paths": paths, "definitions": {}}


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
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    operations = {
        verb: {"x-kubernetes-group-version-kind": kind, "parameters": _PARAMETERS} for verb in ("put", "patch")
    }
    return {**operations, "parameters": []}
