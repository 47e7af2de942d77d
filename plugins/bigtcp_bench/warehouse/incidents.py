"""Incidents as rows: found or opened, joined, acknowledged and closed so that two runs at once agree."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.warehouse.records import IncidentState, Member, rows_of
from bigtcp_bench.warehouse.schema import incident as table
from bigtcp_bench.warehouse.schema import incident_member as member_table
from bigtcp_bench.warehouse.store import Warehouse


@dataclass(frozen=True)
class IncidentMember:
    """One series of an incident. ``change`` is relative (-0.1 = 10 % less); ``recovered_at`` is None meanwhile."""

    scenario: str
    metric: str
    change: float | None
    first_seen_at: datetime
    last_seen_at: datetime
    recovered_at: datetime | None


@dataclass(frozen=True)
class Incident:
    """One cause from first suspicion to its end; moments are in UTC.

    ``changed_at`` is the night from which on the figures differ. An incident that was never more than a suspicion
    ends as ``dismissed``, the others as ``recovered``.
    """

    id: int
    uid: str
    cluster: str
    attribution: str
    state: IncidentState
    changed_at: datetime
    suspected_at: datetime
    confirmed_at: datetime | None
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    acknowledged_note: str | None
    closed_at: datetime | None
    slack_channel: str | None
    slack_ts: str | None
    members: tuple[IncidentMember, ...]


@dataclass(frozen=True)
class Reported:
    """What a report led to. Of several at once exactly one has ``opened``, and exactly one ``confirmed``."""

    incident: Incident
    opened: bool
    confirmed: bool
    #: Series that the incident did not cover before.
    joined: tuple[tuple[str, str], ...]


def report(
    warehouse: Warehouse,
    *,
    cluster: str,
    attribution: str,
    state: Literal["suspect", "regression"],
    changed_at: datetime,
    seen_at: datetime,
    members: Iterable[Member | Mapping[str, Any]],
    near_days: int,
) -> Reported:
    """Record that series of a cluster got worse, in the open incident of the same cause or in a new one.

    The cause is the same when the open incident covers one of the series already, or when its attribution is the
    same and its change at most ``near_days`` days away (the plan's ``incident_nights``). A suspicion never turns
    a regression back.
    """
    series = rows_of(Member, members, f"incident of cluster {cluster}")
    if not series:
        raise InvalidInput(f"incident of cluster {cluster}: no series given")

    def work(connection: sa.Connection) -> Reported:
        _lock(connection, cluster)
        number = _find_open(connection, cluster, attribution, changed_at, near_days, series)
        opened = number is None
        if number is None:
            row = {
                "uid": uuid.uuid4().hex,
                "cluster": cluster,
                "attribution": attribution,
                "state": "suspect",
                "changed_at": changed_at,
                "suspected_at": seen_at,
            }
            number = int(connection.execute(sa.insert(table).values(row).returning(table.c.id)).scalar_one())
        confirmed = state == "regression" and _changed(
            connection, number, table.c.state == "suspect", {"state": "regression", "confirmed_at": seen_at}
        )
        joined = tuple(_join(connection, number, member, seen_at) for member in series)
        return Reported(
            _get(connection, number), opened, confirmed, tuple(key for key in joined if key is not None)
        )

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
        open_and_new = table.c.closed_at.is_(None) & table.c.acknowledged_at.is_(None)
        if _changed(connection, incident_id, open_and_new, values):
            return True
        known = _get(connection, incident_id)
        if known.closed_at is not None:
            raise InvalidInput(
                f"incident {incident_id} is {known.state} since {known.closed_at:%Y-%m-%d %H:%M} UTC; only open "
                "incidents can be acknowledged"
            )
        return False

    return warehouse.write(work)


def recover(
    warehouse: Warehouse, *, cluster: str, series: Iterable[tuple[str, str]], at: datetime
) -> list[Incident]:
    """Record that ``series`` (scenario, metric) are as usual again; return the incidents that this closed."""
    wanted = set(series)

    def work(connection: sa.Connection) -> list[Incident]:
        _lock(connection, cluster)
        closed = []
        for known in _open(connection, cluster):
            lasting = {(member.scenario, member.metric) for member in known.members if member.recovered_at is None}
            for scenario, metric in lasting & wanted:
                connection.execute(
                    sa.update(member_table).where(_is_member(known.id, scenario, metric)).values(recovered_at=at)
                )
            if lasting <= wanted and _close(connection, known, at):
                closed.append(_get(connection, known.id))
        return closed

    return warehouse.write(work)


def set_thread(warehouse: Warehouse, incident_id: int, *, channel: str, ts: str) -> bool:
    """Remember the Slack message that the incident's thread hangs on; False when there is one already."""
    return warehouse.write(
        lambda connection: _changed(
            connection, incident_id, table.c.slack_ts.is_(None), {"slack_channel": channel, "slack_ts": ts}
        )
    )


def get(warehouse: Warehouse, incident_id: int) -> Incident:
    """Return an incident. Raises InvalidInput if it is unknown."""
    return warehouse.read(lambda connection: _get(connection, incident_id))


def open_incidents(warehouse: Warehouse, cluster: str | None = None) -> list[Incident]:
    """Return the incidents that are not closed, oldest first, of one cluster or of all."""
    return warehouse.read(lambda connection: _open(connection, cluster))


def _lock(connection: sa.Connection, cluster: str) -> None:
    # Looking for an open incident and opening one must be one step per cluster. SQLite's write transaction is
    # that already; PostgreSQL needs a lock, kept until the transaction ends.
    if connection.dialect.name == "postgresql":
        name = f"bigtcp_incident {cluster}"
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(name, 0))))


