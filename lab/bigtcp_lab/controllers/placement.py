"""Which nodes a pod fits on: selectors, affinity, taints, cordons."""

from __future__ import annotations

from typing import Any

from bigtcp_lab.api.selectors import matches_expression, matches_label_selector

Object = dict[str, Any]

AFFINITY = "node(s) didn't match Pod's node affinity/selector"
ANTI_AFFINITY = "node(s) didn't match pod anti-affinity rules"
UNSCHEDULABLE = "node(s) were unschedulable"


def misfit(pod: Object, node: Object, others: list[Object]) -> str | None:
    """Return why ``pod`` cannot run on ``node`` where ``others`` run, as the scheduler words it, or ``None``."""
    spec = pod["spec"]
    tolerations = spec.get("tolerations") or []
    cordon = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
    if (node.get("spec") or {}).get("unschedulable") and not _tolerated(cordon, tolerations):
        return UNSCHEDULABLE
    if not matches_node(spec, node):
        return AFFINITY
    for taint in (node.get("spec") or {}).get("taints") or []:
        if taint["effect"] in ("NoSchedule", "NoExecute") and not _tolerated(taint, tolerations):
            return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"
    if _is_repelled(pod, others):
        return ANTI_AFFINITY
    return None


def matches_node(spec: Object, node: Object) -> bool:
    """Return whether a pod's node selector and required node affinity allow ``node``."""
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if not required:
        return True
    return any(_matches_term(term, node) for term in required["nodeSelectorTerms"])


def preference(spec: Object, node: Object) -> int:
    """Return the sum of the weights of those of a pod's preferred node affinities that ``node`` fulfils."""
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    terms = affinity.get("preferredDuringSchedulingIgnoredDuringExecution") or []
    return sum(term["weight"] for term in terms if _matches_term(term["preference"], node))


def _matches_term(term: Object, node: Object) -> bool:
    labels = node["metadata"].get("labels") or {}
    fields = {"metadata.name": node["metadata"]["name"]}
    return (
        bool(term.get("matchExpressions") or term.get("matchFields"))
        and all(matches_expression(expression, labels) for expression in term.get("matchExpressions") or [])
        and all(matches_expression(expression, fields) for expression in term.get("matchFields") or [])
    )


def _tolerated(taint: Object, tolerations: list[Object]) -> bool:
    for toleration in tolerations:
        same_effect = toleration.get("effect") in (None, "", taint["effect"])
        same_key = toleration.get("key") in (None, "", taint["key"])
        exists = toleration.get("operator") == "Exists"
        if same_effect and same_key and (exists or toleration.get("value", "") == taint.get("value", "")):
            return True
    return False


def _is_repelled(pod: Object, others: list[Object]) -> bool:
    """Return whether the pod's required anti-affinity meets one of ``others``; each node is its own topology."""
    anti = ((pod["spec"].get("affinity") or {}).get("podAntiAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    for term in anti or []:
        namespaces = term.get("namespaces") or [pod["metadata"]["namespace"]]
        for other in others:
            labels = other["metadata"].get("labels") or {}
            if other["metadata"]["namespace"] in namespaces and matches_label_selector(
                term.get("labelSelector"), labels
            ):
                return True
    return False
