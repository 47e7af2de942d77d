"""The weekly digest: what the nights of an ISO week were, told by the first run after it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING

from bigtcp_bench.notify.incident_messages import listed
from bigtcp_bench.notify.message import Line, Link, Message, payload
from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.planning.plan import SCENARIOS
from bigtcp_bench.report import links, units
from bigtcp_bench.warehouse import incidents
from bigtcp_bench.warehouse.outbox import Draft
from bigtcp_bench.warehouse.period import Gain, Period, period

if TYPE_CHECKING:
    from bigtcp_bench.warehouse.incidents import Incident
    from bigtcp_bench.warehouse.store import Warehouse

_WEEK = timedelta(days=7)


def drafts(warehouse: Warehouse, cluster: str, now: datetime, airflow_url: str | None = None) -> list[Draft]:
    """Return the digest of the ISO week before ``now``; none for a cluster that had no run by then."""
    day = now.astimezone(UTC).date()
    monday = datetime.combine(day - timedelta(days=day.weekday()), time(), UTC)
    since = monday - _WEEK
    week = period(warehouse, cluster, since, monday)
    if week.is_first and not week.statuses:
        return []
    open_ones = [one for one in incidents.open_incidents(warehouse, cluster) if one.state == "regression"]
    message = digest_message(cluster, since, week, open_ones, airflow_url)
    key = f"digest of {cluster}: {since:%G-W%V}"
    return [Draft(key, "digest", payload(message))]


def digest_message(
    cluster: str, since: datetime, week: Period, open_ones: Sequence[Incident], airflow_url: str | None = None
) -> Message:
    """Return the digest of the ``week`` that began at ``since``; ``open_ones`` are the regressions of today."""
    last = since + _WEEK - timedelta(days=1)
    days = f"{since.day} {since:%b} to {last.day} {last:%b %Y}"
    return Message(
        kind="digest",
        title=f"BIG TCP on {cluster}: week {since:%V}, {days}",
        lines=(_runs(week), _incidents(open_ones), *_noise(week.gains)),
        tables=(_table(week.gains),) if week.gains else (),
        links=(Link(links.page_url(airflow_url, "overview"), "Overview in Airflow"),) if airflow_url else (),
    )


def _runs(week: Period) -> Line:
    if not week.statuses:
        return Line("No run in this week.", loud=True)
    counts = ", ".join(
        f"{week.statuses[name]} {name}"
        for name in ("valid", "invalid", "failed", "running")
        if name in week.statuses
    )
    if week.generated:
        return Line(f"{counts}, generated: nothing was measured.", "Runs")
    return Line(f"{counts}{' on the lab, whose Cilium is emulated' if week.emulated else ''}.", "Runs")


def _incidents(open_ones: Sequence[Incident]) -> Line:
    if not open_ones:
        return Line("none.", "Open regressions")
    told = [
        f"{listed(one.members, 2)} since {one.changed_on}"
        f"{f' (acknowledged by {one.acknowledged_by})' if one.acknowledged_by else ''}"
        for one in open_ones
    ]
    return Line(f"{'; '.join(told)}.", "Open regressions")


def _noise(gains: Sequence[Gain]) -> list[Line]:
    seen = {
        name: [one.detects for one in of if one.detects is not None] for name, of in _by_scenario(gains).items()
    }
    medians = sorted(statistics.median(values) for values in seen.values() if values)
    if not medians:
        return []
    best, worst = units.share(medians[0]), units.share(medians[-1])
    text = f"a night sees changes from {best} on in the quietest scenario, {worst} in the noisiest."
    return [Line(text, "Noise")]


def _table(gains: Sequence[Gain]) -> str:
    rows: list[tuple[str, ...]] = [("scenario", "metric", "benefit", "worst night", "best night", "nights")]
    for scenario, of in _by_scenario(gains).items():
        values = [one.benefit for one in of if one.benefit is not None]
        sizes = (statistics.median(values), min(values), max(values)) if values else (None, None, None)
        rows.append((scenario, METRICS[of[0].metric].short_label, *map(units.change_text, sizes), str(len(of))))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _by_scenario(gains: Sequence[Gain]) -> dict[str, list[Gain]]:
    found = {name: [one for one in gains if one.scenario == name] for name in SCENARIOS}
    return {name: of for name, of in found.items() if of}
