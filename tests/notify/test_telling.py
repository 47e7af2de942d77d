"""From a run to Slack and back: real nights, a real picture, a real server; and nothing ever fails the run."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from bigtcp_bench.analysis.verdicts import judge_run
from bigtcp_bench.cluster.fingerprint import datapath_config
from bigtcp_bench.errors import PreconditionFailed
from bigtcp_bench.generated.figures import night_results
from bigtcp_bench.generated.story import Fate, stories
from bigtcp_bench.judging.night import Nightly
from bigtcp_bench.notify.slack.settings import SlackSettings, slack_settings
from bigtcp_bench.notify.telling import tell
from bigtcp_bench.planning.plan import blocks, validate_plan
from bigtcp_bench.planning.thresholds import Thresholds
from bigtcp_bench.report.view import RestoreView, RunView
from bigtcp_bench.warehouse import incidents, outbox
from bigtcp_bench.warehouse.store import Warehouse
from tests.report.views import run_view
from tests.support.nights import add_night
from tests.support.slack_server import PNG, SlackServer

URL = "https://airflow.example"
SCENARIOS = ("ipv4-stream-1", "ipv4-rr")
FELL = {"on": {"ipv4-stream-1": 0.8}}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slack_sdk.http_retry.handler.time", SimpleNamespace(sleep=lambda _seconds: None))


def settings_of(server: SlackServer, **extra: Any) -> SlackSettings:
    given = {"channel": "C0BENCH", "base_url": server.base_url, "timeout": 2} | extra
    return slack_settings(server.token, given, "a connection")


def night(warehouse: Warehouse, number: int, **changes: Any) -> RunView:
    run = add_night(warehouse, number, scenarios=SCENARIOS, **changes)
    Nightly(warehouse, run, Thresholds.model_validate({})).judge()
    return RunView.from_warehouse(warehouse, run, URL)


def tell_of(warehouse: Warehouse, server: SlackServer, view: RunView, **extra: Any) -> list[str]:
    return tell(warehouse, view, lambda: settings_of(server, **extra), airflow_url=URL, budget_s=30)


def test_a_month_of_nights(warehouse, server):
    """Two quiet weeks, a drop that lasts, an outage of Slack in the middle of it, and its end."""
    for number in range(16):
        if number in (0, 14, 15):
            assert tell_of(warehouse, server, night(warehouse, number)) == []
        else:
            add_night(warehouse, number, scenarios=SCENARIOS)
    number = 16
    while not server.messages:
        assert number < 22
        lines = tell_of(warehouse, server, night(warehouse, number, **FELL))
        number += 1
    assert lines == ["sent to Slack: 1 message"]
    (opening,) = server.messages
    assert "Regression on lab: ipv4-stream-1 throughput, gain fell from " in str(opening["blocks"])
    assert opening["text"].splitlines()[3] == "Attributed to BIG TCP: arm on got worse against arm off."
    (picture,) = server.files
    assert picture["thread_ts"] == opening["ts"]
    assert picture["content"].startswith(PNG)
    assert len(picture["content"]) > 10_000
    assert picture["initial_comment"].startswith("Line chart: throughput of ipv4-stream-1 with BIG TCP off and on")

    server.misbehave(*["500"] * 8)
    lines = tell_of(warehouse, server, night(warehouse, number, **FELL))
    assert lines[0].startswith(
        "not sent to Slack, kept for the next run: 1 message: Slack answered with HTTP status 500"
    )
    tell_of(warehouse, server, night(warehouse, number + 1, **FELL))
    first, second = server.thread(opening["ts"])
    days = [message["text"].partition(":")[0] for message in (first, second)]
    assert days == [f"Still there, day {day}" for day in (number - 15, number - 14)]

    incidents.acknowledge(warehouse, 1, by="ann", note="known")
    for later in range(number + 2, number + 4):
        tell_of(warehouse, server, night(warehouse, later, **FELL))
    assert server.thread(opening["ts"])[2:] == [server.messages[-1]]
    assert server.messages[-1]["text"].endswith(
        "Acknowledged by ann: known. Silent until it ends, "
        "or gets worse by half of what it is now and at least 3 %."
    )
    for later in range(number + 4, number + 9):
        tell_of(warehouse, server, night(warehouse, later))
    end = server.messages[-1]
    assert (end["thread_ts"], end["reply_broadcast"]) == (opening["ts"], True)
    assert end["text"].startswith(":white_check_mark: Recovered on ")
    assert opening["text"].startswith("Recovered on ")
    assert outbox.waiting(warehouse, "lab") == 0


def judged(warehouse: Warehouse, number: int, fate: Fate, drift: float = 1.0) -> RunView:
    """Store a generated night as it was measured and judged; ``drift`` is the speed of its last block."""
    plan = validate_plan(
        {"name": "x", "scenarios": ["ipv6-stream-1", "ipv6-rr"], "order": ["off", "on", "off"], "duration_s": 15},
        "a test",
    )
    run = add_night(warehouse, number, scenarios=plan.scenarios, plan=plan.model_dump(mode="json"))
    (story,) = stories(1, 1)
    results = night_results(replace(story, fate=fate), plan, blocks(plan), seed=1)
    drifted = (results["block"] == 3) & (results["metric"] == "throughput_bps")
    results.loc[drifted, "value"] *= drift
    for block in blocks(plan):
        warehouse.store_block(run, {"block": block.number, "arm": block.arm})
    warehouse.store_results(run, results.to_dict("records"))
    verdict = judge_run(results, plan)
    warehouse.store_comparisons(run, verdict.comparisons)
    reasons = list(verdict.reasons) or [reason for one in verdict.comparisons for reason in one.reasons]
    warehouse.update_run(run, status="invalid", reasons=reasons)
    return RunView.from_warehouse(warehouse, run, URL)


def test_an_invalid_run_shows_what_was_wrong_with_it(warehouse, server):
    assert tell_of(warehouse, server, judged(warehouse, 0, "unproven")) == ["sent to Slack: 1 message"]
    assert tell_of(warehouse, server, judged(warehouse, 1, "ordinary", drift=0.5)) == ["sent to Slack: 1 message"]
    packets, repetitions = server.files
    assert packets["content"].startswith(PNG)
    assert packets["initial_comment"].startswith("Dots: mean bytes per packet. ipv6-stream-1 off sender: ")
    assert (
        "repetitions of throughput of ipv6-stream-1. Medians by block: 1: off " in repetitions["initial_comment"]
    )
    assert [one["thread_ts"] for one in server.files] == [one["ts"] for one in server.messages]


def test_an_invalid_run_that_a_sentence_explains_has_no_picture(warehouse, server):
    assert tell_of(warehouse, server, judged(warehouse, 0, "lossy")) == ["sent to Slack: 1 message"]
    assert (len(server.messages), server.files) == (1, [])


def test_a_mistake_in_the_connection_keeps_the_messages(warehouse, server):
    view = run_view(number=add_night(warehouse, 0), restore=RestoreView("not_verified", "eth0 differs"))

    def mistaken() -> SlackSettings:
        raise PreconditionFailed("the connection has no channel")

    lines = tell(warehouse, view, mistaken, airflow_url=URL, budget_s=1)
    assert lines == ["not sent to Slack, kept until that is mended: the connection has no channel"]
    assert tell_of(warehouse, server, view) == ["sent to Slack: 1 message"]
    assert "RESTORE NOT VERIFIED" in server.messages[0]["text"]


def test_without_a_connection_nothing_is_kept(warehouse):
    view = run_view(number=add_night(warehouse, 0), status="failed", reasons=("x",))
    lines = tell(warehouse, view, lambda: None, airflow_url=None, budget_s=1)
    assert lines == ["not sent to Slack: there is no connection for it"]
    assert outbox.waiting(warehouse, "lab") == 0


def test_whatever_goes_wrong_is_a_line(warehouse, capsys):
    def broken() -> SlackSettings:
        raise RuntimeError("the secrets backend is away")

    lines = tell(warehouse, run_view(), broken, airflow_url=None, budget_s=1)
    assert lines == ["not sent to Slack: RuntimeError: the secrets backend is away"]
    assert "Traceback" in capsys.readouterr().err


def test_the_first_run_of_another_cilium_is_told_once(warehouse, server):
    def of(number: int, version: str) -> RunView:
        cilium = {"images": {"cilium": f"cilium:v{version}"}, "cilium_version": version}
        plan = {"name": "nightly", "scenarios": ["ipv4-rr"], "order": ["off", "on", "off"], "duration_s": 15}
        config = datapath_config({"routing-mode": "native"})
        run = add_night(
            warehouse,
            number,
            scenarios=("ipv4-rr",),
            plan=plan,
            plan_name="nightly",
            cilium_config=config,
            **cilium,
        )
        return RunView.from_warehouse(warehouse, run, URL)

    for number in range(3):
        assert tell_of(warehouse, server, of(number, "1.18.3")) == []
    assert tell_of(warehouse, server, of(3, "1.18.4")) == ["sent to Slack: 1 message"]
    assert server.messages[0]["text"].count("1.18.3 → 1.18.4") == 1
    assert tell_of(warehouse, server, of(4, "1.18.4")) == []


def test_the_digest_comes_with_the_first_run_of_a_week(warehouse, server):
    monday = datetime(2026, 3, 2, 2, tzinfo=UTC)
    # A new cluster has no week behind it.
    for day in range(9):
        view = night(warehouse, day, first=monday)
        assert tell_of(warehouse, server, view, digest="weekly") == (
            ["sent to Slack: 1 message"] if day == 7 else []
        )
    (digest,) = server.messages
    assert "week 10, 2 Mar to 8 Mar 2026" in str(digest["blocks"])
    assert digest["text"].splitlines()[1:3] == ["*Runs*: 7 valid.", "*Open regressions*: none."]
    assert "ipv4-stream-1  throughput" in str(digest["blocks"])
    # Three weeks later there was none in between.
    view = night(warehouse, 30, first=monday)
    tell_of(warehouse, server, view, digest="weekly")
    assert server.messages[1]["text"].splitlines()[1] == "No run in this week."


def test_no_digest_unless_it_is_switched_on(warehouse, server):
    first = datetime(2026, 3, 1, tzinfo=UTC)
    # A Sunday, and the Mondays after it.
    for day in (0, 1, 8):
        view = night(warehouse, day, first=first + timedelta(hours=2))
        assert tell_of(warehouse, server, view) == []
    assert server.requests == 0
