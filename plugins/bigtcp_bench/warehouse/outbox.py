"""Messages as rows: kept before they are sent, taken by one sender at a time, in the order of their keeping.

No channel can be told to take a message only once. So a row says when an attempt was begun, and whoever finds it
without an outcome knows that the message may be there already.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa

from bigtcp_bench.warehouse.records import json_of
from bigtcp_bench.warehouse.schema import incident, outbox, run
from bigtcp_bench.warehouse.store import Warehouse
from bigtcp_bench.warehouse.upsert import insert_into

#: Seconds until a sender that took a message and fell silent is taken for dead: more than the longest attempt
#: that notify.slack allows.
LEASE_S = 240

#: How often a channel may refuse a message for what is in it. Then it is set aside: it would be refused for ever.
MAX_REFUSALS = 3

#: ``incident`` opens or goes into the thread of its incident; ``update`` changes the message that opened it.
Kind = Literal["restore", "run", "incident", "update", "digest"]


@dataclass(frozen=True)
class Draft:
    """A message to keep; ``key`` names it for ever, so that keeping it again changes nothing."""

    key: str
    kind: Kind
    payload: dict[str, Any]
    run_id: int | None = None
    incident_id: int | None = None


@dataclass(frozen=True)
class Outgoing:
    """A message to send now.

    ``doubtful_since`` is when an earlier attempt began that has no outcome: the message may be there.
    ``thread`` is channel and ts of the message that its incident's thread hangs on.
    """

    id: int
    key: str
    kind: Kind
    payload: dict[str, Any]
    run_id: int | None
    incident_id: int | None
    created_at: datetime
    doubtful_since: datetime | None
    thread: tuple[str, str] | None


@dataclass(frozen=True)
class Taken:
    """Another sender has the cluster's oldest message, at most until then."""

    until: datetime


_WAITS = outbox.c.sent_at.is_(None) & (outbox.c.refusals < MAX_REFUSALS)


def keep(warehouse: Warehouse, cluster: str, drafts: Iterable[Draft], *, now: datetime | None = None) -> int:
    """Keep all ``drafts`` in one transaction, and return how many of them are new."""
    moment = now or datetime.now(UTC)
    rows = [
        {
            "key": draft.key,
            "cluster": cluster,
            "kind": draft.kind,
            "run_id": draft.run_id,
            "incident_id": draft.incident_id,
            "payload": json_of(draft.payload),
            "created_at": moment,
            "refusals": 0,
        }
        for draft in drafts
    ]

    def work(connection: sa.Connection) -> int:
        kept = 0
        for row in rows:
            insert = insert_into(connection, outbox).values(row).on_conflict_do_nothing(index_elements=["key"])
            kept += connection.execute(insert.returning(outbox.c.id)).scalar() is not None
        return kept

    return warehouse.write(work) if rows else 0


def claim(
    warehouse: Warehouse, cluster: str, *, but: Collection[int] = (), now: datetime | None = None
) -> Outgoing | Taken | None:
    """Take the first message of ``cluster`` that waits, for LEASE_S seconds; None when there is none.

    The first is a restore that is not verified, else the oldest, so messages arrive in order and a reply never
    before its thread. Those ``but`` are left out: they have just been refused, and they hold nobody back.
    """
    moment = now or datetime.now(UTC)
    columns = outbox.c
    oldest = (
        sa.select(outbox)
        .where(columns.cluster == cluster, _WAITS, columns.id.not_in(list(but)))
        .order_by(columns.kind != "restore", columns.id)
        .limit(1)
        .with_for_update()
    )

    def work(connection: sa.Connection) -> Outgoing | Taken | None:
        row = connection.execute(oldest).mappings().first()
        if row is None:
            return None
        if row["claimed_until"] is not None and row["claimed_until"] > moment:
            return Taken(row["claimed_until"])
        values = {
            "claimed_until": moment + timedelta(seconds=LEASE_S),
            "attempted_at": row["attempted_at"] or moment,
        }
        connection.execute(sa.update(outbox).where(columns.id == row["id"]).values(values))
        return Outgoing(
            id=row["id"],
            key=row["key"],
            kind=row["kind"],
            payload=row["payload"] or {},
            run_id=row["run_id"],
            incident_id=row["incident_id"],
            created_at=row["created_at"],
            doubtful_since=row["attempted_at"],
            thread=_thread(connection, row["incident_id"]),
        )

    return warehouse.write(work)


