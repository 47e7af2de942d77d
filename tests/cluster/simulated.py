"""A cluster in memory: the lab's API store, with agents and devices that follow at once, and clients to kill.

Time is simulated too: sleeping takes none, so every timeout can be tested.
"""

from __future__ import annotations

import base64
import copy
import functools
import json
import threading
import zlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kubernetes import client as k8s

from bigtcp_bench.cluster.api import ClusterApi, CommandFailed, _problem
from bigtcp_bench.cluster.cilium import MERGED_DIR, POD_TEMPLATE_GENERATION, TEMPLATE_GENERATION
from bigtcp_bench.cluster.pods import node_of
from bigtcp_bench.in_cluster.output import MARKER
from bigtcp_bench.in_cluster.protocol import CRASHES, GUARDIAN_NAME, is_agent, selects
from bigtcp_bench.in_cluster.treatment import KEYS, LIMITS
from bigtcp_lab.api import paths
from bigtcp_lab.api.copies import copied
from bigtcp_lab.api.discovery import (
    CILIUMNODECONFIGS,
    CONFIGMAPS,
    CRONJOBS,
    DAEMONSETS,
    LEASES,
    NAMESPACES,
    NETWORKPOLICIES,
    NODES,
    PODS,
    SELFSUBJECTACCESSREVIEWS,
    SERVICEACCOUNTS,
    SERVICES,
    api_group,
    api_resource_list,
)
from bigtcp_lab.api.status import ApiError
from bigtcp_lab.api.store import Store
from bigtcp_lab.controllers import garbage, services
from bigtcp_lab.objects import seed

RECORDED = Path(__file__).parents[1] / "recorded"
BIG = 196608
SMALL = 65536
MEMINFO = "MemTotal: 8000000 kB\nMemAvailable: 7000000 kB\n"
ALL_LIMITS = [name for names in LIMITS.values() for name in names]


def status_before_1_16(document: dict[str, Any]) -> dict[str, Any]:
    """Return a recorded status as an agent of Cilium 1.14 or 1.15 would have given it.

    By Cilium's source (api/v1/models/status_response.go): until ``routing`` came in 1.16 there was
    ``host-routing`` with ``mode`` BPF or Legacy, and neither the routing between hosts nor the datapath was told.
    """
    later = ("routing", "datapath-mode", "configured-datapath-mode", "attach-mode")
    older = {key: value for key, value in document.items() if key not in later}
    return {**older, "host-routing": {"mode": document["routing"]["intra-host-routing-mode"]}}


class Killed(BaseException):
    """The process of a task ends here, without a chance to clean up."""


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine that never waits; nothing in the store does."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("the store waited for something")


@functools.cache
def _recorded_status(arm: str) -> str:
    return (RECORDED / f"cilium-status-{arm}.json").read_text(encoding="utf-8")


@functools.cache
def _seeded() -> Store:
    store = Store()
    run(seed(store))
    # What an administrator has applied.
    run(store.create(NAMESPACES, {"metadata": {"name": "bigtcp-bench"}}))
    run(store.create(SERVICEACCOUNTS, {"metadata": {"name": GUARDIAN_NAME}}, "bigtcp-bench"))
    run(store.create(NETWORKPOLICIES, {"metadata": {"name": "bigtcp-bench"}}, "bigtcp-bench"))
    return store


def _forked(store: Store) -> Store:
    """Return a store with the same objects, and without their history."""
    fork = Store()
    fork.version, fork._objects = store.version, copied(store._objects)
    return fork


@dataclass
class Node:
    limits: dict[str, int] = field(
        default_factory=lambda: {**dict.fromkeys(ALL_LIMITS, SMALL), "tso_max_size": 524280}
    )
    merged: dict[str, str] = field(default_factory=dict)
    #: The whole configuration that its agent was told.
    told: dict[str, str] = field(default_factory=dict)
    agents_started: int = 0
    #: What others use of its CPU time.
    busy_share: float = 0.1


def _orders(pod: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pod["spec"]["containers"][0]["args"][0])
    return found


def _proc_stat(busy_share: float | None) -> str:
    """Return the first line of /proc/stat, 400 ticks after that of None."""
    user, idle = (0, 0) if busy_share is None else (round(400 * busy_share), round(400 * (1 - busy_share)))
    return f"cpu  {1000 + user} 0 0 {1000 + idle} 0 0 0 0 0 0\n"


