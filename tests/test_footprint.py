"""What benchmarks/footprint.py counts, and where it writes it; the measuring itself is for a quiet machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from benchmarks import footprint

ROOT = Path(__file__).parent.parent


def test_figures_take_the_place_of_those_before_and_of_nothing_else(tmp_path, monkeypatch):
    document = tmp_path / "performance.md"
    before = (ROOT / footprint.DOCUMENT).read_text()
    document.write_text(before)
    monkeypatch.setattr(footprint, "DOCUMENT", document)
    for part in footprint.PARTS:
        footprint._write(part, f"figures of {part}\n")
        footprint._write(part, f"newer figures of {part}\n")
    after = document.read_text()
    for part in footprint.PARTS:
        assert f"<!-- {part} -->\nnewer figures of {part}\n<!-- /{part} -->" in after
    headings = [line for line in before.splitlines() if line.startswith("#")]
    assert [line for line in after.splitlines() if line.startswith("#")] == headings
    document.write_text("nothing")
    with pytest.raises(SystemExit, match="has no marks for size"):
        footprint._write("size", "x")


def test_packages_are_counted_with_their_extras():
    ours, with_lab = footprint._closure(("bigtcp-bench",)), footprint._closure(("bigtcp-lab",))
    plain = footprint._closure(footprint.PLAIN)
    assert {"apache-airflow-core", "kubernetes"} <= plain <= ours
    assert {"pandas", "scipy", "vl-convert-python"} <= ours - plain
    assert {"pyroute2", "jsonpatch"} & (with_lab - ours)
    assert with_lab >= ours


def test_memory_is_that_of_a_whole_session():
    rss, pss = footprint._megabytes(os.getsid(0))
    assert rss >= pss > 10
