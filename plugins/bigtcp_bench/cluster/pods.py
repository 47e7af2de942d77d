"""The benchmark's own objects in the cluster: its namespace, its script, and pods from ``include/manifests``."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from bigtcp_bench.cluster.api import (
    CONFIGMAP,
    NAMESPACE,
    POD,
    PRIORITYCLASS,
    Before,
    ClusterApi,
    Conflict,
    Forbidden,
    JsonObject,
    Kind,
)
from bigtcp_bench.cluster.cilium import is_ready, waiting_reason
from bigtcp_bench.errors import BenchError, PreconditionFailed
from bigtcp_bench.in_cluster import protocol
from bigtcp_bench.planning.plan import Plan
from bigtcp_bench.readings.orders import Orders
from bigtcp_bench.resources import load_manifest

#: The namespace of every object of the benchmark but the CiliumNodeConfig.
BENCH_NAMESPACE = protocol.NAMESPACE
APP_LABELS = "app.kubernetes.io/name=bigtcp-bench"
ROLE_LABEL = "bigtcp-bench/role"
RUN_LABEL = "bigtcp-bench/run"
CONTAINER = "base"
AGENT_CONFIGMAP = "bigtcp-bench-agent"
#: Where they are a package: the folder above this one's.
_ROOT = Path(__file__).parents[2]
_IN_CLUSTER = _ROOT / "bigtcp_bench" / "in_cluster"
_AGENT = "capture children client devices exchange iperf3 kind measure output partner probe server snapshot"
#: What the pods mount: the package that the agent is, with every kind of traffic that there is.
AGENT_FILES = (
    _ROOT / "bigtcp_bench" / "__init__.py",
    _IN_CLUSTER / "__init__.py",
    *(_IN_CLUSTER / f"{name}.py" for name in _AGENT.split()),
    *sorted((_IN_CLUSTER / "traffic").glob("*.py")),
)
#: Of include/manifests/networkpolicy.yaml.
POLICY_NAME = "bigtcp-bench"
#: Pods that carry traffic; they take over the limits in force when they are created, so none may outlive a switch.
TRAFFIC_ROLES = ("server", "client")
ALL_ROLES = (*TRAFFIC_ROLES, "probe")
#: Time for scheduling and pulling an image that the node does not have yet.
POD_START_S = 180.0
#: Nothing is measured while pods start or go, so that is looked at often; while they run it is load.
START_POLL_S, POLL_S = 0.1, 0.3
#: A pod is over so long after its container, at most.
OVER_S = 5.0
#: Whoever waits for a pod has read it long before, and deleted it.
FORGOTTEN_S = 60.0

Role = Literal["server", "client", "probe"]


class PodFailed(BenchError):
    """A benchmark pod did not start, did not become ready or did not end well."""


def selector(roles: Iterable[str]) -> str:
    """Return the label selector of the benchmark's pods of ``roles``."""
    return f"{APP_LABELS},{ROLE_LABEL} in ({','.join(roles)})"


def selecting(labels: Mapping[str, str]) -> str:
    """Return the label selector of what has all of ``labels``."""
    return ",".join(f"{name}={value}" for name, value in labels.items())


def run_labels(run_key: str) -> dict[str, str]:
    """Return the label that stands for a run, by its hash: its key has characters that labels may not have."""
    return {RUN_LABEL: hashlib.sha256(run_key.encode()).hexdigest()[:16]}


