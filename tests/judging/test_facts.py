"""From stored documents to the gates: what trips on a node that was busy, or not left alone by its hypervisor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest

from bigtcp_bench.analysis.verdicts import environment_problems, judge_run
from bigtcp_bench.judging.facts import captures_of, facts_of, throttled_of
from bigtcp_bench.planning.plan import Way, load_plan
from bigtcp_bench.readings.frames import packed
from bigtcp_bench.warehouse.records import RawDocument
from tests.analysis.runs import make_frame, make_plan

PLAN = make_plan(scenarios=["ipv4-stream-1"])


def stat(busy: int, idle: int, steal: int = 0) -> dict[str, Any]:
    return {"proc_stat": f"cpu  {busy} 0 0 {idle} 0 0 0 {steal} 0 0\ncpu0 1 0 0 1 0 0 0 0 0 0\n"}


def document(moment: str, snapshot: dict[str, Any], block: int = 1, **fields: Any) -> RawDocument:
    content = {"boot_id": "b", "kernel_release": "6.18", "snapshot": snapshot} | fields
    return RawDocument(block=block, generation=0, kind=f"node-{moment}:n1", document=packed(content))


def verdict(documents: list[RawDocument], plan=PLAN) -> tuple[str, tuple[str, ...]]:
    judged = judge_run(make_frame(plan), plan, facts_of(documents, {}))
    return judged.status, judged.reasons


def test_a_node_that_was_busy_before_a_block_makes_the_run_invalid():
    idle = document("begin", stat(110, 190), earlier=stat(100, 0))
    busy = document("begin", stat(240, 60), block=2, earlier=stat(100, 0))
    other = RawDocument(block=1, generation=0, kind="capture:ipv4", document=packed({"sender": None}))
    assert verdict([idle, other]) == ("valid", ())
    assert verdict([idle, busy]) == (
        "invalid",
        ("block 2: node n1 was 70% busy with other work before the block; at most 50% is allowed",),
    )


def test_the_plan_of_the_demo_lets_a_busy_machine_pass():
    thresholds = load_plan("quick").thresholds
    everything = document("begin", stat(300, 0), earlier=stat(100, 0))
    assert verdict([everything])[0] == "invalid"
    assert verdict([everything], PLAN.model_copy(update={"thresholds": thresholds}))[0] == "valid"


def test_time_that_the_hypervisor_took_makes_the_run_invalid():
    documents = [document("begin", stat(0, 0)), document("end", stat(50, 40, 10))]
    status, (reason,) = verdict(documents)
    assert status == "invalid"
    assert reason.startswith("block 1: the hypervisor took 10.0% of the CPU time of node n1")


def test_only_packets_that_carry_data_are_the_proof_of_a_captured_stream():
    rows = [
        (1, "ipv4", "pod", "n1", "sender", "sent", 1_500, 1, 1_500),
        (1, "ipv4", "pod", "n1", "sender", "sent", 196_608, 2, 376_500),
        (1, "ipv4", "pod", "n1", "sender", "received", 1_500, 50, 3_000),
        (1, "ipv4", "pod", "n1", "receiver", "received", 1_500, 100, 147_000),
        (1, "ipv4", "pod", "n1", "receiver", "sent", 1_500, 9, 600),
        (1, "ipv4", "same-node", "n1", "sender", "sent", 196_608, 1, 180_000),
        (1, "ipv4", "same-node", "n2", "sender", "sent", 65_536, 90, 5_400_000),
        (2, "ipv6", "pod", "n1", "sender", "received", 1_500, 9, 600),
        (2, "ipv6", "pod", "n1", "receiver", "received", 1_500, 0, 0),
    ]
    names = ["block", "family", "path", "node", "end", "direction", "upper_bytes", "packets", "bytes"]
    found = captures_of(pd.DataFrame(rows, columns=names))
    assert found == {
        (1, Way("ipv4"), "sender"): (126_000.0,),
        (1, Way("ipv4"), "receiver"): (1_470.0,),
        # Added up, the node that had nothing to send in large packets would hide behind the other.
        (1, Way("ipv4", "same-node"), "sender"): (180_000.0, 60_000.0),
    }
    assert captures_of(pd.DataFrame(columns=names)) == {}


def counted(periods: int, throttled: int, number: int = 1) -> pd.DataFrame:
    place = {"block": 2, "generation": 1, "scenario": "ipv4-stream-1", "repetition": number, "end": "receiver"}
    grown = {"cgroup/nr_periods": periods, "cgroup/nr_throttled": throttled, "snmp/IpInReceives": 7}
    return pd.DataFrame([{**place, "counter": name, "value": value} for name, value in grown.items() if value])


def test_a_pod_that_a_cpu_limit_held_back_makes_the_run_invalid():
    def verdict_on(*frames: pd.DataFrame) -> tuple[str, tuple[str, ...]]:
        facts = replace(facts_of([], {}), throttled=throttled_of(pd.concat(frames)))
        judged = judge_run(make_frame(PLAN), PLAN, facts)
        return judged.status, judged.reasons

    assert verdict_on(counted(100, 4)) == ("valid", ())
    assert verdict_on(counted(100, 0)) == ("valid", ())
    assert verdict_on(counted(0, 0)) == ("valid", ()), "without a limit there are no periods"
    status, (reason,) = verdict_on(counted(100, 30), counted(100, 4, 2))
    assert status == "invalid"
    assert reason.startswith("block 2, generation 1: a CPU limit held the server pod back in 30% of")


def test_a_card_that_is_not_the_same_in_every_block_makes_the_run_invalid():
    def begin(block: int, **device: Any) -> RawDocument:
        eth0 = {"driver": "mlx5_core", "firmware": "16.35", "mtu": 9000, "speed_mbps": 25_000} | device
        return document("begin", {**stat(0, 0), "devices": {"eth0": eth0, "lxc1": {"mtu": 1500}}}, block)

    report = {"nodes": {"n1": {"cilium": "1.18.3", "limits": {"eth0": {}}}}}
    reports = dict.fromkeys((1, 2, 3), report)
    same = facts_of([begin(1), begin(2), begin(3)], reports)
    assert environment_problems(same.environments) == []
    slower = facts_of([begin(1), begin(2), begin(3, speed_mbps=10_000)], reports)
    assert environment_problems(slower.environments) == [
        "eth0 of n1 changed during the run: 'mlx5_core, 16.35, MTU 9000, 25000 Mbit/s' in block 1, "
        "'mlx5_core, 16.35, MTU 9000, 10000 Mbit/s' in block 3"
    ]
    gone = facts_of([begin(1), begin(2), document("begin", {**stat(0, 0), "devices": {"lxc1": {}}}, 3)], reports)
    (problem,) = environment_problems(gone.environments)
    assert problem.endswith("in block 1, 'gone' in block 3")
    unread = facts_of([begin(1), begin(2), document("begin", stat(0, 0), 3)], reports)
    assert environment_problems(unread.environments) == []


@pytest.mark.parametrize(
    "documents",
    [
        [document("begin", stat(0, 0))],
        [document("begin", {"proc_stat": None}, earlier={"proc_stat": None})],
        [document("begin", stat(0, 0, 60)), document("end", stat(0, 90, 50))],
    ],
    ids=["no second reading", "nothing could be read", "a counter ran back"],
)
def test_what_is_not_known_trips_nothing(documents):
    (item,) = facts_of(documents, {}).pressure
    assert (item.steal_share, item.busy_before_share) == (None, None)
    assert verdict(documents) == ("valid", ())


def test_a_node_that_was_restarted_within_the_last_block_makes_the_run_invalid():
    documents = [document("begin", stat(0, 0), 3), document("end", stat(0, 40, 60), 3, boot_id="another")]
    (item,) = facts_of(documents, {}).pressure
    assert item.steal_share is None
    assert verdict(documents) == (
        "invalid",
        ("boot of n1 changed during the run: 'b' in block 3, 'another' at the end of block 3",),
    )
