"""From a stored run to its causes: what is read out of rows and documents, and what is written back."""

from __future__ import annotations

from typing import Any

import pytest

from bigtcp_bench.analysis.diagnosis import CAUSES, CapturedStream, NodeSetting, PodLimits, Throttled
from bigtcp_bench.judging.causes import (
    AGENT_NOT_READY,
    NONE_FOUND,
    diagnose_run,
    evidence_of,
    needs_diagnosis,
)
from bigtcp_bench.measuring.pod_counters import pod_counters
from bigtcp_bench.planning.plan import CONTROL
from bigtcp_bench.readings.frames import packed
from bigtcp_bench.report.summary import run_summary
from bigtcp_bench.report.view import RunView
from bigtcp_bench.warehouse.store import Warehouse
from tests.readings.documents import repetition as seen

SMALL, BIG = 65_536, 196_608
RUN = {
    "cluster": "lab",
    "dag_id": "bigtcp_benchmark",
    "run_id": "manual__1",
    "plan": {"name": "short", "scenarios": ["ipv4-stream-1"], "order": ["off", "on", "off"]},
    "environment": {"tso_max_size": {"node1": {"eth0": 524_280}}},
}
SOCKETS = (
    "0 3000000 10.244.0.2:1 10.244.1.2:5201 cubic wscale:7,7 bytes_sent:9 busy:800ms rwnd_limited:600ms(75.0%) "
    "sndbuf_limited:4ms(0.5%) minrtt:0.01\n"
)


def snapshot(periods: int, too_big: int, size: int = SMALL) -> dict[str, Any]:
    return {
        "device": "eth0",
        "time_s": 0.0,
        "user_hz": 100,
        "monotonic_s": 100.0 + periods / 10,
        "cpu_pressure": f"some avg10=0.00 total={periods * 75_000}\nfull avg10=0.00 total=0\n",
        "devices": {"eth0": {"index": 2, "gso_ipv4_max_size": size, "gro_ipv4_max_size": size, "mtu": 1500}},
        "cgroup_cpu_stat": f"nr_periods {periods}\nnr_throttled {periods // 10}\n",
        "netstat": f"TcpExt: SyncookiesSent TCPToZeroWindowAdv\nTcpExt: 0 {periods}\nIpExt: A\nIpExt: 1\n",
        "snmp6": f"Ip6InReceives\t7\nIcmp6InPktTooBigs\t{too_big}\n",
    }


def repetition(sockets: str | None = SOCKETS) -> dict[str, Any]:
    used = {"host_total": 62.5, "remote_total": 11.0}
    return {
        "client": {"before": snapshot(0, 1), "after": snapshot(0, 4)},
        "server": {"before": snapshot(0, 0), "after": snapshot(20, 0)},
        "sockets": sockets,
        "iperf3": {"end": {"cpu_utilization_percent": used}},
    }


def fill(warehouse: Warehouse, *, on_limit: int = BIG, retransmits: float = 5.0, **run: Any) -> int:
    """Store a run of two blocks as the DAG does, and return its number."""
    number = warehouse.start_run({**RUN, **run})
    for block, arm, size in ((1, "off", SMALL), (2, "on", on_limit)):
        limits = {"gso_ipv4_max_size": size, "gro_ipv4_max_size": size, "gso_max_size": None}
        told = {"ipv4": arm == "on", "ipv6": arm == "on"}
        node = {"merged": told, "max_gso": {"ipv4": size}, "limits": {"eth0": limits}, "cilium": "1.18.3"}
        warehouse.store_block(
            number, {"block": block, "arm": arm, "switch_report": {"arm": arm, "nodes": {"node1": node}}}
        )
        key = {"block": block, "generation": 1}
        place = {**key, "scenario": "ipv4-stream-1", "repetition": 1}
        ends = {pod: {"snapshot": snapshot(0, 0, size)} for pod in ("client", "server")}
        warehouse.store_generation(
            number,
            block,
            1,
            results=[
                {**place, "arm": arm, "metric": metric, "value": value}
                for metric, value in (
                    ("bytes_per_packet_sender", size - 1.0),
                    ("bytes_per_packet_receiver", size - 2.0),
                    ("retransmits_per_gb", retransmits),
                )
            ],
            raw=[
                {**key, "kind": "hello", "document": packed(ends)},
                {**place, "kind": "repetition", "document": packed({})},
            ],
            counters=[{**place, "arm": arm, **vars(one)} for one in pod_counters(seen(repetition()))],
        )
        control = {"generation": 0, "scenario": CONTROL, "repetition": 1, "metric": "transactions_per_s"}
        warehouse.store_results(number, [{**control, "block": block, "arm": arm, "value": 9.0}])
        counters = {"snmp6/Ip6InTooBigErrors": 3, "cilium/Success/egress/packets": 9, "cpu/user_s": 1}
        warehouse.store_counters(
            number,
            [
                {"block": block, "arm": arm, "node": "node1", "counter": name, "value": value}
                for name, value in counters.items()
            ],
        )
    return number


