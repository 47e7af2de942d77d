"""The endpoint controllers: which pods are behind a Service, as EndpointSlices and as Endpoints."""

from __future__ import annotations

from typing import Any

from bigtcp_lab.api.conditions import is_ready
from bigtcp_lab.api.discovery import ENDPOINTS, ENDPOINTSLICES, PODS, SERVICES, Resource
from bigtcp_lab.api.store import Store

from .owners import controlled, owner_reference

Object = dict[str, Any]

WATCHED = (SERVICES, PODS, ENDPOINTSLICES, ENDPOINTS)
_SERVICE_LABEL = "kubernetes.io/service-name"
_MANAGED_BY = {"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}


async def reconcile(store: Store) -> None:
    """Write the endpoints of every Service that selects pods."""
    for service in await store.list(SERVICES):
        selector = service["spec"].get("selector")
        if not selector or "deletionTimestamp" in service["metadata"]:
            continue
        labels = ",".join(f"{key}={value}" for key, value in selector.items())
        namespace = service["metadata"]["namespace"]
        pods = [pod for pod in await store.list(PODS, namespace, label_selector=labels) if _counts(pod)]
        owned = controlled(await store.list(ENDPOINTSLICES, namespace), service)
        for family in service["spec"]["ipFamilies"]:
            wanted = _slice(service, family, pods)
            found = next((one for one in owned if one["addressType"] == family), None)
            await _write(store, ENDPOINTSLICES, found, wanted)
        name = service["metadata"]["name"]
        await _write(store, ENDPOINTS, await store.find(ENDPOINTS, name, namespace), _endpoints(service, pods))


async def _write(store: Store, resource: Resource, found: Object | None, wanted: Object) -> None:
    if found is None:
        await store.create(resource, wanted, wanted["metadata"]["namespace"])
    elif any(found.get(key) != value for key, value in wanted.items() if key != "metadata"):
        kept = {key: value for key, value in wanted.items() if key != "metadata"}
        await store.update(resource, {**found, **kept})


def _counts(pod: Object) -> bool:
    status = pod.get("status") or {}
    return bool(status.get("podIPs")) and status.get("phase") not in ("Succeeded", "Failed")


def _slice(service: Object, family: str, pods: list[Object]) -> Object:
    metadata = service["metadata"]
    return {
        "apiVersion": ENDPOINTSLICES.api_version,
        "kind": ENDPOINTSLICES.kind,
        "metadata": {
            "generateName": f"{metadata['name']}-",
            "namespace": metadata["namespace"],
            "labels": {**(metadata.get("labels") or {}), **_MANAGED_BY, _SERVICE_LABEL: metadata["name"]},
            "ownerReferences": [owner_reference(service)],
        },
        "addressType": family,
        "endpoints": [one for pod in pods for one in _endpoint(pod, family)],
        "ports": _ports(service),
    }


def _endpoint(pod: Object, family: str) -> list[Object]:
    ready, going = is_ready(pod), "deletionTimestamp" in pod["metadata"]
    conditions = {"ready": ready and not going, "serving": ready, "terminating": going}
    place = {"nodeName": pod["spec"].get("nodeName", ""), "targetRef": _reference(pod)}
    return [{"addresses": [address], "conditions": conditions, **place} for address in _addresses(pod, family)]


def _endpoints(service: Object, pods: list[Object]) -> Object:
    family = service["spec"]["ipFamilies"][0]
    found: dict[bool, list[Object]] = {True: [], False: []}
    for pod in pods:
        if "deletionTimestamp" not in pod["metadata"]:
            place = {"nodeName": pod["spec"].get("nodeName", ""), "targetRef": _reference(pod)}
            found[is_ready(pod)] += [{"ip": address, **place} for address in _addresses(pod, family)]
    lists = {"addresses": found[True], "notReadyAddresses": found[False]}
    subset = {**{name: ends for name, ends in lists.items() if ends}, "ports": _ports(service)}
    metadata = service["metadata"]
    return {
        "apiVersion": ENDPOINTS.api_version,
        "kind": ENDPOINTS.kind,
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            # The real controller deletes them by name; here they go as everything that has an owner.
            "ownerReferences": [owner_reference(service)],
        },
        "subsets": [subset] if found[True] or found[False] else [],
    }


def _addresses(pod: Object, family: str) -> list[str]:
    return [item["ip"] for item in pod["status"]["podIPs"] if (":" in item["ip"]) == (family == "IPv6")]


def _ports(service: Object) -> list[Object]:
    return [
        {"name": port.get("name", ""), "port": port["targetPort"], "protocol": port["protocol"]}
        for port in service["spec"]["ports"]
    ]


def _reference(pod: Object) -> Object:
    return {"kind": "Pod", **{key: pod["metadata"][key] for key in ("name", "namespace", "uid")}}
