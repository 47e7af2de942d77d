"""The agent's frames as they stand in a log, and their documents: unpacked once, within bounds, as plain JSON.

A pod's log is read whatever wrote it. What is damaged, or of a kind that no agent writes, is named and left out;
it takes neither memory nor what other frames say.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from bigtcp_bench.in_cluster.output import MARKER, VERSION

#: Largest document accepted of a pod that carries traffic; five minutes of eight streams have about 2 MB.
MAX_DOCUMENT_BYTES = 8_000_000
#: Of a whole node, which may have hundreds of devices and thousands of counters of each.
MAX_NODE_BYTES = 32_000_000
#: A document of a few megabytes can be made of so many empty lists that they fill the memory.
MAX_VALUES = 500_000
#: How deep documents nest at most; the agent's and iperf3's have less than ten levels.
MAX_DEPTH = 40
#: No counter of a kernel is larger.
MAX_INTEGER = 2**64 - 1
#: What is said of a frame is a sentence, whatever the frame holds.
MAX_SENTENCE = 500


class Damaged(Exception):
    """A frame cannot be read; the text says why."""


def frames_in(line: str) -> Iterator[dict[str, Any] | str]:
    """Yield every frame in ``line``, or a sentence where something only begins like one.

    A frame ends before the next marker: the agent writes none within a frame.
    """
    decoder = json.JSONDecoder()
    start = line.find(MARKER)
    while start >= 0:
        start += len(MARKER)
        end = line.find(MARKER, start)
        # Of this piece alone: a decoder that fails counts the lines of all that it was given.
        piece = line[start:] if end < 0 else line[start:end]
        frame = None
        if piece.startswith("{"):
            with suppress(ValueError, RecursionError):
                frame, _ = decoder.raw_decode(piece)
        yield f"a frame that is no whole JSON object: {piece[:60]!r}" if frame is None else frame
        start = end


def fields_of(frame: dict[str, Any]) -> dict[str, Any]:
    """Return a frame's own fields, without its document. Raises Damaged."""
    if frame.get("v") != VERSION:
        raise Damaged(f"has version {clipped(repr(frame.get('v')), 40)}; this package reads {VERSION}")
    fields = {name: value for name, value in frame.items() if name != "doc"}
    _refuse_odd(fields, "it")
    return fields


def document_of(frame: dict[str, Any], max_bytes: int = MAX_DOCUMENT_BYTES) -> tuple[dict[str, Any], bytes]:
    """Return a frame's document, and the same as it came, which is how the warehouse keeps it. Raises Damaged."""
    try:
        stored = base64.b64decode(frame["doc"], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise Damaged(f"its document cannot be unpacked: {type(error).__name__}: {clipped(str(error))}") from error
    return unpacked(stored, max_bytes), stored


def packed(document: dict[str, Any]) -> bytes:
    """Return a document as the warehouse keeps it (its encoding ``zlib+json``)."""
    return zlib.compress(json.dumps(document).encode())


def unpacked(stored: bytes, max_bytes: int = MAX_NODE_BYTES) -> dict[str, Any]:
    """Return the document of ``packed``. Raises Damaged, before it takes more memory than its bounds allow."""
    decoder = zlib.decompressobj()
    try:
        text = decoder.decompress(stored, max_bytes)
        if not decoder.eof:
            raise Damaged(f"its document is cut off, or larger than {max_bytes:,} bytes")
        if decoder.unused_data:
            raise Damaged("its document has something behind its end")
        if text.count(b",") + text.count(b"[") + text.count(b"{") > MAX_VALUES:
            raise Damaged(f"its document has more than {MAX_VALUES:,} values")
        document = json.loads(text.decode())
    except (ValueError, zlib.error, RecursionError) as error:
        raise Damaged(f"its document cannot be unpacked: {type(error).__name__}: {clipped(str(error))}") from error
    if not isinstance(document, dict):
        raise Damaged(f"its document is no JSON object but {type(document).__name__}")
    _refuse_odd(document, "its document")
    return document


def clipped(text: str, length: int = MAX_SENTENCE) -> str:
    """Return ``text`` in at most ``length`` characters."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _refuse_odd(content: dict[str, Any], what: str) -> None:
    """Raise Damaged for what JSON can say and neither the warehouse nor arithmetic can take."""
    pending: list[tuple[Any, int]] = [(content, 1)]
    while pending:
        value, depth = pending.pop()
        if isinstance(value, str):
            if "\0" in value or not _is_unicode(value):
                raise Damaged(f"{what} holds text that is no Unicode")
        elif isinstance(value, int):
            if abs(value) > MAX_INTEGER:
                raise Damaged(f"{what} holds a whole number of more than 64 bits")
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise Damaged(f"{what} holds a number that is not finite")
        elif isinstance(value, (dict, list)):
            if depth > MAX_DEPTH:
                raise Damaged(f"{what} nests deeper than {MAX_DEPTH} levels")
            if isinstance(value, dict):
                pending += [(name, depth) for name in value]
                value = value.values()
            pending += [(item, depth + 1) for item in value]


def _is_unicode(text: str) -> bool:
    """Return whether ``text`` has no half of a surrogate pair, which JSON can write and UTF-8 cannot."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
