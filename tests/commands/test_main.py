"""The commands of `bigtcp-bench` on a warehouse of stored rows, and on files."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa

from bigtcp_bench.commands.main import main
from bigtcp_bench.judging.night import Nightly
from bigtcp_bench.planning.thresholds import Thresholds
from bigtcp_bench.warehouse.queries import query_names
from bigtcp_bench.warehouse.store import Warehouse
from tests.support.incidents import revise
from tests.support.nights import add_night

NIGHTS = 23
PERIOD = ["--since", "2026-03-01", "--until", "2026-12-31"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, new_warehouse: Callable[[Path], Warehouse]) -> Warehouse:
    """A warehouse with an A/A run, and with nights of which the last one opened an incident."""
    warehouse = new_warehouse(tmp_path_factory.mktemp("cli") / "warehouse.db")
    calibration = add_night(warehouse, -1, is_aa=True, plan={"order": ["off", "off"]})
    noise = {"scenario": "ipv4-stream-1", "metric": "throughput_bps", "n": 10}
    warehouse.store_noise(
        calibration,
        [
            noise | {"level": level, "sd": sd}
            for level, sd in (("repetition", 0.02), ("generation", 0.06), ("switch", 0.01))
        ],
    )
    for number in range(NIGHTS - 1):
        run = add_night(warehouse, number, cilium_version="1.18.3" if number < 10 else "1.18.4")
    warehouse.store_raw(run, [{"block": 1, "generation": 1, "kind": "hello", "document": b"x"}])
    last = add_night(warehouse, NIGHTS - 1, on={"ipv4-stream-1": 0.7})
    Nightly(warehouse, last, Thresholds.model_validate({})).judge()
    return warehouse


@pytest.fixture
def command(stored: Warehouse, capsys: pytest.CaptureFixture[str]):
    """Run one command on the stored warehouse and return its status, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main([*arguments, "--warehouse", stored.url])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_the_questions_are_listed(command):
    status, out, _ = command("trend")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == list(query_names())


@pytest.mark.parametrize("name", list(query_names()))
def test_every_question_has_an_answer(command, name):
    status, out, err = command("trend", name, *PERIOD)
    assert (status, err) == (0, "")
    assert out


