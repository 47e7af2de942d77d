from __future__ import annotations

from dataclasses import replace

from bigtcp_bench.analysis.history import Judgement
from bigtcp_bench.analysis.incidents import Incident, SeriesJudgement, incident_transitions


def judged(day: int, state: str, scenario: str = "ipv4-stream-1", since: int | None = None, change: float = -0.1):
    night = f"2026-03-{day:02}"
    start = f"2026-03-{since or day:02}" if state in ("suspect", "regression") else None
    judgement = Judgement(night, state, change, start, attribution="big-tcp")  # type: ignore[arg-type]
    return SeriesJudgement("lab", scenario, "throughput_bps", judgement)


def opened(*judgements: SeriesJudgement) -> Incident:
    (change,) = incident_transitions([], judgements)
    return change.incident


def test_steady_nights_change_nothing():
    assert incident_transitions([], [judged(1, "steady"), judged(1, "learning", "ipv4-rr")]) == []


def test_a_suspicion_opens_quietly_and_a_regression_confirms_loudly():
    (suspicion,) = incident_transitions([], [judged(10, "suspect")])
    assert (suspicion.kind, suspicion.notify, suspicion.incident.state) == ("opened", False, "suspect")
    (confirmed,) = incident_transitions([suspicion.incident], [judged(12, "regression", since=10)])
    assert (confirmed.kind, confirmed.notify) == ("confirmed", True)
    assert confirmed.incident.uid == suspicion.incident.uid
    assert (confirmed.incident.suspected_on, confirmed.incident.confirmed_on) == ("2026-03-10", "2026-03-12")


def test_one_cause_is_one_incident_across_scenarios_and_neighbouring_nights():
    (change,) = incident_transitions(
        [], [judged(12, "regression", "ipv4-stream-1", 10), judged(12, "regression", "ipv6-stream-1", 8)]
    )
    assert {member.scenario for member in change.incident.members} == {"ipv4-stream-1", "ipv6-stream-1"}
    (later,) = incident_transitions([change.incident], [judged(14, "regression", "ipv4-rr", 12)])
    assert (later.kind, later.notify) == ("updated", True)
    assert [member.scenario for member in later.news] == ["ipv4-rr"]


def test_another_cause_is_another_incident():
    incident = opened(judged(5, "regression", since=3))
    changes = incident_transitions([incident], [judged(20, "regression", "ipv4-rr", 18)])
    assert [change.incident.uid for change in changes] != [incident.uid]
    elsewhere = replace(judged(5, "regression", "ipv4-rr", 3), cluster="other")
    assert incident_transitions([incident], [elsewhere])[0].incident.cluster == "other"


def test_a_regression_that_goes_on_is_no_news():
    incident = opened(judged(5, "regression", since=3))
    (change,) = incident_transitions([incident], [judged(6, "regression", since=3)])
    assert (change.kind, change.notify, change.news) == ("updated", False, ())
    assert change.incident.members[0].last_seen == "2026-03-06"


def test_acknowledging_silences_all_but_the_end():
    incident = replace(opened(judged(5, "regression", since=3)), acknowledged=True)
    (more,) = incident_transitions([incident], [judged(6, "regression", "ipv4-rr", 4)])
    assert not more.notify
    (end,) = incident_transitions([incident], [judged(9, "recovered")])
    assert (end.kind, end.notify, end.incident.closed_on) == ("recovered", True, "2026-03-09")


def test_an_incident_ends_when_its_last_series_has_recovered():
    incident = opened(judged(5, "regression", since=3), judged(5, "regression", "ipv4-rr", 3))
    (change,) = incident_transitions([incident], [judged(8, "recovered"), judged(8, "regression", "ipv4-rr", 3)])
    assert change.kind == "updated"
    assert incident_transitions([incident], [judged(8, "recovered")]) == []
    (end,) = incident_transitions([incident], [judged(9, "steady"), judged(9, "recovered", "ipv4-rr")])
    assert end.kind == "recovered"


def test_a_suspicion_that_comes_to_nothing_is_dismissed_after_three_nights():
    incident = opened(judged(10, "suspect"))
    assert incident_transitions([incident], [judged(11, "steady")]) == []
    assert incident_transitions([incident], [judged(12, "steady")]) == []
    (change,) = incident_transitions([incident], [judged(13, "steady")])
    assert (change.kind, change.notify, change.incident.state) == ("dismissed", False, "dismissed")


def test_two_runs_that_see_the_same_nights_name_the_incident_alike():
    judgements = [judged(12, "regression", "ipv4-stream-1", 10), judged(12, "regression", "ipv6-stream-1", 11)]
    assert incident_transitions([], judgements) == incident_transitions([], judgements[::-1])
