"""Group alarms into incidents: one cause is one incident, across neighbouring nights and scenarios.

Pure: open incidents and tonight's judgements in, changes out; the warehouse stores what they say. An incident
begins with the first suspicion, is confirmed by the first regression, and ends as ``IncidentState`` says.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

from bigtcp_bench.analysis.detector import Attribution, Judgement
from bigtcp_bench.planning.metrics import gained
from bigtcp_bench.planning.thresholds import Thresholds

#: Open are the first two. A regression is over when its series are as usual again (``recovered``), when what they
#: are is the usual level by now (``new-normal``), when they are measured no longer (``unmeasured``), or when
#: somebody says so (``closed``); a suspicion is ``dismissed`` when it came to nothing.
IncidentState = Literal["suspect", "regression", "recovered", "dismissed", "new-normal", "unmeasured", "closed"]
OPEN_STATES: tuple[IncidentState, ...] = ("suspect", "regression")

#: How one series of an incident ended.
MemberEnd = Literal["recovered", "new-normal", "unmeasured"]

ChangeKind = Literal["opened", "confirmed", "worse", "updated", "ended"]

#: Scenario and metric.
Series = tuple[str, str]


@dataclass(frozen=True)
class SeriesJudgement:
    """Tonight's judgement of one series; its nights are ISO dates."""

    cluster: str
    scenario: str
    metric: str
    judgement: Judgement

    @property
    def series(self) -> Series:
        """Scenario and metric."""
        return self.scenario, self.metric


@dataclass(frozen=True)
class Member:
    """A series within an incident, with the newest estimate of its relative change.

    ``acknowledged_change`` is the size that somebody said is known.
    """

    scenario: str
    metric: str
    change: float | None
    first_seen: str
    last_seen: str
    confirmed: bool
    ended: MemberEnd | None = None
    acknowledged_change: float | None = None

    @property
    def series(self) -> Series:
        """Scenario and metric."""
        return self.scenario, self.metric


@dataclass(frozen=True)
class Incident:
    """One cause, from first suspicion to its end. ``changed_on`` is the estimated night of the change.

    ``worse_on`` is that of the newest change for the worse after it. ``uid`` is made from what two runs that see
    the same nights both know, so that they cannot open two.
    """

    uid: str
    cluster: str
    state: IncidentState
    attribution: Attribution | None
    changed_on: str
    suspected_on: str
    members: tuple[Member, ...]
    confirmed_on: str | None = None
    worse_on: str | None = None
    closed_on: str | None = None
    acknowledged: bool = False


@dataclass(frozen=True)
class Change:
    """What becomes of one incident tonight."""

    kind: ChangeKind
    incident: Incident


def badness(metric: str, change: float | None) -> float:
    """Return how much worse a relative change is, in the metric's own direction."""
    return 0.0 if change is None else -gained(metric, change)


def incident_transitions(
    known: Iterable[Incident],
    judgements: Sequence[SeriesJudgement],
    thresholds: Thresholds | None = None,
    unmeasured: Collection[Series] = (),
) -> list[Change]:
    """Return how the open incidents change, and which are opened, by the judgements of one night.

    All are of one cluster. ``known`` are the open incidents, and those closed by hand: a regression that began
    before somebody closed it opens no other. A series joins the incident it is a member of, else one whose change
    lies within ``thresholds.incident_nights`` days. ``unmeasured`` are series that no night has measured for so
    long that they are given up. An acknowledgement is withdrawn when the incident gets worse
    (``_exceeds_acknowledged``).
    """
    thresholds = thresholds or Thresholds.model_validate({})
    everything = list(known)
    before = {incident.uid: incident for incident in everything if incident.state in OPEN_STATES}
    by_hand = [incident for incident in everything if incident.state == "closed"]
    after = dict(before)
    worse = set()
    # Regressions first: their night of change is an estimate over several nights, a suspicion's is a guess.
    alarms = sorted(
        (item for item in judgements if item.judgement.state in OPEN_STATES and not _is_covered(item, by_hand)),
        key=lambda item: (item.judgement.state != "regression", item.judgement.since, item.scenario, item.metric),
    )
    for item in alarms:
        incident = _incident_of(after.values(), item, thresholds) or _opened(item)
        after[incident.uid] = _joined(incident, item)
        if item.judgement.event == "worse":
            worse.add(incident.uid)

    changes = []
    for uid, incident in after.items():
        old = before.get(uid)
        current = _with_ends(incident, judgements, unmeasured)
        if current.acknowledged and _exceeds_acknowledged(current, thresholds):
            current = replace(current, acknowledged=False)
            worse.add(uid)
        ended = None if old is None or current.state != old.state else _ended(current, judgements, thresholds)
        if ended is not None:
            changes.append(Change("ended", ended))
        elif old is None or current.state != old.state:
            changes.append(Change("opened" if current.state == "suspect" else "confirmed", current))
        elif current != old:
            changes.append(Change("worse" if uid in worse else "updated", current))
    return changes


