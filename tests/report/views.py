"""Runs to report on: one that went well, and pieces to change in it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from bigtcp_bench.analysis.compare import Comparison
from bigtcp_bench.analysis.diagnosis import Cause
from bigtcp_bench.report.view import NodeView, Proof, RestoreView, RunView


def comparison(scenario: str, metric: str, off: float | None, on: float | None, **fields: Any) -> Comparison:
    change = on / off - 1 if off and on is not None else None
    ends = (None, None) if change is None else (change - 0.04, change + 0.04)
    defaults = {
        "scenario": scenario,
        "metric": metric,
        "off_median": off,
        "on_median": on,
        "change": change,
        "ci_low": ends[0],
        "ci_high": ends[1],
        "level": 0.95,
        "margin": 0.05,
        "n_off": 6,
        "n_on": 6,
        "smallest_detectable_change": 0.061,
        "p_value": 0.001,
        "verdict": "faster",
    }
    return Comparison(**{**defaults, **fields})


CAUSES = (
    Cause(
        "cilium-drops",
        'Cilium on node node2 dropped 3,000 packets (ingress), 1.60% of all that it handled: "Policy denied"',
        {"reason": "Policy denied", "packets": 3000},
        strength=0.94,
        node="node2",
        explains=("retransmits",),
    ),
    Cause(
        "receiver-cpu",
        "the sender waited for the receiver's window in 90% of its time",
        {"window_limited_share": 0.9},
        strength=0.44,
        scenario="ipv4-stream-1",
        arm="on",
    ),
    Cause("steal", "the hypervisor took 6.0% of the CPU time of node1 in block 2", {"steal_share": 0.06}, 0.17),
)


def run_view(**changes: Any) -> RunView:
    fields: dict[str, Any] = {
        "cluster": "lab",
        "dag_id": "bigtcp_benchmark",
        "run_id": "manual__2026-11-23T01:02:03.123456+00:00_kFzpwNCG",
        "status": "valid",
        "data_at": "postgresql+psycopg://bench:***@db.example/bigtcp",
        "number": 7,
        "plan_name": "quick",
        "order": ("off", "on", "off"),
        "trigger": "manual",
        "nodes": (
            NodeView("client", "node1", "6.18.5", "veth"),
            NodeView("server", "node2", "6.18.5", "veth"),
        ),
        "cilium_version": "1.18.3",
        "comparisons": (
            comparison("ipv4-stream-1", "throughput_bps", 14.2e9, 24.1e9),
            comparison("ipv4-stream-1", "cpu_s_per_gb_receiver", 0.412, 0.43, verdict="slower", below_margin=True),
            comparison("ipv4-stream-1", "retransmits_per_gb", 0.0, 0.2, verdict="inconclusive"),
            comparison("ipv4-stream-1", "bytes_per_packet_sender", 59_012, 150_234, verdict="evidence"),
            comparison("ipv6-rr", "transactions_per_s", 12_345, 12_400, verdict="equivalent"),
            comparison("ipv6-rr", "latency_p99_us", 187.2, 190.0, verdict="inconclusive"),
        ),
        "expectations": {"ipv4-stream-1": "gain", "ipv6-rr": "gain"},
        "proofs": (
            Proof("ipv4-stream-1", "off", 59_012.4, 58_990.0, 12, True),
            Proof("ipv4-stream-1", "on", 150_234.0, 149_876.0, 12, True),
            Proof("ipv6-rr", "off", 9_000.0, 8_000.0, 12, False),
        ),
        "restore": RestoreView("verified", "configuration and device limits equal those before the run"),
        "started": datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC),
        "finished": datetime(2026, 11, 23, 1, 5, 51, tzinfo=UTC),
        "measuring_time_s": 144.0,
        "url": "https://airflow.example/dags/bigtcp_benchmark/runs/manual__2026",
    }
    return RunView(**{**fields, **changes})
