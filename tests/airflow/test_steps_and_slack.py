"""What the steps of a run tell Slack, through Airflow's connection and a local server."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from bigtcp_bench.airflow import connections
from bigtcp_bench.airflow.steps import opening
from bigtcp_bench.airflow.steps.perform import perform
from bigtcp_bench.airflow.steps.step import DagRunStep
from bigtcp_bench.errors import PreconditionFailed
from bigtcp_bench.warehouse.store import Warehouse
from tests.support.nights import CLUSTER, add_night
from tests.support.slack_server import SlackServer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("slack_sdk.http_retry.handler.time", SimpleNamespace(sleep=lambda _seconds: None))
    with SlackServer() as running:
        connect(monkeypatch, running)
        yield running


def connect(monkeypatch: pytest.MonkeyPatch, server: SlackServer, **extra: Any) -> None:
    given = {"channel": "C0BENCH", "base_url": server.base_url, "timeout": 1} | extra
    connection = {"conn_type": "slack", "password": server.token, "extra": given}
    monkeypatch.setenv("AIRFLOW_CONN_BIGTCP_SLACK", json.dumps(connection))


@pytest.fixture
def step(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> DagRunStep:
    """Return the step of a run that is stored and valid, on no cluster at all."""
    monkeypatch.setattr(connections, "cluster_name", lambda _conn_id: CLUSTER)
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example")
    states = {"notify": "success"}
    params = {"plan": "nightly"}
    made = DagRunStep("bigtcp_benchmark", "night 0", "notify", "manual", params, lambda: states)
    made.__dict__.update(warehouse=warehouse, number=add_night(warehouse, 0))
    restored = {"state": "verified", "detail": "as before"}
    warehouse.update_run(made.number, restore_result=restored)
    return made


def test_a_quiet_night(step, server):
    assert perform("notify", step) == {"slack": []}
    assert perform("close_run", step) == {"status": "valid"}
    assert server.requests == 0


def test_an_invalid_run_is_told_once(step, server):
    step.warehouse.update_run(step.number, status="invalid", reasons=["node2 was rebooted"])
    assert perform("notify", step) == {"slack": ["sent to Slack: 1 message"]}
    assert perform("notify", step) == {"slack": []}
    with pytest.raises(AirflowFailException):
        perform("close_run", step)
    (message,) = server.messages
    assert message["text"] == "lab: INVALID · node2 was rebooted"
    # Airflow's own address is in the links.
    assert "https://airflow.example/dags/bigtcp_benchmark/runs/night%200" in str(message["blocks"])
    assert step.warehouse.run(step.number)["slack_ts"] == message["ts"]


@pytest.mark.parametrize("answers", [["500"] * 8, ["hang", *["500"] * 4], ["ratelimited"], ["invalid_auth"]])
def test_an_outage_fails_nothing_and_is_made_up_for(step, server, answers):
    step.warehouse.update_run(step.number, status="failed", reasons=["the API was away"])
    server.misbehave(*answers)
    (line,) = perform("notify", step)["slack"]
    assert line.startswith("not sent to Slack, kept for the next run: 1 message: Slack ")
    server._script.clear()
    with pytest.raises(AirflowFailException):
        perform("close_run", step)
    assert [message["text"] for message in server.messages] == ["lab: FAILED · the API was away"]


def test_a_restore_that_is_not_verified_is_told_after_notify_and_mentions(step, server, monkeypatch):
    connect(monkeypatch, server, mention="@here", min_severity="regression")
    perform("notify", step)
    restored = {"state": "not_verified", "detail": "eth0 of node2 differs"}
    step.warehouse.update_run(step.number, restore_result=restored)
    perform("close_run", step)
    (message,) = server.messages
    assert message["text"].startswith("<!here> lab: RESTORE NOT VERIFIED · eth0 of node2 differs")


def test_a_refused_run_is_told_with_its_checks(step, server, monkeypatch):
    checks = [{"name": "kernel", "node": "node1", "status": "fail", "found": "Linux 5.10", "advice": "needs 6.3"}]
    step.warehouse.update_run(step.number, checks=checks, status="running", reasons=[], restore_result=None)

    def check_kernel(_step: DagRunStep) -> None:
        raise PreconditionFailed("node node1: kernel: Linux 5.10; needs 6.3 (and 2 more failed checks)")

    monkeypatch.setattr(opening, "check_kernel", check_kernel)
    with pytest.raises(AirflowFailException):
        perform("check_kernel", step)
    (message,) = server.messages
    assert message["text"].startswith("lab: FAILED · node node1: kernel: Linux 5.10")
    assert "• node node1: kernel: Linux 5.10; needs 6.3" in str(message["blocks"])


def test_a_mistake_in_the_connection_is_said_and_fails_nothing(step, server, monkeypatch):
    connect(monkeypatch, server, channel="#bench")
    step.warehouse.update_run(step.number, status="invalid", reasons=["node2 was rebooted"])
    (line,) = perform("notify", step)["slack"]
    assert line.startswith(
        "not sent to Slack, kept until that is mended: the Airflow connection 'bigtcp_slack': chan"
    )
    assert server.token not in line
    connect(monkeypatch, server)
    with pytest.raises(AirflowFailException):
        perform("close_run", step)
    assert len(server.messages) == 1


def test_no_connection_is_no_failure(step, monkeypatch):
    step.warehouse.update_run(step.number, status="invalid", reasons=["node2 was rebooted"])
    assert perform("notify", step) == {"slack": ["not sent to Slack: there is no connection for it"]}
