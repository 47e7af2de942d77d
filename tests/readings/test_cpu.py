"""Shares of CPU time, from recorded and made-up first lines of /proc/stat."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtcp_bench.readings.cpu import CPU_KINDS, busy_share, cpu_load, cpu_parts, cpu_ticks

RECORDED = Path(__file__).parent.parent / "recorded"


def line(**ticks: int) -> str:
    return "cpu  " + " ".join(str(ticks.get(kind, 1000)) for kind in CPU_KINDS) + " 0 0\ncpu0 1\n"


def recorded(moment: str) -> str:
    text = (RECORDED / f"proc-client-{moment}-on.txt").read_text(encoding="utf-8")
    return text.partition("== /proc/stat\n")[2].partition("== ")[0]


def test_a_recorded_stream_kept_its_node_busy() -> None:
    assert cpu_ticks(recorded("before")) is not None
    share = busy_share(recorded("before"), recorded("after"))
    assert share is not None
    assert 0.2 < share < 1


@pytest.mark.parametrize(
    ("after", "share"),
    [
        ({"user": 1025, "idle": 1075}, 0.25),
        ({"softirq": 1010, "iowait": 1090}, 0.1),
        ({"steal": 1050, "system": 1010, "idle": 1040}, 0.1),
        ({"idle": 999, "user": 1101}, 1.01),
    ],
)
def test_what_counts_as_busy(after: dict[str, int], share: float) -> None:
    assert busy_share(line(), line(**after)) == pytest.approx(share)


@pytest.mark.parametrize("after", ["", "cpu 1 2 3\n", "intr 1\n", line(), line(user=900, idle=2000)])
def test_what_cannot_be_told(after: str) -> None:
    assert busy_share(line(), after) is None
    assert busy_share(None, after) is None


@given(st.text())
def test_any_text_is_a_line_or_none(text: str) -> None:
    assert cpu_ticks(text) is None or text.startswith("cpu")


def reading(monotonic_s: float, **ticks: int) -> dict[str, object]:
    return {"monotonic_s": monotonic_s, "user_hz": 100, "proc_stat": line(**ticks)}


def test_a_load_is_told_in_cpus_and_by_what_they_did() -> None:
    later = reading(12.0, user=1020, nice=1010, system=1040, softirq=1006, irq=1002, steal=1002, idle=1400)
    load = cpu_load(reading(10.0), later)
    assert load == pytest.approx({"user": 0.15, "system": 0.2, "softirq": 0.03, "busy": 0.4})


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (None, reading(1.0)),
        (reading(1.0), None),
        (reading(2.0), reading(2.0)),
        (reading(1.0), reading(2.0, user=999)),
        (reading(1.0), {**reading(2.0), "proc_stat": "nothing"}),
        (reading(1.0), {**reading(2.0), "proc_stat": None}),
    ],
)
def test_a_load_that_cannot_be_told_is_none(earlier: dict | None, later: dict | None) -> None:
    assert cpu_load(earlier, later) is None


@given(st.fixed_dictionaries(dict.fromkeys(CPU_KINDS, st.integers(0, 10**9))))
def test_the_parts_are_no_more_than_the_whole(seconds: dict[str, int]) -> None:
    parts = cpu_parts(seconds)
    rest = seconds["irq"] + seconds["steal"]
    assert parts["user"] + parts["system"] + parts["softirq"] + rest == parts["busy"]
