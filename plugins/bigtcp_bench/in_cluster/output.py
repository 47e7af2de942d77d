"""What the agent prints, and how what it does can end.

A frame is one log line, ``@@bigtcp-bench {"v":1,"kind":…,small fields…,"doc":"<base64(zlib(JSON))>"}``, written at
once, so that a pod that dies keeps what it measured. All other lines are for people.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import zlib
from typing import Any

VERSION = 1
MARKER = "@@bigtcp-bench "

Json = dict[str, Any]


class CannotStart(Exception):
    """The orders cannot be carried out at all; the text is the sentence for the user."""


class Failed(Exception):
    """One repetition failed; the text is its sentence. ``seen`` is what was observed until then."""

    def __init__(self, sentence: str, seen: Json | None = None) -> None:
        super().__init__(sentence)
        self.seen = seen or {}


class Stopped(BaseException):
    """SIGTERM arrived, or the server's lifetime is over. No error, so no ``except Exception`` catches it."""


def reason(error: Exception) -> str:
    """Return what an error says, in the system's own words where it has some."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def say(text: str) -> None:
    """Print one line for people."""
    _write_line(" ".join(text.split()))


def print_frame(kind: str, fields: Json, document: Json | None = None) -> None:
    """Print one frame: ``fields`` readable in the log, ``document`` packed."""
    frame: Json = {"v": VERSION, "kind": kind, **fields}
    if document is not None:
        packed = zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 9)
        frame["doc"] = base64.b64encode(packed).decode()
    # A frame ends where the next marker begins, so none may stand in what somebody else has said.
    text = json.dumps(frame, separators=(",", ":")).replace(MARKER, f"\\u0040{MARKER[1:]}")
    _write_line(MARKER + text)


def _write_line(text: str) -> None:
    """Write a whole line at once. SIGTERM waits meanwhile, so that it cannot cut a frame in two."""
    data = (text + "\n").encode()
    blocked = {signal.SIGTERM, signal.SIGALRM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        while data:
            data = data[os.write(1, data) :]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
