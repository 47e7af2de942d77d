"""The log of one run of a container: whole lines with the time each was written, for readers now and later.

Kept in memory and cut into files as a kubelet does it. Readers are given the newest file, and may follow from
there until the container has ended.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime

from bigtcp_lab.api.runtime_protocol import LogOptions

MAX_BYTES = 10 * 1024 * 1024
"""A new file is begun beyond this (a kubelet's containerLogMaxSize); older files are not read."""
FALLBACK_LINES = 80
FALLBACK_BYTES = 2048
"""What ``FallbackToLogsOnError`` takes from the end of a log (types.go of the Kubernetes API)."""


def rfc3339_nanoseconds(time_ns: int) -> str:
    """Return a time as a kubelet stamps lines: ``2026-11-23T00:40:32.887331547Z``."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


class ContainerLog:
    """Lines of both output streams of a container in the order they came."""

    def __init__(self) -> None:
        self._lines: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._dropped = 0
        self._newest = 0
        self._changed = asyncio.Event()
        self.ended = False

    async def collect(self, *streams: asyncio.StreamReader) -> None:
        """Add what ``streams`` bring until all have ended; then the log is complete."""
        try:
            await asyncio.gather(*(self._collect(stream) for stream in streams))
        finally:
            self.ended = True
            self._wake()

    async def _collect(self, stream: asyncio.StreamReader) -> None:
        partial = b""
        while data := await stream.read(1 << 16):
            *lines, partial = (partial + data).split(b"\n")
            for line in lines:
                self._add(line + b"\n")
            if lines:
                self._wake()
        if partial:
            self._add(partial)

    def _add(self, line: bytes) -> None:
        if self._bytes and self._bytes + len(line) > MAX_BYTES:
            # Whoever follows may not have read the last file to its end yet: only those before it go.
            for _ in range(self._newest - self._dropped):
                self._lines.popleft()
            self._dropped = self._newest
            self._newest += len(self._lines)
            self._bytes = 0
        self._lines.append((time.time_ns(), line))
        self._bytes += len(line)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def tail(self) -> str:
        """Return the end of the log as a termination message."""
        text = b"".join(line for _, line in list(self._lines)[-FALLBACK_LINES:])
        return text[-FALLBACK_BYTES:].decode(errors="replace")

    async def read(self, options: LogOptions) -> AsyncIterator[bytes]:
        """Yield the log, as far as it is wanted, in chunks of whole lines."""
        position = self._newest
        if options.tail_lines is not None:
            position = max(position, self._dropped + len(self._lines) - options.tail_lines)
        if options.since_seconds is not None:
            earliest = time.time_ns() - options.since_seconds * 1_000_000_000
            position = max(position, self._dropped + sum(stamp < earliest for stamp, _ in self._lines))
        left = options.limit_bytes
        while True:
            changed, ended = self._changed, self.ended
            start = max(0, position - self._dropped)
            fresh = [self._lines[index] for index in range(start, len(self._lines))]
            position = self._dropped + len(self._lines)
            chunk = b"".join(
                rfc3339_nanoseconds(stamp).encode() + b" " + line if options.timestamps else line
                for stamp, line in fresh
            )
            if left is not None:
                chunk = chunk[:left]
                left -= len(chunk)
            if chunk:
                yield chunk
            if ended or not options.follow or left == 0:
                return
            await changed.wait()
