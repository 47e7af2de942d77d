"""`bigtcp-bench up` and `down` as a person runs them: the lab, Airflow with DAGs and pages, and nothing left."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from bigtcp_lab import daemon
from tests.e2e import newest_api

pytestmark = [pytest.mark.e2e, pytest.mark.lab]

DAGS = {"bigtcp_benchmark", "bigtcp_restore", "bigtcp_upgrade_watch"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _call(url: str, token: str = "", body: Any = None) -> Any:
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30) as answer:
        return json.load(answer)


def test_up_starts_everything_and_down_leaves_nothing(tmp_path: Path) -> None:
    port, folder = _free_port(), tmp_path / "work"
    program = str(Path(sys.executable).with_name("bigtcp-bench"))

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *arguments, "--folder", str(folder)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": newest_api.path()},
        )

    try:
        up = command("up", "--port", str(port))
        assert up.returncode == 0, up.stderr
        url = f"http://127.0.0.1:{port}"
        password = re.search(rf"Open {url} and log in as admin with the password (\w+)", up.stdout)
        assert password, up.stdout
        token = _call(f"{url}/auth/token", body={"username": "admin", "password": password[1]})["access_token"]
        known: set[str] = set()
        deadline = time.monotonic() + 240
        while known != DAGS and time.monotonic() < deadline:
            known = {dag["dag_id"] for dag in _call(f"{url}/api/v2/dags", token)["dags"]}
            time.sleep(1)
        assert known == DAGS
        assert "bigtcp_bench" in {plugin["name"] for plugin in _call(f"{url}/api/v2/plugins", token)["plugins"]}
        assert daemon.status(folder / "lab").running
    finally:
        down = command("down")
    assert down.returncode == 0, down.stderr
    assert not daemon.status(folder / "lab").running
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert not (tmp_path / "airflow").exists(), "something was written to the person's home"
