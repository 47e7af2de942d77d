"""A night that others have followed is told as it was then."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from bigtcp_bench.notify import past
from bigtcp_bench.notify.message import message_of
from bigtcp_bench.notify.news import drafts_of_run
from bigtcp_bench.notify.slack.blocks import rendered
from bigtcp_bench.notify.slack.settings import ClusterSettings
from bigtcp_bench.report.history import HistoryView, SeriesView
from bigtcp_bench.warehouse import incidents
from tests.report.views import run_view
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


def test_what_a_night_says_of_the_night_before_is_what_that_knew(warehouse):
    for night, change in ((23, -0.1), (24, -0.2), (25, -0.2), (26, -0.08)):
        view = night_view(warehouse, night, {SERIES: change})
        judged = {
            "scenario": SERIES[0],
            "metric": SERIES[1],
            "state": "regression",
            "change": change,
            "details": {},
        }
        warehouse.store_judgements(view.number, [judged])
    # As the last of these nights has left it.
    one = revise(warehouse, "2026-03-27", {SERIES: -0.08})
    assert "−10.0 % → −20.0 %" in told_again(warehouse, 24, -0.2)
    assert told_again(warehouse, 25, -0.2).startswith("Still there, day 7")
    eased = told_again(warehouse, 26, -0.08, event="eased")
    assert eased.startswith("*Better, but not as usual again*: ipv4-stream-1 throughput −20.0 % → −8.0 %.")
    incidents.acknowledge(warehouse, one.id, by="kim", note="x", at=datetime(2026, 3, 25, 12, tzinfo=UTC))
    assert told_again(warehouse, 25, -0.2).startswith(":thumbsup: Acknowledged by kim")
    assert told_again(warehouse, 26, -0.08) == ""


def test_what_a_person_ended_is_told_by_the_night_after(warehouse):
    one = revise(warehouse, "2026-03-26")
    for night in (24, 25, 26, 27):
        view = night_view(warehouse, night)
        judged = {"scenario": SERIES[0], "metric": SERIES[1], "state": "regression", "change": -0.1, "details": {}}
        warehouse.store_judgements(view.number, [judged])
    incidents.close(warehouse, one.id, by="kim", note="test rig", on=date(2026, 3, 26))
    assert told_again(warehouse, 25).startswith("Still there")
    assert "Closed on 2026-03-26 by kim: test rig" in told_again(warehouse, 26)
    assert told_again(warehouse, 27) == ""


def test_what_was_found_out_later_to_be_to_blame_is_not_said_of_a_suspicion(warehouse, over):
    assert over.attribution == "big-tcp"
    assert "arm on relative to arm off" not in told(warehouse, 19, state="suspect", min_severity="suspect")


def told_again(warehouse, number: int, change: float = -0.1, event: str | None = None) -> str:
    """Return what a stored night told, after the nights that followed it."""
    run = warehouse.find_run("lab", "bigtcp_benchmark", f"night {number}")
    series = SeriesView(*SERIES, "regression", change, "2026-03-20", "big-tcp", 60, event=event)
    started = warehouse.run(run)["started_at"]
    view = run_view(number=run, started=started, cluster="lab", history=HistoryView(series=(series,)))
    later = night_view(warehouse, 30)
    steady = {"scenario": SERIES[0], "metric": SERIES[1], "state": "steady", "details": {}}
    warehouse.store_judgements(later.number, [steady])
    drafts = drafts_of_run(warehouse, view, ClusterSettings())
    return "\n".join(rendered(message_of(draft.payload), "").text for draft in drafts)
