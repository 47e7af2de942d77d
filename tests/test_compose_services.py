"""docker-compose.yaml without a Docker engine: every service's own command as a process, with its own environment.

What an engine would give each container, and is replaced here: the names of the others, ports and folders.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bigtcp_bench.demo.local_airflow import Session
from bigtcp_lab import daemon
from tests.e2e import newest_api
from tests.postgres import binaries, running_server
from tests.support.compose import ROOT, compose_file, example_environment

#: Of the whole start: importing Airflow takes seconds, six times, on a machine that may be busy.
READY_S = 240
#: Between two looks at a service, whose answer takes CPU time that those need which are still starting.
LOOK_AGAIN_S = 1.0
#: A service that stops at all stops in so many times what an engine gives it, however busy the machine is.
PATIENCE = 4
#: What runs without a profile, but for the databases.
AIRFLOW = ("airflow-apiserver", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer")
#: Ports that Airflow opens although the file does not name them: a container has them to itself.
OWN_PORTS = {
    "AIRFLOW__API__PORT": "apiserver",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": "health",
    "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": "worker-logs",
    "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": "trigger-logs",
}


def free_ports(names: list[str]) -> dict[str, int]:
    sockets = [socket.socket() for _ in names]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = {name: one.getsockname()[1] for name, one in zip(names, sockets, strict=True)}
    for one in sockets:
        one.close()
    return ports


LOCAL_SETTINGS = """
import atexit
import gc

