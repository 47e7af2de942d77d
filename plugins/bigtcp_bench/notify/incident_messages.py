"""Messages about one incident: that it begins, what becomes of it, and that it is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING

from bigtcp_bench.analysis.incidents import badness
from bigtcp_bench.notify.message import Line, Link, Listing, Message
from bigtcp_bench.notify.run_messages import conditions, likely_causes, origin, run_link
from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.report import units
from bigtcp_bench.report.headline import moved_text
from bigtcp_bench.report.history import changes_text
from bigtcp_bench.report.incident import most_telling
from bigtcp_bench.report.words import CAUSE_ADVICE, NO_CAUSE_ADVICE, SILENT, series_text

if TYPE_CHECKING:
    from bigtcp_bench.report.history import SeriesView
    from bigtcp_bench.report.view import RunView
    from bigtcp_bench.warehouse.incidents import Incident, Member

#: Scenario and metric.
Series = tuple[str, str]

#: Facts that say more about a run than about an incident.
_OF_THE_RUN = ("history", "time", "restore")

#: What a change is relative to, beside the nights before.
_MEASURE = {"big-tcp": ", arm on relative to arm off", "platform": ", in both arms"}

_BLAME = {
    "big-tcp": "BIG TCP: arm on got worse against arm off",
    "platform": "the platform: both arms got worse",
    "infrastructure": "the infrastructure: the control between the nodes got worse, too",
}


@dataclass(frozen=True)
class IncidentNews:
    """An incident after the night of ``view``; ``url`` is its page in Airflow, where that is known."""

    incident: Incident
    view: RunView
    url: str | None = None

    @property
    def lead(self) -> Member:
        """Return the series that stands for the incident: confirmed, a scenario's main metric, moved most."""
        return self.members[0]

    @property
    def members(self) -> list[Member]:
        """Return every series, the most telling first."""
        return most_telling(self.incident.members)

    def judged(self, member: Member) -> SeriesView | None:
        """Return what this night says about ``member``."""
        return self.view.history.of(member.series)


def regression_message(news: IncidentNews) -> Message:
    """Return the message of a confirmed regression: in three lines what, since when and why; then the evidence."""
    incident = news.incident
    lines = [_what(news), _since(incident), _why(news)]
    lead = news.lead
    moved = moved_text(lead.series, lead.change, incident.attribution, news.view.gains.get(lead.series))
    title = f"Regression on {incident.cluster}: {moved}"
    return _with_evidence(title, lines, news)


def suspicion_message(news: IncidentNews) -> Message:
    """Return the message of a night that is far off, and is no regression yet."""
    judged = news.judged(news.lead)
    again = "; it was measured again the same night" if judged is not None and judged.rerun == () else ""
    lines = [
        _what(news),
        f"On the night {news.incident.suspected_on}{again}.",
        "No regression yet: that takes more nights like it.",
    ]
    title = f"Suspicion on {news.incident.cluster}: {_series_and_change(news.lead)}"
    return _with_evidence(title, lines, news)


def still_there(news: IncidentNews) -> Message:
    """Return the follow-up of a night on which nothing changed."""
    days = (
        (news.view.started.date() - date.fromisoformat(news.incident.changed_on)).days if news.view.started else 0
    )
    return _reply(f"Still there, day {days + 1}: {listed(news.members)}.", news)


def grown(
    news: IncidentNews, before: Mapping[Series, float | None], acknowledged_by: str | None = None
) -> Message:
    """Return the follow-up of an incident with new or clearly worse series; ``before`` is what was told last.

    ``acknowledged_by`` is whose acknowledgement that ends.
    """
    lines = []
    for member in worse_than(news, before):
        size = units.change_text(member.change)
        was = f"{size}, new"
        if member.series in before:
            was = f"{units.change_text(before[member.series])} → {size}"
        lines.append(f"{_label(member)} {was}")
    worse_on = news.incident.worse_on
    word = f"Worse since the night {worse_on}" if worse_on else "Grown"
    known = f" What {acknowledged_by} acknowledged was less." if acknowledged_by else ""
    told = _reply(f"{'; '.join(lines)}.{known}", news, label=word, kind="regression")
    # It is an alarm in the channel, too, where its thread's first message may be far away.
    return replace(told, lists=(_next(news.incident),), links=_links(news))


