"""Charts as pictures for messages, drawn from what the warehouse knows when they are sent."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.notify.channel import Chart
from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.warehouse import incidents

if TYPE_CHECKING:
    from bigtcp_bench.notify.delivery import Draw
    from bigtcp_bench.warehouse.store import Warehouse

#: What a picture shows: enough to see the level before and after.
NIGHTS = 90


def drawing(warehouse: Warehouse) -> Draw:
    """Return the function that draws what a message asks for.

    That is the trend of a ``scenario`` and ``metric`` up to the message's run, with its incident shaded; where it
    names a ``run`` only, what shows why that one is invalid.
    """

    def draw(cluster: str, wanted: dict[str, Any]) -> Chart | None:
        return _trend(warehouse, cluster, wanted) if "incident" in wanted else _evidence(warehouse, wanted["run"])

    return draw


def _evidence(warehouse: Warehouse, number: int) -> Chart | None:
    """Return the chart that shows why a run is invalid, or None where a sentence says all there is.

    Packets of a wrong size are seen among the packet sizes of both arms, a drift among the repetitions of its
    scenario by block. Missing measurements, lost packets and an unusual control are single numbers.
    """
    from bigtcp_bench.analysis.compare import generation_medians
    from bigtcp_bench.analysis.verdicts import drift_problems, effect_problems
    from bigtcp_bench.judging.facts import captures_of
    from bigtcp_bench.report.charts.all import png
    from bigtcp_bench.report.charts.of_run import run_charts
    from bigtcp_bench.report.view import RunView

    results, sizes = warehouse.results_frame(number, purpose="plan"), warehouse.packet_sizes_frame(number)
    try:
        plan = warehouse.plan_of(number)
    except InvalidInput:
        return None
    if effect_problems(results, plan, captures_of(sizes)):
        name = "packets"
    elif drifted := drift_problems(generation_medians(results, plan), plan):
        name = f"repetitions-{next(iter(drifted))}"
    else:
        return None
    found = run_charts(RunView.from_warehouse(warehouse, number), results, sizes).get(name)
    if found is None:
        return None
    chart = found.draw()
    return Chart(png(chart), f"{found.title}, run {number}", str(chart.description))


def _trend(warehouse: Warehouse, cluster: str, wanted: dict[str, Any]) -> Chart:
    from bigtcp_bench.report.charts.all import png
    from bigtcp_bench.report.charts.over_time import trend_chart

    scenario, metric = wanted["scenario"], wanted["metric"]
    frame = warehouse.series_frame(
        cluster, metrics=[metric], scenarios=[scenario], nights=NIGHTS, until_run=wanted["run"]
    )
    chart = trend_chart(frame, incidents=[asdict(incidents.get(warehouse, wanted["incident"]))])
    title = f"{scenario} {METRICS[metric].short_label}, {len(frame)} nights"
    return Chart(png(chart), title, str(chart.description))
