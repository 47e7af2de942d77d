"""What lists of many runs need of each of them, in one query each: its end, its verdicts, its judged series."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa

from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.warehouse.schema import comparison, judgement, run
from bigtcp_bench.warehouse.shapes import day_or_none
from bigtcp_bench.warehouse.store import Warehouse

_Row = TypeVar("_Row")

#: Metrics that have a verdict.
JUDGED = sorted(name for name, metric in METRICS.items() if metric.judged)


@dataclass(frozen=True)
class ListedRun:
    """How one run ended. ``learning_nights`` is None where its plan does not say it."""

    number: int
    cluster: str
    status: str
    is_aa: bool
    started_at: datetime
    reasons: Sequence[str]
    restore: dict[str, Any] | None
    learning_nights: int | None
    run_id: str
    trigger: str | None
    note: str | None
    cilium_version: str | None
    images: dict[str, Any] | None
    cilium_config: dict[str, Any] | None


@dataclass(frozen=True)
class ListedComparison:
    """One judged comparison of both arms; ``change`` is on against off."""

    scenario: str
    metric: str
    verdict: str
    change: float | None


@dataclass(frozen=True)
class ListedSeries:
    """What one night said of one series, as in ``report.history.SeriesView``."""

    scenario: str
    metric: str
    state: str
    change: float | None
    since: str | None
    attribution: str | None
    nights: int | None
    event: str | None
    plan_changed_on: str | None


def listed_runs(warehouse: Warehouse, numbers: Collection[int]) -> dict[int, ListedRun]:
    """Return how each of these runs ended."""
    named = {
        "number": run.c.id,
        "restore": run.c.restore_result,
        "learning_nights": run.c.plan["thresholds", "learning_nights"].as_string(),
    }
    columns = [
        named[one.name].label(one.name) if one.name in named else run.c[one.name] for one in fields(ListedRun)
    ]
    statement = sa.select(*columns).where(run.c.id.in_(list(numbers)))

    def work(connection: sa.Connection) -> dict[int, ListedRun]:
        found = [ListedRun(*row) for row in connection.execute(statement)]
        return {one.number: replace(one, learning_nights=_count(one.learning_nights)) for one in found}

    return warehouse.read(work)


def listed_comparisons(warehouse: Warehouse, numbers: Collection[int]) -> dict[int, list[ListedComparison]]:
    """Return the judged comparisons of each of these runs."""
    names = ("run_id", "scenario", "metric", "verdict", "change")
    statement = sa.select(*(comparison.c[name] for name in names)).where(
        comparison.c.run_id.in_(list(numbers)), comparison.c.metric.in_(JUDGED)
    )
    return _by_run(warehouse, numbers, statement, ListedComparison)


def listed_series(warehouse: Warehouse, numbers: Collection[int]) -> dict[int, list[ListedSeries]]:
    """Return what each of these runs said of every series; nothing where a run was not judged among nights."""
    names = ("run_id", "scenario", "metric", "state", "change", "since", "attribution")
    details = judgement.c.details
    more = (
        details["nights"].as_string(),
        details["event"].as_string(),
        details["plan_changed", "on"].as_string(),
    )
    statement = sa.select(*(judgement.c[name] for name in names), *more).where(
        judgement.c.run_id.in_(list(numbers))
    )

    def row(*values: Any) -> ListedSeries:
        one = ListedSeries(*values)
        return replace(one, nights=_count(one.nights), plan_changed_on=day_or_none(one.plan_changed_on))

    return _by_run(warehouse, numbers, statement, row)


def _count(text: Any) -> int | None:
    """Return a number out of JSON: SQLite gives it as it is, PostgreSQL as text, and either may be anything."""
    return int(text) if str(text).isdecimal() else None


def _by_run(
    warehouse: Warehouse, numbers: Collection[int], statement: sa.Select[Any], row: Callable[..., _Row]
) -> dict[int, list[_Row]]:
    def work(connection: sa.Connection) -> dict[int, list[_Row]]:
        found: dict[int, list[_Row]] = {number: [] for number in numbers}
        for number, *values in connection.execute(statement):
            found[number].append(row(*values))
        return found

    return warehouse.read(work)
