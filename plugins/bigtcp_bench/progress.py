"""One line at a time of what a run is doing, in the task log and, filtered from it, on the demo's terminal."""

from __future__ import annotations

import logging
import re

_LOGGER = logging.getLogger("bigtcp_bench.progress")
_LINE = re.compile(r"\[info\s*\] (?P<text>.*?)\s+\[bigtcp_bench\.progress\]")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def say(text: str) -> None:
    """Log ``text``, one line."""
    _LOGGER.info("%s", text)


def said(log_line: str) -> str | None:
    """Return what ``say`` wrote if this line of Airflow's console output is its, else None."""
    match = _LINE.search(_COLOUR.sub("", log_line))
    return match["text"] if match else None
