"""The rights that a run needs, read from the manifests that grant them, and those that an account lacks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bigtcp_bench.cluster.api import ClusterApi, Kind
from bigtcp_bench.cluster.cilium import Cilium
from bigtcp_bench.planning.plan import Scope
from bigtcp_bench.resources import load_manifests

ACCESS_REVIEW = Kind("authorization.k8s.io", "v1", "selfsubjectaccessreviews", namespaced=False)
#: How many rights are asked for at the same time.
AT_ONCE = 8
#: In the manifests: the roles of the account that runs everything, and where Cilium is expected.
_ROLES = ("bigtcp-bench", "bigtcp-bench-scope-cluster")
_CILIUM_NAMESPACE, _CILIUM_DAEMONSET = "kube-system", "cilium"


@dataclass(frozen=True)
class Right:
    """One verb on one resource; ``namespace`` empty: of the whole cluster, ``name`` empty: on all of them."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str = ""

    def __str__(self) -> str:
        named = f" {self.name}" if self.name else ""
        where = f" in namespace {self.namespace}" if self.namespace else ""
        return f"{self.verb} {self.resource}{named}{where}"


def needed(scope: Scope, cilium: Cilium, nodes: Sequence[str]) -> list[Right]:
    """Return the rights of a run of ``scope`` on ``nodes``, as ``include/manifests/rbac*.yaml`` grants them."""
    files = ["rbac.yaml"] + ["rbac-scope-cluster.yaml"] * (scope == "cluster")
    found: dict[Right, None] = {}
    for file in files:
        for body in load_manifests(file):
            if body["kind"] in ("Role", "ClusterRole") and body["metadata"]["name"] in _ROLES:
                namespace = body["metadata"].get("namespace", "")
                if namespace == _CILIUM_NAMESPACE:
                    namespace = cilium.namespace
                for rule in body["rules"]:
                    found.update(dict.fromkeys(_rights(rule, namespace, cilium, nodes)))
    return list(found)


def _rights(rule: dict[str, list[str]], namespace: str, cilium: Cilium, nodes: Sequence[str]) -> Iterator[Right]:
    for group in rule["apiGroups"]:
        for resource in rule["resources"]:
            for verb in rule["verbs"]:
                names: Iterable[str] = rule.get("resourceNames") or [""]
                if resource == "nodes" and verb != "list":
                    # An administrator may have narrowed it down to these.
                    names = nodes
                if resource == "daemonsets" and namespace:
                    names = [cilium.daemonset if name == _CILIUM_DAEMONSET else name for name in names]
                yield from (Right(verb, group, resource, namespace, name) for name in names)


def missing(api: ClusterApi, rights: Iterable[Right]) -> list[Right]:
    """Return those of ``rights`` that the account in use does not have; asks the API server, changes nothing."""
    wanted = list(rights)
    # Each is a request of its own, and an API server far away takes its time.
    with ThreadPoolExecutor(AT_ONCE) as pool:
        allowed = list(pool.map(lambda right: _allowed(api, right), wanted))
    return [right for right, is_allowed in zip(wanted, allowed, strict=True) if not is_allowed]


def _allowed(api: ClusterApi, right: Right) -> bool:
    resource, _, subresource = right.resource.partition("/")
    asked = {
        "verb": right.verb,
        "group": right.group,
        "resource": resource,
        "subresource": subresource,
        "namespace": right.namespace,
        "name": right.name,
    }
    body = {
        "apiVersion": ACCESS_REVIEW.api_version,
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {key: value for key, value in asked.items() if value}},
    }
    return bool(api.create(ACCESS_REVIEW, body)["status"]["allowed"])
