"""Messages that wait until they are delivered: queued once, sent by one sender at a time, tried again later."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from bigtcp_bench.warehouse.schema import outbox
from bigtcp_bench.warehouse.store import Warehouse
from bigtcp_bench.warehouse.upsert import insert_into

#: Seconds until a sender that took a message and fell silent is taken for dead.
LEASE_S = 120

#: Seconds until the next attempt after the first failure; doubled by each further one, up to an hour.
FIRST_PAUSE_S = 30
LONGEST_PAUSE_S = 3600


@dataclass(frozen=True)
class Message:
    """A message to send now; ``attempts`` counts this one."""

    id: int
    key: str
    kind: str
    payload: dict[str, Any]
    attempts: int


def enqueue(warehouse: Warehouse, key: str, kind: str, payload: dict[str, Any]) -> bool:
    """Queue a message; False when the same ``key`` was queued before, sent or not."""
    row = {"key": key, "kind": kind, "payload": payload, "created_at": datetime.now(UTC), "attempts": 0}

    def work(connection: sa.Connection) -> bool:
        insert = insert_into(connection, outbox).values(row).on_conflict_do_nothing(index_elements=["key"])
        return connection.execute(insert.returning(outbox.c.id)).scalar() is not None

    return warehouse.write(work)


def claim(warehouse: Warehouse, *, limit: int = 20, now: datetime | None = None) -> list[Message]:
    """Take the oldest messages that are due, so that no other sender takes them for the next LEASE_S seconds."""
    moment = now or datetime.now(UTC)
    columns = outbox.c
    due = (
        sa.select(columns.id)
        .where(columns.sent_at.is_(None), columns.claimed_until.is_(None) | (columns.claimed_until <= moment))
        .order_by(columns.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    taken = (
        sa.update(outbox)
        .where(columns.id.in_(due))
        .values(claimed_until=moment + timedelta(seconds=LEASE_S), attempts=columns.attempts + 1)
        .returning(columns.id, columns.key, columns.kind, columns.payload, columns.attempts)
    )
    rows = warehouse.write(lambda connection: connection.execute(taken).all())
    return sorted((Message(*row) for row in rows), key=lambda message: message.id)


def delivered(warehouse: Warehouse, message: Message) -> None:
    """Record that ``message`` arrived."""
    values = {"sent_at": datetime.now(UTC), "claimed_until": None, "last_error": None}
    _set(warehouse, message, values)


def failed(warehouse: Warehouse, message: Message, error: str, *, now: datetime | None = None) -> None:
    """Record why ``message`` did not arrive; it is due again after a pause that doubles with each attempt."""
    pause_s = min(FIRST_PAUSE_S * 2 ** (message.attempts - 1), LONGEST_PAUSE_S)
    until = (now or datetime.now(UTC)) + timedelta(seconds=pause_s)
    _set(warehouse, message, {"claimed_until": until, "last_error": error})


def _set(warehouse: Warehouse, message: Message, values: dict[str, Any]) -> None:
    statement = sa.update(outbox).where(outbox.c.id == message.id, outbox.c.sent_at.is_(None)).values(values)
    warehouse.write(lambda connection: connection.execute(statement))
