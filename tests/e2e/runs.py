"""Running the real DAG through Airflow on the lab, and what the lab's cluster is like before and after."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigtcp_bench.cluster.api import ClusterApi
from bigtcp_bench.local import LocalAirflow
from bigtcp_bench.resources import dags_dir
from bigtcp_bench.warehouse.store import Warehouse
from tests.support.cluster_state import cluster_state

#: The tests' own plan.
PLANS = Path(__file__).parent / "plans"


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

    def dag_run(self, **params: Any) -> Any:
        """Run the DAG to its end in this process, by Airflow's own in-process scheduler; return Airflow's run."""
        from airflow.dag_processing.dagbag import DagBag

        # A fresh one each time: what a run is given as params stays in the DAG object.
        dag = DagBag(dag_folder=str(dags_dir())).dags["bigtcp_benchmark"]
        return dag.test(run_conf={"plan": "short", **params})

    def run(self, **params: Any) -> Finished:
        """Run the DAG to its end, and return what is stored of it."""
        run = self.dag_run(**params)
        runs = self.warehouse.runs_frame(limit=1)
        number = int(runs["id"].iloc[0])
        assert runs["run_id"].iloc[0] == run.run_id
        return Finished(str(run.state), self.warehouse.run(number), number)

    def cluster_state(self) -> dict[str, Any]:
        """Return everything a run may touch."""
        return cluster_state(self.api)


def install(folder: Path, kubeconfig: Path) -> Installation:
    """Return an installation in ``folder`` with its databases ready; this process has its settings from now on."""
    airflow = LocalAirflow(folder, kubeconfig, folder / "warehouse.db")
    os.environ.update(airflow.environment())
    os.environ["BIGTCP_BENCH_PLANS"] = str(PLANS)
    airflow.prepare()
    warehouse = Warehouse(f"sqlite:///{airflow.warehouse_file}")
    warehouse.migrate()
    return Installation(airflow, warehouse, ClusterApi.from_kubeconfig(kubeconfig))
