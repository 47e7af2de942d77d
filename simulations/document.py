"""Write a table into its place in docs/generated/simulations.md."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "generated" / "simulations.md"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first column is text, the others are numbers."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|--:" * (len(header) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def replace_section(name: str, text: str, document: Path = DOCUMENT) -> None:
    """Replace what stands between the comments ``begin NAME`` and ``end NAME``; raise ValueError without them."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before = document.read_text(encoding="utf-8")
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(before):
        raise ValueError(f"{document} has no section {name!r}")
    document.write_text(pattern.sub(lambda _: f"{begin}\n\n{text}\n\n{end}", before), encoding="utf-8")
