"""Incidents as rows: what the analysis decides of them is stored so that two runs at once agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.warehouse.records import IncidentRecord, IncidentState, row_of
from bigtcp_bench.warehouse.schema import incident as table
from bigtcp_bench.warehouse.schema import incident_member as member_table
from bigtcp_bench.warehouse.store import Warehouse
from bigtcp_bench.warehouse.upsert import insert_into, upsert


@dataclass(frozen=True)
class Member:
    """One series of an incident; ``change`` is relative (-0.1 = 10 % less), nights are ISO dates."""

    scenario: str
    metric: str
    change: float | None
    first_seen: str
    last_seen: str
    confirmed: bool


@dataclass(frozen=True)
class Incident:
    """One cause from first suspicion to its end; nights are ISO dates, moments are in UTC.

    ``changed_on`` is the night from which on the figures differ.
    """

    id: int
    uid: str
    cluster: str
    state: IncidentState
    attribution: str | None
    changed_on: str
    suspected_on: str
    confirmed_on: str | None
    closed_on: str | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    acknowledged_note: str | None
    slack_channel: str | None
    slack_ts: str | None
    members: tuple[Member, ...]

    @property
    def acknowledged(self) -> bool:
        """Whether somebody has said that this is known, which silences repeats."""
        return self.acknowledged_at is not None


def revise(
    warehouse: Warehouse, cluster: str, decide: Callable[[list[Incident]], Iterable[Any]]
) -> list[Incident]:
    """Hand the open incidents of ``cluster`` to ``decide``, store those it returns, and return them as stored.

    ``decide`` returns the new and the changed ones, with the fields of IncidentRecord, and must do nothing else:
    it runs within the transaction, while no other run can revise incidents of the same cluster, perhaps twice.
    A closed incident stays as it was closed; acknowledgement and Slack thread are never touched.
    """

    def work(connection: sa.Connection) -> list[Incident]:
        _lock(connection, cluster)
        decided = [
            row_of(IncidentRecord, item, f"incident of {cluster}") for item in decide(_open(connection, cluster))
        ]
        for record in decided:
            if record.cluster != cluster:
                raise InvalidInput(f"incident {record.uid!r} is of cluster {record.cluster!r}, not of {cluster!r}")
            _store(connection, record)
        return _select(connection, table.c.uid.in_([record.uid for record in decided]))

    return warehouse.write(work)


def acknowledge(
    warehouse: Warehouse, incident_id: int, *, by: str, note: str = "", at: datetime | None = None
) -> bool:
    """Silence an open incident; returns False when somebody has done so before, whose name then stays.

    Raises InvalidInput if the incident is unknown or closed.
    """

    def work(connection: sa.Connection) -> bool:
        values = {
            "acknowledged_at": at or datetime.now(UTC),
            "acknowledged_by": by,
            "acknowledged_note": note or None,
        }
        open_and_new = table.c.closed_on.is_(None) & table.c.acknowledged_at.is_(None)
        if _changed(connection, incident_id, open_and_new, values):
            return True
        known = _get(connection, incident_id)
        if known.closed_on is not None:
            raise InvalidInput(
                f"incident {incident_id} is {known.state} since {known.closed_on}; only open incidents can be "
                "acknowledged"
            )
        return False

    return warehouse.write(work)


def get(warehouse: Warehouse, incident_id: int) -> Incident:
    """Return an incident. Raises InvalidInput if it is unknown."""
    return warehouse.read(lambda connection: _get(connection, incident_id))


def open_incidents(warehouse: Warehouse, cluster: str | None = None) -> list[Incident]:
    """Return the incidents that are not closed, oldest first, of one cluster or of all."""
    return warehouse.read(lambda connection: _open(connection, cluster))


def _lock(connection: sa.Connection, cluster: str) -> None:
    # Looking at the open incidents and changing them must be one step per cluster. SQLite's write transaction is
    # that already; PostgreSQL needs a lock, kept until the transaction ends.
    if connection.dialect.name == "postgresql":
        name = f"bigtcp_incident {cluster}"
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(name, 0))))


def _store(connection: sa.Connection, record: IncidentRecord) -> None:
    values = record.model_dump(exclude={"members"})
    insert = insert_into(connection, table).values(values)
    statement = insert.on_conflict_do_update(
        index_elements=["uid"],
        set_={name: insert.excluded[name] for name in values if name != "uid"},
        where=table.c.closed_on.is_(None),
    )
    number = connection.execute(statement.returning(table.c.id)).scalar()
    if number is not None:
        members = [{"incident_id": number, **member.model_dump()} for member in record.members]
        upsert(connection, member_table, members)


def _changed(
    connection: sa.Connection, incident_id: int, expected: sa.ColumnElement[bool], values: dict[str, Any]
) -> bool:
    """Set ``values`` if the row is still as ``expected``, and return whether it was."""
    statement = sa.update(table).where(table.c.id == incident_id, expected).values(values)
    return connection.execute(statement).rowcount == 1


def _get(connection: sa.Connection, incident_id: int) -> Incident:
    found = _select(connection, table.c.id == incident_id)
    if not found:
        raise InvalidInput(f"incident {incident_id} is not in the warehouse")
    return found[0]


def _open(connection: sa.Connection, cluster: str | None) -> list[Incident]:
    where = table.c.closed_on.is_(None)
    return _select(connection, where if cluster is None else where & (table.c.cluster == cluster))


def _select(connection: sa.Connection, where: sa.ColumnElement[bool]) -> list[Incident]:
    rows = connection.execute(sa.select(table).where(where).order_by(table.c.suspected_on, table.c.id)).mappings()
    incidents = [dict(row) for row in rows]
    columns = [column for column in member_table.c if column.name != "incident_id"]
    members: dict[int, list[Member]] = {}
    statement = (
        sa.select(member_table.c.incident_id, *columns)
        .where(member_table.c.incident_id.in_([row["id"] for row in incidents]))
        .order_by(*member_table.primary_key)
    )
    for incident_id, *values in connection.execute(statement):
        members.setdefault(incident_id, []).append(Member(*values))
    return [Incident(**row, members=tuple(members.get(row["id"], ()))) for row in incidents]
