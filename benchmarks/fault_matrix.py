"""Make something die at every step of the DAG, under a real scheduler, and show what is left in the cluster.

Usage: ``python -m benchmarks.fault_matrix [--faults NAME ...] [--steps TASK ...] [--port PORT] [--folder DIR]``.
Starts a lab and an Airflow of its own, injects each fault once at each step of a small run, and prints a Markdown
table. A cell takes one to three minutes, all of them some hours; several processes with faults and ports of their
own can run side by side.

What is shortened, so that this ends: a lease that nobody renews is made to look 20 minutes old instead of waiting
for its end; Airflow misses a dead worker, and the tasks of a dead scheduler, after 20 s, not 300 s; a run's time
limit passes by moving the run's start back by a day.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.support.cluster_state import NAMESPACE, cluster_state

from bigtcp_bench.cluster import restore
from bigtcp_bench.cluster.api import LEASE, ClusterApi, Kind
from bigtcp_bench.cluster.guardian_objects import CRONJOB
from bigtcp_bench.cluster.pods import delete_pods
from bigtcp_bench.demo.local_airflow import LocalAirflow
from bigtcp_bench.errors import BenchError
from bigtcp_bench.in_cluster.protocol import GUARDIAN_NAME, LEASE_NAME
from bigtcp_bench.settings import PLANS
from bigtcp_bench.warehouse.store import Warehouse
from bigtcp_lab import administrator, daemon

JOB = Kind("batch", "v1", "jobs")
DAG = "/api/v2/dags/bigtcp_benchmark"
#: Small, but with what a generation can create: pods on two nodes and on one, and a Service.
PLAN = """
description: For faults
scenarios: [ipv4-stream-1, ipv6-stream-1@service, ipv4-stream-1@same-node]
order: "off,on"
generations: 1
repetitions: 1
duration_s: 2
omit_s: 0
precision: null
control: false
load_gate: {mode: warn, rest_s: 0}
thresholds: {busy_limit: 1, steal_limit: 1, throttle_limit: 1, drift_limit: 1}
"""
DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "generated" / "fault-matrix.md"
STEPS = (
    "check_kernel",
    "snapshot_config",
    "disable_big_tcp",
    "baseline_iperf3",
    "enable_big_tcp",
    "test_iperf3",
    "collect_counters",
    "compare",
    "notify",
    "restore_config",
    "close_run",
)
#: Airflow's scheduler with the modules that every task imports: its workers are forks, so a task starts faster.
#: Nothing else differs from ``airflow scheduler``.
PRELOADED_SCHEDULER = """
import sys
import airflow.providers.cncf.kubernetes.operators.pod, pandas, scipy.stats
import bigtcp_bench.airflow.steps.blocks, bigtcp_bench.cluster.window, bigtcp_bench.warehouse.store
from airflow.__main__ import main
sys.argv = ["airflow", "scheduler"]
main()
"""
#: Seconds into a step before the fault, so that a switch has begun to change something and pods carry traffic.
INTO_STEP_S = 1.5
#: The API is away, and a node is away, for this long.
API_AWAY_S, NODE_AWAY_S = 120.0, 60.0
#: A run that is still not over after this long is called stuck. A killed restore alone is waited for until its
#: hold on the Lease (240 s) ends.
RUN_LIMIT_S = 600.0
#: A killed task was seen to go on for up to 6 s.
ORPHANS_S = 8.0


class Rest:
    """Airflow's REST API, as the UI uses it."""

    def __init__(self, airflow: LocalAirflow) -> None:
        self._url = airflow.url
        self._token = ""
        login = {"username": "admin", "password": airflow.password()}
        self._token = self.call("POST", "/auth/token", login)["access_token"]

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer to one request."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)

    def trigger(self) -> str:
        """Start a run and return its path."""
        run = self.call("POST", f"{DAG}/dagRuns", {"logical_date": None, "conf": {"plan": "faults"}})
        return f"{DAG}/dagRuns/{urllib.parse.quote(run['dag_run_id'], safe='')}"

    def tasks(self, run: str) -> dict[str, str | None]:
        """Return task id → state of a run."""
        found = self.call("GET", f"{run}/taskInstances?limit=100")["task_instances"]
        return {task["task_id"]: task["state"] for task in found}


