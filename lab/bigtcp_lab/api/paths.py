"""Reading a request's path: which resource, namespace, object and subresource it means."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from .discovery import Resource, resource_of
from .status import unknown_path


@dataclass(frozen=True)
class Target:
    """What a path means; ``name`` and ``subresource`` are empty for a whole collection."""

    resource: Resource
    namespace: str
    name: str
    subresource: str


@functools.lru_cache(maxsize=1024)
def parse(path: str) -> Target:
    """Return the target of ``/api/v1/…`` or ``/apis/<group>/<version>/…``; raises ``ApiError`` 404."""
    parts = [part for part in path.split("/") if part]
    if parts[:1] == ["api"]:
        group, version, rest = "", parts[1] if len(parts) > 1 else "", parts[2:]
    elif parts[:1] == ["apis"] and len(parts) > 2:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        raise unknown_path()
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) > 2 and resource_of(group, version, rest[2]):
        namespace, rest = rest[1], rest[2:]
    if not 1 <= len(rest) <= 3:
        raise unknown_path()
    plural, name, subresource = (*rest, "", "")[:3]
    resource = resource_of(group, version, plural)
    if resource is None or (subresource and subresource not in resource.subresources):
        raise unknown_path()
    if bool(namespace) and not resource.namespaced:
        raise unknown_path()
    if resource.namespaced and name and not namespace:
        raise unknown_path()
    return Target(resource, namespace, name, subresource)
