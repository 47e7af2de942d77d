from __future__ import annotations

import re
from typing import Any

import pytest

from bigtcp_bench.cluster.fingerprint import datapath_config
from bigtcp_bench.report.change import note_conflict
from bigtcp_bench.report.summary import change_text, run_summary
from bigtcp_bench.report.view import RunView
from bigtcp_bench.warehouse.store import Warehouse
from tests.support.nights import add_night

OLD, NEW = "quay.io/cilium/cilium:v1.18.3", "quay.io/cilium/cilium:v1.18.4"
PLAN = {
    "name": "nightly",
    "scenarios": ["ipv4-stream-1", "ipv4-rr"],
    "order": ["off", "on", "off"],
    "duration_s": 15,
}


def night(warehouse: Warehouse, number: int, image: str = OLD, **columns: Any) -> int:
    defaults: dict[str, Any] = {
        "scenarios": PLAN["scenarios"],
        "plan": PLAN,
        "plan_name": PLAN["name"],
        "images": {"cilium": image},
        "cilium_config": datapath_config({"routing-mode": "native"}),
        "cilium_version": image.rpartition(":v")[2],
    }
    return add_night(warehouse, number, **{**defaults, **columns})


def upgraded(warehouse: Warehouse, nights: int = 12, **columns: Any) -> RunView:
    for number in range(nights):
        night(warehouse, number)
    return RunView.from_warehouse(warehouse, night(warehouse, nights, NEW, **columns))


def test_the_first_run_of_a_version_is_held_against_the_last_of_the_one_before(warehouse):
    view = upgraded(warehouse, on={"ipv4-stream-1": 1.4})
    change = view.change
    assert change is not None
    assert (change.before, change.before_run_id, change.cilium, change.others) == (
        12,
        "night 11",
        ("1.18.3 → 1.18.4",),
        (),
    )
    stream, rr = change.scenarios
    assert (stream.scenario, stream.runs, rr.scenario) == ("ipv4-stream-1", 12, "ipv4-rr")
    assert stream.on.low > 0.3
    assert stream.off.low < 0 < stream.off.high
    assert rr.on.low < 0 < rr.on.high
    text = run_summary(view)
    assert "against the last run before Cilium was changed: run 12 of 2026-03-12 02:00" in text
    assert view.headline.needs == ()
    assert (
        "against run 12 of 12 Mar (Cilium 1.18.3 → 1.18.4): better, ipv4-stream-1 throughput"
        in view.headline.rest[0]
    )
    assert "Cilium: 1.18.3 → 1.18.4" in text
    assert re.search(r"^ipv4-stream-1, throughput$", text, re.MULTILINE)
    assert re.search(
        r"^ on +15\.\d bit/s +2[01]\.\d bit/s +\+(39|4\d)\.\d % \[\+3\d\.\d, \+4\d\.\d\]$", text, re.M
    )
    assert re.search(r"^ on against off +\+\d+\.\d % +\+\d+\.\d % +\+", text, re.MULTILINE)
    assert "95 % interval from how much neighbouring runs before the change differ (12 runs)" in " ".join(
        text.split()
    )


def test_few_runs_before_give_no_interval_and_say_so(warehouse):
    view = upgraded(warehouse, nights=2)
    assert view.change is not None
    assert view.change.scenarios[0].on.low is None
    assert "Without 8 runs before the change nobody knows" in " ".join(change_text(view.change).split())


def test_a_changed_setting_is_a_change_too(warehouse):
    night(warehouse, 0)
    number = night(warehouse, 1, cilium_config=datapath_config({"routing-mode": "native", "mtu": "9000"}))
    change = RunView.from_warehouse(warehouse, number).change
    assert change is not None
    assert change.cilium == ("mtu not set → 9000",)


def test_what_else_has_changed_is_said(warehouse):
    change = upgraded(warehouse, client_kernel="6.19.1").change
    assert change is not None
    assert change.others == ("client kernel 6.18.5 → 6.19.1",)
    assert "not only Cilium has changed: client kernel 6.18.5 → 6.19.1" in change_text(change)


def test_runs_on_other_machines_do_not_say_how_much_runs_differ(warehouse):
    for number in range(12):
        night(warehouse, number, client_node="node9")
    night(warehouse, 12)
    change = RunView.from_warehouse(warehouse, night(warehouse, 13, NEW)).change
    assert change is not None
    assert [item.runs for item in change.scenarios] == [1, 1]


def test_later_runs_are_only_compared_when_they_say_why_they_were_started(warehouse):
    upgraded(warehouse, nights=3)
    usual, noted = night(warehouse, 4, NEW), night(warehouse, 5, NEW, note="after the upgrade, once more")
    assert RunView.from_warehouse(warehouse, usual).change is None
    change = RunView.from_warehouse(warehouse, noted).change
    assert change is not None
    assert change.before == 3