class Place:
    """One lab and one Airflow, whose parts can be killed."""

    def __init__(self, folder: Path, port: int) -> None:
        self.lab_dir = folder / "lab"
        info = daemon.up(self.lab_dir, rbac=True, owner=os.getpid())
        self.airflow = LocalAirflow(folder, info.kubeconfig, folder / "warehouse.db", port)
        self.api = ClusterApi.from_kubeconfig(info.kubeconfig)
        administrator.apply_manifests(info.kubeconfig)
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.airflow.prepare()
        Warehouse(f"sqlite:///{self.airflow.warehouse_file}").migrate()
        self.start_airflow()

    def start_airflow(self) -> None:
        """Start all of Airflow, its scheduler in a session of its own so that it can be killed alone."""
        # Nothing of these is left behind by LocalAirflow.environment, which drops what is set for other Airflows.
        exchange = threading.Thread(target=self._exchange_scheduler)
        exchange.start()
        self.airflow.start()
        exchange.join()
        self.rest = Rest(self.airflow)

    def _exchange_scheduler(self) -> None:
        """Kill the scheduler that comes with the rest before it takes up a task, and start one of our own."""
        deadline = time.monotonic() + 120
        while not (its := self._its_schedulers()) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in its:
            kill(pid)
        # It would start a task that it finds waiting, which fails where the API server does not answer yet.
        while not self._api_server_answers() and time.monotonic() < deadline:
            time.sleep(0.2)
        self.start_scheduler()

    def _api_server_answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.airflow.url}/api/v2/version", timeout=5):
            return True
        return False

    def _its_schedulers(self) -> list[int]:
        session = self.airflow.pid()
        return processes(lambda stat, command: stat.session == session and b"scheduler" in command)

    def start_scheduler(self) -> None:
        """Start the scheduler, as a service manager would after it died."""
        environment = {
            **self.airflow.environment(),
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
            # It looks for them when it starts, too; but for 30 s it takes the one before for alive.
            "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "20",
        }
        log = (self.airflow.home / "scheduler.log").open("ab")
        command = [sys.executable, "-c", PRELOADED_SCHEDULER]
        self.scheduler = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def scheduler_session(self) -> int:
        """Return the session of the scheduler, its workers and their tasks."""
        assert self.scheduler is not None
        return self.scheduler.pid

    def workers(self) -> list[int]:
        """Return the executor's worker processes."""
        session = self.scheduler_session()
        return processes(lambda stat, command: stat.session == session and b"LocalExecutor" in command)

    def task_processes(self) -> list[int]:
        """Return the processes that run tasks: what the executor's workers have started."""
        workers, session = set(self.workers()), self.scheduler_session()
        return [
            pid
            for pid in processes(lambda stat, command: stat.session == session and stat.parent in workers)
            if pid not in workers
        ]

    def busy_workers(self) -> list[int]:
        """Return the executor's workers that run a task."""
        parents = {Stat((Path("/proc") / str(pid) / "stat").read_text()).parent for pid in self.task_processes()}
        return [pid for pid in self.workers() if pid in parents]

    def kill_scheduler(self) -> None:
        """Kill the scheduler, not its workers."""
        assert self.scheduler is not None
        self.scheduler.kill()
        self.scheduler.wait()

    def kill_airflow(self) -> None:
        """Kill every process of Airflow at once."""
        sessions = {self.airflow.pid(), self.scheduler_session()}
        for pid in processes(lambda stat, command: stat.session in sessions):
            kill(pid)
        assert self.scheduler is not None
        self.scheduler.wait()
        self.airflow.stop()

    def stop(self) -> None:
        """Take everything down."""
        with contextlib.suppress(AssertionError, ProcessLookupError):
            self.kill_airflow()
        daemon.down(self.lab_dir)


class Stat:
    """Parent and session of a process (fields 4 and 6 of /proc/<pid>/stat)."""

    def __init__(self, text: str) -> None:
        fields = text.rpartition(")")[2].split()
        self.parent, self.session = int(fields[1]), int(fields[3])


def processes(wanted: Callable[[Stat, bytes], bool]) -> list[int]:
    """Return the ids of the processes that ``wanted`` says yes to."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            if wanted(Stat((entry / "stat").read_text()), (entry / "cmdline").read_bytes()):
                found.append(int(entry.name))
    return found


def kill(pid: int) -> None:
    """Send SIGKILL."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_all(pids: list[int]) -> None:
    """Send SIGKILL to each. Raises LookupError if there is none: nothing was injected."""
    if not pids:
        raise LookupError("no such process: the step was over, and nothing was killed")
    for pid in pids:
        kill(pid)


# --- The faults: each is given the place and the run's path, and returns when it is over -----------------------


def task_killed(place: Place, run: str) -> None:
    """The task's processes are killed with SIGKILL."""
    kill_all(place.task_processes())


