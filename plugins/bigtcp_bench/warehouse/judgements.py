"""What earlier nights left for the judging of the next one: the detectors' carried state, and re-runs."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from bigtcp_bench.warehouse.schema import NEWEST_FIRST, VALID, judgement, run
from bigtcp_bench.warehouse.store import Warehouse

#: Scenario and metric.
Series = tuple[str, str]

#: Key of a judgement's details under which a detector leaves its state for the next night.
CARRIED = "carried"

#: Newest judged runs in which the last judgement of a series is looked for; a series that was not in any of them
#: is judged from its values again.
_RUNS = 30

_KEY = (judgement.c.run_id, judgement.c.metric, judgement.c.scenario)


@dataclass(frozen=True)
class Judged:
    """An earlier judgement of a series: the run and its night, and the plan that it measured by."""

    run: int
    night: str
    plan: Mapping[str, Any]
    details: Mapping[str, Any] = field(default_factory=dict)


def judged_before(warehouse: Warehouse, run_id: int) -> dict[Series, list[Judged]]:
    """Return the judgements of every series before ``run_id``, from nights of the same plan, newest first.

    They have no details (see ``with_details``). One that still knew an attempt which is superseded since is none
    to go on from.
    """

    def work(connection: sa.Connection) -> dict[Series, list[Judged]]:
        runs = {}
        for number, started_at, plan, outdated in connection.execute(_newest_before(), {"this_run": run_id}):
            if outdated:
                continue
            runs[number] = Judged(number, started_at.date().isoformat(), plan or {})
        known = sa.select(*_KEY).where(judgement.c.run_id.in_(list(runs)))
        found: dict[int, list[Series]] = {}
        for number, metric, scenario in connection.execute(known):
            found.setdefault(number, []).append((scenario, metric))
        of_series: dict[Series, list[Judged]] = {}
        for number, one in runs.items():
            for series in found.get(number, ()):
                of_series.setdefault(series, []).append(one)
        return of_series

    return warehouse.read(work)


def with_details(warehouse: Warehouse, chosen: Mapping[Series, Judged]) -> dict[Series, Judged]:
    """Return ``chosen`` with the details of each judgement."""
    keys = [(one.run, *series) for series, one in chosen.items()]
    details = warehouse.read(lambda connection: _details(connection, _in(keys)))
    return {series: replace(one, details=details.get((one.run, *series), {})) for series, one in chosen.items()}


@functools.cache
def _newest_before() -> sa.Select[Any]:
    """Return what selects the nights before ``:this_run`` that were judged, newest first."""
    columns = (run.c.cluster, run.c.started_at, run.c.plan_name)
    this = sa.select(*columns).where(run.c.id == sa.bindparam("this_run", type_=run.c.id.type)).subquery()
    judged = sa.exists().where(judgement.c.run_id == run.c.id)
    return (
        sa.select(run.c.id, run.c.started_at, run.c.plan, _outdated().label("outdated"))
        .where(
            run.c.cluster == sa.select(this.c.cluster).scalar_subquery(),
            run.c.started_at < sa.select(this.c.started_at).scalar_subquery(),
            VALID,
            run.c.is_night,
            run.c.plan_name.is_not_distinct_from(sa.select(this.c.plan_name).scalar_subquery()),
            judged,
        )
        .order_by(*NEWEST_FIRST)
        .limit(_RUNS)
    )


def _outdated() -> sa.ColumnElement[bool]:
    """Whether a run was judged while an attempt counted that another one took the place of later."""
    earlier, later = run.alias("earlier"), run.alias("later")
    same_run = (later.c[name] == earlier.c[name] for name in ("cluster", "dag_id", "run_id"))
    return sa.exists().where(
        earlier.c.cluster == run.c.cluster,
        earlier.c.superseded,
        earlier.c.status == "valid",
        earlier.c.started_at <= run.c.started_at,
        *same_run,
        later.c.attempt == earlier.c.attempt + 1,
        later.c.started_at > run.c.started_at,
    )


def details_of_runs(warehouse: Warehouse, runs: Sequence[int]) -> dict[tuple[int, str, str], dict[str, Any]]:
    """Return the details of every judgement of ``runs``, by run, scenario and metric."""
    return warehouse.read(lambda connection: _details(connection, judgement.c.run_id.in_(list(runs))))


def forget_carried(warehouse: Warehouse, keys: Iterable[tuple[int, str, str]]) -> None:
    """Delete the detectors' state from judgements (run, scenario, metric) that no night will go on from.

    A state is some kilobytes, and one per series and night would be most of the warehouse within a year.
    """
    wanted = list(keys)

    def work(connection: sa.Connection) -> None:
        updates = [
            {"of_run": number, "of_scenario": scenario, "of_metric": metric, "rest": _without_carried(details)}
            for (number, scenario, metric), details in _details(connection, _in(wanted)).items()
            if CARRIED in details
        ]
        if updates:
            statement = (
                sa.update(judgement)
                .where(
                    judgement.c.run_id == sa.bindparam("of_run"),
                    judgement.c.metric == sa.bindparam("of_metric"),
                    judgement.c.scenario == sa.bindparam("of_scenario"),
                )
                .values(details=sa.bindparam("rest"))
            )
            connection.execute(statement, updates)

    if wanted:
        warehouse.write(work)


def _without_carried(details: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in details.items() if name != CARRIED}


def _in(keys: Sequence[tuple[int, str, str]]) -> sa.ColumnElement[bool]:
    return sa.tuple_(*_KEY).in_([(number, metric, scenario) for number, scenario, metric in keys])


def _details(
    connection: sa.Connection, where: sa.ColumnElement[bool]
) -> dict[tuple[int, str, str], dict[str, Any]]:
    statement = sa.select(*_KEY, judgement.c.details).where(where)
    return {
        (number, scenario, metric): details or {}
        for number, metric, scenario, details in connection.execute(statement)
    }