def build_pod(
    role: Role,
    *,
    image: str,
    node: str | None = None,
    orders: str | None = None,
    deadline_s: int | None = None,
    labels: Mapping[str, str] | None = None,
    pull_secrets: Iterable[str] = (),
) -> JsonObject:
    """Return the pod of ``include/manifests/<role>-pod.yaml`` with everything filled in that is given.

    ``orders`` is the agent's JSON argument, ``deadline_s`` the seconds after which the cluster ends the pod.
    """
    pod = load_manifest(f"{role}-pod.yaml")
    meta, spec = pod["metadata"], pod["spec"]
    container = spec["containers"][0]
    container["image"] = image
    if node is not None:
        terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        terms["nodeSelectorTerms"] = [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
        ]
    if orders is not None:
        container["args"] = [orders]
    for volume in spec["volumes"]:
        if volume.get("configMap", {}).get("name") == AGENT_CONFIGMAP:
            volume["configMap"]["items"] = [{"key": key, "path": path} for key, path in _places().items()]
    if deadline_s is not None:
        spec["activeDeadlineSeconds"] = deadline_s
    meta["labels"] = {**meta["labels"], **(labels or {})}
    secrets = [{"name": name} for name in pull_secrets]
    if secrets:
        spec["imagePullSecrets"] = secrets
    return pod


def plan_pod(
    role: Role,
    plan: Plan,
    node: str,
    orders: Orders,
    *,
    deadline_s: int | None = None,
    labels: Mapping[str, str] | None = None,
) -> JsonObject:
    """Return the pod of ``role`` that carries out ``orders`` on ``node``, in the image of ``plan``."""
    return build_pod(
        role,
        image=plan.image,
        node=node,
        orders=orders.to_argument(),
        deadline_s=deadline_s,
        labels=labels,
        pull_secrets=plan.image_pull_secrets,
    )


@functools.cache
def _places() -> dict[str, str]:
    """Return where each file of the agent is mounted, by its key in the ConfigMap."""
    return {_key(file): file.relative_to(_ROOT).as_posix() for file in AGENT_FILES}


def ensure_namespace(api: ClusterApi) -> None:
    """Create the namespace and the priority class if they are missing.

    Raises PreconditionFailed if they are missing and may not be created, or are being deleted.
    """
    _ensure(api, NAMESPACE, "namespace.yaml")
    _ensure(api, PRIORITYCLASS, "priorityclass.yaml")


def _ensure(api: ClusterApi, kind: Kind, manifest: str) -> None:
    body = load_manifest(manifest)
    name = body["metadata"]["name"]
    found = api.find(kind, name)
    if found is not None and found["metadata"].get("deletionTimestamp"):
        raise PreconditionFailed(
            f"the {body['kind']} {name} is being deleted; where that does not end, a run's saved state waits in "
            "it for bigtcp-bench restore"
        )
    if found is not None:
        return
    try:
        api.create(kind, body)
    except Conflict:
        pass  # somebody else just did
    except Forbidden as error:
        raise PreconditionFailed(
            f"the cluster has no {body['kind']} {name} and the account in use may not create it; an administrator "
            f"can, once: kubectl apply -f include/manifests/{manifest}"
        ) from error


def _key(file: Path) -> str:
    """Return a file's key in the ConfigMap, where keys have no slashes."""
    return ".".join(file.relative_to(_ROOT).parts)


def agent_configmap() -> JsonObject:
    """Return the ConfigMap that pods mount the agent's source from."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": AGENT_CONFIGMAP,
            "namespace": BENCH_NAMESPACE,
            "labels": dict(protocol.LABELS),
        },
        "data": dict(_agent_sources()),
    }


@functools.cache
def _agent_sources() -> dict[str, str]:
    return {_key(file): file.read_text(encoding="utf-8") for file in AGENT_FILES}


def ensure_agent_configmap(api: ClusterApi) -> None:
    """Put the pod agent's source, as it is in this package, where the pods mount it from."""
    body = agent_configmap()
    for _ in api.poll(10, 0.2):
        found = api.find(CONFIGMAP, AGENT_CONFIGMAP, BENCH_NAMESPACE)
        try:
            if found is None:
                api.create(CONFIGMAP, body, BENCH_NAMESPACE)
            elif found.get("data") != body["data"]:
                found["data"] = body["data"]
                api.replace(CONFIGMAP, found, BENCH_NAMESPACE)
            return
        except Conflict:
            continue
    raise PreconditionFailed(f"ConfigMap {BENCH_NAMESPACE}/{AGENT_CONFIGMAP} is being changed by somebody else")