def delivered(
    warehouse: Warehouse,
    message: Outgoing,
    *,
    channel: str | None = None,
    ts: str | None = None,
    opens_thread: bool = False,
) -> None:
    """Record that ``message`` arrived, and where; with ``opens_thread`` its incident's thread hangs there now."""
    sent = {"sent_at": datetime.now(UTC), "claimed_until": None, "attempted_at": None, "last_error": None}
    place = {"slack_channel": channel, "slack_ts": ts}

    def work(connection: sa.Connection) -> None:
        connection.execute(_unsent(message).values(**sent, channel=channel, ts=ts))
        if opens_thread and message.incident_id is not None:
            connection.execute(sa.update(incident).where(incident.c.id == message.incident_id).values(place))
        if ts is not None and message.run_id is not None:
            first = (run.c.id == message.run_id) & run.c.slack_ts.is_(None)
            connection.execute(sa.update(run).where(first).values(place))

    warehouse.write(work)


def failed(
    warehouse: Warehouse, message: Outgoing, error: str, *, doubtful: bool = False, refused: bool = False
) -> bool:
    """Record why ``message`` did not arrive, or with ``doubtful`` that it may have; the next sender takes it.

    ``refused``: for what is in it. Returns whether it is set aside, because that was one time too often.
    """
    values: dict[str, Any] = {"claimed_until": None, "last_error": error}
    if not doubtful:
        values["attempted_at"] = None
    if refused:
        values["refusals"] = outbox.c.refusals + 1
    statement = _unsent(message).values(values).returning(outbox.c.refusals)
    refusals = warehouse.write(lambda connection: connection.execute(statement).scalar())
    return refusals is not None and refusals >= MAX_REFUSALS


def set_aside(warehouse: Warehouse, cluster: str) -> list[str]:
    """Return what was wrong with each message of ``cluster`` that is set aside, oldest first."""
    columns = outbox.c
    statement = (
        sa.select(columns.key, columns.last_error)
        .where(columns.cluster == cluster, columns.sent_at.is_(None), ~_WAITS)
        .order_by(columns.id)
    )
    rows = warehouse.read(lambda connection: connection.execute(statement).all())
    return [f"{key}: {error}" for key, error in rows]


def waiting(warehouse: Warehouse, cluster: str) -> int:
    """Return how many messages of ``cluster`` are to be sent."""
    statement = sa.select(sa.func.count()).select_from(outbox).where(outbox.c.cluster == cluster, _WAITS)
    return warehouse.read(lambda connection: int(connection.execute(statement).scalar_one()))


def clusters_waiting(warehouse: Warehouse) -> list[str]:
    """Return the clusters that have messages to be sent, sorted."""
    statement = sa.select(outbox.c.cluster).where(_WAITS).distinct().order_by(outbox.c.cluster)
    return warehouse.read(lambda connection: list(connection.execute(statement).scalars()))


def told(warehouse: Warehouse, cluster: str) -> dict[int, dict[str, Any]]:
    """Return what the newest message about each incident of ``cluster`` said, sent or not, and its ``run_id``."""
    columns = outbox.c
    newest = (
        sa.select(sa.func.max(columns.id))
        .where(columns.cluster == cluster, columns.kind == "incident", columns.incident_id.is_not(None))
        .group_by(columns.incident_id)
    )
    statement = sa.select(columns.incident_id, columns.run_id, columns.payload).where(columns.id.in_(newest))
    rows = warehouse.read(lambda connection: connection.execute(statement).all())
    return {
        int(number): {**payload["told"], "run_id": run_id}
        for number, run_id, payload in rows
        if payload and "told" in payload
    }


def of_run(warehouse: Warehouse, run_id: int) -> list[dict[str, Any]]:
    """Return what was kept of a run, sent or not, in the order of its sending."""
    columns = outbox.c
    statement = (
        sa.select(columns.payload).where(columns.run_id == run_id).order_by(columns.kind != "restore", columns.id)
    )
    return warehouse.read(lambda connection: [kept or {} for kept in connection.execute(statement).scalars()])


def _unsent(message: Outgoing) -> sa.Update:
    return sa.update(outbox).where(outbox.c.id == message.id, outbox.c.sent_at.is_(None))


def _thread(connection: sa.Connection, incident_id: int | None) -> tuple[str, str] | None:
    if incident_id is None:
        return None
    statement = sa.select(incident.c.slack_channel, incident.c.slack_ts).where(incident.c.id == incident_id)
    channel, ts = connection.execute(statement).one()
    return (channel, ts) if channel and ts else None
