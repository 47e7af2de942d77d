from __future__ import annotations

import pytest

from bigtcp_bench.cluster.checks import Check
from bigtcp_bench.demo.telling import Telling, about, plan_text
from bigtcp_bench.measuring.generation import generations_of
from bigtcp_bench.planning.plan import blocks, load_plan

PLAN = load_plan("quick")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def told(capsys):
    """Return a function that says what a demo on a lab has printed of some lines; each takes ten seconds."""
    clock = Clock()
    telling = Telling(PLAN, on_lab=True, clock=clock)

    def hear(*lines: str) -> list[str]:
        for line in lines:
            telling.hear(line)
            clock.now += 10
        return capsys.readouterr().out.splitlines()

    return hear


def test_every_pair_of_pods_says_where_the_run_is_and_how_long_it_takes_yet(told):
    lines = []
    for block in blocks(PLAN):
        lines.append(f"block {block.number}: switching BIG TCP {block.arm}")
        pairs = generations_of(block, run=1, run_key="a/b", nodes=("node1", "node2"), scenarios=PLAN.scenarios)
        lines += [f"{one}: fresh pods on node1 and node2" for one in pairs]
    found = told(*lines)
    assert len(found) == len(lines)
    assert found[0] == "[0:00] block 1 of 3, BIG TCP off: Cilium agents restart where they must"
    assert found[1].startswith("[0:10] block 1 of 3, BIG TCP off: fresh pods, pair 1 of 8; about ")
    assert found[-1].endswith("pair 8 of 8; about 30 s left")
    assert "about 90 s left" in found[2] or "min left" in found[2]


def test_what_is_ordinary_is_left_to_the_log(told):
    assert (
        told(
            "checking node1 (sends) and node2 (receives)",
            "CiliumNodeConfig zz-bigtcp-bench says on for node1 and node2",
            "the Cilium agent on node1 is ready after 3.2 s",
            "block 2: the control has 12,345 transactions/s between the nodes themselves",
        )
        == []
    )


def test_a_lab_does_not_warn_of_itself_and_a_cluster_is_told_of(told, capsys):
    warning = str(Check("guardian", "", "warn", "none: no image", "name one"))
    assert told(warning, "41 of 44 checks passed, 3 warn") == ["[0:10] 41 of 44 checks passed"]
    cluster = Telling(PLAN, on_lab=False)
    cluster.hear(warning)
    cluster.hear("41 of 44 checks passed, 3 warn")
    assert capsys.readouterr().out == (
        "[0:00] warn guardian: none: no image; name one\n[0:00] 41 of 44 checks passed, 3 warn\n"
    )


@pytest.mark.parametrize(
    "line",
    [
        "failed: ipv4-rr repetition 1 (block 1 (off), generation 1): the server refused",
        "block 1 has no control: node1 has no InternalIP",
        "node2 uses 1.3 CPUs with other work; waiting up to 600 s for less",
        "NOT VERIFIED: eth0 of node2",
        "the run is invalid; ipv4-rr: nothing was measured",
        str(Check("kernel", "node1", "fail", "5.4", "6.3 is needed")),
    ],
)
def test_whatever_goes_wrong_is_told(told, line):
    assert told(line) == [f"[0:00] {' '.join(line.split())}"]


def test_the_restore_is_told_in_few_words(told):
    done = "restored what a/manual__x@1 had changed: removed label bigtcp-bench/window from node node1; deleted …"
    assert told(done) == ["[0:00] restored what a/manual__x@1 had changed, and verified it"]


def test_a_plan_is_one_line_and_a_time_is_round():
    assert plan_text(PLAN) == (
        "plan quick: BIG TCP off, on and off, 8 fresh pairs of pods, 4 scenarios, 128 s of traffic"
    )
    assert [about(41), about(95), about(150, 400), about(20, 40)] == [
        "about 40 s",
        "about 2 min",
        "about 2 to 7 min",
        "about 20 s",
    ]
