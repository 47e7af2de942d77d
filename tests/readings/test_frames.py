"""The door of a pod's log: a damaged, foreign or hostile frame costs one repetition and no memory."""

from __future__ import annotations

import base64
import copy
import itertools
import json
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtcp_bench.in_cluster.output import MARKER, print_frame
from bigtcp_bench.planning.plan import SCENARIOS
from bigtcp_bench.readings import frames
from bigtcp_bench.readings.agent_log import MAX_NAMED, AgentLog, parse_log
from bigtcp_bench.readings.measurements import measurements, problems

from .documents import frame, orders, recorded_document, repetition_frame

SOUND = repetition_frame(recorded_document("on"))
#: A timestamp within the document, as kubelets before November 2022 put it into long lines that are followed.
STAMPED = f"{SOUND[:4096]}2026-01-31T02:00:00.123456789Z {SOUND[4096:]}"


def raw_frame(data: bytes, **fields: Any) -> str:
    """Return a repetition's frame whose document is ``data``, whatever that is."""
    content = json.loads(SOUND.removeprefix(MARKER)) | fields
    content["doc"] = base64.b64encode(zlib.compress(data, 9)).decode()
    return MARKER + json.dumps(content)


@pytest.mark.parametrize("copies", list(itertools.permutations([SOUND, STAMPED, STAMPED.replace("123", "124")])))
def test_the_sound_copy_counts_whatever_the_order(copies: tuple[str, ...]) -> None:
    (found,) = parse_log("\n".join(copies), orders()).repetitions
    assert found.error is None
    assert problems(found, orders()) == []
    assert frames.unpacked(found.stored) == recorded_document("on")


def test_two_damaged_copies_are_one_failed_repetition() -> None:
    (found,) = parse_log(f"{STAMPED}\n{STAMPED}", orders()).repetitions
    assert "its document is damaged (its document cannot be unpacked" in problems(found, orders())[0]


def test_a_frame_is_unpacked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked = frames.unpacked
    calls: list[int] = []
    monkeypatch.setattr(frames, "unpacked", lambda *given: calls.append(1) or unpacked(*given))
    log = AgentLog(orders())
    assert len(list(log.read(SOUND))) == 1
    assert list(log.read(f"{SOUND}\n{STAMPED}\n{SOUND}")) == []
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("scenario", "ipv6-rr", "is of scenario 'ipv6-rr', which was not ordered"),
        ("scenario", "ipv4-2026-01-31T02:00:00Z stream-1", "which was not ordered"),
        ("scenario", ["ipv4-stream-1"], "which was not ordered"),
        ("block", 2, "is of block 2, where 1 was ordered"),
        ("arm", "off", "is of arm 'off', where 'on' was ordered"),
        ("generation", 3, "is of generation 3, where 1 was ordered"),
        ("run_key", "another", "is of run_key 'another', where 'dag/run' was ordered"),
        ("repetition", 2, "is of repetition 2, where 1 were ordered"),
        ("repetition", 0, "is of repetition 0, where 1 were ordered"),
        ("traffic", "rr", "is of traffic 'rr', where 'stream' was ordered"),
        ("family", "ipv6", "is of family 'ipv6', where 'ipv4' was ordered"),
        ("streams", 8, "is of streams 8, where 1 was ordered"),
    ],
)
def test_a_frame_of_what_was_not_ordered_is_refused(field: str, value: Any, sentence: str) -> None:
    content = json.loads(SOUND.removeprefix(MARKER)) | {field: value}
    log = parse_log(MARKER + json.dumps(content), orders())
    assert log.repetitions == []
    (damaged,) = log.damaged
    assert damaged.startswith("log line 1, frame 'repetition': ")
    assert sentence in damaged
    assert log.missing(orders()) == [("ipv4-stream-1", 1)]


def test_frames_of_the_same_pod_must_be_of_its_block_too() -> None:
    done = {"run_key": "dag/run", "generation": 1, "repetitions": 1, "failed": 0, "elapsed_s": 1.0, "arm": "on"}
    assert parse_log(frame("done", block=1, **done), orders()).done is not None
    log = parse_log(frame("done", block=2, **done), orders())
    assert log.done is None
    assert log.damaged == ["log line 1, frame 'done': is of block 2, where 1 was ordered"]


def test_a_receiver_that_got_more_than_was_sent_is_a_failed_repetition() -> None:
    document = copy.deepcopy(recorded_document("on"))
    received = document["iperf3"]["end"]["sum_received"]
    for name in ("bytes", "bits_per_second"):
        wrong = copy.deepcopy(document)
        wrong["iperf3"]["end"]["sum_received"][name] = 2 * received[name]
        (found,) = parse_log(repetition_frame(wrong)).repetitions
        (problem,) = problems(found, orders())
        assert "so one of the two ends has counted wrongly" in problem
    received["bytes"] = int(1.1 * document["iperf3"]["end"]["sum_sent"]["bytes"])
    (found,) = parse_log(repetition_frame(document)).repetitions
    assert problems(found, orders()) == [], "what was on its way when the seconds began is received as well"


