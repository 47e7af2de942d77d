"""What a run measured: blocks, results, counters, packet sizes, and the documents they were made of."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.warehouse import schema
from bigtcp_bench.warehouse.connected import Connected, with_run
from bigtcp_bench.warehouse.records import (
    BlockRecord,
    CounterRow,
    FailureRow,
    PacketSizeRow,
    PodCounterRow,
    PrometheusRow,
    RawDocument,
    ResultRow,
    row_of,
    rows_of,
)
from bigtcp_bench.warehouse.upsert import upsert

if TYPE_CHECKING:
    import pandas as pd

    from bigtcp_bench.planning.plan import Arm

_RESULT_COLUMNS = ("block", "arm", "generation", "scenario", "repetition", "metric", "value", "unit")


class Measurements(Connected):
    """The rows that a run stores while it measures."""

    def store_block(self, run_id: int, block: BlockRecord | Mapping[str, Any]) -> None:
        """Store a block of a run, or set those of its columns that are given."""
        record = row_of(BlockRecord, block, f"block of run {run_id}")
        given = {"run_id": run_id, **record.model_dump(exclude_unset=True)}
        row = given | {"purpose": record.purpose}
        self.write(lambda connection: upsert(connection, schema.block, [row], update=given))

    def store_generation(
        self,
        run_id: int,
        block: int,
        generation: int,
        *,
        results: Iterable[Any],
        failures: Iterable[Any] = (),
        counters: Iterable[Any] = (),
        raw: Iterable[Any] = (),
    ) -> None:
        """Store all that one generation measured, in place of what was stored of it before.

        A generation that is measured again (its task was retried) thereby never mixes with its first attempt.
        """
        where = f"generation {generation} of block {block} of run {run_id}"
        parts: list[tuple[sa.Table, Sequence[Any]]] = [
            (schema.result, rows_of(ResultRow, results, f"results of {where}")),
            (schema.failure, rows_of(FailureRow, failures, f"failures of {where}")),
            (schema.pod_counter, rows_of(PodCounterRow, counters, f"counters of {where}")),
            (schema.raw, rows_of(RawDocument, raw, f"documents of {where}")),
        ]
        for _table, rows in parts:
            for row in rows:
                if (row.block, row.generation) != (block, generation):
                    raise InvalidInput(
                        f"{where}: a row belongs to generation {row.generation} of block {row.block} instead"
                    )

        def work(connection: sa.Connection) -> None:
            for table, rows in parts:
                columns = table.c
                connection.execute(
                    sa.delete(table).where(
                        columns.run_id == run_id, columns.block == block, columns.generation == generation
                    )
                )
                upsert(connection, table, with_run(run_id, rows))

        self.write(work)

    def store_results(self, run_id: int, rows: Iterable[Any]) -> None:
        """Store measurements (fields of ResultRow: one metric of one repetition each)."""
        self._store(run_id, schema.result, ResultRow, rows)

    def store_failures(self, run_id: int, rows: Iterable[Any]) -> None:
        """Store repetitions that have no measurement, with the reason (fields of FailureRow)."""
        self._store(run_id, schema.failure, FailureRow, rows)

    def store_counters(self, run_id: int, rows: Iterable[Any]) -> None:
        """Store the growth of counters per block and node (fields of CounterRow)."""
        self._store(run_id, schema.counter, CounterRow, rows)

    def store_prometheus(self, run_id: int, rows: Iterable[Any]) -> None:
        """Store what Prometheus knew of blocks (fields of PrometheusRow: one series of one query each)."""
        self._store(run_id, schema.prometheus, PrometheusRow, rows)

    def store_pod_counters(self, run_id: int, rows: Iterable[Any]) -> None:
        """Store the growth of the pods' counters per repetition (fields of PodCounterRow)."""
        self._store(run_id, schema.pod_counter, PodCounterRow, rows)

    def store_packet_sizes(self, run_id: int, rows: Iterable[Any]) -> None:
        """Store the packet sizes of blocks (fields of PacketSizeRow), in place of those stored before."""
        checked = rows_of(PacketSizeRow, rows, f"packet_size of run {run_id}")
        columns = schema.packet_size.c
        of_blocks = columns.block.in_({row.block for row in checked})

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(schema.packet_size).where(columns.run_id == run_id, of_blocks))
            upsert(connection, schema.packet_size, with_run(run_id, checked))

        self.write(work)

    def store_raw(self, run_id: int, rows: Iterable[Any]) -> None:
        """Store documents of the pods' agent, compressed as they came (fields of RawDocument)."""
        self._store(run_id, schema.raw, RawDocument, rows)

    def results_frame(self, run_id: int, *, purpose: str | None = None) -> pd.DataFrame:
        """Return block, arm, generation, scenario, repetition, metric, value and unit of every measurement.

        ``purpose`` limits them to blocks stored with that purpose (``plan`` or ``rerun``).
        """
        columns = schema.result.c
        statement = (
            sa.select(*(columns[name] for name in _RESULT_COLUMNS))
            .where(columns.run_id == run_id)
            .order_by(*schema.result.primary_key)
        )
        if purpose is not None:
            block = schema.block
            statement = statement.join(
                block, (block.c.run_id == columns.run_id) & (block.c.block == columns.block)
            ).where(block.c.purpose == purpose)
        return self._frame(statement)

    def blocks_frame(self, run_id: int) -> pd.DataFrame:
        """Return block, arm, purpose, started_at, finished_at and switch_report of every block of a run."""
        return self._frame_of_run(schema.block, run_id)

    def open_blocks(self, run_id: int) -> dict[int, Arm]:
        """Return the number and the arm of every block of a run whose end was not noted."""
        columns = schema.block.c
        statement = sa.select(columns.block, columns.arm).where(
            columns.run_id == run_id, columns.finished_at.is_(None)
        )
        return {row.block: row.arm for row in self.read(lambda connection: connection.execute(statement).all())}

    def failures_frame(self, run_id: int) -> pd.DataFrame:
        """Return block, generation, scenario, repetition, arm and reason of every failed repetition of a run."""
        return self._frame_of_run(schema.failure, run_id)

    def counters_frame(self, run_id: int) -> pd.DataFrame:
        """Return block, node, counter, arm and value of every counter of a run."""
        return self._frame_of_run(schema.counter, run_id)

    def prometheus_frame(self, run_id: int) -> pd.DataFrame:
        """Return block, query, series (JSON), arm, unit, mean, lowest, highest and samples, for one run."""
        return self._frame_of_run(schema.prometheus, run_id)

    def pod_counters_frame(self, run_id: int) -> pd.DataFrame:
        """Return block, generation, scenario, repetition, end, counter, arm and value of every pod counter."""
        return self._frame_of_run(schema.pod_counter, run_id)

    def packet_sizes_frame(self, run_id: int) -> pd.DataFrame:
        """Return block, family, end, direction, upper_bytes, arm, packets and bytes of every packet size."""
        return self._frame_of_run(schema.packet_size, run_id)

    def raw_documents(
        self, run_id: int, *, block: int | None = None, repetitions: bool = True
    ) -> list[RawDocument]:
        """Return the documents of a run, in order; none after they were pruned.

        With ``block`` only those of that block as a whole, such as its nodes' counters. ``repetitions`` are most
        of them by far.
        """
        columns = [column for column in schema.raw.c if column.name != "run_id"]
        statement = sa.select(*columns).where(schema.raw.c.run_id == run_id).order_by(*schema.raw.primary_key)
        if block is not None:
            statement = statement.where(schema.raw.c.block == block, schema.raw.c.generation == 0)
        if not repetitions:
            statement = statement.where(schema.raw.c.kind != "repetition")
        rows = self.read(lambda connection: connection.execute(statement).mappings().all())
        return [RawDocument.model_validate(dict(row)) for row in rows]

    def prune(self, keep_days: int, *, now: datetime | None = None) -> int:
        """Delete raw documents of runs older than ``keep_days`` and return how many; results are never touched.

        One run at a time, so that tonight's run never waits long. On SQLite the file shrinks, too.
        """
        if keep_days < 0:
            raise InvalidInput(f"keep_days = {keep_days}: must be 0 or more")
        cutoff = (now or datetime.now(UTC)) - timedelta(days=keep_days)
        raw, run = schema.raw.c, schema.run.c
        has_raw = sa.exists().where(raw.run_id == run.id)
        old = sa.select(run.id).where(run.started_at < cutoff, has_raw).order_by(run.id)
        deleted = 0
        for run_id in self.read(lambda connection: list(connection.execute(old).scalars())):
            deleted += self.write(partial(_delete_raw, run_id))
        if deleted and self.engine.dialect.name == "sqlite":
            _shrink(self.engine)
        return deleted


def _delete_raw(run_id: int, connection: sa.Connection) -> int:
    return connection.execute(sa.delete(schema.raw).where(schema.raw.c.run_id == run_id)).rowcount


def _shrink(engine: sa.Engine) -> None:
    # The pragma gives back one page for each of its rows that is fetched; of all calls of Python's driver only
    # executescript fetches rows without columns. Another writer in the way is no harm: the next pruning shrinks.
    with closing(engine.raw_connection()) as connection, suppress(sqlite3.OperationalError):
        driver: Any = connection.driver_connection
        driver.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE);")
