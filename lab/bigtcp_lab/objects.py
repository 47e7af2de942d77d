"""The objects a fresh lab starts with: namespaces, nodes, priority classes, Cilium."""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from bigtcp_lab.api.discovery import NAMESPACES, NODES, PRIORITYCLASSES, resource_of_kind
from bigtcp_lab.api.server import VERSION
from bigtcp_lab.api.store import Store, now
from bigtcp_lab.network import LabNode

Object = dict[str, Any]

_CILIUM = Path(__file__).with_name("cilium-objects.yaml")
_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
#: The two classes that every cluster has, with the values Kubernetes gives them.
_PRIORITIES = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}


def node_object(node: LabNode) -> Object:
    """Return the Node object of ``node``, ready, with this machine's processors, memory and kernel."""
    capacity = {
        "cpu": str(os.cpu_count() or 1),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 1024}Ki",
        "pods": "110",
    }
    labels = {"beta.kubernetes.io/arch": _architecture(), "beta.kubernetes.io/os": "linux"}
    labels |= {"kubernetes.io/arch": _architecture(), "kubernetes.io/os": "linux"}
    labels |= {"kubernetes.io/hostname": node.name, "topology.kubernetes.io/zone": node.zone}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels},
        "spec": {"podCIDR": node.pod_networks[0], "podCIDRs": list(node.pod_networks)},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": node.ipv4},
                {"type": "InternalIP", "address": node.ipv6},
                {"type": "Hostname", "address": node.name},
            ],
            "allocatable": dict(capacity),
            "capacity": capacity,
            "conditions": _node_conditions(),
            "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
            "nodeInfo": {
                "architecture": _architecture(),
                "bootID": Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
                "containerRuntimeVersion": "bigtcp-bench-lab://1",
                "kernelVersion": platform.release(),
                "kubeProxyVersion": "",
                "kubeletVersion": VERSION["gitVersion"],
                "machineID": "",
                "operatingSystem": "linux",
                "osImage": platform.freedesktop_os_release().get("PRETTY_NAME", "Linux"),
                # Of each node its own: another one under an old name is another machine.
                "systemUUID": str(uuid.uuid5(uuid.NAMESPACE_DNS, node.name)),
            },
        },
    }


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def _node_conditions() -> list[Object]:
    told = [
        ("NetworkUnavailable", "False", "CiliumIsUp", "Cilium is running on this node"),
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ]
    times = {"lastHeartbeatTime": now(), "lastTransitionTime": now()}
    return [
        {"type": kind, "status": value, "reason": reason, "message": message, **times}
        for kind, value, reason, message in told
    ]


def cilium_objects() -> list[Object]:
    """Return Cilium's CRD, ServiceAccount, ConfigMap ``cilium-config`` and DaemonSet ``cilium``."""
    # Much faster where PyYAML was built with libyaml, as its wheels are.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return list(yaml.load_all(_CILIUM.read_text(encoding="utf-8"), loader))


async def seed(store: Store, nodes: Iterable[LabNode] = (), *, cilium: bool = True) -> None:
    """Put the initial objects into an empty ``store``; without ``nodes`` it gets the usual two."""
    for name in _NAMESPACES:
        await store.create(NAMESPACES, {"metadata": {"name": name}})
    for name, value in _PRIORITIES.items():
        await store.create(PRIORITYCLASSES, {"metadata": {"name": name}, "value": value})
    for node in nodes or map(LabNode, (1, 2)):
        await store.create(NODES, node_object(node))
    for obj in cilium_objects() if cilium else []:
        resource = resource_of_kind(obj["apiVersion"], obj["kind"])
        assert resource is not None  # the file holds only kinds that are served
        await store.create(resource, obj, obj["metadata"].get("namespace"))
