"""Every resource the lab's API serves, and the discovery documents that clients read first."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

_ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True)
class Resource:
    """One served resource; two versions of the same group and plural share their stored objects."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    #: Paths a field selector may name besides metadata.name and metadata.namespace.
    selectable_fields: tuple[str, ...] = ()
    #: Whether ``metadata.generation`` counts changes of everything outside metadata and status.
    has_generation: bool = False
    #: Custom resources know neither strategic merge patches nor defaulting.
    custom: bool = False
    verbs: tuple[str, ...] = field(default=_ALL_VERBS)

    @property
    def api_version(self) -> str:
        """Return ``v1`` or ``group/version``, as in an object's ``apiVersion``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def key(self) -> tuple[str, str]:
        """Return what identifies the stored objects: group and plural, whatever the version."""
        return (self.group, self.plural)

    @property
    def qualified(self) -> str:
        """Return ``plural`` or ``plural.group``, as error messages name a resource."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def has_status(self) -> bool:
        """Return whether status is a subresource of its own, so that plain writes leave it alone."""
        return "status" in self.subresources


_INVOLVED = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")

PODS = Resource(
    "",
    "v1",
    "Pod",
    "pods",
    True,
    ("po",),
    ("all",),
    ("status", "log", "exec", "eviction", "binding"),
    (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.phase",
        "status.podIP",
    ),
    has_generation=True,
)
NODES = Resource("", "v1", "Node", "nodes", False, ("no",), (), ("status",), ("spec.unschedulable",))
NAMESPACES = Resource("", "v1", "Namespace", "namespaces", False, ("ns",), (), ("status",), ("status.phase",))
CONFIGMAPS = Resource("", "v1", "ConfigMap", "configmaps", True, ("cm",))
SECRETS = Resource("", "v1", "Secret", "secrets", True, (), (), (), ("type",))
SERVICES = Resource("", "v1", "Service", "services", True, ("svc",), ("all",), ("status",))
ENDPOINTS = Resource("", "v1", "Endpoints", "endpoints", True, ("ep",))
SERVICEACCOUNTS = Resource("", "v1", "ServiceAccount", "serviceaccounts", True, ("sa",), (), ("token",))
EVENTS = Resource(
    "",
    "v1",
    "Event",
    "events",
    True,
    ("ev",),
    (),
    (),
    (*(f"involvedObject.{name}" for name in _INVOLVED), "reason", "reportingComponent", "source", "type"),
)
DAEMONSETS = Resource(
    "apps", "v1", "DaemonSet", "daemonsets", True, ("ds",), ("all",), ("status",), has_generation=True
)
JOBS = Resource("batch", "v1", "Job", "jobs", True, (), ("all",), ("status",), has_generation=True)
CRONJOBS = Resource(
    "batch", "v1", "CronJob", "cronjobs", True, ("cj",), ("all",), ("status",), has_generation=True
)
LEASES = Resource("coordination.k8s.io", "v1", "Lease", "leases", True)
CILIUMNODECONFIGS = Resource(
    "cilium.io", "v2", "CiliumNodeConfig", "ciliumnodeconfigs", True, has_generation=True, custom=True
)
CILIUMNODECONFIGS_ALPHA = replace(CILIUMNODECONFIGS, version="v2alpha1")
CRDS = Resource(
    "apiextensions.k8s.io",
    "v1",
    "CustomResourceDefinition",
    "customresourcedefinitions",
    False,
    ("crd", "crds"),
    ("api-extensions",),
    ("status",),
    has_generation=True,
)
PRIORITYCLASSES = Resource(
    "scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", False, ("pc",), has_generation=True
)
#: Kept, not enforced: the lab's pods have no Cilium in their way.
NETWORKPOLICIES = Resource(
    "networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", True, ("netpol",), has_generation=True
)
ENDPOINTSLICES = Resource("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", True)
_RBAC = "rbac.authorization.k8s.io"
ROLES = Resource(_RBAC, "v1", "Role", "roles", True)
ROLEBINDINGS = Resource(_RBAC, "v1", "RoleBinding", "rolebindings", True)
CLUSTERROLES = Resource(_RBAC, "v1", "ClusterRole", "clusterroles", False)
CLUSTERROLEBINDINGS = Resource(_RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", False)
SELFSUBJECTACCESSREVIEWS = Resource(
    "authorization.k8s.io",
    "v1",
    "SelfSubjectAccessReview",
    "selfsubjectaccessreviews",
    False,
    verbs=("create",),
)

#: All of the above, in this order.
RESOURCES: tuple[Resource, ...] = tuple(one for one in list(globals().values()) if isinstance(one, Resource))

#: Kinds and verbs of subresources that are not the object itself.
_SUBRESOURCES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "log": ("", "Pod", ("get",)),
    "exec": ("", "PodExecOptions", ("create", "get")),
    "eviction": ("policy/v1", "Eviction", ("create",)),
    "binding": ("", "Binding", ("create",)),
    "token": ("authentication.k8s.io/v1", "TokenRequest", ("create",)),
}


