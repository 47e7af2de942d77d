"""Every trend query answers a small history right, on both databases, and from both databases' own shells."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import sqlite3
import subprocess
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.resources import include_dir
from bigtcp_bench.warehouse import incidents, schema
from bigtcp_bench.warehouse.queries import query_names, sql_of, trend
from bigtcp_bench.warehouse.store import Warehouse
from tests.postgres import binaries

FIRST = datetime(2026, 1, 30, 2, tzinfo=UTC)
SCENARIO = "ipv6-stream-1"
PERIOD = {"since": "2026-01-01", "until": date(2027, 1, 1)}


def fill(warehouse: Warehouse) -> list[int]:
    """Four nights: 1.18.1 twice, then 1.18.2 twice, of which the last is bad in both arms; then one A/A run."""
    runs = []
    nights = [(10.0, 20.0, "1.18.1"), (12.0, 24.0, "1.18.1"), (11.0, 11.0, "1.18.2"), (5.5, 5.5, "1.18.2")]
    for number, (off, on, version) in enumerate(nights):
        run = warehouse.start_run(
            {
                "cluster": "lab",
                "dag_id": "bigtcp_benchmark",
                "run_id": f"night {number}",
                "started_at": FIRST + timedelta(days=number),
                "cilium_version": version,
                "client_node": "a",
                "server_node": "b",
                "note": f"night {number}",
            }
        )
        row = {
            "scenario": SCENARIO,
            "metric": "throughput_bps",
            "off_median": off,
            "on_median": on,
            "change": on / off - 1,
            "ci_low": on / off - 1.02,
            "ci_high": on / off - 0.98,
            "smallest_detectable_change": 0.03,
            "verdict": "faster" if on > off else "equivalent",
        }
        cpu = {"off_median": 0.5, "on_median": 0.4, "change": -0.2, "verdict": "faster"}
        warehouse.store_comparisons(
            run,
            [row, row | {"scenario": "ipv4-stream-1"}]
            + [
                row | cpu | {"metric": f"cpu_s_per_gb_{end}", "scenario": scenario}
                for end in ("sender", "receiver")
                for scenario in (SCENARIO, "ipv6-rate")
            ],
        )
        warehouse.finish_run(run, "valid")
        runs.append(run)
    run = warehouse.start_run(
        {
            "cluster": "lab",
            "dag_id": "bigtcp_benchmark",
            "run_id": "A/A",
            "started_at": FIRST + timedelta(days=9),
            "is_aa": True,
            "client_node": "a",
            "server_node": "b",
        }
    )
    noise = {"metric": "throughput_bps", "scenario": SCENARIO, "sd": 0.02}
    warehouse.store_noise(run, [noise | {"level": "generation"}, noise | {"level": "switch", "sd": 0.01}])
    warehouse.finish_run(run, "valid")
    member = {"metric": "throughput_bps", "first_seen": "2026-02-02", "last_seen": "2026-02-02", "confirmed": True}
    incident = {
        "uid": "lab/1",
        "cluster": "lab",
        "state": "recovered",
        "attribution": "platform",
        "changed_on": "2026-02-01",
        "suspected_on": "2026-02-01",
        "closed_on": "2026-02-05",
        "members": [
            member | {"scenario": SCENARIO, "change": -0.5},
            member | {"scenario": "ipv4-stream-1", "change": -0.4},
        ],
    }
    known = incident | {"uid": "lab/2", "state": "regression", "suspected_on": "2026-03-01", "closed_on": None}
    incidents.revise(warehouse, "lab", lambda _open: [incident, known])
    return runs


def test_nightly_trend_by_arm(warehouse: Warehouse) -> None:
    runs = fill(warehouse)
    frame = trend(warehouse, "nightly_trend", scenario=SCENARIO, **PERIOD)
    assert frame[["night", "arm", "value"]].values.tolist()[:4] == [
        ["2026-01-30", "off", 10.0],
        ["2026-01-30", "on", 20.0],
        ["2026-01-31", "off", 12.0],
        ["2026-01-31", "on", 24.0],
    ]
    assert frame["started_at"].iloc[0] == FIRST
    assert frame["run"].iloc[-1] == runs[-1]
    filters = {"scenario": "ipv%", "version": "1.18.2", "since": FIRST, "until": FIRST + timedelta(days=3)}
    filtered = trend(warehouse, "nightly_trend", **filters)
    assert filtered.groupby("scenario").size().to_dict() == {SCENARIO: 2, "ipv4-stream-1": 2}
    assert trend(warehouse, "nightly_trend", scenario="nothing", **PERIOD).empty


def test_benefit_over_time(warehouse: Warehouse) -> None:
    fill(warehouse)
    frame = trend(warehouse, "benefit_over_time", scenario=SCENARIO, **PERIOD)
    columns = ["month", "nights", "benefit", "worst_night", "faster", "equivalent"]
    assert frame[columns].values.tolist() == [["2026-01", 2, 1.0, 1.0, 2, 0], ["2026-02", 2, 0.0, 0.0, 0, 2]]
    cpu = trend(warehouse, "benefit_over_time", scenario=SCENARIO, metric="cpu_s_per_gb_sender", **PERIOD)
    assert cpu["benefit"].round(9).tolist() == [0.2, 0.2]


def test_before_and_after_a_version(warehouse: Warehouse) -> None:
    fill(warehouse)
    frame = trend(warehouse, "before_after_version", scenario=SCENARIO)
    (row,) = frame.to_dict("records")
    assert (row["version_before"], row["version_after"]) == ("1.18.1", "1.18.2")
    assert (row["nights_before"], row["nights_after"]) == (2, 2)
    assert (row["off_before"], row["off_after"], row["on_before"], row["on_after"]) == (11.0, 8.25, 22.0, 8.25)
    assert (row["off_moved"], row["benefit_before"], row["benefit_after"]) == (-0.25, 1.0, 0.0)
    nearest = trend(warehouse, "before_after_version", scenario=SCENARIO, version="1.18.2", nights=1)
    assert nearest[["off_before", "off_after"]].values.tolist() == [[12.0, 11.0]]
    first = trend(warehouse, "before_after_version", scenario=SCENARIO, version="1.18.1")
    assert first["nights_before"].tolist() == [0]
    assert first["off_moved"].isna().all()


def test_a_version_is_a_whole_word_or_a_pattern(warehouse: Warehouse) -> None:
    """1.18.1 is not 1.18.10, and what was measured after 1.18.10 is not before 1.18.1."""
    for number, version in enumerate(["1.17.9", "1.18.1", "1.18.10", "1.18.10", "1.17.9", None]):
        run = warehouse.start_run(
            {
                "cluster": "lab",
                "dag_id": "bigtcp_benchmark",
                "run_id": f"night {number}",
                "started_at": FIRST + timedelta(days=number),
                "cilium_version": version,
            }
        )
        row = {"scenario": SCENARIO, "metric": "latency_p50_us", "off_median": 10.0 + number, "on_median": 5.0}
        warehouse.store_comparisons(run, [row | {"change": -0.5, "verdict": "faster"}])
        warehouse.finish_run(run, "valid")

    def both(version: str | None) -> list[object]:
        frame = trend(
            warehouse, "before_after_version", scenario=SCENARIO, metric="latency_p50_us", version=version
        )
        columns = ["version_before", "version_after", "nights_before", "off_before", "nights_after", "off_after"]
        assert frame["benefit_after"].tolist() == [0.5] * len(frame), "lower is better"
        return frame[columns].values.tolist()

    assert both("1.18.1") == [["1.17.9", "1.18.1", 1, 10.0, 1, 11.0]]
    assert both("1.18.10") == [["1.18.1", "1.18.10", 2, 10.5, 2, 12.5]]
    assert both("1.18.%") == [["1.17.9", "1.18.1", 1, 10.0, 3, 12.0]]
    assert both(None) == both("1.17.9"), "the newest that is known"
    assert both("1.18") == []
    for version, nights in {"1.18.1": 1, "1.18.10": 2, "1.18.1%": 3, "%": 6}.items():
        frame = trend(
            warehouse, "nightly_trend", scenario=SCENARIO, metric="latency_p50_us", version=version, **PERIOD
        )
        assert len(frame) == 2 * nights


def test_usual_is_the_median_of_every_nth_of_many_nights(
    tmp_path: Path, new_warehouse: Callable[[Path], Warehouse]
) -> None:
    warehouse = new_warehouse(tmp_path / "w.db")
    nights, bad = 1_200, 777
    with warehouse.engine.begin() as connection:
        for number in range(nights):
            row = {"id": number + 1, "cluster": "lab", "dag_id": "d", "run_id": str(number), "status": "valid"}
            moment = FIRST + timedelta(days=number)
            connection.execute(sa.insert(schema.run), row | {"is_aa": False, "started_at": moment, "reasons": []})
        connection.execute(
            sa.insert(schema.comparison),
            [
                {
                    "run_id": number + 1,
                    "metric": "throughput_bps",
                    "scenario": SCENARIO,
                    "unit": "bit/s",
                    "better": "higher",
                    "off_median": 10.0,
                    # Every seventh night is a good one; it must not be taken for what is usual.
                    "on_median": 5.0 if number == bad else 40.0 if number % 7 == 0 else 20.0 + number % 5 / 100,
                    "below_margin": False,
                    "verdict": "faster",
                    "reasons": [],
                }
                for number in range(nights)
            ],
        )
    frame = trend(warehouse, "worst_nights", scenario=SCENARIO, limit=3, since=FIRST, until="2030-01-01")
    assert frame["run"].iloc[0] == bad + 1
    assert frame["on_worse_by"].iloc[0] == pytest.approx(0.75, abs=0.001)
    assert (frame["on_worse_by"].iloc[1:] < 0.002).all()


def test_cpu_cost(warehouse: Warehouse) -> None:
    fill(warehouse)
    frame = trend(warehouse, "cpu_cost", scenario=SCENARIO, **PERIOD)
    assert len(frame) == 4
    assert frame.iloc[0][["sender_off", "sender_on", "receiver_off", "receiver_change"]].tolist() == [
        0.5,
        0.4,
        0.5,
        -0.2,
    ]


def test_worst_nights(warehouse: Warehouse) -> None:
    fill(warehouse)
    frame = trend(warehouse, "worst_nights", scenario=SCENARIO, limit=5, **PERIOD)
    # The usual night is the median: 15.5 in arm on (of 5.5, 11, 20, 24), 10.5 in arm off.
    assert frame["note"].tolist() == ["night 3", "night 2"]
    assert frame["on_worse_by"].tolist() == pytest.approx([1 - 5.5 / 15.5, 1 - 11 / 15.5])
    assert frame["off_worse_by"].tolist() == pytest.approx([1 - 5.5 / 10.5, 1 - 11 / 10.5])
    assert len(trend(warehouse, "worst_nights", scenario=SCENARIO, limit=1, **PERIOD)) == 1
    lower = trend(warehouse, "worst_nights", scenario=SCENARIO, metric="cpu_s_per_gb_sender", **PERIOD)
    assert lower.empty


def test_noise_by_node_pair(warehouse: Warehouse) -> None:
    fill(warehouse)
    frame = trend(warehouse, "noise_by_node_pair", **PERIOD).set_index("scenario")
    row = frame.loc[SCENARIO]
    assert (row["node_pair"], row["nights"], row["aa_runs"]) == ("a > b", 4, 1)
    assert row["mean_half_width"] == pytest.approx(0.02)
    assert (row["generation_sd"], row["switch_sd"]) == (0.02, 0.01)
    assert frame.loc["ipv4-stream-1", "aa_runs"] == 0
    assert pd.isna(frame.loc["ipv4-stream-1", "generation_sd"])


def test_incident_history(warehouse: Warehouse) -> None:
    fill(warehouse)
    (incident,) = incidents.open_incidents(warehouse)
    incidents.acknowledge(warehouse, incident.id, by="ann", note="known", at=FIRST)
    newest, oldest = trend(warehouse, "incident_history", **PERIOD).to_dict("records")
    assert (newest["state"], newest["acknowledged_by"]) == ("regression", "ann")
    assert newest["acknowledged_at"] == FIRST
    assert newest["open_days"] == (datetime.now(UTC).date() - date(2026, 3, 1)).days
    assert (oldest["state"], oldest["series"], oldest["open_days"]) == ("recovered", 2, 4)
    assert set(oldest["scenarios"].split(",")) == {SCENARIO, "ipv4-stream-1"}
    assert (oldest["metrics"], oldest["lowest_change"], oldest["highest_change"]) == ("throughput_bps", -0.5, -0.4)
    one = trend(warehouse, "incident_history", since="2026-02-01", until="2026-02-02")
    assert one["incident"].tolist() == [oldest["incident"]]


@pytest.mark.parametrize("name", list(query_names()))
def test_every_query_runs_as_its_header_says(warehouse: Warehouse, name: str) -> None:
    fill(warehouse)
    path = include_dir() / "sql" / f"{name}.sql"
    lines = itertools.takewhile(lambda line: line.startswith("--"), path.read_text().splitlines(True))
    header = "".join(line.removeprefix("--") for line in lines)
    sqlite, postgres = header.split("On SQLite")[1].split("On PostgreSQL")
    command = sqlite if warehouse.engine.dialect.name == "sqlite" else postgres
    command = command[command.index("\n") + 1 :].replace("include/sql", str(path.parent))
    # The examples name what the history above has.
    command = command.replace("warehouse.db", str(warehouse.engine.url.database))
    url = warehouse.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")
    environment = os.environ | {"WAREHOUSE_URL": url, "PATH": f"{os.environ['PATH']}:{binaries()}"}
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ipv6-" in done.stdout


@pytest.mark.parametrize("name", list(query_names()))
def test_no_query_reads_a_whole_table(
    tmp_path: Path, name: str, new_warehouse: Callable[[Path], Warehouse]
) -> None:
    new_warehouse(tmp_path / "w.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "w.db")) as connection:
        # As SQLite plans it without any statistics, which is how a new warehouse runs.
        values = dict.fromkeys(re.findall(r":([a-z]+)", sql_of(name)), "x") | {"limit": 1, "nights": 1}
        plan = connection.execute(f"EXPLAIN QUERY PLAN {sql_of(name)}", values).fetchall()
    steps = [step[3] for step in plan]
    tables = r"(run|bigtcp_run|comparison|bigtcp_comparison|receiver|noise|bigtcp_noise|incident)"
    assert [step for step in steps if re.match(rf"SCAN {tables}\b", step)] == []
    assert [step for step in steps if step.startswith("SEARCH")] != []


@pytest.mark.parametrize(
    ("name", "filters", "sentence"),
    [
        ("nightly", {}, "trend query 'nightly' does not exist; allowed are before_after_version"),
        ("nightly_trend", {"cluster": "prod"}, "cluster 'prod' is not in the warehouse; known are lab"),
        ("nightly_trend", {"metric": "speed"}, "unknown metric 'speed'; allowed are throughput_bps"),
        ("nightly_trend", {"since": "yesterday"}, "since = 'yesterday': must be a date such as"),
        ("nightly_trend", {"since": "2026-02-01", "until": "2026-01-01"}, "since .* must be before until"),
        ("worst_nights", {"limit": 0}, "limit = 0: must be 1 or more"),
    ],
)
def test_wrong_filters_get_a_sentence(
    tmp_path: Path, name: str, filters: dict[str, str], sentence: str, new_warehouse: Callable[[Path], Warehouse]
) -> None:
    warehouse = new_warehouse(tmp_path / "w.db")
    warehouse.start_run({"cluster": "lab", "dag_id": "d", "run_id": "r"})
    with pytest.raises(InvalidInput, match=sentence):
        trend(warehouse, name, **filters)  # type: ignore[arg-type]
