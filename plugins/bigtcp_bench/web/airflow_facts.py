"""What Airflow itself knows of the DAGs: when the next run is due."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from airflow.models.dag import DagModel
from airflow.utils.session import create_session
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError


@dataclass(frozen=True)
class NextRun:
    """When a DAG runs next: ``due`` is None when nothing is planned, and ``reason`` then says why."""

    dag_id: str
    due: datetime | None = None
    reason: str = ""


def next_runs(dag_ids: Collection[str]) -> dict[str, NextRun]:
    """Return the next run of each DAG, from Airflow's own database."""
    columns = (DagModel.dag_id, DagModel.is_paused, DagModel.is_stale, DagModel.next_dagrun_create_after)
    try:
        with create_session(scoped=False) as session:
            rows = session.execute(select(*columns).where(DagModel.dag_id.in_(sorted(dag_ids)))).all()
    except SQLAlchemyError:
        # The pages are worth showing even when this one line of them cannot be filled.
        return {dag_id: NextRun(dag_id, reason="Airflow's database does not say") for dag_id in dag_ids}
    found = {
        dag_id: NextRun(dag_id, due if not (paused or stale) else None, _reason(paused, stale, due))
        for dag_id, paused, stale, due in rows
    }
    return {
        dag_id: found.get(dag_id, NextRun(dag_id, reason="Airflow no longer has this DAG")) for dag_id in dag_ids
    }


def _reason(paused: bool, stale: bool, due: datetime | None) -> str:
    if stale:
        return "Airflow no longer finds the DAG's file"
    if paused:
        return "the DAG is paused"
    return "" if due is not None else "the DAG has no schedule"
