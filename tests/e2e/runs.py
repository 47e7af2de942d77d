"""Running the real DAG through Airflow on the lab, and what the lab's cluster is like before and after."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from bigtcp_bench.cluster.api import ClusterApi
from bigtcp_bench.demo.local_airflow import LocalAirflow
from bigtcp_bench.resources import dags_dir
from bigtcp_bench.warehouse.store import Warehouse
from tests.e2e.newest_api.sitecustomize import keep_the_newest
from tests.support.cluster_state import cluster_state

#: The tests' own plan.
PLANS = Path(__file__).parent / "plans"

_sleep = time.sleep


def impatient_sleep(seconds: float) -> None:
    """Sleep, but hardly where Airflow's in-process scheduler does so after each task that was skipped."""
    in_scheduler = sys._getframe(1).f_code.co_filename.endswith("airflow/sdk/definitions/dag.py")
    _sleep(0.05 if in_scheduler else seconds)


def run_dag(dag_id: str, conf: dict[str, Any], logical_date: datetime | None = None) -> Any:
    """Run a DAG to its end in this process, by Airflow's own in-process scheduler; return Airflow's run.

    With the ``logical_date`` of an earlier run, Airflow clears that one and runs it again under the same run id.
    """
    from airflow.dag_processing.dagbag import DagBag

    # A fresh one each time: what a run is given as params stays in the DAG object.
    dag = DagBag(dag_folder=str(dags_dir())).dags[dag_id]
    # Airflow makes the run id of the second one.
    date = logical_date or datetime.now(UTC)
    return dag.test(logical_date=date, run_after=date, run_conf=conf)


@dataclass
class Finished:
    """One run of the DAG: the state that Airflow gave it, and its row in the warehouse."""

    state: str
    row: dict[str, Any]
    number: int


@dataclass(frozen=True)
class Installation:
    """An Airflow, a warehouse and a cluster for them."""

    airflow: LocalAirflow
    warehouse: Warehouse
    api: ClusterApi

    def run(self, logical_date: datetime | None = None, **params: Any) -> Finished:
        """Run the benchmark to its end, and return what is stored of it."""
        run = run_dag("bigtcp_benchmark", {"plan": "short", **params}, logical_date)
        runs = self.warehouse.runs_frame(limit=1)
        number = int(runs["id"].iloc[0])
        assert runs["run_id"].iloc[0] == run.run_id
        return Finished(str(run.state), self.warehouse.run(number), number)

    def cluster_state(self) -> dict[str, Any]:
        """Return everything a run may touch."""
        return cluster_state(self.api)


def causes(warehouse: Warehouse, number: int) -> list[str]:
    """Return the stored causes of a run, without the work of others: this machine may have some."""
    found: list[str] = warehouse.diagnosis_frame(number)["cause"].tolist()
    return [cause for cause in found if cause not in ("noisy-neighbour", "none-found")]


def register_dags() -> None:
    """Write all DAGs into Airflow's database, not paused, as its DAG processor does before anything runs."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db

    DagBundlesManager().sync_bundles_to_db()
    sync_bag_to_db(DagBag(dag_folder=str(dags_dir())), "dags-folder", None)


def install(folder: Path, kubeconfig: Path) -> Installation:
    """Return an installation in ``folder`` with its databases ready; this process has its settings from now on."""
    from airflow.api_fastapi.execution_api import versions
    from airflow.utils.db import initdb

    airflow = LocalAirflow(folder, kubeconfig, folder / "warehouse.db")
    os.environ.update(airflow.environment())
    os.environ["BIGTCP_BENCH_PLANS"] = str(PLANS)
    # As `airflow db migrate`, which would import Airflow once more.
    initdb()
    keep_the_newest(versions)
    register_dags()
    warehouse = Warehouse(f"sqlite:///{airflow.warehouse_file}")
    warehouse.migrate()
    return Installation(airflow, warehouse, ClusterApi.from_kubeconfig(kubeconfig))


def run_beside(dag_id: str, conf: dict[str, Any], log: Path) -> BaseProcess:
    """Begin to run a DAG in another process, which ends with 1 unless its run succeeds; ``log`` has what it says.

    It is forked from this one, as Airflow forks its workers: importing all of it anew takes as long as the run.
    """
    from airflow.sdk.execution_time.supervisor import in_process_api_server

    def run() -> None:
        out = log.open("w", encoding="utf-8", buffering=1)
        for stream in (1, 2):
            os.dup2(out.fileno(), stream)
        sys.stdout = sys.stderr = out
        # One that this process has would wait for ever for a thread that was not forked with it.
        in_process_api_server.cache_clear()
        sys.exit(0 if str(run_dag(dag_id, conf).state) == "success" else 1)

    process = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    process.start()
    return process