def worker_killed(place: Place, run: str) -> None:
    """The worker that runs the task is killed; the task goes on without it.

    Not the idle ones: one that is killed while it waits for work takes the lock of the executor's queue with it,
    and a LocalExecutor then starts no task any more until its scheduler is started again.
    """
    kill_all(place.busy_workers())


def scheduler_killed(place: Place, run: str) -> None:
    """The scheduler is killed, and started again ten seconds later."""
    place.kill_scheduler()
    time.sleep(10)
    place.start_scheduler()


def marked(state: str) -> Callable[[Place, str], None]:
    """Return the fault: the run is given ``state`` in the UI."""

    def mark(place: Place, run: str) -> None:
        place.rest.call("PATCH", run, {"state": state})

    mark.__doc__ = f"The run is marked {state} in the UI."
    return mark


def cleared(place: Place, run: str) -> None:
    """The whole run is cleared in the UI while it is under way."""
    place.rest.call("POST", f"{run}/clear", {"dry_run": False, "only_failed": False})


def timed_out(place: Place, run: str) -> None:
    """Somebody gave the DAG a run time limit (a cluster policy can), and it passes."""
    run_id = urllib.parse.unquote(run.rpartition("/")[2])
    day_ago = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%d %H:%M:%S.%f")
    with contextlib.closing(sqlite3.connect(place.airflow.home / "airflow.db", timeout=60)) as database, database:
        database.execute("UPDATE dag_run SET start_date = ? WHERE run_id = ?", (day_ago, run_id))


def api_away(place: Place, run: str) -> None:
    """The cluster's API answers nothing but 503 for two minutes."""
    daemon.set_fault(place.lab_dir, "api-down", True)
    time.sleep(API_AWAY_S)
    daemon.set_fault(place.lab_dir, "api-down", False)


def node_away(place: Place, run: str) -> None:
    """The receiving node dies, and comes back after a minute."""
    daemon.set_fault(place.lab_dir, "node-dies:node2", True)
    time.sleep(NODE_AWAY_S)
    daemon.set_fault(place.lab_dir, "node-dies:node2", False)


def airflow_gone(place: Place, run: str) -> None:
    """Every process of Airflow is killed, and stays away."""
    place.kill_airflow()


FAULTS: dict[str, Callable[[Place, str], None]] = {
    "task killed": task_killed,
    "worker killed": worker_killed,
    "scheduler killed": scheduler_killed,
    "run marked failed": marked("failed"),
    "run marked success": marked("success"),
    "run cleared": cleared,
    "run timed out": timed_out,
    "API away for 2 min": api_away,
    "node away for 1 min": node_away,
    "all of Airflow killed": airflow_gone,
}

#: A policy that gives every DAG a run time limit, which this package's own does not have.
POLICY = """
from datetime import timedelta


def dag_policy(dag):
    dag.dagrun_timeout = timedelta(hours=12)
"""


# --- One cell --------------------------------------------------------------------------------------------------


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return what of the cluster is not as it was."""
    return [f"{name}: {after[name]}" for name in before if before[name] != after[name]]


def await_step(place: Place, run: str, step: str) -> str:
    """Wait until ``step`` runs, or has just run; return its state."""
    deadline = time.monotonic() + RUN_LIMIT_S
    while time.monotonic() < deadline:
        state = place.rest.tasks(run).get(step)
        if state in ("running", "success", "failed", "up_for_retry"):
            return state
        time.sleep(0.3)
    raise TimeoutError(f"{step} did not start within {RUN_LIMIT_S:.0f} s")


def await_end(place: Place, run: str) -> str:
    """Wait until the run is over, and return its state, or "stuck"."""
    deadline = time.monotonic() + RUN_LIMIT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, OSError):
            state = str(place.rest.call("GET", run)["state"])
            if state in ("success", "failed"):
                return state
        time.sleep(0.5)
    return "stuck"


def expire_lease(api: ClusterApi) -> None:
    """Make the lease look as if nobody had renewed it for 20 minutes."""
    lease = api.find(LEASE, LEASE_NAME, NAMESPACE)
    if lease is not None and (lease["spec"].get("holderIdentity") or ""):
        past = datetime.now(UTC) - timedelta(minutes=20)
        lease["spec"]["renewTime"] = past.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        api.replace(LEASE, lease, NAMESPACE)


def run_guardian(api: ClusterApi) -> str:
    """Start the guardian's job now, as ``kubectl create job --from`` does, and return how it ended."""
    cron_job = api.find(CRONJOB, GUARDIAN_NAME, NAMESPACE)
    if cron_job is None:
        return "no guardian"
    name = f"guardian-now-{int(time.time())}"
    template = cron_job["spec"]["jobTemplate"]
    body = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": NAMESPACE, **(template.get("metadata") or {})},
        "spec": template["spec"],
    }
    api.create(JOB, body, NAMESPACE)
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        job = api.find(JOB, name, NAMESPACE)
        status = (job or {}).get("status") or {}
        if status.get("succeeded"):
            return "guardian"
        if status.get("failed"):
            return "guardian failed"
        time.sleep(0.5)
    return "guardian stuck"