def _is_covered(item: SeriesJudgement, by_hand: Iterable[Incident]) -> bool:
    """Return whether the alarm is of a regression that began before somebody closed its incident."""
    return any(
        (item.judgement.since or "") <= (incident.closed_on or "")
        and any(member.series == item.series for member in incident.members)
        for incident in by_hand
    )


def _incident_of(
    incidents: Collection[Incident], item: SeriesJudgement, thresholds: Thresholds
) -> Incident | None:
    """Return the incident that the alarm belongs to: by membership, else by the nearest night of change."""
    for incident in incidents:
        if any(member.series == item.series for member in incident.members):
            return incident
    distances = [
        (_days(night, item.judgement.since), incident.uid, incident)
        for incident in incidents
        for night in (incident.changed_on, incident.worse_on)
        if night is not None
    ]
    near = [entry for entry in distances if entry[0] <= thresholds.incident_nights]
    return min(near, key=lambda entry: entry[:2])[2] if near else None


def _opened(item: SeriesJudgement) -> Incident:
    judgement = item.judgement
    since = judgement.since or judgement.night
    return Incident(
        uid=f"{item.cluster}/{since}/{judgement.night}",
        cluster=item.cluster,
        state="suspect",
        attribution=judgement.attribution,
        changed_on=since,
        suspected_on=judgement.night,
        members=(),
    )


def _joined(incident: Incident, item: SeriesJudgement) -> Incident:
    """Return the incident with the alarm in it."""
    judgement = item.judgement
    confirmed = judgement.state == "regression"
    old = next((member for member in incident.members if member.series == item.series), None)
    if old is None:
        member = Member(item.scenario, item.metric, judgement.change, judgement.night, judgement.night, confirmed)
        members = (*incident.members, member)
    else:
        member = replace(
            old,
            # A missing night says nothing new about the size.
            change=judgement.change if judgement.change is not None else old.change,
            last_seen=judgement.night,
            confirmed=old.confirmed or confirmed,
        )
        members = tuple(member if one is old else one for one in incident.members)
    if confirmed and incident.state == "suspect":
        incident = replace(
            incident,
            state="regression",
            changed_on=judgement.since or incident.changed_on,
            confirmed_on=judgement.night,
            attribution=judgement.attribution,
        )
    if judgement.event == "worse":
        incident = replace(incident, worse_on=max(incident.worse_on or "", judgement.since or ""))
    return replace(incident, members=members)


def _with_ends(
    incident: Incident, judgements: Sequence[SeriesJudgement], unmeasured: Collection[Series]
) -> Incident:
    """Return the incident with what tonight says of the end of each of its series."""
    tonight = {item.series: item.judgement for item in judgements}

    def end(member: Member) -> MemberEnd | None:
        judgement = tonight.get(member.series)
        if judgement is None:
            return member.ended or ("unmeasured" if member.series in unmeasured else None)
        if judgement.state in OPEN_STATES:
            return "new-normal" if judgement.event == "new-normal" else None
        return member.ended or "recovered"

    return replace(incident, members=tuple(replace(member, ended=end(member)) for member in incident.members))


def _exceeds_acknowledged(incident: Incident, thresholds: Thresholds) -> bool:
    """Return whether a series is worse than what was acknowledged by the history margin and by half of that.

    A series that joined later counts as acknowledged with the largest size known of its metric, if any.
    """
    known: dict[str, float] = {}
    for member in incident.members:
        size = badness(member.metric, member.acknowledged_change)
        known[member.metric] = max(known.get(member.metric, 0.0), size)
    for member in incident.members:
        if member.confirmed and member.ended is None:
            size = (
                known[member.metric]
                if member.acknowledged_change is None
                else badness(member.metric, member.acknowledged_change)
            )
            if badness(member.metric, member.change) > size + max(thresholds.history_margin, size / 2):
                return True
    return False


def _ended(incident: Incident, judgements: Sequence[SeriesJudgement], thresholds: Thresholds) -> Incident | None:
    """Return the incident closed, once every one of its series has ended, or None while it goes on."""
    if not judgements or any(member.ended is None for member in incident.members):
        return None
    night = judgements[0].judgement.night
    ends = {member.ended for member in incident.members if member.confirmed or incident.state == "suspect"}
    if "unmeasured" in ends and "new-normal" not in ends:
        return replace(incident, state="unmeasured", closed_on=night)
    if incident.state == "regression":
        return replace(incident, state="new-normal" if "new-normal" in ends else "recovered", closed_on=night)
    last_seen = max(member.last_seen for member in incident.members)
    if _days(last_seen, night) < thresholds.recovery_nights:
        return None
    return replace(incident, state="dismissed", closed_on=night)


def _days(one: str, other: str | None) -> int:
    return abs((date.fromisoformat(one[:10]) - date.fromisoformat((other or one)[:10])).days)
