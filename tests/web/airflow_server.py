"""A real Airflow API server for browsers: its database, the benchmark's DAGs, one queued run, and three users."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigtcp_bench.demo.local_airflow import Session
from bigtcp_bench.resources import dags_dir

_READY_S = 240
#: Name → role of Airflow's simple auth manager; a user without a role may do nothing.
USERS = {"ada": "user", "vera": "viewer", "mallory": ""}

# One process for what would be three commands: importing Airflow takes longer than two of them.
_PREPARE_AND_SERVE = """
import atexit, gc, sys
gc.disable()
atexit.register(gc.freeze)
from airflow.utils.db import initdb
initdb()
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
manager = DagBundlesManager()
manager.sync_bundles_to_db()
for bundle in manager.get_all_dag_bundles():
    bundle.initialize()
    bag = BundleDagBag(bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
    assert not bag.import_errors, bag.import_errors
    sync_bag_to_db(bag, bundle.name, bundle_version=bundle.get_current_version())
from airflow.__main__ import main
# What is there stays; looking through it again and again for garbage takes longer than a request.
gc.freeze()
gc.set_threshold(50_000, 20, 20)
gc.enable()
sys.argv = ["airflow", "api-server", "--apps", "core"]
main()
"""


@dataclass(frozen=True)
class AirflowServer:
    """The server's address, and the names that its tests need."""

    url: str
    home: Path

    def password(self, user: str) -> str:
        """Return the password that Airflow has made up for ``user``."""
        file = self.home / "simple_auth_manager_passwords.json.generated"
        return str(json.loads(file.read_text(encoding="utf-8"))[user])

    def call(self, user: str, path: str, body: Any = None) -> Any:
        """Return the answer of Airflow's REST API."""
        return self._request(path, body, self.token(user))

    def unpause(self, user: str, dag_id: str) -> None:
        """Let a DAG have a next run, as its switch in Airflow does."""
        self._request(f"/api/v2/dags/{dag_id}", {"is_paused": False}, self.token(user), method="PATCH")

    def token(self, user: str) -> str:
        """Return a token of ``user``, as a login in the browser stores it in the cookie ``_token``."""
        login = {"username": user, "password": self.password(user)}
        return str(self._request("/auth/token", login)["access_token"])

    def _request(self, path: str, body: Any, token: str | None = None, method: str | None = None) -> Any:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(
            urllib.request.Request(self.url + path, data, headers, method=method)
        ) as answer:
            return json.load(answer)


class RunningServer:
    """``with RunningServer(folder, warehouse) as server``: starts an API server and stops all of its processes."""

    def __init__(self, folder: Path, warehouse_file: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.server = AirflowServer(f"http://127.0.0.1:{port}", folder / "airflow")
        self._session = Session(folder / "api-server.pid")
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
            "AIRFLOW_HOME": str(self.server.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags_dir()),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in USERS.items()),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__BASE_URL": self.server.url,
            "AIRFLOW__API__WORKERS": "1",
            # Airflow's own interface would ask for the queued run again and again.
            "AIRFLOW__API__AUTO_REFRESH_INTERVAL": "60",
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(32),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW_CONN_BIGTCP_WAREHOUSE": f"sqlite:///{warehouse_file}",
        }

    def __enter__(self) -> AirflowServer:
        self.server.home.mkdir(parents=True)
        log = self._folder / "api-server.log"
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PREPARE_AND_SERVE],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._session.remember(self._process.pid)
        try:
            self._await_ready(log)
        except BaseException:
            self.__exit__()
            raise
        return self.server

    def __exit__(self, *_: object) -> None:
        self._session.end()
        self._process.wait()

    def _await_ready(self, log: Path) -> None:
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline and self._session.pid() is not None:
            try:
                with urllib.request.urlopen(f"{self.server.url}/api/v2/monitor/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.3)
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise RuntimeError(f"the API server did not start:\n{tail}")
