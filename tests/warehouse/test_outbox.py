"""Messages are kept, taken by one sender at a time, and handed out in order until they are delivered."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bigtcp_bench.warehouse import incidents, outbox
from bigtcp_bench.warehouse.outbox import Draft, Outgoing, Taken
from bigtcp_bench.warehouse.store import Warehouse
from tests.support.nights import add_night

NOW = datetime(2026, 3, 1, 2, tzinfo=UTC)


def draft(key: str, **changes: Any) -> Draft:
    return Draft(**{"key": key, "kind": "run", "payload": {"text": key}} | changes)


def claimed(warehouse: Warehouse, cluster: str = "lab", after_s: float = 0) -> Outgoing:
    message = outbox.claim(warehouse, cluster, now=NOW + timedelta(seconds=after_s))
    assert isinstance(message, Outgoing)
    return message


def opened(warehouse: Warehouse) -> int:
    row = {"uid": "lab/1", "cluster": "lab", "state": "regression", "changed_on": "2026-03-01"}
    (incident,) = incidents.revise(warehouse, "lab", lambda _: [row | {"suspected_on": "2026-03-01"}])
    return incident.id


def test_a_message_is_kept_once_and_waits_until_it_is_delivered(warehouse: Warehouse) -> None:
    assert outbox.keep(warehouse, "lab", [draft("a"), draft("b")]) == 2
    assert outbox.keep(warehouse, "lab", [draft("a", payload={"text": "again"})]) == 0
    message = claimed(warehouse)
    assert (message.payload, message.doubtful_since) == ({"text": "a"}, None)
    # Neither it nor the one after it is anybody else's meanwhile.
    assert outbox.claim(warehouse, "lab", now=NOW) == Taken(NOW + timedelta(seconds=outbox.LEASE_S))

    outbox.failed(warehouse, message, "Slack is away")
    message = claimed(warehouse, after_s=1)
    assert (message.key, message.doubtful_since) == ("a", None)
    outbox.delivered(warehouse, message, channel="C1", ts="1.0")
    assert outbox.waiting(warehouse, "lab") == 1
    outbox.delivered(warehouse, claimed(warehouse, after_s=2))
    assert outbox.claim(warehouse, "lab", now=NOW) is None
    assert outbox.keep(warehouse, "lab", [draft("a")]) == 0


def test_an_attempt_without_an_outcome_leaves_a_doubt(warehouse: Warehouse) -> None:
    outbox.keep(warehouse, "lab", [draft("a")])
    claimed(warehouse)
    # Its sender dies.
    message = claimed(warehouse, after_s=outbox.LEASE_S)
    assert message.doubtful_since == NOW
    outbox.failed(warehouse, message, "timed out", doubtful=True)
    message = claimed(warehouse, after_s=outbox.LEASE_S + 1)
    assert message.doubtful_since == NOW
    outbox.failed(warehouse, message, "refused")
    assert claimed(warehouse, after_s=outbox.LEASE_S + 2).doubtful_since is None


def test_clusters_do_not_wait_for_each_other(warehouse: Warehouse) -> None:
    outbox.keep(warehouse, "lab", [draft("a")])
    outbox.keep(warehouse, "prod", [draft("b")])
    assert outbox.clusters_waiting(warehouse) == ["lab", "prod"]
    assert claimed(warehouse, "lab").key == "a"
    assert claimed(warehouse, "prod").key == "b"


def test_the_first_message_of_an_incident_is_its_thread(warehouse: Warehouse) -> None:
    run, number = add_night(warehouse, 0), opened(warehouse)
    told = [{"state": "regression"}, {"state": "recovered"}]
    kept = [
        draft(f"{index}", kind="incident", payload={"told": one}, run_id=run, incident_id=number)
        for index, one in enumerate(told)
    ]
    outbox.keep(warehouse, "lab", kept)
    assert outbox.told(warehouse, "lab") == {number: {"state": "recovered", "run_id": run}}
    for ts, thread in (("1.0", None), ("2.0", ("C1", "1.0"))):
        message = claimed(warehouse)
        assert message.thread == thread
        outbox.delivered(warehouse, message, channel="C1", ts=ts, opens_thread=thread is None)
    incident, row = incidents.get(warehouse, number), warehouse.run(run)
    assert (incident.slack_channel, incident.slack_ts) == ("C1", "1.0")
    assert (row["slack_channel"], row["slack_ts"]) == ("C1", "1.0")


def test_two_senders_send_each_message_once(warehouse: Warehouse) -> None:
    keys = [f"{index:02}" for index in range(20)]
    outbox.keep(warehouse, "lab", map(draft, keys))
    url = warehouse.engine.url.render_as_string(hide_password=False)
    barrier = threading.Barrier(2)

    def send(_number: int) -> list[str]:
        own, sent = Warehouse(url), []
        barrier.wait()
        while (message := outbox.claim(own, "lab")) is not None:
            if isinstance(message, Outgoing):
                sent.append(message.key)
                outbox.delivered(own, message)
        return sent

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(send, range(2))
    assert sorted(one + other) == keys
    assert (one, other) == (sorted(one), sorted(other))


@pytest.mark.parametrize("column", ["run_id", "incident_id"])
def test_a_message_belongs_to_rows_that_exist(warehouse: Warehouse, column: str) -> None:
    with pytest.raises(Exception, match="refuses a row"):
        outbox.keep(warehouse, "lab", [draft("a", **{column: 99})])


def test_what_is_refused_too_often_is_set_aside_and_waits_no_more(warehouse: Warehouse) -> None:
    outbox.keep(warehouse, "lab", [draft("bad"), draft("good")])
    for number in range(outbox.MAX_REFUSALS):
        assert (outbox.waiting(warehouse, "lab"), outbox.set_aside(warehouse, "lab")) == (2, [])
        message = claimed(warehouse, after_s=number)
        assert message.key == "bad"
        # An outage is nobody's fault.
        assert not outbox.failed(warehouse, message, "Slack is away")
        message = claimed(warehouse, after_s=number)
        aside = outbox.failed(warehouse, message, "msg_too_long", refused=True)
        assert aside is (number == outbox.MAX_REFUSALS - 1)
    assert (outbox.waiting(warehouse, "lab"), outbox.set_aside(warehouse, "lab")) == (1, ["bad: msg_too_long"])
    assert outbox.set_aside(warehouse, "prod") == []
    message = claimed(warehouse, after_s=9)
    assert message.key == "good"
    outbox.delivered(warehouse, message)
    assert outbox.claim(warehouse, "lab") is None
    assert outbox.clusters_waiting(warehouse) == []
    assert outbox.keep(warehouse, "lab", [draft("bad")]) == 0, "it stays known"


def test_a_restore_that_is_not_verified_goes_first(warehouse: Warehouse) -> None:
    outbox.keep(warehouse, "lab", [draft("a"), draft("b"), draft("r", kind="restore"), draft("s", kind="restore")])
    for key in ("r", "s", "a", "b"):
        message = claimed(warehouse)
        assert message.key == key
        outbox.delivered(warehouse, message)
    # Even while another sender has the oldest of the others.
    outbox.keep(warehouse, "lab", [draft("c")])
    assert claimed(warehouse).key == "c"
    outbox.keep(warehouse, "lab", [draft("t", kind="restore")])
    assert claimed(warehouse).key == "t"
