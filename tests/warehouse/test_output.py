"""A frame in each format says the same."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.warehouse.output import write_frame

FRAME = pd.DataFrame(
    {
        "scenario": ["ipv4-rr", "ipv6-rr"],
        "started_at": pd.to_datetime(["2026-03-01 02:00", "2026-03-02 02:00"], utc=True),
        "value": [12_345_678.9, float("nan")],
        "change": [0.123456, -0.5],
        "note": ["two\nlines", None],
    }
)


def test_csv_and_json(tmp_path: Path) -> None:
    write_frame(FRAME, "csv", tmp_path / "a.csv")
    again = pd.read_csv(tmp_path / "a.csv", parse_dates=["started_at"])
    assert again["change"].tolist() == FRAME["change"].tolist()
    assert (again["started_at"] == FRAME["started_at"]).all()
    write_frame(FRAME, "json", tmp_path / "a.json")
    rows = json.loads((tmp_path / "a.json").read_text())
    assert rows[0]["started_at"].startswith("2026-03-01T02:00:00")
    assert (rows[0]["change"], rows[1]["value"], rows[1]["note"]) == (0.123456, None, None)
    assert rows[0]["value"] == 12_345_700


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_frame(FRAME, "parquet", tmp_path / "a.parquet")
    assert pd.read_parquet(tmp_path / "a.parquet")["started_at"].equals(FRAME["started_at"])
    with pytest.raises(InvalidInput, match="needs the path of a file"):
        write_frame(FRAME, "parquet")
    for package in ("pyarrow", "fastparquet"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InvalidInput, match=r"bigtcp-bench\[parquet\]"):
        write_frame(FRAME, "parquet", tmp_path / "b.parquet")
