"""Incidents as rows: what the analysis and people decide of them is stored so that two at once agree."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import sqlalchemy as sa

from bigtcp_bench.analysis.incidents import Member as Member
from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.warehouse.records import IncidentRecord, IncidentState, row_of, storable
from bigtcp_bench.warehouse.schema import comparison, judgement, run
from bigtcp_bench.warehouse.schema import incident as table
from bigtcp_bench.warehouse.schema import incident_member as member_table
from bigtcp_bench.warehouse.store import Warehouse
from bigtcp_bench.warehouse.upsert import insert_into, upsert

#: More judged runs than a night has on the average; with more, a series is given up later.
_RUNS_A_NIGHT = 4
#: Of one note, and of all that people add to one acknowledgement: it is told as a whole.
NOTE_CHARS, NOTES_CHARS = 1_000, 10_000


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
    #: The night of the newest change for the worse within it.
    worse_on: str | None
    closed_by: str | None
    closed_note: str | None
    members: tuple[Member, ...]

    @property
    def acknowledged(self) -> bool:
        """Whether somebody has said that this is known, which silences repeats."""
        return self.acknowledged_at is not None


def revise(
    warehouse: Warehouse, cluster: str, decide: Callable[[list[Incident]], Iterable[Any]]
) -> list[Incident]:
    """Hand the open incidents of ``cluster`` to ``decide``, store those it returns, and return them as stored.

    Those that were closed by hand are handed over, too. ``decide`` returns the new and the changed ones, with the
    fields of IncidentRecord, and must do nothing else: it runs within the transaction, while no other run can
    revise incidents of the same cluster, perhaps twice. A closed incident stays as it was closed, and the Slack
    thread is never touched.
    """

    def work(connection: sa.Connection) -> list[Incident]:
        _lock(connection, cluster)
        still = table.c.closed_on.is_(None) | (table.c.state == "closed")
        found = decide(_select(connection, still & (table.c.cluster == cluster)))
        decided = [row_of(IncidentRecord, item, f"incident of {cluster}") for item in found]
        for record in decided:
            if record.cluster != cluster:
                raise InvalidInput(f"incident {record.uid!r} is of cluster {record.cluster!r}, not of {cluster!r}")
            _store(connection, record)
        return _select(connection, table.c.uid.in_([record.uid for record in decided]))

    return warehouse.write(work)


def acknowledge(
    warehouse: Warehouse, incident_id: int, *, by: str, note: str = "", at: datetime | None = None
) -> bool:
    """Silence an open incident until it ends or gets worse than its series are now.

    Returns False when somebody has done so before: that name stays, and ``note`` is added to the one of then.
    Raises InvalidInput if the incident is unknown or closed, or the note is too long.
    """
    by, note = storable(by), _note(note)

    def work(connection: sa.Connection) -> bool:
        known = _open_one(connection, incident_id, "acknowledged")
        if known.acknowledged:
            if note:
                on = (at or datetime.now(UTC)).date().isoformat()
                notes = "; ".join(filter(None, (known.acknowledged_note, f"{by} on {on}: {note}")))
                if len(notes) > NOTES_CHARS:
                    raise InvalidInput(
                        f"the notes of incident {incident_id} would have {len(notes):,} characters: must be at "
                        f"most {NOTES_CHARS:,}; whoever undoes the acknowledgement begins anew"
                    )
                changed = sa.update(table).where(table.c.id == incident_id).values(acknowledged_note=notes)
                connection.execute(changed)
            return False
        values = {
            "acknowledged_at": at or datetime.now(UTC),
            "acknowledged_by": by,
            "acknowledged_note": note or None,
        }
        connection.execute(sa.update(table).where(table.c.id == incident_id).values(values))
        of_it = member_table.c.incident_id == incident_id
        connection.execute(sa.update(member_table).where(of_it).values(acknowledged_change=member_table.c.change))
        return True

    return warehouse.write(work)


def take_back(warehouse: Warehouse, incident_id: int) -> bool:
    """Undo the acknowledgement of an open incident, with its notes; returns False when there was none.

    Raises InvalidInput if the incident is unknown or closed.
    """

    def work(connection: sa.Connection) -> bool:
        known = _open_one(connection, incident_id, "told again")
        names = ("acknowledged_at", "acknowledged_by", "acknowledged_note")
        connection.execute(sa.update(table).where(table.c.id == incident_id).values(dict.fromkeys(names)))
        of_it = member_table.c.incident_id == incident_id
        connection.execute(sa.update(member_table).where(of_it).values(acknowledged_change=None))
        return known.acknowledged

    return warehouse.write(work)


def close(warehouse: Warehouse, incident_id: int, *, by: str, note: str, on: date | None = None) -> None:
    """End an open incident by hand, on the night ``on`` (default: today, in UTC).

    What its series are from then on opens no other incident until it recovers or gets worse. Raises InvalidInput
    if the incident is unknown or closed, or the note is too long.
    """
    values = {
        "state": "closed",
        "closed_on": (on or datetime.now(UTC).date()).isoformat(),
        "closed_by": storable(by),
        "closed_note": _note(note),
    }

    def work(connection: sa.Connection) -> None:
        _open_one(connection, incident_id, "closed")
        connection.execute(sa.update(table).where(table.c.id == incident_id).values(values))

    warehouse.write(work)


def _note(text: str) -> str:
    """Return a note as it is stored. Raises InvalidInput for one that is too long."""
    if len(text) > NOTE_CHARS:
        raise InvalidInput(f"note: has {len(text):,} characters; allowed are at most {NOTE_CHARS:,}")
    return storable(text)


def unmeasured(warehouse: Warehouse, run_id: int, nights: int) -> set[tuple[str, str]]:
    """Return the (scenario, metric) of open incidents that no run has measured on the newest ``nights`` nights.

    Nights are those of the cluster of ``run_id``, up to that run, of which something was judged.
    """

    def work(connection: sa.Connection) -> set[tuple[str, str]]:
        this = sa.select(run.c.cluster, run.c.started_at).where(run.c.id == run_id).subquery()
        members = sa.select(member_table.c.scenario, member_table.c.metric, member_table.c.last_seen)
        members = (
            members.join(table).join(this, this.c.cluster == table.c.cluster).where(table.c.closed_on.is_(None))
        )
        found = connection.execute(members).all()
        if not found:
            return set()
        judged = sa.select(run.c.id, run.c.started_at).join(
            this, (this.c.cluster == run.c.cluster) & (run.c.started_at <= this.c.started_at)
        )
        judged = judged.where(~run.c.superseded, sa.exists().where(judgement.c.run_id == run.c.id))
        judged = judged.order_by(run.c.started_at.desc()).limit(_RUNS_A_NIGHT * nights)
        runs: list[int] = []
        seen: set[str] = set()
        for number, started_at in connection.execute(judged):
            night = started_at.date().isoformat()
            if night not in seen and len(seen) == nights:
                break
            seen.add(night)
            runs.append(number)
        if len(seen) < nights:
            return set()
        measured = sa.select(comparison.c.scenario, comparison.c.metric).where(comparison.c.run_id.in_(runs))
        known = {tuple(row) for row in connection.execute(measured.distinct())}
        oldest = min(seen)
        return {
            (scenario, metric)
            for scenario, metric, last_seen in found
            if last_seen < oldest and (scenario, metric) not in known
        }

    return warehouse.read(work)


def get(warehouse: Warehouse, incident_id: int) -> Incident:
    """Return an incident. Raises InvalidInput if it is unknown."""
    return warehouse.read(lambda connection: _get(connection, incident_id))


def several(warehouse: Warehouse, numbers: Collection[int]) -> dict[int, Incident]:
    """Return incidents by their numbers."""
    found = warehouse.read(lambda connection: _select(connection, table.c.id.in_(sorted(numbers))))
    return {one.id: one for one in found}


def open_incidents(warehouse: Warehouse, cluster: str | None = None) -> list[Incident]:
    """Return the incidents that are not closed, oldest first, of one cluster or of all."""
    of_cluster = sa.true() if cluster is None else table.c.cluster == cluster
    return warehouse.read(lambda connection: _select(connection, table.c.closed_on.is_(None) & of_cluster))


def of_night(warehouse: Warehouse, cluster: str, night: str, night_before: str | None = None) -> list[Incident]:
    """Return the incidents of ``cluster`` that were open on ``night`` (ISO) or ended on it, oldest first.

    Those that somebody has ended since ``night_before`` are among them: nights end the others themselves.
    """
    by_hand = (table.c.state == "closed") & (table.c.closed_on >= (night_before or night))
    open_then = table.c.closed_on.is_(None) | (table.c.closed_on >= night) | by_hand
    there = open_then & (table.c.suspected_on <= night)
    return warehouse.read(lambda connection: _select(connection, there & (table.c.cluster == cluster)))


def judged_later(warehouse: Warehouse, run_id: int) -> bool:
    """Return whether a run of the same cluster that started after run ``run_id`` was judged among the nights."""
    this = sa.select(run.c.cluster, run.c.started_at).where(run.c.id == run_id).subquery()
    later = (
        sa.select(judgement.c.run_id)
        .join(run, run.c.id == judgement.c.run_id)
        .join(this, (this.c.cluster == run.c.cluster) & (run.c.started_at > this.c.started_at))
        .where(~run.c.superseded)
        .limit(1)
    )
    return warehouse.read(lambda connection: connection.execute(later).first() is not None)


def night_before(warehouse: Warehouse, run_id: int) -> tuple[int, datetime] | None:
    """Return the newest run before ``run_id`` on its cluster that was judged among the nights, and its end."""
    this = sa.select(run.c.cluster, run.c.started_at).where(run.c.id == run_id).subquery()
    earlier = (
        sa.select(run.c.id, run.c.started_at, run.c.finished_at)
        .join(this, (this.c.cluster == run.c.cluster) & (run.c.started_at < this.c.started_at))
        .where(~run.c.superseded, sa.exists().where(judgement.c.run_id == run.c.id))
        .order_by(run.c.started_at.desc())
        .limit(1)
    )
    row = warehouse.read(lambda connection: connection.execute(earlier).first())
    return None if row is None else (row.id, row.finished_at or row.started_at)


def closed_by_hand(warehouse: Warehouse, cluster: str) -> list[Incident]:
    """Return the incidents of ``cluster`` that somebody has ended, oldest first."""
    return warehouse.read(
        lambda connection: _select(connection, (table.c.cluster == cluster) & (table.c.state == "closed"))
    )


def _lock(connection: sa.Connection, cluster: str) -> None:
    # Looking at the open incidents and changing them must be one step per cluster. SQLite's write transaction is
    # that already; PostgreSQL needs a lock, kept until the transaction ends.
    if connection.dialect.name == "postgresql":
        name = f"bigtcp_incident {cluster}"
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(name, 0))))


def _store(connection: sa.Connection, record: IncidentRecord) -> None:
    values = record.model_dump(exclude={"members", "acknowledged"})
    if record.acknowledged is False:
        values |= {"acknowledged_at": None, "acknowledged_by": None, "acknowledged_note": None}
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


def _open_one(connection: sa.Connection, incident_id: int, wish: str) -> Incident:
    """Return an open incident, while no run can revise it. Raises InvalidInput if it is unknown or closed."""
    _lock(connection, _get(connection, incident_id).cluster)
    known = _get(connection, incident_id)
    if known.closed_on is not None:
        raise InvalidInput(
            f"incident {incident_id} is {known.state} since {known.closed_on}; only open incidents can be {wish}"
        )
    return known


def _get(connection: sa.Connection, incident_id: int) -> Incident:
    found = _select(connection, table.c.id == incident_id)
    if not found:
        raise InvalidInput(f"incident {incident_id} is not in the warehouse")
    return found[0]


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
