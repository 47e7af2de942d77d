"""Runs and their attempts: how each began, went on and ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.planning.plan import Plan, validate_plan
from bigtcp_bench.warehouse import schema
from bigtcp_bench.warehouse.connected import Connected
from bigtcp_bench.warehouse.records import (
    RunFields,
    RunRecord,
    RunStatus,
    row_of,
)
from bigtcp_bench.warehouse.upsert import insert_or_update

if TYPE_CHECKING:
    import pandas as pd


class Runs(Connected):
    """The rows of ``bigtcp_run``."""

    def start_run(self, run: RunRecord | Mapping[str, Any]) -> int:
        """Store the beginning of an attempt of a run, and return its number.

        A task that is tried again finds the attempt that goes on, as long as nothing is measured, and begins it
        once more. A run that is cleared and begins again after that gets a new attempt, a row of its own, and all
        earlier ones are superseded. With an attempt named, its row is written, whatever is there.
        """
        record = row_of(RunRecord, run, "run")
        return self.write(lambda connection: _begin(connection, record))

    def update_run(self, run_id: int, **columns: Any) -> None:
        """Set ``columns`` of a run. Raises InvalidInput for an unknown column, a bad value or an unknown run."""
        values = row_of(RunFields, columns, f"run {run_id}").model_dump(exclude_unset=True)
        if not values:
            return
        statement = sa.update(schema.run).where(schema.run.c.id == run_id).values(values)
        if self.write(lambda connection: connection.execute(statement).rowcount) == 0:
            raise InvalidInput(f"run {run_id} is not in the warehouse {self.url}")

    def finish_run(
        self,
        run_id: int,
        status: RunStatus,
        reasons: Sequence[str] = (),
        *,
        finished_at: datetime | None = None,
    ) -> None:
        """Store how a run ended: ``valid``, ``invalid`` or ``failed``, and why."""
        self.update_run(run_id, status=status, reasons=list(reasons), finished_at=finished_at or datetime.now(UTC))

    def find_run(self, cluster: str, dag_id: str, run_id: str) -> int | None:
        """Return the number of an Airflow run's newest attempt, or None when it is not stored."""
        statement = sa.select(schema.run.c.id).where(_named(cluster, dag_id, run_id), ~schema.run.c.superseded)
        return self.read(lambda connection: connection.execute(statement).scalar())

    def attempts(self, run_id: int) -> list[int]:
        """Return the numbers of all attempts of the Airflow run that ``run_id`` is one of, the first one first."""
        this = sa.select(schema.run.c.cluster, schema.run.c.dag_id, schema.run.c.run_id).where(
            schema.run.c.id == run_id
        )
        columns = schema.run.c
        statement = (
            sa.select(columns.id)
            .where(sa.tuple_(columns.cluster, columns.dag_id, columns.run_id).in_(this))
            .order_by(columns.attempt)
        )
        return self.read(lambda connection: list(connection.execute(statement).scalars()))

    def run(self, run_id: int) -> dict[str, Any]:
        """Return every column of a run; moments in UTC, JSON as Python values. Raises InvalidInput if unknown."""
        statement = sa.select(schema.run).where(schema.run.c.id == run_id)
        row = self.read(lambda connection: connection.execute(statement).mappings().first())
        if row is None:
            raise InvalidInput(f"run {run_id} is not in the warehouse {self.url}")
        return dict(row)

    def plan_of(self, run_id: int) -> Plan:
        """Return the plan of a run. Raises InvalidInput if the run is unknown or has none."""
        plan = self.run(run_id)["plan"]
        if plan is None:
            raise InvalidInput(f"run {run_id} has no plan in the warehouse {self.url}")
        return validate_plan(plan, f"plan of run {run_id}")

    def clusters(self) -> list[str]:
        """Return the names of the clusters that have runs, sorted."""
        statement = sa.select(schema.run.c.cluster).distinct().order_by(schema.run.c.cluster)
        return self.read(lambda connection: list(connection.execute(statement).scalars()))

    def runs_frame(
        self, cluster: str | None = None, *, since: datetime | None = None, limit: int = 100
    ) -> pd.DataFrame:
        """Return the newest ``limit`` runs, newest first: every column but the wide JSON ones, and ``reasons``.

        Of each run the newest attempt.
        """
        columns = [c for c in schema.run.c if not isinstance(c.type, schema.Json) or c.name == "reasons"]
        statement = sa.select(*columns).where(~schema.run.c.superseded).order_by(*schema.NEWEST_FIRST).limit(limit)
        if cluster is not None:
            statement = statement.where(schema.run.c.cluster == cluster)
        if since is not None:
            statement = statement.where(schema.run.c.started_at >= since)
        return self._frame(statement)


def _named(cluster: str, dag_id: str, run_id: str) -> sa.ColumnElement[bool]:
    columns = schema.run.c
    return sa.and_(columns.cluster == cluster, columns.dag_id == dag_id, columns.run_id == run_id)


def _begin(connection: sa.Connection, record: RunRecord) -> int:
    named = _named(record.cluster, record.dag_id, record.run_id)
    columns = schema.run.c
    newest = connection.execute(
        sa.select(columns.id, columns.attempt, columns.status)
        .where(named)
        .order_by(columns.attempt.desc())
        .limit(1)
        .with_for_update()
    ).first()
    again = record.attempt
    if again is None:
        again = 1
        if newest is not None:
            goes_on = newest.status == "running" and not _has_rows(connection, newest.id)
            again = newest.attempt + (0 if goes_on else 1)
    values = record.model_dump() | {"attempt": again, "superseded": newest is not None and newest.attempt > again}
    # Begun once more, it has nothing left of before but its message in Slack, and its start unless one is given.
    kept = {"id", "slack_channel", "slack_ts", "started_at"} - record.model_fields_set
    changed = tuple(name for name in values if name not in kept)
    key = ("cluster", "dag_id", "run_id", "attempt")
    statement = insert_or_update(connection.dialect.name, schema.run, key, changed).returning(columns.id)
    number = int(connection.execute(statement, values).scalar_one())
    if again > 1:
        _supersede(connection, sa.and_(named, columns.attempt < again, ~columns.superseded))
    return number


def _supersede(connection: sa.Connection, which: sa.ColumnElement[bool]) -> None:
    """Mark attempts as earlier ones: one that went on has failed, and what waits to be told of it is not."""
    columns, waiting = schema.run.c, schema.outbox.c
    rows = connection.execute(sa.select(columns.id, columns.status, columns.reasons).where(which)).all()
    for number, status, reasons in rows:
        values: dict[str, Any] = {"superseded": True}
        if status == "running":
            values |= {"status": "failed", "reasons": [*reasons, "the run was cleared before it had ended"]}
        connection.execute(sa.update(schema.run).where(columns.id == number).values(values))
        unsent = waiting.sent_at.is_(None) & waiting.attempted_at.is_(None)
        connection.execute(sa.delete(schema.outbox).where(waiting.run_id == number, waiting.kind == "run", unsent))


def _has_rows(connection: sa.Connection, run_id: int) -> bool:
    tables = (schema.block, schema.result, schema.failure, schema.raw, schema.comparison)
    return any(
        connection.execute(sa.select(sa.literal(1)).where(table.c.run_id == run_id).limit(1)).scalar()
        for table in tables
    )
