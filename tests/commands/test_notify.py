"""`bigtcp-bench notify`: tries Slack, sends what waits and single runs, and never shows the token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bigtcp_bench.airflow import connections
from bigtcp_bench.commands.main import main
from bigtcp_bench.notify.message import Line, Message, payload
from bigtcp_bench.warehouse import outbox
from bigtcp_bench.warehouse.outbox import Draft
from bigtcp_bench.warehouse.store import Warehouse
from tests.support.nights import add_night
from tests.support.slack_server import SlackServer, block_problems

ROOT = Path(__file__).parent.parent.parent


def extra_of(server: SlackServer, **extra: Any) -> dict[str, Any]:
    return {"channel": "C0BENCH", "base_url": server.base_url, "timeout": 2} | extra


def connect(monkeypatch: pytest.MonkeyPatch, server: SlackServer, **extra: Any) -> None:
    """Let Airflow have the connection, without importing it into this process."""
    found = SimpleNamespace(password=server.token, extra_dejson=extra_of(server, **extra))
    monkeypatch.setattr(connections, "_connection", lambda _conn_id: found)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    # The command sets these for Airflow; not for the tests after this one.
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    with SlackServer() as running:
        connect(monkeypatch, running)
        yield running


@pytest.fixture
def command(warehouse: Warehouse, capsys: pytest.CaptureFixture[str]):

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["notify", *arguments, "--warehouse", warehouse.url])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    run.warehouse = warehouse  # type: ignore[attr-defined]
    return run


def test_trying_slack_needs_neither_a_warehouse_nor_the_home(server, tmp_path):
    home, folder = tmp_path / "home", tmp_path / "folder"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT / "plugins")}
    extra = extra_of(server, clusters={"prod": {"channel": "C0PROD"}})
    connection = {"conn_type": "slack", "password": server.token, "extra": extra}
    environment["AIRFLOW_CONN_BIGTCP_SLACK"] = json.dumps(connection)
    arguments = ["notify", "--test", "--cluster", "prod", "--folder", str(folder)]
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from bigtcp_bench.commands.main import main; raise SystemExit(main())",
            *arguments,
        ],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    (message,) = server.messages
    assert (done.returncode, done.stdout) == (0, f"sent to channel C0PROD as message {message['ts']}\n")
    assert "bigtcp-bench can post here for cluster prod." in message["text"]
    # It says whom an alarm would mention, and mentions nobody.
    assert "&lt;!channel&gt;" in message["text"]
    assert "<!channel>" not in str(message)
    assert server.token not in done.stdout + done.stderr
    assert list(home.iterdir()) == []


def test_what_the_token_may_not_do_is_said(server, command):
    server.scopes = ("chat:write",)
    status, output, _ = command("--test")
    assert status == 0
    assert "the token has no scope files:write: messages come without charts" in output
    assert (
        "the token has no scope channels:history: a message whose sending was interrupted may come twice" in output
    )


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (
            {"channel": "C0GONE"},
            "not sent to channel C0GONE: Slack refused the message: channel_not_found: the channel",
        ),
        (
            {"channel": "#bench"},
            "bigtcp-bench: the Airflow connection 'bigtcp_slack': channel = '#bench': must be",
        ),
        (
            {"channel": None, "clusters": {"prod": {"channel": "C0PROD"}}},
            "there is no channel for this cluster; --cluster may be one of prod",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence(server, command, monkeypatch, extra, sentence):
    connect(monkeypatch, server, **extra)
    status, output, errors = command("--test")
    assert status == 1
    assert sentence in output + errors
    assert server.token not in output + errors


def test_without_a_connection(server, command, monkeypatch):
    monkeypatch.setattr(connections, "_connection", lambda _conn_id: None)
    status, _, errors = command("--test")
    assert status == 1
    assert "there is no Airflow connection 'bigtcp_slack'; docs/slack.md says how to make one" in errors


def test_a_run_is_printed_or_sent(server, command):
    quiet = add_night(command.warehouse, 0)
    for more in ([], ["--print"]):
        assert command(str(quiet), *more)[:2] == (0, f"run {quiet} calls for no message\n")
    run = add_night(command.warehouse, 1)
    command.warehouse.update_run(run, status="invalid", reasons=["the pods were gone"])
    status, output, _ = command(str(run), "--print")
    printed = json.loads(output)
    assert status == 0
    assert printed["text"].startswith("lab: INVALID")
    assert block_problems(printed["blocks"]) == []
    assert server.requests == 0
    status, output, _ = command(str(run))
    assert (status, output) == (0, "sent to Slack: 1 message\n")
    assert server.messages[0]["blocks"] == printed["blocks"]
    assert command(str(run))[:2] == (0, f"what run {run} calls for was sent before\n")
    assert len(server.messages) == 1
    # What the night has kept is shown, whatever would be written today.
    # Even by a version that kept Slack's text.
    outbox.keep(command.warehouse, "lab", [Draft("kept", "run", {"text": "as of then", "blocks": []}, quiet)])
    assert json.loads(command(str(quiet), "--print")[1])["text"] == "as of then"
    assert "bigtcp-bench: run 99 is not in the warehouse" in command("99", "--print")[2]
    assert "bigtcp-bench: --print needs the number of a run" in command("--print")[2]


def test_what_waits_is_sent(server, command):
    assert command()[:2] == (0, "no message waits\n")
    for cluster in ("lab", "prod"):
        draft = Draft(f"of {cluster}", "run", payload(Message((Line(f"of {cluster}"),))))
        outbox.keep(command.warehouse, cluster, [draft])
    assert command("--cluster", "prod")[:2] == (0, "prod: sent to Slack: 1 message\n")
    server.misbehave("invalid_auth")
    status, output, _ = command()
    assert status == 1
    assert (
        "lab: not sent to Slack, kept for the next run: 1 message: Slack refused the message: invalid_auth"
        in output
    )
    assert command()[:2] == (0, "lab: sent to Slack: 1 message\n")
    assert [message["text"] for message in server.messages] == ["of prod", "of lab"]
