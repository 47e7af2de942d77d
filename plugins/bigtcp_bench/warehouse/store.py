"""The warehouse itself: every write and read of a run's rows, each in one transaction, each repeatable."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import URL
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from bigtcp_bench import __version__
from bigtcp_bench.errors import InvalidInput, WarehouseError, WrongVersion
from bigtcp_bench.planning.plan import Plan, validate_plan
from bigtcp_bench.settings import without_secrets
from bigtcp_bench.warehouse import migrate, schema
from bigtcp_bench.warehouse.engine import WRITES, engine_of, is_transient, prepared
from bigtcp_bench.warehouse.records import (
    BlockRecord,
    ComparisonRow,
    CounterRow,
    DiagnosisRow,
    FailureRow,
    JudgementRow,
    NoiseRow,
    PacketSizeRow,
    PodCounterRow,
    PrometheusRow,
    RawDocument,
    ResultRow,
    RunFields,
    RunRecord,
    RunStatus,
    row_of,
    rows_of,
)
from bigtcp_bench.warehouse.upsert import insert_into, upsert

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")

#: What helps where the database's encoding lacks a character.
_UTF8 = "; a database that is made with ENCODING 'UTF8' holds every text"

#: What a figure depends on beside BIG TCP: a change in one of these begins a new epoch of a series.
ENVIRONMENT = (
    "client_node",
    "server_node",
    "client_kernel",
    "server_kernel",
    "nic_driver",
    "nic_tso_max_size",
    "mtu",
    "cilium_version",
    "iperf3_version",
)

_RESULT_COLUMNS = ("block", "arm", "generation", "scenario", "repetition", "metric", "value", "unit")


class Warehouse:
    """All runs of all clusters in one database, SQLite or PostgreSQL.

    Every method is one transaction, repeated when another writer was in the way, and writing the same rows twice
    equals writing them once. Rows are mappings or objects with the fields of the models in ``records``.
    Raises InvalidInput for rows that may not be stored, and WarehouseError when the database cannot be used.
    """

    def __init__(self, url_or_engine: str | URL | sa.Engine) -> None:
        engine = prepared(url_or_engine) if isinstance(url_or_engine, sa.Engine) else engine_of(url_or_engine)
        self.engine = engine
        self._writer = engine.execution_options(**{WRITES: True})

    def __repr__(self) -> str:
        return f"Warehouse({self.url!r})"

    @property
    def url(self) -> str:
        """Return the URL without its secrets."""
        return without_secrets(self.engine.url.render_as_string(hide_password=True))

    # Version of the tables

    def migrate(self, revision: str = "head") -> tuple[str | None, str | None]:
        """Bring the tables up to ``revision``, and return their version before and after.

        Creates them in an empty database, whose version is None. Raises WrongVersion when a newer package has made
        them.
        """
        before = self.read(migrate.current)
        self._refuse_newer(before)
        self._in_one_sentence(lambda: migrate.upgrade(self.engine, revision))
        return before, self.read(migrate.current)

    def check_version(self) -> None:
        """Raise WrongVersion unless the tables are exactly of the version that this package works with."""
        found, wanted = self.read(migrate.current), migrate.head()
        if found != wanted:
            self._refuse_newer(found)
            raise WrongVersion(
                f"the tables of the warehouse {self.url} are of version {found or 'none'}, this package works "
                f"with version {wanted}: run `bigtcp-bench warehouse migrate`"
            )

    def _refuse_newer(self, found: str | None) -> None:
        if found is not None and not migrate.is_known(found):
            raise WrongVersion(
                f"the tables of the warehouse {self.url} are of version {found}, which bigtcp-bench {__version__} "
                f"(version {migrate.head()}) does not know: a newer one made them; install that one here"
            )

    # Runs

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
        self.update_run(run_id, status=status, reasons=list(reasons), finished_at=finished_at or _now())

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
        statement = (
            sa.select(*columns)
            .where(~schema.run.c.superseded)
            .order_by(schema.run.c.started_at.desc(), schema.run.c.id.desc())
            .limit(limit)
        )
        if cluster is not None:
            statement = statement.where(schema.run.c.cluster == cluster)
        if since is not None:
            statement = statement.where(schema.run.c.started_at >= since)
        return self._frame(statement)

    # Measurements

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
                upsert(connection, table, _with_run(run_id, rows))

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
            upsert(connection, schema.packet_size, _with_run(run_id, checked))

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

    def raw_documents(self, run_id: int, *, block: int | None = None) -> list[RawDocument]:
        """Return the documents of a run, in order; none after they were pruned.

        With ``block`` only those of that block as a whole, such as its nodes' counters.
        """
        columns = [column for column in schema.raw.c if column.name != "run_id"]
        statement = sa.select(*columns).where(schema.raw.c.run_id == run_id).order_by(*schema.raw.primary_key)
        if block is not None:
            statement = statement.where(schema.raw.c.block == block, schema.raw.c.generation == 0)
        rows = self.read(lambda connection: connection.execute(statement).mappings().all())
        return [RawDocument.model_validate(dict(row)) for row in rows]

    # Verdicts

    def store_comparisons(self, run_id: int, rows: Iterable[Any]) -> None:
        """Store both arms and the verdict of scenarios and metrics (fields of ComparisonRow)."""
        self._store(run_id, schema.comparison, ComparisonRow, rows)

    def store_diagnosis(self, run_id: int, rows: Iterable[Any]) -> None:
        """Store the likely causes of what is wrong with a run (fields of DiagnosisRow).

        What was stored before goes: positions given are replaced, and those after the last of them deleted.
        """
        checked = _with_run(run_id, rows_of(DiagnosisRow, rows, f"diagnosis of run {run_id}"))
        last = max((row["position"] for row in checked), default=0)
        columns = schema.diagnosis.c

        def work(connection: sa.Connection) -> None:
            upsert(connection, schema.diagnosis, checked)
            connection.execute(
                sa.delete(schema.diagnosis).where(columns.run_id == run_id, columns.position > last)
            )

        self.write(work)

    def store_noise(self, run_id: int, rows: Iterable[Any]) -> None:
        """Store what an A/A run says about the cluster's own noise (fields of NoiseRow)."""
        self._store(run_id, schema.noise, NoiseRow, rows)

    def store_judgements(self, run_id: int, rows: Iterable[Any]) -> None:
        """Store what the nights so far say about each series (fields of JudgementRow)."""
        self._store(run_id, schema.judgement, JudgementRow, rows)

    def comparisons_frame(self, run_id: int) -> pd.DataFrame:
        """Return every column of ``bigtcp_comparison`` but the run, for one run."""
        return self._frame_of_run(schema.comparison, run_id)

    def diagnosis_frame(self, run_id: int) -> pd.DataFrame:
        """Return position, cause, scenario, arm, node, sentence, strength, explains and figures, for one run."""
        return self._frame_of_run(schema.diagnosis, run_id)

    def judgements_frame(self, run_id: int) -> pd.DataFrame:
        """Return metric, scenario, state, change, since, attribution and details, for one run."""
        return self._frame_of_run(schema.judgement, run_id)

    def noise_frame(self, cluster: str) -> pd.DataFrame:
        """Return the newest known noise of a cluster: metric, scenario, level, sd (relative), n, run_id."""
        noise, run = schema.noise.c, schema.run.c
        rank = (
            sa.func.row_number()
            .over(
                partition_by=(noise.metric, noise.scenario, noise.level),
                order_by=(run.started_at.desc(), run.id.desc()),
            )
            .label("rank")
        )
        known = (
            sa.select(noise.metric, noise.scenario, noise.level, noise.sd, noise.n, noise.run_id, rank)
            .join(schema.run, run.id == noise.run_id)
            .where(run.cluster == cluster, run.status == "valid", ~run.superseded)
            .subquery()
        )
        columns = [column for column in known.c if column.name != "rank"]
        statement = (
            sa.select(*columns).where(known.c.rank == 1).order_by(known.c.metric, known.c.scenario, known.c.level)
        )
        return self._frame(statement)

    def series_frame(
        self,
        cluster: str,
        *,
        metrics: Sequence[str] | None = None,
        scenarios: Sequence[str] | None = None,
        nights: int = 400,
        until_run: int | None = None,
        only_nights: bool = False,
    ) -> pd.DataFrame:
        """Return the history that a night is judged from: one row per run × metric × scenario, oldest first.

        Columns: run_id, started_at, is_night, metric, scenario, off_median, on_median, change, ci_low, ci_high,
        verdict, plan (as it is stored) and ENVIRONMENT. Only valid runs that compared both arms, the newest
        ``nights`` of them; with ``until_run`` that run, whatever its status, and those of the same plan that
        started before it. ``only_nights`` leaves runs by hand out.
        """
        from bigtcp_bench.warehouse.frames import frame_of

        run, comparison = schema.run.c, schema.comparison.c
        counted = (run.status == "valid") & ~run.is_aa & ~run.superseded
        if only_nights:
            counted &= run.is_night
        chosen = (
            sa.select(
                run.id.label("run_id"),
                run.started_at,
                run.is_night,
                *(run[name] for name in ENVIRONMENT),
                run.plan,
            )
            .where(run.cluster == cluster)
            .order_by(run.started_at.desc(), run.id.desc())
            .limit(nights)
        )
        if until_run is None:
            chosen = chosen.where(counted)
        else:
            this = sa.select(run.started_at, run.plan_name).where(run.id == until_run).subquery()
            end = sa.select(this.c.started_at).scalar_subquery()
            plan = sa.select(this.c.plan_name).scalar_subquery()
            before = (run.started_at < end) & counted & run.plan_name.is_not_distinct_from(plan)
            chosen = chosen.where(run.started_at <= end, before | (run.id == until_run))
        names = ("metric", "scenario", "off_median", "on_median", "change", "ci_low", "ci_high", "verdict")
        rows = sa.select(comparison.run_id, *(comparison[name] for name in names))
        if metrics is not None:
            rows = rows.where(comparison.metric.in_(list(metrics)))
        if scenarios is not None:
            rows = rows.where(comparison.scenario.in_(list(scenarios)))

        def work(connection: sa.Connection) -> pd.DataFrame:
            runs = frame_of(connection, chosen)
            ids = [int(run_id) for run_id in runs["run_id"]]
            found = frame_of(connection, rows.where(comparison.run_id.in_(ids)))
            merged = runs.merge(found, on="run_id")
            ordered = merged.sort_values(["started_at", "run_id", "metric", "scenario"], ignore_index=True)
            return ordered[["run_id", "started_at", "is_night", *names, "plan", *ENVIRONMENT]]

        return self.read(work)

    # Housekeeping

    def prune(self, keep_days: int, *, now: datetime | None = None) -> int:
        """Delete raw documents of runs older than ``keep_days`` and return how many; results are never touched.

        One run at a time, so that tonight's run never waits long. On SQLite the file shrinks, too.
        """
        if keep_days < 0:
            raise InvalidInput(f"keep_days = {keep_days}: must be 0 or more")
        cutoff = (now or _now()) - timedelta(days=keep_days)
        raw, run = schema.raw.c, schema.run.c
        has_raw = sa.exists().where(raw.run_id == run.id)
        old = sa.select(run.id).where(run.started_at < cutoff, has_raw).order_by(run.id)
        deleted = 0
        for run_id in self.read(lambda connection: list(connection.execute(old).scalars())):
            deleted += self.write(partial(_delete_raw, run_id))
        if deleted and self.engine.dialect.name == "sqlite":
            _shrink(self.engine)
        return deleted

    # Transactions

    def read(self, work: Callable[[sa.Connection], T]) -> T:
        """Return ``work(connection)``, run in one read transaction."""

        def once() -> T:
            with self.engine.begin() as connection:
                return work(connection)

        return self._repeated(once)

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Return ``work(connection)``, run in one write transaction; repeated if another writer was in the way."""

        def once() -> T:
            with self._writer.begin() as connection:
                return work(connection)

        return self._repeated(once)

    def _repeated(self, once: Callable[[], T]) -> T:
        retrying = Retrying(
            retry=retry_if_exception(is_transient),
            stop=stop_after_attempt(5),
            wait=wait_random_exponential(multiplier=0.1, max=3),
            reraise=True,
        )
        return self._in_one_sentence(lambda: retrying(once))

    def _in_one_sentence(self, call: Callable[[], T]) -> T:
        try:
            return call()
        # What is wrong with a value is said to whoever gave it, who need not know where the warehouse is.
        except IntegrityError as error:
            raise InvalidInput(
                f"the warehouse refuses a row, probably of an unknown run: {_first_line(error)}"
            ) from error
        except UnicodeEncodeError as error:
            found = error.object[error.start]
            raise InvalidInput(
                f"a text holds {found!a} (U+{ord(found):04X}), which the warehouse's database cannot hold: "
                f"its encoding is {error.encoding}{_UTF8}"
            ) from error
        except DataError as error:
            found = _first_line(error)
            advice = _UTF8 if "in encoding" in found else ""
            raise InvalidInput(
                f"the warehouse's database cannot hold or compare a value: {found}{advice}"
            ) from error
        except OverflowError as error:
            raise InvalidInput(f"the warehouse's database cannot hold or compare a value: {error}") from error
        except DBAPIError as error:
            missing = getattr(error.orig, "sqlstate", "") == "42P01" or "no such table" in str(error.orig)
            advice = ": run `bigtcp-bench warehouse migrate`" if missing else ""
            raise WarehouseError(
                f"the warehouse {self.url} cannot be used: {_first_line(error)}{advice}"
            ) from error

    # Rows

    def _store(self, run_id: int, table: sa.Table, model: Any, rows: Iterable[Any]) -> None:
        name = table.name.removeprefix("bigtcp_")
        checked = _with_run(run_id, rows_of(model, rows, f"{name} of run {run_id}"))
        self.write(lambda connection: upsert(connection, table, checked))

    # Frames

    def _frame_of_run(self, table: sa.Table, run_id: int) -> pd.DataFrame:
        columns = [column for column in table.c if column.name != "run_id"]
        return self._frame(sa.select(*columns).where(table.c.run_id == run_id).order_by(*table.primary_key))

    def _frame(self, statement: sa.Select[Any]) -> pd.DataFrame:
        from bigtcp_bench.warehouse.frames import frame_of

        return self.read(lambda connection: frame_of(connection, statement))


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
    insert = insert_into(connection, schema.run).values(values)
    statement = insert.on_conflict_do_update(
        index_elements=["cluster", "dag_id", "run_id", "attempt"],
        set_={name: insert.excluded[name] for name in values if name not in kept},
    )
    number = int(connection.execute(statement.returning(columns.id)).scalar_one())
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


def _with_run(run_id: int, rows: Sequence[Any]) -> list[dict[str, Any]]:
    # No row holds another model, so there is nothing to dump within it.
    return [{"run_id": run_id, **vars(row)} for row in rows]


def _delete_raw(run_id: int, connection: sa.Connection) -> int:
    return connection.execute(sa.delete(schema.raw).where(schema.raw.c.run_id == run_id)).rowcount


def _shrink(engine: sa.Engine) -> None:
    # The pragma gives back one page for each of its rows that is fetched; of all calls of Python's driver only
    # executescript fetches rows without columns. Another writer in the way is no harm: the next pruning shrinks.
    with closing(engine.raw_connection()) as connection, suppress(sqlite3.OperationalError):
        driver: Any = connection.driver_connection
        driver.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE);")


def _now() -> datetime:
    return datetime.now(UTC)


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0]