def create_pod(api: ClusterApi, pod: Mapping[str, Any], *, before: Before | None = None) -> JsonObject:
    """Create a benchmark pod and return it as stored; ``before`` is that of ClusterApi.create."""
    return api.create(POD, pod, BENCH_NAMESPACE, before=before)


def wait_ready(api: ClusterApi, name: str, timeout_s: float = POD_START_S) -> JsonObject:
    """Return a pod once it is Ready. Raises PodFailed if it ends before, or not within ``timeout_s``."""
    return _wait(api, name, timeout_s, "become ready", is_ready)


def wait_addressed(
    api: ClusterApi, name: str, timeout_s: float = POD_START_S, *, in_service: bool = False
) -> JsonObject:
    """Return a pod once it has its addresses: its partner, which tries until it listens, can start meanwhile.

    It may still not become Ready; but a Service leads only to one that is, so one ``in_service`` is waited for
    until then. Raises PodFailed if it ends before, or not within ``timeout_s``.
    """
    if in_service:
        return wait_ready(api, name, timeout_s)
    return _wait(api, name, timeout_s, "get an address", lambda pod: bool(pod_addresses(pod)))


def wait_ended(api: ClusterApi, name: str, timeout_s: float = POD_START_S, poll_s: float = POLL_S) -> JsonObject:
    """Return a pod once it has succeeded. Raises PodFailed if it fails, or not within ``timeout_s``."""
    return _wait(api, name, timeout_s, "end", poll_s=poll_s)


