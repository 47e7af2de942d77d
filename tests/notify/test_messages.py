"""What the messages of runs, incidents and weeks say, and that none of them is more than Slack takes."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtcp_bench.analysis.change import Moved, ScenarioChange
from bigtcp_bench.notify import incident_messages
from bigtcp_bench.notify.digest import digest_message
from bigtcp_bench.notify.incident_messages import IncidentNews
from bigtcp_bench.notify.message import Message, message_of, payload
from bigtcp_bench.notify.run_messages import run_message
from bigtcp_bench.notify.slack.blocks import SlackMessage, rendered
from bigtcp_bench.notify.slack.client import post, slack_client
from bigtcp_bench.planning.metrics import METRICS, metrics_of
from bigtcp_bench.planning.plan import SCENARIOS
from bigtcp_bench.report.change import ChangeView
from bigtcp_bench.report.history import HistoryView, SeriesView
from bigtcp_bench.report.view import Proof, RestoreView, RunView
from bigtcp_bench.warehouse.incidents import Incident, Member
from bigtcp_bench.warehouse.period import Gain, Period
from tests.report.views import CAUSES, comparison, run_view
from tests.support.slack_server import content_refusal

MONDAY = datetime(2026, 11, 16, tzinfo=UTC)
#: Every series that gets a verdict: scenario and metric.
ALL = [
    (name, metric.name)
    for name in SCENARIOS
    for metric in metrics_of(SCENARIOS[name].traffic)
    if METRICS[metric.name].judged
]
LONGEST = ("c" * 4500, "<&>" * 1500, "*_~` " * 900)


def shown(message: Message) -> SlackMessage:
    """Return what Slack gets of a message that was kept in between."""
    kept = message_of(json.loads(json.dumps(payload(message))))
    assert kept == message
    return rendered(kept, "<!channel>")


def text_of(message: Message) -> str:
    return shown(message).text


def texts_of(message: Message) -> list[str]:
    found = []
    for block in shown(message).blocks:
        for element in block.get("elements", [block.get("text")]):
            found.append(element["text"])
    return found


def incident(**changes: Any) -> Incident:
    given: dict[str, Any] = {field.name: None for field in fields(Incident)}
    own = {"id": 3, "uid": "lab/1", "cluster": "lab", "state": "regression", "attribution": "big-tcp"}
    nights = {"changed_on": "2026-11-20", "suspected_on": "2026-11-20", "confirmed_on": "2026-11-22"}
    member = Member("ipv4-stream-1", "throughput_bps", -0.123, "2026-11-20", "2026-11-23", True)
    return Incident(**given | own | nights | {"members": (member,)} | changes)


EVERY = (
    incident_messages.regression_message,
    incident_messages.suspicion_message,
    incident_messages.still_there,
    lambda news: incident_messages.grown(news, {}),
    incident_messages.acknowledged,
    lambda news: incident_messages.closed(replace(news, incident=ended(news.incident))),
    lambda news: incident_messages.closed_title_message(replace(news, incident=ended(news.incident))),
)


def ended(one: Incident) -> Incident:
    return replace(one, state="recovered", closed_on="2026-12-24")


def moved_by(change: float) -> ChangeView:
    """Return that both arms moved by ``change`` from a run before Cilium was changed, by more than chance."""
    moved = Moved(10.0, 10 * (1 + change), change, change - 0.1, change + 0.1, beyond_chance=True)
    series = ScenarioChange("ipv4-stream-1", "throughput_bps", moved, moved, moved, 12)
    return ChangeView(12, "night 11", MONDAY, ("1.18.3 → 1.18.4",), (), (series,), 0.95, 8)


def test_a_valid_run_arrives_with_its_figures(server):
    message = run_message(run_view())
    client = slack_client(server.token, server.base_url, timeout_s=5)
    assert post(client, "C0BENCH", shown(message)).sent
    assert text_of(message) == (
        "lab: VALID · helps 1, worse 1 (ipv4-stream-1 CPU receiver), unchanged 1, too noisy 2"
    )
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
    assert text_of(message) == f"lab: {status.upper()} · node2 was rebooted (and 1 more)"
    assert any("second reason" in text for text in texts_of(message))
    # Of a run that broke there is nothing to be read in tables.
    assert any("```" in text for text in texts_of(message)) == (status == "invalid")
    assert status in texts_of(message)[0]


def test_a_reason_is_told_once_and_what_to_do_next():
    message = run_message(run_view(status="invalid", reasons=("node2 was rebooted",)))
    assert "\n".join(texts_of(message)).count("node2 was rebooted") == 1
    assert any("*Do next*\n• Nothing for one night" in text for text in texts_of(message))
    assert not any("Do next" in text for text in texts_of(run_message(run_view())))


def test_a_valid_run_that_is_worse_than_before_a_change_has_no_tick():
    title, *texts = texts_of(run_message(run_view(change=moved_by(-0.3))))
    assert title == ":warning: BIG TCP on lab: valid, and needs a look"
    assert any("*Do next*\n• The next nights confirm it or not" in text for text in texts)


def test_the_first_two_likely_causes_are_told():
    texts = "\n".join(texts_of(run_message(run_view(status="invalid", reasons=("too slow",), causes=CAUSES))))
    assert "*Likely causes*\n• cilium-drops: Cilium on node node2 dropped 3,000 packets" in texts
    assert "• receiver-cpu: ipv4-stream-1, arm on:" in texts
    assert "steal" not in texts
    assert "*Likely cause*\n• steal" in "\n".join(texts_of(run_message(run_view(causes=CAUSES[2:]))))
    assert "Likely" not in "\n".join(texts_of(run_message(run_view())))
    news = IncidentNews(incident(), run_view(causes=CAUSES))
    assert "*Likely causes*\n• cilium-drops" in "\n".join(texts_of(incident_messages.regression_message(news)))


def test_a_failed_restore_is_loudest():
    view = run_view(restore=RestoreView("not_verified", "eth0 of node2 differs"))
    message = run_message(replace(view, dag_id="bigtcp_benchmark_stage-2"), (), "https://airflow.example")
    first, second, *_ = texts_of(message)
    assert "RESTORE NOT VERIFIED" in first
    assert second.startswith(
        "<!channel> *lab: RESTORE NOT VERIFIED · eth0 of node2 differs · first run the DAG bigtcp_restore"
    )
    *_, small = texts_of(message)
    # Each cluster has a DAG of its own for it.
    assert small.startswith("<https://airflow.example/dags/bigtcp_restore_stage-2|The DAG that puts it back>")
    # Said once and whole, and no figure stands before what is to be done.
    told = "\n".join(texts_of(message))
    assert told.count("eth0 of node2 differs") == told.count("bigtcp-bench restore ") == 1
    assert "ˋ" not in told
    assert "throughput" not in told
    # What is said without blocks, in a notification, mentions too.
    assert text_of(message).startswith("<!channel> lab: RESTORE NOT VERIFIED")
    assert "<!channel>" not in str(shown(run_message(run_view())))


def test_text_from_the_cluster_cannot_mention_link_or_format():
    reasons = ("<!channel> <http://evil|look> & *more*", "<!here>")
    view = run_view(status="failed", reasons=reasons, note="<@U1> _x_", cluster="<lab>")
    message = run_message(view)
    text = text_of(message) + "".join(texts_of(message)[1:])
    assert "<!" not in text
    assert "<@" not in text
    assert "&lt;!channel&gt; &lt;http://evil|look&gt; &amp; ∗more*" in text
    assert "&lt;@U1&gt; ˍx_" in text


def test_what_is_not_real_is_said():
    for message in (
        run_message(run_view(emulated=True)),
        EVERY[0](IncidentNews(incident(), run_view(emulated=True))),
    ):
        assert "emulated; the traffic, the kernel's BIG TCP and every counter are real" in str(shown(message))
    still = incident_messages.still_there
    assert "(lab, its Cilium is emulated)" in text_of(still(IncidentNews(incident(), run_view(emulated=True))))
    generated = run_view(generated=True)
    assert text_of(run_message(generated)).startswith("GENERATED, NOT MEASURED: lab")
    assert text_of(EVERY[0](IncidentNews(incident(), generated))).startswith(
        "GENERATED, NOT MEASURED: Regression on lab: ipv4"
    )
    assert "(generated, nothing was measured)" in text_of(still(IncidentNews(incident(), generated)))


def test_a_run_after_a_change_of_cilium_says_how_both_arms_moved():
    message = run_message(run_view(change=moved_by(0.4)))
    assert text_of(message).count("1.18.3 → 1.18.4") == 1
    assert "+40.0 % [+30.0, +50.0]" in "".join(texts_of(message))


def test_a_digest():
    gains = [
        Gain("ipv4-stream-1", "throughput_bps", benefit, detects)
        for benefit, detects in ((0.70, 0.031), (0.65, 0.029), (0.72, None))
    ]
    gains.append(Gain("ipv4-rr", "transactions_per_s", 0.1, 0.06))
    week = Period({"valid": 6, "invalid": 1}, tuple(gains), False)
    known = incident(acknowledged_by="ann", acknowledged_at=MONDAY)
    message = digest_message("lab", MONDAY - timedelta(days=7), week, [known], "https://airflow.example")
    title, lines, table, small_print = texts_of(message)
    assert title == ":calendar: BIG TCP on lab: week 46, 9 Nov to 15 Nov 2026"
    assert lines.splitlines() == [
        "*Runs*: 6 valid, 1 invalid.",
        "*Open regressions*: ipv4-stream-1 throughput −12.3 % since 2026-11-20 (acknowledged by ann).",
        "*Noise*: a night sees changes from 3.0 % on in the quietest scenario, 6.0 % in the noisiest.",
    ]
    assert table.splitlines()[1].split() == [
        "ipv4-stream-1",
        "throughput",
        "+70.0",
        "%",
        "+65.0",
        "%",
        "+72.0",
        "%",
        "3",
    ]
    assert "Overview in Airflow" in small_print


def test_a_digest_of_nothing():
    message = digest_message("lab", MONDAY, Period({}, (), False), [])
    title, *lines = text_of(message).splitlines()
    assert title == "BIG TCP on lab: week 47, 16 Nov to 22 Nov 2026"
    assert lines == ["No run in this week.", "*Open regressions*: none."]


# As long and as wrong as it can get


def monster(text: str, **changes: Any) -> RunView:
    comparisons = tuple(comparison(*one, 12_345.6, 54_321.0, verdict="slower") for one in ALL)
    judged = tuple(
        SeriesView(*one, "regression", 0.1, "2026-11-20", "big-tcp", 60, ((text, text, text),), ()) for one in ALL
    )
    return run_view(
        cluster=text,
        run_id=text,
        note=text,
        status="invalid",
        reasons=(text,) * 60,
        comparisons=comparisons,
        proofs=tuple(Proof(name, arm, 10.0**9, 10.0**9, 99, True) for name in SCENARIOS for arm in ("off", "on")),
        restore=RestoreView("not_verified", text),
        noise=(text,) * 20,
        url="https://airflow.example/run",
        history=HistoryView(series=judged),
        **changes,
    )


@pytest.mark.parametrize("text", LONGEST)
def test_the_longest_messages_are_accepted(text):
    view = monster(text)
    assert accepted(run_message(view, [text] * 60))
    members = tuple(Member(*one, 0.5, "2026-11-20", "2026-11-23", True) for one in ALL)
    one = incident(cluster=text, members=members, acknowledged_by=text, acknowledged_note=text)
    for make in EVERY:
        assert accepted(make(IncidentNews(one, view, "https://airflow.example/incident")))
    gains = tuple(Gain(name, metric, 0.1, 0.1) for name, metric in ALL)
    assert accepted(
        digest_message(text, MONDAY, Period({"valid": 7}, gains, False), [one] * 9, "https://a.example")
    )


# Whatever a view holds

words = st.one_of(st.text(max_size=100), st.sampled_from(LONGEST))
many_words = st.one_of(st.lists(words, max_size=5).map(tuple), st.just(LONGEST * 8))
numbers = st.one_of(st.none(), st.floats(allow_nan=True, allow_infinity=True))
nights = st.dates(date(2026, 1, 1), date(2026, 12, 31)).map(date.isoformat)
series = st.sampled_from(ALL)


@st.composite
def views(draw: st.DrawFn) -> RunView:
    chosen = draw(st.sets(series, max_size=4))
    comparisons = tuple(
        comparison(
            name,
            metric,
            draw(numbers),
            None,
            change=draw(numbers),
            verdict=draw(st.sampled_from(["slower", "faster"])),
        )
        for name, metric in sorted(chosen)
    )
    judged = tuple(
        SeriesView(
            name,
            metric,
            draw(st.sampled_from(["steady", "suspect", "regression", "recovered", "learning"])),
            draw(numbers),
            draw(nights),
            draw(st.sampled_from([None, "big-tcp", "platform", "infrastructure", "off-improved"])),
            draw(st.integers(0, 60)),
            draw(st.lists(st.tuples(words, words, words), max_size=9).map(tuple)),
            draw(st.sampled_from([None, (), ("its pods died",)])),
        )
        for name, metric in sorted(chosen)
    )
    return run_view(
        cluster=draw(words),
        run_id=draw(words),
        note=draw(words),
        status=draw(st.sampled_from(["valid", "invalid", "failed"])),
        reasons=draw(many_words),
        comparisons=comparisons,
        proofs=(Proof("ipv4-stream-1", "on", 10.0**9, draw(numbers), 99, True),),
        restore=RestoreView(draw(st.sampled_from(["verified", "not_verified"])), draw(words)),
        noise=draw(many_words),
        url=draw(st.one_of(st.none(), words.map(lambda text: f"https://airflow.example/{text}"))),
        history=HistoryView(series=judged),
        emulated=draw(st.booleans()),
        generated=draw(st.booleans()),
    )


def accepted(message: Message) -> bool:
    made = shown(message)
    return content_refusal({"text": made.text, "blocks": list(made.blocks)}) is None


@settings(max_examples=15)
@given(views(), many_words)
def test_any_run_is_a_message_that_slack_takes(view, checks):
    assert accepted(run_message(view, checks))


@settings(max_examples=15)
@given(views(), st.sets(series, min_size=1, max_size=4), st.data())
def test_any_incident_is_a_message_that_slack_takes(view, chosen, data):
    members = tuple(
        Member(name, metric, data.draw(numbers), data.draw(nights), "2026-11-23", data.draw(st.booleans()))
        for name, metric in sorted(chosen)
    )
    one = incident(cluster=data.draw(words), members=members, acknowledged_by=data.draw(words))
    one = replace(one, acknowledged_note=data.draw(words))
    news = IncidentNews(one, view, data.draw(st.one_of(st.none(), st.just("https://airflow.example/x"))))
    for make in EVERY:
        assert accepted(make(news))


@settings(max_examples=15)
@given(st.lists(st.tuples(series, numbers, numbers), max_size=60), words)
def test_any_week_is_a_message_that_slack_takes(rows, cluster):
    gains = tuple(Gain(name, metric, benefit, detects) for (name, metric), benefit, detects in rows)
    week = Period({"valid": 7}, gains, False)
    assert accepted(digest_message(cluster, MONDAY, week, [incident()] * 40, "https://airflow.example"))


def test_an_alarm_says_what_to_do_next_and_leads_to_where_it_is_acknowledged():
    news = IncidentNews(incident(), run_view(), "https://airflow.example/incidents/3")
    grown = incident_messages.grown(news, {}, "ann")
    for message in (incident_messages.regression_message(news), incident_messages.suspicion_message(news), grown):
        text = "\n".join(texts_of(message))
        assert "*Do next*\n• Compare the runs on both sides of its beginning." in text
        assert "<https://airflow.example/incidents/3|Incident 3: what changed, and acknowledge>" in text


def test_what_is_over_is_not_to_be_acknowledged():
    over = IncidentNews(ended(incident()), run_view(), "https://airflow.example/incidents/3")
    (small_print,) = texts_of(incident_messages.closed_title_message(over))[-1:]
    assert "<https://airflow.example/incidents/3|Incident 3: what changed>" in small_print


def test_what_a_telephone_shows_begins_with_the_news():
    news = IncidentNews(incident(), run_view())
    assert shown(incident_messages.regression_message(news)).text.startswith("Regression on lab: ipv4-stream-1")
    assert shown(incident_messages.suspicion_message(news)).text.startswith("Suspicion on lab: ipv4-stream-1")
    # This one's first line has all of its title.
    assert "BIG TCP on" not in shown(run_message(run_view(status="invalid"))).text


def test_a_note_that_names_another_cilium_has_a_next_step_of_its_own():
    for compared, advice in ((None, ""), (moved_by(-0.3), " The next nights confirm it or not.")):
        view = run_view(change=compared, note="after the upgrade to Cilium 1.99", cilium_version="1.18.4")
        text = "\n".join(texts_of(run_message(view)))
        assert "the note names Cilium 1.99, measured was 1.18.4" in text
        assert "*Do next*\n• Ask whether that Cilium is rolled out" in text
        assert f"of the version that was measured.{advice}" in text
        assert ("The next nights" in text) == bool(advice)


def test_no_message_says_where_the_warehouse_is():
    messages = [run_message(run_view()), *(make(IncidentNews(incident(), run_view())) for make in EVERY)]
    assert "db.example" not in str([shown(message) for message in messages])
