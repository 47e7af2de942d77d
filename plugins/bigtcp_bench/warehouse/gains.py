"""What BIG TCP gained in a series before a night on which something changed, and the runs on either side of it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sa

from bigtcp_bench.warehouse.schema import comparison, run
from bigtcp_bench.warehouse.store import Warehouse

#: Newest nights before a change whose median is the usual gain.
NIGHTS = 30

#: Scenario, metric, and the ISO date of the night of the change.
Before = tuple[str, str, str]


def gains_before(warehouse: Warehouse, cluster: str, wanted: Iterable[Before]) -> dict[Before, float]:
    """Return the median change, on against off, of the newest valid nights before each of ``wanted``.

    A series without such nights is not in the answer.
    """

    def work(connection: sa.Connection) -> dict[Before, float]:
        found = {}
        for key in dict.fromkeys(wanted):
            values = list(connection.execute(_before(cluster, *key)).scalars())
            if values:
                found[key] = statistics.median(values)
        return found

    return warehouse.read(work)


@dataclass(frozen=True)
class RunOfSeries:
    """A valid run that measured a series."""

    number: int
    started_at: datetime
    cilium_version: str | None


@dataclass(frozen=True)
class RunsAbout:
    """The runs on either side of a night, and the change, on against off, of the newest one."""

    last_before: RunOfSeries | None
    first_after: RunOfSeries | None
    newest_change: float | None


def runs_about(
    warehouse: Warehouse, cluster: str, scenario: str, metric: str, night: str, closed_on: str | None = None
) -> RunsAbout:
    """Return the runs of a series about the ISO date ``night``: the last before it, the first of it or after it.

    The newest one is of the nights before ``closed_on``, if that is given.
    """
    begin = _moment(night)
    valid = _valid(cluster, scenario, metric)
    late = valid.where(run.c.started_at >= begin)
    until = late if closed_on is None else late.where(run.c.started_at < _moment(closed_on))

    def work(connection: sa.Connection) -> RunsAbout:
        last, first, newest = (
            connection.execute(statement.limit(1)).first()
            for statement in (
                valid.where(run.c.started_at < begin).order_by(run.c.started_at.desc(), run.c.id.desc()),
                late.order_by(run.c.started_at, run.c.id),
                until.order_by(run.c.started_at.desc(), run.c.id.desc()),
            )
        )
        ends = (
            None if row is None else RunOfSeries(row.id, row.started_at, row.cilium_version)
            for row in (last, first)
        )
        return RunsAbout(*ends, newest.change if newest else None)

    return warehouse.read(work)


def _before(cluster: str, scenario: str, metric: str, night: str) -> sa.Select[tuple[float]]:
    return (
        _valid(cluster, scenario, metric)
        .with_only_columns(comparison.c.change)
        .where(run.c.started_at < _moment(night))
        .order_by(run.c.started_at.desc(), run.c.id.desc())
        .limit(NIGHTS)
    )


def _valid(cluster: str, scenario: str, metric: str) -> sa.Select[Any]:
    """Return the runs that judged a series, with what both arms said of it."""
    return (
        sa.select(run.c.id, run.c.started_at, run.c.cilium_version, comparison.c.change)
        .join(comparison, run.c.id == comparison.c.run_id)
        .where(
            run.c.cluster == cluster,
            run.c.status == "valid",
            ~run.c.is_aa,
            comparison.c.scenario == scenario,
            comparison.c.metric == metric,
            comparison.c.verdict != "invalid",
            comparison.c.change.is_not(None),
        )
    )


def _moment(night: str) -> datetime:
    day = date.fromisoformat(night)
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
