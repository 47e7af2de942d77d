"""Kill the running task of each block with SIGKILL, under a real scheduler, and show what is left of the run.

Usage: ``python -m benchmarks.kill_tasks [FOLDER]``; starts a lab and an Airflow of its own in FOLDER (by default a
new temporary one), prints a Markdown table, and takes both down. Takes about ten minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bigtcp_bench.cluster.api import CONFIGMAP, LEASE, NODE, POD, ClusterApi
from bigtcp_bench.cluster.cilium import find_cilium
from bigtcp_bench.cluster.probe import probe_nodes
from bigtcp_bench.lab import daemon
from bigtcp_bench.local import LocalAirflow
from bigtcp_bench.warehouse.store import Warehouse

PORT = 8190
CONF = {
    "plan": "quick",
    "scenarios": ["ipv4-stream-1", "ipv6-stream-1"],
    "generations": 1,
    "duration_s": 4,
    "omit_s": 1,
}
#: Task → seconds after its start: while agents restart, and while traffic runs.
KILLS = (
    ("baseline_iperf3", 5.0),
    ("enable_big_tcp", 4.0),
    ("test_iperf3", 5.0),
    ("baseline_iperf3_2", 5.0),
    ("restore_config", 1.0),
)


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
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def trigger(self) -> str:
        """Start a run and return its path."""
        body = {"logical_date": None, "conf": CONF}
        run = self.call("POST", "/api/v2/dags/bigtcp_benchmark/dagRuns", body)
        return f"/api/v2/dags/bigtcp_benchmark/dagRuns/{urllib.parse.quote(run['dag_run_id'], safe='')}"

    def tasks(self, run: str) -> list[dict[str, Any]]:
        """Return the task instances of a run."""
        return list(self.call("GET", f"{run}/taskInstances?limit=100")["task_instances"])


def cluster_state(api: ClusterApi) -> dict[str, Any]:
    """Return everything that a run may touch."""
    cilium = find_cilium(api)
    assert cilium.node_config is not None
    probes = probe_nodes(api, ["node1", "node2"], "nicolaka/netshoot:v0.14")
    lease = api.find(LEASE, "bigtcp-bench", "bigtcp-bench") or {}
    return {
        "cilium-config": api.get(CONFIGMAP, "cilium-config", cilium.namespace)["data"],
        "node configs": [item["spec"] for item in api.select(cilium.node_config, cilium.namespace)],
        "labels": {node["metadata"]["name"]: node["metadata"]["labels"] for node in api.select(NODE)},
        "limits": {name: probe.limits(["eth0"]) for name, probe in probes.items()},
        "pods": [pod["metadata"]["name"] for pod in api.select(POD, "bigtcp-bench")],
        "holder": (lease.get("spec") or {}).get("holderIdentity") or "",
    }


def kill_task_processes(scheduler_session: int) -> int:
    """Kill the processes that run tasks, the children of the executor's busy workers; return how many."""
    parents: dict[int, int] = {}
    workers: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            pid = int(entry.name)
            if int(fields[3]) == scheduler_session:
                parents[pid] = int(fields[1])
                if b"LocalExecutor" in (entry / "cmdline").read_bytes():
                    workers.add(pid)
    victims = [pid for pid, parent in parents.items() if parent in workers and pid not in workers]
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(victims)


def one_kill(rest: Rest, api: ClusterApi, session: int, task_id: str, after_s: float) -> Iterator[str]:
    """Run the DAG, kill ``task_id`` once, and yield the cells of its row."""
    before = cluster_state(api)
    started = time.monotonic()
    run, killed = rest.trigger(), 0
    while (state := rest.call("GET", run)["state"]) not in ("success", "failed"):
        running = any(task["task_id"] == task_id and task["state"] == "running" for task in rest.tasks(run))
        if running and not killed:
            time.sleep(after_s)
            killed = kill_task_processes(session)
        time.sleep(0.3)
    after = cluster_state(api)
    tries = max(task["try_number"] for task in rest.tasks(run) if task["task_id"] == task_id)
    yield f"`{task_id}`"
    yield str(killed)
    yield str(tries)
    yield str(state)
    yield f"{time.monotonic() - started:.0f} s"
    left = [name for name in before if before[name] != after[name]]
    yield "nothing" if not left else "; ".join(f"{name}: {after[name]}" for name in left)


def main() -> None:
    """Run all kills and print the table."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="bigtcp-kills-")).resolve()
    info = daemon.up(folder / "lab")
    airflow = LocalAirflow(folder, info.kubeconfig, folder / "warehouse.db", PORT)
    try:
        airflow.prepare()
        Warehouse(f"sqlite:///{airflow.warehouse_file}").migrate()
        airflow.start()
        session = airflow.pid()
        assert session is not None
        rest, api = Rest(airflow), ClusterApi.from_kubeconfig(info.kubeconfig)
        print("| task killed | processes | tries | run ended | took | left behind in the cluster |")
        print("|---|---|---|---|---|---|")
        for task_id, after_s in KILLS:
            print("| " + " | ".join(one_kill(rest, api, session, task_id, after_s)) + " |", flush=True)
    finally:
        airflow.stop()
        daemon.down(folder / "lab")


if __name__ == "__main__":
    main()
