"""What tests of the steps share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def said() -> Iterator[list[str]]:
    """Return the lines that are said of a run's progress, as they come."""
    logger, handler = logging.getLogger("bigtcp_bench.progress"), _Lines()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(before)