@pytest.mark.parametrize("columns", [{"status": "invalid"}, {"status": "failed"}, {"is_aa": True}])
def test_a_run_without_verdicts_is_not_compared(warehouse, columns):
    night(warehouse, 0)
    number = night(warehouse, 1, NEW, note="why", **{key: columns[key] for key in columns if key != "status"})
    warehouse.update_run(number, status=columns.get("status", "valid"))
    assert RunView.from_warehouse(warehouse, number).change is None


@pytest.mark.parametrize("asked", [{"note": "new NIC firmware"}, {"trigger": "manual"}])
def test_a_run_with_a_reason_is_answered_even_when_cilium_is_the_same(warehouse, asked):
    for number in range(12):
        night(warehouse, number)
    view = RunView.from_warehouse(warehouse, night(warehouse, 12, on={"ipv4-stream-1": 0.7}, **asked))
    change = view.compared
    assert change is not None
    assert (change.before, change.cilium) == (12, ())
    assert view.headline.needs[0].startswith(
        "against run 12 of 12 Mar (same Cilium): worse, ipv4-stream-1 throughput"
    )
    assert "against the last run before: run 12" in run_summary(view)
    assert "nothing else that is recorded has changed" in run_summary(view)


def test_a_note_on_something_else_is_answered_by_the_run_before_it(warehouse):
    upgraded(warehouse, nights=3)
    usual, firmware = night(warehouse, 4, NEW), night(warehouse, 5, NEW, note="new NIC firmware")
    assert RunView.from_warehouse(warehouse, firmware).compared.before == usual
    by_hand = night(warehouse, 6, NEW, trigger="manual")
    assert RunView.from_warehouse(warehouse, by_hand).compared.before == 3
    later = night(warehouse, 40, NEW, trigger="manual")
    assert RunView.from_warehouse(warehouse, later).compared.before == by_hand


@pytest.mark.parametrize(
    ("before", "columns", "reason"),
    [
        ({}, {}, "this is the cluster's first valid run"),
        (
            {"plan": {**PLAN, "duration_s": 3}},
            {},
            "no earlier valid run measured any of its scenarios on the same",
        ),
        ({}, {"images": None}, "its Cilium was not recorded"),
    ],
)
def test_why_there_is_nothing_to_compare_with_is_one_clause(warehouse, before, columns, reason):
    if before:
        night(warehouse, 0, **before)
    view = RunView.from_warehouse(warehouse, night(warehouse, 1, note="why", **columns))
    assert view.headline.rest[0].startswith(f"not compared with an earlier run: {reason}")
    assert view.compared is None
    assert (
        RunView.from_warehouse(warehouse, night(warehouse, 2, **columns, **before)).headline.rest[0][:5] == "helps"
    )


@pytest.mark.parametrize(
    ("note", "measured", "told"),
    [
        ("after the upgrade to Cilium 1.19.1", "1.18.4", "the note names Cilium 1.19.1, measured was 1.18.4"),
        ("Cilium v1.19.0-rc.0", "1.19.0", "the note names Cilium 1.19.0-rc.0, measured was 1.19.0"),
        ("Cilium 1.18 rollout", "1.18.4 (v1.18.4-dd29cc335e)", ""),
        (
            "Cilium has changed since run 5: image quay.io/cilium/cilium:v1.18.3 → quay.io/cilium/cilium:v1.18.4",
            "1.18.4",
            "",
        ),
        ("firmware 1.19.1 of the NIC", "1.18.4", ""),
        ("cilium was restarted", "1.18.4", ""),
        (None, "1.18.4", ""),
        ("Cilium 1.19.1", None, ""),
    ],
)
def test_a_note_that_names_another_cilium_is_said(note, measured, told):
    assert note_conflict(note, measured) == told


def test_a_run_on_other_terms_is_passed_over(warehouse):
    comparable = night(warehouse, 0)
    night(warehouse, 1, plan={**PLAN, "duration_s": 3})
    upgrade = {**PLAN, "name": "upgrade", "order": ["off", "on", "off", "on", "off"]}
    view = RunView.from_warehouse(warehouse, night(warehouse, 2, NEW, plan=upgrade, plan_name="upgrade"))
    assert view.change is not None
    assert view.change.before == comparable


@pytest.mark.parametrize("width", [80, 100])
def test_nothing_is_wider_than_the_page(warehouse, width):
    view = upgraded(warehouse, client_kernel="6.19.1-cloud-amd64-with-a-long-name")
    assert view.compared is not None
    assert max(map(len, run_summary(view, width).splitlines())) <= width
