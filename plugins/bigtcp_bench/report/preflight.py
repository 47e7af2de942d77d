"""The preflight as one table: what was looked at, where, what was found, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from bigtcp_bench.cluster.checks import Check, counted
from bigtcp_bench.report.plain import bare_table, plain, print_wide

_STYLES = {"pass": "green", "warn": "bold yellow", "fail": "bold red"}


def print_checks(checks: Sequence[Check], console: Console | None = None) -> None:
    """Print the table on a terminal, coloured only when it is one."""
    print_wide(_rendered(checks), console)


def checks_text(checks: Sequence[Check]) -> str:
    """Return the table as plain text."""
    return plain(_rendered(checks))


def stored_checks(row: Mapping[str, Any]) -> list[Check]:
    """Return the checks of the run of ``row`` (of ``bigtcp_run``).

    Other versions of this package may have stored less of each, or more.
    """
    names = [one.name for one in fields(Check)]
    return [Check(**{name: check.get(name, "") for name in names}) for check in row["checks"] or ()]


def checks_note(checks: Sequence[Check]) -> str:
    """Return the verdict in Markdown for the note of a run: how many passed, and every line that did not."""
    lines = [f"**Preflight**: {counted(checks)}"]
    for check, nodes in sorted(_merged(checks), key=lambda item: item[0].status):
        if check.status != "pass":
            lines.append(f"- **{check.status}** {f'{nodes}: ' if nodes else ''}{check.sentence}")
    return "\n".join(lines)


def _rendered(checks: Sequence[Check]) -> RenderableType:
    table = bare_table()
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
