"""What is exported from one warehouse and imported into another is the same, also the second time."""

from __future__ import annotations

import json
import tracemalloc
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.planning.plan import load_plan
from bigtcp_bench.warehouse import incidents, schema
from bigtcp_bench.warehouse.exchange import MAX_LINE_BYTES, export_runs, import_runs
from bigtcp_bench.warehouse.store import Warehouse

FIRST = datetime(2026, 3, 1, 2, 0, 0, 123456, tzinfo=UTC)


def fill(warehouse: Warehouse, cluster: str = "lab") -> None:
    for night in range(2):
        run = warehouse.start_run(
            {
                "cluster": cluster,
                "dag_id": "d",
                "run_id": f"night {night}",
                "started_at": FIRST + timedelta(days=night),
                "plan": load_plan("quick"),
            }
        )
        key = {"block": 1, "generation": 1, "scenario": "ipv4-rr", "repetition": 1}
        row = {"scenario": "ipv4-rr", "metric": "latency_p99_us"}
        warehouse.store_block(run, {"block": 1, "arm": "off", "started_at": FIRST, "switch_report": {"a": [1]}})
        warehouse.store_generation(
            run,
            1,
            1,
            results=[key | {"arm": "off", "metric": "latency_p99_us", "value": 0.1 + night}],
            failures=[key | {"arm": "off", "repetition": 2, "reason": "Grüße"}],
            raw=[key | {"kind": "repetition", "document": b"\x00\x01\xff"}],
        )
        warehouse.store_counters(run, [{"block": 1, "arm": "off", "node": "a", "counter": "drops", "value": 3}])
        series = {"block": 1, "arm": "off", "query": "cpu_s_per_gb", "series": '{"instance": "a"}', "unit": "s/GB"}
        values = {"mean": 0.4, "lowest": 0.3, "highest": 0.5, "samples": 7}
        warehouse.store_prometheus(run, [series | values])
        counted = key | {"arm": "off", "end": "sender", "counter": "drops", "value": 2}
        warehouse.store_pod_counters(run, [counted])
        size = {"block": 1, "arm": "off", "family": "ipv4", "end": "sender", "direction": "sent"}
        warehouse.store_packet_sizes(run, [size | {"upper_bytes": 1_500, "packets": 7, "bytes": 9_000}])
        warehouse.store_comparisons(run, [row | {"verdict": "faster", "change": -0.1, "reasons": ["x"]}])
        cause = {"position": 1, "cause": "steal", "sentence": "it took 9.0%", "strength": 0.4, "node": "a"}
        cause |= {"figures": {"steal_share": 0.09}, "explains": ["receiver-cpu"]}
        warehouse.store_diagnosis(run, [cause])
        warehouse.store_noise(run, [row | {"level": "switch", "sd": 0.01}])
        warehouse.store_judgements(run, [row | {"state": "steady", "since": "2026-03-01"}])
        warehouse.finish_run(run, "valid", finished_at=FIRST + timedelta(days=night, hours=1))
    incident = {
        "uid": f"{cluster}/1",
        "cluster": cluster,
        "state": "regression",
        "changed_on": "2026-03-01",
        "suspected_on": "2026-03-01",
        "members": [row | {"first_seen": "2026-03-01", "last_seen": "2026-03-02", "confirmed": True}],
    }
    (stored,) = incidents.revise(warehouse, cluster, lambda _open: [incident])
    incidents.acknowledge(warehouse, stored.id, by="ann", at=FIRST)


def contents(warehouse: Warehouse) -> dict[str, list[Any]]:
    """Every row of every table, without the numbers that each warehouse gives by itself."""
    tables = {}
    for table in schema.metadata.sorted_tables:
        columns = [column for column in table.c if column.name not in ("id", "run_id", "incident_id")]
        rows = warehouse.read(lambda connection, c=columns: connection.execute(sa.select(*c)).all())  # type: ignore[misc]
        tables[table.name] = sorted((tuple(row) for row in rows), key=repr)
    return tables


