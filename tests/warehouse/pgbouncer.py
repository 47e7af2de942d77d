"""Debian's PgBouncer in transaction mode before a PostgreSQL server; gone with the process that started it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy.engine import make_url

from tests.postgres import unprivileged_user


@contextlib.contextmanager
def running_pgbouncer(url: str, *, ignore: str = "") -> Iterator[str]:
    """Start PgBouncer before the database of ``url``; yields the URL that goes through it.

    Every transaction may get another one of two servers. ``ignore`` is its ``ignore_startup_parameters``.
    """
    behind = make_url(url)
    home = Path(tempfile.mkdtemp(prefix="bigtcp-pgbouncer-"))
    prefix: list[str] = []
    if os.geteuid() == 0:
        # PgBouncer refuses to run as root, and must reach the server's socket.
        user = unprivileged_user()
        os.chown(home, user.pw_uid, user.pw_gid)
        prefix = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = home / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n{behind.database} = host={behind.query['host']} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"pool_mode = transaction\ndefault_pool_size = 2\nignore_startup_parameters = {ignore}\n",
        encoding="utf-8",
    )
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "pgbouncer is not installed; scripts/install test does that"
    log = home / "log"
    with log.open("wb") as output:
        bouncer = subprocess.Popen(
            ["setpriv", *prefix, "--pdeathsig", "INT", program, str(settings)],
            stdout=output,
            stderr=output,
            cwd=home,
        )
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert bouncer.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
            time.sleep(0.05)
        yield f"postgresql://postgres@127.0.0.1:{port}/{behind.database}"
    finally:
        bouncer.terminate()
        bouncer.wait(30)
        shutil.rmtree(home, ignore_errors=True)
