"""Whatever surrounds the frames of a log, none is lost and nothing crashes."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtcp_bench.in_cluster.output import MARKER
from bigtcp_bench.in_cluster.traffic import KINDS
from bigtcp_bench.planning.metrics import metrics_of
from bigtcp_bench.planning.plan import SCENARIOS
from bigtcp_bench.readings.agent_log import parse_log
from bigtcp_bench.readings.measurements import absences, measurements, problems, proof
from tests.readings.documents import orders, recorded_document, repetition_frame

_noise = st.one_of(
    st.text(max_size=60).map(lambda text: re.sub(r"[\r\n]", "", text)),
    st.sampled_from([MARKER, MARKER + "{", MARKER + '{"v":1', MARKER + "[]", "{}", MARKER + '{"v":1,"kind":7}']),
)
_prefix = st.sampled_from(
    ["", "2026-11-23T00:41:01.123456789Z ", "[2026-11-23, 00:41:01 UTC] {pod_manager.py:471} INFO - [base] "]
)


@st.composite
def _logs(draw: st.DrawFn) -> tuple[str, list[int], int]:
    """Return a log, the numbers of the repetitions in it, and where its last frame ends."""
    numbers = draw(st.lists(st.integers(1, 99), unique=True, max_size=5))
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    lines: list[str] = []
    for number in numbers:
        lines += draw(st.lists(_noise, max_size=3))
        lines.append(draw(_prefix) + repetition_frame({"note": draw(st.text(max_size=20))}, repetition=number))
    last = len(newline.join(lines))
    lines += draw(st.lists(_noise, max_size=3))
    return newline.join(lines), numbers, last


@given(_logs())
def test_noise_and_prefixes_never_cost_a_frame(case: tuple[str, list[int], int]) -> None:
    text, numbers, _ = case
    assert [found.repetition for found in parse_log(text).repetitions] == numbers


@given(_logs(), st.integers(1, 300))
def test_a_truncated_log_loses_only_the_frame_that_was_cut(case: tuple[str, list[int], int], cut: int) -> None:
    text, numbers, last = case
    found = [repetition.repetition for repetition in parse_log(text[: max(0, last - cut)]).repetitions]
    assert found == numbers[: len(found)]
    shortest_frame = len(repetition_frame({}))
    assert len(found) >= len(numbers) - 1 - cut // shortest_frame


@given(st.text())
def test_any_text_at_all_is_read(text: str) -> None:
    parse_log(text)
    parse_log(MARKER + text)


_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def _paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, child in children for path in [(*here, key), *_paths(child, (*here, key))]]


def _rr_document(kind: str) -> dict[str, Any]:
    latency = {"min": 20.1, "mean": 31.2, "p50": 29.0, "p90": 40.5, "p99": 81.0, "p999": 130.2, "max": 400.0}
    counted = {"request_bytes": 1_000, "transactions": 150_000, "seconds": 5.0, "latency_us": latency}
    document = recorded_document("on") | {"rr": counted, "crr": {"allowed": 150_000}}
    if not KINDS[kind].needs_iperf3:
        del document["iperf3"]
    return document


#: A sound document of each kind of traffic, by the scenario that it is of.
_SOUND = {f"ipv4-{next(iter(kind.scenarios))}": _rr_document(name) for name, kind in KINDS.items()} | {
    "ipv4-stream-1": recorded_document("on"),
    "ipv4-rate": recorded_document("on"),
}
_PATHS = [(scenario, path) for scenario, document in _SOUND.items() for path in _paths(document)]


@given(st.sampled_from(_PATHS), _json)
def test_a_document_with_anything_anywhere_is_judged_without_a_crash(
    place: tuple[str, tuple[Any, ...]], value: Any
) -> None:
    scenario, path = place
    document: Any = _copy_along(_SOUND[scenario], path, value)
    (found,) = parse_log(repetition_frame(document, scenario)).repetitions
    told = orders(scenarios=[SCENARIOS[scenario]], request_bytes=1_000)
    assert all(isinstance(problem, str) for problem in problems(found, told))
    assert len(measurements(found)) + len(absences(found)) == len(metrics_of(found.traffic))
    proof(found)


@pytest.mark.parametrize("scenario", _SOUND)
def test_the_documents_that_are_spoilt_here_were_sound(scenario: str) -> None:
    (found,) = parse_log(repetition_frame(_SOUND[scenario], scenario)).repetitions
    told = orders(scenarios=[SCENARIOS[scenario]], request_bytes=1_000)
    assert (problems(found, told), absences(found)) == ([], [])


def _copy_along(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return ``document`` with ``value`` at ``path``, copying only what changes."""
    if not path:
        return value
    changed = document.copy()
    changed[path[0]] = _copy_along(document[path[0]], path[1:], value)
    return changed