def resource_of(group: str, version: str, plural: str) -> Resource | None:
    """Return the resource served under this group, version and plural, or ``None``."""
    for resource in RESOURCES:
        if (resource.group, resource.version, resource.plural) == (group, version, plural):
            return resource
    return None


def resource_of_kind(api_version: str, kind: str) -> Resource | None:
    """Return the resource of an object's ``apiVersion`` and ``kind``, or ``None``."""
    for resource in RESOURCES:
        if (resource.api_version, resource.kind) == (api_version, kind):
            return resource
    return None


def stored_resources() -> list[Resource]:
    """Return every resource whose objects are stored, once whatever its number of versions."""
    return list({r.key: r for r in reversed(RESOURCES) if "get" in r.verbs}.values())


def groups() -> dict[str, list[str]]:
    """Return the named API groups with their versions, preferred version first."""
    found: dict[str, list[str]] = {}
    for resource in RESOURCES:
        if resource.group and resource.version not in found.setdefault(resource.group, []):
            found[resource.group].append(resource.version)
    return found


def api_versions(server_address: str) -> dict[str, Any]:
    """Return the answer to ``GET /api``."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    }


def api_group(name: str) -> dict[str, Any] | None:
    """Return the answer to ``GET /apis/<name>``, or ``None`` for a group that is not served."""
    versions = groups().get(name)
    if versions is None:
        return None
    entries = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {
        "kind": "APIGroup",
        "apiVersion": "v1",
        "name": name,
        "versions": entries,
        "preferredVersion": entries[0],
    }


def api_group_list() -> dict[str, Any]:
    """Return the answer to ``GET /apis``."""
    entries = []
    for name in groups():
        group = api_group(name)
        assert group is not None
        entries.append({key: group[key] for key in ("name", "versions", "preferredVersion")})
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": entries}


def api_resource_list(group: str, version: str) -> dict[str, Any] | None:
    """Return the answer to ``GET /api/v1`` or ``GET /apis/<group>/<version>``, or ``None``."""
    entries: list[dict[str, Any]] = []
    for resource in RESOURCES:
        if (resource.group, resource.version) != (group, version):
            continue
        entry: dict[str, Any] = {
            "name": resource.plural,
            "singularName": resource.kind.lower(),
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": list(resource.verbs),
        }
        if resource.short_names:
            entry["shortNames"] = list(resource.short_names)
        if resource.categories:
            entry["categories"] = list(resource.categories)
        entries.append(entry)
        entries.extend(_subresource_entry(resource, name) for name in resource.subresources)
    if not entries:
        return None
    group_version = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": entries}


def _subresource_entry(resource: Resource, name: str) -> dict[str, Any]:
    group_version, kind, verbs = _SUBRESOURCES.get(name, ("", resource.kind, ("get", "patch", "update")))
    entry: dict[str, Any] = {
        "name": f"{resource.plural}/{name}",
        "singularName": "",
        "namespaced": resource.namespaced,
        "kind": kind,
        "verbs": list(verbs),
    }
    if group_version:
        entry["group"], entry["version"] = group_version.split("/")
    return entry