def test_there_and_back(warehouse: Warehouse, tmp_path: Path, new_warehouse: Callable[[Path], Warehouse]) -> None:
    fill(warehouse)
    archive = tmp_path / "out" / "runs.zip"
    counts = export_runs(warehouse, archive, raw=True)
    assert counts == {
        "run": 2,
        "block": 2,
        "result": 2,
        "failure": 2,
        "counter": 2,
        "prometheus": 2,
        "pod_counter": 2,
        "packet_size": 2,
        "comparison": 2,
        "diagnosis": 2,
        "noise": 2,
        "judgement": 2,
        "raw": 2,
        "incident": 1,
        "incident_member": 1,
    }
    assert [path.name for path in archive.parent.iterdir()] == ["runs.zip"]

    other = new_warehouse(tmp_path / "other.db")
    other.start_run({"cluster": "another", "dag_id": "d", "run_id": "r"})
    before = contents(other)
    for _ in range(2):
        assert import_runs(other, archive) == counts
    imported = contents(other)
    for name, rows in contents(warehouse).items():
        assert imported[name] == sorted([*rows, *before[name]], key=repr), name

    again = tmp_path / "again.zip"
    export_runs(other, again, cluster="lab", raw=True)
    assert import_runs(warehouse, again) == counts
    assert warehouse.results_frame(2)["value"].tolist() == [1.1]


def test_an_export_can_be_limited(warehouse: Warehouse, tmp_path: Path) -> None:
    fill(warehouse)
    fill(warehouse, "other")
    counts = export_runs(warehouse, tmp_path / "a.zip", cluster="lab", since=FIRST + timedelta(hours=1))
    assert (counts["run"], counts["result"], counts["incident"]) == (1, 1, 1)
    assert "raw" not in counts
    later = export_runs(warehouse, tmp_path / "later.zip", since=FIRST + timedelta(days=1))
    assert (later["run"], later["incident"]) == (2, 0)
    counts = export_runs(warehouse, tmp_path / "b.zip", until=FIRST + timedelta(hours=1))
    assert (counts["run"], counts["incident"]) == (2, 2)


def _changed(source: Path, target: Path, name: str, change: dict[str, Any] | str) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for item in old.namelist():
            text = old.read(item).decode()
            if item == name:
                lines = text.splitlines(True)
                last = change if isinstance(change, str) else json.dumps(json.loads(lines[-1]) | change)
                text = "".join([*lines[:-1], last + "\n"]) if item.endswith(".jsonl") else last
            new.writestr(item, text)


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("result.jsonl", {"value": None}, "result.jsonl from line 2: result of run 2: 0.value = None"),
        ("result.jsonl", '{"run_id": 2, "value": NaN}', "result.jsonl from line 2"),
        ("result.jsonl", "not JSON", "result.jsonl line 2: is not a JSON object with 'run_id'"),
        ("comparison.jsonl", {"run_id": 77}, "run_id = 77: there is no such row in the file"),
        ("run.jsonl", {"status": "great"}, "run.jsonl from line 2: run: status = 'great'"),
        ("raw.jsonl", {"document": "%"}, "raw.jsonl from line 2: document is not base64"),
        (
            "manifest.json",
            '{"format": "bigtcp-bench", "version": 99}',
            "has layout version 99; allowed are 1 to 2",
        ),
        ("manifest.json", "[]", "is not a file that `bigtcp-bench export` wrote"),
    ],
)
def test_a_damaged_file_gets_a_sentence(
    tmp_path: Path,
    name: str,
    change: dict[str, Any] | str,
    sentence: str,
    new_warehouse: Callable[[Path], Warehouse],
) -> None:
    warehouse = new_warehouse(tmp_path / "w.db")
    fill(warehouse)
    export_runs(warehouse, tmp_path / "good.zip", raw=True)
    _changed(tmp_path / "good.zip", tmp_path / "bad.zip", name, change)
    with pytest.raises(InvalidInput) as refusal:
        import_runs(warehouse, tmp_path / "bad.zip")
    assert sentence in str(refusal.value)
    assert "bad.zip" in str(refusal.value)


