"""One Airflow, two clusters: their runs overlap and end well, and a second run of one of them is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigtcp_bench.cluster.api import ClusterApi
from bigtcp_bench.cluster.lease import read_lease
from bigtcp_lab import administrator, daemon
from tests.e2e.runs import Installation, register_dags
from tests.support.cluster_state import cluster_state

pytestmark = [pytest.mark.lab, pytest.mark.e2e]

DAGS = {"lab": "bigtcp_benchmark", "other": "bigtcp_benchmark_kubernetes_other"}
CONF = {"plan": "short", "order": "off,on", "scenarios": ["ipv4-rr"]}


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Path]:
    """Yield the kubeconfig of a second lab."""
    info = daemon.up(tmp_path / "lab")
    try:
        administrator.apply_manifests(info.kubeconfig)
        yield info.kubeconfig
    finally:
        daemon.down(tmp_path / "lab")


def test_runs_of_two_clusters_overlap_and_those_of_one_do_not(
    installation: Installation, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apis = {"lab": installation.api, "other": ClusterApi.from_kubeconfig(other)}
    before = {name: cluster_state(api) for name, api in apis.items()}
    connection = {"conn_type": "kubernetes", "extra": {"kube_config_path": str(other), "cluster_name": "other"}}
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "BIGTCP_BENCH_CLUSTERS": "kubernetes_default,kubernetes_other",
        "AIRFLOW_CONN_KUBERNETES_OTHER": json.dumps(connection),
    }
    # Before the two processes, which would get in each other's way when each found a DAG that is not known yet.
    monkeypatch.setenv("BIGTCP_BENCH_CLUSTERS", environment["BIGTCP_BENCH_CLUSTERS"])
    register_dags()
    monkeypatch.delenv("BIGTCP_BENCH_CLUSTERS")
    processes = []
    for name, dag_id in DAGS.items():
        command = [sys.executable, "-m", "tests.e2e.runs", dag_id, json.dumps(CONF)]
        with (tmp_path / f"{name}.log").open("wb") as log:
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    deadline = time.monotonic() + 240
    while (lease := read_lease(installation.api)) is None or not lease.holder:
        assert time.monotonic() < deadline, (tmp_path / "lab.log").read_text()[-3000:]
        time.sleep(0.2)
    refused = installation.run(**CONF)
    assert [process.wait(timeout=400) for process in processes] == [0, 0]

    assert (refused.state, refused.row["status"]) == ("failed", "failed")
    assert f"the cluster is held by {DAGS['lab']}/" in refused.row["reasons"][0]
    assert refused.row["checks"] in (None, [])
    runs = installation.warehouse.runs_frame()
    rows = {name: runs[(runs["cluster"] == name) & (runs["dag_id"] == dag)].iloc[0] for name, dag in DAGS.items()}
    # The refused one is the newest of its DAG.
    rows["lab"] = runs[(runs["dag_id"] == DAGS["lab"]) & (runs["id"] != refused.number)].iloc[0]
    assert {name: row["status"] for name, row in rows.items()} == {"lab": "valid", "other": "valid"}
    assert max(row["started_at"] for row in rows.values()) < min(row["finished_at"] for row in rows.values())
    assert {name: cluster_state(api) for name, api in apis.items()} == before
