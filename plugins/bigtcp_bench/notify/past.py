"""What an incident was on an earlier night, and what had been told of it before: for messages shown again.

Pure. What was kept of a night is shown as it was kept; this is for nights of which nothing was, as in a warehouse
that was imported, or before there was a channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from bigtcp_bench.analysis.incidents import OPEN_STATES

if TYPE_CHECKING:
    from bigtcp_bench.report.view import RunView
    from bigtcp_bench.warehouse.incidents import Incident, Member
    from bigtcp_bench.warehouse.records import IncidentState


@dataclass(frozen=True)
class NightBefore:
    """The judged night before: when its run ended, and the change of each (scenario, metric) in regression."""

    end: datetime
    changes: Mapping[tuple[str, str], float | None]

    @property
    def night(self) -> str:
        """Return its ISO date."""
        return self.end.date().isoformat()


def as_of(incident: Incident, view: RunView, night: str) -> Incident:
    """Return ``incident`` as the run of ``view`` left it on ``night`` (ISO); suspected by then."""
    # A night ends an incident itself; what a person ended on its day was ended after it, and told by the next.
    last_day = incident.closed_on or "9"
    ended = last_day < night if incident.state == "closed" else last_day <= night
    confirmed = incident.confirmed_on is not None and incident.confirmed_on <= night
    end = view.finished or view.started
    known = incident.acknowledged_at is not None and end is not None and incident.acknowledged_at <= end
    # What is to blame may have been found out later.
    blamed = incident.attribution if confirmed else _blamed_tonight(incident, view)
    found = replace(
        incident,
        attribution=blamed,
        confirmed_on=incident.confirmed_on if confirmed else None,
        worse_on=incident.worse_on if (incident.worse_on or "9") <= night else None,
        members=tuple(_member(one, view, night, confirmed) for one in incident.members if one.first_seen <= night),
    )
    if not ended:
        state: IncidentState = "regression" if confirmed else "suspect"
        found = replace(found, state=state, closed_on=None, closed_by=None, closed_note=None)
    if not known:
        found = replace(found, acknowledged_at=None, acknowledged_by=None, acknowledged_note=None)
    return found


def told_before(
    incident: Incident, night: str, min_severity: str, before: NightBefore | None = None
) -> dict[str, Any] | None:
    """Return what the nights before ``night`` must have told of ``incident``, which is as it was on that night.

    ``before`` is the newest of them; without it each series is taken to have been what it is tonight.
    """
    if incident.confirmed_on is not None and incident.confirmed_on < night:
        known = {one.series: one.change for one in incident.members if one.confirmed and one.first_seen < night}
        if before is not None:
            known = {
                one.series: before.changes[one.series] for one in incident.members if one.series in before.changes
            }
        at = incident.acknowledged_at
        acknowledged = incident.acknowledged and (before is None or (at is not None and at <= before.end))
        return {
            "state": "regression",
            "acknowledged": acknowledged,
            "acknowledged_by": incident.acknowledged_by,
            "changes": {" ".join(series): change for series, change in known.items()},
        }
    if incident.suspected_on < night and min_severity == "suspect":
        return {"state": "suspect", "acknowledged": False, "changes": {}}
    return None


def _blamed_tonight(incident: Incident, view: RunView) -> str | None:
    series = {one.series for one in incident.members}
    found = (one.attribution for one in view.history.series if one.series in series)
    return next(filter(None, found), None)


def _member(member: Member, view: RunView, night: str, confirmed: bool) -> Member:
    tonight = view.history.of(member.series)
    if tonight is None or tonight.state not in OPEN_STATES:
        # This night did not see it.
        return replace(member, last_seen=member.first_seen, confirmed=member.confirmed and confirmed)
    change = member.change if tonight.change is None else tonight.change
    known = member.confirmed and confirmed and tonight.state == "regression"
    return replace(member, change=change, last_seen=night, confirmed=known)