def inject(place: Place, name: str, step: str, into_step_s: float) -> Iterator[str]:
    """Run the DAG, inject one fault at one step, and yield what is worth telling, word by word."""
    before = cluster_state(place.api)
    run = place.rest.trigger()
    if await_step(place, run, step) == "running":
        time.sleep(into_step_s)
    FAULTS[name](place, run)
    if name == "all of Airflow killed":
        yield "gone"
    else:
        yield await_end(place, run)
    time.sleep(ORPHANS_S)
    left = differences(before, cluster_state(place.api))
    if left:
        expire_lease(place.api)
        yield run_guardian(place.api)
        left = differences(before, cluster_state(place.api))
    if name == "all of Airflow killed":
        place.start_airflow()
        yield f"then {await_end(place, run)}"
        time.sleep(ORPHANS_S)
        meanwhile, left = left, differences(before, cluster_state(place.api))
        if meanwhile and not left:
            yield "until Airflow was back: " + "; ".join(meanwhile)
            return
    yield "LEFT " + "; ".join(left) if left else "nothing left"


def clean_up(place: Place) -> None:
    """Make the place usable for the next cell, whatever the last one has left."""
    with contextlib.suppress(BenchError):
        restore.restore(place.api, "next fault", force=True)
    for run in place.rest.call("GET", f"{DAG}/dagRuns?limit=100&order_by=-start_date")["dag_runs"]:
        if run["state"] in ("running", "queued"):
            path = f"{DAG}/dagRuns/{urllib.parse.quote(run['dag_run_id'], safe='')}"
            place.rest.call("PATCH", path, {"state": "failed"})
            await_end(place, path)
    with contextlib.suppress(BenchError):
        delete_pods(place.api)


def write_cell(fault: str, step: str, told: list[str]) -> None:
    """Write who put the cluster back, or what was left, into the cell of one fault at one step."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    header = next(line for line in lines if line.startswith("| step |"))
    column = [cell.strip() for cell in header.split("|")].index(fault)
    row = next(number for number, line in enumerate(lines) if line.startswith(f"| `{step}` |"))
    cells = lines[row].split("|")
    last = told[-1]
    cells[column] = f" {('guardian' if 'guardian' in told else 'run') if last == 'nothing left' else last} "
    lines[row] = "|".join(cells)
    DOCUMENT.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Inject all faults that were asked for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--into-step", type=float, default=INTO_STEP_S, help="seconds; less for short steps")
    parser.add_argument("--port", type=int, default=8190)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--write", action="store_true", help=f"each outcome into {DOCUMENT}")
    options = parser.parse_args()
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="bigtcp-faults-"))).resolve()
    if "run timed out" in options.faults:
        # Found before the settings that LocalAirflow writes into Airflow's own folder.
        policy = folder / "policy" / "airflow_local_settings.py"
        policy.parent.mkdir(parents=True, exist_ok=True)
        policy.write_text(POLICY, encoding="utf-8")
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = f"{policy.parent}{os.pathsep}{before}" if before else str(policy.parent)
    plans = folder / "plans"
    plans.mkdir(exist_ok=True)
    (plans / "faults.yaml").write_text(PLAN, encoding="utf-8")
    os.environ[PLANS.name] = str(plans)
    place = Place(folder, options.port)
    try:
        print("| fault | step | run, who put the cluster back, what was left | took |", flush=True)
        print("|---|---|---|---|", flush=True)
        for name in options.faults:
            for step in options.steps:
                started = time.monotonic()
                told: list[str] = []
                try:
                    told.extend(inject(place, name, step, options.into_step))
                except (BenchError, OSError, TimeoutError, LookupError) as error:
                    told.append(f"ERROR {error}")
                    if place.airflow.pid() is None:
                        place.start_airflow()
                clean_up(place)
                took_s = time.monotonic() - started
                print(f"| {name} | `{step}` | {', '.join(told)} | {took_s:.0f} s |", flush=True)
                if options.write:
                    write_cell(name, step, told)
    finally:
        place.stop()


if __name__ == "__main__":
    main()
