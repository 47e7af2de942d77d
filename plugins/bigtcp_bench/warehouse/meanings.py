"""What each table and column means, written once: a document, and the comments in PostgreSQL, are made of it."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
import yaml

from bigtcp_bench.warehouse.schema import metadata

_FILE = Path(__file__).with_name("meanings.yaml")
#: What LATIN1 lacks.
_LATIN = str.maketrans({"−": "-", "–": "-", "≥": ">=", "≤": "<=", "→": "to"})
_LINK = re.compile(r"\[([^\]]*)\]\(([^)]*)\)")


@dataclass(frozen=True)
class Meaning:
    """What a table or view is; ``columns`` are groups of names, each with a text (empty: it speaks for itself)."""

    text: str
    columns: dict[tuple[str, ...], str]
    after: str = ""

    def of_column(self, name: str) -> str:
        """Return the text of one column. Raises KeyError for one that is not described."""
        for names, text in self.columns.items():
            if name in names:
                return text
        raise KeyError(name)


def read_meanings() -> dict[str, Meaning]:
    """Return the meaning of every table and view by its name, in the order in which they are explained."""
    found = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return {
        table: Meaning(
            one["text"],
            {tuple(names.split(", ")): text for names, text in one["columns"].items()},
            one.get("after", ""),
        )
        for table, one in found.items()
    }


def write_comments(connection: sa.Connection) -> None:
    """Give every table, view and column its comment, where the database keeps comments (PostgreSQL)."""
    if connection.dialect.name != "postgresql":
        return
    inspector = sa.inspect(connection)
    views = set(inspector.get_view_names())
    for table, meaning in read_meanings().items():
        kind = "VIEW" if table in views else "TABLE"
        _comment(connection, f"{kind} {table}", meaning.text)
        for column in inspector.get_columns(table):
            _comment(connection, f'COLUMN {table}."{column["name"]}"', meaning.of_column(column["name"]))


def _comment(connection: sa.Connection, what: str, text: str) -> None:
    # Nothing can be bound in COMMENT.
    literal = sa.literal(plain(text), sa.Text).compile(
        dialect=connection.dialect, compile_kwargs={"literal_binds": True}
    )
    connection.exec_driver_sql(f"COMMENT ON {what} IS {literal}" if text else f"COMMENT ON {what} IS NULL")


def plain(text: str) -> str:
    """Return a text without its links and code marks, in characters that a LATIN1 database can hold, too."""
    found = unicodedata.normalize("NFKC", _LINK.sub(r"\1", text).replace("`", "")).translate(_LATIN)
    return found.encode("latin-1", "replace").decode("latin-1")


def document() -> str:
    """Return docs/generated/tables.md."""
    lines = [
        "# Tables and columns",
        "",
        "Written by `python -m bigtcp_bench.warehouse.meanings > docs/generated/tables.md`; PostgreSQL has the "
        "same texts as comments. Key columns are marked **k**. `run_id` is always `bigtcp_run.id`, except in "
        "`bigtcp_run` itself, where it is Airflow's.",
    ]
    for name, meaning in read_meanings().items():
        table = metadata.tables.get(name)
        keys = {column.name for column in table.primary_key} if table is not None else set()
        lines += ["", f"## {name}", "", _below(meaning.text), "", "| column | meaning |", "|---|---|"]
        for names, text in meaning.columns.items():
            mark = " **k**" if keys.issuperset(names) else ""
            shown = ", ".join(f"`{one}`" for one in names)
            lines.append(f"| {shown}{mark} | {_below(text)} |")
        if meaning.after:
            lines += ["", _below(meaning.after)]
    return "\n".join(lines) + "\n"


def _below(text: str) -> str:
    """Return a text whose links lead from docs/generated/ instead of docs/."""

    def moved(match: re.Match[str]) -> str:
        target = match[2]
        return f"[{match[1]}](../{'warehouse.md' if target.startswith('#') else ''}{target})"

    return _LINK.sub(moved, text)


if __name__ == "__main__":
    print(document(), end="")