def test_evidence_is_read_out_of_rows_and_documents(warehouse):
    evidence = evidence_of(warehouse, fill(warehouse))
    assert evidence.families == ("ipv4",)
    assert evidence.ceilings == {"node1": {"eth0": 524_280}}
    limits = {"gso_ipv4_max_size": BIG, "gro_ipv4_max_size": BIG}
    assert evidence.settings[1] == NodeSetting(
        2, "on", "node1", {"ipv4": True, "ipv6": True}, {"ipv4": BIG}, {"eth0": limits}
    )
    assert evidence.pods[2] == PodLimits(2, "on", 1, "client", limits)
    _, row = evidence.measured
    assert (row.block, row.arm, row.scenario) == (2, "on", "ipv4-stream-1")
    assert (row.sender_b, row.receiver_b, row.retransmits_per_gb) == (BIG - 1, BIG - 2, 5.0)
    shares = (row.window_limited_share, row.sender_cpus, row.receiver_cpus)
    assert shares == pytest.approx((0.75, 0.625, 0.11))
    assert (row.too_big_messages, row.zero_windows, row.cpu_wait_share) == (3, 20, 0.75)
    assert evidence.counters[0].grown == {"snmp6/Ip6InTooBigErrors": 3, "cilium/Success/egress/packets": 9}
    assert evidence.throttled == (Throttled(1, 1, "server", 0.1), Throttled(2, 1, "server", 0.1))


def test_captured_streams_are_evidence_on_ways_that_no_stream_of_the_plan_takes(warehouse):
    plan = RUN["plan"] | {"scenarios": ["ipv4-stream-1", "ipv6-rr"]}
    number = fill(warehouse, plan=plan)
    packets = {"block": 2, "arm": "on", "upper_bytes": BIG, "packets": 2}
    ends = (("ipv6", "sender", "sent", 360_000), ("ipv6", "receiver", "received", 120_000))
    rows = [
        {**packets, "family": family, "end": end, "direction": direction, "bytes": size}
        for family, end, direction, size in (*ends, ("ipv4", "sender", "sent", 1))
    ]
    warehouse.store_packet_sizes(number, rows)
    assert evidence_of(warehouse, number).captured == (CapturedStream(2, "on", "ipv6", 180_000, 60_000),)


def test_what_is_known_of_a_run_outlives_its_documents(warehouse):
    number = fill(warehouse)
    before = evidence_of(warehouse, number)
    assert warehouse.prune(0) > 0
    after = evidence_of(warehouse, number)
    assert (after.measured, after.throttled, after.counters) == (
        before.measured,
        before.throttled,
        before.counters,
    )


def test_a_counter_that_was_reset_is_absent_and_one_that_stood_still_is_zero(warehouse):
    number = fill(warehouse)
    document = repetition()
    document["server"]["after"]["netstat"] = "TcpExt: SyncookiesSent TCPToZeroWindowAdv\nTcpExt: 0 0\n"
    document["server"]["before"]["netstat"] = "TcpExt: SyncookiesSent TCPToZeroWindowAdv\nTcpExt: 0 9\n"
    document["client"]["after"]["snmp6"] = "Ip6InReceives\t9\nIcmp6InPktTooBigs\t1\n"
    place = {"block": 2, "generation": 1, "scenario": "ipv4-stream-1", "repetition": 1, "arm": "on"}
    warehouse.store_generation(
        number, 2, 1, results=[], counters=[{**place, **vars(one)} for one in pod_counters(seen(document))]
    )
    row = evidence_of(warehouse, number).measured[1]
    assert (row.zero_windows, row.too_big_messages) == (None, 0)


def test_a_run_that_compares_off_with_itself_asks_nothing_of_its_devices(warehouse):
    plan = RUN["plan"] | {"order": ["off", "off"]}
    assert evidence_of(warehouse, fill(warehouse, plan=plan)).ceilings == {}


def test_a_run_that_has_only_begun_has_no_evidence(warehouse):
    number = warehouse.start_run({**RUN, "plan": None, "environment": None, "status": "failed"})
    evidence = evidence_of(warehouse, number)
    assert (evidence.families, evidence.ceilings, evidence.measured, evidence.settings) == ((), {}, (), ())
    assert diagnose_run(warehouse, number) == []


