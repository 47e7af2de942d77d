"""The namespace controllers: what every namespace gets, and how one goes with all that is in it."""

from __future__ import annotations

from typing import Any

from bigtcp_lab.api.discovery import CONFIGMAPS, NAMESPACES, SERVICEACCOUNTS, Resource, stored_resources
from bigtcp_lab.api.store import Store

Object = dict[str, Any]

WATCHED = (NAMESPACES, SERVICEACCOUNTS, CONFIGMAPS)


class ServiceAccounts:
    """Gives every namespace the service account ``default`` and the cluster's certificate authority."""

    def __init__(self, ca_pem: str) -> None:
        self._root_ca = {"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": ca_pem}}

    async def reconcile(self, store: Store) -> None:
        """Create what is missing."""
        wanted: list[tuple[Resource, Object]] = [
            (SERVICEACCOUNTS, {"metadata": {"name": "default"}}),
            (CONFIGMAPS, self._root_ca),
        ]
        for namespace in await store.list(NAMESPACES, field_selector="status.phase=Active"):
            name = namespace["metadata"]["name"]
            for resource, obj in wanted:
                if await store.find(resource, obj["metadata"]["name"], name) is None:
                    await store.create(resource, obj, name)


async def reconcile(store: Store) -> None:
    """Empty the namespaces that are being deleted, and remove those that are empty."""
    for namespace in await store.list(NAMESPACES, field_selector="status.phase=Terminating"):
        name = namespace["metadata"]["name"]
        left = 0
        for resource in stored_resources():
            if not resource.namespaced:
                continue
            for obj in await store.list(resource, name):
                left += 1
                metadata = obj["metadata"]
                if "deletionTimestamp" not in metadata:
                    await store.delete(resource, metadata["name"], name, uid=metadata["uid"])
                    left -= await store.find(resource, metadata["name"], name) is None
        if left == 0:
            await store.finish_namespace(name)
