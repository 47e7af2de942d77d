"""The pages: the newest runs, and one run's comparison; only for those who may read the DAG's runs in Airflow."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import requires_access_dag
from fastapi import Depends, FastAPI, Query
from fastapi.responses import HTMLResponse

from bigtcp_bench.connections import warehouse
from bigtcp_bench.errors import BenchError
from bigtcp_bench.report.summary import run_summary
from bigtcp_bench.report.view import RunView

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

DAG_ID = "bigtcp_benchmark"
RUNS_SHOWN = 100

# The frame takes on Airflow's dark mode, which it cannot see by itself, from the page around it.
_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 1rem; overflow-wrap: anywhere; }}
pre {{ font: 13px/1.35 ui-monospace, monospace; overflow-x: auto; overflow-wrap: normal; }}
table {{ border-collapse: collapse; }} th, td {{ text-align: left; padding: .25rem .9rem .25rem 0; }}
</style></head><body><h1>{title}</h1>{body}</body></html>"""
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
)


def build_app() -> FastAPI:
    """Return the app. Every route needs Airflow's permission to read the runs of the benchmark DAG."""
    app = FastAPI(
        dependencies=[Depends(requires_access_dag("GET", DagAccessEntity.RUN, param_dag_id=DAG_ID))],
        # The routes of the API docs bypass the dependency above.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )

    @app.middleware("http")
    async def add_headers(request: Request, call_next) -> Response:  # type: ignore[no-untyped-def]
        response: Response = await call_next(request)
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    # Plain functions: the queries block, so they belong into the thread pool.
    @app.get("/runs")
    def runs() -> HTMLResponse:
        try:
            rows = warehouse().runs_frame(limit=RUNS_SHOWN).to_dict("records")
        except BenchError as error:
            return _page("BIG TCP runs", f"<p>{escape(str(error))}</p>", status_code=503)
        if not rows:
            return _page("BIG TCP runs", f"<p>No run of {DAG_ID} has been stored yet.</p>")
        head = "<tr><th>Started</th><th>Cluster</th><th>Status</th><th>Plan</th><th>Run</th></tr>"
        body = "".join(_run_row(row) for row in rows)
        return _page("BIG TCP runs", f"<table><thead>{head}</thead><tbody>{body}</tbody></table>")

    @app.get("/run")
    def run(
        run_id: Annotated[str, Query(min_length=1, max_length=250)],
        dag_id: Annotated[str, Query(pattern=f"^{DAG_ID}$")] = DAG_ID,
        cluster: Annotated[str | None, Query(max_length=250)] = None,
    ) -> HTMLResponse:
        try:
            store = warehouse()
            clusters = [cluster] if cluster else store.clusters()
            numbers = [number for name in clusters if (number := store.find_run(name, dag_id, run_id))]
            views = [RunView.from_warehouse(store, number) for number in numbers]
        except BenchError as error:
            return _page("BIG TCP comparison", f"<p>{escape(str(error))}</p>", status_code=503)
        if not views:
            text = f"<p>Nothing of run {escape(run_id)} has been stored (yet).</p>"
            return _page("BIG TCP comparison", text, status_code=404)
        summaries = "".join(f"<pre>{escape(run_summary(view))}</pre>" for view in views)
        return _page("BIG TCP comparison", summaries)

    return app


def _run_row(row: Mapping[Any, Any]) -> str:
    query = urlencode({"dag_id": row["dag_id"], "run_id": row["run_id"], "cluster": row["cluster"]})
    cells = [
        f"{row['started_at']:%Y-%m-%d %H:%M} UTC",
        escape(row["cluster"]),
        escape(row["status"]),
        escape(row["plan_name"] or ""),
        f'<a href="run?{escape(query)}">{escape(row["run_id"])}</a>',
    ]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _page(title: str, body: str, status_code: int = 200) -> HTMLResponse:
    return HTMLResponse(_PAGE.format(title=escape(title), body=body), status_code=status_code)
