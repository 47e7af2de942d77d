import dataclasses
import io
import re

import pytest
from rich.console import Console

from bigtcp_bench.judging.causes import NONE_FOUND
from bigtcp_bench.planning.metrics import METRICS, metrics_of
from bigtcp_bench.planning.plan import SCENARIOS
from bigtcp_bench.report.summary import effect_text, headline, print_summary, run_summary
from bigtcp_bench.report.view import ControlView, Proof, RestoreView, RunView
from tests.report.views import CAUSES, comparison, run_view

ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def test_the_summary_tells_every_fact_of_a_run():
    text = run_summary(run_view())
    first = text.splitlines()[0]
    assert first == "lab: VALID · helps 1, worse 1 (ipv4-stream-1 CPU receiver), unchanged 1, too noisy 2"
    for row in (
        r"throughput +14\.2 Gbit/s +24\.1 Gbit/s +\+69\.7 % \[\+65\.7, \+73\.7\] +better",
        r"CPU receiver .* worse below margin",
        r"retransmits +0 /GB +0\.200 /GB +– +too noisy sees 6\.1 %",
        r"transactions +12,345 /s +12,400 /s .* unchanged",
        r"latency p99 +187 µs +190 µs .* too noisy sees 6\.1 %",
        r"ipv4-stream-1 +59,012 B +58,990 B +150,234 B +149,876 B +proven",
        r"ipv6-rr +9,000 B +8,000 B +– +– +not judged",
    ):
        assert re.search(row, text), row
    unfolded = " ".join(text.split())
    for fact in (
        "bigtcp_benchmark / manual__2026-11-23T01:02:03.123456+00:00_kFzpwNCG",
        "plan quick, order off,on,off, manual",
        "node1 (client) → node2 (server), kernel 6.18.5, NIC driver veth",
        "1.18.3",
        "verified: configuration and device limits equal those before the run",
        "started 2026-11-23 01:02:03 UTC, took 3 min 48 s, 2 min 24 s of it traffic",
        "run 7 in postgresql+psycopg://bench:***@db.example/bigtcp",
        "https://airflow.example/dags/bigtcp_benchmark/runs/manual__2026",
        "95 % confidence interval",
    ):
        assert fact in unfolded
    assert "emulated" not in text


def test_a_lab_run_says_what_is_emulated():
    text = " ".join(run_summary(run_view(emulated=True)).split())
    assert "1.18.3 (emulated)" in text
    assert "the Kubernetes API and the Cilium agent are emulated" in text


