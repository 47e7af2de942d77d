"""One scenario and metric night by night: chart, table, and the same rows as CSV."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.planning.metrics import METRICS, metrics_of
from bigtcp_bench.planning.plan import SCENARIOS, list_place, main_metric
from bigtcp_bench.report.epochs import changes_of
from bigtcp_bench.warehouse import pages
from bigtcp_bench.web.access import Access, AccessDep
from bigtcp_bench.web.data import open_warehouse
from bigtcp_bench.web.params import TrendChoice, TrendQuery
from bigtcp_bench.web.rendering import Site, page
from bigtcp_bench.web.runs import newest_cluster, origin_of, unknown_cluster
from bigtcp_bench.web.tables import csv_response

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

    from bigtcp_bench.warehouse.store import Warehouse

router = APIRouter()

#: Newest nights in the table of the page, and those of them that are seen at once; chart and CSV have all of them.
TABLE_ROWS = 100
FIRST_ROWS = 14

#: Columns of the CSV; the table shows the first ones.
_COLUMNS = (
    "run_id",
    "started_at",
    "is_night",
    "scenario",
    "metric",
    "unit",
    "off_median",
    "on_median",
    "change",
    "ci_low",
    "ci_high",
    "verdict",
    "cilium_version",
    "client_node",
    "server_node",
    "client_kernel",
    "server_kernel",
    "nic_driver",
    "dag_id",
)


@dataclass(frozen=True)
class Shown:
    """What a choice comes to, with everything that was left open filled in."""

    cluster: str
    scenario: str
    metric: str
    since: str
    until: str
    version: str | None
    nights: pd.DataFrame

    def query(self) -> dict[str, str | None]:
        """Return the choice as parameters of an address."""
        names = ("cluster", "scenario", "metric", "since", "until", "version")
        return {name: getattr(self, name) for name in names}


@router.get("/trend")
def trend(request: Request, access: AccessDep, choice: TrendQuery) -> Response:
    """Show the chosen nights as charts and as a table."""
    if choice.cluster is not None and choice.cluster not in access.clusters:
        return unknown_cluster(request, access, choice.cluster)
    if not access.clusters:
        return page(request, "trend.html", access, shown=None)
    warehouse = open_warehouse()
    shown = _shown(warehouse, access, choice)
    newest = shown.nights.iloc[::-1].head(TABLE_ROWS)
    dags = access.readable_of(shown.cluster)
    scenarios = {*pages.scenarios_of(warehouse, shown.cluster, dags), shown.scenario}
    return page(
        request,
        "trend.html",
        access,
        shown=shown,
        rows=newest.to_dict("records"),
        first=FIRST_ROWS,
        scenarios=sorted(scenarios, key=list_place),
        versions=pages.versions(warehouse, shown.cluster, dags),
        metrics=_metrics(shown.scenario),
        changes=changes_of(shown.nights).to_dict("records"),
        origin=origin_of(warehouse, shown.nights["run_id"].tolist()),
    )


@router.get("/trend.csv")
def trend_csv(access: AccessDep, choice: TrendQuery) -> Response:
    """Return the nights of the page with the same parameters, oldest first."""
    shown = _shown(open_warehouse(), access, choice)
    name = f"{shown.cluster}-{shown.scenario}-{shown.metric}-{shown.since}-{shown.until}.csv"
    return csv_response(shown.nights[list(_COLUMNS)], name)


@router.get("/chart/trend.json")
def trend_chart(request: Request, access: AccessDep, choice: TrendQuery) -> JSONResponse:
    """Return the chart of both arms as a Vega-Lite specification."""
    from bigtcp_bench.report.charts import over_time

    return _drawn(over_time.trend_chart, request, access, choice)


@router.get("/chart/benefit.json")
def benefit_chart(request: Request, access: AccessDep, choice: TrendQuery) -> JSONResponse:
    """Return the chart of the benefit as a Vega-Lite specification."""
    from bigtcp_bench.report.charts import over_time

    return _drawn(over_time.benefit_chart, request, access, choice)


def _drawn(
    chart: Callable[..., alt.LayerChart], request: Request, access: Access, choice: TrendChoice
) -> JSONResponse:
    from bigtcp_bench.report.charts.vega import specification

    warehouse, site = open_warehouse(), Site(request.scope["root_path"])
    shown = _shown(warehouse, access, choice)
    # Incidents are judged from all runs of the cluster, whoever measured.
    told = []
    if shown.cluster in access.whole_clusters:
        told = pages.incidents_of_series(warehouse, shown.cluster, shown.scenario, shown.metric)
    drawn = chart(shown.nights, incidents=told, run_url=lambda number: site.url(f"run/{number}"))
    return JSONResponse(specification(drawn))


def _shown(warehouse: Warehouse, access: Access, choice: TrendChoice) -> Shown:
    """Return the nights of ``choice``; what it leaves open becomes the newest cluster and its main figures."""
    cluster = choice.cluster or newest_cluster(warehouse, access)
    if cluster is None:
        raise InvalidInput("the warehouse has no run that you may read")
    if cluster not in access.clusters:
        raise InvalidInput(f"there are no runs of cluster {cluster!r} that you may read")
    dags = access.readable_of(cluster)
    scenario = choice.scenario or _first_scenario(warehouse, cluster, dags)
    metric = choice.metric
    if metric is None or metric not in _metrics(scenario):
        # Whoever goes on to a scenario of other traffic wants its main figures.
        metric = main_metric(scenario) or "throughput_bps"
    start, end = choice.period()
    nights = pages.trend_frame(
        warehouse,
        cluster,
        dags,
        scenario=scenario,
        metric=metric,
        since=start,
        until=end,
        version=choice.version,
    )
    return Shown(
        cluster=cluster,
        scenario=scenario,
        metric=metric,
        since=start.date().isoformat(),
        until=(end - timedelta(days=1)).date().isoformat(),
        version=choice.version,
        nights=nights,
    )


def _metrics(scenario: str) -> list[str]:
    """Return the metrics that the traffic of ``scenario`` yields."""
    if scenario not in SCENARIOS:
        return list(METRICS)
    measured = {metric.name for metric in metrics_of(SCENARIOS[scenario].traffic)}
    return [name for name in METRICS if name in measured]


def _first_scenario(warehouse: Warehouse, cluster: str, dags: frozenset[str]) -> str:
    measured = sorted(pages.scenarios_of(warehouse, cluster, dags), key=list_place)
    return measured[0] if measured else next(iter(SCENARIOS))
