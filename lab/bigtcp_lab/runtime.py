"""Logs of containers and commands in them, for the API server: the ``Runtime`` of all nodes together."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import struct
import termios
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any

from bigtcp_lab.api.runtime_protocol import STDERR, STDOUT, LogOptions
from bigtcp_lab.api.status import ApiError, bad_request
from bigtcp_lab.containers import Container, StartFailed, readable
from bigtcp_lab.kubelet import Kubelet
from bigtcp_lab.pod_worker import PodWorker, RunningContainer

_CHUNK = 1 << 16


class LabRuntime:
    """Finds the kubelet that has a pod and reads logs or runs commands there."""

    def __init__(self, kubelets: Iterable[Kubelet]) -> None:
        self._kubelets = list(kubelets)

    def _find(self, namespace: str, pod: str, container: str) -> tuple[PodWorker, RunningContainer]:
        for kubelet in self._kubelets:
            worker = kubelet.worker(namespace, pod)
            if worker is not None:
                for found in (*worker.init, *worker.containers):
                    if found.spec["name"] == container:
                        return worker, found
        # The API has the pod, so its node is the one that does not answer.
        message = f'Get "containerLogs/{namespace}/{pod}/{container}": dial tcp :10250: connect: no route to host'
        raise ApiError(500, "InternalError", message)

    async def logs(self, namespace: str, pod: str, container: str, options: LogOptions) -> AsyncIterator[bytes]:
        """Yield the log of a container's present or previous run in chunks of whole lines."""
        _, found = self._find(namespace, pod, container)
        wanted = found.previous_log if options.previous else found.log
        if wanted is None:
            raise bad_request(f'container "{container}" in pod "{pod}" has no log')
        async for chunk in wanted.read(options):
            yield chunk

    async def exec(
        self, namespace: str, pod: str, container: str, command: list[str], *, stdin: bool, tty: bool
    ) -> LabExecSession:
        """Start a command in a running container; raises ApiError 500 when it cannot be executed."""
        worker, found = self._find(namespace, pod, container)
        controller: int | None = None
        try:
            if tty:
                controller, terminal = os.openpty()
                try:
                    process = await worker.exec(
                        found, command, stdin=terminal, stdout=terminal, stderr=terminal, terminal=True
                    )
                finally:
                    os.close(terminal)
            else:
                process = await worker.exec(found, command, stdin=asyncio.subprocess.PIPE if stdin else None)
        except StartFailed as error:
            if controller is not None:
                os.close(controller)
            message = f"Internal error occurred: error executing command in container: {error}"
            raise ApiError(500, "InternalError", message) from error
        return LabExecSession(process, controller)


class LabExecSession:
    """A running command inside a container; its output comes through pipes, or through one terminal."""

    def __init__(self, process: Container, controller: int | None) -> None:
        self._process = process
        self._controller = controller
        self._output: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue(maxsize=16)
        streams = process.streams
        if controller is not None:
            readers = [self._copy_terminal(controller)]
        else:
            readers = [self._copy(STDOUT, streams.stdout), self._copy(STDERR, streams.stderr)]
        self._copying = asyncio.create_task(self._copy_all(readers))

    async def _copy_all(self, readers: list[Coroutine[Any, Any, None]]) -> None:
        await asyncio.gather(*readers)
        await self._output.put(None)

    async def _copy(self, channel: int, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(_CHUNK):
            await self._output.put((channel, data))

    async def _copy_terminal(self, controller: int) -> None:
        while True:
            await readable(controller)
            try:
                data = os.read(controller, _CHUNK)
            except OSError:  # EIO: the last process has closed the terminal
                return
            if not data:
                return
            await self._output.put((STDOUT, data))

    async def read(self) -> tuple[int, bytes] | None:
        """Return the next output, or None when both streams have ended."""
        return await self._output.get()

    async def write(self, data: bytes) -> None:
        """Hand data to the command's input; a command that no longer reads gets none."""
        if self._controller is not None:
            os.write(self._controller, data)
        elif (stdin := self._process.streams.stdin) is not None:
            with contextlib.suppress(ConnectionError):
                stdin.write(data)
                await stdin.drain()

    async def close_stdin(self) -> None:
        """End the command's input."""
        if self._controller is not None:
            os.write(self._controller, b"\x04")
        elif (stdin := self._process.streams.stdin) is not None:
            stdin.close()

    async def resize(self, columns: int, rows: int) -> None:
        """Set the size of the command's terminal."""
        if self._controller is not None:
            fcntl.ioctl(self._controller, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def wait(self) -> int:
        """Return the exit code and let go of what the command held."""
        code = await self._process.wait()
        self._process.close()
        if self._controller is not None:
            os.close(self._controller)
            self._controller = None
        return code

    async def kill(self) -> None:
        """End the command at once."""
        self._process.signal(signal.SIGKILL)
        self._copying.cancel()
        await self.wait()
