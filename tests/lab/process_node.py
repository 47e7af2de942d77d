"""A node for tests of the API alone: runs each pod's only container as a plain process of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from bigtcp_lab.api.conditions import set_condition
from bigtcp_lab.api.discovery import PODS
from bigtcp_lab.api.runtime_protocol import STDERR, STDOUT, LogOptions
from bigtcp_lab.api.store import ApiError, Store, now

Object = dict[str, Any]


class ProcessExec:
    """A command on this machine, with pipes for its channels."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._output: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        assert process.stdout is not None
        assert process.stderr is not None
        self._readers = [
            asyncio.create_task(self._read(STDOUT, process.stdout)),
            asyncio.create_task(self._read(STDERR, process.stderr)),
        ]
        self._ended = asyncio.create_task(self._end())

    async def _read(self, channel: int, stream: asyncio.StreamReader) -> None:
        while data := await stream.read(65536):
            await self._output.put((channel, data))

    async def _end(self) -> None:
        await asyncio.gather(*self._readers)
        await self._output.put(None)

    async def read(self) -> tuple[int, bytes] | None:
        return await self._output.get()

    async def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data)
        await self._process.stdin.drain()

    async def close_stdin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    async def resize(self, columns: int, rows: int) -> None:
        raise AssertionError("no test has a terminal")

    async def wait(self) -> int:
        code = await self._process.wait()
        return code if code >= 0 else 128 - code

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


class ProcessNode:
    """Kubelet and runtime of every node at once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._logs: dict[tuple[str, str], list[tuple[float, bytes]]] = {}
        self._running: set[tuple[str, str]] = set()

    async def run(self) -> None:
        """Start pods that are on a node, and end those that are deleted, until cancelled."""
        with self._store.watch(PODS) as watch:
            async for kind, pod in watch:
                uid = pod["metadata"]["uid"]
                if kind == "DELETED":
                    self._kill(uid)
                elif "deletionTimestamp" in pod["metadata"]:
                    task = self._tasks.get(uid)
                    if task is None or task.done():
                        await self._remove(pod)
                    self._kill(uid)
                elif pod["spec"].get("nodeName") and uid not in self._tasks:
                    self._tasks[uid] = asyncio.create_task(self._run(pod))

    async def close(self) -> None:
        """End every process that is still running."""
        for uid in self._processes:
            self._kill(uid)
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _kill(self, uid: str) -> None:
        process = self._processes.get(uid)
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    async def _remove(self, pod: Object) -> None:
        metadata = pod["metadata"]
        with contextlib.suppress(ApiError):
            await self._store.delete(
                PODS, metadata["name"], metadata["namespace"], grace_period_seconds=0, uid=metadata["uid"]
            )

    async def _run(self, pod: Object) -> None:
        metadata, container = pod["metadata"], pod["spec"]["containers"][0]
        key = (metadata["namespace"], metadata["name"])
        self._logs[key] = []
        if container["image"].startswith("example.invalid"):
            await self._status(pod, "Pending", {"waiting": {"reason": "ErrImagePull", "message": "not found"}})
            return
        argv = (
            ["sleep", "1000"]
            if "cilium" in container["image"]
            else [*(container.get("command") or ["sleep", "1000"]), *(container.get("args") or [])]
        )
        process = await asyncio.create_subprocess_exec(
            *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True
        )
        self._processes[metadata["uid"]] = process
        started = now()
        self._running.add(key)
        await self._status(pod, "Running", {"running": {"startedAt": started}}, ready=True)
        assert process.stdout is not None
        async for line in process.stdout:
            self._logs[key].append((time.time(), line))
        code = await process.wait()
        self._running.discard(key)
        ended = {"exitCode": code if code >= 0 else 128 - code, "reason": "Completed" if code == 0 else "Error"}
        state = {"terminated": {**ended, "startedAt": started, "finishedAt": now()}}
        with contextlib.suppress(ApiError):
            present = await self._status(pod, "Succeeded" if code == 0 else "Failed", state)
            if "deletionTimestamp" in present["metadata"]:
                await self._remove(present)

    async def _status(self, pod: Object, phase: str, state: Object, *, ready: bool = False) -> Object:
        name = pod["spec"]["containers"][0]["name"]
        present = await self._store.get(PODS, pod["metadata"]["name"], pod["metadata"]["namespace"])
        for kind in ("Initialized", "Ready", "ContainersReady"):
            set_condition(present, kind, "True" if ready or kind == "Initialized" else "False")
        present["status"] |= {
            "phase": phase,
            "startTime": now(),
            "podIP": "127.0.0.1",
            "podIPs": [{"ip": "127.0.0.1"}],
            "hostIP": "127.0.0.1",
            "containerStatuses": [
                {
                    "name": name,
                    "image": pod["spec"]["containers"][0]["image"],
                    "imageID": "",
                    "ready": ready,
                    "started": ready,
                    "restartCount": 0,
                    "lastState": {},
                    "state": state,
                }
            ],
        }
        return await self._store.update(PODS, present, "status")

    async def logs(self, namespace: str, pod: str, container: str, options: LogOptions) -> AsyncIterator[bytes]:
        if options.tail_lines == 999:  # a request that only the node can refuse
            raise ApiError(500, "InternalError", "the lab lost it")
        key = (namespace, pod)
        position = max(0, len(self._logs[key]) - options.tail_lines) if options.tail_lines is not None else 0
        while True:
            running = key in self._running
            for when, line in self._logs[key][position:]:
                position += 1
                if options.since_seconds is not None and when < time.time() - options.since_seconds:
                    continue
                stamp = datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z ").encode()
                yield stamp + line if options.timestamps else line
            if not options.follow or not running:
                return
            await asyncio.sleep(0.02)

    async def exec(
        self, namespace: str, pod: str, container: str, command: list[str], *, stdin: bool, tty: bool
    ) -> ProcessExec:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe if stdin else asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
        )
        return ProcessExec(process)