class Cluster:
    """The cluster itself; any number of clients talk to it."""

    def __init__(self, **configured: str) -> None:
        self.configured = configured
        self.store = _forked(_seeded())
        self.time = 1_800_000_000.0
        #: Tasks ask about both nodes at once; the store answers one request after the other.
        self.turn = threading.RLock()
        self.nodes = {"node1": Node(), "node2": Node()}
        #: What goes wrong: ``never-ready``, ``setting-ignored``, ``crashes`` (an agent),
        #: ``crashes-when-on`` (one that is told true).
        self.faults: set[str] = set()
        #: Nodes on which no pod of the benchmark is started.
        self.full: set[str] = set()
        #: Resources that nobody may write, as access reviews tell.
        self.forbidden: set[str] = set()
        #: More devices of every node, and other answers of every agent.
        self.extra_devices: dict[str, dict[str, Any]] = {}
        self.extra_status: dict[str, Any] = {}
        #: Family → why pods do not reach each other over it.
        self.unreachable: dict[str, str] = {}
        #: The same of its Service.
        self.unserved: dict[str, str] = {}
        if configured:
            config = run(self.store.get(CONFIGMAPS, "cilium-config", "kube-system"))
            config["data"].update({key.replace("_", "-"): value for key, value in configured.items()})
            run(self.store.update(CONFIGMAPS, config))
        self.reconcile()

    def client(self) -> Client:
        return Client(self)

    def state(self) -> dict[str, Any]:
        """Return everything that a run must leave as it was."""
        configs = run(self.store.list(CILIUMNODECONFIGS))
        config = run(self.store.get(CONFIGMAPS, "cilium-config", "kube-system"))
        return copied(
            {
                "node configs": [(item["metadata"]["name"], item["spec"]) for item in configs],
                "cilium-config": config["data"],
                "annotations": config["metadata"].get("annotations"),
                "labels": {
                    item["metadata"]["name"]: item["metadata"]["labels"] for item in run(self.store.list(NODES))
                },
                "limits": {name: node.limits for name, node in self.nodes.items()},
                "merged": {name: node.merged for name, node in self.nodes.items()},
                "saved": self.find(CONFIGMAPS, "bigtcp-bench-saved-state"),
                "guardian": [*self.find(CRONJOBS, GUARDIAN_NAME), *self.find(CONFIGMAPS, GUARDIAN_NAME)],
                "pods": [item["metadata"]["name"] for item in run(self.store.list(PODS, "bigtcp-bench"))],
                "services": [item["metadata"]["name"] for item in run(self.store.list(SERVICES))],
                "template": self.daemonset()["spec"]["template"],
            }
        )

    @property
    def untouched(self) -> bool:
        """Whether it still is as it was made."""
        made = _made(**self.configured)
        own = (self.store.version, self.time, self.nodes, self.faults, self.full, self.forbidden)
        others = (made.store.version, made.time, made.nodes, made.faults, made.full, made.forbidden)
        return own == others and not (self.extra_devices or self.extra_status or self.unreachable or self.unserved)

    def become(self, other: Cluster) -> None:
        """Be from now on what ``other`` is, for all clients, too."""
        vars(self).update(vars(other.fork()))

    def fork(self) -> Cluster:
        """Return another cluster that is as this one is now, and goes its own way from here."""
        with self.turn:
            return self._forked()

    def _forked(self) -> Cluster:
        other = copy.copy(self)
        other.turn = threading.RLock()
        other.store = _forked(self.store)
        other.nodes, other.extra_devices, other.extra_status = copy.deepcopy(
            (self.nodes, self.extra_devices, self.extra_status)
        )
        other.faults, other.full, other.forbidden = set(self.faults), set(self.full), set(self.forbidden)
        other.unreachable, other.unserved = dict(self.unreachable), dict(self.unserved)
        return other

    def lose_state(self) -> None:
        """Do as somebody who takes the finalizer off the saved state and deletes it."""
        place = ("bigtcp-bench-saved-state", "bigtcp-bench")
        body = {"metadata": {"finalizers": None}}
        run(self.store.patch(CONFIGMAPS, *place, "application/merge-patch+json", body))
        run(self.store.delete(CONFIGMAPS, *place))

    def find(self, resource: Any, name: str) -> list[dict[str, Any]]:
        return [item for item in run(self.store.list(resource)) if item["metadata"]["name"] == name]

    def lease(self) -> dict[str, Any]:
        return dict(run(self.store.get(LEASES, "bigtcp-bench", "bigtcp-bench"))["spec"])

    # What controllers, kubelets and agents do

    def daemonset(self) -> dict[str, Any]:
        """Return Cilium's."""
        found: dict[str, Any] = run(self.store.get(DAEMONSETS, "cilium", "kube-system"))
        return found

    def agents(self, node: str) -> list[dict[str, Any]]:
        """Return the pods of Cilium's DaemonSet on ``node``."""
        return [copied(pod) for pod in self._agents(node)]

    def _agents(self, node: str) -> list[dict[str, Any]]:
        pods = self.store.look(PODS)
        return [pod for pod in pods if pod["spec"].get("nodeName") == node and is_agent(pod, "cilium")]

    def reconcile(self) -> None:
        # Looked at without a copy: this comes after every change of any client.
        daemonset = self.store._find(DAEMONSETS, "cilium", "kube-system")
        template = self._template(daemonset)
        for pod in self.store.look(PODS):
            meta = pod["metadata"]
            if meta.get("deletionTimestamp"):
                run(self.store.delete(PODS, meta["name"], meta["namespace"], grace_period_seconds=0))
            elif meta.get("labels", {}).get("app.kubernetes.io/name") == "bigtcp-bench":
                self._run_bench_pod(pod)
            elif meta.get("annotations", {}).get("template") != template:
                run(self.store.delete(PODS, meta["name"], meta["namespace"], grace_period_seconds=0))
        if self.store.look(SERVICES):
            run(services.reconcile(self.store))
            run(garbage.reconcile(self.store))
        for name in self.nodes:
            if not self._agents(name):
                self._start_agent(name, daemonset)
        count = len(self.nodes)
        numbers = ("desiredNumberScheduled", "updatedNumberScheduled", "numberAvailable", "numberReady")
        status = {
            **dict.fromkeys(numbers, count),
            "observedGeneration": daemonset["metadata"]["generation"],
        }
        if daemonset.get("status") != status:
            run(self.store.update(DAEMONSETS, {**daemonset, "status": status}, "status"))

    @staticmethod
    def _template(daemonset: dict[str, Any]) -> str:
        return json.dumps(daemonset["spec"]["template"]["metadata"].get("annotations"), sort_keys=True)

    def _start_agent(self, name: str, daemonset: dict[str, Any]) -> None:
        node = self.nodes[name]
        node.agents_started += 1
        node.told = self._merge(name)
        node.merged = {key: node.told.get(key, "false") for key in KEYS.values()}
        crashes = "crashes" in self.faults or ("crashes-when-on" in self.faults and "true" in node.merged.values())
        if "setting-ignored" not in self.faults and not crashes:
            for family, key in KEYS.items():
                for limit in LIMITS[family]:
                    if node.merged[key] == "true":
                        node.limits[limit] = BIG
                    elif node.limits[limit] > SMALL:
                        node.limits[limit] = SMALL
        pod = {
            "metadata": {
                "generateName": "cilium-",
                "namespace": "kube-system",
                "labels": {
                    "k8s-app": "cilium",
                    POD_TEMPLATE_GENERATION: daemonset["metadata"]["annotations"][TEMPLATE_GENERATION],
                },
                "annotations": {"template": self._template(daemonset)},
                "ownerReferences": [
                    {
                        "apiVersion": "apps/v1",
                        "kind": "DaemonSet",
                        "name": daemonset["metadata"]["name"],
                        "uid": daemonset["metadata"]["uid"],
                        "controller": True,
                    }
                ],
            },
            "spec": {"nodeName": name, "containers": [{"name": "cilium-agent", "image": "cilium"}]},
        }
        created = run(self.store.create(PODS, pod))
        # The store's clock is the real one.
        stored = self.store._find(PODS, created["metadata"]["name"], "kube-system")
        stored["metadata"]["creationTimestamp"] = f"{datetime.fromtimestamp(int(self.time), UTC):%FT%TZ}"
        ready = "never-ready" not in self.faults and not crashes
        waiting = {
            "waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}
        }
        ended = {"terminated": {"reason": "Error", "exitCode": 1, "message": "no kernel for that"}}
        created["status"] = {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [
                {
                    "name": "cilium-agent",
                    "ready": ready,
                    "state": waiting if crashes else {"running": {}},
                    "lastState": ended if crashes else {},
                    "restartCount": CRASHES if crashes else 0,
                }
            ],
        }
        run(self.store.update(PODS, created, "status"))

    def _merge(self, name: str) -> dict[str, str]:
        merged = dict(self.store._find(CONFIGMAPS, "cilium-config", "kube-system")["data"])
        labels = self.store._find(NODES, name, None)["metadata"]["labels"]
        for item in run(self.store.list(CILIUMNODECONFIGS)):
            if selects(item["spec"].get("nodeSelector"), labels):
                merged.update(item["spec"]["defaults"])
        return merged

    def _run_bench_pod(self, pod: dict[str, Any]) -> None:
        if pod.get("status", {}).get("phase") in ("Succeeded", "Failed", "Running") or node_of(pod) in self.full:
            return
        ends = _orders(pod)["do"] in ("probe", "reach")
        status = {
            "phase": "Succeeded" if ends else "Running",
            "conditions": [{"type": "Ready", "status": str(not ends)}],
            "podIPs": [{"ip": "10.244.0.9"}, {"ip": "fd44::9"}],
        }
        if ends:
            finished = f"{datetime.fromtimestamp(self.time, UTC):%FT%TZ}"
            status["containerStatuses"] = [{"name": "base", "state": {"terminated": {"finishedAt": finished}}}]
        run(self.store.update(PODS, {**pod, "status": status}, "status"))

    def pod_log(self, pod: str) -> str:
        found = self.store._find(PODS, pod, "bigtcp-bench")
        if _orders(found)["do"] == "reach":
            told = {"v": 1, "kind": "reach", "unreachable": self.unreachable, "service": self.unserved}
            return f"{MARKER}{json.dumps(told)}\n"
        name = node_of(found)
        device = {"index": 2, "kind": "veth", "driver": "veth", "mtu": 1500, **self.nodes[name].limits}
        document = {
            "hostname": name,
            "kernel_release": "6.18.0",
            "boot_id": "b",
            "capabilities": {"ipv4_big_tcp": True, "ipv6_big_tcp": True},
            "snapshot": {
                "time_s": 3.0,
                "monotonic_s": 3.0,
                "user_hz": 100,
                "meminfo": MEMINFO,
                "devices": {"eth0": device, **self.extra_devices},
                "proc_stat": _proc_stat(self.nodes[name].busy_share),
            },
        }
        if _orders(found).get("sample_s"):
            document["earlier"] = {
                "time_s": 1.0,
                "monotonic_s": 1.0,
                "user_hz": 100,
                "devices": {},
                "proc_stat": _proc_stat(None),
            }
        packed = base64.b64encode(zlib.compress(json.dumps(document).encode())).decode()
        return f"hello\n{MARKER}{json.dumps({'v': 1, 'kind': 'probe', 'doc': packed})}\n"

    def agent_status(self, name: str) -> dict[str, Any]:
        limits = self.nodes[name].limits
        on = any(value == "true" for value in self.nodes[name].merged.values())
        document: dict[str, Any] = json.loads(_recorded_status("on" if on else "off"))
        for family, (gso, gro) in LIMITS.items():
            document[f"{family}-big-tcp"].update(maxGSO=limits[gso], maxGRO=limits[gro])
        return {**document, **self.extra_status}