def test_a_file_that_is_no_archive_gets_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("hello")
    warehouse = Warehouse(f"sqlite:///{tmp_path}/w.db")
    for name, sentence in (
        ("a.zip", "is not a file that"),
        ("missing.zip", "cannot be read: No such file or dir"),
    ):
        with pytest.raises(InvalidInput, match=f"{name} {sentence}"):
            import_runs(warehouse, tmp_path / name)


RUN = {"id": 1, "cluster": "c", "dag_id": "d", "run_id": "r", "started_at": "2026-01-01T00:00:00+00:00"}
RESULT = {"run_id": 1, "block": 1, "arm": "off", "generation": 1, "scenario": "s", "repetition": 1}
DEEP = "[" * 100_000 + "]" * 100_000


def archive_of(path: Path, **entries: bytes | str) -> Path:
    """Write a file as `export` lays it out; ``entries`` are tables and their lines."""
    manifest = json.dumps({"format": "bigtcp-bench", "version": 1})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", entries.pop("manifest", manifest))
        for name, lines in entries.items():
            archive.writestr(f"{name}.jsonl", lines)
    return path


def with_plan(plan: str) -> str:
    return f'{json.dumps(RUN)[:-1]}, "plan": {plan}}}'


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"manifest": DEEP}, "is not a file that `bigtcp-bench export` wrote"),
        ({"run": with_plan(DEEP)}, "run.jsonl line 1: is nested too deep"),
        ({"run": with_plan("[" * 99 + "]" * 99)}, "run.jsonl from line 1: run: plan = .*deeper than 64"),
        ({"run": with_plan("1e999")}, "run.jsonl from line 1: run: plan = inf: must be JSON without NaN"),
        ({"run": json.dumps(RUN).encode("utf-16")}, "run.jsonl line 1: is not UTF-8"),
        ({"run": json.dumps({**RUN, "note": "Grüße"}, ensure_ascii=False).encode("latin-1")}, "is not UTF-8"),
        (
            {"run": json.dumps(RUN).replace("1", "1e999", 1)},
            "line 1: is not a JSON object with 'id', a whole number",
        ),
        ({"run": json.dumps({**RUN, "id": True})}, "line 1: is not a JSON object with 'id', a whole number"),
        ({"run": json.dumps({**RUN, "id": "x" * 100})}, "line 1: is not a JSON object with 'id', a whole number"),
        ({"run": json.dumps({**RUN, "mtu": 2**31})}, "run: mtu = 2147483648: Input should be less than"),
        ({"run": json.dumps({**RUN, "mtu": "9" * 5000})}, "run: mtu = "),
        (
            {"run": json.dumps({**RUN, "started_at": "0001-01-01T00:00:00+23:59"})},
            "run: started_at = .*1970 to 9998",
        ),
        ({"run": f"{json.dumps(RUN)}\n", "result": json.dumps({**RESULT, "value": 10**400})}, "result of run 1"),
        (
            {"run": lambda: json.dumps({**RUN, "note": "x" * MAX_LINE_BYTES})},
            "line 1: has more than the 8388608 bytes",
        ),
        ({"run": lambda: b" " * (100 << 20)}, "bytes and would unpack to [0-9]+; allowed is 200 times that"),
    ],
)
def test_a_file_made_to_do_harm_gets_a_sentence(
    tmp_path: Path,
    entries: dict[str, bytes | str | Callable[[], bytes | str]],
    sentence: str,
    new_warehouse: Callable[[Path], Warehouse],
) -> None:
    warehouse = new_warehouse(tmp_path / "w.db")
    made = {name: lines() if callable(lines) else lines for name, lines in entries.items()}
    archive = archive_of(tmp_path / "bad.zip", **made)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput, match=sentence) as refusal:
            import_runs(warehouse, archive)
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "bad.zip" in str(refusal.value)
    assert len(str(refusal.value)) < 400
    assert peak < 100 << 20


