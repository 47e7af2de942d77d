"""The Service that leads to one server pod: made for it, ready when its endpoints are, and gone with it.

The pod owns it. So whoever deletes the pod (the next run, the restore, the guardian) needs no right to Services.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from bigtcp_bench.cluster import pods
from bigtcp_bench.cluster.api import ENDPOINTSLICE, POD, SERVICE, Before, ClusterApi, Conflict, JsonObject
from bigtcp_bench.resources import load_manifest

#: Of include/manifests/service.yaml. One name, so that the rights to it can be limited to it.
SERVICE_NAME = "bigtcp-bench"
#: From the Service to its endpoints, which the cluster's controllers write; and for an older one to be gone.
READY_S = 60.0
#: So long another pod's is left to it, in case that is being measured: longer than a check takes.
OTHERS_S = 20.0
_NAME = f"Service {pods.BENCH_NAMESPACE}/{SERVICE_NAME}"
_OF_SERVICE = "kubernetes.io/service-name"
#: By these labels the pod is told from every other one.
_SELECTED_BY = (pods.RUN_LABEL, "bigtcp-bench/generation")


def build_service(server: Mapping[str, Any]) -> JsonObject:
    """Return the Service of a stored ``server`` pod, to be created."""
    service = load_manifest("service.yaml")
    meta = server["metadata"]
    service["metadata"]["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "Pod", "name": meta["name"], "uid": meta["uid"]}
    ]
    labels = meta["labels"]
    service["spec"]["selector"].update({name: labels[name] for name in _SELECTED_BY if name in labels})
    return service


def open_service(api: ClusterApi, server: Mapping[str, Any], *, before: Before | None = None) -> dict[str, str]:
    """Return the addresses, by family, of a Service that leads to the running ``server`` pod.

    One that leads there already is taken as it is. Raises PodFailed if it has no endpoint within READY_S, and if
    one of its name is somebody else's.
    """
    own = pods.pod_addresses(server)
    missing = "it was not there"
    for passed_s in api.poll(READY_S, pods.POLL_S):
        found = api.find(SERVICE, SERVICE_NAME, pods.BENCH_NAMESPACE)
        try:
            if found is None:
                found = api.create(SERVICE, build_service(server), pods.BENCH_NAMESPACE, before=before)
            elif not _is_of(found, server) or found["metadata"].get("deletionTimestamp"):
                missing = _make_way(api, found, before, wait=passed_s < OTHERS_S)
                continue
        except Conflict:
            continue
        addresses, ready = _addresses(found), _ready_endpoints(api)
        lacking = [address for family, address in own.items() if family in addresses and address not in ready]
        if addresses and not lacking:
            return addresses
        missing = f"no ready endpoint was {' or '.join(lacking)}" if addresses else "it had no address"
    raise pods.PodFailed(f"{_NAME} did not lead to its pod within {READY_S:g} s: {missing}")


def close_service(api: ClusterApi, server: Mapping[str, Any]) -> None:
    """Delete the Service of a ``server`` pod, if there is one; without it the cluster would, after the pod."""
    found = api.find(SERVICE, SERVICE_NAME, pods.BENCH_NAMESPACE)
    if found is not None and _is_of(found, server):
        with contextlib.suppress(Conflict):
            _delete(api, found, None)


def _make_way(api: ClusterApi, found: JsonObject, before: Before | None, *, wait: bool) -> str:
    """Delete a Service of the benchmark that leads elsewhere; return why it is still there, should it stay.

    That of a pod which runs, as of a check elsewhere, is left to it where ``wait``. Raises PodFailed for one
    that is somebody else's.
    """
    meta = found["metadata"]
    label, _, app = pods.APP_LABELS.partition("=")
    if (meta.get("labels") or {}).get(label) != app:
        raise pods.PodFailed(
            f"{_NAME} is somebody else's: it lacks the label {pods.APP_LABELS}; give it another name, or leave "
            "the scenarios @service out"
        )
    if meta.get("deletionTimestamp"):
        waits_for = ", ".join(meta.get("finalizers") or []) or "nothing that it names"
        return f"an older one was being deleted, and waited for {waits_for}"
    if not (wait and _owner_runs(api, found)):
        _delete(api, found, before)
    return "an older one led to another pod"


def _owner_runs(api: ClusterApi, service: Mapping[str, Any]) -> bool:
    for owner in service["metadata"].get("ownerReferences") or []:
        pod = api.find(POD, owner["name"], pods.BENCH_NAMESPACE) if owner["kind"] == "Pod" else None
        if pod is not None and pod["metadata"]["uid"] == owner["uid"]:
            return bool((pod.get("status") or {}).get("phase") == "Running")
    return False


def _delete(api: ClusterApi, service: Mapping[str, Any], before: Before | None) -> None:
    api.delete(SERVICE, SERVICE_NAME, pods.BENCH_NAMESPACE, uid=service["metadata"]["uid"], before=before)


def _is_of(service: Mapping[str, Any], server: Mapping[str, Any]) -> bool:
    owners = service["metadata"].get("ownerReferences") or []
    return server["metadata"]["uid"] in {owner["uid"] for owner in owners}


def _addresses(service: Mapping[str, Any]) -> dict[str, str]:
    spec = service["spec"]
    found = spec.get("clusterIPs") or [spec.get("clusterIP")]
    return {"ipv6" if ":" in address else "ipv4": address for address in found if address and address != "None"}


def _ready_endpoints(api: ClusterApi) -> set[str]:
    """Return the addresses of the Service's endpoints that are ready, of all families."""
    slices = api.select(ENDPOINTSLICE, pods.BENCH_NAMESPACE, labels=f"{_OF_SERVICE}={SERVICE_NAME}")
    return {
        address
        for one in slices
        for endpoint in one.get("endpoints") or []
        if (endpoint.get("conditions") or {}).get("ready", True)
        for address in endpoint["addresses"]
    }
