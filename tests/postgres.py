"""A PostgreSQL server of our own, from the binaries of Debian's package; gone with the process that started it."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa

_NO_TCP = ("-c", "listen_addresses=")
_INITDB = (
    *("-U", "postgres", "--auth-local=trust", "--auth-host=scram-sha-256"),
    *("-E", "UTF8", "--locale=C", "--no-sync"),
)


class NoServerError(Exception):
    """There is no PostgreSQL server to start."""


def binaries() -> Path:
    """Return the folder with initdb and postgres. Raises NoServerError with the advice how to get one."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    for folder in reversed(folders):
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise NoServerError("no PostgreSQL server in /usr/lib/postgresql/*/bin; install Debian's package postgresql")


@contextlib.contextmanager
def running_server(*, durable: bool = False, port: int | None = None) -> Iterator[str]:
    """Start a server on a Unix socket in a temporary folder; yields the URL of its database ``postgres``.

    Without ``durable`` it does not wait for the disk: right for tests, wrong for measuring. With ``port`` it also
    listens on 127.0.0.1, and asks there for passwords.
    """
    programs = binaries()
    home = Path(tempfile.mkdtemp(prefix="bigtcp-postgres-"))
    prefix: list[str] = []
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root.
        user = unprivileged_user()
        os.chown(home, user.pw_uid, user.pw_gid)
        prefix = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    # SIGINT is a fast shutdown; the kernel sends it when we die, however that happens.
    as_user = ["setpriv", *prefix, "--pdeathsig", "INT"]
    options = [] if durable else ["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"]
    log = home / "log"
    data = ["-D", str(home / "data")]
    listening = _NO_TCP if port is None else ("-c", "listen_addresses=127.0.0.1", "-p", str(port))
    try:
        subprocess.run(
            [*as_user, str(programs / "initdb"), *data, *_INITDB], check=True, capture_output=True, cwd=home
        )
        with log.open("wb") as output:
            server = subprocess.Popen(
                [
                    *as_user,
                    str(programs / "postgres"),
                    *data,
                    "-k",
                    str(home),
                    *listening,
                    *options,
                ],
                stdout=output,
                stderr=output,
                cwd=home,
            )
        try:
            # The file of the Unix socket has the port in its name.
            url = f"postgresql://postgres@/postgres?host={home}" + ("" if port is None else f"&port={port}")
            _wait_until_ready(url, server, log)
            yield url
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def create_database(server_url: str, name: str, template: str = "template0") -> str:
    """Create the database ``name`` as a copy of ``template`` and return its URL."""
    engine = sa.create_engine(
        server_url.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as connection:
        connection.exec_driver_sql(f'CREATE DATABASE "{name}" TEMPLATE {template}')
    engine.dispose()
    return server_url.replace("/postgres?", f"/{name}?")


def unprivileged_user() -> pwd.struct_passwd:
    """Return whom root runs a server as that refuses to be run by root."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise NoServerError("PostgreSQL cannot run as root, and there is no user postgres or nobody to run it as")


def _wait_until_ready(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sa.NullPool)
    deadline = time.monotonic() + 30
    while True:
        try:
            engine.connect().close()
            return
        except sa.exc.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise NoServerError(f"the PostgreSQL server did not start: {log.read_text()[-500:]}") from None
            time.sleep(0.05)
