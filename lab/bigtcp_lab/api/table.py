"""Other forms of a list: tables for ``kubectl get``, and objects' metadata alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .conditions import condition
from .discovery import Resource
from .store import seconds_since

Object = dict[str, Any]
#: Name, whether only shown with ``-o wide``, and the cell of an object.
Column = tuple[str, bool, Callable[[Object], Any]]


def wanted(accept: str) -> bool:
    """Return whether a request's ``Accept`` asks for a table."""
    return "as=Table" in accept


def metadata_wanted(accept: str) -> bool:
    """Return whether a request's ``Accept`` asks for a list of objects' metadata alone."""
    return "as=PartialObjectMetadataList" in accept


def metadata_list(objects: list[Object], list_metadata: Object) -> Object:
    """Return a ``meta.k8s.io/v1`` PartialObjectMetadataList."""
    items = [_shown(obj, "Metadata") for obj in objects]
    return {
        "kind": "PartialObjectMetadataList",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_metadata,
        "items": items,
    }


def table(resource: Resource, objects: list[Object], list_metadata: Object, include: str) -> Object:
    """Return a ``meta.k8s.io/v1`` Table; ``include`` is ``Metadata`` (default), ``Object`` or ``None``."""
    columns = _COLUMNS.get(resource.plural, _PLAIN)
    definitions = [
        {
            "name": name,
            "type": "string",
            "format": "name" if name == "Name" else "",
            "description": name,
            "priority": int(wide),
        }
        for name, wide, _ in columns
    ]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_metadata,
        "columnDefinitions": definitions,
        "rows": [
            {"cells": [cell(obj) for _, _, cell in columns], "object": _shown(obj, include)} for obj in objects
        ],
    }


def _shown(obj: Object, include: str) -> Object | None:
    if include == "None":
        return None
    if include == "Object":
        return obj
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def age(timestamp: str | None) -> str:
    """Return how long ago ``timestamp`` was, in kubectl's short form (``42s``, ``3m7s``, ``5h``, ``2d``)."""
    if not timestamp:
        return "<unknown>"
    return _duration(seconds_since(timestamp))


def _duration(seconds: float) -> str:
    whole = max(0, int(seconds))
    if whole < 120:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 10:
        return f"{minutes}m{rest}s" if rest else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    hours = minutes // 60
    return f"{hours}h" if hours < 48 else f"{hours // 24}d"


def _name(obj: Object) -> str:
    return obj["metadata"]["name"]


def _age(obj: Object) -> str:
    return age(obj["metadata"].get("creationTimestamp"))


def _path(*path: str, default: Any = "<none>") -> Callable[[Object], Any]:
    def cell(obj: Object) -> Any:
        value: Any = obj
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        return default if value is None or value == "" else value

    return cell


def _count(field: str) -> Callable[[Object], int]:
    return lambda obj: len(obj.get(field) or {})


def pod_status(pod: Object) -> str:
    """Return what the STATUS column says about a pod: the most telling reason there is."""
    status = pod.get("status") or {}
    reason = status.get("reason") or status.get("phase") or "Unknown"
    for container in status.get("initContainerStatuses") or []:
        state = container.get("state") or {}
        ended, waiting = state.get("terminated"), state.get("waiting")
        if ended and ended["exitCode"] == 0:
            continue
        if ended:
            return f"Init:{ended.get('reason') or 'ExitCode:' + str(ended['exitCode'])}"
        if waiting and waiting.get("reason") not in ("PodInitializing", None):
            return f"Init:{waiting['reason']}"
        done = [c for c in status["initContainerStatuses"] if (c.get("state") or {}).get("terminated")]
        return f"Init:{len(done)}/{len(status['initContainerStatuses'])}"
    for container in reversed(status.get("containerStatuses") or []):
        state = container.get("state") or {}
        told = state.get("waiting") or state.get("terminated") or {}
        reason = told.get("reason") or reason
    return "Terminating" if pod["metadata"].get("deletionTimestamp") else reason


def _pod_ready(pod: Object) -> str:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return f"{sum(bool(c.get('ready')) for c in statuses)}/{len(pod['spec']['containers'])}"


def _pod_restarts(pod: Object) -> str:
    return str(sum(c.get("restartCount", 0) for c in (pod.get("status") or {}).get("containerStatuses") or []))


def _node_status(node: Object) -> str:
    ready = {"True": "Ready", "False": "NotReady"}.get(condition(node, "Ready"), "Unknown")
    return f"{ready},SchedulingDisabled" if (node.get("spec") or {}).get("unschedulable") else ready


def _node_roles(node: Object) -> str:
    prefix = "node-role.kubernetes.io/"
    labels = node["metadata"].get("labels") or {}
    return ",".join(sorted(key.removeprefix(prefix) for key in labels if key.startswith(prefix))) or "<none>"


def _node_ip(node: Object) -> str:
    addresses = (node.get("status") or {}).get("addresses") or []
    return next((a["address"] for a in addresses if a["type"] == "InternalIP"), "<none>")


def _selector(obj: Object) -> str:
    return _pairs(obj["spec"].get("template", {}).get("spec", {}).get("nodeSelector"))


def _pairs(labels: Object | None) -> str:
    return ",".join(f"{key}={value}" for key, value in (labels or {}).items()) or "<none>"


def _service_ports(service: Object) -> str:
    ports = (service.get("spec") or {}).get("ports") or []
    return ",".join(f"{port['port']}/{port.get('protocol', 'TCP')}" for port in ports) or "<none>"


