"""What is exported from one warehouse and imported into another is the same, also the second time."""

from __future__ import annotations

import json
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.planning.plan import load_plan
from bigtcp_bench.warehouse import incidents, schema
from bigtcp_bench.warehouse.exchange import export_runs, import_runs
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


def test_there_and_back(warehouse: Warehouse, tmp_path: Path) -> None:
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

    other = Warehouse(f"sqlite:///{tmp_path}/other.db")
    other.migrate()
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
    tmp_path: Path, name: str, change: dict[str, Any] | str, sentence: str
) -> None:
    warehouse = Warehouse(f"sqlite:///{tmp_path}/w.db")
    warehouse.migrate()
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
    for name in ("a.zip", "missing.zip"):
        with pytest.raises(InvalidInput, match=f"{name} is not a file that"):
            import_runs(warehouse, tmp_path / name)
