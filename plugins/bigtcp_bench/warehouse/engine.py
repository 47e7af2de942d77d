"""From a URL to a SQLAlchemy engine that behaves the same on SQLite and PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import NullPool

from bigtcp_bench.errors import InvalidInput

#: Set on connections that will write, so that SQLite takes its write lock at once and not in the middle.
WRITES = "bigtcp_writes"

#: Seconds that a writer waits for another one on SQLite.
BUSY_TIMEOUT_S = 30

#: PostgreSQL states after which the same transaction may succeed: serialization failure, deadlock, lock not
#: available, server shutting down or starting, and (by class 08) a lost connection.
#: https://www.postgresql.org/docs/current/errcodes-appendix.html
_TRANSIENT_STATES = {"40001", "40P01", "55P03", "57P01", "57P02", "57P03"}

_ALLOWED = "allowed are sqlite:///path/to/file.db and postgresql://user:password@host/database"


def engine_of(url: str | URL, *, pooled: bool = False) -> sa.Engine:
    """Return an engine for ``url``.

    The folder of a SQLite file is created. ``postgres://`` and ``postgresql://`` mean psycopg. Without ``pooled``
    every connection to a server is closed after use, which is right for tasks that run for an hour between two
    writes; to a file one stays open. Raises InvalidInput for anything that is not SQLite or PostgreSQL.
    """
    parsed = parsed_url(url)
    options: dict[str, Any] = {} if pooled else {"poolclass": NullPool}
    if parsed.get_backend_name() == "sqlite":
        # When the last connection to a file is closed, SQLite writes its log back into the database and waits for
        # the disk: for each of a run's fifteen transactions that would be most of its time.
        options = {} if pooled else {"pool_size": 1, "max_overflow": -1}
        path = Path(parsed.database or "").expanduser()
        path.resolve().parent.mkdir(parents=True, exist_ok=True)
        parsed = parsed.set(database=str(path))
        options["connect_args"] = {"timeout": BUSY_TIMEOUT_S}
    else:
        options["connect_args"] = {
            "connect_timeout": 10,
            "application_name": "bigtcp-bench",
            "options": f"{_given_options(parsed)} -c timezone=UTC".lstrip(),
        }
    return prepared(sa.create_engine(parsed, **options))


def parsed_url(url: str | URL) -> URL:
    """Return ``url`` with the driver that is used for it. Raises InvalidInput; no password is in its sentence."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InvalidInput(f"the warehouse's URL cannot be read; {_ALLOWED}") from error
    if parsed.drivername in {"postgres", "postgresql"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    backend = parsed.get_backend_name()
    if backend not in {"sqlite", "postgresql"}:
        raise InvalidInput(f"the warehouse cannot be {backend!r}; {_ALLOWED}")
    if backend == "sqlite" and (not parsed.database or parsed.database == ":memory:"):
        raise InvalidInput(f"the warehouse's URL {parsed.render_as_string()} names no file; {_ALLOWED}")
    return parsed


def prepared(engine: sa.Engine) -> sa.Engine:
    """Return ``engine`` after giving its SQLite connections the settings that several writers need."""
    if engine.dialect.name == "sqlite" and not sa.event.contains(engine, "connect", _on_sqlite_connect):
        sa.event.listen(engine, "connect", _on_sqlite_connect)
        sa.event.listen(engine, "begin", _on_sqlite_begin)
    return engine


def is_transient(error: BaseException) -> bool:
    """Return whether the failed transaction may succeed when it is repeated."""
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    name = getattr(error.orig, "sqlite_errorname", None) or ""
    state = getattr(error.orig, "sqlstate", None) or ""
    return name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or state in _TRANSIENT_STATES or state[:2] == "08"


def _given_options(url: URL) -> str:
    given = url.query.get("options", "")
    return given if isinstance(given, str) else " ".join(given)


def _on_sqlite_connect(connection: Any, _record: Any) -> None:
    # Transactions are begun by _on_sqlite_begin: Python's own logic begins none before DDL or SELECT.
    connection.isolation_level = None
    cursor = connection.cursor()
    # auto_vacuum works only when it is set before the first page is written, hence before WAL.
    for pragma in (
        "auto_vacuum=INCREMENTAL",
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "foreign_keys=ON",
        f"busy_timeout={BUSY_TIMEOUT_S * 1000}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_sqlite_begin(connection: sa.Connection) -> None:
    # A transaction that reads first and writes later gets SQLITE_BUSY without any waiting when another writer
    # came between; one that takes the write lock at its beginning waits for its turn.
    immediate = connection.get_execution_options().get(WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
