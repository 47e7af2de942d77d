"""One pod's life on its node: its volumes and network, its containers, and the pod's status."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigtcp_lab import containers, probes, syscalls
from bigtcp_lab.api.discovery import PODS
from bigtcp_lab.api.events import record_event
from bigtcp_lab.api.store import ApiError, Store, now
from bigtcp_lab.become import START_ERROR
from bigtcp_lab.faults import FaultState
from bigtcp_lab.fittings import Fittings
from bigtcp_lab.hardship import CGROUP_DIRECTORY
from bigtcp_lab.images import entrypoint, is_known
from bigtcp_lab.launch import Bind, Launch
from bigtcp_lab.logs import ContainerLog
from bigtcp_lab.namespaces import NetworkNamespace
from bigtcp_lab.netlink import Limits
from bigtcp_lab.network import NodeNetwork, PodNetwork
from bigtcp_lab.pod_status import DEADLINE_MESSAGE, ContainerState, PodFacts, status_of
from bigtcp_lab.security import capabilities_of, user_of
from bigtcp_lab.services import ServiceProxy
from bigtcp_lab.volumes import NotThere, Sources, binds_of, expand

Object = dict[str, Any]
log = logging.getLogger(__name__)

_RETRY_S = 1.0
"""Between attempts to set up what a pod needs."""
_PULL_RETRY_S = 10.0
_FIRST_BACKOFF_S = 10.0
_LARGEST_BACKOFF_S = 300.0
"""Of a container that keeps ending: doubled each time, as in a kubelet."""
_TERMINATION_MESSAGE_BYTES = 4096


class NetworkNotReady(Exception):
    """The node's network plugin cannot connect a pod now; the text says why."""


@dataclass
class Surroundings:
    """What all kubelets of a lab share."""

    store: Store
    sources: Sources
    processes: containers.ProcessNamespace
    #: An empty directory that new roots are built on.
    root: Path
    fittings: Fittings
    faults: FaultState
    #: The limits that the network plugin gives a pod's devices on this node; raises NetworkNotReady.
    pod_limits: Callable[[NodeNetwork], Awaitable[Limits]]
    proxy: ServiceProxy


class RunningContainer(ContainerState):
    """A container's state, with the process and logs behind it."""

    def __init__(self, spec: Object) -> None:
        super().__init__(spec)
        self.container: containers.Container | None = None
        self.log: ContainerLog | None = None
        self.previous_log: ContainerLog | None = None
        self.environment: dict[str, str] = {}

    def signal(self, number: int) -> None:
        """Send a signal to the process, if there is one."""
        if self.container is not None:
            self.container.signal(number)


