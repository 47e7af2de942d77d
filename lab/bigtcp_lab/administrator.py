"""What an administrator does before the first run on a cluster: applies the manifests that a run expects."""

from __future__ import annotations

import contextlib
from pathlib import Path

from bigtcp_bench.resources import load_manifests

MANIFESTS = ("namespace.yaml", "priorityclass.yaml", "networkpolicy.yaml", "rbac.yaml")


def apply_manifests(kubeconfig: Path) -> None:
    """Create the objects of ``MANIFESTS``; those that exist stay as they are."""
    # Kubernetes' client takes a second to import, and commands that only stop a lab import this module, too.
    from bigtcp_bench.cluster.api import ClusterApi, Conflict, Kind

    api = ClusterApi.from_kubeconfig(kubeconfig)
    try:
        for name in MANIFESTS:
            for body in load_manifests(name):
                group, _, version = body["apiVersion"].rpartition("/")
                namespace = body["metadata"].get("namespace")
                kind = Kind(group, version, _plural(body["kind"]), namespaced=namespace is not None)
                with contextlib.suppress(Conflict):
                    api.create(kind, body, namespace)
    finally:
        api.close()


def _plural(kind: str) -> str:
    name = kind.lower()
    return f"{name.removesuffix('y')}ies" if name.endswith("y") else name + ("es" if name.endswith("s") else "s")
