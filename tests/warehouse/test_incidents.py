"""One cause makes one incident, whoever reports it and however often."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.warehouse import incidents
from bigtcp_bench.warehouse.incidents import Incident
from bigtcp_bench.warehouse.store import Warehouse
from tests.support.processes import side_by_side

NIGHT = datetime(2026, 3, 1, 2, tzinfo=UTC)


def record(uid: str = "lab/2026-03-01", *scenarios: str, **changes: Any) -> dict[str, Any]:
    members = [
        {
            "scenario": scenario,
            "metric": "latency_p99_us",
            "change": 0.2,
            "first_seen": "2026-03-01",
            "last_seen": "2026-03-01",
            "confirmed": False,
        }
        for scenario in scenarios or ("ipv4-rr",)
    ]
    row = {"uid": uid, "cluster": "lab", "state": "suspect", "changed_on": "2026-03-01"}
    return row | {"suspected_on": "2026-03-01", "members": members} | changes


def opened(warehouse: Warehouse, **changes: Any) -> Incident:
    (incident,) = incidents.revise(warehouse, "lab", lambda _open: [record(**changes)])
    return incident


def test_from_suspicion_to_recovery(warehouse: Warehouse) -> None:
    first = opened(warehouse)
    assert (first.state, first.attribution, first.acknowledged) == ("suspect", None, False)

    def confirm(known: list[Incident]) -> list[Any]:
        assert known == [first]
        changes = {"state": "regression", "attribution": "big-tcp", "confirmed_on": NIGHT}
        return [record(first.uid, "ipv4-rr", "ipv6-rr", **changes)]

    (second,) = incidents.revise(warehouse, "lab", confirm)
    assert second.id == first.id
    assert (second.state, second.attribution, second.confirmed_on) == ("regression", "big-tcp", "2026-03-01")
    assert [member.scenario for member in second.members] == ["ipv4-rr", "ipv6-rr"]

    incidents.revise(warehouse, "lab", lambda _open: [record(state="recovered", closed_on="2026-03-09")])
    assert incidents.open_incidents(warehouse, "lab") == []
    assert incidents.revise(warehouse, "lab", lambda known: known) == []


def test_a_closed_incident_stays_closed(warehouse: Warehouse) -> None:
    opened(warehouse, state="recovered", closed_on="2026-03-09")
    again = opened(warehouse, state="suspect")
    assert (again.state, again.closed_on) == ("recovered", "2026-03-09")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"changed_on": "yesterday"}, "changed_on = 'yesterday': must be a night such as 2026-01-31"),
        ({"cluster": "other"}, "is of cluster 'other', not of 'lab'"),
        ({"state": "bad"}, "state = 'bad'"),
    ],
)
def test_an_unusable_decision_is_refused_whole(
    warehouse: Warehouse, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        incidents.revise(warehouse, "lab", lambda _open: [record("good"), record("bad", **changes)])
    assert incidents.open_incidents(warehouse) == []


def test_the_first_acknowledgement_stays(warehouse: Warehouse) -> None:
    incident = opened(warehouse)
    assert incidents.acknowledge(warehouse, incident.id, by="ann", note="new switch", at=NIGHT)
    assert not incidents.acknowledge(warehouse, incident.id, by="bob")
    assert not incidents.acknowledge(warehouse, incident.id, by="bob", note="ordered a new one", at=NIGHT)
    known = opened(warehouse, state="regression")
    assert known.acknowledged
    assert (known.acknowledged_by, known.acknowledged_note, known.acknowledged_at) == (
        "ann",
        f"new switch; bob on {NIGHT.date()}: ordered a new one",
        NIGHT,
    )
    with pytest.raises(InvalidInput, match="incident 99 is not in the warehouse"):
        incidents.acknowledge(warehouse, 99, by="ann")

    opened(warehouse, state="recovered", closed_on="2026-03-09")
    with pytest.raises(InvalidInput, match="is recovered since 2026-03-09; only open incidents"):
        incidents.acknowledge(warehouse, incident.id, by="bob")


def test_a_note_is_what_every_database_can_hold(warehouse: Warehouse) -> None:
    incident = opened(warehouse)
    incidents.acknowledge(warehouse, incident.id, by="an\x00n", note="a\x00b \ud800")
    incidents.acknowledge(warehouse, incident.id, by="bob", note="\x00", at=NIGHT)
    known = incidents.get(warehouse, incident.id)
    assert known.acknowledged_by == "an\ufffdn"
    assert known.acknowledged_note == f"a\ufffdb \ufffd; bob on {NIGHT.date()}: \ufffd"
    incidents.close(warehouse, incident.id, by="b\x00", note="c\x00")
    closed = incidents.get(warehouse, incident.id)
    assert (closed.closed_by, closed.closed_note) == ("b\ufffd", "c\ufffd")


def test_notes_do_not_grow_without_end(warehouse: Warehouse) -> None:
    incident = opened(warehouse)
    with pytest.raises(InvalidInput, match="note: has 1,001 characters; allowed are at most 1,000"):
        incidents.acknowledge(warehouse, incident.id, by="ann", note="x" * 1001)
    with pytest.raises(InvalidInput, match="note: has 1,001 characters"):
        incidents.close(warehouse, incident.id, by="ann", note="x" * 1001)
    for _ in range(9):
        incidents.acknowledge(warehouse, incident.id, by="ann", note="x" * 1000)
    with pytest.raises(InvalidInput, match=r"the notes of incident \d+ would have 10,\d+ characters"):
        incidents.acknowledge(warehouse, incident.id, by="bob", note="x" * 1000)
    assert len(incidents.get(warehouse, incident.id).acknowledged_note or "") < 10_000


def _report(url: str, number: int, barrier: Any, results: Any) -> None:
    def open_or_join(known: list[Incident]) -> list[Any]:
        return [record(known[0].uid if known else f"by-{number}", f"scenario-{number}")]

    barrier.wait()
    (stored,) = incidents.revise(Warehouse(url), "lab", open_or_join)
    results.put(stored.uid)


def test_runs_at_once_open_one_incident(warehouse: Warehouse) -> None:
    context = side_by_side()
    barrier, results = context.Barrier(4), context.Queue()
    url = warehouse.engine.url.render_as_string(hide_password=False)
    writers = [context.Process(target=_report, args=(url, number, barrier, results)) for number in range(4)]
    for writer in writers:
        writer.start()
    uids = {results.get(timeout=60) for _ in writers}
    for writer in writers:
        writer.join(60)
    (incident,) = incidents.open_incidents(warehouse, "lab")
    assert uids == {incident.uid}
    assert len(incident.members) == 4
