"""How fast the warehouse is after years of nightly runs: stores, judges and asks every question; prints Markdown.

    python -m benchmarks.warehouse --years 1 10

History is generated in bulk, with a seed, at 24 scenarios × every metric and ten measurements of each per night,
which is a million comparisons and ten million results in ten years. Run it from the project's folder.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from prometheus_client.openmetrics.exposition import generate_latest
from tests.postgres import create_database, running_server

from benchmarks.judging import judging_times
from bigtcp_bench.in_cluster.traffic import KINDS
from bigtcp_bench.judging.night import REPLAY_NIGHTS
from bigtcp_bench.monitoring.exposition import Families
from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.planning.plan import SCENARIOS
from bigtcp_bench.warehouse import pages, schema
from bigtcp_bench.warehouse.queries import query_names, trend
from bigtcp_bench.warehouse.scrape import cluster_facts
from bigtcp_bench.warehouse.store import Warehouse

SEED = 20260301
FIRST_NIGHT = datetime(2016, 1, 1, 2, tzinfo=UTC)
NIGHTS_PER_YEAR = 365
CLUSTER = "lab"
#: As many as a plan may well have.
NAMES = list(SCENARIOS)[:24]
#: Generations per arm; with one repetition each: ten measurements of every scenario and metric per night.
GENERATIONS = 5
#: Nights that one Cilium version stays, and nights between two A/A runs.
VERSION_NIGHTS = 60
AA_NIGHTS = 30
ROUNDS = 7
RUN_RESULTS = 5000
WANTED_QUERY_S = 0.1
WANTED_STORE_S = 1.0
WANTED_JUDGING_S = 1.0

_SERIES = [(metric, scenario) for metric in sorted(METRICS) for scenario in sorted(NAMES)]
_MEASUREMENTS = [
    (block, generation, scenario, 1, metric, arm, METRICS[metric].unit)
    for block, arm in ((1, "off"), (2, "on"))
    for generation in range(1, GENERATIONS + 1)
    for scenario in sorted(NAMES)
    for metric in sorted(METRICS)
]


def main() -> int:
    """Measure and print the table; the status is 1 when even the best of the rounds is slower than wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--years", type=int, nargs="+", default=[1, 10], help="ages to measure at (default 1 10)")
    parser.add_argument(
        "--databases", nargs="+", choices=("sqlite", "postgresql"), default=["sqlite", "postgresql"]
    )
    options = parser.parse_args()
    columns: dict[str, dict[str, Figure]] = {}
    ages = sorted(options.years)
    with tempfile.TemporaryDirectory(prefix="bigtcp-bench-") as folder:
        for kind in options.databases:
            with _database(kind, Path(folder)) as url:
                warehouse = Warehouse(url)
                warehouse.migrate()
                for before, years in zip([0, *ages], ages, strict=False):
                    heading = f"{kind}, {years} year{'s' if years > 1 else ''}"
                    _say(f"{heading}: generating")
                    _generate(warehouse, range(before * NIGHTS_PER_YEAR, years * NIGHTS_PER_YEAR))
                    _say(f"{heading}: measuring")
                    columns[heading] = _measure(warehouse, years)
    _print_table(columns)
    # The best of the rounds is the one that the machine's other work disturbed least.
    slow = [
        f"{heading}: {name} {min(figure.times):.3f} s > {figure.wanted_s} s"
        for heading, figures in columns.items()
        for name, figure in figures.items()
        if figure.wanted_s is not None and min(figure.times) > figure.wanted_s
    ]
    print("\nSlower than wanted: " + ("; ".join(slow) if slow else "nothing."))
    return 1 if slow else 0


class Figure:
    """A measured time in seconds (median, best and worst of ROUNDS), what is wanted, and what came out."""

    def __init__(self, times: Iterable[float], wanted_s: float | None = None, note: str = "") -> None:
        self.times = list(times)
        self.seconds = statistics.median(self.times)
        self.wanted_s = wanted_s
        self.note = note

    def __str__(self) -> str:
        times = (f"{seconds * 1000:.1f}" for seconds in (self.seconds, min(self.times), max(self.times)))
        return "{} ({}–{}){}".format(*times, self.note)


