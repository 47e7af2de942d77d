"""Slack's Web API as it is used, against a local server that refuses what Slack refuses."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError

from bigtcp_bench.notify.channel import Chart
from bigtcp_bench.notify.run_messages import run_message
from bigtcp_bench.notify.slack.blocks import SlackMessage, rendered
from bigtcp_bench.notify.slack.client import RETRIES, find, post, slack_client, update, upload
from tests.report.views import run_view
from tests.support.slack_server import PNG, SlackServer, block_problems

MESSAGE = rendered(run_message(run_view()))
TEXT = SlackMessage("text", ())


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    # The pauses between attempts are slack_sdk's; how long Slack asks to wait is kept (in another module of it).
    monkeypatch.setattr("slack_sdk.http_retry.handler.time", SimpleNamespace(sleep=lambda _seconds: None))


@pytest.fixture
def client(server: SlackServer) -> WebClient:
    return slack_client(server.token, server.base_url, timeout_s=5)


def impatient(server: SlackServer) -> WebClient:
    # Long enough for a server that answers on a busy machine: only one that hangs takes longer.
    return slack_client(server.token, server.base_url, timeout_s=3)


def test_a_message_arrives_as_it_is(server, client):
    result = post(client, "C0BENCH", MESSAGE)
    (stored,) = server.messages
    assert (result.sent, result.channel, result.ts, result.thread_ts) == (
        True,
        "C0BENCH",
        stored["ts"],
        stored["ts"],
    )
    assert (stored["text"], stored["blocks"]) == (MESSAGE.text, list(MESSAGE.blocks))


def test_an_answer_goes_into_the_thread(server, client):
    parent = post(client, "C0BENCH", TEXT)
    child = post(client, "C0BENCH", TEXT, thread_ts=parent.ts, broadcast=True)
    assert child.thread_ts == parent.ts
    (answer,) = server.thread(parent.ts)
    assert (answer["ts"], answer["reply_broadcast"]) == (child.ts, True)
    assert post(client, "C0BENCH", TEXT, thread_ts="1.0").code == "thread_not_found"


def test_a_message_is_replaced(server, client):
    sent = post(client, "C0BENCH", MESSAGE)
    assert update(client, "C0BENCH", sent.ts, TEXT).sent
    assert [message["text"] for message in server.messages] == ["text"]
    assert update(client, "C0BENCH", "1.0", TEXT).code == "message_not_found"


def test_a_message_is_found_by_its_mark(server, client):
    since = datetime.now(UTC)
    server.page = 2
    sent = [post(client, "C0BENCH", TEXT, mark=mark) for mark in ("a", "b", "c", "d", "e")]
    answer = post(client, "C0BENCH", TEXT, thread_ts=sent[0].ts, mark="f")
    for mark, expected in (("a", sent[0].ts), ("e", sent[4].ts), ("x", None), ("f", None)):
        found = find(client, "C0BENCH", mark, since)
        assert (found.ts, found.certain) == (expected, True)
    assert find(client, "C0BENCH", "f", since, sent[0].ts).ts == answer.ts
    assert find(client, "C0BENCH", "a", since + timedelta(hours=1)).ts is None
    server.scopes = ("chat:write",)
    unknown = find(client, "C0BENCH", "a", since)
    assert (unknown.ts, unknown.certain) == (None, False)


def test_a_picture_is_uploaded_in_three_steps_into_the_thread(server, client):
    parent = post(client, "C0BENCH", TEXT)
    assert upload(client, "C0BENCH", str(parent.ts), Chart(PNG + bytes(1000), "Trend", "Throughput fell")).sent
    assert server.calls[1:] == ["files.getUploadURLExternal", "upload", "files.completeUploadExternal"]
    (file,) = server.files
    assert (file["channel"], file["thread_ts"], file["title"]) == ("C0BENCH", parent.ts, "Trend")
    assert (file["initial_comment"], file["content"]) == ("Throughput fell", PNG + bytes(1000))


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("answer", ["500", "reset", "close", "missing_scope"])
def test_a_picture_that_cannot_be_uploaded_is_a_result(server, client, step, answer):
    server.misbehave(*["ok"] * step, *[answer] * 9)
    result = upload(client, "C0BENCH", "1.0", Chart(PNG, "Trend", "Throughput fell"))
    assert not result.sent
    assert result.reason
    assert server.files == []


@pytest.mark.parametrize("answers", [("500",), ("429", "500", "500")])
def test_what_passes_is_waited_for(server, client, answers):
    server.misbehave(*answers)
    started = time.monotonic()
    result = post(client, "C0BENCH", MESSAGE)
    assert result.sent
    assert len(server.messages) == 1
    assert server.requests == len(answers) + 1
    if "429" in answers:
        assert time.monotonic() - started >= server.retry_after_s


@pytest.mark.parametrize(
    ("answers", "reason", "requests", "doubtful"),
    [
        (["500"] * 9, "HTTP status 500", RETRIES + 1, True),
        # The message may have been posted already, so these are not repeated here.
        (["reset"], "cannot be reached", 1, True),
        (["close"], "IncompleteRead", 1, True),
        (["hang"], "timed out", 1, True),
        (["internal_error"], "internal_error", 1, True),
        (["html"], "Slack", 1, False),
        (["channel_not_found"], "the bot was not invited", 1, False),
        (["missing_scope"], "chat:write", 1, False),
    ],
)
def test_an_outage_is_a_result_and_no_error(server, answers, reason, requests, doubtful):
    server.misbehave(*answers)
    result = post(impatient(server), "C0BENCH", MESSAGE)
    assert not result.sent
    assert reason in result.reason
    assert (result.doubtful, server.requests) == (doubtful, requests)
    assert server.messages == []


@pytest.mark.parametrize("answers", [("reset", "close"), ("hang",)])
def test_what_may_be_repeated_is_repeated(server, answers):
    sent = post(impatient(server), "C0BENCH", TEXT)
    server.misbehave(answers[0])
    assert update(impatient(server), "C0BENCH", str(sent.ts), TEXT).sent
    assert server.calls == ["chat.postMessage", "chat.update", "chat.update"]


def test_slack_may_not_make_a_task_wait_for_hours(server, client):
    server.retry_after_s = 3600
    server.misbehave("429")
    result = post(client, "C0BENCH", MESSAGE)
    assert "limits the rate" in result.reason
    assert server.requests == 1


def test_nobody_listening_is_a_result(server):
    with SlackServer() as gone:
        url = gone.base_url
    result = post(slack_client("xoxb-0", url, timeout_s=1), "C0BENCH", MESSAGE)
    assert "refused" in result.reason
    assert not result.doubtful


def test_a_wrong_token_is_named_but_never_shown(server, caplog):
    token = "xoxb-this-is-secret"
    with caplog.at_level(logging.DEBUG):
        result = post(slack_client(token, server.base_url), "C0BENCH", MESSAGE)
    assert "does not accept the bot token" in result.reason
    assert token not in result.reason
    assert token not in caplog.text
    assert token not in repr(result)


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ({"type": "header", "text": {"type": "plain_text", "text": "x" * 151}}, "less than 151"),
        ({"type": "header", "text": {"type": "mrkdwn", "text": "x"}}, "unsupported type of text"),
        ({"type": "section", "text": {"type": "mrkdwn", "text": "x" * 3001}}, "less than 3001"),
        ({"type": "section", "text": {"type": "mrkdwn", "text": ""}}, "more than 0"),
        ({"type": "context", "elements": []}, "1 to 10"),
        ({"type": "carousel"}, "unsupported type"),
    ],
)
def test_the_server_knows_the_limits(server, client, block, problem):
    assert problem in block_problems([block])[0]
    with pytest.raises(SlackApiError) as refusal:
        client.chat_postMessage(channel="C0BENCH", text="text", blocks=[block])
    assert refusal.value.response["error"] == "invalid_blocks"
    assert problem in refusal.value.response["response_metadata"]["messages"][0]


def test_the_server_counts_blocks_and_letters(server, client):
    section = {"type": "section", "text": {"type": "mrkdwn", "text": "x" * 2900}}
    assert block_problems([{"type": "divider"}] * 51)
    # Then the text goes alone.
    assert post(client, "C0BENCH", SlackMessage("text", (section,) * 5), mark="a").sent
    assert [(message["text"], message.get("blocks")) for message in server.messages] == [("text", None)]
    assert server.requests == 2