def eased(news: IncidentNews, before: Mapping[Series, float | None]) -> Message:
    """Return the follow-up of a night on which series came back in part; ``before`` is what was told last."""
    lines = [
        f"{_label(member)} {units.change_text(before.get(member.series))} → {units.change_text(member.change)}"
        for member in better_than(news, before)
    ]
    return _reply(f"{'; '.join(lines)}.", news, label="Better, but not as usual again")


def acknowledged(news: IncidentNews) -> Message:
    """Return the follow-up that says who knows of it: the last one before it ends or gets worse."""
    incident = news.incident
    note = f": {incident.acknowledged_note}" if incident.acknowledged_note else ""
    who = incident.acknowledged_by or "somebody"
    return _reply(f"Acknowledged by {who}{note}. {units.capital(SILENT)}.", news, kind="acknowledged")


def closed(news: IncidentNews) -> Message:
    """Return the follow-up of an incident that is over."""
    return _reply(_ending(news.incident, news.members), news, kind=news.incident.state)


def closed_title_message(news: IncidentNews) -> Message:
    """Return what stands in place of an incident's first message once it is over."""
    incident = news.incident
    return Message(
        kind=incident.state,
        title=_title(f"{_ENDED[incident.state]} on {incident.cluster}: {_label(news.lead)}", news),
        lines=(Line(_ending(incident, news.members)),),
        facts=conditions(news.view, _OF_THE_RUN),
        links=_links(news),
    )


def worse_than(news: IncidentNews, before: Mapping[Series, float | None], by: float = 0.0) -> list[Member]:
    """Return the confirmed series that ``before`` does not have, or that are worse by more than ``by``."""
    found = []
    for member in news.members:
        known = badness(member.metric, before.get(member.series))
        if member.confirmed and (member.series not in before or _badness(member) > known + by):
            found.append(member)
    return found


def better_than(news: IncidentNews, before: Mapping[Series, float | None]) -> list[Member]:
    """Return the series that came back in part tonight, and are better than ``before``, which was told last."""
    return [
        member
        for member in news.members
        if (judged := news.judged(member)) is not None
        and judged.event == "eased"
        and _badness(member) < badness(member.metric, before.get(member.series))
    ]


def listed(members: Sequence[Member], most: int = 5) -> str:
    """Return the first ``most`` of ``members`` with their sizes, in the order they have."""
    shown = [_series_and_change(member) for member in members[:most]]
    if len(members) > most:
        shown.append(f"{len(members) - most} more")
    return ", ".join(shown)


_ENDED = {
    "recovered": "Recovered",
    "dismissed": "Came to nothing",
    "new-normal": "New usual level",
    "unmeasured": "No longer measured",
    "closed": "Closed",
}


def _with_evidence(title: str, lines: Sequence[str], news: IncidentNews) -> Message:
    lists = (
        _next(news.incident),
        Listing(tuple(_evidence(news)), "Evidence: against the usual level; then on against off tonight"),
        likely_causes(news.view),
    )
    return Message(
        kind=news.incident.state,
        title=_title(title, news),
        lines=tuple(Line(line, loud=line is lines[0]) for line in lines),
        lists=tuple(listing for listing in lists if listing.lines),
        facts=conditions(news.view, _OF_THE_RUN),
        links=_links(news),
    )


def _title(news_text: str, news: IncidentNews) -> str:
    return f"GENERATED, NOT MEASURED: {news_text}" if news.view.generated else news_text


def _next(incident: Incident) -> Listing:
    return Listing((CAUSE_ADVICE.get(incident.attribution or "", NO_CAUSE_ADVICE),), "Do next")


