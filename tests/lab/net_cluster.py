"""A running lab for tests, and the few things they do to it through the Python client."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes

import bigtcp_bench
from bigtcp_bench.in_cluster import devices
from bigtcp_lab import daemon

from .helpers import eventually, running_command

Object = dict[str, Any]
# A pod sees nothing of the checkout, so it gets the agent's source, in pieces that fit into the URL of an exec.
_SOURCE = base64.b64encode(zlib.compress(Path(devices.__file__).read_bytes(), 9)).decode()
SOURCE_PIECES = [_SOURCE[start : start + 6000] for start in range(0, len(_SOURCE), 6000)]
ADD_PIECE = "import sys; open('/tmp/agent', 'a').write(sys.argv[1])"
PRINT_LIMITS = (
    "import base64, json, types, zlib; agent = types.ModuleType('agent'); source = open('/tmp/agent').read(); "
    "exec(zlib.decompress(base64.b64decode(source)), agent.__dict__); print(json.dumps(agent.device_limits()))"
)
PLUGINS = str(Path(bigtcp_bench.__file__).parent.parent)
BIG, SMALL = 196608, 65536
NODE_CONFIG = ("cilium.io", "v2", "kube-system", "ciliumnodeconfigs")


class RunningLab:
    """A lab in a directory, with clients."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        self.info = daemon.up(directory, **options)
        client = kubernetes.config.new_client_from_config(str(self.info.kubeconfig))
        self.core = kubernetes.client.CoreV1Api(client)
        self.custom = kubernetes.client.CustomObjectsApi(client)

    def agent(self, node: str) -> Any:
        """Return the node's agent pod that is not about to go, or None."""
        pods = self.core.list_namespaced_pod(
            "kube-system", label_selector="k8s-app=cilium", field_selector=f"spec.nodeName={node}"
        ).items
        return next((pod for pod in pods if pod.metadata.deletion_timestamp is None), None)

    def restart_agent(self, node: str) -> None:
        """Delete the node's agent pod and wait for a ready successor."""
        old = self.agent(node)
        self.core.delete_namespaced_pod(old.metadata.name, "kube-system")

        def successor() -> bool:
            pod = self.agent(node)
            return pod is not None and pod.metadata.uid != old.metadata.uid and is_ready(pod)

        eventually(successor, f"new agent on {node}")

    def switch(self, on: bool) -> None:
        """Put an arm in force on both nodes: CiliumNodeConfig, then the agents one at a time."""
        value = "true" if on else "false"
        body = {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNodeConfig",
            "metadata": {"name": "zz-test", "namespace": "kube-system"},
            "spec": {
                "nodeSelector": {"matchLabels": {"kubernetes.io/os": "linux"}},
                "defaults": {"enable-ipv4-big-tcp": value, "enable-ipv6-big-tcp": value},
            },
        }
        if self.custom.list_namespaced_custom_object(*NODE_CONFIG)["items"]:
            self.custom.patch_namespaced_custom_object(*NODE_CONFIG, "zz-test", {"spec": body["spec"]})
        else:
            self.custom.create_namespaced_custom_object(*NODE_CONFIG, body)
        for node in ("node1", "node2"):
            self.restart_agent(node)

    def create(
        self, name: str, node: str, command: list[str], container: Object | None = None, **spec: Any
    ) -> None:
        """Create a pod with one container; ``container`` and ``spec`` add to it and to its specification."""
        image = {"name": "base", "image": "nicolaka/netshoot:v0.14"}
        defaults = {"nodeName": node, "restartPolicy": "Never", "terminationGracePeriodSeconds": 0}
        containers = [{**image, "command": command, **(container or {})}]
        body = {"metadata": {"name": name}, "spec": {**defaults, "containers": containers, **spec}}
        self.core.create_namespaced_pod("default", body)

    def run(self, name: str, node: str, command: list[str], **options: Any) -> Any:
        """Create a pod and return it once it is ready."""
        self.create(name, node, command, **options)
        return self.wait_for(name, is_ready)

    def wait_for(self, name: str, check: Callable[[Any], bool]) -> Any:
        """Return the pod once ``check`` is true of it."""

        def found() -> Any:
            pod = self.core.read_namespaced_pod(name, "default")
            return pod if check(pod) else None

        return eventually(found, f"pod {name}")

    def delete(self, *names: str) -> None:
        """Delete pods and wait until they are gone."""
        for name in names:
            self.core.delete_namespaced_pod(name, "default")

        def gone() -> bool:
            return not {pod.metadata.name for pod in self.core.list_namespaced_pod("default").items} & set(names)

        eventually(gone, f"end of {names}")

    def exec(self, name: str, *command: str, namespace: str = "default") -> str:
        """Return what a command in the pod's first container prints; fails unless it exits with 0."""
        with running_command(self.core, name, *command, namespace=namespace) as session:
            session.run_forever(timeout=60)
            code = session.returncode  # first: read_all() takes it, too
            output: str = session.read_all()
        assert code == 0, output
        return output

    def limits(self, name: str, device: str = "eth0", namespace: str = "default") -> dict[str, int]:
        """Return the BIG TCP limits of a device as seen in a pod, without tso_max_size."""
        found = self.all_limits(name, namespace)[device]
        return {key: value for key, value in found.items() if key != "tso_max_size"}

    def all_limits(self, name: str, namespace: str = "default") -> dict[str, dict[str, int]]:
        """Return device → limits as the pod agent's own reader sees them in a pod."""
        self.exec(name, "rm", "-f", "/tmp/agent", namespace=namespace)
        for piece in SOURCE_PIECES:
            self.exec(name, "python3", "-c", ADD_PIECE, piece, namespace=namespace)
        answer = self.exec(name, "python3", "-c", PRINT_LIMITS, namespace=namespace)
        found: dict[str, dict[str, int]] = json.loads(answer)
        return found

    def node_limits(self, node: str) -> set[int]:
        """Return the different limits of the node's NIC."""
        return set(self.limits(self.agent(node).metadata.name, namespace="kube-system").values())


def is_ready(pod: Any) -> bool:
    return any(each.type == "Ready" and each.status == "True" for each in pod.status.conditions or [])