def _find_open(
    connection: sa.Connection,
    cluster: str,
    attribution: str,
    changed_at: datetime,
    near_days: int,
    series: Sequence[Member],
) -> int | None:
    keys = {(member.scenario, member.metric) for member in series}
    known = _open(connection, cluster)
    for incident in known:
        if keys & {(member.scenario, member.metric) for member in incident.members}:
            return incident.id
    for incident in known:
        near = abs(incident.changed_at - changed_at) <= timedelta(days=near_days)
        if near and incident.attribution == attribution:
            return incident.id
    return None


def _join(
    connection: sa.Connection, incident_id: int, member: Member, seen_at: datetime
) -> tuple[str, str] | None:
    """Store the newest estimate of ``member``; returns its key if the incident did not cover it before."""
    values = {"change": member.change, "last_seen_at": seen_at, "recovered_at": None}
    where = _is_member(incident_id, member.scenario, member.metric)
    if connection.execute(sa.update(member_table).where(where).values(values)).rowcount:
        return None
    key = {"incident_id": incident_id, "scenario": member.scenario, "metric": member.metric}
    connection.execute(sa.insert(member_table).values(key | values | {"first_seen_at": seen_at}))
    return member.scenario, member.metric


def _close(connection: sa.Connection, known: Incident, at: datetime) -> bool:
    state = "recovered" if known.confirmed_at is not None else "dismissed"
    return _changed(connection, known.id, table.c.closed_at.is_(None), {"state": state, "closed_at": at})


def _changed(
    connection: sa.Connection, incident_id: int, expected: sa.ColumnElement[bool], values: Mapping[str, Any]
) -> bool:
    """Set ``values`` if the row is still as ``expected``, and return whether it was."""
    statement = sa.update(table).where(table.c.id == incident_id, expected).values(dict(values))
    return connection.execute(statement).rowcount == 1


def _is_member(incident_id: int, scenario: str, metric: str) -> sa.ColumnElement[bool]:
    columns = member_table.c
    return sa.and_(columns.incident_id == incident_id, columns.scenario == scenario, columns.metric == metric)


def _get(connection: sa.Connection, incident_id: int) -> Incident:
    found = _select(connection, table.c.id == incident_id)
    if not found:
        raise InvalidInput(f"incident {incident_id} is not in the warehouse")
    return found[0]


def _open(connection: sa.Connection, cluster: str | None) -> list[Incident]:
    where = table.c.closed_at.is_(None)
    return _select(connection, where if cluster is None else where & (table.c.cluster == cluster))


def _select(connection: sa.Connection, where: sa.ColumnElement[bool]) -> list[Incident]:
    rows = connection.execute(sa.select(table).where(where).order_by(table.c.suspected_at, table.c.id)).mappings()
    incidents = [dict(row) for row in rows]
    columns = [column for column in member_table.c if column.name != "incident_id"]
    members: dict[int, list[IncidentMember]] = {}
    statement = (
        sa.select(member_table.c.incident_id, *columns)
        .where(member_table.c.incident_id.in_([row["id"] for row in incidents]))
        .order_by(*member_table.primary_key)
    )
    for incident_id, *values in connection.execute(statement):
        members.setdefault(incident_id, []).append(IncidentMember(*values))
    return [Incident(**row, members=tuple(members.get(row["id"], ()))) for row in incidents]
