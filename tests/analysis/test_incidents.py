from __future__ import annotations

from dataclasses import replace

import pytest

from bigtcp_bench.analysis.detector import Judgement
from bigtcp_bench.analysis.incidents import Incident, SeriesJudgement, incident_transitions


def judged(
    day: int,
    state: str,
    scenario: str = "ipv4-stream-1",
    since: int | None = None,
    change: float | None = -0.1,
    event: str | None = None,
    metric: str = "throughput_bps",
):
    night = f"2026-03-{day:02}"
    start = f"2026-03-{since or day:02}" if state in ("suspect", "regression", "recovered") else None
    judgement = Judgement(night, state, change, start, attribution="big-tcp", event=event)  # type: ignore[arg-type]
    return SeriesJudgement("lab", scenario, metric, judgement)


def opened(*judgements: SeriesJudgement) -> Incident:
    (change,) = incident_transitions([], judgements)
    return change.incident


def test_steady_nights_change_nothing():
    assert incident_transitions([], [judged(1, "steady"), judged(1, "learning", "ipv4-rr")]) == []


def test_a_suspicion_opens_and_a_regression_confirms():
    (suspicion,) = incident_transitions([], [judged(10, "suspect")])
    assert (suspicion.kind, suspicion.incident.state) == ("opened", "suspect")
    (confirmed,) = incident_transitions([suspicion.incident], [judged(12, "regression", since=9)])
    assert (confirmed.kind, confirmed.incident.changed_on) == ("confirmed", "2026-03-09")
    assert [one.incident.members[0].confirmed for one in (suspicion, confirmed)] == [False, True]
    assert confirmed.incident.uid == suspicion.incident.uid
    assert (confirmed.incident.suspected_on, confirmed.incident.confirmed_on) == ("2026-03-10", "2026-03-12")


def test_one_cause_is_one_incident_across_scenarios_and_neighbouring_nights():
    (change,) = incident_transitions(
        [], [judged(12, "regression", "ipv4-stream-1", 10), judged(12, "regression", "ipv6-stream-1", 8)]
    )
    assert {member.scenario for member in change.incident.members} == {"ipv4-stream-1", "ipv6-stream-1"}
    (later,) = incident_transitions([change.incident], [judged(14, "regression", "ipv4-rr", 12)])
    assert later.kind == "updated"
    assert [member.scenario for member in later.incident.members][-1] == "ipv4-rr"
    # A member belongs to it whenever it changes.
    (member,) = incident_transitions([later.incident], [judged(30, "regression", "ipv6-stream-1", 25)])
    assert member.incident.uid == change.incident.uid


def test_another_cause_is_another_incident():
    incident = opened(judged(5, "regression", since=3))
    (within,) = incident_transitions([incident], [judged(10, "regression", "ipv4-rr", 8)])
    assert within.incident.uid == incident.uid
    (beyond,) = incident_transitions([incident], [judged(10, "regression", "ipv4-rr", 9)])
    assert beyond.incident.uid != incident.uid
    # What could be of either is of the nearer one.
    (nearer,) = incident_transitions([incident, beyond.incident], [judged(11, "regression", "ipv6-rr", 7)])
    assert nearer.incident.uid == beyond.incident.uid


def test_a_regression_that_goes_on_is_seen_again():
    incident = opened(judged(5, "regression", since=3))
    (change,) = incident_transitions([incident], [judged(6, "regression", since=3)])
    assert (change.kind, change.incident.worse_on) == ("updated", None)
    assert change.incident.members[0].last_seen == "2026-03-06"
    (missing,) = incident_transitions([change.incident], [judged(7, "regression", since=3, change=None)])
    assert missing.incident.members[0].change == change.incident.members[0].change
    (fainter,) = incident_transitions([change.incident], [judged(7, "suspect")])
    assert fainter.incident.members[0].confirmed


def acknowledged(*judgements: SeriesJudgement) -> Incident:
    incident = opened(*judgements)
    members = tuple(replace(member, acknowledged_change=member.change) for member in incident.members)
    return replace(incident, members=members, acknowledged=True)


@pytest.mark.parametrize(
    ("known", "now", "silent"),
    [
        # By the history margin (3 %) ...
        (-0.04, -0.069, True),
        (-0.04, -0.071, False),
        # ... and by half of what was acknowledged.
        (-0.20, -0.29, True),
        (-0.20, -0.31, False),
        (-0.06, -0.45, False),
    ],
)
def test_an_acknowledgement_holds_until_the_incident_gets_worse(known, now, silent):
    incident = acknowledged(judged(5, "regression", since=3, change=known))
    (change,) = incident_transitions([incident], [judged(6, "regression", since=3, change=now)])
    assert change.incident.acknowledged == silent
    assert change.kind == ("updated" if silent else "worse")


def test_worse_is_in_the_direction_of_the_metric():
    incident = acknowledged(judged(5, "regression", since=3, change=0.2, metric="latency_p99_us"))
    (change,) = incident_transitions(
        [incident], [judged(6, "regression", since=3, change=0.31, metric="latency_p99_us")]
    )
    assert not change.incident.acknowledged


def test_a_series_that_joins_counts_as_known_by_what_is_known_of_its_metric():
    incident = acknowledged(judged(5, "regression", since=3, change=-0.2))
    (same,) = incident_transitions([incident], [judged(6, "regression", "ipv4-rr", 4, change=-0.25)])
    assert same.incident.acknowledged
    (more,) = incident_transitions([incident], [judged(6, "regression", "ipv4-rr", 4, change=-0.35)])
    assert not more.incident.acknowledged
    (suspected,) = incident_transitions([incident], [judged(6, "suspect", "ipv4-rr", change=-0.5)])
    assert suspected.incident.acknowledged
    ended = replace(more.incident, members=tuple(replace(one, ended="recovered") for one in more.incident.members))
    held = replace(ended, acknowledged=True)
    (again,) = incident_transitions([held], [judged(7, "regression", "ipv6-rr", 4, change=-0.25)])
    assert again.incident.acknowledged
    other = judged(6, "regression", "ipv4-rr", 4, change=0.1, metric="latency_p99_us")
    (another,) = incident_transitions([incident], [other])
    assert not another.incident.acknowledged


