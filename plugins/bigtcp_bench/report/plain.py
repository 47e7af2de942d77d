"""What the texts for terminals share: how wide they are, how they become plain text, and their tables."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType
from rich.table import Table

#: Width of plain text: what an Airflow log and a Slack message show on a laptop without folding.
PLAIN_WIDTH = 100

#: Below this the columns of the tables no longer fit beside each other.
MIN_WIDTH = 80


def plain(renderable: RenderableType, width: int = PLAIN_WIDTH) -> str:
    """Return ``renderable`` as plain text of at most ``width`` columns."""
    console = Console(file=io.StringIO(), width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(renderable, highlight=False)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n")


def print_wide(renderable: RenderableType, console: Console | None = None) -> None:
    """Print on a terminal, coloured, at least MIN_WIDTH wide; into anything else PLAIN_WIDTH wide."""
    console = console or Console()
    console.width = max(console.width, MIN_WIDTH) if console.is_terminal else PLAIN_WIDTH
    console.print(renderable, highlight=False)


def bare_table(gap: int = 2) -> Table:
    """Return a table without lines, whose columns stand ``gap`` apart."""
    return Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
