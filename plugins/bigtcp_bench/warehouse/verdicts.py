"""What a run says: both arms beside each other, noise, judgements across nights, and likely causes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from bigtcp_bench.warehouse import schema
from bigtcp_bench.warehouse.connected import Connected, with_run
from bigtcp_bench.warehouse.records import (
    ComparisonRow,
    DiagnosisRow,
    JudgementRow,
    NoiseRow,
    rows_of,
)
from bigtcp_bench.warehouse.upsert import upsert

if TYPE_CHECKING:
    import pandas as pd

#: What a comparison has of the history of its series.
_SERIES = ("metric", "scenario", "off_median", "on_median", "change", "ci_low", "ci_high", "verdict")

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


class Verdicts(Connected):
    """The rows that are made of what runs measured."""

    def store_comparisons(self, run_id: int, rows: Iterable[Any]) -> None:
        """Store both arms and the verdict of scenarios and metrics (fields of ComparisonRow)."""
        self._store(run_id, schema.comparison, ComparisonRow, rows)

    def store_diagnosis(self, run_id: int, rows: Iterable[Any]) -> None:
        """Store the likely causes of what is wrong with a run (fields of DiagnosisRow).

        What was stored before goes: positions given are replaced, and those after the last of them deleted.
        """
        checked = with_run(run_id, rows_of(DiagnosisRow, rows, f"diagnosis of run {run_id}"))
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
        of_series = (noise.metric, noise.scenario, noise.level)
        rank = sa.func.row_number().over(partition_by=of_series, order_by=schema.NEWEST_FIRST).label("rank")
        known = (
            sa.select(*of_series, noise.sd, noise.n, noise.run_id, rank)
            .join(schema.run, run.id == noise.run_id)
            .where(schema.VALID, run.cluster == cluster)
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
    ) -> pd.DataFrame:
        """Return the history of a cluster: one row per run × metric × scenario, oldest first.

        Columns: run_id, started_at, is_night, metric, scenario, off_median, on_median, change, ci_low, ci_high,
        verdict, plan (as it is stored) and ENVIRONMENT. Only valid runs that compared both arms, the newest
        ``nights`` of them; with ``until_run`` that run, whatever its status, and those of the same plan that
        started before it.
        """
        from bigtcp_bench.warehouse.frames import frame_of

        chosen, rows = _series(cluster, metrics, scenarios, nights, until_run)

        def work(connection: sa.Connection) -> pd.DataFrame:
            runs = frame_of(connection, chosen)
            ids = [int(run_id) for run_id in runs["run_id"]]
            found = frame_of(connection, rows.where(schema.comparison.c.run_id.in_(ids)))
            merged = runs.merge(found, on="run_id")
            ordered = merged.sort_values(["started_at", "run_id", "metric", "scenario"], ignore_index=True)
            return ordered[["run_id", "started_at", "is_night", *_SERIES, "plan", *ENVIRONMENT]]

        return self.read(work)

    def nights_until(
        self, cluster: str, run_id: int, *, metrics: Sequence[str], nights: int
    ) -> list[tuple[sa.RowMapping, list[sa.RowMapping]]]:
        """Return what a night is judged from: ``series_frame`` of runs that are nights, each run with its rows.

        No frame: for the few nights that most runs are judged from, making one takes longer than all the rest.
        """
        chosen, rows = _series(cluster, metrics, None, nights, run_id, only_nights=True)

        def work(connection: sa.Connection) -> list[tuple[sa.RowMapping, list[sa.RowMapping]]]:
            runs = connection.execute(chosen).mappings().all()[::-1]
            of_run: dict[int, list[sa.RowMapping]] = {}
            known = rows.where(schema.comparison.c.run_id.in_([run["run_id"] for run in runs]))
            for row in connection.execute(known).mappings():
                of_run.setdefault(row["run_id"], []).append(row)
            return [
                (run, sorted(of_run[run["run_id"]], key=lambda row: (row["metric"], row["scenario"])))
                for run in runs
                if run["run_id"] in of_run
            ]

        return self.read(work)


def _series(
    cluster: str,
    metrics: Sequence[str] | None,
    scenarios: Sequence[str] | None,
    nights: int,
    until_run: int | None,
    *,
    only_nights: bool = False,
) -> tuple[sa.Select[Any], sa.Select[Any]]:
    """Return what selects the runs of ``Verdicts.series_frame``, newest first, and the rows of whatever runs."""
    run, comparison = schema.run.c, schema.comparison.c
    counted = schema.COMPARED & run.is_night if only_nights else schema.COMPARED
    chosen = (
        sa.select(
            run.id.label("run_id"),
            run.started_at,
            run.is_night,
            *(run[name] for name in ENVIRONMENT),
            run.plan,
        )
        .where(run.cluster == cluster)
        .order_by(*schema.NEWEST_FIRST)
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
    rows = sa.select(comparison.run_id, *(comparison[name] for name in _SERIES))
    if metrics is not None:
        rows = rows.where(comparison.metric.in_(list(metrics)))
    if scenarios is not None:
        rows = rows.where(comparison.scenario.in_(list(scenarios)))
    return chosen, rows