#: Made by the test alone: each worker collects them all.
HOSTILE: dict[str, Callable[[], bytes]] = {
    "a number of 5,000 digits": lambda: b'{"x": ' + b"9" * 5_000 + b"}",
    "a number of 30 digits": lambda: b'{"client": {"before": ' + b"9" * 30 + b"}}",
    "half a character": lambda: b'{"x": ["\\ud800"]}',
    "half a character as a name": lambda: b'{"\\ud800": 1}',
    "a zero character": lambda: b'{"x": "\\u0000"}',
    "no UTF-8": lambda: b'{"x": "\xff\xfe"}',
    "no number": lambda: b'{"x": NaN}',
    "infinity": lambda: b'{"x": 1e999}',
    "100 levels": lambda: b'{"x": ' + b"[" * 100 + b"]" * 100 + b"}",
    "200,000 levels": lambda: b'{"x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "millions of empty lists": lambda: b'{"x": [' + b"[]," * 2_000_000 + b"0]}",
    "100 MB of blanks": lambda: b" " * 100_000_000 + b"{}",
    "no object": lambda: b"[]",
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_document_costs_one_repetition(data: Callable[[], bytes]) -> None:
    wanted = orders(repetitions=2)
    text = f"{raw_frame(data())}\n{repetition_frame(recorded_document('on'), repetition=2)}"
    bad, good = parse_log(text, wanted).repetitions
    (problem,) = problems(bad, wanted)
    assert "its document" in problem
    problem.encode()
    assert len(problem) < 1_000
    assert problems(good, wanted) == []
    assert measurements(bad) == []


@pytest.mark.parametrize("error", ["\ud800", "x" * 1_000_000, "\0", 10**30], ids=["half", "long", "zero", "huge"])
def test_a_hostile_field_of_a_frame_costs_one_repetition(error: Any) -> None:
    wanted = orders(repetitions=2)
    text = f"{raw_frame(b'{}', error=error)}\n{repetition_frame(recorded_document('on'), repetition=2)}"
    log = parse_log(text, wanted)
    assert problems(log.repetitions[-1], wanted) == []
    for one in log.repetitions[:-1]:
        (problem,) = problems(one, wanted)
        problem.encode()
        assert len(problem) < 1_000
    for sentence in log.damaged:
        sentence.encode()
        assert len(sentence) <= frames.MAX_SENTENCE


def test_a_log_of_a_million_damaged_frames_names_some_of_them() -> None:
    assert len(parse_log(MARKER * 100_000).damaged) == MAX_NAMED


@pytest.mark.parametrize("begun", ["{", '{"'])
def test_a_line_of_frames_that_only_begin_is_decoded_once(monkeypatch: pytest.MonkeyPatch, begun: str) -> None:
    decode, given = json.JSONDecoder.raw_decode, []
    monkeypatch.setattr(json.JSONDecoder, "raw_decode", lambda *of: given.append(len(of[1])) or decode(*of))
    line = (MARKER + begun) * 1_000
    assert len([one for one in frames.frames_in(line) if isinstance(one, str)]) == 1_000
    assert sum(given) <= len(line)


def test_a_marker_in_what_a_frame_says_begins_no_other(capfd: pytest.CaptureFixture[str]) -> None:
    said = f"iperf3: @{MARKER}{{}} \\{MARKER}"
    print_frame("done", {"error": said})
    (frame,) = frames.frames_in(capfd.readouterr().out)
    assert isinstance(frame, dict)
    assert frame["error"] == said


_BOMBS = """
import base64, json, resource, sys, zlib
from bigtcp_bench.readings.agent_log import AgentLog
from tests.readings.documents import orders, repetition_frame
from bigtcp_bench.in_cluster.output import MARKER
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
packer = zlib.compressobj(9)
first, again = (packer.compress(b' ' * 1_000_000) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
# Each piece says the same of the next megabyte; the checksum is of two of them, and nobody comes so far.
data = first + again * 399 + packer.flush()
log = AgentLog(orders(repetitions=20))
content = json.loads(repetition_frame({}).removeprefix(MARKER))
found = []
for number in range(1, 11):
    content |= {"repetition": number, "doc": base64.b64encode(data).decode()}
    found += log.read(MARKER + json.dumps(content))
    found += log.read(MARKER + json.dumps(content))
print(len(found), all(one.error for one in found), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_four_gigabytes_of_inflated_frames_take_no_memory() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", _BOMBS], cwd=root, capture_output=True, text=True, check=True)
    count, failed, grown_kb = done.stdout.split()
    assert (count, failed) == ("10", "True")
    assert int(grown_kb) < 100_000


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**25), 10**25) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)
_parts = st.sampled_from(["client", "server", "iperf3", "rr", "before", "after", "devices", "end", "streams"])


@given(
    st.dictionaries(_parts, st.dictionaries(_parts, _json, max_size=3) | _json, max_size=4),
    st.sampled_from(sorted(SCENARIOS)),
)
def test_whatever_a_document_says_it_is_measured_or_failed(document: dict[str, Any], scenario: str) -> None:
    wanted = orders(scenarios=[SCENARIOS[scenario]])
    log = parse_log(repetition_frame(document, scenario), wanted)
    for one in log.repetitions:
        if not problems(one, wanted):
            assert all(abs(found.value) < float("inf") for found in measurements(one))
    assert len(log.repetitions) + len(log.damaged) == 1
