"""Processes that are no pod's and keep every CPU of the machine busy; they end with the lab, however it ends."""

from __future__ import annotations

import asyncio
import os
import signal

from bigtcp_lab import containers
from bigtcp_lab.launch import Launch

_BUSY = "while True: pass  # a noisy neighbour of the lab"


class Neighbours:
    """One busy process for each CPU, in the lab's process namespace."""

    def __init__(self, processes: containers.ProcessNamespace) -> None:
        self._processes = processes
        self._running: list[containers.Container] = []
        self._changing = asyncio.Lock()

    async def come(self) -> None:
        """Start them, unless they run."""
        async with self._changing:
            for _ in range(len(self._running), os.cpu_count() or 1):
                launch = Launch(
                    argv=[containers.INTERPRETER, "-S", "-E", "-c", _BUSY],
                    environment={},
                    directory="/",
                    join=[],
                )
                self._running.append(await self._processes.run(launch))

    async def leave(self) -> None:
        """End them, if they run."""
        async with self._changing:
            for each in self._running:
                each.signal(signal.SIGKILL)
                await each.wait()
                each.close()
            self._running.clear()
