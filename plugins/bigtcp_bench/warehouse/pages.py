"""Questions that only the pages ask: lists cut to what a user may see, and one document at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.warehouse.lists import JUDGED
from bigtcp_bench.warehouse.records import RawDocument
from bigtcp_bench.warehouse.schema import (
    COMPARED,
    NEWEST_FIRST,
    VALID,
    comparison,
    incident,
    incident_member,
    is_true,
    prometheus,
    raw,
    run,
)
from bigtcp_bench.warehouse.store import Warehouse
from bigtcp_bench.warehouse.verdicts import ENVIRONMENT

if TYPE_CHECKING:
    import pandas as pd

#: Columns of a run that a list shows; the wide JSON ones cost a read of the whole row.
_LISTED = (
    "id",
    "cluster",
    "dag_id",
    "run_id",
    "status",
    "is_aa",
    "started_at",
    "finished_at",
    "trigger",
    "note",
    "plan_name",
    "block_order",
    "cilium_version",
    "reasons",
)

#: Runs that are asked what there is to choose from.
_RECENT = 30


@dataclass(frozen=True)
class DocumentKey:
    """The place of a raw document within its run, and its size as it is stored, in bytes."""

    block: int
    generation: int
    kind: str
    scenario: str
    repetition: int
    stored_bytes: int


@dataclass(frozen=True)
class Origin:
    """What of a run is not real: ``emulated`` its cluster (the lab), ``generated`` every figure in it."""

    emulated: bool = False
    generated: bool = False

    @classmethod
    def of_all(cls, of: Iterable[Origin]) -> Origin:
        """Return what of any of several runs is not real."""
        found = list(of)
        return cls(any(one.emulated for one in found), any(one.generated for one in found))


def dags_by_cluster(warehouse: Warehouse) -> dict[str, frozenset[str]]:
    """Return the ids of the DAGs that have stored runs, by cluster."""
    statement = sa.select(run.c.cluster, run.c.dag_id).distinct()
    found: dict[str, set[str]] = {}
    for cluster, dag_id in warehouse.read(lambda connection: connection.execute(statement).all()):
        found.setdefault(cluster, set()).add(dag_id)
    return {cluster: frozenset(dags) for cluster, dags in found.items()}


def runs(
    warehouse: Warehouse,
    dags: Collection[str],
    *,
    cluster: str | None = None,
    status: str | None = None,
    compared: bool = False,
    before: int | None = None,
    limit: int = 50,
) -> list[dict[str, Any]]:
    """Return runs of ``dags``, newest first, without the wide columns.

    ``compared`` limits them to valid runs that compared both arms, ``before`` to those older than that run.
    """
    statement = (
        sa.select(*(run.c[name] for name in _LISTED))
        .where(run.c.dag_id.in_(sorted(dags)), ~run.c.superseded)
        .order_by(*NEWEST_FIRST)
        .limit(limit)
    )
    if cluster is not None:
        statement = statement.where(run.c.cluster == cluster)
    if status is not None:
        statement = statement.where(run.c.status == status)
    if compared:
        statement = statement.where(COMPARED)
    if before is not None:
        statement = statement.where(_older(run.c.started_at, run.c.id, before))
    return _rows(warehouse, statement)


def _older(moment: sa.Column[Any], number: sa.Column[Any], before: int) -> sa.ColumnElement[bool]:
    """Return whether a row stands behind row ``before`` in a list that has the newest ``moment`` first."""
    this = sa.select(moment).where(number == before).scalar_subquery()
    return (moment < this) | ((moment == this) & (number < before))


def _rows(warehouse: Warehouse, statement: sa.Select[Any]) -> list[dict[str, Any]]:
    return warehouse.read(lambda connection: [dict(row) for row in connection.execute(statement).mappings()])


def runs_of_dag_run(warehouse: Warehouse, dag_id: str, run_id: str) -> list[dict[str, Any]]:
    """Return what one run of a DAG has stored: usually one run, or one for each cluster that it measured."""
    statement = (
        sa.select(*(run.c[name] for name in _LISTED))
        .where(run.c.dag_id == dag_id, run.c.run_id == run_id, ~run.c.superseded)
        .order_by(run.c.cluster)
    )
    return _rows(warehouse, statement)


def neighbours(warehouse: Warehouse, dags: Collection[str], number: int) -> tuple[int | None, int | None]:
    """Return the runs before and after run ``number`` on the same cluster, None where there is none."""
    this = sa.select(run.c.cluster, run.c.started_at).where(run.c.id == number).subquery()
    cluster, started = (sa.select(this.c[name]).scalar_subquery() for name in ("cluster", "started_at"))
    wanted = (run.c.cluster == cluster, run.c.dag_id.in_(sorted(dags)), ~run.c.superseded)
    others = sa.select(run.c.id).where(*wanted).limit(1)
    before = others.where(run.c.started_at < started).order_by(*NEWEST_FIRST)
    after = others.where(run.c.started_at > started).order_by(run.c.started_at, run.c.id)
    return warehouse.read(
        lambda connection: (connection.execute(before).scalar(), connection.execute(after).scalar())
    )


def origins(warehouse: Warehouse, numbers: Collection[int]) -> dict[int, Origin]:
    """Return run → what of it is not real."""
    flags = [is_true(run.c.environment, name) for name in ("emulated", "generated")]
    statement = sa.select(run.c.id, *flags).where(run.c.id.in_(list(numbers)))
    return warehouse.read(
        lambda connection: {
            number: Origin(bool(emulated), bool(generated))
            for number, emulated, generated in connection.execute(statement)
        }
    )


def trend_frame(
    warehouse: Warehouse,
    cluster: str,
    dags: Collection[str],
    *,
    scenario: str,
    metric: str,
    since: datetime,
    until: datetime,
    version: str | None = None,
) -> pd.DataFrame:
    """Return one row per valid run, oldest first, of one scenario and metric.

    Columns: run_id (the run's number), dag_id, started_at, is_night (else it was started by hand), scenario,
    metric, unit, off_median, on_median, change, ci_low, ci_high, verdict, and what the figures depend on
    (ENVIRONMENT, and plan as it is stored).
    """
    from bigtcp_bench.warehouse.frames import frame_of

    of_comparison = ("unit", "off_median", "on_median", "change", "ci_low", "ci_high", "verdict")
    statement = (
        sa.select(
            run.c.id.label("run_id"),
            run.c.dag_id,
            run.c.started_at,
            run.c.is_night,
            comparison.c.scenario,
            comparison.c.metric,
            *(comparison.c[name] for name in of_comparison),
            *(run.c[name] for name in ENVIRONMENT),
            run.c.plan,
        )
        .join(comparison, comparison.c.run_id == run.c.id)
        .where(
            COMPARED,
            run.c.cluster == cluster,
            run.c.dag_id.in_(sorted(dags)),
            run.c.started_at >= since,
            run.c.started_at < until,
            comparison.c.metric == metric,
            comparison.c.scenario == scenario,
        )
        .order_by(run.c.started_at, run.c.id)
    )
    if version is not None:
        statement = statement.where(run.c.cilium_version == version)
    return warehouse.read(lambda connection: frame_of(connection, statement))


def versions(warehouse: Warehouse, cluster: str, dags: Collection[str]) -> list[str]:
    """Return the Cilium versions that valid runs of ``cluster`` had, the one that was seen last first."""
    last = sa.func.max(run.c.started_at)
    statement = (
        sa.select(run.c.cilium_version)
        .where(VALID, run.c.cluster == cluster, run.c.dag_id.in_(sorted(dags)), run.c.cilium_version.is_not(None))
        .group_by(run.c.cilium_version)
        .order_by(last.desc())
    )
    return warehouse.read(lambda connection: list(connection.execute(statement).scalars()))


def nights_of_version(
    warehouse: Warehouse, cluster: str, dags: Collection[str], version: str, *, nights: int
) -> pd.DataFrame:
    """Return run_id, started_at, scenario, metric, off_median, on_median and verdict of judged comparisons.

    They are of the newest ``nights`` valid runs of ``cluster`` that had this Cilium and compared both arms.
    """
    from bigtcp_bench.warehouse.frames import frame_of

    newest = (
        sa.select(run.c.id, run.c.started_at)
        .where(
            COMPARED,
            run.c.cluster == cluster,
            run.c.cilium_version == version,
            run.c.dag_id.in_(sorted(dags)),
        )
        .order_by(*NEWEST_FIRST)
        .limit(nights)
        .subquery()
    )
    names = ("scenario", "metric", "off_median", "on_median", "verdict")
    statement = (
        sa.select(newest.c.id.label("run_id"), newest.c.started_at, *(comparison.c[name] for name in names))
        .join(comparison, comparison.c.run_id == newest.c.id)
        .where(comparison.c.metric.in_(JUDGED))
    )
    return warehouse.read(lambda connection: frame_of(connection, statement))


def scenarios_of(warehouse: Warehouse, cluster: str, dags: Collection[str]) -> set[str]:
    """Return the scenarios that the newest runs of ``cluster`` compared."""
    newest = (
        sa.select(run.c.id)
        .where(VALID, run.c.cluster == cluster, run.c.dag_id.in_(sorted(dags)))
        .order_by(*NEWEST_FIRST)
        .limit(_RECENT)
    )
    statement = sa.select(comparison.c.scenario).where(comparison.c.run_id.in_(newest)).distinct()
    return set(warehouse.read(lambda connection: connection.execute(statement).scalars().all()))


def incidents(
    warehouse: Warehouse,
    clusters: Collection[str],
    *,
    cluster: str | None = None,
    is_open: bool | None = None,
    before: int | None = None,
    limit: int = 50,
) -> list[dict[str, Any]]:
    """Return incidents of ``clusters``, the newest first, without their series.

    ``is_open`` limits them to open or to closed ones, ``before`` to those older than that incident.
    """
    statement = (
        sa.select(incident)
        .where(incident.c.cluster.in_(sorted(clusters)))
        .order_by(incident.c.suspected_on.desc(), incident.c.id.desc())
        .limit(limit)
    )
    if cluster is not None:
        statement = statement.where(incident.c.cluster == cluster)
    if is_open is not None:
        statement = statement.where(
            incident.c.closed_on.is_(None) if is_open else incident.c.closed_on.is_not(None)
        )
    if before is not None:
        statement = statement.where(_older(incident.c.suspected_on, incident.c.id, before))
    return _rows(warehouse, statement)


def has_prometheus(warehouse: Warehouse, number: int) -> bool:
    """Return whether a run has figures from Prometheus."""
    statement = sa.select(sa.exists().where(prometheus.c.run_id == number))
    return bool(warehouse.read(lambda connection: connection.execute(statement).scalar()))


def document_keys(warehouse: Warehouse, number: int) -> list[DocumentKey]:
    """Return the places and sizes of a run's raw documents, in order; none after they were pruned."""
    columns = (raw.c.block, raw.c.generation, raw.c.kind, raw.c.scenario, raw.c.repetition)
    statement = (
        sa.select(*columns, sa.func.length(raw.c.document))
        .where(raw.c.run_id == number)
        .order_by(*raw.primary_key)
    )
    return warehouse.read(lambda connection: [DocumentKey(*row) for row in connection.execute(statement)])


def document(warehouse: Warehouse, number: int, key: Sequence[Any]) -> RawDocument:
    """Return one raw document; ``key`` is block, generation, kind, scenario and repetition.

    Raises InvalidInput if it is not stored.
    """
    columns = [column for column in raw.c if column.name != "run_id"]
    names = ("block", "generation", "kind", "scenario", "repetition")
    statement = sa.select(*columns).where(
        raw.c.run_id == number, *(raw.c[name] == value for name, value in zip(names, key, strict=True))
    )
    row = warehouse.read(lambda connection: connection.execute(statement).mappings().first())
    if row is None:
        raise InvalidInput(f"run {number} has no such document; it may have been pruned")
    return RawDocument.model_validate(dict(row))


def incidents_of_series(warehouse: Warehouse, cluster: str, scenario: str, metric: str) -> list[dict[str, Any]]:
    """Return the incidents of ``cluster`` that cover one series, oldest first; dismissed ones are left out."""
    covered = sa.exists().where(
        incident_member.c.incident_id == incident.c.id,
        incident_member.c.scenario == scenario,
        incident_member.c.metric == metric,
    )
    statement = (
        sa.select(incident)
        .where(incident.c.cluster == cluster, incident.c.state != "dismissed", covered)
        .order_by(incident.c.suspected_on, incident.c.id)
    )
    return _rows(warehouse, statement)
