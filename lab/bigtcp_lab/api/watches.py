"""Watches on the wire: one JSON line per change, bookmarks in between, an end after a while."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from .discovery import Resource
from .status import ApiError
from .store import Store, Watch

#: Seconds a watch lasts when the client does not say (a real server takes 30 to 60 minutes).
DEFAULT_TIMEOUT_S = 1800
#: Seconds between bookmarks, as of a real server.
BOOKMARK_INTERVAL_S = 60


def _line(kind: str, obj: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": obj}, separators=(",", ":")).encode() + b"\n"


def error_line(error: ApiError) -> bytes:
    """Return the event that ends a watch with ``error``."""
    return _line("ERROR", error.body())


def bookmark(resource: Resource, version: int, *, initial_end: bool) -> bytes:
    """Return the event that says: up to ``version`` you have seen everything."""
    metadata: dict[str, Any] = {"resourceVersion": str(version), "creationTimestamp": None}
    if initial_end:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    return _line("BOOKMARK", {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata})


async def lines(
    store: Store,
    resource: Resource,
    watch: Watch,
    *,
    timeout_s: float,
    bookmarks: bool,
    initial_count: int | None,
    render: Callable[[dict[str, Any]], dict[str, Any]],
) -> AsyncIterator[bytes]:
    """Yield the lines of a watch until ``timeout_s`` is over.

    ``initial_count`` present objects come first when the client asked for them to be marked as such; a bookmark
    follows them. ``render`` turns an object into what the client wants to see (itself, or a table).
    """
    loop = asyncio.get_running_loop()
    end, next_bookmark = loop.time() + timeout_s, loop.time() + BOOKMARK_INTERVAL_S
    with watch:
        if initial_count == 0:
            yield bookmark(resource, store.version, initial_end=True)
        while (remaining_s := end - loop.time()) > 0:
            found = await watch.next(min(remaining_s, BOOKMARK_INTERVAL_S))
            if found is not None:
                kind, obj = found
                yield _line(kind, render(obj))
                if initial_count:
                    initial_count -= 1
                    if initial_count == 0:
                        yield bookmark(resource, store.version, initial_end=True)
            elif bookmarks and loop.time() >= next_bookmark:
                next_bookmark = loop.time() + BOOKMARK_INTERVAL_S
                yield bookmark(resource, store.version, initial_end=False)
        if bookmarks:
            yield bookmark(resource, store.version, initial_end=False)
