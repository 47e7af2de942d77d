"""What the API server asks of the nodes: the logs of a container, and a command run inside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

#: Channel numbers of a command's output, the same as on the wire of ``pods/exec``.
STDOUT = 1
STDERR = 2


@dataclass(frozen=True)
class LogOptions:
    """Which part of a container's log is wanted, and how."""

    #: Go on until the container has ended.
    follow: bool = False
    #: The log of the container's run before the present one.
    previous: bool = False
    #: Begin each line with an RFC 3339 time of nanosecond resolution and a blank.
    timestamps: bool = False
    tail_lines: int | None = None
    since_seconds: int | None = None
    limit_bytes: int | None = None


class ExecSession(Protocol):
    """A running command inside a container."""

    async def read(self) -> tuple[int, bytes] | None:
        """Return the next output as (``STDOUT`` or ``STDERR``, bytes), or ``None`` when both have ended."""

    async def write(self, data: bytes) -> None:
        """Hand ``data`` to the command's standard input."""

    async def close_stdin(self) -> None:
        """Tell the command that its standard input has ended."""

    async def resize(self, columns: int, rows: int) -> None:
        """Tell the command's terminal its new size (only with ``tty``)."""

    async def wait(self) -> int:
        """Return the command's exit code once it has ended (128 + signal number when it was killed)."""

    async def kill(self) -> None:
        """End the command at once, because its client has gone."""


class Runtime(Protocol):
    """The nodes' side of ``pods/log`` and ``pods/exec``.

    The server has already checked that the pod exists, is assigned to a node and that the container has been
    started (log) or is running (exec). Either method may raise ``ApiError`` for anything else.
    """

    def logs(self, namespace: str, pod: str, container: str, options: LogOptions) -> AsyncIterator[bytes]:
        """Return an async iterator (an async generator function does) over a container's log."""

    async def exec(
        self,
        namespace: str,
        pod: str,
        container: str,
        command: list[str],
        *,
        stdin: bool,
        tty: bool,
    ) -> ExecSession:
        """Start ``command`` inside the container and return its session."""
