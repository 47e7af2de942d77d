"""One cause makes one incident, whoever reports it and however often."""

from __future__ import annotations

import multiprocessing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.warehouse import incidents, outbox
from bigtcp_bench.warehouse.incidents import Reported
from bigtcp_bench.warehouse.store import Warehouse

NIGHT = datetime(2026, 3, 1, 2, tzinfo=UTC)
ONE = ("ipv4-rr", "latency_p99_us")
TWO = ("ipv6-rr", "latency_p99_us")


def report(warehouse: Warehouse, night: int, *series: tuple[str, str], **changes: Any) -> Reported:
    arguments: dict[str, Any] = {
        "cluster": "lab",
        "attribution": "bigtcp",
        "state": "regression",
        "near_days": 5,
        "changed_at": NIGHT + timedelta(days=night),
        "seen_at": NIGHT + timedelta(days=night, hours=1),
        "members": [{"scenario": scenario, "metric": metric, "change": 0.2} for scenario, metric in series],
    }
    return incidents.report(warehouse, **arguments | changes)


def test_from_suspicion_to_recovery(warehouse: Warehouse) -> None:
    first = report(warehouse, 0, ONE, state="suspect")
    assert (first.opened, first.confirmed, first.incident.state, first.joined) == (True, False, "suspect", (ONE,))

    second = report(warehouse, 1, ONE, TWO)
    assert (second.opened, second.confirmed, second.joined) == (False, True, (TWO,))
    assert second.incident.id == first.incident.id
    assert second.incident.suspected_at == NIGHT + timedelta(hours=1)
    assert second.incident.changed_at == NIGHT

    third = report(warehouse, 2, ONE, state="suspect")
    assert (third.confirmed, third.incident.state) == (False, "regression")

    assert incidents.recover(warehouse, cluster="lab", series=[ONE], at=NIGHT + timedelta(days=5)) == []
    assert incidents.recover(warehouse, cluster="other", series=[TWO], at=NIGHT + timedelta(days=6)) == []
    (closed,) = incidents.recover(warehouse, cluster="lab", series=[ONE, TWO], at=NIGHT + timedelta(days=6))
    assert (closed.state, closed.closed_at) == ("recovered", NIGHT + timedelta(days=6))
    assert closed.members[0].recovered_at == NIGHT + timedelta(days=5)
    assert incidents.recover(warehouse, cluster="lab", series=[ONE, TWO], at=NIGHT + timedelta(days=7)) == []

    assert report(warehouse, 8, ONE).opened


@pytest.mark.parametrize(
    ("night", "changes", "same"),
    [
        (5, {}, True),
        (6, {}, False),
        (2, {"attribution": "platform"}, False),
        (2, {"cluster": "other"}, False),
    ],
)
def test_neighbours_in_time_with_one_attribution_are_one_incident(
    warehouse: Warehouse, night: int, changes: dict[str, Any], same: bool
) -> None:
    first = report(warehouse, 0, ONE)
    second = report(warehouse, night, TWO, **changes)
    assert (second.incident.id == first.incident.id) is same
    assert second.opened is not same


def test_a_suspicion_that_passes_is_dismissed(warehouse: Warehouse) -> None:
    report(warehouse, 0, ONE, state="suspect")
    (closed,) = incidents.recover(warehouse, cluster="lab", series=[ONE], at=NIGHT + timedelta(days=1))
    assert closed.state == "dismissed"


def test_the_first_acknowledgement_stays(warehouse: Warehouse) -> None:
    incident = report(warehouse, 0, ONE).incident
    assert incidents.acknowledge(warehouse, incident.id, by="ann", note="new switch")
    assert not incidents.acknowledge(warehouse, incident.id, by="bob")
    known = incidents.get(warehouse, incident.id)
    assert (known.acknowledged_by, known.acknowledged_note) == ("ann", "new switch")
    assert report(warehouse, 1, ONE).incident.acknowledged_at == known.acknowledged_at
    with pytest.raises(InvalidInput, match="incident 99 is not in the warehouse"):
        incidents.acknowledge(warehouse, 99, by="ann")

    incidents.recover(warehouse, cluster="lab", series=[ONE], at=NIGHT)
    with pytest.raises(InvalidInput, match="is recovered since 2026-03-01 02:00 UTC; only open incidents"):
        incidents.acknowledge(warehouse, incident.id, by="bob")


def test_an_incident_has_one_thread(warehouse: Warehouse) -> None:
    incident = report(warehouse, 0, ONE).incident
    assert incidents.set_thread(warehouse, incident.id, channel="C1", ts="1.0")
    assert not incidents.set_thread(warehouse, incident.id, channel="C1", ts="2.0")
    assert incidents.get(warehouse, incident.id).slack_ts == "1.0"


def _report(url: str, number: int, barrier: Any, results: Any) -> None:
    warehouse = Warehouse(url)
    barrier.wait()
    done = report(warehouse, number, (f"scenario-{number}", "throughput_bps"))
    results.put((done.opened, done.confirmed))


def test_reports_at_once_open_one_incident(warehouse: Warehouse) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(4), context.Queue()
    url = warehouse.engine.url.render_as_string(hide_password=False)
    writers = [context.Process(target=_report, args=(url, number, barrier, results)) for number in range(4)]
    for writer in writers:
        writer.start()
    answers = sorted(results.get(timeout=60) for _ in writers)
    for writer in writers:
        writer.join(60)
    assert answers == [(False, False)] * 3 + [(True, True)]
    (incident,) = incidents.open_incidents(warehouse, "lab")
    assert len(incident.members) == 4


def test_a_message_waits_until_it_is_delivered_once(warehouse: Warehouse) -> None:
    assert outbox.enqueue(warehouse, "run/1", "run", {"text": "hello"})
    assert not outbox.enqueue(warehouse, "run/1", "run", {"text": "hello again"})
    (message,) = outbox.claim(warehouse, now=NIGHT)
    assert (message.payload, message.attempts) == ({"text": "hello"}, 1)
    assert outbox.claim(warehouse, now=NIGHT + timedelta(seconds=outbox.LEASE_S - 1)) == []

    outbox.failed(warehouse, message, "Slack is away", now=NIGHT)
    assert outbox.claim(warehouse, now=NIGHT + timedelta(seconds=outbox.FIRST_PAUSE_S - 1)) == []
    (message,) = outbox.claim(warehouse, now=NIGHT + timedelta(seconds=outbox.FIRST_PAUSE_S))
    assert message.attempts == 2

    outbox.delivered(warehouse, message)
    assert outbox.claim(warehouse, now=NIGHT + timedelta(days=1)) == []
