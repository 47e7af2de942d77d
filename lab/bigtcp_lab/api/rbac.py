"""Access rules: whether a user may do something, by the roles and bindings in the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .discovery import CLUSTERROLEBINDINGS, CLUSTERROLES, ROLEBINDINGS, ROLES, SELFSUBJECTACCESSREVIEWS, Resource
from .status import ApiError, forbidden
from .store import Store
from .tokens import User


@dataclass(frozen=True)
class Request:
    """One thing that a user wants to do; ``namespace`` is empty for all namespaces and cluster-wide objects."""

    verb: str
    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def path(self) -> str:
        """Return the resource as rules name it, ``pods`` or ``pods/log``."""
        return f"{self.resource.plural}/{self.subresource}" if self.subresource else self.resource.plural


async def allowed(store: Store, user: User, request: Request) -> bool:
    """Return whether a binding in ``store`` lets ``user`` do ``request``."""
    if user.is_admin or request.resource == SELFSUBJECTACCESSREVIEWS:
        return True
    bindings = await store.list(CLUSTERROLEBINDINGS)
    if request.namespace:
        bindings += await store.list(ROLEBINDINGS, request.namespace)
    for binding in bindings:
        if not any(_is_subject(subject, user, binding) for subject in binding.get("subjects") or []):
            continue
        reference = binding["roleRef"]
        cluster_wide = reference["kind"] == "ClusterRole"
        namespace = None if cluster_wide else binding["metadata"]["namespace"]
        role = await store.find(CLUSTERROLES if cluster_wide else ROLES, reference["name"], namespace)
        if role and any(_permits(rule, request) for rule in role.get("rules") or []):
            return True
    return False


async def check(store: Store, user: User, request: Request) -> None:
    """Raise ``ApiError`` 403, worded as Kubernetes does, unless ``user`` may do ``request``."""
    if not await allowed(store, user, request):
        raise _denied(user, request)


def _denied(user: User, request: Request) -> ApiError:
    where = f'in the namespace "{request.namespace}"' if request.namespace else "at the cluster scope"
    why = (
        f'User "{user.name}" cannot {request.verb} resource "{request.path}" in API group '
        f'"{request.resource.group}" {where}'
    )
    return forbidden(request.resource, request.name, why)


def _is_subject(subject: dict[str, Any], user: User, binding: dict[str, Any]) -> bool:
    match subject["kind"]:
        case "ServiceAccount":
            namespace = subject.get("namespace") or binding["metadata"].get("namespace", "")
            return user.name == f"system:serviceaccount:{namespace}:{subject['name']}"
        case "Group":
            return subject["name"] in user.groups
        case _:
            return subject["name"] == user.name


def _permits(rule: dict[str, Any], request: Request) -> bool:
    names = rule.get("resourceNames") or []
    resources = rule.get("resources") or []
    wanted = {"*", request.path, f"*/{request.subresource}" if request.subresource else request.path}
    return (
        bool({"*", request.verb} & set(rule.get("verbs") or []))
        and bool({"*", request.resource.group} & set(rule.get("apiGroups") or []))
        and bool(wanted & set(resources))
        and (not names or request.name in names)
    )
