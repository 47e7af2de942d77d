"""One night of one Airflow with two clusters, and all that only whole runs show.

On one cluster an A/A run, which then is cleared: real Airflow runs the DAG again from its first task on, under
another plan, and what that measures is far off what is usual, so that a part is measured again. Meanwhile the
other cluster has a run of its own, whose packets are segmented on the way.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bigtcp_bench.analysis.diagnosis import diagnose
from bigtcp_bench.cluster.api import ClusterApi
from bigtcp_bench.cluster.fingerprint import Fingerprint
from bigtcp_bench.cluster.lease import read_lease
from bigtcp_bench.cluster.rollout import observe
from bigtcp_bench.in_cluster.treatment import CLASSIC_MAX_PACKET_BYTES
from bigtcp_bench.judging.causes import evidence_of
from bigtcp_bench.judging.facts import facts_of
from bigtcp_bench.planning.plan import CAPTURE_S, load_plan
from bigtcp_bench.readings.cpu import CPU_PARTS
from bigtcp_bench.readings.frames import unpacked
from bigtcp_bench.report.summary import run_summary
from bigtcp_bench.report.view import RunView
from bigtcp_bench.warehouse import incidents
from bigtcp_bench.warehouse.records import RawDocument
from bigtcp_bench.warehouse.store import Warehouse
from bigtcp_lab import administrator, daemon
from bigtcp_lab.netlink import LARGEST_SIZE
from tests.e2e.runs import Finished, Installation, causes, register_dags, run_beside
from tests.support.cluster_state import cluster_state
from tests.support.nights import add_night

pytestmark = [pytest.mark.lab, pytest.mark.e2e]

CLUSTER, OTHER = "night", "other night"
OTHER_DAG = "bigtcp_benchmark_kubernetes_other"
#: One family has a stream that shows segmented packets, of the other only captured packets tell.
OTHER_CONF = {"plan": "short", "order": "off,on", "scenarios": ["ipv4-stream-1", "ipv6-rr"]}
#: Whose usual value tonight is far from, and which is measured again.
SCENARIO = "ipv4-stream-1"
#: Of the first attempt; the second does not measure it.
AA_SCENARIO = "ipv6-stream-1"
USUAL_NIGHTS = 20
#: Without the re-run.
BLOCKS = (1, 2)


@dataclass(frozen=True)
class Night:
    """What was run, and what both clusters were like before and after."""

    warehouse: Warehouse
    api: ClusterApi
    first: Finished
    second: Finished
    other: dict[str, Any]
    before: dict[str, Any]
    after: dict[str, Any]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the kubeconfig of a second lab, on which large packets are cut: only real devices do that."""
    folder = tmp_path_factory.mktemp("other") / "lab"
    info = daemon.up(folder)
    try:
        administrator.apply_manifests(info.kubeconfig)
        daemon.set_fault(folder, "outer-veth-64k", True)
        yield info.kubeconfig
    finally:
        daemon.down(folder)


def add_history(warehouse: Warehouse) -> None:
    """Store nights of an older Cilium, in which BIG TCP did far more than it really does."""
    # Nights of another plan, or of other terms, are not what tonight is held against.
    plan = load_plan("captured").model_dump(mode="json")
    first = datetime.now(UTC) - timedelta(days=USUAL_NIGHTS)
    for number in range(USUAL_NIGHTS):
        add_night(
            warehouse,
            number,
            on={SCENARIO: 10.0},
            scenarios=[SCENARIO],
            first=first,
            cluster=CLUSTER,
            plan=plan,
            images={"cilium": "quay.io/cilium/cilium:v1.18.2"},
        )


def connection(kubeconfig: Path, cluster: str) -> str:
    extra = {"kube_config_path": str(kubeconfig), "cluster_name": cluster}
    return json.dumps({"conn_type": "kubernetes", "extra": extra})


