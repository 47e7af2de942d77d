"""Which Cilium each run has measured: the newest valid run that is, or is not, of a given one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from bigtcp_bench.cluster.fingerprint import Fingerprint
from bigtcp_bench.warehouse.schema import COMPARED, NEWEST_FIRST, run
from bigtcp_bench.warehouse.sightings import UID
from bigtcp_bench.warehouse.store import Warehouse

#: Rows fetched at a time: the run that is looked for is nearly always among the first.
_PAGE = 50
_COLUMNS = (
    *("id", "dag_id", "run_id", "started_at", "images", "cilium_config", "plan"),
    *("client_node", "server_node"),
)


@dataclass(frozen=True)
class CiliumRun:
    """A valid run that compared both arms, with the Cilium, the nodes and the plan that it measured."""

    number: int
    dag_id: str
    run_id: str
    started_at: datetime
    fingerprint: Fingerprint
    plan: Mapping[str, Any]
    nodes: tuple[str, ...]
    cluster_uid: str | None

    @property
    def key(self) -> str:
        """Return the name of the Airflow run, which is the same in every warehouse it is imported into."""
        return f"{self.dag_id}/{self.run_id}"


def newest(
    warehouse: Warehouse,
    cluster: str,
    wanted: Callable[[CiliumRun], bool] = lambda _: True,
    *,
    before: int | None = None,
) -> CiliumRun | None:
    """Return the newest valid run of ``cluster`` that is ``wanted``, or None.

    A/A runs and runs that recorded no Cilium are passed over. With ``before`` only runs that started before that
    run are looked at.
    """
    statement = (
        sa.select(*(run.c[name] for name in _COLUMNS), UID.label("uid"))
        .where(COMPARED, run.c.cluster == cluster)
        .order_by(*NEWEST_FIRST)
        .execution_options(yield_per=_PAGE)
    )
    if before is not None:
        statement = statement.where(run.c.started_at < _beginning(before))

    def work(connection: sa.Connection) -> CiliumRun | None:
        with connection.execute(statement) as result:
            return next(filter(wanted, filter(None, map(_cilium_run, result.mappings()))), None)

    return warehouse.read(work)


def between(warehouse: Warehouse, cluster: str, after: int, before: int) -> list[int]:
    """Return the valid runs of ``cluster`` that compared both arms and began between two runs, oldest first."""
    within = (run.c.started_at > _beginning(after)) & (run.c.started_at < _beginning(before))
    statement = (
        sa.select(run.c.id).where(COMPARED, run.c.cluster == cluster, within).order_by(run.c.started_at, run.c.id)
    )
    return warehouse.read(lambda connection: list(connection.execute(statement).scalars()))


def first_of_version(warehouse: Warehouse, cluster: str) -> int | None:
    """Return the first valid run of the newest Cilium version of ``cluster``, None where it has had one only.

    A version that came back is as new as its last coming.
    """
    known = COMPARED & (run.c.cluster == cluster) & run.c.cilium_version.is_not(None)
    newest_of = sa.select(run.c.cilium_version).where(known).order_by(*NEWEST_FIRST).limit(1)
    others = known & (run.c.cilium_version != newest_of.scalar_subquery())
    last_before = sa.select(sa.func.max(run.c.started_at)).where(others).scalar_subquery()
    statement = (
        sa.select(run.c.id)
        .where(known, run.c.started_at > last_before)
        .order_by(run.c.started_at, run.c.id)
        .limit(1)
    )
    return warehouse.read(lambda connection: connection.execute(statement).scalar())


def _beginning(number: int) -> sa.ScalarSelect[datetime]:
    return sa.select(run.c.started_at).where(run.c.id == number).scalar_subquery()


def _cilium_run(row: sa.RowMapping) -> CiliumRun | None:
    fingerprint = Fingerprint.of_row(dict(row))
    if fingerprint is None:
        return None
    nodes = tuple(name for name in (row["client_node"], row["server_node"]) if name)
    return CiliumRun(
        number=row["id"],
        dag_id=row["dag_id"],
        run_id=row["run_id"],
        started_at=row["started_at"],
        fingerprint=fingerprint,
        plan=row["plan"] or {},
        nodes=nodes,
        cluster_uid=row["uid"],
    )
