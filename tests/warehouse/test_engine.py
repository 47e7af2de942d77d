"""What a warehouse's URL says is done or refused; nothing of it is lost, least TLS."""

from __future__ import annotations

import datetime
import itertools
import os
import shutil
import socket
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bigtcp_bench.errors import InvalidInput, WarehouseError
from bigtcp_bench.warehouse.engine import engine_of, parsed_url
from bigtcp_bench.warehouse.store import Warehouse
from tests.postgres import create_database, running_server

_names = (f"engine{number}" for number in itertools.count(1))


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("sqlite:////a.db?sslmode=require", "is a SQLite file, which has no sslmode"),
        ("sqlite://user:pw@/a.db", "is a SQLite file, which has no username"),
        ("postgresql://h/d?cursor=dictcursor", "cursor is no parameter of a PostgreSQL connection"),
        ("postgresql://h/d?password=pw", "password must stand before the question mark"),
        ("postgresql://h/d?host=other", "host may be given once only"),
        ("postgresql://h/d?sslrootcert=/ca.pem", "sslrootcert is given, but with sslmode=prefer"),
        ("postgresql://h/d?sslmode=allow&sslcert=/c.pem", "sslcert is given, but with sslmode=allow"),
        ("postgresql://h/d?sslmode=require&sslrootcert=/missing.pem", "sslrootcert = '/missing.pem': there is no"),
        ("postgresql:///d?sslmode=require", "there is no TLS on a Unix socket"),
        ("postgresql:///d?sslmode=verify-full&host=/run/postgresql", "there is no TLS on a Unix socket"),
        ("postgresql://h/d?sslmode=require&sslmode=disable", "sslmode may be given once only"),
        ("postgresql://h/d?options=whatever", "options: allowed are settings such as -c search_path=nightly"),
    ],
)
def test_what_cannot_be_honoured_is_refused(url: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGHOST", "PGSSLMODE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InvalidInput, match=sentence) as refusal:
        engine_of(url)
    assert "pw" not in str(refusal.value)


@pytest.mark.parametrize(
    "query",
    [
        "sslmode=verify-full&sslrootcert=/etc/ca.pem",
        "sslmode=verify-ca&sslcert=/c.pem&sslkey=/k.pem&sslpassword=secret",
        "hostaddr=10.0.0.1&sslmode=require",
        "target_session_attrs=read-write&keepalives_idle=30&connect_timeout=3",
    ],
)
def test_what_libpq_knows_reaches_it(query: str) -> None:
    warehouse = Warehouse(f"postgresql://bench@db/d?{query}")
    _args, given = warehouse.engine.dialect.create_connect_args(warehouse.engine.url)
    for name, value in [*(pair.split("=", 1) for pair in query.split("&")), ("host", "db"), ("dbname", "d")]:
        assert str(given[name]) == value
    assert "secret" not in warehouse.url
    assert "secret" not in repr(warehouse)


def test_the_environment_of_libpq_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db.example.org")
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    parsed_url("postgresql:///d?sslrootcert=/etc/ca.pem")
    monkeypatch.setenv("PGHOST", "/run/postgresql")
    with pytest.raises(InvalidInput, match="there is no TLS on a Unix socket"):
        parsed_url("postgresql:///d")


def _certificate(folder: Path) -> Path:
    """Write key and certificate of a server called localhost, signed by itself, and return the certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.key").write_bytes(private)
    (folder / "server.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return folder / "server.crt"


@pytest.mark.postgres
def test_tls_is_had_as_asked_for_or_there_is_no_connection(tmp_path: Path) -> None:
    certificate = _certificate(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def url(query: str, host: str = "localhost") -> str:
        return f"postgresql://postgres:pw@{host}:{port}/postgres?{query}"

    def encrypted(query: str) -> bool:
        with engine_of(url(query)).connect() as connection:
            return bool(
                connection.exec_driver_sql("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").scalar()
            )

    with running_server(port=port) as socket_url:
        server = sa.create_engine(
            socket_url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
        )
        with server.connect() as connection:
            connection.exec_driver_sql("ALTER ROLE postgres PASSWORD 'pw'")
            data = Path(connection.exec_driver_sql("SHOW data_directory").scalar_one())
            assert not encrypted("sslmode=prefer")
            with pytest.raises(WarehouseError, match="server does not support SSL, but SSL was required"):
                Warehouse(url(f"sslmode=verify-full&sslrootcert={certificate}")).clusters()
            for name in ("server.key", "server.crt"):
                (data / name).write_bytes((tmp_path / name).read_bytes())
                os.chmod(data / name, 0o600)
                os.chown(data / name, data.stat().st_uid, data.stat().st_gid)
            connection.exec_driver_sql("ALTER SYSTEM SET ssl = on")
            connection.exec_driver_sql("SELECT pg_reload_conf()")
        server.dispose()
        assert encrypted(f"sslmode=verify-full&sslrootcert={certificate}")
        other = _certificate(tmp_path)
        with pytest.raises(WarehouseError, match="certificate verify failed"):
            Warehouse(url(f"sslmode=verify-full&sslrootcert={other}")).clusters()


@pytest.mark.postgres
def test_a_text_that_the_database_cannot_hold_is_said_without_saying_where_it_is(postgres_url: str) -> None:
    name = next(_names)
    latin = create_database(postgres_url, name, template="template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    warehouse = Warehouse(latin)
    warehouse.migrate()
    run = warehouse.start_run({"cluster": "c", "dag_id": "d", "run_id": "é"})
    for columns in ({"note": "after …"}, {"reasons": ["…"]}, {"checks": [{"found": "…"}]}):
        with pytest.raises(InvalidInput, match=r"encoding.*'UTF8' holds every text") as refusal:
            warehouse.update_run(run, **columns)
        assert "postgres@" not in str(refusal.value)
        assert "host" not in str(refusal.value)
    with pytest.raises(InvalidInput, match="cannot contain NUL") as refusal:
        warehouse.find_run("a\0", "d", "r")
    assert "host" not in str(refusal.value)
    assert warehouse.run(run)["run_id"] == "é"


def test_who_reads_a_file_writes_nothing(migrated_file: Path, tmp_path: Path) -> None:
    file = shutil.copy(migrated_file, tmp_path / "w.db")
    before = Path(file).read_bytes()
    reading = Warehouse(f"sqlite:///{file}")
    assert reading.clusters() == []
    assert Path(f"{file}-wal").stat().st_size == 0
    reading.engine.dispose()
    assert Path(file).read_bytes() == before
    with sqlite3.connect(file) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,), "incremental, as it was made"
    connection.close()