@pytest.fixture(scope="module")
def night(installation: Installation, other: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    """Run the night; what is wrong with it, the tests say."""
    log = tmp_path_factory.mktemp("night") / "other.log"
    warehouse, other_api = installation.warehouse, ClusterApi.from_kubeconfig(other)
    add_history(warehouse)

    def states() -> dict[str, Any]:
        return {CLUSTER: installation.cluster_state(), OTHER: cluster_state(other_api)}

    before = states()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIGTCP_BENCH_CLUSTERS", "kubernetes_default,kubernetes_other")
        patch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", connection(installation.airflow.kubeconfig, CLUSTER))
        patch.setenv("AIRFLOW_CONN_KUBERNETES_OTHER", connection(other, OTHER))
        # Before there are two processes, which would get in each other's way when each found a new DAG.
        register_dags()
        process = run_beside(OTHER_DAG, OTHER_CONF, log)
        try:
            deadline = time.monotonic() + 900
            while (lease := read_lease(other_api)) is None or not lease.holder:
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                assert process.is_alive(), log.read_text()[-3000:]
                time.sleep(0.2)
            at = datetime.now(UTC)
            first = installation.run(at, order="off,off", scenarios=[AA_SCENARIO])
            process.join(900)
            assert process.exitcode == 1, log.read_text()[-3000:]
        finally:
            process.kill()
            process.join()
        second = installation.run(at, plan="captured", note="after the upgrade", night=True)
    runs = warehouse.runs_frame()
    (number,) = runs[runs["dag_id"] == OTHER_DAG]["id"]
    yield Night(
        warehouse,
        installation.api,
        first,
        second,
        {**warehouse.run(int(number)), "id": int(number)},
        before,
        states(),
    )
    other_api.close()


def test_every_run_leaves_its_cluster_as_it_was(night: Night) -> None:
    assert night.after == night.before
    for row in (night.first.row, night.second.row, night.other):
        assert row["restore_result"]["state"] == "verified"


def test_runs_of_two_clusters_overlap(night: Night) -> None:
    first, other = night.first.row, night.other
    assert (first["cluster"], other["cluster"]) == (CLUSTER, OTHER)
    assert max(first["started_at"], other["started_at"]) < min(first["finished_at"], other["finished_at"])


def test_packets_that_are_segmented_on_the_way_make_the_run_invalid(night: Night) -> None:
    """What is measured all the same must not be judged."""
    row, number = night.other, night.other["id"]
    assert row["status"] == "invalid", row["reasons"]
    stream, captured = row["reasons"]
    for reason, what in ((stream, "ipv4-stream-1, arm on"), (captured, "ipv6, arm on")):
        assert reason.startswith(f"{what}: packets left the sender with 1")
        assert "segmented to 65,536 B or less on the way" in reason
    assert causes(night.warehouse, number) == ["segmented-on-the-way"]
    # Kept, but not judged.
    comparisons = night.warehouse.comparisons_frame(number)
    assert set(comparisons["verdict"]) == {"invalid"}
    assert not night.warehouse.results_frame(number).empty


def test_two_blocks_of_one_arm_are_no_night(night: Night) -> None:
    run = night.first
    assert (run.state, run.row["status"], run.row["is_aa"]) == ("success", "valid", True), run.row["reasons"]
    assert set(night.warehouse.results_frame(run.number)["block"]) == {1, 2}
    assert night.warehouse.judgements_frame(run.number).empty


def scenarios_of(warehouse: Warehouse, number: int) -> set[str]:
    frames = [warehouse.results_frame(number), warehouse.comparisons_frame(number)]
    return {name for frame in frames for name in frame["scenario"]}


def test_a_run_that_is_cleared_is_another_attempt_that_keeps_nothing_of_the_first(night: Night) -> None:
    """Only Airflow gives a run its tasks once more, under the same run id, as a person's clear does."""
    warehouse, first, second = night.warehouse, night.first, night.second
    assert [run.row["attempt"] for run in (first, second)] == [1, 2]
    assert second.row["run_id"] == first.row["run_id"]
    assert second.number != first.number
    assert scenarios_of(warehouse, second.number) == set(load_plan("captured").scenarios)
    assert AA_SCENARIO not in run_summary(RunView.from_warehouse(warehouse, second.number)).split()
    # The first one is kept, and nothing that speaks of results sees it.
    assert scenarios_of(warehouse, first.number) == {AA_SCENARIO}
    assert warehouse.attempts(second.number) == [first.number, second.number]
    assert first.number not in set(warehouse.runs_frame()["id"])


def test_a_run_from_end_to_end(night: Night) -> None:
    """The whole: every path, counters, verdict, and what changed since the night before."""
    warehouse, run = night.warehouse, night.second
    assert (run.state, run.row["status"], run.row["reasons"]) == ("success", "valid", [])
    assert run.row["environment"]["emulated"] is True
    assert run.row["environment"]["tso_max_size"] == {node: {"eth0": LARGEST_SIZE} for node in ("node1", "node2")}
    assert (run.row["client_node"], run.row["server_node"]) == ("node1", "node2")

    results = warehouse.results_frame(run.number, purpose="plan")
    assert set(results["arm"]) == {"off", "on"}
    assert results.groupby("block")["generation"].nunique().to_dict() == {1: 2, 2: 2}
    streams = results[results["scenario"].str.contains("stream")]
    for end in ("sender", "receiver"):
        sizes = streams[streams["metric"] == f"bytes_per_packet_{end}"]
        assert len(sizes) == 4
        assert sizes[sizes["arm"] == "off"]["value"].between(30_000, 65_536).all()
        assert (sizes[sizes["arm"] == "on"]["value"] > 65_536).all()

    comparisons = warehouse.comparisons_frame(run.number)
    assert {"throughput_bps", "transactions_per_s", "latency_p99_us"} <= set(comparisons["metric"])
    judged = comparisons[comparisons["metric"] == "throughput_bps"]
    # With so few generations a busy machine may leave a scenario without an interval.
    unknown = judged["ci_low"].isna()
    assert set(judged[unknown]["verdict"]) <= {"inconclusive"}
    assert (judged[~unknown]["ci_low"] < judged[~unknown]["change"]).all()
    assert (judged[~unknown]["change"] < judged[~unknown]["ci_high"]).all()
    assert {cause.name for cause in diagnose(evidence_of(warehouse, run.number))} <= {"noisy-neighbour"}

    # What it recorded is what the upgrade watch sees.
    assert Fingerprint.of_row(run.row) == observe(night.api, ["node1", "node2"]).fingerprint
    change = RunView.from_warehouse(warehouse, run.number).change
    assert change is not None
    assert change.cilium == ("image quay.io/cilium/cilium:v1.18.2 → quay.io/cilium/cilium:v1.18.3",)
    assert [item.scenario for item in change.scenarios] == [SCENARIO]


def test_both_nodes_are_counted_in_every_block(night: Night) -> None:
    counters = night.warehouse.counters_frame(night.second.number)
    counters = counters[counters["block"].isin(BLOCKS)]
    assert set(counters["block"]) == set(BLOCKS)
    assert set(counters["node"]) == {"node1", "node2"}
    for name in ("interrupts/total", "softirqs/NET_RX", "idle/busy_cpus_begin", "memory/MemAvailable_bytes_end"):
        assert len(counters[counters["counter"] == name]) == 4, name
    pressure = facts_of(night.warehouse.raw_documents(night.second.number), {}).pressure
    assert {(item.block, item.node) for item in pressure} >= {
        (block, node) for block in BLOCKS for node in ("node1", "node2")
    }
    for item in pressure:
        assert item.steal_share is not None
        assert item.busy_before_share is not None
        assert 0 < item.busy_before_share <= 1


def test_packets_are_captured_in_every_block(night: Night) -> None:
    """Between the nodes and on one alone: large with BIG TCP on only, and then mostly so."""
    sizes = night.warehouse.packet_sizes_frame(night.second.number)
    sizes = sizes[sizes["block"].isin(BLOCKS)]
    data = sizes[sizes["end"].map({"sender": "sent", "receiver": "received"}) == sizes["direction"]]
    place = ["block", "path", "node", "end"]
    large = data[data["upper_bytes"] > CLASSIC_MAX_PACKET_BYTES].groupby(place)["bytes"].sum()
    whole = data.groupby([*place, "arm"])["bytes"].sum()
    captured = {(block, path, "node1") for block in BLOCKS for path in ("pod", "same-node")}
    assert {(block, path, node) for block, path, node, *_ in whole.index} == captured
    assert len(whole) == 2 * len(captured)
    for (*where, arm), total in whole.items():
        share = large.get(tuple(where), 0) / total
        assert share == 0 if arm == "off" else share > 0.5, where
    assert set(sizes["direction"]) == {"sent", "received"}
    # While nothing else is measured: after the switch, before the block's first repetition.
    documents: list[RawDocument] = night.warehouse.raw_documents(night.second.number)
    contents = [(one, unpacked(one.document)) for one in documents]
    for block in BLOCKS:
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


def test_every_repetition_has_the_counters_of_both_ends(night: Night) -> None:
    """And where it has a CPU cost, it has its parts."""
    results: pd.DataFrame = night.warehouse.results_frame(night.second.number, purpose="plan")
    counted = night.warehouse.pod_counters_frame(night.second.number)
    counted = counted[counted["block"].isin(BLOCKS)]
    key = ["block", "generation", "scenario", "repetition"]
    repetitions = len(results[key].drop_duplicates())
    assert repetitions == 6
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


def test_what_is_far_off_is_measured_again(night: Night) -> None:
    """Only Airflow shows that tasks which skip on other nights run tonight, and that the run waits for them."""
    warehouse, run = night.warehouse, night.second
    blocks = warehouse.blocks_frame(run.number)
    assert list(zip(blocks["arm"], blocks["purpose"], strict=True)) == [
        *((arm, "plan") for arm in ("off", "on")),
        *((arm, "rerun") for arm in ("off", "on", "off")),
    ]
    assert blocks["finished_at"].notna().all()
    results = warehouse.results_frame(run.number, purpose="rerun")
    assert set(results["scenario"]) == {SCENARIO}
    assert results.groupby("block")["generation"].nunique().to_dict() == {3: 1, 4: 2, 5: 1}
    # The run's comparison is that of all blocks.
    comparisons = warehouse.comparisons_frame(run.number)
    assert comparisons[comparisons["scenario"] == SCENARIO]["n_off"].max() == 3

    judged = warehouse.judgements_frame(run.number)
    judged = judged[judged["scenario"] == SCENARIO]
    states = dict(zip(judged["metric"], judged["state"], strict=True))
    assert states["throughput_bps"] == "suspect"
    assert states["softirq_share_sender"] == "learning"
    (incident,) = incidents.open_incidents(warehouse, CLUSTER)
    assert incident.state == "suspect"
    lines = RunView.from_warehouse(warehouse, run.number).history.lines()
    assert any("the median of the three counts" in line for line in lines)
