from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

from bigtcp_bench.commands.main import main
from bigtcp_bench.demo.local_airflow import LocalAirflow, Session


def test_a_taken_port_is_said_before_anything_is_started(tmp_path: Path, capsys) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["up", "--port", str(port), "--folder", str(tmp_path / "up")]) == 1
    assert f"port {port} is taken by another program; choose one with --port" in capsys.readouterr().err
    assert not (tmp_path / "up").exists()


def test_the_port_that_is_open_is_the_one_that_airflow_was_started_with(tmp_path: Path) -> None:
    airflow = LocalAirflow(tmp_path, tmp_path / "kubeconfig", tmp_path / "warehouse.db", 8080)
    assert airflow.as_running() is None
    airflow.home.mkdir(parents=True)
    (airflow.home / "port").write_text("8081", encoding="utf-8")
    assert airflow.as_running() is None
    Session(airflow.home / "standalone.pid").remember(os.getpid())
    assert airflow.as_running() == replace(airflow, port=8081)
