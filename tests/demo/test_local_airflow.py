from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from bigtcp_bench.commands.main import main
from bigtcp_bench.demo import local_airflow
from bigtcp_bench.demo.local_airflow import LocalAirflow, Session
from tests.support.forked import Forked


def test_a_taken_port_is_said_before_anything_is_started(tmp_path: Path, capsys) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["up", "--port", str(port), "--folder", str(tmp_path / "up")]) == 1
    assert f"port {port} is taken by another program; choose one with --port" in capsys.readouterr().err
    assert not (tmp_path / "up").exists()


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").touch()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "file" / "up"
    assert main(["up", "--port", str(port), "--folder", str(folder)]) == 1
    assert f"--folder {folder} cannot be used: Not a directory" in capsys.readouterr().err


def test_where_no_folder_is_nothing_is_said_to_be_stopped(tmp_path: Path, capsys) -> None:
    assert main(["down", "--folder", str(tmp_path / "mistyped")]) == 0
    assert capsys.readouterr().out == f"there is no folder {tmp_path}/mistyped, so nothing runs there\n"


def test_the_port_that_is_open_is_the_one_that_airflow_was_started_with(tmp_path: Path) -> None:
    airflow = LocalAirflow(tmp_path, tmp_path / "kubeconfig", tmp_path / "warehouse.db", 8080)
    assert airflow.as_running() is None
    airflow.home.mkdir(parents=True)
    (airflow.home / "port").write_text("8081", encoding="utf-8")
    assert airflow.as_running() is None
    Session(airflow.home / "standalone.pid").remember(os.getpid())
    assert airflow.as_running() == replace(airflow, port=8081)


def test_a_database_is_prepared_once_by_each_release_of_airflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    airflow, asked = LocalAirflow(tmp_path, tmp_path / "kubeconfig", tmp_path / "warehouse.db"), []

    def migrate(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
        asked.append(command[1:])
        (airflow.home / "airflow.db").touch()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", migrate)
    for times, then in enumerate((lambda: None, (airflow.home / "airflow.db").unlink, lambda: None), start=1):
        airflow.prepare()
        airflow.prepare()
        assert asked == [["db", "migrate"]] * times
        then()
        monkeypatch.setattr(local_airflow, "version", lambda _, times=times: f"4.{times}")


def test_the_scheduler_has_imported_what_its_tasks_need(forked: Forked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only of other packages: a task takes this one as it is when it starts."""
    airflow = LocalAirflow(forked.folder, forked.folder / "kubeconfig", forked.folder / "warehouse.db")
    monkeypatch.setattr(LocalAirflow, "check_port", lambda _: None)
    monkeypatch.setattr(LocalAirflow, "_await_ready", lambda _: None)
    monkeypatch.setattr(Session, "remember", lambda *_: None)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: subprocess.CompletedProcess([], 0))
    monkeypatch.setattr(subprocess.CompletedProcess, "pid", os.getpid(), raising=False)
    airflow.start()
    monkeypatch.undo()
    # Airflow imports its settings when it is imported itself, as the forked process has done, without any. What is
    # registered first is called last.
    code = """
import atexit, gc, importlib, sys
from airflow import settings
atexit.unregister(gc.freeze)
atexit.register(lambda: print(gc.get_freeze_count() > 0))
provider = "airflow.providers.cncf.kubernetes.operators.pod"
assert provider not in sys.modules
sys.argv = ["airflow", "scheduler"]
importlib.invalidate_caches()
settings.import_local_settings()
print(provider in sys.modules, [name for name in sys.modules if name.startswith("bigtcp_bench")])
"""
    assert forked.ask(code)[-2:] == ["True []", "True"]