def test_a_trend_is_filtered_and_written_in_every_format(command, tmp_path):
    filters = [
        "--cluster",
        "lab",
        "--scenario",
        "ipv4-rr",
        "--metric",
        "transactions_per_s",
        "--version",
        "1.18.4",
    ]
    asked = ["trend", "nightly_trend", *PERIOD, *filters]
    _, table, _ = command(*asked)
    assert table.splitlines()[0].split()[:4] == ["scenario", "night", "off", "on"]
    _, text, _ = command(*asked, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["cilium_version"] for row in rows} == {"1.18.4"}
    assert len(rows) == 2 * (NIGHTS - 1 - 10)
    _, text, _ = command(*asked, "--format", "json")
    assert [row["run"] for row in json.loads(text)] == [int(row["run"]) for row in rows]
    for form, read in (("csv", pd.read_csv), ("parquet", pd.read_parquet)):
        path = tmp_path / f"trend.{form}"
        assert command(*asked, "--format", form, "--output", str(path)) == (0, "", "")
        assert len(read(path)) == len(rows)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["trend", "nothing"], "trend query 'nothing' does not exist; allowed are "),
        (["trend", "cpu_cost", "--cluster", "moon"], "cluster 'moon' is not in the warehouse; known are lab"),
        (["trend", "cpu_cost", "--since", "soon"], "since = 'soon': must be a date such as 2026-01-31"),
        (["trend", "cpu_cost", "--format", "parquet"], "Parquet is not text: it needs the path of a file"),
        (["trend", "cpu_cost", "--output", "/proc/none/x"], "/proc/none/x cannot be written: "),
        (["export", "/proc/none/x"], "/proc/none"),
        (["export", "x.zip", "--until", "late"], "--until = 'late': must be a date"),
        (["import", "/proc/none"], "/proc/none cannot be read: No such file or directory"),
        (["import", "/proc/version"], "/proc/version is not a file that `bigtcp-bench export` wrote"),
        (["incident", "ack", "99", "--note", "x"], "incident 99 is not in the warehouse"),
        (["incident", "ack", "99", "--note", " "], "--note is empty: say why this incident is known"),
        (["noise", "--cluster", "moon"], "cluster 'moon' is not in the warehouse; known are lab"),
        (["incident", "list", "--cluster", "moon"], "cluster 'moon' is not in the warehouse; known are lab"),
        (["noise", "--plan", "none"], "plan 'none' does not exist"),
        (["warehouse", "prune", "--keep-days", "-1"], "keep_days = -1: must be 0 or more"),
        (["show", "999"], "run 999 is not in the warehouse"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(command, arguments, sentence):
    status, out, err = command(*arguments)
    assert (status, out) == (1, "")
    assert sentence in err
    assert err.startswith("bigtcp-bench: ")
    assert err.count("\n") == 1


def test_show_tells_the_state_of_the_night(command):
    status, out, _ = command("show")
    assert status == 0
    assert "ipv4-stream-1: suspect" in out
    assert "1 suspect, 2 steady" in out


def test_export_and_import_into_another_warehouse(command, tmp_path, capsys):
    file = tmp_path / "out.zip"
    status, out, _ = command("export", str(file), "--cluster", "lab")
    assert status == 0
    assert f"{NIGHTS + 1} run" in out
    other = f"sqlite:///{tmp_path}/other.db"
    assert main(["import", str(file), "--warehouse", other]) == 1
    assert "bigtcp-bench warehouse migrate" in capsys.readouterr().err
    Warehouse(other).migrate()
    for new in (f"new of that: {NIGHTS + 1} run, 1 incident\n", "new of that: nothing\n"):
        assert main(["import", str(file), "--warehouse", other]) == 0
        imported, said = capsys.readouterr().out.splitlines(keepends=True)
        assert imported.startswith(f"imported {NIGHTS + 1} run")
        assert said == new
    _, expected, _ = command("trend", "nightly_trend", *PERIOD, "--format", "csv")
    assert expected.splitlines()[1].startswith("ipv4-stream-1,2026-03-01")
    assert main(["trend", "nightly_trend", *PERIOD, "--format", "csv", "--warehouse", other]) == 0
    assert capsys.readouterr().out == expected


def test_what_a_command_did_is_an_object_for_programs(command, tmp_path, capsys):
    def done(*arguments: str) -> dict:
        status, out, err = command(*arguments, "--json")
        assert (status, err) == (0, "")
        return json.loads(out)

    file = tmp_path / "out.zip"
    assert done("export", str(file))["written"]["run"] == NIGHTS + 1
    other = f"sqlite:///{tmp_path}/other.db"
    for before in (None, "version"):
        assert main(["warehouse", "migrate", "--warehouse", other, "--json"]) == 0
        migrated = json.loads(capsys.readouterr().out)
        assert migrated["before"] == (before and migrated["after"])
    for new in (NIGHTS + 1, 0):
        assert main(["import", str(file), "--warehouse", other, "--json"]) == 0
        imported = json.loads(capsys.readouterr().out)
        assert (imported["imported"]["run"], imported["new"]["run"]) == (NIGHTS + 1, new)
    assert done("trend") == query_names()
    number = json.loads(command("incident", "list", "--json")[1])[0]["id"]
    known = done("incident", "ack", str(number), "--note", "the driver", "--by", "kim")
    assert (known["incident"], known["acknowledged_by"], known["closed_on"]) == (number, "kim", None)
    assert done("incident", "unack", str(number))["acknowledged_by"] is None
    assert done("report", "--output", str(tmp_path / "run.html"))["run"] == NIGHTS + 1
    assert done("warehouse", "prune", "--keep-days", "3650") == {"deleted": 0}


def test_noise_sizes_a_plan(command):
    status, out, _ = command("noise", "--plan", "quick", "--format", "json")
    (row,) = json.loads(out)
    assert status == 0
    assert (row["scenario"], row["generation_sd"]) == ("ipv4-stream-1", 0.06)
    assert row["detects"] > 0.05
    assert row["generations"] > 2


def test_of_an_incident_the_main_metric_is_listed_first(tmp_path, capsys):
    warehouse = Warehouse(f"sqlite:///{tmp_path}/w.db")
    warehouse.migrate()
    changes = {("ipv4-stream-1", "cpu_s_per_gb_receiver"): 0.3, ("ipv4-stream-1", "throughput_bps"): -0.1}
    revise(warehouse, "2026-03-22", changes)
    assert main(["incident", "list", "--json", "--warehouse", warehouse.url]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["series"] == "ipv4-stream-1 throughput, ipv4-stream-1 CPU receiver"


def test_incidents_are_listed_and_acknowledged_once(command):
    _, out, _ = command("incident", "list", "--format", "json")
    (row,) = json.loads(out)
    assert (row["state"], row["acknowledged_by"]) == ("suspect", None)
    ack = ["incident", "ack", str(row["id"]), "--note", "the driver"]
    assert "acknowledged by kim" in command(*ack, "--by", "kim")[1]
    assert "was acknowledged before, by kim" in command(*ack, "--by", "lee")[1]
    (row,) = json.loads(command("incident", "list", "--json")[1])
    assert re.fullmatch(r"the driver; lee on \d{4}-\d\d-\d\d: the driver", row["note"])


def test_what_a_stranger_has_stored_does_nothing_to_a_terminal(command):
    number = str(json.loads(command("incident", "list", "--json")[1])[0]["id"])
    command("incident", "unack", number)
    hostile = "kim\x1b]0;x\x07\x9b31m\u202e é"
    for _ in range(2):
        _, out, _ = command("incident", "ack", number, "--note", "x", "--by", hostile)
        assert "kim]0;x31m é" in out
        assert out.removesuffix("\n").isprintable()
    _, out, _ = command("incident", "ack", number, "--note", "y", "--json")
    assert out.isascii()
    assert json.loads(out)["acknowledged_by"] == hostile
    command("incident", "unack", number)
    _, _, err = command("trend", hostile)
    assert err.removesuffix("\n").isprintable()


def test_half_a_character_in_a_stored_document_is_no_end_of_the_output(command, stored):
    before = stored.run(1)["reasons"]
    with stored.engine.begin() as connection:
        change = sa.text("UPDATE bigtcp_run SET reasons = :one WHERE id = 1")
        connection.execute(change, {"one": r'["half \ud800", "\u0000"]'})
    _, out, _ = command("show", "1", "--json")
    stored.update_run(1, reasons=before)
    assert out.isascii()
    assert "half \\ud800" in out


def test_an_acknowledgement_is_undone(command):
    number = str(json.loads(command("incident", "list", "--json")[1])[0]["id"])
    command("incident", "ack", number, "--note", "the driver", "--by", "kim")
    assert f"of incident {number} is undone" in command("incident", "unack", number)[1]
    assert json.loads(command("incident", "list", "--json")[1])[0]["acknowledged_by"] is None
    assert command("incident", "unack", number)[1] == f"nobody had acknowledged incident {number}\n"


def test_prune_deletes_documents_and_no_results(command, stored):
    assert "deleted 1 documents" in command("warehouse", "prune", "--keep-days", "0")[1]
    assert "deleted 0 documents" in command("warehouse", "prune", "--keep-days", "0")[1]
    assert len(stored.runs_frame("lab")) == NIGHTS + 1


def series_csv(path: Path, values: list[float | str], header: str = "date,value") -> str:
    first = datetime(2026, 1, 1, tzinfo=UTC)
    lines = [header, *(f"{first + timedelta(days=day):%Y-%m-%d},{value}" for day, value in enumerate(values))]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_judge_prints_a_line_for_every_night_and_a_regression_is_no_error(tmp_path, capsys):
    usual = [100 + (day * 7 % 5) / 10 for day in range(30)]
    file = series_csv(tmp_path / "mine.csv", [*usual, 80, 80, 80, 80, 80])
    assert main(["judge", file, "--json"]) == 0
    nights = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(nights) == 35
    assert set(nights[0]) == {"series", "date", "state", "change_pct", "since"}
    assert [night["state"] for night in nights[:14]] == ["learning"] * 14
    assert nights[-1]["state"] == "regression"
    assert nights[-1]["since"] == "2026-01-31"
    assert nights[-1]["change_pct"] == pytest.approx(-20, abs=1)
    assert main(["judge", file, "--json", "--better", "lower"]) == 0
    assert "regression" not in capsys.readouterr().out
    assert main(["judge", file]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["series", "date", "state", "against", "usual", "since"]
    assert table[1].split()[:3] == ["mine", "2026-02-04", "regression"]
    assert "the newest 14 of 35 nights; --nights says how many" in table
    assert re.fullmatch(
        r"mine: regression since 2026-01-31, −[\d.]+ % against its usual level on 2026-02-04", table[-1]
    )


@pytest.mark.parametrize(("last", "status"), [(80, 3), (100, 0)])
def test_a_series_that_ends_in_a_regression_may_fail(tmp_path, capsys, last, status):
    usual = [100 + (day * 7 % 5) / 10 for day in range(30)]
    file = series_csv(tmp_path / "mine.csv", [*usual, *[last] * 5])
    for more in ([], ["--json"]):
        assert main(["judge", file, *more]) == 0
        assert main(["judge", file, "--fail-on", "regression", *more]) == status


def test_a_table_shows_the_last_nights_first_and_a_program_gets_all(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    _, out, _ = command("trend", "nightly_trend", *PERIOD, "--scenario", "ipv4-stream-1", "--nights", "3")
    assert [line.split()[1] for line in out.splitlines()[1:4]] == ["2026-03-23", "2026-03-22", "2026-03-21"]
    assert f"the newest 3 of {NIGHTS} nights" in out
    _, out, _ = command("trend", "nightly_trend", *PERIOD, "--scenario", "ipv4-stream-1", "--json")
    assert len(json.loads(out)) == 2 * NIGHTS


def test_show_ends_with_what_the_last_upgrade_came_to(tmp_path, capsys):
    warehouse = Warehouse(f"sqlite:///{tmp_path}/nights.db")
    warehouse.migrate()
    for number, version in enumerate(["1.18.3"] * 9 + ["1.18.4"] * 2):
        images = {"cilium": f"quay.io/cilium/cilium:v{version}"}
        add_night(warehouse, number, images=images, cilium_config={}, cilium_version=version)
    shown = ["show", "--warehouse", f"sqlite:///{tmp_path}/nights.db"]
    assert main(shown) == 0
    *_, last = capsys.readouterr().out.split("last upgrade: ")
    assert re.fullmatch(
        r"run 10 against run 9 of 9 Mar( 2026)? \(Cilium 1\.18\.3 → 1\.18\.4\): nothing moved by more than chance",
        " ".join(last.split()),
    )
    assert main([*shown, "4"]) == 0
    assert "last upgrade" not in capsys.readouterr().out


def test_show_as_an_object(command, stored):
    status, out, _ = command("show", "--json")
    found = json.loads(out)
    assert (status, found["run"], found["status"]) == (0, NIGHTS + 1, "valid")
    assert {one["scenario"] for one in found["comparisons"]} == {"ipv4-stream-1", "ipv6-stream-1", "ipv4-rr"}


@pytest.mark.parametrize("asked", [["show"], ["trend", "cpu_cost"], ["noise"], ["incident", "list"]])
def test_a_mistyped_warehouse_is_said_and_not_made(tmp_path, capsys, asked):
    missing = tmp_path / "folder" / "mistyped.db"
    assert main([*asked, "--warehouse", f"sqlite:///{missing}"]) == 1
    assert f"there is no warehouse {missing}; name it with --warehouse" in capsys.readouterr().err
    assert not missing.parent.exists()


@pytest.mark.parametrize("asked", [["warehouse", "migrate"], ["demo-history", "--nights", "1"]])
def test_the_folder_of_a_mistyped_new_warehouse_is_said_and_not_made(tmp_path, capsys, asked):
    missing = tmp_path / "mistyped" / "folder" / "new.db"
    assert main([*asked, "--warehouse", f"sqlite:///{missing}"]) == 1
    captured = capsys.readouterr()
    assert f"the warehouse {missing} cannot be made: there is no folder {missing.parent}" in captured.err
    assert (captured.out, captured.err.count("\n")) == ("", 1)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_that_nobody_types_is_made_for_the_first_warehouse(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("BIGTCP_BENCH_WAREHOUSE", raising=False)
    monkeypatch.chdir(tmp_path)
    assert main(["warehouse", "migrate"]) == 0
    assert "created the tables of " in capsys.readouterr().out
    assert (tmp_path / ".bigtcp" / "warehouse.db").is_file()
    assert main(["warehouse", "migrate", "--folder", "mistyped"]) == 1
    assert "there is no folder" in capsys.readouterr().err
    assert not (tmp_path / "mistyped").exists()


def test_an_export_makes_no_folder(command, tmp_path):
    status, _, err = command("export", str(tmp_path / "mistyped" / "x.zip"))
    assert (status, "there is no folder" in err) == (1, True)
    assert not (tmp_path / "mistyped").exists()


def test_migrate_says_what_it_did(tmp_path, capsys):
    for said in ("created the tables of ", "were up to date already"):
        assert main(["warehouse", "migrate", "--warehouse", f"sqlite:///{tmp_path}/new.db"]) == 0
        assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "header", "sentence"),
    [
        ([1, 2, "three"], "date,value", "line 4, column value: 'three' is not a number"),
        ([1], "date,speed", "line 1: column value is missing"),
    ],
)
def test_a_bad_csv_is_one_sentence_with_line_and_column(tmp_path, capsys, values, header, sentence):
    assert main(["judge", series_csv(tmp_path / "bad.csv", values, header), "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert sentence in captured.err
    assert captured.err.count("\n") == 1


def test_a_reader_who_has_seen_enough_is_no_error(tmp_path):
    file = series_csv(tmp_path / "long.csv", [100.0] * 3000)
    program = Path(sys.executable).with_name("bigtcp-bench")
    done = subprocess.run(
        f"set -o pipefail; {program} judge {file} --json | head -1",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["state"] == "learning"


def test_an_incident_is_closed_by_hand_with_a_note(command):
    number = json.loads(command("incident", "list", "--format", "json")[1])[0]["id"]
    close = ["incident", "close", str(number), "--by", "kim", "--note"]
    assert command(*close, " ")[0] != 0
    status, out, _ = command(*close, "the old NICs stay")
    assert (status, f"incident {number} is closed by kim" in out) == (0, True)
    assert json.loads(command("incident", "list", "--format", "json")[1]) == []
    status, _, err = command(*close, "again")
    assert status != 0
    assert f"incident {number} is closed since" in err
