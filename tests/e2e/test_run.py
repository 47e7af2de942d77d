"""The real DAG, through Airflow, on the lab: a good run, and runs that must end in one sentence."""

from __future__ import annotations

import pandas as pd
import pytest

from bigtcp_bench.analysis.diagnosis import diagnose
from bigtcp_bench.cluster.fingerprint import Fingerprint
from bigtcp_bench.cluster.rollout import observe
from bigtcp_bench.in_cluster.treatment import CLASSIC_MAX_PACKET_BYTES
from bigtcp_bench.judging.causes import evidence_of
from bigtcp_bench.judging.facts import facts_of
from bigtcp_bench.planning.plan import CAPTURE_S, load_plan
from bigtcp_bench.readings.cpu import CPU_PARTS
from bigtcp_bench.readings.frames import unpacked
from bigtcp_bench.report.view import RunView
from bigtcp_bench.warehouse.records import RawDocument
from bigtcp_lab import daemon
from bigtcp_lab.netlink import LARGEST_SIZE
from tests.e2e.runs import Installation
from tests.support.nights import add_night

pytestmark = [pytest.mark.lab, pytest.mark.e2e]


@pytest.fixture
def fault(installation: Installation):
    """Switch faults of the lab on, and off again after the test."""
    folder = installation.airflow.kubeconfig.parent
    switched = []

    def switch(name: str) -> None:
        daemon.set_fault(folder, name, True)
        switched.append(name)

    yield switch
    for name in switched:
        daemon.set_fault(folder, name, False)


def test_a_run_from_end_to_end(installation: Installation):
    """The whole: every path, captures, counters, proof, verdict, and the cluster as it was before."""
    before = installation.cluster_state()
    # A night of the Cilium before: what the run is held against when its note says that something has changed.
    add_night(
        installation.warehouse,
        0,
        scenarios=["ipv4-stream-1"],
        plan=load_plan("short").model_dump(mode="json"),
        images={"cilium": "quay.io/cilium/cilium:v1.18.2"},
    )
    run = installation.run(note="after the upgrade", plan="captured")
    assert run.state == "success", run.row["reasons"]
    assert run.row["status"] == "valid", run.row["reasons"]
    assert run.row["reasons"] == []
    assert run.row["environment"]["emulated"] is True
    assert run.row["environment"]["tso_max_size"] == {node: {"eth0": LARGEST_SIZE} for node in ("node1", "node2")}
    assert run.row["restore_result"]["state"] == "verified"
    assert (run.row["client_node"], run.row["server_node"]) == ("node1", "node2")

    results = installation.warehouse.results_frame(run.number)
    assert set(results["arm"]) == {"off", "on"}
    assert results.groupby("block")["generation"].nunique().to_dict() == {1: 2, 2: 4, 3: 2}
    streams = results[results["scenario"].str.contains("stream")]
    for end in ("sender", "receiver"):
        sizes = streams[streams["metric"] == f"bytes_per_packet_{end}"]
        assert len(sizes) == 8
        assert sizes[sizes["arm"] == "off"]["value"].between(30_000, 65_536).all()
        assert (sizes[sizes["arm"] == "on"]["value"] > 65_536).all()

    comparisons = installation.warehouse.comparisons_frame(run.number)
    assert {"throughput_bps", "transactions_per_s", "latency_p99_us"} <= set(comparisons["metric"])
    judged = comparisons[comparisons["metric"] == "throughput_bps"]
    # With so few generations a busy machine may leave a scenario without an interval.
    unknown = judged["ci_low"].isna()
    assert set(judged[unknown]["verdict"]) <= {"inconclusive"}
    assert (judged[~unknown]["ci_low"] < judged[~unknown]["change"]).all()
    assert (judged[~unknown]["change"] < judged[~unknown]["ci_high"]).all()
    counters = installation.warehouse.counters_frame(run.number)
    assert set(counters["block"]) == {1, 2, 3}
    assert set(counters["node"]) == {"node1", "node2"}
    for name in ("interrupts/total", "softirqs/NET_RX", "idle/busy_cpus_begin", "memory/MemAvailable_bytes_end"):
        assert len(counters[counters["counter"] == name]) == 6, name
    documents = installation.warehouse.raw_documents(run.number)
    assert_packets_were_captured(installation, run.number, documents)
    assert_pods_counted(installation, run.number, results)
    facts = facts_of(documents, {})
    assert {(item.block, item.node) for item in facts.pressure} == {
        (block, node) for block in (1, 2, 3) for node in ("node1", "node2")
    }
    for item in facts.pressure:
        assert item.steal_share is not None
        assert item.busy_before_share is not None
        assert 0 < item.busy_before_share <= 1

    assert installation.cluster_state() == before
    assert {cause.name for cause in diagnose(evidence_of(installation.warehouse, run.number))} <= {
        "noisy-neighbour"
    }

    # What it recorded is what the upgrade watch sees.
    assert Fingerprint.of_row(run.row) == observe(installation.api, ["node1", "node2"]).fingerprint
    change = RunView.from_warehouse(installation.warehouse, run.number).change
    assert change is not None
    assert change.cilium == ("image quay.io/cilium/cilium:v1.18.2 → quay.io/cilium/cilium:v1.18.3",)
    assert [item.scenario for item in change.scenarios] == ["ipv4-stream-1"]


