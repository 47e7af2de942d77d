"""A run that is cleared and measured anew: earlier attempts are kept, and nothing that tells results sees them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bigtcp_bench.planning.plan import load_plan
from bigtcp_bench.warehouse import cilium_runs, controls, judgements, migrate, pages, period, queries, scrape
from bigtcp_bench.warehouse.exchange import export_runs, import_runs
from bigtcp_bench.warehouse.store import Warehouse

RUN = {"cluster": "lab", "dag_id": "d", "run_id": "scheduled__1", "trigger": "scheduled"}
FIRST = datetime(2026, 3, 1, 2, tzinfo=UTC)
#: Stands in every figure and text of an earlier attempt, and nowhere else.
EARLIER = 666_666
THROUGHPUT = "throughput_bps"


def attempt(warehouse: Warehouse, day: int, value: float, **columns: Any) -> int:
    """Store a whole attempt of the run, every figure of it ``value``."""
    earlier = value == EARLIER
    scenario = "ipv6-stream-8" if earlier else "ipv4-stream-1"
    version = f"1.18.{EARLIER}" if earlier else "1.18.3"
    run = warehouse.start_run(
        RUN
        | {"started_at": FIRST + timedelta(days=day), "plan": load_plan("quick"), "cilium_version": version}
        | {"note": str(value), "images": {"cilium": version}, "cilium_config": {"a": version}}
        | columns
    )
    key = {"block": 1, "arm": "off"}
    place = key | {"generation": 1, "scenario": scenario, "repetition": 1}
    warehouse.store_block(run, key)
    warehouse.store_results(run, [place | {"metric": THROUGHPUT, "value": value}])
    control = place | {"generation": 0, "scenario": "host-control", "metric": "transactions_per_s"}
    warehouse.store_results(run, [control | {"value": value}])
    warehouse.store_counters(run, [key | {"node": "a", "counter": "c", "value": value}])
    series = {"scenario": scenario, "metric": THROUGHPUT}
    figures = {"off_median": value, "on_median": value, "change": value, "smallest_detectable_change": value}
    warehouse.store_comparisons(run, [series | figures | {"verdict": "slower" if earlier else "faster"}])
    warehouse.store_judgements(run, [series | {"state": "regression" if earlier else "steady", "change": value}])
    warehouse.store_noise(run, [series | {"level": "switch", "sd": value}])
    warehouse.finish_run(run, "valid", finished_at=FIRST + timedelta(days=day, hours=1))
    return run


def test_an_attempt_begins_when_something_was_measured_or_the_run_has_ended(warehouse: Warehouse) -> None:
    first = warehouse.start_run(RUN)
    assert warehouse.start_run(RUN) == first, "the first task was tried again"
    warehouse.store_block(first, {"block": 1, "arm": "off"})
    second = warehouse.start_run(RUN)
    assert second != first
    warehouse.finish_run(second, "failed", ["refused"])
    third = warehouse.start_run(RUN)
    assert warehouse.attempts(third) == warehouse.attempts(first) == [first, second, third]
    rows = [warehouse.run(number) for number in (first, second, third)]
    assert [(row["attempt"], row["superseded"]) for row in rows] == [(1, True), (2, True), (3, False)]
    assert warehouse.find_run("lab", "d", "scheduled__1") == third
    assert warehouse.runs_frame()["id"].tolist() == [third]
    assert warehouse.blocks_frame(first)["block"].tolist() == [1], "what was measured is kept"
    assert warehouse.blocks_frame(third).empty


def test_nothing_that_speaks_of_results_sees_an_earlier_attempt(warehouse: Warehouse) -> None:
    earlier = attempt(warehouse, 0, EARLIER)
    newest = attempt(warehouse, 1, 7.0)
    later = warehouse.start_run(RUN | {"run_id": "scheduled__2", "started_at": FIRST + timedelta(days=2)})
    warehouse.update_run(later, plan=load_plan("quick"))
    dags, since, until = {"d"}, FIRST - timedelta(days=9), FIRST + timedelta(days=9)
    asked: list[Any] = [
        warehouse.runs_frame(),
        warehouse.noise_frame("lab"),
        warehouse.series_frame("lab"),
        warehouse.series_frame("lab", until_run=newest),
        warehouse.series_frame("lab", until_run=later),
        pages.runs(warehouse, dags),
        pages.runs(warehouse, dags, compared=True),
        pages.runs_of_dag_run(warehouse, "d", "scheduled__1"),
        pages.versions(warehouse, "lab", dags),
        pages.scenarios_of(warehouse, "lab", dags),
        pages.nights_of_version(warehouse, "lab", dags, f"1.18.{EARLIER}", nights=9),
        [
            pages.trend_frame(
                warehouse, "lab", dags, scenario=scenario, metric=THROUGHPUT, since=since, until=until
            )
            for scenario in ("ipv6-stream-8", "ipv4-stream-1")
        ],
        scrape.cluster_facts(warehouse, "lab", dags, whole=True),
        dataclasses.asdict(period.period(warehouse, "lab", since, until)),
        cilium_runs.newest(warehouse, "lab", lambda run: str(EARLIER) in run.fingerprint.image),
        controls.control_history(warehouse, later, 20),
        judgements.judged_before(warehouse, later),
        [
            queries.trend(warehouse, name, since=since, until=until, metric=THROUGHPUT)
            for name in queries.query_names()
        ],
    ]
    for place, answer in enumerate(asked):
        answers = answer if isinstance(answer, list) else [answer]
        text = "".join(one.to_csv() if hasattr(one, "to_csv") else str(one) for one in answers)
        assert str(EARLIER) not in text, place
        assert "ipv6-stream-8" not in text, place
    assert pages.neighbours(warehouse, dags, later) == (newest, None)
    assert pages.neighbours(warehouse, dags, newest) == (None, later)
    assert len(warehouse.series_frame("lab")) == len(pages.runs(warehouse, dags, compared=True)) == 1
    # Whoever asks for it gets it whole.
    assert warehouse.results_frame(earlier)["value"].tolist() == [EARLIER, EARLIER]
    assert warehouse.comparisons_frame(earlier)["verdict"].tolist() == ["slower"]


def test_attempts_travel_and_the_newest_stays_the_newest(
    warehouse: Warehouse, tmp_path: Path, new_warehouse: Callable[[Path], Warehouse]
) -> None:
    numbers = [attempt(warehouse, day, float(day)) for day in range(2)]
    counts = export_runs(warehouse, tmp_path / "runs.zip", raw=True)
    assert counts["run"] == 2
    other = new_warehouse(tmp_path / "other.db")
    # It has a third attempt already: what comes in is earlier, whenever it comes.
    third = other.start_run(RUN | {"attempt": 3})
    for _ in range(2):
        assert import_runs(other, tmp_path / "runs.zip") == counts
    assert other.find_run("lab", "d", "scheduled__1") == third
    rows = [other.run(number) for number in other.attempts(third)]
    assert [(row["attempt"], row["superseded"]) for row in rows] == [(1, True), (2, True), (3, False)]
    for mine, theirs in zip(numbers, other.attempts(third), strict=False):
        assert (
            warehouse.comparisons_frame(mine)["change"].tolist()
            == other.comparisons_frame(theirs)["change"].tolist()
        )


def test_runs_of_the_version_before_are_first_attempts(empty_url: str) -> None:
    """Their rows stay, are readable, and are nights unless somebody started them beside a schedule."""
    warehouse = Warehouse(empty_url)
    warehouse.migrate("0005")
    old = sa.MetaData()
    old.reflect(warehouse.engine, only=["bigtcp_run", "bigtcp_comparison"])
    run, comparison = old.tables["bigtcp_run"], old.tables["bigtcp_comparison"]
    triggers = {"lab": ("scheduled", "manual", "operator_triggered"), "by hand alone": ("manual", "manual")}
    with warehouse.engine.begin() as connection:
        for cluster, of_cluster in triggers.items():
            for number, trigger in enumerate(of_cluster):
                identity = {"cluster": cluster, "dag_id": "d", "run_id": str(number), "trigger": trigger}
                values = identity | {"status": "valid", "is_aa": False, "started_at": FIRST, "reasons": []}
                made = connection.execute(run.insert().values(values)).inserted_primary_key[0]
                row = {"run_id": made, "metric": THROUGHPUT, "scenario": "ipv4-stream-1", "unit": "bit/s"}
                row |= {"better": "higher", "below_margin": False, "verdict": "faster", "reasons": []}
                connection.execute(comparison.insert().values(row))
    warehouse.migrate()
    frame = warehouse.runs_frame().sort_values("id")
    assert frame["is_night"].tolist() == [True, False, True, True, True]
    assert frame["attempt"].tolist() == [1] * 5
    assert len(warehouse.series_frame("lab")) == 3
    assert warehouse.read(migrate.differences) == []
    if warehouse.engine.dialect.name == "sqlite":
        with warehouse.engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []


def test_without_attempts_earlier_ones_are_runs_of_their_own(warehouse: Warehouse) -> None:
    numbers = [attempt(warehouse, day, float(day)) for day in range(2)]
    migrate.downgrade(warehouse.engine, "0005")
    old = sa.MetaData()
    old.reflect(warehouse.engine, only=["bigtcp_run"])
    names = sa.select(old.tables["bigtcp_run"].c.run_id).order_by(old.tables["bigtcp_run"].c.id)
    with warehouse.engine.connect() as connection:
        assert list(connection.execute(names).scalars()) == ["scheduled__1 (attempt 1)", "scheduled__1"]
    warehouse.migrate()
    assert [warehouse.comparisons_frame(number)["change"].tolist() for number in numbers] == [[0.0], [1.0]]


@pytest.mark.parametrize(("trigger", "is_night"), [("scheduled", True), ("manual", False), (None, True)])
def test_a_run_by_hand_is_no_night_unless_that_is_said(warehouse: Warehouse, trigger, is_night) -> None:
    run = {"cluster": "lab", "dag_id": "d", "trigger": trigger}
    assert warehouse.run(warehouse.start_run(run | {"run_id": "a"}))["is_night"] is is_night
    assert warehouse.run(warehouse.start_run(run | {"run_id": "b", "is_night": True}))["is_night"] is True
