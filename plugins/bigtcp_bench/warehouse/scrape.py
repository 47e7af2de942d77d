"""What a scraper is told of a cluster: its newest runs, and the newest verdict and state of every series."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.planning.plan import SCENARIOS
from bigtcp_bench.warehouse.schema import COMPARED, NEWEST_FIRST, comparison, incident, is_true, judgement, run
from bigtcp_bench.warehouse.store import Warehouse

#: Newest valid runs among which the newest verdict of a series is looked for: not every plan measures every
#: scenario every night.
NIGHTS = 14

_FIGURES = ("off_median", "on_median", "change", "ci_low", "ci_high", "verdict")
Series = dict[tuple[str, str], dict[str, Any]]


@dataclass(frozen=True)
class NewestRuns:
    """The newest run of a cluster, and how the newest that has ended, and the newest restore, came out."""

    started_at: datetime
    running: bool
    #: ``valid``, ``invalid`` or ``failed``; None while the first run goes on.
    ended: str | None
    #: ``verified``, ``not_needed`` or ``not_verified``; None before the first restore.
    restore: str | None
    emulated: bool
    generated: bool


@dataclass(frozen=True)
class ClusterFacts:
    """What is known of one cluster. ``states`` and ``incidents`` are None where the scraper may not see them."""

    name: str
    runs: NewestRuns
    comparisons: Series
    states: Series | None
    incidents: Mapping[tuple[str, bool], int] | None


def cluster_facts(
    warehouse: Warehouse, cluster: str, dags: Collection[str], *, whole: bool
) -> ClusterFacts | None:
    """Return what the runs of ``dags`` say of ``cluster``, or None without any run.

    ``whole`` says whether these are all its DAGs: states and incidents are judged from the runs of all.
    """
    runs = newest_runs(warehouse, cluster, dags)
    if runs is None:
        return None
    return ClusterFacts(
        name=cluster,
        runs=runs,
        comparisons=newest_comparisons(warehouse, cluster, dags),
        states=newest_states(warehouse, cluster, dags) if whole else None,
        incidents=open_incidents(warehouse, cluster) if whole else None,
    )


def newest_runs(warehouse: Warehouse, cluster: str, dags: Collection[str]) -> NewestRuns | None:
    """Return what the newest runs of ``dags`` on ``cluster`` say, or None without any."""
    flags = [is_true(run.c.environment, name).label(name) for name in ("emulated", "generated")]
    state = run.c.restore_result["state"].as_string()
    of_cluster = _newest(sa.select(run.c.status, run.c.started_at, *flags), cluster, dags).limit(1)
    ended = _newest(sa.select(run.c.status), cluster, dags).where(run.c.status != "running").limit(1)
    restored = _newest(sa.select(state), cluster, dags).where(run.c.restore_result.is_not(None)).limit(1)

    def work(connection: sa.Connection) -> NewestRuns | None:
        newest = connection.execute(of_cluster).first()
        if newest is None:
            return None
        return NewestRuns(
            started_at=newest.started_at,
            running=newest.status == "running",
            ended=connection.execute(ended).scalar(),
            restore=connection.execute(restored).scalar(),
            emulated=bool(newest.emulated),
            generated=bool(newest.generated),
        )

    return warehouse.read(work)


def newest_comparisons(warehouse: Warehouse, cluster: str, dags: Collection[str]) -> Series:
    """Return (scenario, metric) → both medians, change, interval, verdict and the run's ``started_at``.

    Of each series the newest valid run of ``dags`` that compared both arms.
    """
    names = [comparison.c[name] for name in ("scenario", "metric", *_FIGURES)]
    return _newest_of_series(warehouse, cluster, dags, comparison, names)


def newest_states(warehouse: Warehouse, cluster: str, dags: Collection[str]) -> Series:
    """Return (scenario, metric) → ``state`` after the newest night that it was judged in, and ``started_at``."""
    names = [judgement.c[name] for name in ("scenario", "metric", "state")]
    return _newest_of_series(warehouse, cluster, dags, judgement, names)


def open_incidents(warehouse: Warehouse, cluster: str) -> dict[tuple[str, bool], int]:
    """Return (state, whether acknowledged) → number of open incidents of ``cluster``, where there is one."""
    known = incident.c.acknowledged_at.is_not(None)
    statement = (
        sa.select(incident.c.state, known, sa.func.count())
        .where(incident.c.closed_on.is_(None), incident.c.cluster == cluster)
        .group_by(incident.c.state, known)
    )
    return warehouse.read(
        lambda connection: {
            (state, bool(acknowledged)): count for state, acknowledged, count in connection.execute(statement)
        }
    )


def _newest(statement: sa.Select[Any], cluster: str, dags: Collection[str]) -> sa.Select[Any]:
    of_cluster = (run.c.cluster == cluster, run.c.dag_id.in_(sorted(dags)), ~run.c.superseded)
    return statement.where(*of_cluster).order_by(*NEWEST_FIRST)


def _newest_of_series(
    warehouse: Warehouse, cluster: str, dags: Collection[str], table: sa.Table, columns: Iterable[sa.Column[Any]]
) -> Series:
    chosen = _newest(sa.select(run.c.id, run.c.started_at), cluster, dags).where(COMPARED).limit(NIGHTS).subquery()
    rank = sa.func.row_number().over(
        partition_by=(table.c.scenario, table.c.metric), order_by=(chosen.c.started_at.desc(), chosen.c.id.desc())
    )
    ranked = (
        sa.select(*columns, chosen.c.started_at, rank.label("rank"))
        .join(chosen, chosen.c.id == table.c.run_id)
        .where(table.c.metric.in_(sorted(METRICS)), table.c.scenario.in_(sorted(SCENARIOS)))
        .subquery()
    )
    statement = sa.select(*(column for column in ranked.c if column.name != "rank")).where(ranked.c.rank == 1)
    return warehouse.read(
        lambda connection: {
            (row["scenario"], row["metric"]): dict(row) for row in connection.execute(statement).mappings()
        }
    )