__all__: list[str] = []
gc.set_threshold(100_000, 50, 100)
atexit.register(gc.freeze)
"""


class Stack:
    """The services of the file, on this machine."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.folder = folder
        self.ports = free_ports(["postgres", "redis", "lab", *OWN_PORTS.values()])
        self.settings = settings
        self.services: dict[str, Any] = compose_file(settings)["services"]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.killed: set[str] = set()
        for name in ("opt", "state", "kube", "data"):
            (folder / name).mkdir()
        # `lab` is one volume at two places; what is mounted from the checkout is a link to it.
        (folder / "state" / "lab").symlink_to(folder / "kube")
        home = folder / "opt" / "airflow"
        (home / "auth").mkdir(parents=True)
        # Every process imports Airflow, health checks too: none need look for garbage in that.
        (home / "config").mkdir()
        (home / "config" / "airflow_local_settings.py").write_text(LOCAL_SETTINGS, encoding="utf-8")
        for mount in self.services["airflow-scheduler"]["volumes"]:
            source, target = mount.split(":")[:2]
            if source.startswith("./"):
                (folder / target.lstrip("/")).symlink_to((ROOT / source).resolve())

    def set(self, name: str, value: str) -> None:
        """Change a setting of .env; it holds for what is started from now on."""
        self.settings[name] = value
        self.services = compose_file(self.settings)["services"]

    def native(self, text: str) -> str:
        """Replace in ``text`` what only a container has."""
        ports = self.ports
        for container, here in {
            "postgres:5432": f"127.0.0.1:{ports['postgres']}",
            "redis:6379": f"127.0.0.1:{ports['redis']}",
            "airflow-apiserver:8080": f"127.0.0.1:{ports['apiserver']}",
            "localhost:8080": f"127.0.0.1:{ports['apiserver']}",
            "localhost:8974": f"127.0.0.1:{ports['health']}",
            "lab:6443": f"127.0.0.1:{ports['lab']}",
            "redis-server": f"redis-server --bind 127.0.0.1 --port {ports['redis']} --dir {self.folder / 'data'}",
            "redis-cli": f"redis-cli -p {ports['redis']}",
            "/opt/airflow": str(self.folder / "opt" / "airflow"),
            "/kube/": f"{self.folder / 'kube'}/",
            "/state": str(self.folder / "state"),
        }.items():
            text = text.replace(container, here)
        return text

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of a service: the file's, and of this machine's only where the programs are."""
        programs = [str(Path(sys.executable).parent), str(binaries()), os.environ["PATH"]]
        given = self.services[name].get("environment", {})
        return {
            "PATH": os.pathsep.join(programs),
            "HOME": str(self.folder),
            "HOSTNAME": socket.gethostname(),
            # These two are in the image, but for what has Airflow offer its tasks the newest API alone.
            "AIRFLOW_HOME": str(self.folder / "opt" / "airflow"),
            "PYTHONPATH": f"{newest_api.FOLDER}{os.pathsep}{self.folder / 'opt' / 'airflow' / 'plugins'}",
            **{variable: str(self.ports[port]) for variable, port in OWN_PORTS.items()},
            "PGPORT": str(self.ports["postgres"]),
            **{key: self.native(str(value)) for key, value in given.items() if value is not None},
        }

    def command(self, name: str) -> list[str]:
        """Return what the image's entrypoint makes of a service's command."""
        command = self.services[name]["command"]
        words = [self.native(word) for word in (shlex.split(command) if isinstance(command, str) else command)]
        # The entrypoint of apache/airflow runs bash and python as they are, and everything else as Airflow's.
        is_airflows = name.startswith("airflow-") and words[0] not in ("bash", "python")
        return ["airflow", *words] if is_airflows else words

    def run(self, name: str) -> None:
        """Run a service that ends by itself."""
        done = subprocess.run(
            self.command(name), env=self.environment(name), capture_output=True, text=True, timeout=READY_S
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    def start(self, name: str) -> None:
        with self.log(name).open("wb") as log:
            self.processes[name] = subprocess.Popen(
                self.command(name),
                env=self.environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        self.session(name).remember(self.processes[name].pid)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def is_healthy(self, name: str) -> bool:
        """Run a service's health check once."""
        kind, *words = self.services[name]["healthcheck"]["test"]
        words = [self.native(word) for word in words]
        assert kind in ("CMD", "CMD-SHELL")
        command = words if kind == "CMD" else ["sh", "-c", *words]
        return subprocess.run(command, env=self.environment(name), capture_output=True).returncode == 0

    def await_healthy(self, name: str) -> None:
        deadline = time.monotonic() + READY_S
        while not self.is_healthy(name):
            process = self.processes.get(name)
            ended = process is not None and process.poll() is not None
            if ended or time.monotonic() > deadline:
                log = self.log(name).read_text(errors="replace")[-4000:] if process else ""
                pytest.fail(f"{name} {'ended' if ended else 'did not become healthy'}:\n{log}")
            time.sleep(LOOK_AGAIN_S)

    def await_line(self, name: str, words: str) -> None:
        """Wait until a service has said ``words``."""
        deadline = time.monotonic() + READY_S
        while words not in (said := self.log(name).read_text(errors="replace")):
            assert time.monotonic() < deadline, said[-4000:]
            assert self.processes[name].poll() is None, said[-4000:]
            time.sleep(LOOK_AGAIN_S)

    def stop(self, name: str, patience: int = 1) -> None:
        """Stop a service as an engine does, with SIGKILL after ``patience`` times its time; note who needed it."""
        process = self.processes[name]
        self.killed.discard(name)
        # The image's init passes the signal on to the whole session, unless it is told not to.
        alone = self.services[name].get("environment", {}).get("DUMB_INIT_SETSID") == "0"
        (os.kill if alone or not name.startswith("airflow-") else os.killpg)(process.pid, signal.SIGTERM)
        try:
            process.wait(patience * self.grace_s(name))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self.killed.add(name)

    def grace_s(self, name: str) -> float:
        """Return how long a service has to stop."""
        return {"10s": 10, "30s": 30, "1m": 60}[self.services[name].get("stop_grace_period", "10s")]

    def end(self) -> None:
        """Leave nothing behind, whatever became of the test."""
        for name, process in self.processes.items():
            self.session(name).end(patience_s=2)
            process.wait()
        # The lab's processes are in a session of their own.
        daemon.down(self.folder / "kube")

    def session(self, name: str) -> Session:
        return Session(self.folder / f"{name}.pid")

    def call(self, path: str, body: Any = None, method: str | None = None, token: str | None = None) -> Any:
        """Return the answer of Airflow's REST API."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports['apiserver']}{path}",
            None if body is None else json.dumps(body).encode(),
            headers,
            method=method,
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def await_parts(self, *parts: str) -> None:
        """Wait until the API server has heard of the other parts."""
        deadline = time.monotonic() + READY_S
        while True:
            try:
                health = self.call("/api/v2/monitor/health")
                if all(health[part]["status"] == "healthy" for part in parts):
                    return
            except OSError:
                health = None
            assert time.monotonic() < deadline, health
            time.sleep(LOOK_AGAIN_S)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    stack = Stack(tmp_path, example_environment())
    try:
        yield stack
    finally:
        stack.end()


def assert_dry_run(stack: Stack, token: str) -> None:
    """Run the benchmark once without a change: its first task asks the lab and the warehouse all that it would."""
    dag = "/api/v2/dags/bigtcp_benchmark"
    stack.call(dag, {"is_paused": False}, "PATCH", token)
    conf = {"plan": "quick", "dry_run": True}
    run = stack.call(f"{dag}/dagRuns", {"logical_date": None, "conf": conf}, token=token)
    path = f"{dag}/dagRuns/{run['dag_run_id']}"
    deadline = time.monotonic() + READY_S
    while stack.call(path, token=token)["state"] not in ("success", "failed"):
        assert time.monotonic() < deadline, stack.log("airflow-scheduler").read_text(errors="replace")[-4000:]
        time.sleep(LOOK_AGAIN_S)
    tasks = stack.call(f"{path}/taskInstances?limit=100", token=token)["task_instances"]
    states = {task["task_id"]: task["state"] for task in tasks}
    assert states.pop("check_kernel") == "success"
    assert set(states.values()) == {"skipped"}


@pytest.mark.e2e
@pytest.mark.lab
@pytest.mark.postgres
def test_every_service_starts_is_healthy_works_and_stops(stack: Stack) -> None:
    with running_server(port=stack.ports["postgres"]) as url:
        subprocess.run(
            [ROOT / "image" / "create-databases.sh"],
            env={**stack.environment("postgres"), "PGHOST": url.split("host=")[1].split("&")[0]},
            check=True,
            capture_output=True,
            timeout=60,
        )
        assert stack.is_healthy("postgres")
        stack.start("lab")
        stack.run("airflow-init")
        stack.await_healthy("lab")
        for name in AIRFLOW:
            stack.start(name)
        # One look at a time: together they would ask the API server eight times a second while it starts.
        stack.await_parts("scheduler", "dag_processor", "triggerer")
        for name in AIRFLOW:
            stack.await_healthy(name)

        password = stack.settings["AIRFLOW_ADMIN_PASSWORD"]
        token = stack.call("/auth/token", {"username": "admin", "password": password})["access_token"]
        known = {dag["dag_id"] for dag in stack.call("/api/v2/dags", token=token)["dags"]}
        assert known == {"bigtcp_benchmark", "bigtcp_restore", "bigtcp_upgrade_watch"}
        assert_dry_run(stack, token)

        # The profile `celery`: the tasks move from the scheduler to a worker, and nothing else changes.
        # This first stop is not judged below: a worker of the LocalExecutor can die while it holds a lock that the
        # scheduler waits for, and then an engine kills it.
        stack.stop("airflow-scheduler")
        stack.set("AIRFLOW_EXECUTOR", "CeleryExecutor")
        stack.start("redis")
        stack.await_healthy("redis")
        for name in ("airflow-scheduler", "airflow-worker"):
            stack.start(name)
        # Its check is a whole Airflow of its own; before the worker is up it would only be in its way.
        stack.await_line("airflow-worker", " ready.")
        for name in ("airflow-scheduler", "airflow-worker"):
            stack.await_healthy(name)
        assert_dry_run(stack, token)
        assert "succeeded" in stack.log("airflow-worker").read_text(errors="replace")

        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda name: stack.stop(name, PATIENCE), [*AIRFLOW, "airflow-worker"]))
        for name in ("redis", "lab"):
            stack.stop(name, PATIENCE)
        assert not stack.killed, "these did not stop by themselves"
