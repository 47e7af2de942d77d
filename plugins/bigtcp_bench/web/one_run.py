"""One run: its page and its charts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, HTTPException, Path, Request, Response
from fastapi.responses import JSONResponse

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.report import links
from bigtcp_bench.report.stored import StoredRun
from bigtcp_bench.warehouse import pages
from bigtcp_bench.web.access import Access, AccessDep
from bigtcp_bench.web.data import open_warehouse
from bigtcp_bench.web.rendering import Site, page, remote_chart

if TYPE_CHECKING:
    from bigtcp_bench.report.view import RunView
    from bigtcp_bench.warehouse.store import Warehouse

router = APIRouter()

NumberPath = Annotated[int, Path(ge=1, le=2**31 - 1)]
#: As report.run_charts names them.
ChartName = Annotated[str, Path(pattern=r"^[A-Za-z0-9-]{1,100}$")]


@router.get("/run/{number}")
def run(request: Request, access: AccessDep, number: NumberPath) -> Response:
    """Show everything that is known of a run."""
    from bigtcp_bench.report.detail import RunDetail
    from bigtcp_bench.report.html import run_body

    warehouse = open_warehouse()
    stored = readable_run(warehouse, access, number)
    row = stored.row
    site = Site(request.scope["root_path"])
    body = run_body(
        view_of(stored, access),
        RunDetail.of(stored),
        chart=lambda one: remote_chart(site.url(f"chart/run/{number}/{one.name}.json"), one.title),
        restore_url=links.restore_url(site.airflow, row["dag_id"]),
        page_url=site.url,
    )
    before, after = pages.neighbours(warehouse, access.readable, number)
    compared = pages.runs(
        warehouse, access.readable, cluster=row["cluster"], compared=True, before=number, limit=1
    )
    return page(
        request,
        "run.html",
        access,
        row=row,
        refresh=row["status"] == "running",
        body=body,
        before=before,
        after=after,
        compared=compared[0]["id"] if compared else None,
        attempts=warehouse.attempts(number),
        documents=pages.document_keys(warehouse, number),
        prometheus=pages.has_prometheus(warehouse, number),
    )


@router.get("/chart/run/{number}/{name}.json")
def run_chart(access: AccessDep, number: NumberPath, name: ChartName) -> JSONResponse:
    """Return one of the run's charts as a Vega-Lite specification."""
    from bigtcp_bench.report.charts.of_run import run_charts
    from bigtcp_bench.report.charts.vega import specification

    stored = readable_run(open_warehouse(), access, number)
    known = run_charts(view_of(stored, access), stored.results, stored.packet_sizes)
    if name not in known:
        raise HTTPException(404, f"Run {number} has no chart {name!r}; it has {', '.join(known)}.")
    return JSONResponse(specification(known[name].draw()))


def readable_run(warehouse: Warehouse, access: Access, number: int) -> StoredRun:
    """Return a run. Answers 404, in the same words, if it is unknown or may not be read."""
    try:
        stored = StoredRun(warehouse, number)
    except InvalidInput:
        stored = None
    if stored is None or stored.row["dag_id"] not in access.readable:
        raise HTTPException(404, f"There is no run {number} that you may read.")
    return stored


def view_of(stored: StoredRun, access: Access) -> RunView:
    """Return what is known of a run, without what runs of other DAGs say that the user may not read."""
    from bigtcp_bench.report.view import RunView

    view = RunView.of(stored)
    if stored.row["cluster"] in access.whole_clusters:
        return view
    return replace(view, history=replace(view.history, incidents=()), change=None, gains={})
