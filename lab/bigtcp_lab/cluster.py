"""One lab as a whole: puts network, API, controllers and kubelets together, and lets faults act on them."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

from bigtcp_bench.errors import PreconditionFailed
from bigtcp_lab import objects
from bigtcp_lab.api import certificates
from bigtcp_lab.api.conditions import is_ready
from bigtcp_lab.api.discovery import LEASES, NODES, PODS
from bigtcp_lab.api.server import ApiServer, build_app
from bigtcp_lab.api.store import Store, now
from bigtcp_lab.api.tokens import Tokens
from bigtcp_lab.cilium import ask_agent
from bigtcp_lab.containers import ProcessNamespace
from bigtcp_lab.control import with_control
from bigtcp_lab.controllers import run_controllers
from bigtcp_lab.faults import FAULTS, LOST_SHARE, SLOW_PATH_MBIT, FaultState
from bigtcp_lab.fittings import API_PORT, Fittings
from bigtcp_lab.kubelet import Kubelet
from bigtcp_lab.listening import ListenAddress, listen
from bigtcp_lab.neighbours import Neighbours
from bigtcp_lab.netlink import DEFAULT_SIZE, LARGEST_SIZE, Limits, set_limits
from bigtcp_lab.network import API_ADDRESS, Fabric, NodeNetwork
from bigtcp_lab.pod_worker import NetworkNotReady, Surroundings
from bigtcp_lab.runtime import LabRuntime
from bigtcp_lab.services import ServiceProxy
from bigtcp_lab.volumes import Sources

log = logging.getLogger(__name__)

_HEARTBEAT_S = 10
_NODE_GRACE_S = 2
"""How long a node may be silent before it counts as unknown (40 s in Kubernetes; here nobody wants to wait)."""
_POLL_S = 0.1


class Lab:
    """A running lab, from ``start`` to ``stop``."""

    def __init__(
        self, state_dir: Path, *, nodes: int, faults: Sequence[str], rbac: bool, listen: ListenAddress | None
    ) -> None:
        self._state_dir = state_dir
        self._nodes = nodes
        self._rbac = rbac
        self._listen = listen
        names = [f"node{number}" for number in range(1, nodes + 1)]
        self.faults = FaultState(names, faults)
        self._store = Store()
        self._tokens = Tokens()
        self._processes = ProcessNamespace()
        self._kubelets: dict[str, Kubelet] = {}
        self._tasks: list[asyncio.Task[Any]] = []
        self._background: set[asyncio.Task[None]] = set()
        #: Done, with its error, when a part of the lab has ended that should not.
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.url = ""
        self.kubeconfig: dict[str, Any] = {}

    @property
    def _cilium(self) -> bool:
        return not self.faults.is_on("no-cilium")

    async def start(self) -> None:
        """Start everything; raises PreconditionFailed when this machine cannot run a lab."""
        listening = [listen("127.0.0.1"), *(self._listen.bind() if self._listen else [])]
        try:
            self._fabric = Fabric(self._nodes)
            self._fabric.up()
        except OSError as error:
            raise PreconditionFailed(
                f"lab: this machine does not allow the lab's network (root or user namespaces are needed): {error}"
            ) from error
        await self._processes.start()
        self._fittings = Fittings(self._state_dir, self.faults)
        self._proxy = ServiceProxy(node.namespace for node in self._fabric.nodes.values())
        root = self._state_dir / "root"
        root.mkdir(exist_ok=True)
        surroundings = Surroundings(
            self._store,
            Sources(self._store, self._tokens.service_account),
            self._processes,
            root,
            self._fittings,
            self.faults,
            self._pod_limits,
            self._proxy,
        )
        self._kubelets = {
            name: Kubelet(surroundings, node, self._state_dir / "nodes" / name)
            for name, node in self._fabric.nodes.items()
        }
        self.faults.listen(self._apply_fault)
        for name in self._kubelets:
            self._fittings.write_faults(name)
        self._neighbours = Neighbours(self._processes)
        await objects.seed(self._store, self._fabric.nodes.values(), cilium=self._cilium)
        for fault in FAULTS:
            for name in ["", *self._kubelets]:
                if self.faults.is_on(fault, name):
                    self._apply_fault(fault, name, True)
        await self._start_api(listening)
        for name, kubelet in self._kubelets.items():
            self._keep(f"kubelet {name}", kubelet.run())
            self._keep(f"heartbeat {name}", self._beat(kubelet))

    async def _start_api(self, listening: list[socket.socket]) -> None:
        hosts = [API_ADDRESS, "127.0.0.1", "localhost", "kubernetes.default.svc"]
        if self._listen is not None:
            hosts.append(self._listen.host)
        certificate = certificates.issue(hosts)
        tls = self._state_dir / "tls"
        tls.mkdir(mode=0o700, exist_ok=True)
        (tls / "server.crt").write_text(certificate.certificate_pem, encoding="ascii")
        (tls / "server.key").write_text(certificate.key_pem, encoding="ascii")
        api = build_app(
            self._store, LabRuntime(self._kubelets.values()), self._tokens, self.faults, rbac_on=self._rbac
        )
        app = with_control(api, self._tokens, self.faults, self._describe)
        self._server = ApiServer(app, tls / "server.crt", tls / "server.key")
        inside = self._fabric.namespace.run(lambda: listen(API_ADDRESS, API_PORT))
        self.url = f"https://{self._listen or f'127.0.0.1:{listening[0].getsockname()[1]}'}"
        self.kubeconfig = certificates.kubeconfig(self.url, certificate.ca_pem, self._tokens.admin)
        self._keep("service proxy", self._proxy.run(self._store))
        self._keep("controllers", run_controllers(self._store, certificate.ca_pem))
        self._keep("API server", self._server.serve(sockets=[*listening, inside]))

    def _keep(self, name: str, work: Any) -> None:
        """Run a part of the lab that must not end before the lab does."""

        def ended(task: asyncio.Task[Any]) -> None:
            if task.cancelled() or self.failed.done():
                return
            error = task.exception() or RuntimeError(f"lab: {name} has ended")
            log.error("%s has ended", name, exc_info=error)
            self.failed.set_exception(error)

        task = asyncio.create_task(work, name=name)
        task.add_done_callback(ended)
        self._tasks.append(task)

    async def wait_ready(self) -> None:
        """Return once the API answers and every node's agent is ready, as far as the faults allow."""
        while not self._server.started:
            await asyncio.sleep(_POLL_S / 10)
        expected = [
            name
            for name in self._kubelets
            if not self.faults.is_on("agent-never-ready", name) and not self.faults.is_on("node-dies", name)
        ]
        while self._cilium:
            agents = (await self._describe())["agents"]
            if all(agents.get(name) for name in expected):
                return
            await asyncio.sleep(_POLL_S)

    async def stop(self) -> None:
        """End everything; quick, because nothing is asked to end by itself."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # Not left to the event loop's own end, which can wait for ever for a process that is just being started.
        await asyncio.gather(*(kubelet.die() for kubelet in self._kubelets.values()))
        await self._processes.stop()

    async def _describe(self) -> dict[str, Any]:
        """Return node → ready and node → its agent is ready."""
        nodes = {node["metadata"]["name"]: is_ready(node) for node in await self._store.list(NODES)}
        agents = await self._store.list(PODS, "kube-system", label_selector="k8s-app=cilium")
        ready = {
            pod["spec"].get("nodeName", ""): is_ready(pod)
            for pod in agents
            if "deletionTimestamp" not in pod["metadata"]
        }
        return {"nodes": nodes, "agents": ready}

    async def _pod_limits(self, node: NodeNetwork) -> Limits:
        """Return what the node's Cilium agent offers to new pods, as the CNI plugin asks it."""
        if not self._cilium:
            return Limits()
        try:
            offered = await asyncio.to_thread(node.namespace.run, lambda: ask_agent("/v1/config"))
        except OSError as error:
            raise NetworkNotReady(f"unable to connect to Cilium agent: {error}") from error
        return Limits(**offered)

    async def _beat(self, kubelet: Kubelet) -> None:
        """Renew the node's lease as long as it lives."""
        name = kubelet.node.name
        while True:
            if kubelet.alive:
                stamp = now().replace("Z", ".000000Z")
                spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": stamp}
                lease = {"metadata": {"name": name, "namespace": "kube-node-lease"}, "spec": spec}
                if await self._store.find(LEASES, name, "kube-node-lease") is None:
                    await self._store.create(LEASES, lease, "kube-node-lease")
                else:
                    await self._store.update(LEASES, lease)
            await asyncio.sleep(_HEARTBEAT_S)

    # Faults

    def _apply_fault(self, fault: str, node: str, on: bool) -> None:
        """Make a switched fault act; ``node`` is empty for the change that concerns all."""
        if fault == "ip-forwarding-hop":
            if on:
                self._fabric.add_router()
            return
        if fault == "noisy-neighbour" and not node:
            self._in_background(self._neighbours.come() if on else self._neighbours.leave())
            return
        if not node:
            return
        if fault in ("agent-never-ready", "setting-ignored"):
            self._fittings.write_faults(node)
        elif fault == "slow-path":
            self._fabric.set_cable_rate(node, SLOW_PATH_MBIT if on else None)
        elif fault == "outer-veth-64k":
            self._fabric.set_cable_size(node, DEFAULT_SIZE if on else LARGEST_SIZE)
        elif fault == "lossy-path":
            self._fabric.set_cable_loss(node, LOST_SHARE if on else None)
        elif fault == "policy-within-node":
            self._fabric.nodes[node].keep_apart(on)
        elif fault == "cilium-drops":
            self._fabric.nodes[node].set_drops(LOST_SHARE if on else None)
        elif fault == "node-dies":
            self._in_background(self._die(node) if on else self._revive(node))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _die(self, name: str) -> None:
        self._fabric.set_cable_up(name, False)
        await self._kubelets[name].die()
        await asyncio.sleep(_NODE_GRACE_S)
        if not self._kubelets[name].alive:
            await self._tell_ready(name, "Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.")

    async def _revive(self, name: str) -> None:
        node = self._fabric.nodes[name]
        node.namespace.run(lambda: set_limits("eth0", Limits()))  # as a machine that was started again
        self._fabric.set_cable_up(name, True)
        await self._kubelets[name].revive()
        await self._tell_ready(name, "True", "KubeletReady", "kubelet is posting ready status")

    async def _tell_ready(self, name: str, value: str, reason: str, message: str) -> None:
        node = await self._store.get(NODES, name)
        for condition in node["status"]["conditions"]:
            if condition["type"] == "Ready":
                condition |= {"status": value, "reason": reason, "message": message, "lastTransitionTime": now()}
        await self._store.update(NODES, node, "status")