def test_causes_are_stored_once_and_shown(warehouse):
    number = fill(warehouse, status="invalid", on_limit=SMALL)
    causes = diagnose_run(warehouse, number)
    assert [cause.name for cause in causes] == ["setting-not-effective", "throttled"]
    assert causes[1].explains == ("receiver-cpu",)
    assert diagnose_run(warehouse, number) == causes
    frame = warehouse.diagnosis_frame(number)
    assert frame[["position", "cause", "node", "arm"]].to_numpy().tolist()[0] == [
        1,
        "setting-not-effective",
        "node1",
        "on",
    ]
    assert frame["figures"][0] == {"gso_ipv4_max_size": SMALL, "device": "eth0", "agent_max_gso": SMALL}
    view = RunView.from_warehouse(warehouse, number)
    shown = view.causes
    assert shown == tuple(causes)
    assert "- throttled: a CPU limit held the server pod back in 10 %" in " ".join(run_summary(view).split())


def test_fewer_causes_than_before_leave_none_of_those(warehouse):
    number = fill(warehouse, status="invalid", on_limit=SMALL)
    assert len(diagnose_run(warehouse, number)) == 2
    for block in (1, 2):
        warehouse.store_generation(number, block, 1, results=[])
    assert [cause.name for cause in diagnose_run(warehouse, number)] == ["setting-not-effective"]
    assert warehouse.diagnosis_frame(number)["position"].tolist() == [1]


def test_a_run_that_is_well_again_has_no_causes_left(warehouse):
    number = fill(warehouse, status="invalid")
    assert diagnose_run(warehouse, number)
    warehouse.update_run(number, status="valid")
    assert diagnose_run(warehouse, number) == []
    assert warehouse.diagnosis_frame(number).empty


@pytest.mark.parametrize(
    ("reason", "node"),
    [
        (
            "the Cilium agent on node node1 does not start: pod cilium-x container cilium-agent waits: "
            "CrashLoopBackOff, after it ended with Error 1 (BIG TCP is not supported in tunneling mode)",
            "node1",
        ),
        (
            "the rolling restart of DaemonSet kube-system/cilium has stopped for 180 s: 1 of 2; pod cilium-x on "
            "node2 container cilium-agent waits: CrashLoopBackOff, after it ended with Error 1 (no)",
            None,
        ),
    ],
)
def test_an_agent_that_does_not_start_is_the_cause_in_its_own_words(warehouse, reason, node):
    number = fill(warehouse, status="failed")
    warehouse.update_run(number, reasons=["task baseline_iperf3 ended failed", reason, f"{reason} again"])
    first, *others = diagnose_run(warehouse, number)
    assert (first.name, first.sentence, first.node) == (AGENT_NOT_READY, reason, node)
    assert AGENT_NOT_READY not in [cause.name for cause in others]
    assert warehouse.diagnosis_frame(number)["sentence"].tolist()[0] == reason


def test_where_no_known_cause_shows_that_is_said(warehouse):
    number = fill(warehouse, status="invalid")
    quiet = repetition(sockets=None) | {"server": {}}
    key = {"block": 2, "generation": 1, "scenario": "ipv4-stream-1", "repetition": 1, "arm": "on"}
    for block in (1, 2):
        warehouse.store_generation(number, block, 1, results=[])
    warehouse.store_pod_counters(number, [{**key, **vars(one)} for one in pod_counters(seen(quiet))])
    (cause,) = diagnose_run(warehouse, number)
    assert cause.name == NONE_FOUND
    assert NONE_FOUND not in CAUSES
    assert warehouse.diagnosis_frame(number)["cause"].tolist() == [NONE_FOUND]


@pytest.mark.parametrize(
    ("status", "verdict", "state", "needed"),
    [
        ("valid", "faster", "steady", False),
        ("valid", "slower", "steady", True),
        ("valid", "faster", "suspect", True),
        ("valid", "equivalent", "regression", True),
        ("invalid", "invalid", None, True),
        ("failed", None, None, True),
        ("running", None, None, False),
    ],
)
def test_what_is_worth_a_diagnosis(warehouse, status, verdict, state, needed):
    number = warehouse.start_run({**RUN, "status": status})
    series = {"metric": "throughput_bps", "scenario": "ipv4-stream-1"}
    if verdict:
        warehouse.store_comparisons(number, [{**series, "verdict": verdict}])
    if state:
        warehouse.store_judgements(number, [{**series, "state": state}])
    assert needs_diagnosis(warehouse, number) is needed


def test_a_difference_below_the_margin_is_not_slower(warehouse):
    number = warehouse.start_run({**RUN, "status": "valid"})
    series = {"metric": "throughput_bps", "scenario": "ipv4-stream-1"}
    warehouse.store_comparisons(number, [{**series, "verdict": "slower", "below_margin": True}])
    assert needs_diagnosis(warehouse, number) is False
