"""Running the real DAG through Airflow on the lab, and what the lab's cluster is like before and after."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bigtcp_bench.cluster.api import CONFIGMAP, LEASE, NODE, POD, ClusterApi
from bigtcp_bench.cluster.cilium import find_cilium
from bigtcp_bench.cluster.probe import probe_nodes
from bigtcp_bench.local import LocalAirflow
from bigtcp_bench.resources import dags_dir
from bigtcp_bench.warehouse.store import Warehouse

#: Small, but every kind of traffic in both families; one generation per outer block.
SHORT = {
    "plan": "quick",
    "scenarios": ["ipv4-stream-1", "ipv6-stream-1", "ipv4-rr"],
    "generations": 1,
    "duration_s": 1,
    "omit_s": 0,
}
IMAGE = "nicolaka/netshoot:v0.14"


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

    def run(self, **params: Any) -> Finished:
        """Run the DAG to its end in this process, by Airflow's own in-process scheduler."""
        from airflow.dag_processing.dagbag import DagBag

        # A fresh one each time: what a run is given as params stays in the DAG object.
        dag = DagBag(dag_folder=str(dags_dir())).dags["bigtcp_benchmark"]
        run = dag.test(run_conf={**SHORT, **params})
        runs = self.warehouse.runs_frame(limit=1)
        number = int(runs["id"].iloc[0])
        assert runs["run_id"].iloc[0] == run.run_id
        return Finished(str(run.state), self.warehouse.run(number), number)

    def cluster_state(self) -> dict[str, Any]:
        """Return everything a run may touch: Cilium's objects, node labels, device limits, our own leftovers."""
        cilium = find_cilium(self.api)
        assert cilium.node_config is not None
        probes = probe_nodes(self.api, ["node1", "node2"], IMAGE)
        lease = self.api.find(LEASE, "bigtcp-bench", "bigtcp-bench")
        config_maps = self.api.select(CONFIGMAP, "bigtcp-bench", labels="app.kubernetes.io/name=bigtcp-bench")
        return {
            "cilium-config": self.api.get(CONFIGMAP, "cilium-config", cilium.namespace)["data"],
            "node configs": [
                {"name": item["metadata"]["name"], "spec": item["spec"]}
                for item in self.api.select(cilium.node_config, cilium.namespace)
            ],
            "labels": {node["metadata"]["name"]: node["metadata"]["labels"] for node in self.api.select(NODE)},
            "limits": {name: probe.limits(["eth0"]) for name, probe in probes.items()},
            "holder": ((lease or {}).get("spec") or {}).get("holderIdentity") or "",
            "our config maps": sorted(item["metadata"]["name"] for item in config_maps),
            "our pods": sorted(pod["metadata"]["name"] for pod in self.api.select(POD, "bigtcp-bench")),
        }


def install(folder: Path, kubeconfig: Path) -> Installation:
    """Return an installation in ``folder`` with its databases ready; this process has its settings from now on."""
    airflow = LocalAirflow(folder, kubeconfig, folder / "warehouse.db")
    os.environ.update(airflow.environment())
    airflow.prepare()
    warehouse = Warehouse(f"sqlite:///{airflow.warehouse_file}")
    warehouse.migrate()
    return Installation(airflow, warehouse, ClusterApi.from_kubeconfig(kubeconfig))
