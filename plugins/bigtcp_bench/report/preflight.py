"""The preflight as one table: what was looked at, where, what was found, and what to do about it."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from bigtcp_bench.cluster.checks import Check, counted

PLAIN_WIDTH = 100
MIN_WIDTH = 80
_STYLES = {"pass": "green", "warn": "bold yellow", "fail": "bold red"}


def print_checks(checks: Sequence[Check], console: Console | None = None) -> None:
    """Print the table on a terminal, coloured only when it is one."""
    console = console or Console(highlight=False)
    console.width = max(console.width, MIN_WIDTH) if console.is_terminal else PLAIN_WIDTH
    console.print(_rendered(checks), highlight=False)


def checks_text(checks: Sequence[Check], width: int = PLAIN_WIDTH) -> str:
    """Return the table as plain text of at most ``width`` columns (80 or more)."""
    console = Console(file=io.StringIO(), width=max(width, MIN_WIDTH), color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(_rendered(checks), highlight=False)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()).strip("\n")


def checks_note(checks: Sequence[Check]) -> str:
    """Return the verdict in Markdown for the note of a run: how many passed, and every line that did not."""
    lines = [f"**Preflight**: {counted(checks)}"]
    for check, nodes in sorted(_merged(checks), key=lambda item: item[0].status):
        if check.status != "pass":
            lines.append(f"- **{check.status}** {f'{nodes}: ' if nodes else ''}{check.sentence}")
    return "\n".join(lines)


def _rendered(checks: Sequence[Check]) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("node", no_wrap=True)
    table.add_column("found", overflow="fold")
    for check, nodes in _merged(checks):
        found = Text(check.found)
        if check.advice and check.status != "pass":
            found.append(f"\n→ {check.advice}", style="italic")
        style = _STYLES[check.status]
        table.add_row(Text(check.status, style=style), Text(check.name), Text(nodes), found)
    return Group(table, Text(f"\n{counted(checks)}", style="bold"))


def _merged(checks: Sequence[Check]) -> list[tuple[Check, str]]:
    """Return (check, its nodes): lines that say the same of both nodes are one, where the first of them stands."""
    nodes: dict[Check, list[str]] = {}
    for check in checks:
        alike = Check(check.name, "", check.status, check.found, check.advice)
        nodes.setdefault(alike, []).append(check.node)
    return [(check, ", ".join(names)) for check, names in nodes.items()]
