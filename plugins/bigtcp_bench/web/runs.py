"""The list of runs, and the ways from Airflow's names to the pages of runs and DAGs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from bigtcp_bench.warehouse import pages
from bigtcp_bench.web.access import Access, AccessDep
from bigtcp_bench.web.data import open_warehouse
from bigtcp_bench.web.params import ROWS, DagQuery, RunOfDagQuery, RunsQuery
from bigtcp_bench.web.rendering import Site, message, page

if TYPE_CHECKING:
    from bigtcp_bench.warehouse.store import Warehouse

router = APIRouter()


@router.get("/runs")
def runs(request: Request, access: AccessDep, choice: RunsQuery) -> Response:
    """List runs, newest first."""
    from bigtcp_bench.report.outcomes import headlines

    warehouse = open_warehouse()
    if choice.cluster is not None and choice.cluster not in access.clusters:
        return unknown_cluster(request, access, choice.cluster)
    rows = pages.runs(
        warehouse, access.readable, cluster=choice.cluster, status=choice.status, before=choice.before, limit=ROWS
    )
    numbers = [row["id"] for row in rows]
    origins = pages.origins(warehouse, numbers)
    return page(
        request,
        "runs.html",
        access,
        rows=rows,
        headlines=headlines(warehouse, numbers, access.whole_clusters),
        origins=origins,
        origin=pages.Origin.of_all(origins.values()),
        choice=choice,
        limit=ROWS,
    )


@router.get("/run")
def run_of_dag_run(request: Request, access: AccessDep, choice: RunOfDagQuery) -> Response:
    """Lead from a run of the DAG to the page of what it has stored."""
    readable = choice.dag_id in access.readable
    stored = pages.runs_of_dag_run(open_warehouse(), choice.dag_id, choice.run_id) if readable else []
    found = [row for row in stored if choice.cluster in (None, row["cluster"])]
    if not found:
        sentence = (
            f"Nothing is stored of run {choice.run_id} of DAG {choice.dag_id}: it is not one of the benchmark's, "
            "or it has not come far enough yet."
        )
        return message(request, "No benchmark run", sentence, access, status_code=404)
    if len(found) == 1:
        return RedirectResponse(Site(request.scope["root_path"]).url(f"run/{found[0]['id']}"), status_code=302)
    return page(request, "choose_run.html", access, rows=found, choice=choice)


@router.get("/dag")
def trend_of_dag(request: Request, access: AccessDep, choice: DagQuery) -> Response:
    """Lead from a DAG to the trend of the cluster that it measured last."""
    rows = pages.runs(open_warehouse(), [choice.dag_id], limit=1) if choice.dag_id in access.readable else []
    if not rows:
        sentence = f"DAG {choice.dag_id} has stored no run of the benchmark (yet)."
        return message(request, "No benchmark runs", sentence, access, status_code=404)
    return RedirectResponse(
        Site(request.scope["root_path"]).url("trend", cluster=rows[0]["cluster"]), status_code=302
    )


def unknown_cluster(request: Request, access: Access, cluster: str) -> Response:
    """Return the page that says that there is no such cluster, for this user at least."""
    known = ", ".join(access.clusters) or "none"
    sentence = f"There are no runs of cluster {cluster!r} that you may read; known are: {known}."
    return message(request, "Unknown cluster", sentence, access, status_code=404)


def newest_cluster(warehouse: Warehouse, access: Access) -> str | None:
    """Return the cluster that has been compared last, or any that the user may see, or None."""
    newest = pages.runs(warehouse, access.readable, compared=True, limit=1)
    return str(newest[0]["cluster"]) if newest else next(iter(access.clusters), None)


def origin_of(warehouse: Warehouse, numbers: list[int]) -> pages.Origin:
    """Return what of any of these runs is not real."""
    return pages.Origin.of_all(pages.origins(warehouse, numbers).values())
