import logging
import time
from types import SimpleNamespace

import pytest

from bigtcp_bench.metrics import metrics_of
from bigtcp_bench.plan import SCENARIOS
from bigtcp_bench.report.slack import RETRIES, SlackMessage, run_message, send, slack_client
from bigtcp_bench.report.view import Proof, RestoreView
from tests.report.views import comparison, run_view
from tests.support.slack_server import SlackServer, block_problems


@pytest.fixture(autouse=True)
def no_proxy_and_no_pauses(monkeypatch):
    # The pauses between attempts are slack_sdk's; how long Slack asks to wait is kept (in another module of it).
    monkeypatch.setattr("slack_sdk.http_retry.handler.time", SimpleNamespace(sleep=lambda _seconds: None))
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with SlackServer() as running:
        yield running


@pytest.fixture
def client(server):
    return slack_client(server.token, server.base_url, timeout_s=5)


def texts_of(message: SlackMessage) -> list[str]:
    found = []
    for block in message.blocks:
        for element in block.get("elements", [block.get("text")]):
            found.append(element["text"])
    return found


def monster():
    """A run with everything as long and as wrong as it can get."""
    comparisons = tuple(
        comparison(name, metric.name, 12_345.6, 54_321.0, verdict="slower")
        for name in SCENARIOS
        for metric in metrics_of(SCENARIOS[name].traffic)
    )
    proofs = tuple(Proof(name, arm, 10.0**9, 10.0**9, 99) for name in SCENARIOS for arm in ("off", "on"))
    return run_view(
        cluster="c" * 300,
        status="invalid",
        reasons=tuple(f"{number}: " + "<&>" * 500 for number in range(60)),
        comparisons=comparisons,
        proofs=proofs,
        note="n" * 5000,
        restore=RestoreView("not_verified", "d" * 5000),
        noise=tuple("<&>" * 300 for _ in range(20)),
    )


def test_a_valid_run_arrives_with_its_figures(server, client):
    message = run_message(run_view())
    result = send(client, "C0BENCH", message)
    assert result.sent
    (stored,) = server.messages
    assert (result.channel, result.ts) == ("C0BENCH", stored["ts"])
    assert stored["text"] == "lab: VALID: BIG TCP on against off: 1 slower, 1 faster, 1 equivalent, 2 inconclusive"
    assert stored["blocks"] == list(message.blocks)
    text = "\n".join(texts_of(message))
    for fact in (
        "24.1 Gbit/s",
        "+69.7 %",
        "150,234 B",
        "proven",
        "node1 (client)",
        "1.18.3",
        "|The run in Airflow>",
    ):
        assert fact in text
    # One line per scenario and what got worse; the rest is in the log.
    assert "CPU receiver" in text
    assert "latency p99" not in text


@pytest.mark.parametrize("status", ["invalid", "failed"])
def test_a_run_without_verdict_says_why(status):
    message = run_message(run_view(status=status, reasons=("node2 was rebooted", "second reason")))
    assert message.text == f"lab: {status.upper()}: node2 was rebooted (and 1 more)"
    assert any("second reason" in text for text in texts_of(message))
    assert status in texts_of(message)[0]


def test_a_failed_restore_is_loudest():
    view = run_view(restore=RestoreView("not_verified", "eth0 of node2 differs"))
    first, second, *_ = texts_of(run_message(view))
    assert "RESTORE NOT VERIFIED" in first
    assert second.startswith("<!channel> *lab: RESTORE NOT VERIFIED: eth0 of node2 differs")
    assert "<!channel>" not in "".join(texts_of(run_message(run_view())))


def test_the_longest_message_is_accepted(server, client):
    result = send(client, "C0BENCH", run_message(monster()))
    assert result.reason == ""
    assert result.sent


def test_text_from_the_cluster_cannot_mention_or_link():
    view = run_view(status="failed", reasons=("<!channel> <http://evil|look> & more", "<!here>"))
    message = run_message(view)
    text = message.text + "".join(texts_of(message))
    assert "<!" not in text
    assert "&lt;!channel&gt; &lt;http://evil|look&gt; &amp; more" in text


def test_an_answer_goes_into_the_thread(server, client):
    parent = send(client, "C0BENCH", SlackMessage("parent", ()))
    send(client, "C0BENCH", SlackMessage("child", ()), thread_ts=parent.ts)
    assert server.messages[1]["thread_ts"] == parent.ts


@pytest.mark.parametrize("answers", [("429",), ("500",), ("reset",), ("429", "500", "reset")])
def test_what_passes_is_waited_for(server, client, answers):
    server.misbehave(*answers)
    started = time.monotonic()
    result = send(client, "C0BENCH", run_message(run_view()))
    assert result.sent
    assert len(server.messages) == 1
    assert server.requests == len(answers) + 1
    if "429" in answers:
        assert time.monotonic() - started >= server.retry_after_s


@pytest.mark.parametrize(
    ("answers", "reason", "requests"),
    [
        (["500"] * 9, "HTTP status 500", RETRIES + 1),
        (["reset"] * 9, "cannot be reached", RETRIES + 1),
        # The message may have been posted already, so these are not repeated.
        (["close"], "IncompleteRead", 1),
        (["hang"], "timed out", 1),
        (["html"], "Slack", 1),
        (["channel_not_found"], "the bot was not invited", 1),
        (["missing_scope"], "chat:write", 1),
    ],
)
def test_an_outage_is_a_result_and_no_error(server, answers, reason, requests):
    server.misbehave(*answers)
    result = send(slack_client(server.token, server.base_url, timeout_s=1), "C0BENCH", run_message(run_view()))
    assert not result.sent
    assert reason in result.reason
    assert server.requests == requests
    assert server.messages == []


def test_slack_may_not_make_a_task_wait_for_hours(server, client):
    server.retry_after_s = 3600
    server.misbehave("429")
    result = send(client, "C0BENCH", run_message(run_view()))
    assert "limits the rate" in result.reason
    assert server.requests == 1


def test_nobody_listening_is_a_result(server):
    with SlackServer() as gone:
        url = gone.base_url
    result = send(slack_client("xoxb-0", url, timeout_s=1), "C0BENCH", run_message(run_view()))
    assert "refused" in result.reason


def test_a_wrong_token_is_named_but_never_shown(server, caplog):
    token = "xoxb-this-is-secret"
    with caplog.at_level(logging.DEBUG):
        result = send(slack_client(token, server.base_url), "C0BENCH", run_message(run_view()))
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
    result = send(client, "C0BENCH", SlackMessage("text", (block,)))
    assert "invalid_blocks" in result.reason
    assert problem in result.reason


def test_the_server_counts_blocks_and_letters(server, client):
    section = {"type": "section", "text": {"type": "mrkdwn", "text": "x" * 2900}}
    assert block_problems([{"type": "divider"}] * 51)
    assert "msg_blocks_too_long" in send(client, "C0BENCH", SlackMessage("text", (section,) * 5)).reason
