"""Probes of containers: startup, readiness and liveness, from inside the pod's own network."""

from __future__ import annotations

import asyncio
import http.client
import signal
import socket
import ssl
from typing import TYPE_CHECKING, Any

from bigtcp_lab import containers
from bigtcp_lab.become import START_ERROR

if TYPE_CHECKING:
    from bigtcp_lab.pod_worker import PodWorker, RunningContainer

_IMPATIENCE_S = 0.2
"""Between attempts of a probe that has not succeeded yet (a kubelet waits for its whole period)."""


class Probing:
    """All probes of one running container; ``address`` is its pod's."""

    def __init__(self, worker: PodWorker, container: RunningContainer, address: str) -> None:
        self._worker, self._container, self._address = worker, container, address

    async def carry_out(self) -> None:
        """Carry out the probes until cancelled."""
        container, spec = self._container, self._container.spec
        if "startupProbe" in spec:
            await self._repeat("startupProbe", until_success=True)
            container.started = True
            container.ready = "readinessProbe" not in spec
            await self._worker.publish()
        kinds = [kind for kind in ("readinessProbe", "livenessProbe") if kind in spec]
        await asyncio.gather(*(self._repeat(kind, until_success=False) for kind in kinds))

    async def _repeat(self, kind: str, *, until_success: bool) -> None:
        worker, container = self._worker, self._container
        probe = container.spec[kind]
        failures = successes = 0
        await asyncio.sleep(probe.get("initialDelaySeconds", 0))
        while True:
            waiting_for_first = kind != "livenessProbe" and not container.ready
            problem = await self._check(probe, patiently=waiting_for_first)
            failures, successes = (failures + 1, 0) if problem else (0, successes + 1)
            name = kind.removesuffix("Probe").capitalize()
            if problem:
                await worker.event("Unhealthy", f"{name} probe failed: {problem}", container, warning=True)
            if successes and until_success:
                return
            if kind == "readinessProbe":
                ready = container.ready
                if failures >= probe["failureThreshold"]:
                    ready = False
                elif successes >= probe["successThreshold"]:
                    ready = True
                if ready != container.ready:
                    container.ready = ready
                    await worker.publish()
            elif failures >= probe["failureThreshold"]:
                message = f"Container {container.spec['name']} failed {name.lower()} probe, will be restarted"
                await worker.event("Killing", message, container)
                container.signal(signal.SIGTERM)
                await asyncio.sleep(worker.pod["spec"]["terminationGracePeriodSeconds"])
                container.signal(signal.SIGKILL)
                return
            if not (waiting_for_first and problem):
                await asyncio.sleep(probe["periodSeconds"])

    async def _check(self, probe: dict[str, Any], *, patiently: bool) -> str:
        """Probe once, or ``patiently`` for one period until it succeeds, so that nobody waits in vain."""
        loop = asyncio.get_running_loop()
        end = loop.time() + probe["periodSeconds"]
        while True:
            problem = await self._check_once(probe)
            if not problem or not patiently or loop.time() >= end:
                return problem
            await asyncio.sleep(_IMPATIENCE_S)

    async def _check_once(self, probe: dict[str, Any]) -> str:
        """Return an empty string when ``probe`` succeeds, else why not, as a kubelet words it."""
        run, timeout_s = self._worker.network.run, probe["timeoutSeconds"]
        try:
            async with asyncio.timeout(timeout_s):
                if "exec" in probe:
                    code = await self._run(probe["exec"]["command"])
                    return "" if code == 0 else f"command failed with exit code {code}"
                kind = "httpGet" if "httpGet" in probe else "tcpSocket"
                target = probe[kind]
                host = target.get("host") or self._address
                port = _port(target["port"], self._container.spec)
                if kind == "tcpSocket":
                    return await asyncio.to_thread(run, lambda: _connect(host, port, timeout_s))
                return await asyncio.to_thread(run, lambda: _get(target, host, port, timeout_s))
        except TimeoutError:
            return f"timeout: no answer within {timeout_s}s"

    async def _run(self, command: list[str]) -> int:
        nowhere = asyncio.subprocess.DEVNULL
        try:
            process = await self._worker.exec(self._container, command, stdout=nowhere, stderr=nowhere)
        except containers.StartFailed:
            return START_ERROR
        try:
            return await process.wait()
        finally:
            process.signal(signal.SIGKILL)
            process.close()


def _port(port: int | str, container: dict[str, Any]) -> int:
    if isinstance(port, int):
        return port
    for entry in container.get("ports") or []:
        if entry.get("name") == port:
            return int(entry["containerPort"])
    return int(port)


def _connect(host: str, port: int, timeout_s: float) -> str:
    try:
        with socket.create_connection((host, port), timeout_s):
            return ""
    except OSError as error:
        return f"dial tcp {host}:{port}: {error}"


def _get(target: dict[str, Any], host: str, port: int, timeout_s: float) -> str:
    path = target.get("path") or "/"
    headers = {header["name"]: header["value"] for header in target.get("httpHeaders") or []}
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    if target.get("scheme") == "HTTPS":
        unchecked = ssl._create_unverified_context()  # a kubelet does not verify what it probes, either
        connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=unchecked)
    try:
        connection.request("GET", path, headers=headers)
        code = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f'Get "http://{host}:{port}{path}": {error}'
    finally:
        connection.close()
    return "" if 200 <= code < 400 else f"HTTP probe failed with statuscode: {code}"
