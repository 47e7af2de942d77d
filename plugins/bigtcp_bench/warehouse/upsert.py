"""Insert-or-update, the one statement that SQLite and PostgreSQL share but SQLAlchemy has no common name for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite


def insert_into(connection: sa.Connection, table: sa.Table) -> Any:
    """Return the database's own INSERT, which has ``on_conflict_do_update``."""
    module: Any = postgresql if connection.dialect.name == "postgresql" else sqlite
    return module.insert(table)


def upsert(
    connection: sa.Connection,
    table: sa.Table,
    rows: Sequence[Mapping[str, Any]],
    *,
    keys: Sequence[str] = (),
    update: Iterable[str] | None = None,
) -> None:
    """Insert ``rows``; one that exists already (by ``keys``, default the primary key) takes the new values.

    All rows must have the same columns. ``update`` names the columns that an existing row takes, default all.
    """
    if not rows:
        return
    by = list(keys) or [column.name for column in table.primary_key]
    # Two writers of the same rows lock them in the same order, so neither waits for the other for ever.
    ordered = sorted(rows, key=lambda row: tuple(row[key] for key in by))
    insert = insert_into(connection, table)
    changed = [name for name in (rows[0] if update is None else update) if name not in by]
    connection.execute(
        insert.on_conflict_do_update(index_elements=by, set_={name: insert.excluded[name] for name in changed}),
        ordered,
    )