def assert_packets_were_captured(installation: Installation, number: int, documents: list[RawDocument]) -> None:
    """In every block, between the nodes and on each in turn: large with BIG TCP on only, and then mostly so."""
    sizes = installation.warehouse.packet_sizes_frame(number)
    data = sizes[sizes["end"].map({"sender": "sent", "receiver": "received"}) == sizes["direction"]]
    place = ["block", "path", "node", "end"]
    large = data[data["upper_bytes"] > CLASSIC_MAX_PACKET_BYTES].groupby(place)["bytes"].sum()
    whole = data.groupby([*place, "arm"])["bytes"].sum()
    alone = {(1, "node1"), (2, "node1"), (2, "node2"), (3, "node2")}
    captured = {(block, "pod", "node1") for block in (1, 2, 3)}
    captured |= {(block, "same-node", node) for block, node in alone}
    assert {(block, path, node) for block, path, node, *_ in whole.index} == captured
    assert len(whole) == 2 * len(captured)
    for (*where, arm), total in whole.items():
        share = large.get(tuple(where), 0) / total
        assert share == 0 if arm == "off" else share > 0.5, where
    assert set(sizes["direction"]) == {"sent", "received"}
    # While nothing else is measured: after the switch, before the block's first repetition.
    contents = [(one, unpacked(one.document)) for one in documents]
    for block in (1, 2, 3):
        begun = [
            document["iperf3"]["start"]["timestamp"]["timesecs"]
            for one, document in contents
            if one.block == block and one.kind.startswith("capture:")
        ]
        measured = [
            document["client"]["before"]["time_s"]
            for one, document in contents
            if one.block == block and one.kind == "repetition"
        ]
        assert len(begun) == sum(one[0] == block for one in captured)
        assert max(begun) + CAPTURE_S < min(measured)


def assert_pods_counted(installation: Installation, number: int, results: pd.DataFrame) -> None:
    """Every repetition has the counters of both ends, and where it has a CPU cost it has its parts."""
    counted = installation.warehouse.pod_counters_frame(number)
    key = ["block", "generation", "scenario", "repetition"]
    repetitions = len(results[key].drop_duplicates())
    assert repetitions == 12
    for end in ("sender", "receiver"):
        sent = counted[(counted["end"] == end) & (counted["counter"] == "device/eth0/tx_packets")]
        assert len(sent[key].drop_duplicates()) == repetitions
    assert "snmp/TcpOutSegs" in set(counted["counter"])
    measured = {(row["metric"], *(row[name] for name in key)) for row in results.to_dict("records")}
    for end in ("sender", "receiver"):
        # None on a machine that others keep so busy that the block's traffic made no difference.
        costs = {place[1:] for place in measured if place[0] == f"cpu_s_per_gb_{end}"}
        for part in CPU_PARTS:
            assert costs == {place[1:] for place in measured if place[0] == f"{part}_s_per_gb_{end}"}


def causes(installation: Installation, number: int) -> list[str]:
    """Return the stored causes of a run, without the work of others: this machine may have some."""
    found: list[str] = installation.warehouse.diagnosis_frame(number)["cause"].tolist()
    return [cause for cause in found if cause not in ("noisy-neighbour", "none-found")]


@pytest.mark.parametrize(
    ("name", "words", "cause"),
    [
        ("setting-ignored", ["could not be proven to be on", "node1"], ["setting-not-effective"]),
        ("old-kernel", ["kernel, ipv4", "gso_ipv4_max_size"], []),
    ],
)
def test_a_cluster_that_cannot_be_measured_is_restored_and_not_judged(installation, fault, name, words, cause):
    """Only Airflow shows that the teardowns run after a task that failed, and that the run fails."""
    before = installation.cluster_state()
    fault(name)
    run = installation.run(order="off,on", scenarios=["ipv4-rr"])
    assert run.state == "failed"
    assert run.row["status"] == "failed"
    for word in words:
        assert word in run.row["reasons"][0]
    assert installation.warehouse.comparisons_frame(run.number).empty
    assert causes(installation, run.number) == cause
    assert installation.cluster_state()["limits"] == before["limits"] or name == "old-kernel"
    assert installation.cluster_state()["node configs"] == before["node configs"]


def test_packets_that_are_segmented_on_the_way_make_the_run_invalid(installation, fault):
    """Only real devices cut packets; what is measured all the same must not be judged."""
    fault("outer-veth-64k")
    # One family has a stream that shows it, of the other only captured packets tell.
    run = installation.run(order="off,on", scenarios=["ipv4-stream-1", "ipv6-rr"])
    assert run.state == "failed"
    assert run.row["status"] == "invalid"
    stream, captured = run.row["reasons"]
    for reason, what in ((stream, "ipv4-stream-1, arm on"), (captured, "ipv6, arm on")):
        assert reason.startswith(f"{what}: packets left the sender with 1")
        assert "segmented to 65,536 B or less on the way" in reason
    assert causes(installation, run.number) == ["segmented-on-the-way"]
    # Kept, but not judged.
    comparisons = installation.warehouse.comparisons_frame(run.number)
    assert set(comparisons["verdict"]) == {"invalid"}
    assert not installation.warehouse.results_frame(run.number).empty
    assert run.row["restore_result"]["state"] == "verified"
