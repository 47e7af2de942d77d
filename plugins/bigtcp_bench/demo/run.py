"""The demo: the real DAG, through Airflow, on a lab or a given cluster, up to the comparison on the terminal."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, TYPE_CHECKING

import yaml

from bigtcp_bench.airflow.dag_ids import DAG_ID
from bigtcp_bench.demo.lab import the_lab
from bigtcp_bench.demo.local_airflow import DEFAULT_FOLDER, LocalAirflow, Session, airflow_command
from bigtcp_bench.demo.telling import Telling, about, plan_text
from bigtcp_bench.errors import BenchError, InvalidInput
from bigtcp_bench.planning.plan import load_plan
from bigtcp_bench.progress import said

if TYPE_CHECKING:
    from bigtcp_bench.cluster.api import ClusterApi
    from bigtcp_bench.warehouse.store import Warehouse

#: After Ctrl-C Airflow still runs the teardowns; this long is waited for them.
_TEARDOWN_S = 90


def run_demo(folder: Path, plan_name: str, kubeconfig: Path | None = None) -> int:
    """Run the DAG once with the plan of that name and print its comparison; 0 only for a valid run.

    Without ``kubeconfig`` it runs on a lab of its own, else on the cluster of that file's present context.
    Everything that is started is stopped again; what was measured stays in ``folder``. Raises InvalidInput for a
    kubeconfig that cannot be used.
    """
    plan = load_plan(plan_name)
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    telling = Telling(plan, on_lab=kubeconfig is None)
    airflow = _airflow(folder, kubeconfig)
    with _only_one(folder), ThreadPoolExecutor(1) as background:
        telling.say(f"{plan_text(plan)}; {about(*telling.expected_s)} in all")
        telling.say("preparing Airflow's database")
        prepared = background.submit(airflow.prepare)
        # What a killed demo left behind.
        _session(airflow).end(patience_s=1)
        with _lab(airflow.kubeconfig.parent, telling.say) if kubeconfig is None else nullcontext():
            airflow.warehouse().migrate()
            prepared.result()
            telling.say(f"running the DAG {DAG_ID} through Airflow on {airflow.cluster}")
            _run_dag(airflow, plan_name, telling)
    return _report(airflow, telling)


def _airflow(folder: Path, kubeconfig: Path | None) -> LocalAirflow:
    home, warehouse_file = folder / "demo", folder / "warehouse.db"
    if kubeconfig is None:
        return LocalAirflow(home, home / "lab" / "kubeconfig", warehouse_file)
    return LocalAirflow(home, kubeconfig.resolve(), warehouse_file, cluster=_context(kubeconfig))


def _context(kubeconfig: Path) -> str:
    """Return the name of the present context of a kubeconfig."""
    from kubernetes import config

    try:
        _, present = config.list_kube_config_contexts(str(kubeconfig))
    except (config.ConfigException, OSError, yaml.YAMLError) as error:
        raise InvalidInput(f"kubeconfig {kubeconfig} cannot be used: {error}") from error
    return str(present["name"])


@contextmanager
def _lab(state_dir: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Have a lab in ``state_dir`` for as long as the block lasts."""
    administrator, daemon = the_lab()
    say("starting the lab: two nodes, real traffic; its Kubernetes API and Cilium agent are emulated")
    daemon.down(state_dir)
    try:
        administrator.apply_manifests(daemon.up(state_dir, owner=os.getpid()).kubeconfig)
        yield
    finally:
        daemon.down(state_dir)
        say("the lab is down")


def _run_dag(airflow: LocalAirflow, plan_name: str, telling: Telling) -> None:
    """Run the DAG with `airflow dags test`, and tell of it. Its status is read from the warehouse later."""
    log_path = airflow.home / "demo.log"
    command = airflow_command("dags", "test", DAG_ID, "--conf", json.dumps({"plan": plan_name}))
    with log_path.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command,
            env=airflow.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            # Ctrl-C reaches it through us alone, once; see _interrupted.
            start_new_session=True,
        )
        _session(airflow).remember(process.pid)
        assert process.stdout is not None
        try:
            _follow(process.stdout, log, telling)
            process.wait()
        except KeyboardInterrupt:
            _interrupted(process, process.stdout, log, telling)
            raise
        finally:
            _session(airflow).end(patience_s=1)
            if process.poll() not in (0, 1):
                from bigtcp_bench.cluster.api import ClusterApi

                api = ClusterApi.from_kubeconfig(airflow.kubeconfig)
                put_back(api, airflow.warehouse(), airflow.installation, telling.say)
    if process.returncode not in (0, 1):
        raise BenchError(f"Airflow ended with status {process.returncode}; see {log_path}")


def _session(airflow: LocalAirflow) -> Session:
    return Session(airflow.home / "demo.pid")


def _follow(lines: IO[str], log: IO[str], telling: Telling) -> None:
    for line in lines:
        log.write(line)
        log.flush()
        text = said(line)
        if text is not None:
            telling.hear(text)


def _interrupted(process: subprocess.Popen[str], lines: IO[str], log: IO[str], telling: Telling) -> None:
    telling.say("interrupted: the run ends with its teardowns")
    process.send_signal(signal.SIGINT)
    signal.signal(signal.SIGALRM, lambda *_: process.kill())
    signal.alarm(_TEARDOWN_S)
    _follow(lines, log, telling)
    process.wait()
    signal.alarm(0)


def put_back(api: ClusterApi, warehouse: Warehouse, installation: str, say: Callable[[str], None]) -> None:
    """Restore what the newest run has left, which ended without its teardowns; touch nobody else's window.

    It was killed, or hung: Ctrl-C can meet Python at a point that it does not recover from.
    """
    from bigtcp_bench.cluster import lease, restore

    runs = warehouse.runs_frame(limit=1)
    if runs.empty:
        return
    holder = lease.holder_of(runs["dag_id"].iloc[0], runs["run_id"].iloc[0], installation)
    try:
        say(str(restore.restore(api, "the demo ended without its teardowns", holder=holder)))
    except BenchError as error:
        say(f"RESTORE NOT VERIFIED: {error}")


def _report(airflow: LocalAirflow, telling: Telling) -> int:
    """Print the verdict, as the last thing on the screen, and where all of it can be read."""
    from bigtcp_bench.report.html import write_report
    from bigtcp_bench.report.verdict import verdict_lines
    from bigtcp_bench.report.view import RunView

    warehouse = airflow.warehouse()
    runs = warehouse.runs_frame(limit=1)
    if runs.empty:
        raise BenchError(f"the run ended before it stored anything; see {airflow.home / 'demo.log'}")
    number = int(runs["id"].iloc[0])
    view = RunView.from_warehouse(warehouse, number)
    page = airflow.warehouse_file.with_name(f"run-{number}.html")
    write_report(warehouse, number, page)
    telling.say("done")
    print("", *verdict_lines(view), sep="\n")
    folder = airflow.warehouse_file.parent
    where = "" if folder == DEFAULT_FOLDER.resolve() else f" --folder {folder}"
    print(f"every figure: {sys.argv[0]} show {number}{where}\nwith charts, for a browser: {page}")
    return 0 if view.status == "valid" else 1


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    # The kernel drops the lock when its holder dies, however it dies.
    with (folder / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BenchError(f"a demo is already running in {folder}") from error
        yield
