"""Brings the tables of a warehouse to the version of this package, or back."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from bigtcp_bench.errors import WarehouseError
from bigtcp_bench.warehouse.engine import WRITES
from bigtcp_bench.warehouse.meanings import write_comments
from bigtcp_bench.warehouse.schema import metadata

if TYPE_CHECKING:
    from alembic.config import Config

#: The warehouse may share a database with others, so its version table has a name of its own.
VERSION_TABLE = "bigtcp_alembic_version"

#: Key of PostgreSQL's advisory lock around a migration: "bigtcp" in ASCII.
_LOCK_KEY = int.from_bytes(b"bigtcp")


@functools.cache
def head() -> str:
    """Return the revision that this package works with."""
    from alembic.script import ScriptDirectory

    revision = ScriptDirectory.from_config(_config(None)).get_current_head()
    assert revision is not None, "the package contains at least one migration"
    return revision


def is_known(revision: str) -> bool:
    """Return whether this package has the migration ``revision``; it has not when a newer one made the tables."""
    from alembic.script import ScriptDirectory

    revisions = ScriptDirectory.from_config(_config(None)).walk_revisions()
    return any(one.revision == revision for one in revisions)


def current(connection: sa.Connection) -> str | None:
    """Return the revision of the database, or None when it has no tables of ours."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    column = sa.column("version_num", sa.Text)
    return connection.execute(sa.select(column).select_from(sa.table(VERSION_TABLE, column))).scalar()


def upgrade(engine: sa.Engine, revision: str = "head") -> None:
    """Run the migrations up to ``revision``; all of them or none. Two at once wait for each other."""
    from alembic import command

    with _locked(engine) as connection:
        command.upgrade(_config(connection), revision)
        if revision == "head":
            write_comments(connection)


def downgrade(engine: sa.Engine, revision: str) -> None:
    """Undo the migrations after ``revision`` (``base``: all of them, with all data)."""
    from alembic import command

    with _locked(engine) as connection:
        command.downgrade(_config(connection), revision)


def differences(connection: sa.Connection) -> list[Any]:
    """Return what autogenerate would still change, so that model and migrations can be held together."""
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    context = MigrationContext.configure(
        connection,
        opts={
            "version_table": VERSION_TABLE,
            "include_name": lambda name, kind, _parents: kind != "table" or name in metadata.tables,
        },
    )
    # Several changes of one column come as a list. Comments belong to no migration: they are written after each.
    found = [one if isinstance(one, list) else [one] for one in compare_metadata(context, metadata)]
    return [change for changes in found for change in changes if "comment" not in change[0]]


@contextmanager
def _locked(engine: sa.Engine) -> Iterator[sa.Connection]:
    writer = engine.execution_options(**{WRITES: True})
    with writer.connect() as connection, _without_foreign_keys(connection), connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_KEY)))
        yield connection
        _refuse_orphans(connection)


@contextmanager
def _without_foreign_keys(connection: sa.Connection) -> Iterator[None]:
    # SQLite can change a constraint only by making the table again, which must not take the rows of others along;
    # within a transaction the pragma does nothing. https://www.sqlite.org/lang_altertable.html
    if connection.dialect.name != "sqlite":
        yield
        return
    driver: Any = connection.connection.driver_connection
    driver.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        driver.execute("PRAGMA foreign_keys=ON")


def _refuse_orphans(connection: sa.Connection) -> None:
    if connection.dialect.name == "sqlite":
        orphans = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        if orphans:
            raise WarehouseError(f"the migration would leave rows of {orphans[0][0]} without what they belong to")


def _config(connection: sa.Connection | None) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
