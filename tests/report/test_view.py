from datetime import UTC, datetime, timedelta

import pytest

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.planning.plan import load_plan
from bigtcp_bench.report.view import NodeView, Proof, RestoreView, RunView
from tests.report.views import comparison

STARTED = datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC)
RUN_ID = "scheduled__2026-11-23T02:00:00+00:00"


def result(block, arm, scenario, repetition, metric, value):
    return {
        "block": block,
        "arm": arm,
        "generation": 1,
        "scenario": scenario,
        "repetition": repetition,
        "metric": metric,
        "value": value,
    }


def start(warehouse, **columns):
    run = {"cluster": "lab", "dag_id": "bigtcp_benchmark", "run_id": RUN_ID, "is_aa": False}
    return warehouse.start_run({**run, "status": "running", "started_at": STARTED, **columns})


def test_a_view_holds_what_the_warehouse_knows(warehouse):
    plan = load_plan("quick", {"scenarios": ["ipv6-stream-1", "ipv4-stream-1"], "duration_s": 4, "omit_s": 1})
    number = start(
        warehouse,
        plan=plan.model_dump(mode="json"),
        plan_name=plan.name,
        block_order="off,on,off",
        trigger="scheduled",
        client_node="node1",
        server_node="node2",
        client_kernel="6.18.5",
        server_kernel="6.12.1",
        nic_driver="veth",
        cilium_version="1.18.3",
        environment={"emulated": True},
        restore_result={"state": "verified", "detail": "as before"},
    )
    warehouse.store_results(
        number,
        [
            result(block, arm, "ipv6-stream-1", repetition, f"bytes_per_packet_{end}", size + repetition)
            for block, arm, size in ((1, "off", 59_000), (2, "on", 150_000), (3, "off", 59_000))
            for repetition in (1, 2, 3)
            for end in ("sender", "receiver")
        ],
    )
    stored = [
        comparison("ipv4-stream-1", "throughput_bps", 10.0, 20.0),
        comparison("ipv6-stream-1", "cpu_s_per_gb_sender", 1.0, 0.96, below_margin=True),
        comparison("ipv6-stream-1", "throughput_bps", 10.0, None, verdict="invalid", reasons=("why",)),
    ]
    warehouse.store_comparisons(number, stored)
    warehouse.finish_run(number, "invalid", ["too much drift"], finished_at=STARTED + timedelta(minutes=3))

    view = RunView.from_warehouse(warehouse, number, "http://airflow.example:8080/")

    assert (view.status, view.reasons) == ("invalid", ("too much drift",))
    assert view.order == ("off", "on", "off")
    assert view.nodes == (
        NodeView("client", "node1", "6.18.5", "veth"),
        NodeView("server", "node2", "6.12.1", "veth"),
    )
    # The plan's order of scenarios, then the metrics' own.
    assert view.comparisons == (stored[2], stored[1], stored[0])
    assert view.proofs == (
        Proof("ipv6-stream-1", "off", 59_002.0, 59_002.0, 6, True),
        Proof("ipv6-stream-1", "on", 150_002.0, 150_002.0, 3, True),
    )
    assert view.restore == RestoreView("verified", "as before")
    assert view.emulated
    assert view.wall_time_s == 180
    assert view.measuring_time_s == 9 * 5
    assert view.data_at == warehouse.url
    assert view.url == (
        "http://airflow.example:8080/dags/bigtcp_benchmark/runs/scheduled__2026-11-23T02%3A00%3A00%2B00%3A00"
    )


def test_a_way_that_no_stream_takes_has_its_proof_from_the_captures(warehouse):
    plan = load_plan("quick", {"scenarios": ["ipv4-stream-1", "ipv6-rr"]})
    number = start(warehouse, plan=plan.model_dump(mode="json"), plan_name=plan.name, block_order="off,on,off")
    rows = [
        {
            "block": block,
            "arm": arm,
            "family": family,
            "end": end,
            "direction": direction,
            "upper_bytes": 524_280,
            "packets": 10,
            "bytes": 10 * (size if (end == "sender") == (direction == "sent") else 66),
        }
        for block, arm, size in ((1, "off", 60_000), (2, "on", 180_000), (3, "off", 62_000))
        for family in ("ipv4", "ipv6")
        for end in ("sender", "receiver")
        for direction in ("sent", "received")
    ]
    warehouse.store_packet_sizes(number, rows)
    view = RunView.from_warehouse(warehouse, number)
    assert view.proofs == (
        Proof("ipv6, captured", "off", 61_000.0, 61_000.0, 2, True),
        Proof("ipv6, captured", "on", 180_000.0, 180_000.0, 1, True),
    )
    assert all(proof.as_intended for proof in view.proofs)


def test_a_run_that_has_only_begun_has_a_view(warehouse):
    view = RunView.from_warehouse(warehouse, start(warehouse))
    assert (view.status, view.plan_name, view.order, view.nodes) == ("running", None, (), ())
    assert (view.comparisons, view.proofs, view.url, view.wall_time_s) == ((), (), None, None)
    assert view.restore.state == "pending"


def test_an_unknown_run_is_refused(warehouse):
    with pytest.raises(InvalidInput, match="run 42 is not in the warehouse"):
        RunView.from_warehouse(warehouse, 42)
