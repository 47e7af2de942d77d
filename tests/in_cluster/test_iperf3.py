"""What becomes of an iperf3 that fails."""

from __future__ import annotations

import os
import re
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from bigtcp_bench.in_cluster import iperf3
from bigtcp_bench.in_cluster.output import Failed


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', {"a": 1}),
        ('warning: JSON data length overflow\n{"a": 1}\n', {"a": 1}),
        ('{"a": 1}\n{"a": 1}\n', {"a": 1}),
        ('{"a": ', None),
        ("", None),
        ("Segmentation fault", None),
    ],
)
def test_the_first_json_object_counts(text: str, found: Any) -> None:
    assert iperf3._first_json(text) == found


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("echo broken; exit 3", "iperf3 (exit code 3) printed no JSON but: broken"),
        ("kill -SEGV $$", "iperf3 (exit code -11) printed no JSON but: (nothing)"),
        ("""echo '{"error": "the server is busy"}'""", "iperf3: the server is busy"),
        ("""echo '{"end": {}}'; echo oops >&2; exit 1""", "iperf3 ended with exit code 1: oops"),
        ("""trap '' TERM; exec sleep 30""", "iperf3 did not end within 2 s and was stopped"),
    ],
)
def test_an_iperf3_that_fails_is_a_failed_repetition(
    script: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "iperf3"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(iperf3, "GRACE_S", 1)
    orders = {"iperf_port": 5201, "duration_s": 1, "omit_s": 0, "rate_bps": 1, "request_bytes": 1}
    scenario = {"name": "ipv4-stream-1", "family": "ipv4", "traffic": "stream", "streams": 1}
    started = time.monotonic()
    with pytest.raises(Failed) as failure:
        iperf3.Client("127.0.0.1", orders, scenario).finish()
    assert str(failure.value) == sentence
    assert failure.value.seen["command"][:3] == ["iperf3", "-c", "127.0.0.1"]
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"end": {"streams": [], "sum": {"lost_percent": -nan}}}', "a bare -nan (lost_percent)"),
        ('{"a": {"x\\"y": inf, "b": nan}}', 'a bare inf (x\\"y)'),
        ('{"a": "-nan"}', None),
        ('{"a": -nan', None),
        ("-nan", None),
        ("", None),
    ],
)
def test_output_that_is_json_but_for_no_number_is_called_that(text: str, expected: str | None) -> None:
    assert iperf3._not_a_number(text) == expected


def test_an_iperf3_that_divides_by_nothing_is_told_from_one_that_prints_no_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "iperf3"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    orders = {"iperf_port": 5201, "duration_s": 1, "omit_s": 0}
    scenario = {"family": "ipv4", "traffic": "stream", "streams": 1}
    for printed, sentence in (
        ('{"end": {"sum": {"lost_percent": -nan}}}', "printed what is JSON but for a bare -nan (lost_percent)"),
        ("Segmentation fault", "printed no JSON but: Segmentation fault"),
    ):
        tool.write_text(f"#!/bin/sh\necho '{printed}'\n")
        tool.chmod(0o755)
        with pytest.raises(Failed, match=re.escape(f"iperf3 (exit code 0) {sentence}")):
            iperf3.Client("127.0.0.1", orders, scenario).finish()
