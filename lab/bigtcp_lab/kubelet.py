"""One node's kubelet: runs the pods that are bound to it as real processes and reports what became of them.

Deliberately small: no resource limits (every container may use the whole machine), no lifecycle hooks, no side-car
init containers, no image content. Processes, networks, logs, exit codes, restarts, probes and deadlines are real.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

from bigtcp_lab.api.discovery import PODS
from bigtcp_lab.network import NodeNetwork
from bigtcp_lab.pod_worker import PodWorker, Surroundings

Object = dict[str, Any]
log = logging.getLogger(__name__)


class Kubelet:
    """Runs the pods of one node."""

    def __init__(self, surroundings: Surroundings, node: NodeNetwork, directory: Path) -> None:
        self._surroundings = surroundings
        self.node = node
        #: The node's own files: ``pods/<uid>`` and ``host``, what hostPath volumes see as ``/``.
        self._directory = directory
        self.alive = True
        self._workers: dict[str, PodWorker] = {}

    async def run(self) -> None:
        """Watch the pods of this node and run them, for ever."""
        selector = f"spec.nodeName={self.node.name}"
        with self._surroundings.store.watch(PODS, field_selector=selector) as watch:
            async for kind, pod in watch:
                if self.alive:
                    try:
                        self._notice(kind, pod)
                    except Exception:  # one pod's oddities must not end its node
                        log.exception("pod %s", pod["metadata"]["name"])

    def _notice(self, kind: str, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        worker = self._workers.get(uid)
        if kind == "DELETED":
            if worker is not None:
                del self._workers[uid]
                worker.forget()
        elif worker is not None:
            worker.update(pod)
        elif (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
            self._workers[uid] = PodWorker(self._surroundings, self.node, self._directory, pod)

    def worker(self, namespace: str, name: str) -> PodWorker | None:
        """Return the worker of a pod, or None when this node does not have it."""
        for worker in self._workers.values():
            metadata = worker.pod["metadata"]
            if (metadata["namespace"], metadata["name"]) == (namespace, name):
                return worker
        return None

    async def die(self) -> None:
        """Stop without a word, as a machine that loses power: all processes end, nothing is reported."""
        self.alive = False
        workers, self._workers = self._workers, {}
        await asyncio.gather(*(worker.vanish() for worker in workers.values()))

    async def revive(self) -> None:
        """Start again, as after a reboot: pods that restart do, the others have failed."""
        self.alive = True
        store = self._surroundings.store
        for pod in await store.list(PODS, field_selector=f"spec.nodeName={self.node.name}"):
            if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
                continue
            if "deletionTimestamp" in pod["metadata"]:
                await store.delete(
                    PODS, pod["metadata"]["name"], pod["metadata"]["namespace"], grace_period_seconds=0
                )
            elif pod["spec"]["restartPolicy"] == "Always":
                self._notice("ADDED", pod)
            else:
                pod["status"] |= {"phase": "Failed", "reason": "Terminated", "message": "The node was restarted"}
                await store.update(PODS, pod, "status")
