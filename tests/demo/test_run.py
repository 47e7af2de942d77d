"""The demo on a cluster that is given: only Airflow is its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bigtcp_bench.commands.main import main
from bigtcp_bench.demo import run
from bigtcp_bench.demo.local_airflow import LocalAirflow
from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.warehouse.store import Warehouse
from bigtcp_lab import daemon
from bigtcp_lab.api.certificates import kubeconfig
from tests.cluster.simulated import Cluster
from tests.cluster.test_restore import RUN, open_and_switch


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[LocalAirflow]:
    """Return the Airflow that a demo ran the DAG with, without one; a lab must not be touched."""
    found: list[LocalAirflow] = []
    monkeypatch.setattr(LocalAirflow, "prepare", lambda self: None)
    monkeypatch.setattr(run, "_run_dag", lambda airflow, plan, started: found.append(airflow))
    monkeypatch.setattr(run, "_report", lambda airflow, started: 0)
    for name in ("up", "down"):
        monkeypatch.setattr(daemon, name, lambda *_, **__: pytest.fail("the lab was touched"))
    return found


def test_a_given_cluster_takes_the_place_of_the_lab(tmp_path, started, monkeypatch):
    config = kubeconfig("https://127.0.0.1:1", "ca", "token")
    config["contexts"][0]["name"] = config["current-context"] = "kind-bigtcp-bench"
    (tmp_path / "given").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--kubeconfig", "given", "--folder", "demo"]) == 0
    (airflow,) = started
    environment = airflow.environment()
    connection = json.loads(environment["AIRFLOW_CONN_KUBERNETES_DEFAULT"])
    assert connection["extra"] == {
        "kube_config_path": str(tmp_path / "given"),
        "cluster_name": "kind-bigtcp-bench",
    }
    assert environment["AIRFLOW_CONN_BIGTCP_WAREHOUSE"] == f"sqlite:///{tmp_path}/demo/warehouse.db"
    assert (tmp_path / "demo" / "warehouse.db").exists()


@pytest.mark.parametrize("text", [None, "clusters: [", "current-context: nowhere\ncontexts: []\n"])
def test_a_kubeconfig_that_cannot_be_used_is_one_sentence(tmp_path: Path, started, text):
    path = tmp_path / "given"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidInput, match="cannot be used"):
        run.run_demo(tmp_path / "demo", "quick", path)
    assert started == []


def test_what_a_run_that_was_killed_has_left_is_put_back(
    warehouse: Warehouse, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster()
    before = cluster.state()
    run.put_back(cluster.client(), warehouse, "", print)
    assert capsys.readouterr().out == "", "no run was made"

    dag_id, _, run_id = RUN.partition("/")
    warehouse.start_run({"cluster": "lab", "dag_id": dag_id, "run_id": run_id})
    open_and_switch(cluster, "on", holder=f"{RUN}@here")
    run.put_back(cluster.client(), warehouse, "here", print)
    assert f"restored what {RUN}@here had changed" in capsys.readouterr().out
    assert cluster.state() == before

    fence = open_and_switch(cluster, "on", holder=f"{RUN}@elsewhere")
    run.put_back(cluster.client(), warehouse, "here", print)
    assert "nothing to restore" in capsys.readouterr().out
    fence.check()
