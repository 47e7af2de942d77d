"""What the pages ask: cut to the DAGs that a user may read, in an order that does not skip or repeat."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.warehouse import incidents, pages
from bigtcp_bench.warehouse.pages import DocumentKey, Origin
from tests.support.nights import CLUSTER, FIRST_NIGHT, add_night

DAG, OTHER = "bigtcp_benchmark", "bigtcp_weekly"
PERIOD = {"since": FIRST_NIGHT, "until": FIRST_NIGHT + timedelta(days=365)}
SERIES = {"scenario": "ipv6-stream-1", "metric": "throughput_bps"}


@pytest.fixture
def nights(warehouse):
    """Return six runs: two of another DAG, one A/A run, one with another version, one of another cluster."""
    return [
        add_night(warehouse, 0),
        add_night(warehouse, 1, dag_id=OTHER, verdict="slower"),
        add_night(warehouse, 2, is_aa=True),
        add_night(warehouse, 3, cilium_version="1.19.0", environment={"emulated": True}),
        add_night(warehouse, 4, cluster="far", environment={"generated": True, "emulated": False}),
        add_night(warehouse, 5, dag_id=OTHER, cluster="far"),
    ]


def ids(rows):
    return [row["id"] for row in rows]


def test_dags_by_cluster(warehouse, nights):
    assert pages.dags_by_cluster(warehouse) == {CLUSTER: {DAG, OTHER}, "far": {DAG, OTHER}}


def test_runs_are_those_of_the_dags_newest_first(warehouse, nights):
    first, weekly, aa, upgraded, far, far_weekly = nights
    assert ids(pages.runs(warehouse, {DAG})) == [far, upgraded, aa, first]
    assert ids(pages.runs(warehouse, {OTHER})) == [far_weekly, weekly]
    assert pages.runs(warehouse, set()) == []
    assert ids(pages.runs(warehouse, {DAG, OTHER}, cluster="far")) == [far_weekly, far]
    assert ids(pages.runs(warehouse, {DAG}, compared=True)) == [far, upgraded, first]
    assert pages.runs(warehouse, {DAG}, status="failed") == []
    assert pages.runs(warehouse, {DAG}, limit=1)[0]["started_at"] == FIRST_NIGHT + timedelta(days=4)


def test_lists_go_on_where_the_page_before_ended_also_at_one_moment(warehouse):
    same = [add_night(warehouse, number, started_at=FIRST_NIGHT) for number in range(5)]
    seen: list[int] = []
    while page := ids(pages.runs(warehouse, {DAG}, limit=2, before=seen[-1] if seen else None)):
        seen += page
    assert seen == same[::-1]


def test_runs_of_one_run_of_airflow(warehouse, nights):
    again = add_night(warehouse, 0, cluster="far")
    assert ids(pages.runs_of_dag_run(warehouse, DAG, "night 0")) == [again, nights[0]]
    assert pages.runs_of_dag_run(warehouse, OTHER, "night 0") == []


def test_neighbours_are_of_the_same_cluster_and_readable(warehouse, nights):
    first, weekly, aa, upgraded, far, _ = nights
    assert pages.neighbours(warehouse, {DAG}, aa) == (first, upgraded)
    assert pages.neighbours(warehouse, {DAG, OTHER}, aa) == (weekly, upgraded)
    assert pages.neighbours(warehouse, {DAG}, first) == (None, aa)
    assert pages.neighbours(warehouse, {DAG}, far) == (None, None)


def test_what_is_not_real(warehouse, nights):
    found = pages.origins(warehouse, nights)
    assert found[nights[0]] == Origin()
    assert found[nights[3]] == Origin(emulated=True)
    assert found[nights[4]] == Origin(generated=True)
    assert pages.origins(warehouse, []) == {}


def test_a_trend_has_the_nights_that_compared_both_arms(warehouse, nights):
    def shown(dags, **more):
        return pages.trend_frame(warehouse, CLUSTER, dags, **SERIES, **{**PERIOD, **more})["run_id"].tolist()

    first, weekly, _, upgraded, *_ = nights
    assert shown({DAG}) == [first, upgraded]
    assert shown({DAG, OTHER}) == [first, weekly, upgraded]
    assert shown({DAG}, version="1.19.0") == [upgraded]
    assert shown({DAG}, version="1.19") == []
    assert shown({DAG}, since=FIRST_NIGHT + timedelta(seconds=1)) == [upgraded]
    assert shown({DAG}, until=FIRST_NIGHT) == []
    frame = pages.trend_frame(warehouse, CLUSTER, {DAG}, **SERIES, **PERIOD)
    assert {"off_median", "on_median", "ci_low", "ci_high", "verdict", "unit", "client_kernel"} <= set(frame)
    assert str(frame["started_at"].dt.tz) == "UTC"


def test_what_there_is_to_choose(warehouse, nights):
    assert pages.versions(warehouse, CLUSTER, {DAG}) == ["1.19.0", "1.18.3"]
    assert pages.versions(warehouse, CLUSTER, {OTHER}) == ["1.18.3"]
    assert pages.scenarios_of(warehouse, CLUSTER, {DAG}) == {"ipv4-stream-1", "ipv6-stream-1", "ipv4-rr"}
    assert pages.scenarios_of(warehouse, "nowhere", {DAG}) == set()


def test_nights_of_a_version(warehouse, nights):
    frame = pages.nights_of_version(warehouse, CLUSTER, {DAG, OTHER}, "1.18.3", nights=10)
    assert set(frame["run_id"]) == set(nights[:2])
    frame = pages.nights_of_version(warehouse, CLUSTER, {DAG, OTHER}, "1.18.3", nights=1)
    assert set(frame["run_id"]) == {nights[1]}


def incident(uid, cluster=CLUSTER, night="2026-03-20", **more):
    members = [
        {
            "scenario": scenario,
            "metric": "throughput_bps",
            "change": change,
            "first_seen": night,
            "last_seen": night,
        }
        for scenario, change in (("ipv4-stream-1", -0.1), ("ipv6-stream-1", -0.2))
    ]
    row = {"uid": uid, "cluster": cluster, "state": "regression", "changed_on": night, "suspected_on": night}
    return {**row, "members": members, **more}


def test_incidents(warehouse):
    stored = [
        incident("a"),
        incident("b", closed_on="2026-03-25", state="recovered"),
        incident("c", state="dismissed", closed_on="2026-03-22"),
        incident("d", night="2026-02-01"),
    ]
    numbers = {one.uid: one.id for one in incidents.revise(warehouse, CLUSTER, lambda _: stored)}
    a, b, c, d = (numbers[uid] for uid in "abcd")
    (far,) = (one.id for one in incidents.revise(warehouse, "far", lambda _: [incident("e", "far")]))
    newest_first = sorted([a, b, c], reverse=True)
    assert ids(pages.incidents(warehouse, [CLUSTER])) == [*newest_first, d]
    assert ids(pages.incidents(warehouse, [CLUSTER, "far"], cluster="far")) == [far]
    assert ids(pages.incidents(warehouse, [CLUSTER], cluster="far")) == []
    assert set(ids(pages.incidents(warehouse, [CLUSTER], is_open=True))) == {a, d}
    assert set(ids(pages.incidents(warehouse, [CLUSTER], is_open=False))) == {b, c}
    assert ids(pages.incidents(warehouse, [CLUSTER], before=newest_first[-1])) == [d]
    assert ids(pages.incidents(warehouse, [CLUSTER], limit=1)) == newest_first[:1]
    assert {number: one.uid for number, one in incidents.several(warehouse, [a, far]).items()} == {
        a: "a",
        far: "e",
    }
    incidents.acknowledge(warehouse, a, by="ada", at=datetime(2026, 3, 21, tzinfo=UTC))
    covering = pages.incidents_of_series(warehouse, CLUSTER, "ipv6-stream-1", "throughput_bps")
    assert ids(covering) == sorted([d, a, b], key=lambda number: (number != d, number))
    assert pages.incidents_of_series(warehouse, CLUSTER, "ipv6-rr", "throughput_bps") == []


def test_documents_one_at_a_time(warehouse, nights):
    rows = [
        {"block": 1, "generation": 0, "kind": "node-begin:node1", "document": b"12345"},
        {"block": 1, "generation": 2, "kind": "repetition", "scenario": "rr", "repetition": 3, "document": b"1"},
    ]
    warehouse.store_raw(nights[0], rows)
    keys = pages.document_keys(warehouse, nights[0])
    assert keys == [
        DocumentKey(1, 0, "node-begin:node1", "", 0, 5),
        DocumentKey(1, 2, "repetition", "rr", 3, 1),
    ]
    found = pages.document(warehouse, nights[0], (1, 2, "repetition", "rr", 3))
    assert (found.document, found.encoding) == (b"1", "zlib+json")
    with pytest.raises(InvalidInput, match="has no such document"):
        pages.document(warehouse, nights[1], (1, 2, "repetition", "rr", 3))
    assert pages.document_keys(warehouse, nights[1]) == []
