"""What BIG TCP gained in a series before a night on which something changed, and the runs on either side of it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sa

from bigtcp_bench.warehouse.schema import COMPARED, NEWEST_FIRST, comparison, run
from bigtcp_bench.warehouse.store import Warehouse

#: Newest nights before a change whose median is the usual gain.
NIGHTS = 30
#: The estimated night of a change is right to within some nights: what changed is looked for in that many of them.
NEAR_RUNS = 3

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
    """The runs on either side of a night, the nearest first, and the change, on against off, of the newest one."""

    before: tuple[RunOfSeries, ...]
    after: tuple[RunOfSeries, ...]
    newest_change: float | None


def runs_about(
    warehouse: Warehouse, cluster: str, scenario: str, metric: str, night: str, closed_on: str | None = None
) -> RunsAbout:
    """Return up to NEAR_RUNS runs of a series before the ISO date ``night``, and as many of it and after it.

    The newest one is of the nights before ``closed_on``, if that is given.
    """
    valid, begin = _valid(cluster, scenario, metric), _moment(night)
    until = run.c.started_at < _moment(closed_on) if closed_on else sa.true()

    def runs(connection: sa.Connection, statement: sa.Select[Any]) -> tuple[RunOfSeries, ...]:
        rows = connection.execute(statement.limit(NEAR_RUNS))
        return tuple(RunOfSeries(row.id, row.started_at, row.cilium_version) for row in rows)

    def work(connection: sa.Connection) -> RunsAbout:
        newest = valid.where(run.c.started_at >= begin, until).order_by(*NEWEST_FIRST).limit(1)
        found = connection.execute(newest).first()
        return RunsAbout(
            runs(connection, valid.where(run.c.started_at < begin).order_by(*NEWEST_FIRST)),
            runs(connection, valid.where(run.c.started_at >= begin).order_by(run.c.started_at, run.c.id)),
            found.change if found else None,
        )

    return warehouse.read(work)


def _before(cluster: str, scenario: str, metric: str, night: str) -> sa.Select[Any]:
    return (
        _valid(cluster, scenario, metric)
        .with_only_columns(comparison.c.change)
        .where(run.c.started_at < _moment(night))
        .order_by(*NEWEST_FIRST)
        .limit(NIGHTS)
    )


def _valid(cluster: str, scenario: str, metric: str) -> sa.Select[Any]:
    """Return the runs that judged a series, with what both arms said of it."""
    return (
        sa.select(run.c.id, run.c.started_at, run.c.cilium_version, comparison.c.change)
        .join(comparison, run.c.id == comparison.c.run_id)
        .where(
            COMPARED,
            run.c.cluster == cluster,
            run.c.is_night,
            comparison.c.scenario == scenario,
            comparison.c.metric == metric,
            comparison.c.verdict != "invalid",
            comparison.c.change.is_not(None),
        )
    )


def _moment(night: str) -> datetime:
    day = date.fromisoformat(night)
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
