"""A night that others have followed is told as it was then."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from bigtcp_bench.notify import past
from bigtcp_bench.notify.message import message_of
from bigtcp_bench.notify.news import drafts_of_run
from bigtcp_bench.notify.slack.blocks import rendered
from bigtcp_bench.notify.slack.settings import ClusterSettings
from bigtcp_bench.report.history import HistoryView, SeriesView
from bigtcp_bench.warehouse import incidents
from tests.support.incidents import night_view, revise

SERIES = ("ipv4-stream-1", "throughput_bps")


@pytest.fixture
def over(warehouse):
    """Return an incident that began on the 20th, was confirmed on the 22nd and recovered on the 28th."""
    revise(warehouse, "2026-03-27")
    return revise(warehouse, "2026-03-27", state="recovered", closed_on="2026-03-28")


def told(warehouse, number: int, change: float = -0.1, state: str = "regression", **settings) -> str:
    """Return what night ``number`` (0 is 2026-03-01) tells after the last one was judged."""
    view = night_view(warehouse, number, {SERIES: change})
    if state != "regression":
        view = replace(view, history=HistoryView(series=(SeriesView(*SERIES, state, change),)))
    last = night_view(warehouse, 30)
    warehouse.store_judgements(
        last.number,
        [{"scenario": SERIES[0], "metric": SERIES[1], "state": "steady", "details": {}}],
    )
    drafts = drafts_of_run(warehouse, view, ClusterSettings(**settings))
    return "\n".join(rendered(message_of(draft.payload), "").text for draft in drafts)


def test_the_night_of_the_suspicion_tells_no_regression(warehouse, over):
    assert told(warehouse, 19, state="suspect") == ""


def test_a_suspicion_is_told_where_it_is_wanted(warehouse, over):
    text = told(warehouse, 19, state="suspect", min_severity="suspect")
    assert "On the night 2026-03-20" in text
    assert "confirmed" not in text


def test_the_night_of_the_confirmation_tells_it_with_its_own_figures(warehouse, over):
    text = told(warehouse, 21, change=-0.11)
    assert "throughput −11.0 %" in text
    assert "confirmed on 2026-03-22" in text
    assert "ecovered" not in text


def test_a_night_between_says_that_it_is_still_there(warehouse, over):
    assert told(warehouse, 24).startswith("Still there, day 6: ipv4-stream-1 throughput −10.0 %.")


def test_the_last_night_tells_its_end(warehouse, over):
    assert "Recovered on 2026-03-28" in told(warehouse, 27, state="recovered")


def test_nights_before_and_after_it_know_nothing_of_it(warehouse, over):
    assert told(warehouse, 18, state="steady") == ""
    assert told(warehouse, 28, state="steady") == ""


def test_who_knew_of_it_later_did_not_know_then(warehouse):
    one = revise(warehouse, "2026-03-27")
    incidents.acknowledge(warehouse, one.id, by="kim", note="x", at=datetime(2026, 3, 25, 12, tzinfo=UTC))
    known = incidents.get(warehouse, one.id)
    for day, by in ((24, None), (26, "kim")):
        view = replace(night_view(warehouse, day - 1), finished=datetime(2026, 3, day, 4, tzinfo=UTC))
        then = past.as_of(known, view, f"2026-03-{day}")
        assert (then.acknowledged_by, then.acknowledged) == (by, by is not None)
        last = past.told_before(then, f"2026-03-{day}", "failure")
        assert last is not None
        assert last["acknowledged"] == then.acknowledged