class PodWorker:
    """One pod on its node, from its creation until it is gone."""

    def __init__(self, surroundings: Surroundings, node: NodeNetwork, directory: Path, pod: Object) -> None:
        self._surroundings = surroundings
        self._node = node
        self.pod = pod
        self.init = [RunningContainer(spec) for spec in pod["spec"].get("initContainers") or []]
        self.containers = [RunningContainer(spec) for spec in pod["spec"]["containers"]]
        if self.init:
            for container in self.containers:
                container.state = {"waiting": {"reason": "PodInitializing"}}
        self._host_network = bool(pod["spec"].get("hostNetwork"))
        own_ips = [node.ipv4, node.ipv6]
        self._facts = PodFacts(own_ips, own_ips if self._host_network else [], now())
        self._node_directory = directory
        self._directory = directory / "pods" / pod["metadata"]["uid"]
        self._network: PodNetwork | None = None
        self._volumes: dict[str, Path | None] = {}
        self._deletion = asyncio.Event()
        self._ending = False
        self._forgotten = False
        self._task = asyncio.create_task(self._run(), name=f"pod {pod['metadata']['name']}")
        self._task.add_done_callback(_report)

    @property
    def _store(self) -> Store:
        return self._surroundings.store

    @property
    def network(self) -> NetworkNamespace:
        """The network namespace that the pod's processes are in."""
        return self._node.namespace if self._network is None else self._network.namespace

    # What happens to the pod from outside

    def update(self, pod: Object) -> None:
        """Take notice of a changed pod: only its deletion matters."""
        self.pod = pod
        if "deletionTimestamp" in pod["metadata"]:
            self._deletion.set()

    def forget(self) -> None:
        """End a pod that is no longer in the store: at once, and without a report."""
        self._forgotten = True
        self._deletion.set()
        self._kill()

    async def vanish(self) -> None:
        """End everything of this pod at once, leaving its status as it is."""
        self._ending = self._forgotten = True
        self._kill()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _kill(self) -> None:
        for container in (*self.init, *self.containers):
            container.signal(signal.SIGKILL)

    # Its life

    async def _run(self) -> None:
        life = asyncio.create_task(self._live())
        deletion = asyncio.create_task(self._deletion.wait())
        if "deletionTimestamp" in self.pod["metadata"]:
            self._deletion.set()
        try:
            deadline_s = self.pod["spec"].get("activeDeadlineSeconds")
            await asyncio.wait({life, deletion}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
            if not life.done() or life.exception() is not None:
                if life.done():
                    log.error("pod %s", self.pod["metadata"]["name"], exc_info=life.exception())
                await self._end(by_deadline=not self._deletion.is_set() and not life.done())
                life.cancel()
                await asyncio.gather(life, return_exceptions=True)
            self._facts.ended = True
            self._close_containers()
            await self.publish()
            await self._remove_network()
            await deletion
            if not self._forgotten:
                await self._finish_deletion()
        finally:
            self._ending = True
            self._kill()
            for task in (life, deletion):
                task.cancel()
            await asyncio.gather(life, deletion, return_exceptions=True)
            await self._remove_network()
            shutil.rmtree(self._directory, ignore_errors=True)

    async def _end(self, *, by_deadline: bool) -> None:
        """Ask the processes to end, wait for the grace period, then kill what is left."""
        if by_deadline:
            self._facts.verdict = ("DeadlineExceeded", DEADLINE_MESSAGE)
            await self.event("DeadlineExceeded", DEADLINE_MESSAGE)
            for container in self.containers:
                container.ready = False
            await self.publish()
        self._ending = True
        running = [container for container in (*self.init, *self.containers) if container.container is not None]
        for container in running:
            await self.event("Killing", f"Stopping container {container.spec['name']}", container)
            container.signal(signal.SIGTERM)
        metadata = self.pod["metadata"]
        grace_s = metadata.get("deletionGracePeriodSeconds", self.pod["spec"]["terminationGracePeriodSeconds"])
        if running:
            ends = [
                asyncio.create_task(container.container.wait()) for container in running if container.container
            ]
            await asyncio.wait(ends, timeout=grace_s)
            self._kill()
            await asyncio.wait(ends)
            await asyncio.sleep(0)  # lets the watchers of these processes note their ends first

    async def _finish_deletion(self) -> None:
        metadata = self.pod["metadata"]
        with contextlib.suppress(ApiError):  # somebody else was faster
            await self._store.delete(
                PODS, metadata["name"], metadata["namespace"], grace_period_seconds=0, uid=metadata["uid"]
            )

    async def _live(self) -> None:
        """Set the pod up, run its init containers, then its containers, until none is to be restarted."""
        await self.publish()
        await self._set_up()
        for container in self.init:
            await self._supervise(container, init=True)
            if container.exit_code != 0:
                for other in self.containers:
                    other.state = {"waiting": {"reason": "PodInitializing"}}
                return
        for container in self.containers:
            container.state = {"waiting": {"reason": "ContainerCreating"}}
        await asyncio.gather(*(self._supervise(container, init=False) for container in self.containers))

    async def _set_up(self) -> None:
        """Create volumes and network, again and again until it works."""
        surroundings, node = self._surroundings, self._node
        await asyncio.sleep(surroundings.fittings.start_delay_s(self.pod, node.name))
        while True:
            try:
                self._volumes = await surroundings.sources.volume_directories(
                    self.pod, self._directory, self._node_directory / "host"
                )
                break
            except NotThere as error:
                await self.event("FailedMount", f"MountVolume.SetUp failed: {error}", warning=True)
                await asyncio.sleep(_RETRY_S)
        while not self._host_network:
            try:
                limits = await surroundings.pod_limits(node)
            except NetworkNotReady as error:
                message = f'Failed to create pod sandbox: plugin type="cilium-cni" failed (add): {error}'
                await self.event("FailedCreatePodSandBox", message, warning=True)
                await asyncio.sleep(_RETRY_S)
                continue
            self._network = node.attach_pod(
                limits,
                routed=surroundings.faults.is_on("ip-forwarding-hop"),
                services=not surroundings.faults.is_on("no-service-route", node.name),
            )
            surroundings.proxy.add(self._network.namespace)
            self._facts.pod_ips = [self._network.ipv4, self._network.ipv6]
            break
        self._write_etc()
        self._facts.sandbox_ready = True
        await self.publish()

    def _write_etc(self) -> None:
        etc = self._directory / "etc"
        etc.mkdir(parents=True, exist_ok=True)
        names = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
        names += [f"{address}\t{self._hostname}" for address in self._facts.pod_ips]
        (etc / "hosts").write_text("\n".join(names) + "\n", encoding="utf-8")
        (etc / "hostname").write_text(self._hostname + "\n", encoding="utf-8")
        (etc / "resolv.conf").write_text("# the lab has no name service\n", encoding="utf-8")

    @property
    def _hostname(self) -> str:
        if self._host_network:
            return self._node.name
        return str(self.pod["spec"].get("hostname") or self.pod["metadata"]["name"])[:63]

    async def _remove_network(self) -> None:
        if self._network is not None:
            network, self._network = self._network, None
            self._surroundings.proxy.remove(network.namespace)
            await asyncio.to_thread(self._node.detach_pod, network)

    # Its containers

    async def _supervise(self, container: RunningContainer, *, init: bool) -> None:
        """Run a container, and again as long as the restart policy says so."""
        backoff_s = 0.0
        while True:
            await self._run_once(container)
            code = container.exit_code
            policy = self.pod["spec"]["restartPolicy"]
            if self._ending or policy == "Never" or (code == 0 and (init or policy == "OnFailure")):
                await self.publish()
                return
            await self.publish()
            container.last_state = container.state
            if backoff_s:
                message = (
                    f"back-off {backoff_s:.0f}s restarting failed container={container.spec['name']} "
                    f"pod={self.pod['metadata']['name']}_{self.pod['metadata']['namespace']}"
                    f"({self.pod['metadata']['uid']})"
                )
                container.state = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
                await self.event("BackOff", message, container, warning=True)
                await self.publish()
                await asyncio.sleep(backoff_s)
            backoff_s = min(max(_FIRST_BACKOFF_S, 2 * backoff_s), _LARGEST_BACKOFF_S)
            container.restart_count += 1

    async def _run_once(self, container: RunningContainer) -> None:
        """Start a container and wait for its end; its state says how it went."""
        await self._pull(container)
        launch = await self._launch(container)
        container.container_id = secrets.token_hex(32)
        container.previous_log, container.log = container.log, ContainerLog()
        await self.event("Created", "Container created", container)
        started_at = now()
        try:
            if not launch.argv:
                raise containers.StartFailed(
                    f"the lab does not know what {container.spec['image']} runs: give a command"
                )
            process = await self._surroundings.processes.run(launch)
        except containers.StartFailed as error:
            container.log.ended = True
            message = (
                "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc "
                f"create failed: unable to start container process: error during container init: {error}"
            )
            await self.event("Failed", f"Error: {message}", container, warning=True)
            self._note_end(container, START_ERROR, "1970-01-01T00:00:00Z", "StartError", message)
            return
        container.container = process
        container.state = {"running": {"startedAt": started_at}}
        container.started = "startupProbe" not in container.spec
        container.ready = container.started and "readinessProbe" not in container.spec
        await self.event("Started", "Container started", container)
        await self.publish()
        probing = asyncio.create_task(probes.Probing(self, container, self._facts.pod_ips[0]).carry_out())
        collecting = asyncio.create_task(container.log.collect(process.streams.stdout, process.streams.stderr))
        try:
            await process.wait()
            await collecting
        finally:
            probing.cancel()
            collecting.cancel()
            if (code := process.code) is not None:
                reason = "Completed" if code == 0 else "Error"
                self._note_end(container, code, started_at, reason, self._termination_message(container, code))

    def _note_end(self, container: RunningContainer, code: int, started: str, reason: str, message: str) -> None:
        if container.container is not None:
            container.container.close()
            container.container = None
        terminated = {
            "containerID": f"containerd://{container.container_id}",
            "exitCode": code,
            "finishedAt": now(),
            "reason": reason,
            "startedAt": started,
        }
        container.state = {"terminated": terminated | ({"message": message} if message else {})}
        container.started = False
        # A completed init container counts as ready.
        container.ready = code == 0 and container in self.init

    def _close_containers(self) -> None:
        """Let containers that were still waiting when the pod ended say so."""
        for container in (*self.init, *self.containers):
            container.started = False
            if container not in self.init:
                container.ready = False

    async def _pull(self, container: RunningContainer) -> None:
        """Wait, for ever if need be, until the image is there."""
        image = container.spec["image"]
        while not is_known(image):
            message = (
                f'rpc error: code = NotFound desc = failed to pull and unpack image "{image}": failed to resolve '
                f"image: {image}: not found"
            )
            await self.event("Pulling", f'Pulling image "{image}"', container)
            await self.event("Failed", f'Failed to pull image "{image}": {message}', container, warning=True)
            container.state = {"waiting": {"reason": "ErrImagePull", "message": message}}
            await self.publish()
            await asyncio.sleep(_RETRY_S)
            backing_off = f'Back-off pulling image "{image}"'
            await self.event("BackOff", backing_off, container)
            container.state = {
                "waiting": {"reason": "ImagePullBackOff", "message": f"{backing_off}: ErrImagePull: {message}"}
            }
            await self.publish()
            await asyncio.sleep(_PULL_RETRY_S)
        present = f'Container image "{image}" already present on machine'
        await self.event("Pulled", present, container)

    async def _launch(self, container: RunningContainer) -> Launch:
        """Return what to start; waits for ConfigMaps and Secrets that its environment needs."""
        surroundings, spec, pod = self._surroundings, container.spec, self.pod
        binds, base = surroundings.fittings.of(pod, spec, self._node.name)
        base["HOSTNAME"] = self._hostname
        while True:
            try:
                current = await self._store.get(PODS, pod["metadata"]["name"], pod["metadata"]["namespace"])
                container.environment = await surroundings.sources.environment(current, spec, base)
                break
            except NotThere as error:
                container.state = {"waiting": {"reason": "CreateContainerConfigError", "message": str(error)}}
                await self.event("Failed", f"Error: {error}", container, warning=True)
                await self.publish()
                await asyncio.sleep(_RETRY_S)
        command = spec.get("command") or entrypoint(spec["image"])
        argv = [expand(text, container.environment) for text in [*command, *(spec.get("args") or [])]]
        termination = self._directory / "termination" / spec["name"]
        termination.parent.mkdir(parents=True, exist_ok=True)
        termination.write_bytes(b"")
        termination.chmod(0o666)
        etc = self._directory / "etc"
        binds = [
            *(Bind(str(etc / name), f"/etc/{name}") for name in ("hosts", "hostname", "resolv.conf")),
            *binds,
            *binds_of(spec, self._volumes),
            Bind(str(termination), spec["terminationMessagePath"]),
        ]
        hardships = surroundings.fittings.hardships(pod, self._node.name)
        if "cpu-limit" in hardships:
            cgroup = self._directory / "cgroup"
            cgroup.mkdir(exist_ok=True)
            binds.append(Bind(str(cgroup), CGROUP_DIRECTORY))
        user, group = user_of(pod, spec)
        return Launch(
            argv=argv,
            environment=container.environment,
            directory=spec.get("workingDir") or "/",
            join=[(self.network.descriptor, syscalls.CLONE_NEWNET)],
            root=str(surroundings.root),
            hostname=self._hostname,
            binds=[bind for bind in binds if os.path.exists(bind.target) or not bind.target.startswith("/etc/")],
            user=user,
            group=group,
            capabilities=capabilities_of(spec),
            hardships=hardships,
            read_only_root=bool((spec.get("securityContext") or {}).get("readOnlyRootFilesystem")),
        )

    def _termination_message(self, container: RunningContainer, code: int) -> str:
        path = self._directory / "termination" / container.spec["name"]
        with contextlib.suppress(OSError):
            if text := path.read_bytes()[:_TERMINATION_MESSAGE_BYTES].decode(errors="replace"):
                return text
        if code != 0 and container.spec["terminationMessagePolicy"] == "FallbackToLogsOnError" and container.log:
            return container.log.tail()
        return ""

    async def exec(
        self,
        container: RunningContainer,
        command: list[str],
        *,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        terminal: bool = False,
    ) -> containers.Container:
        """Start ``command`` inside a running container; raises containers.StartFailed."""
        if container.container is None:
            raise containers.StartFailed(f"container {container.spec['name']} is not running")
        user, group = user_of(self.pod, container.spec)
        launch = Launch(
            argv=command,
            environment=container.environment | ({"TERM": "xterm"} if terminal else {}),
            directory=container.spec.get("workingDir") or "/",
            join=container.container.join,
            user=user,
            group=group,
            capabilities=capabilities_of(container.spec),
            terminal=terminal,
        )
        return await self._surroundings.processes.run(launch, stdin=stdin, stdout=stdout, stderr=stderr)

    # What is told

    async def publish(self) -> None:
        """Write the pod's status, if it has changed."""
        metadata = self.pod["metadata"]
        current = await self._store.find(PODS, metadata["name"], metadata["namespace"])
        if self._forgotten or current is None or current["metadata"]["uid"] != metadata["uid"]:
            return
        status = status_of(current, self._facts, list(self.init), list(self.containers))
        if status != current.get("status"):
            await self._store.update(PODS, {**current, "status": status}, "status")

    async def event(
        self, reason: str, message: str, container: RunningContainer | None = None, *, warning: bool = False
    ) -> None:
        """Record an event of the pod, or of one of its containers."""
        if self._forgotten:
            return
        field = ""
        if container is not None:
            kind = "initContainers" if container in self.init else "containers"
            field = f"spec.{kind}{{{container.spec['name']}}}"
        with contextlib.suppress(ApiError):  # the namespace may be going
            await record_event(
                self._store,
                self.pod,
                reason,
                message,
                warning=warning,
                host=self._node.name,
                field_path=field,
            )


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s", task.get_name(), exc_info=error)
