from dataclasses import replace

import pytest

from bigtcp_bench.judging.night import Nightly, Rerun
from bigtcp_bench.notify.run_messages import run_message
from bigtcp_bench.planning.thresholds import Thresholds
from bigtcp_bench.report.history import HistoryView, IncidentView, SeriesView
from bigtcp_bench.report.summary import run_summary
from bigtcp_bench.report.view import RunView
from bigtcp_bench.warehouse import incidents
from tests.report.views import run_view
from tests.support.nights import add_night

FALLEN = SeriesView(
    "ipv4-stream-1",
    "throughput_bps",
    "regression",
    -0.123,
    "2026-03-23",
    "big-tcp",
    60,
    (("cilium_version", "1.18.3", "1.18.4"),),
)
USUAL = SeriesView("ipv4-rr", "transactions_per_s", "steady", 0.01, nights=60)
INCIDENT = IncidentView(3, "regression", "2026-03-23", "big-tcp", frozenset({("ipv4-stream-1", "throughput_bps")}))


def test_while_learning_there_is_one_line():
    history = HistoryView(
        tuple(replace(one, state="learning", nights=3) for one in (FALLEN, USUAL)), (), learning_nights=14
    )
    assert history.state_line() == "learning (3 of 14 nights)"
    assert history.lines() == []


def test_a_regression_says_size_since_when_what_is_to_blame_and_what_changed():
    history = HistoryView((FALLEN, USUAL), (INCIDENT,), learning_nights=14)
    assert history.state_line() == "2 series: 1 in regression, 1 steady"
    assert history.lines() == [
        "ipv4-stream-1: regression since 2026-03-23: throughput −12.3 %; attributed to BIG TCP; "
        "about then changed Cilium 1.18.3 → 1.18.4",
        "incident 3: regression since 2026-03-23, 1 series, attributed to BIG TCP",
    ]


def test_an_acknowledged_incident_is_said_and_its_series_are_not():
    known = replace(INCIDENT, acknowledged_by="kim", acknowledged_note="the driver, we know")
    (line,) = HistoryView((FALLEN, USUAL), (known,), learning_nights=14).lines()
    assert line.endswith("acknowledged by kim: the driver, we know")


@pytest.mark.parametrize(("reasons", "words"), [((), "the median of the three"), (("no pods",), "count: no pods")])
def test_a_rerun_is_said(reasons, words):
    (line,) = HistoryView((replace(USUAL, rerun=reasons),), (), learning_nights=14).lines()
    assert line.startswith("ipv4-rr: was far off")
    assert words in line


def test_what_was_measured_again_for_precision_is_said_only_when_it_does_not_count():
    def lines(reasons):
        return HistoryView((replace(USUAL, rerun=reasons, far_off=False),), (), learning_nights=14).lines()

    assert lines(()) == []
    assert lines(("no pods",)) == ["ipv4-rr: was not known well enough, but its re-run does not count: no pods"]


def test_summary_and_slack_tell_it():
    view = run_view(history=HistoryView((FALLEN, USUAL), (INCIDENT,), learning_nights=14))
    slack = str(run_message(view))
    for text in (" ".join(run_summary(view).split()), slack):
        assert "2 series: 1 in regression, 1 steady" in text
        assert "regression since 2026-03-23: throughput −12.3 %" in text


def test_from_the_warehouse(warehouse):
    for number in range(20):
        add_night(warehouse, number)
    run = add_night(warehouse, 20, on={"ipv4-stream-1": 0.7})
    Nightly(warehouse, run, Thresholds.model_validate({})).judge(
        Rerun(
            ("ipv4-stream-1",),
            {("ipv4-stream-1", "throughput_bps"): [(10, 10.4), (10, 10.6)]},
            far_off=("ipv4-stream-1",),
        )
    )
    (incident,) = incidents.open_incidents(warehouse)
    incidents.acknowledge(warehouse, incident.id, by="kim")
    view = RunView.from_warehouse(warehouse, run)
    assert view.history.state_line() == "3 series: 1 suspect, 2 steady"
    rerun, known = view.history.lines()
    assert "measured twice more" in rerun
    assert known == "incident 1: suspect since 2026-03-21, 1 series; acknowledged by kim"
    assert view.is_aa is False
