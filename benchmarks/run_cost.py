"""What a run costs beyond its traffic, by step: a real scheduler, and a lab whose starts are as slow as real ones.

    python -m benchmarks.run_cost --plan quick

Run it from the project's folder, as root, on a quiet machine. Prints Markdown. With ``--at-once`` the lab starts
pods and agents as fast as it can. ``--fault setting-ignored`` shows what a failed run costs until its teardown.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bigtcp_bench.airflow.dag_ids import DAG_ID
from bigtcp_bench.demo.local_airflow import LocalAirflow
from bigtcp_bench.planning.plan import RERUN_PREFIX, SLOT_ARMS, Plan, blocks, load_plan, task_ids, turns
from bigtcp_bench.warehouse.store import Warehouse
from bigtcp_lab import administrator, daemon

LIMIT_S = 7200


@dataclass(frozen=True)
class Task:
    """One task instance that had a process: seconds since the run's begin."""

    name: str
    began_s: float
    ended_s: float

    @property
    def seconds(self) -> float:
        """Return how long it took."""
        return self.ended_s - self.began_s

    def kind(self, plan: Plan) -> str:
        """Return what it did."""
        if "iperf3" in self.name:
            return "generations, beyond the traffic"
        if "able_big_tcp" not in self.name:
            return "other tasks"
        used = {task_ids(SLOT_ARMS, block.slot)[0] for block in blocks(plan)}
        is_switch = self.name in used or self.name.startswith(RERUN_PREFIX)
        return "switches, beyond the restarts" if is_switch else "unused slots"


def main() -> int:
    """Run the plan once, and print where its time went; 1 unless the run is valid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", default="quick")
    parser.add_argument("--at-once", action="store_true")
    parser.add_argument("--keep", type=Path, help="folder that is kept, with Airflow's logs")
    parser.add_argument("--fault", action="append", default=[], help="another fault of the lab")
    options = parser.parse_args()
    # Whoever ends it leaves no Airflow behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="bigtcp-run-cost-") as name:
        folder = (options.keep or Path(name)).resolve()
        faults = [*options.fault, *([] if options.at_once else ["slow-starts"])]
        info = daemon.up(folder / "lab", faults=faults, owner=os.getpid(), timeout_s=180)
        administrator.apply_manifests(info.kubeconfig)
        airflow = LocalAirflow(folder, info.kubeconfig, folder / "warehouse.db", _free_port())
        try:
            airflow.prepare()
            warehouse = Warehouse(f"sqlite:///{airflow.warehouse_file}")
            warehouse.migrate()
            airflow.start()
            run = _finished(airflow, options.plan)
            _print(run, warehouse, load_plan(options.plan))
            return 0 if warehouse.run(1)["status"] == "valid" else 1
        finally:
            airflow.stop()
            daemon.down(folder / "lab")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _finished(airflow: LocalAirflow, plan: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Start a run, wait for its end, and return it with its task instances, as Airflow's API tells them."""
    token = ""

    def call(method: str, path: str, body: Any = None) -> Any:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(airflow.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    login = {"username": "admin", "password": airflow.password()}
    token = call("POST", "/auth/token", login)["access_token"]
    runs = f"/api/v2/dags/{DAG_ID}/dagRuns"
    begun = call("POST", runs, {"logical_date": None, "conf": {"plan": plan}})
    path = f"{runs}/{urllib.parse.quote(begun['dag_run_id'], safe='')}"
    for _ in range(LIMIT_S // 2):
        time.sleep(2)
        # A busy machine's API server may take minutes to answer; the run goes on meanwhile.
        with contextlib.suppress(TimeoutError):
            run = call("GET", path)
            if run["state"] in ("success", "failed"):
                return run, call("GET", f"{path}/taskInstances?limit=200")["task_instances"]
    raise SystemExit(f"the run was not over after {LIMIT_S} s")


def _print(found: tuple[dict[str, Any], list[dict[str, Any]]], warehouse: Warehouse, plan: Plan) -> None:
    run, instances = found
    begin = datetime.fromisoformat(run["start_date"])

    def since(text: str) -> float:
        return (datetime.fromisoformat(text) - begin).total_seconds()

    # What was skipped by another task has no process, and so no host.
    tasks = sorted(
        (
            Task(_name(one), since(one["start_date"]), since(one["end_date"]))
            for one in instances
            if one["start_date"] and one["end_date"] and one["pid"]
        ),
        key=lambda task: task.began_s,
    )
    print("| begin, s | task | took, s | since the task before, s |\n|---:|---|---:|---:|")
    ended_s = 0.0
    gaps_s = 0.0
    for task in tasks:
        gap_s = task.began_s - ended_s
        gaps_s += max(0.0, gap_s)
        print(f"| {task.began_s:.0f} | `{task.name}` | {task.seconds:.1f} | {gap_s:.1f} |")
        ended_s = max(ended_s, task.ended_s)
    _print_sums(tasks, gaps_s, since(run["end_date"]), warehouse, plan)


def _print_sums(tasks: list[Task], gaps_s: float, wall_s: float, warehouse: Warehouse, plan: Plan) -> None:
    seconds: dict[str, list[float]] = {}
    for task in tasks:
        seconds.setdefault(task.kind(plan), []).append(task.seconds)
    restarts_s = sum(
        proof["restart_s"]
        for report in warehouse.blocks_frame(1)["switch_report"]
        for proof in (report or {}).get("nodes", {}).values()
    )
    measured = sum(len(names) for block in blocks(plan) for _, _, names in turns(block, plan.scenarios))
    traffic_s = measured * plan.repetitions * (plan.duration_s + plan.omit_s)
    within_s = {"switches, beyond the restarts": restarts_s, "generations, beyond the traffic": traffic_s}
    status = warehouse.run(1)["status"]
    print(f"\nThe run is {status} after {wall_s:.0f} s, {traffic_s} s of it traffic:\n")
    print("| | together, s | each, s |\n|---|---:|---:|")
    print(f"| agents' restarts | {restarts_s:.0f} | |")
    for kind, each in seconds.items():
        over_s = sum(each) - within_s.get(kind, 0)
        print(f"| {len(each)} {kind} | {over_s:.0f} | {over_s / len(each):.1f} |")
    print(f"| between {len(tasks)} tasks | {gaps_s:.0f} | {gaps_s / len(tasks):.1f} |")
    print(f"\nLoad of the machine: {os.getloadavg()[0]:.1f}.", flush=True)


def _name(instance: dict[str, Any]) -> str:
    index = instance["map_index"]
    return instance["task_id"] + (f"[{index}]" if index >= 0 else "")


if __name__ == "__main__":
    sys.exit(main())
