"""Anonymous network namespaces: held by an open descriptor only, so they end with the process that made them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from bigtcp_lab import syscalls

Result = TypeVar("Result")


class NetworkNamespace:
    """A network namespace of our own, alive while ``descriptor`` is open or a process is in it."""

    def __init__(self) -> None:
        self.descriptor = _in_thread(_create)
        self.sysctl("net/ipv6/conf/all/disable_ipv6", "0")
        # Addresses must be usable at once, and nobody advertises routers here.
        for scope in ("all", "default"):
            self.sysctl(f"net/ipv6/conf/{scope}/accept_dad", "0")
            self.sysctl(f"net/ipv6/conf/{scope}/accept_ra", "0")

    def run(self, function: Callable[[], Result]) -> Result:
        """Return what ``function`` returns inside this namespace (in a thread of its own)."""

        def inside() -> Result:
            syscalls.setns(self.descriptor, syscalls.CLONE_NEWNET)
            return function()

        return _in_thread(inside)

    def ip(self, *commands: str, others: tuple[NetworkNamespace, ...] = ()) -> None:
        """Carry out ``ip`` commands inside; a command names one of ``others`` by its ``path``.

        Raises OSError with the words of ``ip`` when one fails.
        """
        batch = "\n".join(commands) + "\n"
        descriptors = tuple(other.descriptor for other in others)

        def inside() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                ["ip", "-force", "-batch", "-"],
                input=batch,
                capture_output=True,
                text=True,
                check=False,
                pass_fds=descriptors,
            )

        result = self.run(inside)
        if result.returncode != 0:
            raise OSError(f"ip: {result.stderr.strip()} (commands: {'; '.join(commands)})")

    def sysctl(self, path: str, value: str) -> None:
        """Write ``value`` to ``/proc/sys/<path>`` of this namespace."""

        def inside() -> None:
            with open(f"/proc/sys/{path}", "w", encoding="ascii") as file:
                file.write(value)

        self.run(inside)

    @property
    def path(self) -> str:
        """The name of this namespace for a child process that inherits ``descriptor``."""
        return f"/proc/self/fd/{self.descriptor}"

    def close(self) -> None:
        """Let go of the namespace; it and its devices vanish with the last process in it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _create() -> int:
    syscalls.unshare(syscalls.CLONE_NEWNET)
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _in_thread(function: Callable[[], Result]) -> Result:
    """Run ``function`` in a new thread, because a thread that changed its namespace must not be used again."""
    with ThreadPoolExecutor(1, "lab-namespace") as thread:
        return thread.submit(function).result()
