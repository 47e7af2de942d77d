"""From a URL to a SQLAlchemy engine that behaves the same on SQLite and PostgreSQL."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
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

#: What a URL says before its question mark. Behind it a password would be shown.
_BEFORE_THE_QUERY = ("user", "password", "dbname")
#: sslmode that fails where the server has no TLS; under any other libpq goes on without it, or without looking at
#: certificates. https://www.postgresql.org/docs/current/libpq-ssl.html
_TLS_MODES = ("require", "verify-ca", "verify-full")
#: Parameters that begin as those of TLS do, and ask for none.
_NO_TLS_BY_ITSELF = ("sslmode", "sslcompression", "sslsni")
#: One setting in ``options``, as in ``-c search_path=nightly`` or ``--search_path=nightly``.
_OPTION = re.compile(r"(?:-c\s*|--)([\w.-]+)=((?:\\.|[^\s\\])*)")


def engine_of(url: str | URL, *, pooled: bool = False) -> sa.Engine:
    """Return an engine for ``url``.

    ``postgres://`` and ``postgresql://`` mean psycopg. Without ``pooled`` every connection to a server is closed
    after use, which is right for tasks that run for an hour between two writes; to a file one stays open. Raises
    InvalidInput for anything that is not SQLite or PostgreSQL, and for a file in a folder that does not exist.
    """
    parsed = parsed_url(url)
    options: dict[str, Any] = {} if pooled else {"poolclass": NullPool}
    if parsed.get_backend_name() == "sqlite":
        # When the last connection to a file is closed, SQLite writes its log back into the database and waits for
        # the disk: for each of a run's fifteen transactions that would be most of its time.
        options = {} if pooled else {"pool_size": 1, "max_overflow": -1}
        path = Path(parsed.database or "").expanduser()
        # A folder that is made here would be that of a mistyped path, too.
        if not os.path.isdir(path.resolve().parent):
            raise InvalidInput(f"the warehouse {path} cannot be made: there is no folder {path.parent}")
        parsed = parsed.set(database=str(path))
        options["connect_args"] = {"timeout": BUSY_TIMEOUT_S}
    else:
        # PgBouncer may lend a server for one transaction only, and the next one lacks what was prepared on it. Nor
        # does it take start-up options, so there are none but those of the URL.
        ours = {"connect_timeout": 10, "application_name": "bigtcp-bench", "prepare_threshold": None}
        options["connect_args"] = {name: value for name, value in ours.items() if name not in parsed.query}
    engine = prepared(sa.create_engine(parsed, **options))
    if asked := _options(parsed):
        sa.event.listen(engine, "connect", lambda connection, _record: _refuse_ignored(connection, asked))
    return engine


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
    if backend == "sqlite":
        _check_sqlite(parsed)
    else:
        _check_postgres(parsed)
    return parsed


def _check_sqlite(url: URL) -> None:
    if not url.database or url.database == ":memory:":
        raise InvalidInput(f"the warehouse's URL {url.render_as_string()} names no file; {_ALLOWED}")
    given = [name for name in ("username", "password", "host", "port") if getattr(url, name)]
    if given or url.query:
        raise InvalidInput(
            f"the warehouse is a SQLite file, which has no {(given or sorted(url.query))[0]}; {_ALLOWED}"
        )


def _check_postgres(url: URL) -> None:
    """Refuse what libpq does not know, and TLS that is asked for in a way in which libpq goes on without it."""
    from psycopg import pq

    defaults = {one.keyword.decode(): (one.val or b"").decode() for one in pq.Conninfo.get_defaults()}
    for name in url.query:
        if name in _BEFORE_THE_QUERY:
            raise InvalidInput(f"the warehouse's URL: {name} must stand before the question mark; {_ALLOWED}")
        if name not in defaults:
            raise InvalidInput(
                f"the warehouse's URL: {name} is no parameter of a PostgreSQL connection; allowed are those of "
                "libpq, such as sslmode, sslrootcert, options and host"
            )
    for name in ("host", "port"):
        if getattr(url, name) and name in url.query:
            raise InvalidInput(f"the warehouse's URL: {name} may be given once only")
    mode = _one(url.query, "sslmode") or defaults["sslmode"] or "prefer"
    asked = sorted(name for name in url.query if name.startswith("ssl") and name not in _NO_TLS_BY_ITSELF)
    if mode not in _TLS_MODES and asked:
        raise InvalidInput(
            f"the warehouse's URL: {asked[0]} is given, but with sslmode={mode} the connection may be made "
            f"without TLS; allowed are sslmode={', '.join(_TLS_MODES)}"
        )
    if mode in _TLS_MODES and _over_a_socket(url, defaults["host"]):
        raise InvalidInput(
            f"the warehouse's URL: there is no TLS on a Unix socket, so sslmode={mode} cannot be had; "
            "leave it out, or name the server's host"
        )
    root = _one(url.query, "sslrootcert")
    if mode == "require" and root and not Path(root).is_file():
        # Here libpq would look at no certificate; in the other two modes it refuses.
        raise InvalidInput(f"the warehouse's URL: sslrootcert = {root!r}: there is no such file")


def _over_a_socket(url: URL, default: str) -> bool:
    if not url.host and ("hostaddr" in url.query or "service" in url.query):
        return False
    # Without any host libpq takes a Unix socket.
    given = [url.host] if url.host else _many(url.query, "host") or [default or "/"]
    return any(host.startswith(("/", "@")) for one in given for host in one.split(","))


def _many(query: Mapping[str, str | tuple[str, ...]], name: str) -> list[str]:
    value = query.get(name, ())
    return [value] if isinstance(value, str) else list(value)


def _one(query: Mapping[str, str | tuple[str, ...]], name: str) -> str:
    found = _many(query, name)
    if len(found) > 1:
        raise InvalidInput(f"the warehouse's URL: {name} may be given once only")
    return found[0] if found else ""


def _options(url: URL) -> dict[str, str]:
    """Return the settings that ``options`` asks for. Raises InvalidInput for what is no setting."""
    text = _one(url.query, "options") if url.get_backend_name() == "postgresql" else ""
    if _OPTION.sub("", text).strip():
        raise InvalidInput("the warehouse's URL: options: allowed are settings such as -c search_path=nightly")
    return {name.replace("-", "_"): re.sub(r"\\(.)", r"\1", value) for name, value in _OPTION.findall(text)}


def _refuse_ignored(connection: Any, asked: Mapping[str, str]) -> None:
    # PgBouncer can be told to take start-up options and forget them (ignore_startup_parameters).
    for name, value in asked.items():
        # Both as the server writes them: 1min is 60s.
        with connection.cursor() as cursor:
            (found,) = cursor.execute("SELECT current_setting(%s)", (name,)).fetchone()
            (wanted,) = cursor.execute("SELECT set_config(%s, %s, true)", (name, value)).fetchone()
        if found != wanted:
            raise InvalidInput(
                f"the warehouse's URL: options asks for {name} = {wanted!r}, but the server has {found!r}: "
                "what is between takes no options (PgBouncer: ignore_startup_parameters); set it for the role "
                "instead (ALTER ROLE … SET)"
            )
    connection.rollback()


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


def _on_sqlite_connect(connection: Any, _record: Any) -> None:
    # Transactions are begun by _on_sqlite_begin: Python's own logic begins none before DDL or SELECT.
    connection.isolation_level = None
    cursor = connection.cursor()
    if not cursor.execute("PRAGMA page_count").fetchone()[0]:
        # It works only before the first page is written, hence before WAL; later it would write each time.
        cursor.execute("PRAGMA auto_vacuum=INCREMENTAL")
    for pragma in (
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
