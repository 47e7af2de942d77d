"""Insert-or-update, the one statement that SQLite and PostgreSQL share but SQLAlchemy has no common name for."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite


def insert_into(connection: sa.Connection, table: sa.Table) -> Any:
    """Return the database's own INSERT, which has ``on_conflict_do_update``."""
    return _inserts(connection.dialect.name)(table)


def _inserts(dialect: str) -> Any:
    return (postgresql if dialect == "postgresql" else sqlite).insert


@functools.cache
def insert_or_update(dialect: str, table: sa.Table, by: tuple[str, ...], changed: tuple[str, ...]) -> Any:
    """Return the INSERT by which a row whose ``by`` is there already takes the new values of ``changed``.

    Kept, because making it takes longer than running it.
    """
    insert: Any = _inserts(dialect)(table)
    return insert.on_conflict_do_update(index_elements=by, set_={name: insert.excluded[name] for name in changed})


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
    changed = tuple(name for name in (rows[0] if update is None else update) if name not in by)
    connection.execute(insert_or_update(connection.dialect.name, table, tuple(by), changed), ordered)