@functools.cache
def _made(**configured: str) -> Cluster:
    return Cluster(**configured)


class Client(ClusterApi):
    """One process's connection to the cluster. ``interrupt`` is called around each of its requests."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(
            k8s.ApiClient(k8s.Configuration(host="https://simulated")),
            clock=lambda: cluster.time,
            monotonic=lambda: cluster.time,
            sleep=self._pass,
        )
        self.cluster = cluster
        self.changes = 0
        #: Called with ("before" or "after", number of the change).
        self.interrupt: Callable[[str, int], None] = lambda moment, number: None
        self.killed = False

    def _pass(self, seconds: float) -> None:
        with self.cluster.turn:
            self.cluster.time += seconds

    def _request(self, method: str, path: str, *, query=(), body=None, headers=None, before=None, answer="json"):  # type: ignore[no-untyped-def,override]
        if self.killed:
            raise Killed  # a dead process makes no requests, not even to tidy up
        if before is not None:
            before()
        changing = method != "GET" and not path.endswith(SELFSUBJECTACCESSREVIEWS.plural)
        if changing:
            self.changes += 1
            self._interrupted("before", self.changes)
        number = self.changes
        try:
            with self.cluster.turn:
                self.cluster.time += 0.01
                result = run(self._answer(method, path, dict(query), body, headers or {}))
                if changing:
                    self.cluster.reconcile()
        except ApiError as error:
            if changing:
                self._interrupted("after", number)
            raise _problem(error.code, method, path, json.dumps(error.body())) from error
        if changing:
            self._interrupted("after", number)
        return result

    def _interrupted(self, moment: str, number: int) -> None:
        try:
            self.interrupt(moment, number)
        except Killed:
            self.killed = True
            raise

    async def _answer(self, method: str, path: str, query: dict[str, str], body: Any, headers: Any) -> Any:
        store = self.cluster.store
        if path == "/version":
            return {"gitVersion": "v1.36.2"}
        parts = path.strip("/").split("/")
        if parts[0] == "apis" and len(parts) == 2:
            return api_group(parts[1])
        if parts[0] == "apis" and len(parts) == 3:
            return api_resource_list(parts[1], parts[2])
        target = paths.parse(path)
        resource, name, namespace = target.resource, target.name, target.namespace or None
        if resource == SELFSUBJECTACCESSREVIEWS:
            return {
                "status": {"allowed": body["spec"]["resourceAttributes"]["resource"] not in self.cluster.forbidden}
            }
        if target.subresource == "log":
            return self.cluster.pod_log(name)
        if method == "GET" and name:
            return await store.get(resource, name, namespace)
        if method == "GET":
            found = await store.list(resource, namespace, query.get("labelSelector"), query.get("fieldSelector"))
            return {"items": found}
        if method == "POST":
            return await store.create(resource, body, namespace)
        if method == "PUT":
            return await store.update(resource, body)
        if method == "PATCH":
            return await store.patch(resource, name, namespace, headers["Content-Type"], body)
        conditions = body.get("preconditions") or {}
        return await store.delete(
            resource,
            name,
            namespace,
            grace_period_seconds=body.get("gracePeriodSeconds"),
            uid=conditions.get("uid"),
            resource_version=conditions.get("resourceVersion"),
        )

    def exec(self, namespace: str, pod: str, container: str, argv: Any) -> str:
        with self.cluster.turn:
            return self._executed(namespace, pod, argv)

    def _executed(self, namespace: str, pod: str, argv: Any) -> str:
        name = self.cluster.store._find(PODS, pod, namespace)["spec"]["nodeName"]
        node = self.cluster.nodes[name]
        if argv[0] == "cat":
            return node.merged[argv[1].removeprefix(f"{MERGED_DIR}/")]
        if list(argv) == ["grep", "-ra", "", f"{MERGED_DIR}/..data/"]:
            return "".join(f"{MERGED_DIR}/..data/{key}:{value}\n" for key, value in node.told.items())
        if list(argv) == ["cilium-dbg", "status", "-o", "json"]:
            return json.dumps(self.cluster.agent_status(name))
        raise CommandFailed(f"{argv} is not simulated")


def dies_everywhere(api: Client, moment: str, task: Callable[[], Any]) -> list[Cluster]:
    """Return what ``task``, by ``api``, leaves of its cluster when it dies at its n-th change, for every n.

    ``moment`` is "before" or "after" the change. The last cluster is the one that it leaves when it lives. Whoever
    is dead makes no request any more, so that it leaves what a living one has done until then.
    """
    left: list[Cluster] = []

    def keep(when: str, _change: int) -> None:
        if when == moment:
            left.append(api.cluster.fork())

    api.interrupt = keep
    task()
    return [*left, api.cluster]
