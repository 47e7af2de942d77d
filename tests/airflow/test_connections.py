"""The warehouse's Airflow connection reaches the database as it was given, or is refused in one sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from bigtcp_bench.airflow import connections
from bigtcp_bench.errors import PreconditionFailed
from bigtcp_bench.warehouse.engine import engine_of

VARIABLE = "AIRFLOW_CONN_BIGTCP_WAREHOUSE"


def reaches_libpq() -> dict[str, Any]:
    """Return what psycopg is given to connect with."""
    engine = engine_of(connections.warehouse_url())
    _args, given = engine.dialect.create_connect_args(engine.url)
    return {name: value for name, value in given.items() if name != "context"}


@pytest.mark.parametrize(
    ("uri", "wanted"),
    [
        (
            "postgres://bench:p%40ss@db.example.org:5432/bigtcp?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.pem",
            {
                **{
                    "user": "bench",
                    "password": "p@ss",
                    "host": "db.example.org",
                    "port": 5432,
                    "dbname": "bigtcp",
                },
                **{"sslmode": "verify-full", "sslrootcert": "/etc/ca.pem"},
            },
        ),
        (
            "postgres://bench@db:5432/bigtcp?options=-csearch_path%3Dnightly",
            {"user": "bench", "host": "db", "port": 5432, "dbname": "bigtcp", "options": "-csearch_path=nightly"},
        ),
        (
            "postgres://bench@/bigtcp?host=%2Fvar%2Frun%2Fpostgresql",
            {"user": "bench", "host": "/var/run/postgresql", "dbname": "bigtcp"},
        ),
        (
            json.dumps(
                {
                    **{
                        "conn_type": "postgres",
                        "host": "/var/run/postgresql",
                        "schema": "bigtcp",
                        "login": "bench",
                    },
                    "extra": {"connect_timeout": 3, "application_name": "nightly"},
                }
            ),
            {
                **{"user": "bench", "host": "/var/run/postgresql", "dbname": "bigtcp"},
                **{"connect_timeout": "3", "application_name": "nightly"},
            },
        ),
    ],
)
def test_everything_of_it_reaches_the_database(
    uri: str, wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, uri)
    assert reaches_libpq() == wanted


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("postgres://b:geheim@db/d?cursor=dictcursor", "cursor is no parameter of a PostgreSQL connection"),
        ("postgres://b:geheim@db/d?sslrootcert=%2Fca.pem", "sslrootcert is given, but with sslmode=prefer"),
        ("postgres://b:geheim@/d?sslmode=require", "there is no TLS on a Unix socket"),
        ("postgres://b:geheim@%2Frun/d?host=db", "names a host twice"),
        ("postgres://b:geheim@db/d?password=geheim", "password must stand before the question mark"),
        ("sqlite:////w.db?sslmode=require", "is a SQLite file, which has no sslmode"),
        ("sqlite://b:geheim@/w.db", "is a SQLite file, which has no username"),
        ("sqlite://folder/w.db", "names a host and a SQLite file"),
        ("sqlite://", "names no SQLite file"),
        ("mysql://b:geheim@db/d", "has type 'mysql'; allowed are sqlite and postgres"),
        ('{"conn_type": "postgres", "extra": {"keepalives": true}}', "keepalives in the extra must be a text"),
        ('{"conn_type": "postgres", "extra": {"options": {"a": 1}}}', "options in the extra must be a text"),
    ],
)
def test_what_cannot_be_done_as_it_says_is_refused(
    uri: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGHOST", "PGSSLMODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(VARIABLE, uri)
    with pytest.raises(PreconditionFailed, match=sentence) as refusal:
        connections.warehouse_url()
    assert "'bigtcp_warehouse'" in str(refusal.value)
    assert "geheim" not in str(refusal.value)


@given(st.text(min_size=1), st.text(min_size=1), st.from_regex(r"[a-z][a-z0-9.-]{0,30}", fullmatch=True))
def test_no_character_of_user_password_or_certificate_is_lost(user: str, password: str, host: str) -> None:
    connection = json.dumps(
        {
            **{"conn_type": "postgres", "host": host, "login": user, "password": password, "schema": "d"},
            "extra": {"sslmode": "verify-ca", "sslrootcert": f"/{user}"},
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, connection)
        url = make_url(connections.warehouse_url())
    assert (url.username, url.password, url.host) == (user, password, host)
    assert url.query == {"sslmode": "verify-ca", "sslrootcert": f"/{user}"}