def wait_over(api: ClusterApi, name: str) -> None:
    """Wait until a pod has ended, well or not, or is gone; OVER_S at most."""
    for _ in api.poll(OVER_S, POLL_S):
        pod = api.find(POD, name, BENCH_NAMESPACE)
        if pod is None or (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            return


def _wait(
    api: ClusterApi,
    name: str,
    timeout_s: float,
    wanted: str,
    reached: Callable[[JsonObject], bool] | None = None,
    poll_s: float = START_POLL_S,
) -> JsonObject:
    """Return a pod that ``reached`` says yes to, or without it one that has succeeded."""
    pod: JsonObject = {}
    for _ in api.poll(timeout_s, poll_s):
        found = api.find(POD, name, BENCH_NAMESPACE)
        if found is None:
            raise PodFailed(f"pod {BENCH_NAMESPACE}/{name} was deleted while it was waited for")
        pod = found
        phase = (pod.get("status") or {}).get("phase", "Pending")
        if phase == "Failed" or (phase == "Succeeded" and reached is not None):
            raise PodFailed(f"pod {BENCH_NAMESPACE}/{name} {_end(pod)}")
        if phase == "Succeeded" or (reached is not None and reached(pod)):
            return pod
    raise PodFailed(
        f"pod {BENCH_NAMESPACE}/{name} on node {node_of(pod)} did not {wanted} within {timeout_s:g} s: "
        f"it {waiting_reason(pod)}"
    )


def node_of(pod: Mapping[str, Any]) -> str:
    """Return the node a benchmark pod runs on, or is meant for."""
    spec = pod.get("spec") or {}
    if spec.get("nodeName"):
        return str(spec["nodeName"])
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return str(terms[0]["matchFields"][0]["values"][0])


def orders_in(pod: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a stored benchmark pod was told."""
    found: dict[str, Any] = json.loads(pod["spec"]["containers"][0]["args"][0])
    return found


def cpu_limit(pod: Mapping[str, Any]) -> str:
    """Return the CPU limit of a stored pod; empty if it has none, as ours unless admission adds one."""
    container = pod["spec"]["containers"][0]
    return str(((container.get("resources") or {}).get("limits") or {}).get("cpu", ""))


def log_of(api: ClusterApi, name: str) -> str:
    """Return everything that a benchmark pod has printed so far."""
    return api.logs(BENCH_NAMESPACE, name, CONTAINER)


def pod_addresses(pod: Mapping[str, Any]) -> dict[str, str]:
    """Return ``ipv4``/``ipv6`` → address of a running pod; a family that it has no address of is absent."""
    status = pod.get("status") or {}
    found = [item["ip"] for item in status.get("podIPs") or []] or [status.get("podIP")]
    return {"ipv6" if ":" in address else "ipv4": address for address in found if address}


def _end(pod: Mapping[str, Any]) -> str:
    status = pod.get("status") or {}
    said = " ".join((status.get("message") or "").split())
    reason = f"failed: {status.get('reason', 'no reason given')}{': ' + said if said else ''}"
    if status.get("reason"):
        return reason  # of the cluster, which killed the container: how that ended tells nothing
    for item in status.get("containerStatuses") or []:
        ended = (item.get("state") or {}).get("terminated")
        if ended:
            said = " ".join((ended.get("message") or "").split())[-300:]
            return f"ended with {ended.get('reason', 'exit')} {ended.get('exitCode')}{': ' + said if said else ''}"
    return reason


def forgotten(api: ClusterApi) -> list[str]:
    """Return the benchmark pods that ended so long ago that nobody is left who would delete them, by name."""
    found = api.select(POD, BENCH_NAMESPACE, labels=selector(ALL_ROLES))
    return [pod["metadata"]["name"] for pod in found if api.now() - _ended_at(pod) > FORGOTTEN_S]


def _ended_at(pod: Mapping[str, Any]) -> float:
    """Return when a pod ended, in seconds since the epoch; infinity while it has not."""
    status = pod.get("status") or {}
    if status.get("phase") not in ("Succeeded", "Failed"):
        return math.inf
    ends = [(item.get("state") or {}).get("terminated") or {} for item in status.get("containerStatuses") or []]
    # One that was evicted before it started has only its own time; of a node that went away nobody knows it.
    times = [end["finishedAt"] for end in ends if end.get("finishedAt")]
    return max(protocol.epoch(time) for time in times or [pod["metadata"]["creationTimestamp"]])


def delete_pods(
    api: ClusterApi,
    roles: Iterable[str] = TRAFFIC_ROLES,
    *,
    run_key: str | None = None,
    timeout_s: float = 60.0,
    before: Before | None = None,
    wait: bool = True,
    keep: str = "",
) -> list[str]:
    """Delete the benchmark pods of ``roles`` (of one run, or all) and wait until they are gone.

    Returns their names. ``before`` is the fence of whoever deletes the pods of all runs. Raises PodFailed if one
    is still there after ``timeout_s``, as on a node that is away. Who creates pods next waits for them anyway:
    without ``wait`` they go meanwhile. The pod named ``keep`` stays.
    """
    labels = selector(roles)
    if run_key is not None:
        labels += f",{selecting(run_labels(run_key))}"
    names: dict[str, None] = {}
    left: list[JsonObject] = []
    for _ in api.poll(timeout_s, START_POLL_S):
        found = api.select(POD, BENCH_NAMESPACE, labels=labels)
        left = [pod for pod in found if pod["metadata"]["name"] != keep]
        if not left:
            return list(names)
        for pod in left:
            names[pod["metadata"]["name"]] = None
            if not pod["metadata"].get("deletionTimestamp"):
                name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
                api.delete(POD, name, BENCH_NAMESPACE, uid=uid, grace_s=1, before=before)
        if not wait:
            return list(names)
    where = ", ".join(f"{pod['metadata']['name']} on node {node_of(pod)}" for pod in left)
    raise PodFailed(f"benchmark pods are still there {timeout_s:g} s after they were deleted: {where}")
