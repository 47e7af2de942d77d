"""Starts and ends processes in namespaces of their own: the lab's process namespace, containers, commands in them.

All of them live in one process namespace whose first process the kernel kills when the lab's process ends, however
it ends; so nothing is left of a lab that was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import socket
import struct
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bigtcp_bench
from bigtcp_bench.errors import PreconditionFailed
from bigtcp_lab import syscalls
from bigtcp_lab.launch import Launch

PACKAGE_DIRECTORY = Path(__file__).resolve().parents[1]
"""Where ``import bigtcp_lab`` finds this package."""
PATH = [str(PACKAGE_DIRECTORY), str(Path(bigtcp_bench.__file__).resolve().parents[1])]
"""Of a process that imports both packages."""
INTERPRETER = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
"""The interpreter itself, not the virtual environment's link to it."""
PIPE, NOWHERE = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
"""Instead of a descriptor: a pipe to the lab, and nothing."""
_START_TIMEOUT_S = 30
_CREDENTIALS = struct.Struct("iii")  # struct ucred: process, user, group


class StartFailed(Exception):
    """A container's program could not be executed; the text says why, as a container runtime words it."""


class ProcessNamespace:
    """The process namespace that all of the lab's pods and nodes live in, and what starts processes there."""

    def __init__(self) -> None:
        self._init: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start the namespace's first process; raises PreconditionFailed when the machine does not allow it."""
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        boot = f"import sys; sys.path[:0] = {PATH!r}; from bigtcp_lab.init import main; main()"
        with theirs:
            init = await asyncio.create_subprocess_exec(
                *(INTERPRETER, "-S", "-E", "-c", boot, str(theirs.fileno())),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                cwd="/",
                env={},
                start_new_session=True,
            )
        assert init.stdout is not None
        line = (await init.stdout.readline()).decode().strip()
        if line != "ready":
            raise PreconditionFailed(
                f"lab: this machine does not allow a process namespace ({line or 'no answer'})"
            )
        self._init = init

    async def stop(self) -> None:
        """Kill every process in the namespace and wait until they are gone."""
        if self._init is None:
            return
        assert self._init.stdin is not None
        self._init.stdin.close()
        self._requests.close()
        await self._init.wait()
        self._init = None

    def fork(self, *descriptors: int) -> int:
        """Have a process forked that runs ``become`` with these descriptors; return a descriptor of it."""
        try:
            socket.send_fds(self._requests, [b"."], descriptors)
            _, (process,), _, _ = socket.recv_fds(self._requests, 1, 1)
        except (OSError, ValueError) as error:
            raise StartFailed(f"the lab is ending: {error}") from error
        os.set_inheritable(process, False)
        return process

    async def run(
        self, launch: Launch, *, stdin: int | None = None, stdout: int | None = None, stderr: int | None = None
    ) -> Container:
        """Start what ``launch`` says and return it once its program runs; raises StartFailed with the reason.

        Standard streams are descriptors or ``PIPE``; without one, input is empty and outputs are pipes.
        """
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        ours.setblocking(False)
        # What only the process needs is closed here as soon as it has it.
        with contextlib.ExitStack() as its:
            its.enter_context(theirs)
            streams = Streams(its, stdin, stdout, stderr)
            ended, end = os.pipe()
            its.callback(os.close, end)
            try:
                process = self.fork(
                    theirs.fileno(), end, *streams.its, *(descriptor for descriptor, _ in launch.join)
                )
            except StartFailed:
                os.close(ended)
                streams.close()
                ours.close()
                raise
        container = Container(process, ended, streams)
        try:
            await streams.connect()
            await asyncio.get_running_loop().sock_sendall(ours, json.dumps(asdict(launch)).encode())
            ours.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(_START_TIMEOUT_S):
                pid, problem = await _answer(ours)
            if problem or pid is None:
                raise StartFailed(problem or "the process ended before it could be set up")
            container.found(pid)
            return container
        except BaseException:  # also when this task is cancelled: nothing half-started may stay
            container.kill()
            container.close()
            streams.close()
            raise
        finally:
            ours.close()


