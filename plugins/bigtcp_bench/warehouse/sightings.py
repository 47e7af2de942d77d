"""Which cluster was looked at under which name: a name is only what somebody wrote into a connection."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from bigtcp_bench.warehouse.schema import NEWEST_FIRST, run
from bigtcp_bench.warehouse.store import Warehouse

#: Of the cluster: that of its namespace kube-system. Runs on the lab have none.
UID = run.c.environment["cluster_uid"].as_string()


@dataclass(frozen=True)
class Sighting:
    """A run that has looked at the cluster ``uid`` under the name ``cluster``, however it ended."""

    number: int
    cluster: str
    uid: str
    started_at: datetime


def newest(
    warehouse: Warehouse, *, cluster: str | None = None, not_cluster: str | None = None, uid: str | None = None
) -> Sighting | None:
    """Return the newest run that knows its cluster's uid, or None.

    Of the name ``cluster``, of any name but ``not_cluster``, of the cluster ``uid``, where these are given.
    """
    statement = (
        sa.select(run.c.id, run.c.cluster, UID, run.c.started_at)
        .where(UID.is_not(None))
        .order_by(*NEWEST_FIRST)
        .limit(1)
    )
    if cluster is not None:
        statement = statement.where(run.c.cluster == cluster)
    if not_cluster is not None:
        statement = statement.where(run.c.cluster != not_cluster)
    if uid is not None:
        statement = statement.where(uid == UID)
    found = warehouse.read(lambda connection: connection.execute(statement).first())
    return Sighting(*found) if found is not None else None
