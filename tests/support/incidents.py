"""Incidents as nights leave them in a warehouse, and the view of such a night."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from bigtcp_bench.report.history import HistoryView, SeriesView
from bigtcp_bench.report.view import RunView
from bigtcp_bench.warehouse import incidents
from bigtcp_bench.warehouse.incidents import Incident
from bigtcp_bench.warehouse.store import Warehouse
from tests.report.views import run_view
from tests.support.nights import add_night

#: Scenario, metric → relative change.
Changes = dict[tuple[str, str], float]
FELL: Changes = {("ipv4-stream-1", "throughput_bps"): -0.123}


def revise(warehouse: Warehouse, night: str, changes: Changes = FELL, **columns: Any) -> Incident:
    """Store the incident as the night (an ISO date) leaves it, and return it. It began on 2026-03-20."""
    columns = {"uid": "lab/1", "cluster": "lab", "state": "regression", "attribution": "big-tcp"} | columns
    row = {"changed_on": "2026-03-20", "suspected_on": "2026-03-20", "confirmed_on": "2026-03-22"} | columns
    members = [
        {
            "scenario": scenario,
            "metric": metric,
            "change": change,
            "first_seen": "2026-03-20",
            "last_seen": night,
            "confirmed": row["state"] != "suspect",
        }
        for (scenario, metric), change in changes.items()
    ]
    (incident,) = incidents.revise(warehouse, row["cluster"], lambda _: [row | {"members": members}])
    return incident


def night_view(warehouse: Warehouse, number: int, changes: Changes = FELL, **fields: Any) -> RunView:
    """Store night ``number`` (0 is 2026-03-01) and return its view, judged."""
    cluster = fields.get("cluster", "lab")
    run = add_night(warehouse, number, cluster=cluster)
    upgraded = (("cilium_version", "1.18.3", "1.18.4"),)
    series = tuple(
        SeriesView(scenario, metric, "regression", change, "2026-03-20", "big-tcp", 60, upgraded)
        for (scenario, metric), change in changes.items()
    )
    started = warehouse.run(run)["started_at"]
    assert started == datetime(2026, 3, 1, 2, tzinfo=UTC).replace(day=1 + number)
    given = {"number": run, "started": started, "history": HistoryView(series=series), "cluster": cluster}
    return run_view(**given | fields)
