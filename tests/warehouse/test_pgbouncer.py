"""A warehouse behind PgBouncer in transaction mode, where no two transactions need have the same server."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.warehouse import incidents, outbox
from bigtcp_bench.warehouse.engine import engine_of
from bigtcp_bench.warehouse.exchange import export_runs, import_runs
from bigtcp_bench.warehouse.queries import query_names, trend
from bigtcp_bench.warehouse.store import Warehouse
from tests.postgres import create_database
from tests.warehouse.pgbouncer import running_pgbouncer
from tests.warehouse.test_exchange import fill

pytestmark = pytest.mark.postgres

_names = (f"bouncer{number}" for number in itertools.count(1))


@pytest.fixture
def database(postgres_url: str) -> str:
    return create_database(postgres_url, next(_names))


@pytest.fixture
def behind(database: str) -> Iterator[Warehouse]:
    """An empty warehouse, seen through PgBouncer."""
    with running_pgbouncer(database) as url:
        yield Warehouse(url)


def test_everything_works_through_it(behind: Warehouse, tmp_path: Path) -> None:
    behind.migrate()
    behind.check_version()
    fill(behind)
    counts = export_runs(behind, tmp_path / "runs.zip", raw=True)
    assert import_runs(behind, tmp_path / "runs.zip") == counts
    assert {name: len(trend(behind, name, cluster="lab", version="%")) >= 0 for name in query_names()}
    assert len(incidents.open_incidents(behind, "lab")) == 1
    behind.migrate("0001")
    behind.migrate()
    pages = Warehouse(engine_of(behind.engine.url, pooled=True))
    for _ in range(10):
        assert len(pages.runs_frame("lab")) == 2
    pages.engine.dispose()


def test_a_night_of_writes_by_several_at_once(postgres_url: str, migrated_database: str) -> None:
    with running_pgbouncer(create_database(postgres_url, next(_names), template=migrated_database)) as url:
        write_a_night(Warehouse(url))


def write_a_night(behind: Warehouse) -> None:
    row = {"block": 1, "arm": "off", "scenario": "ipv6-stream-1", "metric": "throughput_bps", "value": 1.0}

    def night(number: int) -> int:
        run = behind.start_run({"cluster": f"c{number}", "dag_id": "d", "run_id": "r"})
        for generation in range(1, 11):
            rows = [{**row, "generation": generation, "repetition": one} for one in range(1, 11)]
            behind.store_generation(run, 1, generation, results=rows)
        outbox.keep(behind, f"c{number}", [outbox.Draft(f"k{number}", "run", {"text": "t", "blocks": []}, run)])
        message = outbox.claim(behind, f"c{number}")
        assert isinstance(message, outbox.Outgoing)
        outbox.delivered(behind, message, channel="C1", ts="1.1")
        return len(behind.results_frame(run))

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(night, range(8))) == [100] * 8


def test_moments_are_in_utc_whatever_the_session_thinks(database: str) -> None:
    started = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)
    warehouse = Warehouse(f"{database}&options=-c%20timezone%3DAmerica/New_York")
    warehouse.migrate()
    run = warehouse.start_run({"cluster": "c", "dag_id": "d", "run_id": "r", "started_at": started})
    assert warehouse.run(run)["started_at"] == started
    assert warehouse.run(run)["started_at"].utcoffset() == timedelta(0)
    warehouse.finish_run(run, "valid")
    with warehouse.engine.connect() as connection:
        night = connection.exec_driver_sql("SELECT night FROM bigtcp_valid_run").scalar()
    assert night == "2026-03-01"


def test_options_that_it_forgets_are_refused(database: str) -> None:
    with running_pgbouncer(database, ignore="options") as url:
        through = Warehouse(f"{url}?options=-c%20search_path%3Dnightly%20-c%20statement_timeout%3D60s")
        with pytest.raises(InvalidInput, match="options asks for search_path = 'nightly', but the server has"):
            through.clusters()
    direct = Warehouse(f"{database}&options=-c%20search_path%3Dnightly%20-c%20statement_timeout%3D60s")
    with direct.engine.connect() as connection:
        shown = [
            connection.exec_driver_sql(f"SHOW {name}").scalar() for name in ("search_path", "statement_timeout")
        ]
    assert shown == ["nightly", "1min"]
