"""Group alarms into incidents: one cause is one incident, across neighbouring nights and scenarios.

Pure: open incidents and tonight's judgements in, changes out; the warehouse stores what they say. An incident
begins with the first suspicion, is confirmed by the first regression, and ends as ``recovered``, or as
``dismissed`` when the suspicion came to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

from bigtcp_bench.analysis.history import Attribution, Judgement
from bigtcp_bench.planning.plan import Thresholds

IncidentState = Literal["suspect", "regression", "recovered", "dismissed"]
ChangeKind = Literal["opened", "confirmed", "updated", "recovered", "dismissed"]


@dataclass(frozen=True)
class SeriesJudgement:
    """Tonight's judgement of one series; its nights are ISO dates."""

    cluster: str
    scenario: str
    metric: str
    judgement: Judgement


@dataclass(frozen=True)
class Member:
    """A series within an incident, with the newest estimate of its relative change."""

    scenario: str
    metric: str
    change: float | None
    first_seen: str
    last_seen: str
    confirmed: bool


@dataclass(frozen=True)
class Incident:
    """One cause, from first suspicion to recovery. ``changed_on`` is the estimated night of the change.

    ``uid`` is made from what two runs that see the same nights both know, so that they cannot open two.
    """

    uid: str
    cluster: str
    state: IncidentState
    attribution: Attribution | None
    changed_on: str
    suspected_on: str
    members: tuple[Member, ...]
    confirmed_on: str | None = None
    closed_on: str | None = None
    acknowledged: bool = False


@dataclass(frozen=True)
class Change:
    """What becomes of one incident tonight; ``notify`` says whether people are to be told.

    ``news`` are the members that are new, or newly confirmed, or clearly worse than before.
    """

    kind: ChangeKind
    incident: Incident
    notify: bool
    news: tuple[Member, ...] = ()


def incident_transitions(
    open_incidents: Iterable[Incident],
    judgements: Sequence[SeriesJudgement],
    thresholds: Thresholds | None = None,
) -> list[Change]:
    """Return how the open incidents change, and which are opened, by the judgements of one night.

    A series joins the incident it is a member of, else one of its cluster whose change lies within
    ``thresholds.incident_nights`` days. A suspicion opens an incident but tells nobody; an acknowledged one tells
    only of its end. Incidents without news are not in the answer unless their members changed.
    """
    thresholds = thresholds or Thresholds.model_validate({})
    before = {incident.uid: incident for incident in open_incidents}
    after = dict(before)
    news: dict[str, list[Member]] = {}
    # Regressions first: their night of change is an estimate over several nights, a suspicion's is a guess.
    alarms = sorted(
        (
            item
            for item in judgements
            if item.judgement.state in ("suspect", "regression") and item.judgement.since
        ),
        key=lambda item: (item.judgement.state != "regression", item.judgement.since, item.scenario, item.metric),
    )
    for item in alarms:
        incident = _incident_of(after.values(), item, thresholds) or _opened(item)
        incident, is_news = _joined(incident, item, thresholds)
        after[incident.uid] = incident
        if is_news:
            news.setdefault(incident.uid, []).append(_member(incident, item))

    changes = []
    for uid, incident in after.items():
        old = before.get(uid)
        fresh = tuple(news.get(uid, ()))
        if old is None:
            kind: ChangeKind = "opened" if incident.state == "suspect" else "confirmed"
        elif incident.state != old.state:
            kind = "confirmed"
        else:
            ended = _ended(incident, judgements, thresholds)
            if ended is not None:
                kind = "recovered" if ended.state == "recovered" else "dismissed"
                changes.append(Change(kind, ended, notify=kind == "recovered"))
                continue
            if incident == old:
                continue
            kind = "updated"
        told = kind == "confirmed" or (kind == "updated" and bool(fresh) and incident.state == "regression")
        changes.append(Change(kind, incident, notify=told and not incident.acknowledged, news=fresh))
    return changes


def _incident_of(incidents: Iterable[Incident], item: SeriesJudgement, thresholds: Thresholds) -> Incident | None:
    """Return the incident that the alarm belongs to: by membership, else by the nearest night of change."""
    same = [incident for incident in incidents if incident.cluster == item.cluster]
    for incident in same:
        if any((member.scenario, member.metric) == (item.scenario, item.metric) for member in incident.members):
            return incident
    distances = [(_days(incident.changed_on, item.judgement.since), incident.uid, incident) for incident in same]
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


def _joined(incident: Incident, item: SeriesJudgement, thresholds: Thresholds) -> tuple[Incident, bool]:
    """Return the incident with the alarm in it, and whether that is news."""
    judgement = item.judgement
    confirmed = judgement.state == "regression"
    old = next((m for m in incident.members if (m.scenario, m.metric) == (item.scenario, item.metric)), None)
    if old is None:
        member = Member(item.scenario, item.metric, judgement.change, judgement.night, judgement.night, confirmed)
        members = (*incident.members, member)
        is_news = True
    else:
        member = replace(
            old,
            # A missing night says nothing new about the size.
            change=judgement.change if judgement.change is not None else old.change,
            last_seen=judgement.night,
            confirmed=old.confirmed or confirmed,
        )
        members = tuple(member if known is old else known for known in incident.members)
        is_news = confirmed and not old.confirmed
    if confirmed and incident.state == "suspect":
        incident = replace(
            incident,
            state="regression",
            changed_on=judgement.since or incident.changed_on,
            confirmed_on=judgement.night,
            attribution=judgement.attribution,
        )
    return replace(incident, members=members), is_news


def _ended(incident: Incident, judgements: Sequence[SeriesJudgement], thresholds: Thresholds) -> Incident | None:
    """Return the incident closed by tonight's judgements, or None while it goes on.

    A series that was not judged tonight says nothing, so it keeps its incident open.
    """
    tonight = {
        (item.scenario, item.metric): item.judgement for item in judgements if item.cluster == incident.cluster
    }
    states = [tonight.get((member.scenario, member.metric)) for member in incident.members]
    if any(judgement is None or judgement.state in ("suspect", "regression") for judgement in states):
        return None
    night = max(judgement.night for judgement in states if judgement)
    if incident.state == "regression":
        return replace(incident, state="recovered", closed_on=night)
    last_seen = max(member.last_seen for member in incident.members)
    if _days(last_seen, night) < thresholds.recovery_nights:
        return None
    return replace(incident, state="dismissed", closed_on=night)


def _member(incident: Incident, item: SeriesJudgement) -> Member:
    return next(m for m in incident.members if (m.scenario, m.metric) == (item.scenario, item.metric))


def _days(one: str, other: str | None) -> int:
    return abs((date.fromisoformat(one[:10]) - date.fromisoformat((other or one)[:10])).days)
