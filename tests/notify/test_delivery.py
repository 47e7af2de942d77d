"""Messages arrive once, in order and in their threads, whatever Slack does and whoever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from bigtcp_bench.notify.channel import Chart
from bigtcp_bench.notify.delivery import Delivery, deliver
from bigtcp_bench.notify.message import Line, Message, payload
from bigtcp_bench.notify.slack.client import MAX_RETRY_AFTER_S, RETRIES
from bigtcp_bench.notify.slack.settings import SlackSettings, slack_settings
from bigtcp_bench.warehouse import incidents, outbox, schema
from bigtcp_bench.warehouse.outbox import Draft, Kind
from bigtcp_bench.warehouse.store import Warehouse
from tests.support.incidents import revise
from tests.support.nights import add_night
from tests.support.slack_server import PNG, SlackServer

ROOT = Path(__file__).parent.parent.parent

Keep = Callable[..., None]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slack_sdk.http_retry.handler.time", SimpleNamespace(sleep=lambda _seconds: None))


@pytest.fixture
def keep(warehouse: Warehouse) -> Keep:
    """Keep a message for later; its key is its text."""

    def kept(
        text: str,
        kind: Kind = "run",
        cluster: str = "lab",
        incident: int | None = None,
        chart: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        message = Message((Line(text),), chart=chart)
        outbox.keep(warehouse, cluster, [Draft(text, kind, payload(message, told={}, **more), None, incident)])

    return kept


def settings_of(server: SlackServer, **extra: Any) -> SlackSettings:
    given = {"channel": "C0BENCH", "base_url": server.base_url, "timeout": 1} | extra
    return slack_settings(server.token, given, "a connection")


def sent_by(warehouse: Warehouse, server: SlackServer, **options: Any) -> Delivery:
    return deliver(warehouse, "lab", settings_of(server), **options)


def texts(server: SlackServer) -> list[str]:
    return [message["text"] for message in server.messages]


@pytest.mark.parametrize("answers", [["500"] * 8, ["invalid_auth"], ["channel_not_found"]])
def test_what_cannot_be_sent_waits_in_order(warehouse, server, keep, answers):
    keep("first")
    server.misbehave(*answers)
    outage = sent_by(warehouse, server)
    assert (outage.sent, outage.waiting) == (0, 1)
    assert outage.lines()[0].startswith("not sent to Slack, kept for the next run: 1 message: Slack ")
    keep("second")
    assert sent_by(warehouse, server) == Delivery(2, 0)
    assert texts(server) == ["first", "second"]
    assert sent_by(warehouse, server).lines() == []


@pytest.mark.parametrize("answers", [["500", "500"], ["429", "500"]])
def test_what_passes_is_waited_for(warehouse, server, keep, answers):
    server.retry_after_s = 0
    keep("first")
    server.misbehave(*answers)
    assert sent_by(warehouse, server).sent == 1
    assert texts(server) == ["first"]


def test_nothing_is_tried_after_the_first_failure(warehouse, server, keep):
    for text in ("first", "second", "third"):
        keep(text)
    server.misbehave("ok", "is_archived")
    assert sent_by(warehouse, server).waiting == 2
    assert server.requests == 2


def test_a_message_that_slack_refuses_holds_nobody_back_and_is_set_aside(warehouse, server, keep):
    keep("first")
    keep("second")
    for _ in range(outbox.MAX_REFUSALS - 1):
        server.misbehave("msg_too_long")
        done = sent_by(warehouse, server)
        assert (done.waiting, done.reason) == (1, "Slack refused the message: msg_too_long")
    assert texts(server) == ["second"]
    keep("third")
    server.misbehave("msg_too_long")
    done = sent_by(warehouse, server)
    assert (done.sent, done.waiting) == (1, 0)
    assert done.lost == ("set aside, first: Slack refused the message: msg_too_long, 3 times",)
    assert texts(server) == ["second", "third"]
    before = server.requests
    assert sent_by(warehouse, server) == Delivery(0, 0)
    assert server.requests == before
    assert len(outbox.set_aside(warehouse, "lab")) == 1


@pytest.mark.parametrize(
    "kept", [None, [], {}, {"text": 1}, {"message": {"lines": "x"}}, {"message": 1, "told": []}]
)
def test_what_nobody_can_read_of_a_message_holds_nobody_back_and_is_set_aside(warehouse, server, keep, kept):
    number = revise(warehouse, "2026-03-22").id
    keep("first", "incident", incident=number)
    with warehouse.engine.begin() as connection:
        written = sa.text("UPDATE bigtcp_outbox SET payload = :payload")
        connection.execute(written, {"payload": json.dumps(kept)})
    keep("second")
    done = sent_by(warehouse, server)
    assert (done.sent, done.waiting) == (1, 1)
    assert "what was kept of a message" in done.lines()[1]
    sent_by(warehouse, server)
    assert sent_by(warehouse, server).lost[0].startswith("set aside, first: what was kept of a message")
    assert texts(server) == ["second"]
    assert outbox.told(warehouse, "lab") == {}


def test_a_restore_that_is_not_verified_is_sent_before_what_waits_for_weeks(warehouse, server, keep):
    for number in range(3):
        keep(f"night {number}")
    keep("x" * 50_000)
    keep("RESTORE NOT VERIFIED", "restore")
    assert sent_by(warehouse, server, budget_s=0).sent == 1
    assert texts(server) == ["RESTORE NOT VERIFIED"]


def test_a_thread_stays_together_though_its_beginning_had_to_wait(warehouse, server, keep):
    number = revise(warehouse, "2026-03-22").id
    other = revise(warehouse, "2026-03-22", uid="lab/2").id
    keep("it begins", "incident", incident=number)
    server.misbehave("not_in_channel")
    assert sent_by(warehouse, server).waiting == 1
    keep("something else", "incident", incident=other)
    keep("still there", "incident", incident=number)
    keep("recovered", "incident", incident=number, broadcast=True)
    keep("it was", "update", incident=number)
    assert sent_by(warehouse, server) == Delivery(5, 0)
    begin, else_, still, end = server.messages
    assert [message["posted"]["text"] for message in (begin, else_)] == ["it begins", "something else"]
    assert server.thread(begin["ts"]) == [still, end]
    assert [message.get("reply_broadcast") for message in (still, end)] == [False, True]
    assert begin["text"] == "it was"
    incident = incidents.get(warehouse, number)
    assert (incident.slack_channel, incident.slack_ts) == ("C0BENCH", begin["ts"])


@pytest.mark.parametrize("answer", ["thread_not_found", "channel_not_found"])
def test_without_its_thread_an_incident_gets_a_new_one(warehouse, server, keep, answer):
    number = revise(warehouse, "2026-03-22").id
    keep("it begins", "incident", incident=number)
    keep("still there", "incident", incident=number)
    keep("recovered", "incident", incident=number)
    server.misbehave("ok", answer)
    assert sent_by(warehouse, server).waiting == 0
    _, still, end = server.messages
    assert (still.get("thread_ts"), end["thread_ts"]) == (None, still["ts"])


@pytest.mark.parametrize("answer", ["message_not_found", "cant_update_message", "edit_window_closed"])
def test_a_message_that_cannot_be_changed_any_more_stops_nothing(warehouse, server, keep, answer):
    number = revise(warehouse, "2026-03-22").id
    keep("it begins", "incident", incident=number)
    keep("it was", "update", incident=number)
    keep("next")
    server.misbehave("ok", answer)
    assert sent_by(warehouse, server) == Delivery(3, 0)
    assert texts(server) == ["it begins", "next"]


def test_each_cluster_has_its_channel(warehouse, server, keep):
    settings = settings_of(server, clusters={"prod": {"channel": "C0PROD"}})
    keep("lab")
    keep("prod", cluster="prod")
    for cluster in ("lab", "prod"):
        assert deliver(warehouse, cluster, settings).sent == 1
    assert [(message["text"], message["channel"]) for message in server.messages] == [
        ("lab", "C0BENCH"),
        ("prod", "C0PROD"),
    ]
    nowhere = settings_of(server, channel=None, clusters={"prod": {"channel": "C0PROD"}})
    keep("later")
    assert deliver(warehouse, "lab", nowhere) == Delivery(0, 1, "there is no channel for cluster lab")


def test_the_run_remembers_its_first_message(warehouse, server):
    run = add_night(warehouse, 0)
    for text in ("first", "second"):
        outbox.keep(warehouse, "lab", [Draft(text, "run", payload(Message((Line(text),))), run)])
    sent_by(warehouse, server)
    row = warehouse.run(run)
    assert (row["slack_channel"], row["slack_ts"]) == ("C0BENCH", server.messages[0]["ts"])


# A message of which nobody knows whether Slack has it


@pytest.mark.parametrize(
    ("answer", "threaded"),
    [("hang", True), ("reset", False), ("close", True), ("500", False), ("500", True), ("internal_error", True)],
)
def test_a_message_that_slack_took_without_saying_so_is_not_doubled(warehouse, server, keep, answer, threaded):
    number = revise(warehouse, "2026-03-22").id if threaded else None
    kind = "incident" if threaded else "run"
    if threaded:
        keep("it begins", kind, incident=number)
        sent_by(warehouse, server)
    keep("first", kind, incident=number)
    # A server error is repeated by slack_sdk's handler, so only the last one may take the message.
    server.misbehave(*(["500"] * 3 if answer == "500" else []), f"taken-{answer}")
    assert sent_by(warehouse, server).sent == 1
    assert texts(server) == ["it begins", "first"][not threaded :]
    assert outbox.claim(warehouse, "lab") is None


def test_a_message_that_slack_did_not_take_is_sent_again_at_once(warehouse, server, keep):
    keep("first")
    server.misbehave("reset")
    assert sent_by(warehouse, server).sent == 1
    assert texts(server) == ["first"]


def test_who_may_not_look_sends_again_later(warehouse, server, keep):
    server.scopes = ("chat:write",)
    keep("first")
    server.misbehave("taken-reset")
    doubtful = sent_by(warehouse, server)
    assert (doubtful.waiting, texts(server)) == (1, ["first"])
    # Rather twice than never.
    assert sent_by(warehouse, server).sent == 1
    assert texts(server) == ["first", "first"]


SENDER = """
import sys
from bigtcp_bench.notify.delivery import deliver
from bigtcp_bench.notify.slack.settings import slack_settings
from bigtcp_bench.warehouse.store import Warehouse
url, token, base_url = sys.argv[1:]
settings = slack_settings(token, {"channel": "C0BENCH", "base_url": base_url}, "a connection")
deliver(Warehouse(url), "lab", settings)
"""


def kill_between_posting_and_recording(warehouse: Warehouse, server: SlackServer) -> None:
    """Let a sender die after Slack has taken its message, and before it can say so."""
    count = len(server.messages)
    server.misbehave("taken-hang")
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'plugins'}"}
    arguments = [str(warehouse.engine.url), server.token, server.base_url]
    sender = subprocess.Popen([sys.executable, "-c", SENDER, *arguments], env=environment)
    end = time.monotonic() + 60
    while len(server.messages) == count and time.monotonic() < end:
        time.sleep(0.01)
    sender.send_signal(signal.SIGKILL)
    assert sender.wait() == -signal.SIGKILL


def pass_the_lease(warehouse: Warehouse) -> None:
    with warehouse.engine.begin() as connection:
        earlier = sa.update(schema.outbox).values(claimed_until=None)
        connection.execute(earlier.where(schema.outbox.c.claimed_until.is_not(None)))


def test_a_sender_that_dies_midway_loses_and_doubles_nothing(warehouse, server, keep):
    number = revise(warehouse, "2026-03-22").id
    keep("it begins", "incident", incident=number)
    keep("still there", "incident", incident=number)
    kill_between_posting_and_recording(warehouse, server)
    # Its message is taken to be its own for a while.
    assert (
        sent_by(warehouse, server, budget_s=0)
        .lines()[0]
        .startswith("not sent to Slack, kept for the next run: 2 messages: another sender has the oldest message")
    )
    pass_the_lease(warehouse)
    assert sent_by(warehouse, server) == Delivery(2, 0)
    begin, still = server.messages
    assert (begin["text"], still["text"], still["thread_ts"]) == ("it begins", "still there", begin["ts"])


def test_a_message_of_another_sender_is_waited_for(warehouse, server, keep, monkeypatch):
    monkeypatch.setattr("bigtcp_bench.notify.delivery._POLL_S", 0.05)
    monkeypatch.setattr(outbox, "LEASE_S", 0.2)
    keep("first")
    outbox.claim(warehouse, "lab")
    assert sent_by(warehouse, server, budget_s=30).sent == 1
    assert texts(server) == ["first"]


# Charts


def draw(cluster: str, wanted: dict[str, Any]) -> Chart:
    return Chart(PNG, f"{wanted['scenario']} on {cluster}", "Throughput fell.")


def test_a_chart_goes_into_the_thread_of_its_message(warehouse, server, keep):
    number = revise(warehouse, "2026-03-22").id
    keep("suspicion", "incident", incident=number, chart={"scenario": "ipv4-rr"})
    keep("regression", "incident", incident=number, chart={"scenario": "ipv6-rr"})
    assert sent_by(warehouse, server, draw=draw) == Delivery(2, 0)
    ts = server.messages[0]["ts"]
    assert [(file["title"], file["thread_ts"]) for file in server.files] == [
        ("ipv4-rr on lab", ts),
        ("ipv6-rr on lab", ts),
    ]


@pytest.mark.parametrize("answers", [["missing_scope"], ["500"] * 4, ["reset"] * 4, ["html"]])
def test_a_chart_that_cannot_be_uploaded_stops_no_text(warehouse, server, keep, answers):
    keep("first", chart={"scenario": "ipv4-rr"})
    keep("second")
    server.misbehave("ok", *answers)
    done = sent_by(warehouse, server, draw=draw)
    assert (done.sent, done.waiting, texts(server)) == (2, 0, ["first", "second"])
    assert done.lines()[1].startswith("the chart is missing in Slack: ")


def test_a_chart_that_cannot_be_drawn_stops_no_text(warehouse, server, keep):
    def fail(*_: Any) -> Chart:
        raise RuntimeError("no fonts")

    keep("first", chart={"scenario": "ipv4-rr"})
    done = sent_by(warehouse, server, draw=fail)
    assert (done.sent, done.lost) == (1, ("the chart could not be drawn: RuntimeError: no fonts",))


def test_a_long_outage_does_not_keep_a_run_for_ever(warehouse, server, keep, monkeypatch):
    for index in range(5):
        keep(f"{index}")
    clock = iter(range(0, 1000, 30))
    monkeypatch.setattr("bigtcp_bench.notify.delivery.time", SimpleNamespace(monotonic=lambda: next(clock)))
    done = sent_by(warehouse, server, budget_s=60)
    assert 0 < done.sent < 5
    assert done.reason == "no more messages are sent after 60 s"


def test_the_longest_attempt_is_shorter_than_the_lease() -> None:
    longest_s = SlackSettings.model_fields["timeout"].metadata[-1].le
    # Looked up in vain, and posted in vain: what is limited in rate is not posted again.
    assert 2 * RETRIES * (MAX_RETRY_AFTER_S + 1) < outbox.LEASE_S
    # Looked up, posted, looked up again: three calls that Slack does not answer.
    assert (2 * (RETRIES + 1) + 1) * longest_s < outbox.LEASE_S
