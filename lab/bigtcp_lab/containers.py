"""Starts and ends processes in namespaces of their own: the lab's process namespace, containers, commands in them.

All of them live in one process namespace whose first process the kernel kills when the lab's process ends, however
it ends; so nothing is left of a lab that was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import os
import signal
import socket
import struct
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bigtcp_bench.errors import PreconditionFailed
from bigtcp_lab import syscalls
from bigtcp_lab.launch import Launch

PACKAGE_DIRECTORY = Path(__file__).resolve().parents[1]
"""Where ``import bigtcp_lab`` finds this package."""
INTERPRETER = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
"""The interpreter itself, not the virtual environment's link to it."""
_BOOT = "import sys; sys.path.insert(0, {path!r}); from bigtcp_lab import {module}; {module}.main()"
_START_TIMEOUT_S = 30
_CREDENTIALS = struct.Struct("iii")  # struct ucred: process, user, group


class StartFailed(Exception):
    """A container's program could not be executed; the text says why, as a container runtime words it."""


def _python(module: str, *arguments: str) -> list[str]:
    boot = _BOOT.format(path=str(PACKAGE_DIRECTORY), module=module)
    return [INTERPRETER, "-S", "-E", "-c", boot, *arguments]


class ProcessNamespace:
    """The process namespace that all of the lab's pods and nodes live in."""

    def __init__(self) -> None:
        self.descriptor = -1
        self._init: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the namespace's first process; raises PreconditionFailed when the machine does not allow it."""
        init = await asyncio.create_subprocess_exec(
            *_python("init"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True
        )
        assert init.stdout is not None
        line = (await init.stdout.readline()).decode().strip()
        if not line.isdigit():
            raise PreconditionFailed(
                f"lab: this machine does not allow a process namespace ({line or 'no answer'})"
            )
        self.descriptor = os.open(f"/proc/{line}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._init = init

    async def stop(self) -> None:
        """Kill every process in the namespace and wait until they are gone."""
        if self._init is None:
            return
        assert self._init.stdin is not None
        self._init.stdin.close()
        await self._init.wait()
        os.close(self.descriptor)
        self._init = None


class Container:
    """A started program with the namespaces made for it, from its start to its end."""

    def __init__(self, process: asyncio.subprocess.Process, pid: int) -> None:
        self.process = process
        #: None, and no namespaces, for a program that ended faster than we could look.
        self._pidfd: int | None = None
        self._namespaces: dict[int, int] = {}
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            self._pidfd = os.pidfd_open(pid)
            self._namespaces = _own_namespaces(pid)

    def signal(self, number: int) -> None:
        """Send a signal to the program itself; one that has ended gets none."""
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def wait(self) -> int:
        """Return the exit code: the program's, or 128 + the number of the signal that killed it."""
        return await self.process.wait()

    @property
    def join(self) -> list[tuple[int, int]]:
        """The namespaces to join for a command inside this container."""
        return [(descriptor, kind) for kind, descriptor in self._namespaces.items()]

    def close(self) -> None:
        """Let go of the namespaces of an ended program."""
        for descriptor in self._namespaces.values():
            os.close(descriptor)
        if self._pidfd is not None:
            os.close(self._pidfd)
        self._pidfd, self._namespaces = None, {}


async def start(
    launch: Launch, *, stdin: int | None = None, stdout: int | None = None, stderr: int | None = None
) -> Container:
    """Start what ``launch`` says and return it once its program runs; raises StartFailed with the reason.

    Standard streams are descriptors; without one, input is empty and outputs are pipes of ``Container.process``.
    """
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    process: asyncio.subprocess.Process | None = None
    try:
        process = await asyncio.create_subprocess_exec(
            *_python("become", str(theirs.fileno())),
            stdin=asyncio.subprocess.DEVNULL if stdin is None else stdin,
            stdout=asyncio.subprocess.PIPE if stdout is None else stdout,
            stderr=asyncio.subprocess.PIPE if stderr is None else stderr,
            pass_fds=(theirs.fileno(), *(descriptor for descriptor, _ in launch.join)),
            cwd="/",
            env={},
            start_new_session=True,
        )
        theirs.close()
        ours.setblocking(False)
        await asyncio.get_running_loop().sock_sendall(ours, marshal.dumps(asdict(launch)))
        ours.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(_START_TIMEOUT_S):
            pid, problem = await _answer(ours)
        if problem or pid is None:
            raise StartFailed(problem or "the process ended before it could be set up")
        return Container(process, pid)
    except BaseException:  # also when this task is cancelled: nothing half-started may stay
        if process is not None and process.returncode is None:
            process.kill()
        raise
    finally:
        ours.close()
        theirs.close()


def _own_namespaces(pid: int) -> dict[int, int]:
    """Return CLONE_NEW… flag → descriptor, in the order to join them; raises OSError for an ended process."""
    kinds = {
        "net": syscalls.CLONE_NEWNET,
        "uts": syscalls.CLONE_NEWUTS,
        "ipc": syscalls.CLONE_NEWIPC,
        "mnt": syscalls.CLONE_NEWNS,
        "pid": syscalls.CLONE_NEWPID,
    }
    opened: dict[int, int] = {}
    try:
        for name, kind in kinds.items():
            opened[kind] = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        for descriptor in opened.values():
            os.close(descriptor)
        raise
    return opened


async def _answer(control: socket.socket) -> tuple[int | None, str]:
    """Return the sender's process id as this process sees it (None without ``ready``) and the problem, if any."""
    pid, received = None, b""
    while True:
        await readable(control.fileno())
        data, ancillary, _, _ = control.recvmsg(1 << 12, socket.CMSG_SPACE(_CREDENTIALS.size))
        if not data:
            break
        received += data
        if pid is None and received.startswith(b"ready\n"):
            pid = _sender(ancillary)
            received = received[6:]
    return pid, received.decode(errors="replace")


async def readable(descriptor: int) -> None:
    """Wait until ``descriptor`` can be read, or has ended."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, lambda: None if waiting.done() else waiting.set_result(None))
    try:
        await waiting
    finally:
        loop.remove_reader(descriptor)


def _sender(ancillary: list[Any]) -> int:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            pid: int = _CREDENTIALS.unpack_from(data)[0]
            return pid
    raise StartFailed("the kernel did not say which process answered")
