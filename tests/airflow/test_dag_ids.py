"""Which connections have a DAG of their own, what it is called, and whether a name stands for one cluster."""

from __future__ import annotations

import pytest

from bigtcp_bench.airflow import dag_ids
from bigtcp_bench.errors import InvalidInput, PreconditionFailed
from bigtcp_bench.settings import CLUSTERS
from bigtcp_bench.warehouse.store import Warehouse
from tests.support.nights import add_night


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (None, ("kubernetes_default",)),
        (" , ", ("kubernetes_default",)),
        ("prod", ("prod",)),
        ("prod, stage-2,prod", ("prod", "stage-2")),
    ],
)
def test_what_is_configured(text: str | None, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    if text is None:
        monkeypatch.delenv(CLUSTERS.name, raising=False)
    else:
        monkeypatch.setenv(CLUSTERS.name, text)
    assert dag_ids.configured() == names
    assert dag_ids.dag_id_of(names[0]) == "bigtcp_benchmark"


def test_the_dag_of_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CLUSTERS.name, "prod,stage")
    found = {name: dag_ids.dag_id_of(name) for name in ("prod", "stage")}
    assert found == {"prod": "bigtcp_benchmark", "stage": "bigtcp_benchmark_stage"}
    assert {dag_ids.conn_id_of(dag_id): dag_id for dag_id in found.values()} == found
    with pytest.raises(
        PreconditionFailed, match="'another' has no DAG here: BIGTCP_BENCH_CLUSTERS names prod, st"
    ):
        dag_ids.dag_id_of("another")
    with pytest.raises(PreconditionFailed, match="'bigtcp_benchmark_prod' measures no cluster here"):
        dag_ids.conn_id_of("bigtcp_benchmark_prod")


def test_what_no_connection_can_be_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CLUSTERS.name, "a,b c")
    with pytest.raises(InvalidInput, match="'b c' is no connection id"):
        dag_ids.configured()


def nights(warehouse: Warehouse, *seen: tuple[str, str | None]) -> list[tuple[str, str]]:
    """Let runs look at clusters, each with its name and uid, and return what the last one is told of its name."""
    found = []
    for number, (name, uid) in enumerate(seen, len(warehouse.runs_frame())):
        found = dag_ids.identity_checks(warehouse, name, uid)
        # Also what fails its check is stored with what it saw.
        failed = any(check.status == "fail" for check in found)
        run = add_night(warehouse, number, cluster=name, environment={"cluster_uid": uid})
        warehouse.update_run(run, status="failed" if failed else "valid")
    return [(check.status, check.found) for check in found]


def test_one_cluster_under_one_name_is_as_it_should_be(warehouse: Warehouse) -> None:
    assert nights(warehouse, ("prod", "A"), ("stage", "B"), ("prod", "A"), ("stage", "B")) == []


def test_two_clusters_of_one_name_fail_in_turn_until_one_has_another_name(warehouse: Warehouse) -> None:
    a, b = ("prod", "A"), ("prod", "B")
    failed = [("fail", "run 2 was on another cluster, also called prod, and run 1 on this one")]
    assert nights(warehouse, a, b, a) == failed
    failed = [("fail", "run 3 was on another cluster, also called prod, and run 2 on this one")]
    (again,) = dag_ids.identity_checks(warehouse, *b)
    assert (again.status, again.found) == failed[0]
    assert "set cluster_name" in again.advice
    # The other one was renamed.
    assert dag_ids.identity_checks(warehouse, *a) == []
    assert dag_ids.identity_checks(warehouse, "prod-b", "B") == [], "its last run was before that of the first"


def test_a_cluster_that_was_made_anew_is_only_told(warehouse: Warehouse) -> None:
    assert nights(warehouse, ("prod", "A"), ("prod", "B")) == [
        ("warn", "run 1 was on another cluster, also called prod")
    ]
    assert dag_ids.identity_checks(warehouse, "prod", "B") == []


def test_two_names_of_one_cluster_are_told_while_both_are_in_use(warehouse: Warehouse) -> None:
    assert nights(warehouse, ("prod", "A"), ("also", "A"), ("prod", "A")) == [
        ("warn", "run 2 was on this cluster, then called also")
    ]
    # From now on under the second name only.
    assert nights(warehouse, ("also", "A"), ("also", "A")) == []


def test_runs_that_do_not_know_their_cluster_are_no_evidence(warehouse: Warehouse) -> None:
    assert nights(warehouse, ("prod", None), ("prod", "A")) == []
    ((status, found),) = nights(warehouse, ("prod", None))
    assert (status, found.startswith("the uid of namespace kube-system cannot be read")) == ("warn", True)