class Streams:
    """The ends of a process's standard streams: what it gets, and what the lab keeps of pipes."""

    def __init__(
        self, its: contextlib.ExitStack, stdin: int | None, stdout: int | None, stderr: int | None
    ) -> None:
        """Open what is to be a pipe; ``its`` closes the process's ends of what was opened here."""
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout, self.stderr = asyncio.StreamReader(), asyncio.StreamReader()
        self._transports: list[asyncio.BaseTransport] = []
        self._pipes: dict[str, int] = {}
        self.its: list[int] = []
        for name, given in (("stdin", stdin), ("stdout", stdout), ("stderr", stderr)):
            if given is None and name == "stdin":
                given = NOWHERE
            if given == NOWHERE:
                given = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                its.callback(os.close, given)
            elif given is None or given == PIPE:
                ends = os.pipe()
                given, self._pipes[name] = ends if name == "stdin" else ends[::-1]
                its.callback(os.close, given)
            self.its.append(given)

    async def connect(self) -> None:
        """Have the event loop read from and write to the pipes."""
        loop = asyncio.get_running_loop()
        while self._pipes:
            name, descriptor = self._pipes.popitem()
            reader = {"stdout": self.stdout, "stderr": self.stderr}.get(name, asyncio.StreamReader())
            make = functools.partial(asyncio.StreamReaderProtocol, reader)
            # Its transport closes it.
            pipe = os.fdopen(descriptor, "wb" if name == "stdin" else "rb", buffering=0)
            connect = loop.connect_write_pipe if name == "stdin" else loop.connect_read_pipe
            transport, protocol = await connect(make, pipe)
            self._transports.append(transport)
            if isinstance(transport, asyncio.WriteTransport):
                self.stdin = asyncio.StreamWriter(transport, protocol, None, loop)

    def close(self) -> None:
        """Let go of what is open."""
        for transport in self._transports:
            transport.close()
        while self._pipes:
            os.close(self._pipes.popitem()[1])


class Container:
    """A started program with the namespaces made for it, from its start to its end."""

    def __init__(self, waiting: int, ended: int, streams: Streams) -> None:
        """Take over descriptors: of the process that waits for the program, and of where it tells the code."""
        self.streams = streams
        self._waiting, self._ended = waiting, ended
        loop = asyncio.get_running_loop()
        self._code: asyncio.Future[int] = loop.create_future()
        loop.add_reader(ended, self._note_end)
        #: -1, and no namespaces, for a program that ended faster than we could look.
        self._pidfd = -1
        self._namespaces: dict[int, int] = {}

    def _note_end(self) -> None:
        code = os.read(self._ended, 1)
        asyncio.get_running_loop().remove_reader(self._ended)
        os.close(self._ended)
        self._code.set_result(code[0] if code else 128 + signal.SIGKILL)

    def found(self, pid: int) -> None:
        """Take notice of the program's process."""
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            self._pidfd = os.pidfd_open(pid)
            self._namespaces = _own_namespaces(pid)

    def signal(self, number: int) -> None:
        """Send a signal to the program itself; one that has ended gets none."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def kill(self) -> None:
        """Kill the program, whether or not it has begun."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._waiting, signal.SIGKILL)

    @property
    def code(self) -> int | None:
        """The exit code, or None while the program runs."""
        return self._code.result() if self._code.done() else None

    async def wait(self) -> int:
        """Return the exit code: the program's, or 128 + the number of the signal that killed it."""
        return await asyncio.shield(self._code)

    @property
    def join(self) -> list[tuple[int, int]]:
        """The namespaces to join for a command inside this container."""
        return [(descriptor, kind) for kind, descriptor in self._namespaces.items()]

    def close(self) -> None:
        """Let go of the namespaces of an ended program; its output may still be read to its end."""
        for descriptor in (*self._namespaces.values(), self._pidfd, self._waiting):
            if descriptor >= 0:
                os.close(descriptor)
        self._pidfd, self._waiting, self._namespaces = -1, -1, {}


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