def test_few_rows_are_in_memory_at_a_time(warehouse: Warehouse, tmp_path: Path) -> None:
    """A run of many rows comes in portions; of a table that is replaced as a whole, more than one is refused."""
    counter = {"run_id": 1, "block": 1, "arm": "off", "node": "n"}
    lines = "".join(json.dumps({**counter, "counter": f"c{n}", "value": n}) + "\n" for n in range(5_001))
    archive = archive_of(tmp_path / "a.zip", run=json.dumps(RUN), counter=lines)
    assert import_runs(warehouse, archive)["counter"] == 5_001
    assert len(warehouse.counters_frame(1)) == 5_001
    cause = {"run_id": 1, "cause": "steal", "sentence": "s", "strength": 0.4, "figures": {}}
    lines = "".join(json.dumps({**cause, "position": n}) + "\n" for n in range(1, 5_002))
    with pytest.raises(InvalidInput, match=r"diagnosis.jsonl from line 5001: one run may have 5000 rows"):
        import_runs(warehouse, archive_of(tmp_path / "b.zip", run=json.dumps(RUN), diagnosis=lines))


def test_damaged_and_strangely_packed_files_get_a_sentence(
    tmp_path: Path, new_warehouse: Callable[[Path], Warehouse]
) -> None:
    warehouse = new_warehouse(tmp_path / "w.db")
    text = json.dumps(RUN) + "\n"
    good = archive_of(tmp_path / "good.zip", run=text, result=text * 100).read_bytes()
    middle = good.index(b"run.jsonl") + 40
    (tmp_path / "bad.zip").write_bytes(good[:middle] + b"\xff\xff" + good[middle + 2 :])
    encrypted = bytearray(good)
    at = encrypted.index(b"PK\x01\x02", encrypted.index(b"PK\x01\x02") + 1)
    encrypted[at + 8] |= 1
    (tmp_path / "encrypted.zip").write_bytes(encrypted)
    for name in ("bad.zip", "encrypted.zip"):
        with pytest.raises(InvalidInput, match=rf"{name}: run.jsonl cannot be unpacked after line 0"):
            import_runs(warehouse, tmp_path / name)


def test_texts_that_no_database_holds_are_made_harmless(warehouse: Warehouse, tmp_path: Path) -> None:
    text = "a\x00b\ud800c\\u0000"
    row = {**RUN, "note": text, "plan": {text: [text]}, "reasons": [text]}
    import_runs(warehouse, archive_of(tmp_path / "a.zip", run=json.dumps(row)))
    harmless = "a\ufffdb\ufffdc\\u0000"
    stored = warehouse.run(1)
    assert (stored["note"], stored["plan"], stored["reasons"]) == (harmless, {harmless: [harmless]}, [harmless])


def test_a_file_does_not_say_where_to_write_in_slack(
    warehouse: Warehouse, tmp_path: Path, new_warehouse: Callable[[Path], Warehouse]
) -> None:
    fill(warehouse)
    export_runs(warehouse, tmp_path / "a.zip")
    place = {"slack_channel": "C_OTHER", "slack_ts": "1.1"}
    _changed(tmp_path / "a.zip", tmp_path / "b.zip", "incident.jsonl", place)
    _changed(tmp_path / "b.zip", tmp_path / "c.zip", "run.jsonl", place)
    other = new_warehouse(tmp_path / "other.db")
    import_runs(other, tmp_path / "c.zip")
    (one,) = incidents.open_incidents(other)
    assert (one.slack_channel, one.slack_ts, other.run(2)["slack_channel"]) == (None, None, None)
    # Nor does a file that comes home take away where the thread is.
    mine = {"slack_channel": "C_MINE", "slack_ts": "2.2"}
    other.write(lambda connection: connection.execute(sa.update(schema.incident).values(mine)))
    import_runs(other, tmp_path / "c.zip")
    (one,) = incidents.open_incidents(other)
    assert (one.slack_channel, one.slack_ts) == ("C_MINE", "2.2")
