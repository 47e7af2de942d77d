"""What is told on which night: nothing on a quiet one, an incident's story in its thread, each thing once."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from bigtcp_bench.notify.message import message_of
from bigtcp_bench.notify.news import drafts_of_run
from bigtcp_bench.notify.slack.blocks import SlackMessage, rendered
from bigtcp_bench.notify.slack.settings import ClusterSettings
from bigtcp_bench.report.history import HistoryView, SeriesView
from bigtcp_bench.report.view import RestoreView, RunView
from bigtcp_bench.warehouse import incidents, outbox
from bigtcp_bench.warehouse.outbox import Draft
from bigtcp_bench.warehouse.store import Warehouse
from tests.support.incidents import FELL, night_view, revise
from tests.support.nights import add_night

SETTINGS = ClusterSettings()
URL = "https://airflow.example"
TWO = {("ipv4-stream-1", "throughput_bps"): -0.19, ("ipv6-rr", "latency_p99_us"): 0.21}

Tell = Callable[..., list[Draft]]


@pytest.fixture
def tell(warehouse: Warehouse) -> Tell:
    """Tell of a night, keep what is told, and return it."""

    def told(view: RunView, settings: ClusterSettings = SETTINGS) -> list[Draft]:
        drafts = drafts_of_run(warehouse, view, settings, URL)
        outbox.keep(warehouse, view.cluster, drafts)
        return drafts

    return told


def text(drafts: list[Draft]) -> str:
    return json.dumps([asdict(shown(draft)) for draft in drafts], ensure_ascii=False)


def shown(draft: Draft) -> SlackMessage:
    return rendered(message_of(draft.payload), "<@U123>")


def kinds(drafts: list[Draft]) -> list[tuple[str, bool]]:
    return [(draft.kind, bool(draft.payload.get("broadcast"))) for draft in drafts]


def test_a_quiet_night_tells_nothing(warehouse, tell):
    steady = HistoryView(series=(SeriesView("ipv4-stream-1", "throughput_bps", "steady"),))
    assert tell(night_view(warehouse, 1, history=steady)) == []
    suspect = HistoryView(series=(SeriesView("ipv4-stream-1", "throughput_bps", "suspect", -0.1),))
    revise(warehouse, "2026-03-03", state="suspect")
    assert tell(night_view(warehouse, 2, history=suspect)) == []


def test_an_incident_from_its_beginning_to_its_end(warehouse, tell):
    number = revise(warehouse, "2026-03-22").id
    (opening,) = tell(night_view(warehouse, 21))
    assert (opening.kind, opening.incident_id) == ("incident", number)
    assert shown(opening).text.splitlines() == [
        "Regression on lab: ipv4-stream-1 throughput −12.3 %",
        "ipv4-stream-1 throughput −12.3 % against the usual level of 60 nights, arm on relative to arm off",
        "Since the night 2026-03-20, confirmed on 2026-03-22.",
        "Attributed to BIG TCP: arm on got worse against arm off. About then changed: Cilium 1.18.3 → 1.18.4.",
    ]
    series = {"scenario": "ipv4-stream-1", "metric": "throughput_bps"}
    assert message_of(opening.payload).chart == series | {"run": opening.run_id, "incident": number}
    assert (
        f"{URL}/plugin/bigtcp/bigtcp-bench/incidents/{number}|Incident {number}: what changed, and acknowledge>"
        in text([opening])
    )
    assert "tonight off 14.2 Gbit/s, on 24.1 Gbit/s" in text([opening])

    revise(warehouse, "2026-03-23", {("ipv4-stream-1", "throughput_bps"): -0.14})
    same = tell(night_view(warehouse, 22))
    assert kinds(same) == [("incident", False)]
    assert "Still there, day 4: ipv4-stream-1 throughput −14.0 %." in text(same)

    # 3 % worse than at the beginning, though not than the night before.
    revise(warehouse, "2026-03-24", {("ipv4-stream-1", "throughput_bps"): -0.16})
    grown = tell(night_view(warehouse, 23))
    assert kinds(grown) == [("incident", True)]
    assert "*Grown*: ipv4-stream-1 throughput −12.3 % → −16.0 %." in text(grown)
    revise(warehouse, "2026-03-25", TWO)
    assert "ipv6-rr latency p99 +21.0 %, new" in text(tell(night_view(warehouse, 24)))

    assert incidents.acknowledge(warehouse, number, by="ann", note="new switch *here* <!channel>")
    known = tell(night_view(warehouse, 25))
    assert kinds(known) == [("incident", False)]
    assert "Acknowledged by ann: new switch ∗here* &lt;!channel&gt;. Silent until it ends, or gets worse" in text(
        known
    )
    revise(warehouse, "2026-03-27", {("ipv4-stream-1", "throughput_bps"): -0.5})
    assert tell(night_view(warehouse, 26)) == []

    revise(warehouse, "2026-03-27", TWO, state="recovered", closed_on="2026-03-30")
    end = tell(night_view(warehouse, 29))
    assert kinds(end) == [("incident", True), ("update", False)]
    assert "Recovered on 2026-03-30: as usual again after 10 days" in text(end[:1])
    assert ":white_check_mark: Recovered on lab: ipv4-stream-1 throughput" in text(end[1:])
    assert tell(night_view(warehouse, 30)) == []


@pytest.mark.parametrize(
    ("state", "ended", "sentence", "title"),
    [
        (
            "new-normal",
            "new-normal",
            "from now on this is the usual level",
            "New usual level",
        ),
        ("unmeasured", "unmeasured", "No longer measured: ipv4-stream-1 throughput", "No longer measured"),
    ],
)
def test_what_did_not_recover_is_not_told_as_recovered(warehouse, tell, state, ended, sentence, title):
    number = revise(warehouse, "2026-03-22").id
    tell(night_view(warehouse, 21))
    found = incidents.get(warehouse, number)
    members = [{**asdict(member), "ended": ended} for member in found.members]
    closed = {**asdict(found), "state": state, "closed_on": "2026-06-18", "members": members, "acknowledged": None}
    incidents.revise(warehouse, found.cluster, lambda _known: [closed])
    end = tell(night_view(warehouse, 22))
    assert kinds(end) == [("incident", True), ("update", False)]
    assert sentence in text(end[:1])
    assert f" {title}" in text(end[1:])
    assert "Recovered" not in text(end)


def test_what_gets_worse_is_told_with_its_date_and_ends_the_acknowledgement(warehouse, tell):
    number = revise(warehouse, "2026-03-22").id
    tell(night_view(warehouse, 21))
    incidents.acknowledge(warehouse, number, by="ann", note="known")
    tell(night_view(warehouse, 22))
    fallen = {("ipv4-stream-1", "throughput_bps"): -0.5}
    revise(warehouse, "2026-03-24", fallen, acknowledged=False, worse_on="2026-03-23")
    worse = tell(night_view(warehouse, 23))
    assert kinds(worse) == [("incident", True)]
    assert "*Worse since the night 2026-03-23*: ipv4-stream-1 throughput −12.3 % → −50.0 %." in text(worse)
    assert "What ann acknowledged was less." in text(worse)
    # And may be acknowledged anew, which is told anew.
    incidents.acknowledge(warehouse, number, by="bob", note="that, too")
    assert "Acknowledged by bob" in text(tell(night_view(warehouse, 24)))


def test_only_what_is_better_than_was_told_is_told_as_better(warehouse, tell):
    series = ("ipv4-stream-1", "throughput_bps")
    revise(warehouse, "2026-03-22", {series: -0.2})
    tell(night_view(warehouse, 21, {series: -0.2}))
    for night, change, said in ((22, -0.07, "Better, but not as usual again"), (23, -0.08, "Still there, day 5")):
        revise(warehouse, f"2026-03-{night + 1}", {series: change})
        eased = SeriesView(*series, "regression", change, "2026-03-20", "big-tcp", 60, event="eased")
        told = text(tell(night_view(warehouse, night, history=HistoryView(series=(eased,)))))
        assert said in told
    assert "Better" not in told


def test_a_run_tells_an_incident_once_however_often_it_tells(warehouse, tell):
    revise(warehouse, "2026-03-22")
    view = night_view(warehouse, 21)
    assert len(tell(view)) == 1
    assert tell(view) == []


def test_a_night_that_measured_something_else_says_nothing_of_an_incident(warehouse, tell):
    revise(warehouse, "2026-03-22")
    tell(night_view(warehouse, 21))
    assert tell(night_view(warehouse, 22)) == []
    # And one that was not judged not even that it ended.
    revise(warehouse, "2026-03-22", state="recovered", closed_on="2026-03-24")
    assert tell(night_view(warehouse, 23, history=HistoryView())) == []
    assert len(tell(night_view(warehouse, 24))) == 2


def test_what_is_known_before_it_is_told_is_not_told(warehouse, tell):
    number = revise(warehouse, "2026-03-22").id
    incidents.acknowledge(warehouse, number, by="ann")
    assert tell(night_view(warehouse, 21)) == []
    revise(warehouse, "2026-03-23", state="recovered", closed_on="2026-03-23")
    assert tell(night_view(warehouse, 22)) == []


def test_suspicions_are_told_to_those_who_want_them(warehouse, tell):
    wanted = ClusterSettings(min_severity="suspect")
    revise(warehouse, "2026-03-20", state="suspect", confirmed_on=None)
    opening = tell(night_view(warehouse, 19), wanted)
    assert kinds(opening) == [("incident", False)]
    assert "Suspicion on lab" in text(opening)
    assert tell(night_view(warehouse, 20), wanted) == []
    revise(warehouse, "2026-03-22")
    confirmed = tell(night_view(warehouse, 21), wanted)
    assert kinds(confirmed) == [("incident", True), ("update", False)]
    assert shown(confirmed[0]) == shown(confirmed[1])
    assert "Regression on lab" in text(confirmed)


def test_a_suspicion_that_was_told_and_came_to_nothing(warehouse, tell):
    wanted = ClusterSettings(min_severity="suspect")
    revise(warehouse, "2026-03-20", state="suspect")
    tell(night_view(warehouse, 19), wanted)
    revise(warehouse, "2026-03-20", state="dismissed", closed_on="2026-03-23")
    end = tell(night_view(warehouse, 22), wanted)
    assert kinds(end) == [("incident", False), ("update", False)]
    assert "Came to nothing" in text(end)


def test_an_incident_that_came_with_its_thread_goes_on_in_it(warehouse, tell):
    number = revise(warehouse, "2026-03-22").id
    outbox.keep(warehouse, "lab", [Draft("a", "incident", {"text": "", "told": {}}, None, number)])
    message = outbox.claim(warehouse, "lab")
    outbox.delivered(warehouse, message, channel="C1", ts="1.0", opens_thread=True)
    with warehouse.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM bigtcp_outbox")
    assert "Still there" in text(tell(night_view(warehouse, 21)))


@pytest.mark.parametrize("status", ["invalid", "failed"])
@pytest.mark.parametrize(("severity", "told"), [("regression", 0), ("invalid", 1), ("suspect", 1)])
def test_runs_without_a_verdict(warehouse, tell, status, severity, told):
    fields: dict[str, Any] = {"status": status, "reasons": ("node2 was rebooted",), "history": HistoryView()}
    view = night_view(warehouse, 1, **fields)
    drafts = tell(view, ClusterSettings(min_severity=severity))
    assert kinds(drafts) == [("run", False)] * told
    assert [draft.run_id for draft in drafts] == [view.number] * told


def test_a_restore_that_was_not_verified_is_told_in_any_case_and_mentions(warehouse, tell):
    settings = ClusterSettings(min_severity="regression")
    view = night_view(warehouse, 21, restore=RestoreView("not_verified", "eth0 of node2 differs"))
    revise(warehouse, "2026-03-22")
    first, second = tell(view, settings)
    assert (first.kind, second.kind) == ("restore", "incident")
    assert shown(first).text.startswith("<@U123> lab: RESTORE NOT VERIFIED · eth0 of node2 differs")
    assert "<@U123>" not in text([second])


def test_a_refused_run_names_the_checks_that_failed(warehouse, tell):
    view = night_view(warehouse, 1, status="failed", reasons=("kernel",), history=HistoryView())
    checks = [
        {"name": "kernel", "node": "node1", "status": "fail", "found": "Linux 5.10", "advice": "needs 6.3"},
        {"name": "MTU", "node": "", "status": "pass", "found": "1500", "advice": ""},
        {"name": "NIC", "node": "node2", "status": "fail", "found": "tso_max_size 65536", "advice": ""},
    ]
    warehouse.update_run(view.number, checks=checks)
    told = text(tell(view))
    assert (
        "*Failed checks; nothing was changed*\\n• node node1: kernel: Linux 5.10; needs 6.3\\n• node node2: NIC"
        in told
    )
    assert "MTU" not in told


def test_a_changed_cilium_is_told_by_the_first_run_that_measured_it_and_by_no_later_one(warehouse):
    def run(number: int, version: str, **columns: Any) -> RunView:
        of_cilium = {
            "images": {"cilium": f"quay.io/cilium/cilium:v{version}"},
            "cilium_config": {"routing-mode": "native"},
            "cilium_version": version,
        }
        return RunView.from_warehouse(warehouse, add_night(warehouse, number, **of_cilium, **columns))

    before = run(1, "1.18.3")
    first, quiet, by_hand = run(2, "1.18.4"), run(3, "1.18.4"), run(4, "1.18.4", trigger="manual")
    # Each answers at its own page; the news is told once, also where nothing of it was kept.
    assert (first.compared.before, quiet.change, by_hand.compared.before) == (before.number, None, before.number)
    (told,) = drafts_of_run(warehouse, first, SETTINGS, URL)
    assert told.key == f"Cilium changed after run {before.number}"
    assert [
        *drafts_of_run(warehouse, quiet, SETTINGS, URL),
        *drafts_of_run(warehouse, by_hand, SETTINGS, URL),
    ] == []


def test_clusters_have_their_own_incidents(warehouse, tell):
    revise(warehouse, "2026-03-22", uid="prod/1", cluster="prod")
    assert tell(night_view(warehouse, 21)) == []
    assert len(tell(night_view(warehouse, 21, FELL, cluster="prod"))) == 1
