"""What an incident was on an earlier night, and what had been told of it before: for messages shown again.

Pure. What was kept of a night is shown as it was kept; this is for nights of which nothing was, as in a warehouse
that was imported, or before there was a channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bigtcp_bench.analysis.incidents import OPEN_STATES

if TYPE_CHECKING:
    from bigtcp_bench.report.view import RunView
    from bigtcp_bench.warehouse.incidents import Incident, Member
    from bigtcp_bench.warehouse.records import IncidentState


def as_of(incident: Incident, view: RunView, night: str) -> Incident:
    """Return ``incident`` as the run of ``view`` left it on ``night`` (ISO); suspected by then."""
    ended = incident.closed_on is not None and incident.closed_on <= night
    confirmed = incident.confirmed_on is not None and incident.confirmed_on <= night
    end = view.finished or view.started
    known = incident.acknowledged_at is not None and end is not None and incident.acknowledged_at <= end
    found = replace(
        incident,
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


def told_before(incident: Incident, night: str, min_severity: str) -> dict[str, Any] | None:
    """Return what the nights before ``night`` must have told of ``incident``, which is as it was on that night."""
    if incident.confirmed_on is not None and incident.confirmed_on < night:
        changes: Mapping[str, float | None] = {
            " ".join(one.series): one.change
            for one in incident.members
            if one.confirmed and one.first_seen < night
        }
        return {
            "state": "regression",
            "acknowledged": incident.acknowledged,
            "acknowledged_by": incident.acknowledged_by,
            "changes": changes,
        }
    if incident.suspected_on < night and min_severity == "suspect":
        return {"state": "suspect", "acknowledged": False, "changes": {}}
    return None


def _member(member: Member, view: RunView, night: str, confirmed: bool) -> Member:
    tonight = next(
        (one for one in view.history.series if (one.scenario, one.metric) == member.series),
        None,
    )
    if tonight is None or tonight.state not in OPEN_STATES:
        # This night did not see it.
        return replace(member, last_seen=member.first_seen, confirmed=member.confirmed and confirmed)
    change = member.change if tonight.change is None else tonight.change
    known = member.confirmed and confirmed and tonight.state == "regression"
    return replace(member, change=change, last_seen=night, confirmed=known)
