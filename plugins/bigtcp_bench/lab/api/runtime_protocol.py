"""What the API server asks of the nodes: the logs of a container, and a command run inside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

#: Channel numbers of a command's output, the same as on the wire of ``pods/exec``.
STDOUT = 1
STDERR = 2


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

    def logs(
        self,
        namespace: str,
        pod: str,
        container: str,
        *,
        follow: bool,
        tail_lines: int | None,
        since_seconds: int | None,
        timestamps: bool,
        previous: bool,
        limit_bytes: int | None,
    ) -> AsyncIterator[bytes]:
        """Return an async iterator (an async generator function does) over a container's log.

        Chunks end at line ends. With ``follow`` it goes on until the container has ended. With ``timestamps``
        each line starts with an RFC 3339 time of nanosecond resolution and a blank.
        """

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