def _service_selector(service: Object) -> str:
    return _pairs((service.get("spec") or {}).get("selector"))


def _endpoints(endpoints: Object) -> str:
    found = [
        f"[{one['ip']}]:{port['port']}" if ":" in one["ip"] else f"{one['ip']}:{port['port']}"
        for subset in endpoints.get("subsets") or []
        for port in subset.get("ports") or []
        for one in subset.get("addresses") or []
    ]
    return _first_three(found) or "<none>"


def _slice_endpoints(endpoints: Object) -> str:
    found = [address for one in endpoints.get("endpoints") or [] for address in one["addresses"]]
    return _first_three(found) or "<unset>"


def _first_three(found: list[str]) -> str:
    """Return how kubectl lists addresses: the first ones, and how many more there are."""
    return ",".join(found[:3]) + (f" + {len(found) - 3} more..." if len(found) > 3 else "")


def _job_status(job: Object) -> str:
    kinds = ("Complete", "Failed", "Suspended")
    return next((kind for kind in kinds if condition(job, kind) == "True"), "Running")


def _job_completions(job: Object) -> str:
    return f"{(job.get('status') or {}).get('succeeded', 0)}/{job['spec'].get('completions', 1)}"


def _job_duration(job: Object) -> str:
    status = job.get("status") or {}
    if "startTime" not in status:
        return ""
    ended_s = seconds_since(status["completionTime"]) if "completionTime" in status else 0
    return _duration(seconds_since(status["startTime"]) - ended_s)


def _cronjob_last(cronjob: Object) -> str:
    last = (cronjob.get("status") or {}).get("lastScheduleTime")
    return age(last) if last else "<none>"


def _event_object(event: Object) -> str:
    involved = event["involvedObject"]
    return f"{involved.get('kind', '').lower()}/{involved.get('name', '')}"


_NAME: Column = ("Name", False, _name)
_AGE: Column = ("Age", False, _age)
_PLAIN: list[Column] = [_NAME, _AGE]
_NODE_INFO = ("status", "nodeInfo")
_COLUMNS: dict[str, list[Column]] = {
    "pods": [
        _NAME,
        ("Ready", False, _pod_ready),
        ("Status", False, pod_status),
        ("Restarts", False, _pod_restarts),
        _AGE,
        ("IP", True, _path("status", "podIP")),
        ("Node", True, _path("spec", "nodeName")),
    ],
    "nodes": [
        _NAME,
        ("Status", False, _node_status),
        ("Roles", False, _node_roles),
        _AGE,
        ("Version", False, _path(*_NODE_INFO, "kubeletVersion")),
        ("Internal-IP", True, _node_ip),
        ("OS-Image", True, _path(*_NODE_INFO, "osImage")),
        ("Kernel-Version", True, _path(*_NODE_INFO, "kernelVersion")),
        ("Container-Runtime", True, _path(*_NODE_INFO, "containerRuntimeVersion")),
    ],
    "namespaces": [_NAME, ("Status", False, _path("status", "phase")), _AGE],
    "configmaps": [_NAME, ("Data", False, _count("data")), _AGE],
    "secrets": [_NAME, ("Type", False, _path("type")), ("Data", False, _count("data")), _AGE],
    "services": [
        _NAME,
        ("Type", False, _path("spec", "type", default="ClusterIP")),
        ("Cluster-IP", False, _path("spec", "clusterIP")),
        ("External-IP", False, lambda _: "<none>"),
        ("Port(s)", False, _service_ports),
        _AGE,
        ("Selector", True, _service_selector),
    ],
    "endpoints": [_NAME, ("Endpoints", False, _endpoints), _AGE],
    "endpointslices": [
        _NAME,
        ("AddressType", False, _path("addressType")),
        ("Ports", False, lambda one: ",".join(str(port["port"]) for port in one.get("ports") or []) or "<unset>"),
        ("Endpoints", False, _slice_endpoints),
        _AGE,
    ],
    "daemonsets": [
        _NAME,
        ("Desired", False, _path("status", "desiredNumberScheduled", default=0)),
        ("Current", False, _path("status", "currentNumberScheduled", default=0)),
        ("Ready", False, _path("status", "numberReady", default=0)),
        ("Up-to-date", False, _path("status", "updatedNumberScheduled", default=0)),
        ("Available", False, _path("status", "numberAvailable", default=0)),
        ("Node Selector", False, _selector),
        _AGE,
    ],
    "jobs": [
        _NAME,
        ("Status", False, _job_status),
        ("Completions", False, _job_completions),
        ("Duration", False, _job_duration),
        _AGE,
    ],
    "cronjobs": [
        _NAME,
        ("Schedule", False, _path("spec", "schedule")),
        ("Timezone", False, _path("spec", "timeZone")),
        ("Suspend", False, lambda obj: str(obj["spec"].get("suspend", False))),
        ("Active", False, lambda obj: len((obj.get("status") or {}).get("active") or [])),
        ("Last Schedule", False, _cronjob_last),
        _AGE,
    ],
    "leases": [_NAME, ("Holder", False, _path("spec", "holderIdentity", default="")), _AGE],
    "events": [
        ("Last Seen", False, lambda event: age(event.get("lastTimestamp") or event.get("eventTime"))),
        ("Type", False, _path("type")),
        ("Reason", False, _path("reason")),
        ("Object", False, _event_object),
        ("Message", False, _path("message")),
        ("Name", True, _name),
    ],
}
