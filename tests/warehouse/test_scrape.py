"""What a scraper is told of a cluster, on both databases."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from bigtcp_bench.warehouse import incidents
from bigtcp_bench.warehouse.scrape import (
    NIGHTS,
    cluster_facts,
    newest_comparisons,
    newest_runs,
    newest_states,
    open_incidents,
)
from bigtcp_bench.warehouse.store import Warehouse
from tests.support.nights import CLUSTER, FIRST_NIGHT, SCENARIO_NAMES, add_night

DAGS = ["bigtcp_benchmark"]


def test_nothing_is_known_of_a_cluster_without_runs(warehouse: Warehouse) -> None:
    assert newest_runs(warehouse, CLUSTER, DAGS) is None
    assert cluster_facts(warehouse, CLUSTER, DAGS, whole=True) is None
    assert newest_comparisons(warehouse, CLUSTER, DAGS) == {}
    assert open_incidents(warehouse, CLUSTER) == {}


def test_newest_runs(warehouse: Warehouse) -> None:
    first = add_night(warehouse, 0, environment={"emulated": True})
    warehouse.update_run(first, restore_result={"state": "verified"})
    invalid = add_night(warehouse, 1)
    warehouse.update_run(invalid, status="invalid")
    goes_on = add_night(warehouse, 2, environment={"emulated": True, "generated": False})
    warehouse.update_run(goes_on, status="running")
    add_night(warehouse, 3, dag_id="of_somebody_else")
    found = newest_runs(warehouse, CLUSTER, DAGS)
    assert found is not None
    assert found.started_at == FIRST_NIGHT + timedelta(days=2)
    assert (found.running, found.ended, found.restore) == (True, "invalid", "verified")
    assert (found.emulated, found.generated) == (True, False)


def test_newest_comparisons_are_of_valid_runs_that_compared_both_arms(warehouse: Warehouse) -> None:
    old = add_night(warehouse, 0)
    add_night(warehouse, 1, scenarios=SCENARIO_NAMES[:1], verdict="slower")
    warehouse.update_run(add_night(warehouse, 2), status="invalid")
    add_night(warehouse, 3, plan={"name": "aa", "scenarios": ["ipv4-rr"], "order": ["off", "off"]})
    add_night(warehouse, 4, cluster="another")
    found = newest_comparisons(warehouse, CLUSTER, DAGS)
    stored = warehouse.comparisons_frame(old).set_index(["scenario", "metric"])
    assert set(found) == set(stored.index)
    (newer, *others) = SCENARIO_NAMES
    series = (newer, "throughput_bps")
    assert found[series]["verdict"] == "slower"
    assert found[series]["started_at"] == FIRST_NIGHT + timedelta(days=1)
    for key, row in found.items():
        if key[0] in others:
            assert row["started_at"] == FIRST_NIGHT
            assert row["on_median"] == stored.loc[key, "on_median"]


def test_what_has_not_been_measured_for_long_is_left_out(warehouse: Warehouse) -> None:
    add_night(warehouse, 0)
    for night in range(1, NIGHTS + 1):
        add_night(warehouse, night, scenarios=SCENARIO_NAMES[:1])
    assert {scenario for scenario, _ in newest_comparisons(warehouse, CLUSTER, DAGS)} == {SCENARIO_NAMES[0]}


def test_newest_states(warehouse: Warehouse) -> None:
    row: dict[str, Any] = {"scenario": "ipv4-rr", "metric": "transactions_per_s"}
    other = row | {"metric": "latency_p99_us"}
    warehouse.store_judgements(add_night(warehouse, 0), [row | {"state": "steady"}, other | {"state": "learning"}])
    warehouse.store_judgements(add_night(warehouse, 1), [row | {"state": "suspect"}])
    found = newest_states(warehouse, CLUSTER, DAGS)
    assert {metric: one["state"] for (_, metric), one in found.items()} == {
        "transactions_per_s": "suspect",
        "latency_p99_us": "learning",
    }


def test_open_incidents_and_who_may_know_of_them(warehouse: Warehouse) -> None:
    add_night(warehouse, 0)
    row = {"cluster": CLUSTER, "changed_on": "2026-03-01", "suspected_on": "2026-03-01", "members": []}
    made = incidents.revise(
        warehouse,
        CLUSTER,
        lambda _: [
            row | {"uid": "a", "state": "regression"},
            row | {"uid": "b", "state": "regression"},
            row | {"uid": "c", "state": "suspect"},
            row | {"uid": "d", "state": "recovered", "closed_on": "2026-03-04"},
        ],
    )
    incidents.acknowledge(warehouse, made[0].id, by="ann")
    expected = {("regression", True): 1, ("regression", False): 1, ("suspect", False): 1}
    assert open_incidents(warehouse, CLUSTER) == expected
    assert open_incidents(warehouse, "another") == {}
    whole, part = (cluster_facts(warehouse, CLUSTER, DAGS, whole=whole) for whole in (True, False))
    assert whole is not None
    assert part is not None
    assert (whole.incidents, whole.states) == (expected, {})
    assert (part.incidents, part.states) == (None, None)
    assert part.comparisons == whole.comparisons