def _reply(text: str, news: IncidentNews, *, label: str = "", kind: str = "") -> Message:
    note = origin(news.view)
    line = Line(f"{text} ({note})" if note else text, label)
    return Message((line,), kind, links=run_link(news.view, "run"))


def _links(news: IncidentNews) -> tuple[Link, ...]:
    about = f"Incident {news.incident.id}: what changed"
    if news.incident.closed_on is None:
        about += ", and acknowledge"
    return (*run_link(news.view), *([Link(news.url, about)] if news.url else []))


def _what(news: IncidentNews) -> str:
    judged = news.judged(news.lead)
    usual = f"the usual level of {judged.nights} nights" if judged and judged.nights else "its usual level"
    measure = _MEASURE.get(news.incident.attribution or "", "")
    others = len(news.members) - 1
    more = f" (and {others} more series)" if others else ""
    return f"{_series_and_change(news.lead)} against {usual}{measure}{more}"


def _since(incident: Incident) -> str:
    confirmed = f", confirmed on {incident.confirmed_on}" if incident.confirmed_on else ""
    return f"Since the night {incident.changed_on}{confirmed}."


def _why(news: IncidentNews) -> str:
    changed = dict.fromkeys(
        change
        for member in news.members
        if (judged := news.judged(member)) is not None
        for change in judged.coincides_with
    )
    about = changes_text(changed)
    attribution = _BLAME.get(news.incident.attribution or "", "nothing in particular")
    return f"Attributed to {attribution}." + (f" About then changed: {about}." if about else "")


def _evidence(news: IncidentNews) -> list[str]:
    compared = {(one.scenario, one.metric): one for one in news.view.comparisons}
    found = []
    for member in news.members:
        line = _series_and_change(member)
        if tonight := compared.get(member.series):
            unit = METRICS[member.metric].unit
            off, on = (units.value_text(value, unit) for value in (tonight.off_median, tonight.on_median))
            change = units.change_with_interval(tonight.change, tonight.ci_low, tonight.ci_high)
            line += f"; tonight off {off}, on {on} ({change})"
        found.append(line if member.confirmed else f"{line}; suspected")
    again = dict.fromkeys(
        member.scenario
        for member in news.members
        if (judged := news.judged(member)) is not None and judged.rerun == ()
    )
    if again:
        found.append(f"measured three times tonight, the median counts: {', '.join(again)}")
    required = [proof for proof in news.view.proofs if proof.required]
    if required and all(proof.as_intended for proof in required):
        found.append("packet sizes prove the switch in both arms")
    return found


def _ending(incident: Incident, members: Sequence[Member]) -> str:
    closed_on = incident.closed_on or incident.changed_on
    if incident.state == "dismissed":
        return f"Came to nothing: the suspicion of the night {incident.suspected_on} was not confirmed."
    if incident.state == "unmeasured":
        gone = ", ".join(_label(member) for member in members if member.ended == "unmeasured")
        return f"No longer measured: {gone}. It was {listed(members)} since {incident.changed_on}."
    if incident.state == "closed":
        who, note = incident.closed_by or "somebody", incident.closed_note or ""
        return f"Closed on {closed_on} by {who}: {note} (since {incident.changed_on} it was {listed(members)})."
    days = (date.fromisoformat(closed_on) - date.fromisoformat(incident.changed_on)).days
    if incident.state == "new-normal":
        stay = [member for member in members if member.ended == "new-normal"]
        return f"After {days} days still {listed(stay)}; from now on this is the usual level."
    return (
        f"Recovered on {closed_on}: as usual again after {days} days "
        f"(since {incident.changed_on} it was {listed(members)})."
    )


def _series_and_change(member: Member) -> str:
    return f"{_label(member)} {units.change_text(member.change)}"


def _label(member: Member) -> str:
    return series_text(*member.series)


def _badness(member: Member) -> float:
    return badness(member.metric, member.change)