@pytest.mark.parametrize("width", [80, 100])
def test_no_row_of_any_comparison_is_wider_than_the_page_or_cut(width):
    names = list(SCENARIOS)
    wide = tuple(
        comparison(name, metric.name, 12_345.6, 111.0, verdict="inconclusive", smallest_detectable_change=1.234)
        for name in names
        for metric in metrics_of(SCENARIOS[name].traffic)
    )
    text = run_summary(run_view(comparisons=wide), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    judged = [item for item in wide if METRICS[item.metric].judged]
    assert text.count("sees 123.4 %") == len(judged)


def test_only_a_terminal_gets_colour_and_it_gets_the_same_words():
    terminal, pipe = io.StringIO(), io.StringIO()
    print_summary(run_view(), Console(file=terminal, force_terminal=True, color_system="truecolor", width=120))
    print_summary(run_view(), Console(file=pipe, width=120))
    assert ESCAPES.search(terminal.getvalue())
    assert not ESCAPES.search(pipe.getvalue())
    assert ESCAPES.sub("", terminal.getvalue()) == pipe.getvalue()


def test_a_narrow_terminal_gets_the_table_of_80_columns():
    out = io.StringIO()
    print_summary(run_view(), Console(file=out, width=40))
    assert [line.rstrip() for line in out.getvalue().splitlines()] == run_summary(run_view(), 80).splitlines()


def test_an_invalid_run_gives_its_reasons():
    view = run_view(status="invalid", reasons=("packets stayed below 65,536 B", "node2 was rebooted"))
    assert headline(view) == "lab: INVALID · packets stayed below 65,536 B (and 1 more)"
    assert "- node2 was rebooted" in run_summary(view)


def test_likely_causes_stand_after_the_reasons_with_what_points_to_them():
    text = " ".join(run_summary(run_view(status="invalid", reasons=("a", "b"), causes=CAUSES)).split())
    assert "reasons - a - b likely causes - cilium-drops: Cilium on node node2 dropped 3,000 packets" in text
    assert '"Policy denied"; explains retransmits too' in text
    assert "- receiver-cpu: ipv4-stream-1, arm on: the sender waited for the receiver's window in 90 %" in text
    assert "- steal: the hypervisor took 6.0 %" in text
    assert "likely causes" not in run_summary(run_view())


def test_that_no_cause_was_found_is_no_cause(tmp_path, new_warehouse):
    warehouse = new_warehouse(tmp_path / "warehouse.db")
    number = warehouse.start_run({"cluster": "lab", "dag_id": "d", "run_id": "r"})
    none = {"cause": NONE_FOUND, "sentence": "none shows", "figures": {}, "strength": 0.0, "explains": []}
    warehouse.store_diagnosis(number, [none | {"position": 1}])
    view = RunView.from_warehouse(warehouse, number)
    assert view.causes == ()
    text = run_summary(view)
    assert "looked into: none shows" in text
    assert "likely cause" not in text


def test_a_comparison_that_is_invalid_says_why_once():
    invalid = tuple(
        comparison("ipv4-stream-1", metric, 1.0, 2.0, verdict="invalid", reasons=("2 of 12 repetitions failed",))
        for metric in ("throughput_bps", "cpu_s_per_gb_sender")
    )
    assert run_summary(run_view(comparisons=invalid)).count("2 of 12 repetitions failed") == 1


def test_a_failed_restore_is_the_first_thing_said_even_of_a_valid_run():
    view = run_view(restore=RestoreView("not_verified", "eth0 of node2 has gso_max_size 196608, was 65536"))
    assert headline(view).startswith(
        "lab: RESTORE NOT VERIFIED · eth0 of node2 has gso_max_size 196608, was 65536"
    )
    assert "bigtcp_restore" in headline(view)
    assert "the run itself: VALID · helps 1" in headline(view)


def test_a_run_that_failed_before_its_plan_still_has_a_summary():
    view = run_view(
        status="failed",
        reasons=("node 'node9' does not exist",),
        plan_name=None,
        order=(),
        comparisons=(),
        proofs=(),
        nodes=(),
        cilium_version=None,
        restore=RestoreView("not_needed"),
        measuring_time_s=None,
    )
    text = run_summary(view)
    assert "no valid plan" in text
    assert "the run changed nothing" in text
    assert "change" in text
    assert "verdict" not in text


def test_an_aa_run_names_its_sides_after_blocks():
    text = run_summary(run_view(order=("off", "off")))
    assert "odd blocks" in text
    assert "A/A run" in text


def test_text_from_pods_cannot_colour_the_terminal_or_vanish_as_markup():
    view = run_view(status="failed", reasons=("agent said \x1b[31m[bold]no[/bold]\x07\nand died", "second"))
    text = run_summary(view)
    assert "\x1b" not in text
    assert "[bold]no[/bold] and died" in text


@pytest.mark.parametrize(
    ("arm", "sender", "receiver", "good"),
    [
        ("on", 150_000.0, 149_000.0, True),
        ("on", 150_000.0, 60_000.0, False),
        ("on", 65_536.0, 150_000.0, False),
        ("on", None, 150_000.0, False),
        ("off", 65_536.0, 59_000.0, True),
        ("off", 59_000.0, 65_537.0, False),
    ],
)
def test_proof_needs_both_ends(arm, sender, receiver, good):
    proof = Proof("ipv4-stream-1", arm, sender, receiver, 3, True)
    assert proof.as_intended is good
    view = run_view(proofs=(proof,))
    assert ("NOT PROVEN" in run_summary(view)) is not good


@pytest.mark.parametrize(
    ("control", "line"),
    [
        (ControlView(36_123.4, 35_900.0), "control  36,123 /s between the nodes themselves (usual 35,900 /s)"),
        (ControlView(36_123.4), "control  36,123 /s between the nodes themselves"),
    ],
)
def test_the_control_is_one_line(control, line):
    assert line in [text.strip() for text in run_summary(run_view(control=control)).splitlines()]


def test_an_arm_that_was_not_measured_proves_nothing():
    off, on, _ = run_view().proofs
    assert effect_text([off, on], ("off", "on", "off"))[0] == "proven"
    assert effect_text([off], ("off", "on", "off"))[0] == "not measured: on"
    assert effect_text([off], ("off", "off"))[0] == "proven"
    assert effect_text([dataclasses.replace(off, sender_b=90_000.0)], ("off", "on"))[0] == "NOT PROVEN: off"


def test_nodes_that_differ_are_told_apart():
    first, second = run_view().nodes
    view = run_view(nodes=(first, dataclasses.replace(second, kernel="6.12.1")))
    assert "kernel 6.18.5 and 6.12.1" in run_summary(view)