def test_an_acknowledged_incident_ends_as_any_other():
    incident = acknowledged(judged(5, "regression", since=3))
    (end,) = incident_transitions([incident], [judged(9, "recovered")])
    assert (end.kind, end.incident.state, end.incident.closed_on) == ("ended", "recovered", "2026-03-09")


def test_getting_worse_is_an_event_with_its_own_date():
    incident = opened(judged(5, "regression", since=3))
    (change,) = incident_transitions([incident], [judged(20, "regression", since=18, change=-0.3, event="worse")])
    assert (change.kind, change.incident.changed_on, change.incident.worse_on) == (
        "worse",
        "2026-03-03",
        "2026-03-18",
    )
    # What falls at the same time has the same cause.
    (joined,) = incident_transitions(
        [change.incident], [judged(21, "regression", since=18), judged(21, "regression", "ipv4-rr", 17)]
    )
    assert len(joined.incident.members) == 2
    both = [judged(24, "regression", "ipv4-rr", day, event="worse") for day in (22, 20)]
    assert incident_transitions([joined.incident], both)[0].incident.worse_on == "2026-03-22"


def test_a_level_that_became_the_usual_one_is_no_recovery():
    incident = opened(judged(5, "regression", since=3), judged(5, "regression", "ipv4-rr", 3))
    night = [judged(30, "regression", since=3, event="new-normal"), judged(30, "recovered", "ipv4-rr")]
    (end,) = incident_transitions([incident], night)
    assert (end.kind, end.incident.state) == ("ended", "new-normal")
    assert {member.scenario: member.ended for member in end.incident.members} == {
        "ipv4-stream-1": "new-normal",
        "ipv4-rr": "recovered",
    }


def test_what_is_measured_no_longer_ends_as_that():
    incident = opened(judged(5, "regression", since=3))
    other = [judged(28, "steady", "ipv4-rr")]
    assert incident_transitions([incident], other) == []
    (end,) = incident_transitions([incident], other, unmeasured={("ipv4-stream-1", "throughput_bps")})
    assert (end.kind, end.incident.state, end.incident.closed_on) == ("ended", "unmeasured", "2026-03-28")
    # What was only suspected says nothing of how a regression ended.
    both = opened(judged(5, "regression", since=3), judged(5, "suspect", "ipv6-rr"))
    gone = {("ipv6-rr", "throughput_bps")}
    (end,) = incident_transitions([both], [judged(28, "recovered")], unmeasured=gone)
    assert (end.kind, end.incident.state) == ("ended", "recovered")


def test_what_was_closed_by_hand_opens_again_only_when_it_gets_worse():
    known = judged(5, "regression", since=3), judged(5, "regression", "ipv6-rr", 3)
    closed = replace(opened(*known), state="closed", closed_on="2026-03-08")
    for began in (3, 8):
        assert incident_transitions([closed], [judged(9, "regression", since=began)]) == []
    (again,) = incident_transitions([closed], [judged(20, "regression", since=18, event="worse")])
    assert (again.kind, again.incident.changed_on) == ("confirmed", "2026-03-18")
    (other,) = incident_transitions([closed], [judged(9, "regression", "ipv4-rr", since=3)])
    assert other.incident.members[0].scenario == "ipv4-rr"


def test_an_incident_ends_when_its_last_series_has_recovered():
    incident = opened(judged(5, "regression", since=3), judged(5, "regression", "ipv4-rr", 3))
    (change,) = incident_transitions([incident], [judged(8, "recovered"), judged(8, "regression", "ipv4-rr", 3)])
    assert change.kind == "updated"
    (alone,) = incident_transitions([incident], [judged(8, "recovered")])
    assert alone.kind == "updated"
    (end,) = incident_transitions([change.incident], [judged(9, "steady"), judged(9, "recovered", "ipv4-rr")])
    assert (end.kind, end.incident.state) == ("ended", "recovered")
    # What has recovered once is known to have, though this night says nothing of it.
    (end,) = incident_transitions([change.incident], [judged(9, "recovered", "ipv4-rr")])
    assert (end.kind, end.incident.state) == ("ended", "recovered")


def test_a_suspicion_that_comes_to_nothing_is_dismissed_after_three_nights():
    incident = opened(judged(10, "suspect"))
    for day in (11, 12):
        assert all(
            one.incident.state == "suspect" for one in incident_transitions([incident], [judged(day, "steady")])
        )
    (change,) = incident_transitions([incident], [judged(13, "steady")])
    assert (change.kind, change.incident.state) == ("ended", "dismissed")
    (again,) = incident_transitions([incident], [judged(11, "suspect", "ipv4-rr"), judged(11, "steady")])
    (later,) = incident_transitions([again.incident], [judged(13, "steady"), judged(13, "steady", "ipv4-rr")])
    assert later.kind == "updated"


def test_two_runs_that_see_the_same_nights_name_the_incident_alike():
    judgements = [judged(12, "regression", "ipv4-stream-1", 10), judged(12, "regression", "ipv6-stream-1", 11)]
    judgements.append(judged(12, "suspect", "ipv4-rr"))
    assert incident_transitions([], judgements) == incident_transitions([], judgements[::-1])
    assert opened(*judgements).uid == "lab/2026-03-10/2026-03-12", "a suspicion's night of change is a guess"
