"""Incidents: the list, one of them, and its acknowledgement."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Form, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.report.words import CAUSE_ADVICE, CAUSE_MEANINGS, NO_CAUSE_ADVICE
from bigtcp_bench.warehouse import incidents as stored
from bigtcp_bench.warehouse import pages
from bigtcp_bench.web.access import Access, AccessDep, check_same_origin
from bigtcp_bench.web.data import open_warehouse
from bigtcp_bench.web.one_run import NumberPath
from bigtcp_bench.web.params import ROWS, IncidentsQuery
from bigtcp_bench.web.rendering import Site, page
from bigtcp_bench.web.runs import origin_of, unknown_cluster

if TYPE_CHECKING:
    from bigtcp_bench.warehouse.store import Warehouse

router = APIRouter()

#: Days before an incident that the links to the trend show.
_DAYS_BEFORE = 45


@router.get("/incidents")
def incidents(request: Request, access: AccessDep, choice: IncidentsQuery) -> Response:
    """List incidents, newest first; by default open and closed ones."""
    from bigtcp_bench.report.incident import IncidentStory

    if choice.cluster is not None and choice.cluster not in access.clusters:
        return unknown_cluster(request, access, choice.cluster)
    warehouse = open_warehouse()
    rows = pages.incidents(
        warehouse,
        access.whole_clusters,
        cluster=choice.cluster,
        is_open=None if choice.state is None else choice.state == "open",
        before=choice.before,
        limit=ROWS,
    )
    known = stored.several(warehouse, [row["id"] for row in rows])
    hidden = sorted(set(access.clusters) - set(access.whole_clusters))
    return page(
        request,
        "incidents.html",
        access,
        rows=rows,
        # What BIG TCP gains now is the news of an open one; of a closed one it is how much was told.
        stories={
            number: IncidentStory(one) if one.closed_on else IncidentStory.from_warehouse(warehouse, one)
            for number, one in known.items()
        },
        hidden=hidden,
        choice=choice,
        limit=ROWS,
        origin=_origin(warehouse, access, {row["cluster"] for row in rows}),
    )


@router.get("/incidents/{number}")
def incident(request: Request, access: AccessDep, number: NumberPath) -> Response:
    """Show one incident: its series, its nights, and who knows of it."""
    from bigtcp_bench.report.incident import IncidentStory, most_telling

    warehouse = open_warehouse()
    found = _readable(access, number)
    story = IncidentStory.from_warehouse(warehouse, found)
    return page(
        request,
        "incident.html",
        access,
        incident=found,
        story=story,
        members=most_telling(found.members),
        meaning=CAUSE_MEANINGS.get(found.attribution or ""),
        advice=CAUSE_ADVICE.get(found.attribution or "", NO_CAUSE_ADVICE),
        may_edit=access.may_edit(found.cluster),
        note_chars=stored.NOTE_CHARS,
        since=(date.fromisoformat(found.changed_on) - timedelta(days=_DAYS_BEFORE)).isoformat(),
        until=found.closed_on,
        origin=_origin(warehouse, access, {found.cluster}),
    )


@router.post("/incidents/{number}/acknowledge", dependencies=[Depends(check_same_origin)])
def acknowledge(
    request: Request,
    access: AccessDep,
    number: NumberPath,
    note: Annotated[str, Form(max_length=stored.NOTE_CHARS)] = "",
) -> Response:
    """Say that an incident is known, with the user's name and a note, or add a note to what others have said."""
    _check_may_edit(access, number)
    text = " ".join(note.split())
    if not text:
        raise InvalidInput("a note is needed: why this incident is known, for those who come after you")
    stored.acknowledge(open_warehouse(), number, by=access.user_name, note=text)
    return _back_to(request, number)


@router.post("/incidents/{number}/unacknowledge", dependencies=[Depends(check_same_origin)])
def unacknowledge(request: Request, access: AccessDep, number: NumberPath) -> Response:
    """Undo an acknowledgement, whoever made it: the incident is told again."""
    _check_may_edit(access, number)
    stored.take_back(open_warehouse(), number)
    return _back_to(request, number)


def _check_may_edit(access: Access, number: int) -> None:
    """Answer 404 for an incident that may not be read, and 403 to who may not edit the DAGs of its cluster."""
    if not access.may_edit(_readable(access, number).cluster):
        raise HTTPException(403, "Acknowledging needs Airflow's permission to edit the benchmark's DAG.")


def _back_to(request: Request, number: int) -> Response:
    # 303: the answer to a form is another page, which may be reloaded without sending the form again.
    return RedirectResponse(Site(request.scope["root_path"]).url(f"incidents/{number}"), status_code=303)


def _readable(access: Access, number: int) -> stored.Incident:
    try:
        found = stored.get(open_warehouse(), number)
    except InvalidInput:
        found = None
    if found is None or found.cluster not in access.whole_clusters:
        raise HTTPException(404, f"There is no incident {number} that you may read.")
    return found


def _origin(warehouse: Warehouse, access: Access, clusters: set[str]) -> pages.Origin:
    """Return what of the clusters' newest runs is not real."""
    newest = [pages.runs(warehouse, access.readable, cluster=cluster, limit=1) for cluster in clusters]
    return origin_of(warehouse, [row["id"] for rows in newest for row in rows])