@contextlib.contextmanager
def _database(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder}/warehouse.db"
    else:
        with running_server(durable=True) as server:
            yield create_database(server, "bench")


def _measure(warehouse: Warehouse, years: int) -> dict[str, Figure]:
    end = FIRST_NIGHT + timedelta(days=years * NIGHTS_PER_YEAR)
    last_year: dict[str, Any] = {"since": end - timedelta(days=365), "until": end}
    everything: dict[str, Any] = {"since": FIRST_NIGHT, "until": end}
    figures = {f"store a run of {RUN_RESULTS:,} results": _time_storing(warehouse, years)}
    one, every = "ipv6-stream-1", "%"
    for name in query_names():
        lists_nights = name in ("nightly_trend", "cpu_cost")
        usual = one if lists_nights else every
        cases = {f"last 365 nights, scenario {usual}": (usual, last_year, WANTED_QUERY_S)}
        if name != "before_after_version":  # it looks at a number of nights, not at a period
            cases[f"all nights, scenario {one}"] = (one, everything, WANTED_QUERY_S)
            # A list of all nights of all scenarios is as long as it is; its time shows what a row costs.
            cases[f"all nights, scenario {every}"] = (every, everything, None if lists_nights else WANTED_QUERY_S)
        for label, (scenario, period, wanted_s) in cases.items():

            def ask(name: str = name, scenario: str = scenario, period: dict[str, Any] = period) -> int:
                return len(trend(warehouse, name, cluster=CLUSTER, scenario=scenario, **period))

            rows = ask()
            figures[f"{name}, {label}"] = Figure(_times(ask), wanted_s, f" → {rows:,}")
    headlines = sorted({kind.headline for kind in KINDS.values()})
    for label, metrics in (("one metric", headlines[:1]), (f"{len(METRICS)} metrics", list(METRICS))):

        def read(metrics: list[str] = metrics) -> int:
            return len(warehouse.series_frame(CLUSTER, metrics=metrics, nights=400))

        rows = read()
        figures[f"history of 24 scenarios × {label}, 400 nights"] = Figure(_times(read), None, f" → {rows:,}")
    figures |= _time_judging(warehouse, end)
    figures["what Prometheus scrapes of a cluster"] = Figure(_times(lambda: _scraped(warehouse)), WANTED_QUERY_S)
    figures["size of the database, MB"] = _Size(warehouse)
    return figures


def _scraped(warehouse: Warehouse) -> int:
    facts = cluster_facts(warehouse, CLUSTER, pages.dags_by_cluster(warehouse)[CLUSTER], whole=True)
    assert facts is not None
    return len(generate_latest(Families([facts])))


def _time_judging(warehouse: Warehouse, end: datetime) -> dict[str, Figure]:
    """Time the judging of a night: with nothing carried over from the night before, and as usual."""
    figures = {}
    for metrics, wanted_s in ((["throughput_bps"], WANTED_JUDGING_S), (list(METRICS), None)):
        series = len(NAMES) * sum(METRICS[name].judged for name in metrics)
        # The two kinds of nights must not be at the same moments.
        begin = end + timedelta(minutes=len(metrics))
        first, *others = judging_times(warehouse, CLUSTER, NAMES, metrics, begin, ROUNDS + 1)
        figures[f"judge a night of {series} series"] = Figure(others, wanted_s)
        figures[f"judge {series} series for the first time, by their last {REPLAY_NIGHTS} nights"] = Figure(
            [first]
        )
    return figures


class _Size(Figure):
    def __init__(self, warehouse: Warehouse) -> None:
        super().__init__([0])
        if warehouse.engine.dialect.name == "sqlite":
            size = os.path.getsize(str(warehouse.engine.url.database))
        else:
            statement = sa.select(sa.func.pg_database_size(sa.func.current_database()))
            size = warehouse.read(lambda connection: connection.execute(statement).scalar_one())
        self.text = f"{size / 1e6:,.0f}"

    def __str__(self) -> str:
        return self.text


