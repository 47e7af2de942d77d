"""What is asked about which part of a block, what is stored of the answers, and that nothing is raised."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from bigtcp_bench.errors import InvalidInput, PreconditionFailed
from bigtcp_bench.monitoring import collect as module
from bigtcp_bench.monitoring.client import PrometheusAway, QueryRefused, Series
from bigtcp_bench.monitoring.collect import Window, collect, measurable, rows_of
from bigtcp_bench.monitoring.queries import load_queries
from bigtcp_bench.monitoring.settings import PrometheusSettings
from bigtcp_bench.warehouse.store import Warehouse
from tests.support.nights import add_night

BEGAN = datetime(2026, 3, 1, 2, tzinfo=UTC)
SETTINGS = PrometheusSettings(url="http://prometheus", scrape_interval_s=30)


def window(minutes: float, block: int = 1) -> Window:
    return Window(block, "on", BEGAN, BEGAN + timedelta(minutes=minutes))


class Answering:
    """Stands in for Prometheus: what each query is answered with, or raises; ``asked`` remembers all of them."""

    def __init__(self, answers) -> None:
        self.answers = answers
        self.asked: list[tuple] = []

    def __call__(self, settings, *, budget_s):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def range(self, promql, start, end, step_s):
        self.asked.append((promql, start, end, step_s))
        return self.answers(promql)


@pytest.fixture
def run(warehouse: Warehouse) -> int:
    """Return a run of three blocks, of which the second is short and the third was never ended."""
    number = add_night(warehouse, 0)
    for block, arm, minutes in ((1, "off", 20), (2, "on", 2), (3, "off", None)):
        end = {} if minutes is None else {"finished_at": BEGAN + timedelta(minutes=minutes)}
        warehouse.store_block(number, {"block": block, "arm": arm, "started_at": BEGAN, **end})
    return number


def collected(warehouse, run, monkeypatch, answers):
    prometheus = Answering(answers)
    monkeypatch.setattr(module, "Prometheus", prometheus)
    lines = collect(warehouse, run, [1, 2, 3], ["node1"], "lab", lambda: SETTINGS)
    return lines, prometheus


def test_the_first_rate_of_a_block_begins_with_it():
    kept, lines = measurable([window(10), window(2, block=2)], 120)
    assert kept == [Window(1, "on", BEGAN + timedelta(minutes=2), BEGAN + timedelta(minutes=10))]
    assert lines == ["block 2 is not longer than the 120 s of a rate, so Prometheus is not asked"]


def test_a_series_is_a_row_whatever_the_order_of_its_labels():
    query = load_queries()[0]
    (row,) = rows_of(window(10), query, [Series({"instance": "ä", "direction": "EGRESS"}, (1.0, 5.0, 3.0))])
    assert row == {
        "block": 1,
        "arm": "on",
        "query": "forwarded_bytes_per_s",
        "series": '{"direction": "EGRESS", "instance": "ä"}',
        "unit": "B/s",
        "mean": 3.0,
        "lowest": 1.0,
        "highest": 5.0,
        "samples": 3,
    }


def test_asking_twice_stores_once(warehouse, run, monkeypatch):
    one = [Series({"instance": "node1"}, (1.0, 2.0))]
    for _ in range(2):
        lines, prometheus = collected(warehouse, run, monkeypatch, lambda _promql: one)
    assert lines == [
        "block 2 is not longer than the 120 s of a rate, so Prometheus is not asked",
        "Prometheus: 5 figures of 5 series stored",
    ]
    found = warehouse.prometheus_frame(run)
    assert found["query"].tolist() == sorted(query.name for query in load_queries())
    assert found["mean"].tolist() == [1.5] * 5
    promql, start, end, step_s = prometheus.asked[0]
    assert "[120s]" in promql
    assert (start, end, step_s) == (BEGAN + timedelta(minutes=2), BEGAN + timedelta(minutes=20), 30)


def test_a_query_that_is_refused_does_not_take_the_others_with_it(warehouse, run, monkeypatch):
    def answers(promql):
        if "cilium_forward" in promql:
            raise QueryRefused("it does not say why")
        return [Series({}, (1.0,))]

    lines, _ = collected(warehouse, run, monkeypatch, answers)
    assert "no forwarded_bytes_per_s from Prometheus: it does not say why" in lines
    assert lines[-1] == "Prometheus: 3 figures of 3 series stored"


def test_one_that_goes_away_is_not_asked_again_and_what_it_said_is_kept(warehouse, run, monkeypatch):
    def answers(promql):
        if "cpu" in promql:
            raise PrometheusAway("Prometheus at http://prometheus answered 502")
        return [Series({}, (1.0,))]

    lines, prometheus = collected(warehouse, run, monkeypatch, answers)
    assert len(prometheus.asked) == 3
    assert "figures from Prometheus are missing: Prometheus at http://prometheus answered 502" in lines
    assert len(warehouse.prometheus_frame(run)) == 2


def test_a_query_about_everything_is_refused(warehouse, run, monkeypatch):
    many = [Series({"pod": str(number)}, (1.0,)) for number in range(module.MAX_SERIES + 1)]
    lines, _ = collected(warehouse, run, monkeypatch, lambda _promql: many)
    assert "no cpu_s_per_gb from Prometheus: it has 101 series of two nodes, and at most 100 are stored" in lines
    assert warehouse.prometheus_frame(run).empty


def test_nothing_is_raised_whatever_happens(warehouse, run, monkeypatch):
    def wrong():
        raise PreconditionFailed("the Airflow connection 'bigtcp_prometheus' has a login and no password")

    lines = collect(warehouse, run, [1], ["n"], "lab", wrong)
    assert lines == [
        "no figures from Prometheus: the Airflow connection 'bigtcp_prometheus' has a login and no password"
    ]

    def broken(_promql):
        raise ZeroDivisionError("a mistake of ours")

    lines, _ = collected(warehouse, run, monkeypatch, broken)
    assert lines == ["no figures from Prometheus: ZeroDivisionError: a mistake of ours"]
    assert collect(warehouse, run, [1], ["n"], "lab", lambda: None) == []


@pytest.mark.parametrize("series", ["node1", "[]", '{"a": 1}', ""])
def test_the_warehouse_stores_labels_alone(warehouse, run, series):
    row = rows_of(window(10), load_queries()[0], [Series({}, (1.0,))])[0]
    with pytest.raises(InvalidInput, match="must be a JSON object of labels"):
        warehouse.store_prometheus(run, [row | {"series": series}])


def test_labels_in_another_order_are_the_same_row(warehouse, run):
    row = rows_of(window(10), load_queries()[0], [Series({}, (1.0,))])[0]
    for series in ('{"a": "1", "b": "2"}', '{"b":"2","a":"1"}'):
        warehouse.store_prometheus(run, [row | {"series": series}])
    assert warehouse.prometheus_frame(run)["series"].tolist() == ['{"a": "1", "b": "2"}']
