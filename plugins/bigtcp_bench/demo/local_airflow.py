"""Airflow on this machine, in a folder of the project: what `make demo` and `make up` start."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from bigtcp_bench.errors import BenchError
from bigtcp_bench.resources import dags_dir

if TYPE_CHECKING:
    from bigtcp_bench.warehouse.store import Warehouse

#: Everything that demo and up create lies below this folder of the current directory; never in the user's home.
DEFAULT_FOLDER = Path(".bigtcp")

DEFAULT_PORT = 8080

_READY_TIMEOUT_S = 300
#: Each task is forked from the scheduler, and would else import the provider of Kubernetes for itself, for a
#: second of CPU time. Of the package nothing is imported here: tasks shall have it as it is when they start.
#: And each process would look for garbage in what it imports, again and again and when it ends: one more second.
_LOCAL_SETTINGS = '''"""What Airflow reads when one of its parts starts."""

import atexit
import gc
import sys

__all__: list[str] = []

gc.set_threshold(100_000, 50, 100)
atexit.register(gc.freeze)
if "scheduler" in sys.argv:
    import airflow.providers.cncf.kubernetes.operators.pod
'''
#: The distribution whose release decides what its database looks like.
_AIRFLOW = "apache-airflow-core"


@dataclass(frozen=True)
class LocalAirflow:
    """An Airflow home of our own below ``folder``, talking to the cluster of ``kubeconfig``.

    ``cluster`` is its name in reports and tables.
    """

    folder: Path
    kubeconfig: Path
    warehouse_file: Path
    port: int = DEFAULT_PORT
    cluster: str = "lab"

    @property
    def home(self) -> Path:
        """Return the AIRFLOW_HOME."""
        return self.folder / "airflow"

    @property
    def url(self) -> str:
        """Return the address of the UI."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """Return the environment of every Airflow process: this one's, without its Airflow settings."""
        keep = {
            name: value
            for name, value in os.environ.items()
            # KUBECONFIG and a connection's kube_config_path exclude each other in the provider.
            if not name.startswith("AIRFLOW") and name != "KUBECONFIG"
        }
        kubernetes = {
            "conn_type": "kubernetes",
            "extra": {"kube_config_path": str(self.kubeconfig), "cluster_name": self.cluster},
        }
        settings = {
            # `airflow standalone` starts its parts as `airflow`, from PATH.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags_dir()),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            # Two cores: a run is serial, and each idle worker of the default 32 costs memory.
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
            # A busy machine takes its time to import the provider of Kubernetes.
            "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "300",
            "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "300",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "60",
            # With SQLite a busy machine answers a worker only after many seconds; the default gives up after 5.
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
            # Else every task warns that the cluster's name, which is no secret, is too short to be masked.
            "AIRFLOW__LOGGING__MIN_LENGTH_MASKED_SECRET": "3",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__API__SECRET_KEY": self._secret("secret_key"),
            "AIRFLOW__API_AUTH__JWT_SECRET": self._secret("jwt_secret"),
            "AIRFLOW_CONN_KUBERNETES_DEFAULT": json.dumps(kubernetes),
            "AIRFLOW_CONN_BIGTCP_WAREHOUSE": f"sqlite:///{self.warehouse_file}",
            "AIRFLOW_VAR_BIGTCP_INSTALLATION": self.installation,
        }
        optional = ("AIRFLOW_CONN_BIGTCP_SLACK", "AIRFLOW_CONN_BIGTCP_PROMETHEUS")
        passed_on = {name: os.environ[name] for name in optional if name in os.environ}
        return {**keep, **settings, **passed_on}

    @property
    def installation(self) -> str:
        """Return what tells this Airflow from every other one."""
        return self._secret("installation")[:8]

    def _secret(self, name: str) -> str:
        path = self.home / name
        if not path.exists():
            self.home.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(16), encoding="utf-8")
        return path.read_text(encoding="utf-8")

    def prepare(self) -> None:
        """Create or upgrade Airflow's own database, unless this Airflow has done so before.

        Raises BenchError with the end of the log if that fails.
        """
        self._write_local_settings()
        prepared = self.home / "prepared"
        if (self.home / "airflow.db").exists() and prepared.exists() and prepared.read_text() == version(_AIRFLOW):
            return
        log = self.home / "db-migrate.log"
        with log.open("wb") as out:
            done = subprocess.run(
                airflow_command("db", "migrate"), env=self.environment(), stdout=out, stderr=out, check=False
            )
        if done.returncode:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise BenchError(f"airflow db migrate failed with status {done.returncode}; {log} ends with:\n{tail}")
        prepared.write_text(version(_AIRFLOW), encoding="utf-8")

    def _write_local_settings(self) -> None:
        folder = self.home / "config"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "airflow_local_settings.py").write_text(_LOCAL_SETTINGS, encoding="utf-8")

    def warehouse(self) -> Warehouse:
        """Return the warehouse of its runs."""
        from bigtcp_bench.warehouse.store import Warehouse

        return Warehouse(f"sqlite:///{self.warehouse_file}")

    def check_port(self) -> None:
        """Raise BenchError if another program has the port."""
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                raise BenchError(f"port {self.port} is taken by another program; choose one with --port")

    def as_running(self) -> LocalAirflow | None:
        """Return the Airflow that runs in this folder, with the port that it has; None where none runs."""
        if self.pid() is None or not self._port_file.exists():
            return None
        return replace(self, port=int(self._port_file.read_text(encoding="utf-8")))

    @property
    def _port_file(self) -> Path:
        return self.home / "port"

    def start(self) -> None:
        """Start `airflow standalone`, which prepares its own database, and wait until its API answers."""
        if self.pid() is not None:
            return
        self.check_port()
        self._write_local_settings()
        self._port_file.write_text(str(self.port), encoding="utf-8")
        with self._log_file.open("ab") as out:
            process = subprocess.Popen(
                airflow_command("standalone"),
                env={**self.environment(), "AIRFLOW_CONN_BIGTCP_AIRFLOW": json.dumps(self._own_api())},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self._session.remember(process.pid)
        self._await_ready()

    def stop(self) -> bool:
        """Stop what start() started, all of its processes; return whether there was something to stop."""
        return self._session.end()

    def pid(self) -> int | None:
        """Return the process id of the running `airflow standalone`, or None."""
        return self._session.pid()

    def password(self) -> str:
        """Return the password of the UI's user `admin`."""
        return str(json.loads(self._passwords_file.read_text(encoding="utf-8"))["admin"])

    @property
    def _passwords_file(self) -> Path:
        return self.home / "simple_auth_manager_passwords.json.generated"

    def _own_api(self) -> dict[str, str]:
        """Return the connection by which tasks write the notes of their runs; gives `admin` a password first."""
        if not self._passwords_file.exists():
            self._passwords_file.touch(mode=0o600)
            # Airflow takes what it finds there, and would else generate it only when it starts.
            self._passwords_file.write_text(json.dumps({"admin": secrets.token_hex(8)}), encoding="utf-8")
        return {"conn_type": "http", "host": self.url, "login": "admin", "password": self.password()}

    @property
    def _session(self) -> Session:
        return Session(self.home / "standalone.pid")

    @property
    def _log_file(self) -> Path:
        return self.home / "standalone.log"

    def _await_ready(self) -> None:
        deadline = time.monotonic() + _READY_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.pid() is None:
                tail = "\n".join(self._log_file.read_text(errors="replace").splitlines()[-15:])
                raise BenchError(f"airflow standalone ended; {self._log_file} ends with:\n{tail}")
            try:
                with urllib.request.urlopen(f"{self.url}/api/v2/monitor/health", timeout=5) as answer:
                    health = json.load(answer)
                if all(health.get(part, {}).get("status") == "healthy" for part in ("scheduler", "dag_processor")):
                    return
            except (urllib.error.URLError, OSError, ValueError):
                pass
            time.sleep(1)
        raise BenchError(f"Airflow was not ready after {_READY_TIMEOUT_S} s; see {self._log_file}")


@dataclass(frozen=True)
class Session:
    """A background process and all its children, remembered in a file so that a later command can end them.

    The process must lead a session of its own (``start_new_session=True``): that holds the children together even
    when the process itself was killed.
    """

    pid_file: Path

    def remember(self, pid: int) -> None:
        """Write down the process that was just started."""
        # A process id is used again after a while; together with its start time it is not.
        self.pid_file.write_text(f"{pid} {_start_time(pid)}", encoding="utf-8")

    def pid(self) -> int | None:
        """Return the id of the process if it, or one of its children, is alive."""
        try:
            pid_text, start_time = self.pid_file.read_text(encoding="utf-8").split()
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        pid = int(pid_text)
        alive = _start_time(pid) == start_time or (_start_time(pid) is None and bool(_session_processes(pid)))
        return pid if alive else None

    def end(self, patience_s: float = 15) -> bool:
        """End all processes, first politely; return whether there were any."""
        pid = self.pid()
        if pid is not None:
            for number in (signal.SIGTERM, signal.SIGKILL):
                deadline = time.monotonic() + patience_s
                while (processes := _session_processes(pid)) and time.monotonic() < deadline:
                    for process in processes:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(process, number)
                    time.sleep(0.2)
        self.pid_file.unlink(missing_ok=True)
        return pid is not None


def airflow_command(*arguments: str) -> list[str]:
    """Return the command line of this environment's airflow, whatever PATH says."""
    beside = Path(sys.executable).with_name("airflow")
    program = str(beside) if beside.exists() else shutil.which("airflow") or "airflow"
    return [program, *arguments]


def _session_processes(session: int) -> list[int]:
    """Return the processes of a session, also when their leader is gone (field 6 of /proc/<pid>/stat)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _stat_fields(int(entry.name))
            if fields and int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def _stat_fields(pid: int) -> list[str] | None:
    """Return the fields of /proc/<pid>/stat from the third (state) on; the name before may hold spaces."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _start_time(pid: int) -> str | None:
    """Return the start time of a process in clock ticks since boot (field 22), or None if it is gone."""
    fields = _stat_fields(pid)
    return fields[19] if fields and fields[0] != "Z" else None