def _time_storing(warehouse: Warehouse, years: int) -> Figure:
    """Time what a run writes: its row, 5,000 results in twelve generations, 288 comparisons, its end."""
    per_generation = [RUN_RESULTS // 12 + (1 if number < RUN_RESULTS % 12 else 0) for number in range(12)]
    comparisons = [
        {"metric": metric, "scenario": scenario, "off_median": 1.0, "on_median": 1.1, "verdict": "faster"}
        for metric, scenario in _SERIES
    ]
    generations = [
        [
            {
                "block": 1,
                "arm": "off",
                "generation": number,
                "scenario": scenario,
                "repetition": 1 + index // len(_SERIES),
                "metric": metric,
                "value": 1.0 + index,
            }
            for index, (metric, scenario) in zip(range(count), itertools.cycle(_SERIES), strict=False)
        ]
        for number, count in enumerate(per_generation, 1)
    ]
    assert sum(len(rows) for rows in generations) == RUN_RESULTS

    def store(number: int) -> None:
        run = warehouse.start_run({"cluster": "other", "dag_id": "bench", "run_id": f"{years} years, {number}"})
        for generation, rows in enumerate(generations, 1):
            warehouse.store_generation(run, 1, generation, results=rows)
        warehouse.store_comparisons(run, comparisons)
        warehouse.finish_run(run, "valid")

    numbers = itertools.count()
    return Figure(_times(lambda: store(next(numbers))), WANTED_STORE_S)


def _times(call: Callable[[], Any]) -> list[float]:
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return times


def _generate(warehouse: Warehouse, nights: range) -> None:
    random = np.random.default_rng([SEED, nights.start])
    load = _load_sqlite if warehouse.engine.dialect.name == "sqlite" else _load_postgres
    # A month at a time: the rows of ten years do not fit into memory at once.
    for start in range(nights.start, nights.stop, 30):
        chunk = range(start, min(start + 30, nights.stop))
        load(warehouse, schema.run, [_run_row(night) for night in chunk])
        load(warehouse, schema.comparison, (row for night in chunk for row in _comparison_rows(night, random)))
        load(warehouse, schema.result, (row for night in chunk for row in _result_rows(night, random)))
        load(warehouse, schema.noise, (row for night in chunk for row in _noise_rows(night)))
        load(warehouse, schema.incident, [_incident_row(start)])
        load(warehouse, schema.incident_member, _member_rows(start))
    if warehouse.engine.dialect.name == "postgresql":
        with warehouse.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            # What autovacuum does by itself within a day.
            connection.exec_driver_sql("VACUUM ANALYZE")
            # Rows that were loaded with their ids have not moved the counters that give the next ones.
            for table in ("bigtcp_run", "bigtcp_incident"):
                connection.exec_driver_sql(
                    f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"
                )


def _run_row(night: int) -> dict[str, Any]:
    return {
        "id": _run_id(night),
        "cluster": CLUSTER,
        "dag_id": "bigtcp_benchmark",
        "run_id": f"scheduled__{night}",
        "status": "invalid" if night % 50 == 49 else "valid",
        "is_aa": _is_aa(night),
        "started_at": _moment(night),
        "finished_at": _moment(night) + timedelta(hours=1),
        "client_node": "node-a" if night % 4 else "node-c",
        "server_node": "node-b",
        "client_kernel": "6.18.5",
        "server_kernel": "6.18.5",
        "nic_driver": "mlx5_core",
        "nic_tso_max_size": 524_280,
        "mtu": 9000,
        "cilium_version": _version(night),
        "iperf3_version": "3.18",
        "reasons": json.dumps([]),
        "cilium_config": json.dumps({f"option-{number}": "x" * 20 for number in range(200)}),
    }


def _comparison_rows(night: int, random: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    if _is_aa(night):
        return
    off = random.normal(100.0, 3.0, len(_SERIES))
    ratio = random.normal(1.3, 0.03, len(_SERIES))
    for (metric, scenario), low, change in zip(_SERIES, off.tolist(), (ratio - 1).tolist(), strict=True):
        known = METRICS[metric]
        yield (
            *(_run_id(night), metric, scenario, known.unit, known.better, low, low * (1 + change), change),
            *(change - 0.02, change + 0.02, 0.95, 0.05, GENERATIONS, GENERATIONS, 0.04, 0.001, 0.0, False),
            *("faster", "[]"),
        )


def _result_rows(night: int, random: np.random.Generator) -> Iterator[tuple[Any, ...]]:
    values = random.normal(100.0, 3.0, len(_MEASUREMENTS)).tolist()
    for (block, generation, scenario, repetition, metric, arm, unit), value in zip(
        _MEASUREMENTS, values, strict=True
    ):
        yield _run_id(night), block, generation, scenario, repetition, metric, arm, value, unit


def _noise_rows(night: int) -> Iterator[tuple[Any, ...]]:
    if _is_aa(night):
        for metric, scenario in _SERIES:
            for level in ("repetition", "generation", "switch"):
                yield _run_id(night), metric, scenario, level, 0.02, 10


def _incident_row(night: int) -> dict[str, Any]:
    begun = _moment(night).date().isoformat()
    return {
        "id": _incident_id(night),
        "uid": f"bench-{night}",
        "cluster": CLUSTER,
        "state": "recovered",
        "attribution": "big-tcp",
        "changed_on": begun,
        "suspected_on": begun,
        "confirmed_on": begun,
        "closed_on": _moment(night + 7).date().isoformat(),
    }


def _member_rows(night: int) -> list[dict[str, Any]]:
    begun = _moment(night).date().isoformat()
    row = {"incident_id": _incident_id(night), "metric": "throughput_bps", "change": -0.1, "confirmed": True}
    return [row | {"scenario": name, "first_seen": begun, "last_seen": begun} for name in NAMES[:3]]


def _run_id(night: int) -> int:
    # After each year some numbers stay free, for the runs that are stored while measuring.
    return night + 1 + 100 * (night // NIGHTS_PER_YEAR)


def _incident_id(night: int) -> int:
    # Here, too, some numbers stay free: for the incidents of nights that are judged while measuring.
    return 1 + 100 * night


def _is_aa(night: int) -> bool:
    return night % AA_NIGHTS == AA_NIGHTS - 1


def _moment(night: int) -> datetime:
    return FIRST_NIGHT + timedelta(days=night)


def _version(night: int) -> str:
    return f"1.{night // VERSION_NIGHTS}.0"


def _load_sqlite(warehouse: Warehouse, table: sa.Table, rows: Iterable[Any]) -> None:
    names = [column.name for column in table.c]

    def plain(value: Any) -> Any:
        # As SQLAlchemy's DateTime writes it.
        return value.strftime("%Y-%m-%d %H:%M:%S.%f") if isinstance(value, datetime) else value

    tuples = (tuple(plain(row.get(name)) for name in names) if isinstance(row, dict) else row for row in rows)
    with contextlib.closing(warehouse.engine.raw_connection()) as connection:
        cursor = connection.cursor()
        cursor.execute("BEGIN IMMEDIATE")
        marks = ", ".join("?" * len(names))
        cursor.executemany(f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({marks})", tuples)
        cursor.execute("COMMIT")


def _load_postgres(warehouse: Warehouse, table: sa.Table, rows: Iterable[Any]) -> None:
    names = [column.name for column in table.c]
    with contextlib.closing(warehouse.engine.raw_connection()) as connection:
        with (
            connection.cursor() as cursor,
            cursor.copy(f"COPY {table.name} ({', '.join(names)}) FROM STDIN") as copy,
        ):
            for row in rows:
                copy.write_row([row.get(name) for name in names] if isinstance(row, dict) else row)
        connection.commit()


def _print_table(columns: dict[str, dict[str, Figure]]) -> None:
    print(
        f"Milliseconds, median of {ROUNDS} (best–worst) → rows; {platform.processor() or platform.machine()}, "
        f"{os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}.\n"
    )
    print("| | " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * len(columns))
    for name in next(iter(columns.values())):
        print(f"| {name} | " + " | ".join(str(figures[name]) for figures in columns.values()) + " |")


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
