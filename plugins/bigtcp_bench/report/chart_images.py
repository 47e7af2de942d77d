"""Charts as pictures for Slack, drawn from what the warehouse knows when they are sent."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bigtcp_bench.metrics import METRICS
from bigtcp_bench.report.delivery import Chart
from bigtcp_bench.warehouse import incidents

if TYPE_CHECKING:
    from bigtcp_bench.report.delivery import Draw
    from bigtcp_bench.warehouse.store import Warehouse

#: What a picture in Slack shows: enough to see the level before and after.
NIGHTS = 90


def drawing(warehouse: Warehouse) -> Draw:
    """Return the function that draws what a message asks for: the trend up to its run, its incident shaded."""

    def draw(cluster: str, wanted: dict[str, Any]) -> Chart:
        from bigtcp_bench.report.charts import png, trend_chart

        scenario, metric = wanted["scenario"], wanted["metric"]
        frame = warehouse.series_frame(
            cluster, metrics=[metric], scenarios=[scenario], nights=NIGHTS, until_run=wanted["run"]
        )
        chart = trend_chart(frame, incidents=[asdict(incidents.get(warehouse, wanted["incident"]))])
        title = f"{scenario} {METRICS[metric].short_label}, {len(frame)} nights"
        return Chart(png(chart), title, str(chart.description))

    return draw
