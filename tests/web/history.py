"""A warehouse with more than a year of nights: two clusters, upgrades, incidents, every kind of end."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from bigtcp_bench.planning.metrics import METRICS, metrics_of
from bigtcp_bench.planning.plan import SCENARIOS
from bigtcp_bench.planning.thresholds import Thresholds
from bigtcp_bench.warehouse import incidents, schema
from bigtcp_bench.warehouse.store import Warehouse

NIGHTS = 420
CLUSTER, LAB = "prod-eu", "lab"
DAG_ID, LAB_DAG_ID = "bigtcp_benchmark", "bigtcp_benchmark_lab"
NAMES = ("ipv4-stream-1", "ipv6-stream-1", "ipv6-rate", "ipv6-rr")
#: What a hostile cluster, pod or colleague could have put into texts.
HOSTILE = "<script>alert(1)</script>"


def connection_of(cluster: str) -> str:
    """Return the Airflow connection of ``cluster``, as its environment variable holds it."""
    return json.dumps({"conn_type": "kubernetes", "extra": {"cluster_name": cluster}})


#: Usual value of arm off, and what BIG TCP makes of it. Any other metric has 0.1, and nothing is made of it.
_LEVELS = {
    "throughput_bps": (41e9, 1.42),
    "transactions_per_s": (5_200.0, 1.08),
    "latency_p50_us": (180.0, 0.94),
    "latency_p90_us": (230.0, 0.93),
    "latency_p99_us": (410.0, 0.9),
    "latency_p999_us": (900.0, 0.9),
    "connections_per_s": (2_900.0, 1.0),
    "cpu_s_per_gb_sender": (0.31, 0.74),
    "cpu_s_per_gb_receiver": (0.42, 0.7),
    "user_s_per_gb_sender": (0.01, 0.74),
    "system_s_per_gb_sender": (0.23, 0.74),
    "softirq_s_per_gb_sender": (0.06, 0.68),
    "user_s_per_gb_receiver": (0.01, 0.7),
    "system_s_per_gb_receiver": (0.25, 0.7),
    "softirq_s_per_gb_receiver": (0.15, 0.6),
    "softirq_share_sender": (0.21, 0.9),
    "softirq_share_receiver": (0.37, 0.85),
    "retransmits_per_gb": (900.0, 1.0),
    "bytes_per_packet_sender": (61_000.0, 2.9),
    "bytes_per_packet_receiver": (60_500.0, 2.8),
}
_AA_NIGHT, _INVALID_NIGHT, _FAILED_NIGHT = 30, 47, 133
#: Nights before the last one: an upgrade that broke something, and one that did not.
_BROKEN, _FINE, _KERNEL = 25, 200, 120


def fill(warehouse: Warehouse, last: datetime | None = None) -> None:
    """Store the nights of both clusters; the last one begins at ``last`` (default: last night)."""
    last = last or datetime.now(UTC).replace(hour=2, minute=0, second=0, microsecond=0) - timedelta(days=1)
    random = np.random.default_rng(20260301)
    runs = [_run(night, last) for night in range(NIGHTS)]
    rows = [row for night in range(NIGHTS) for row in _comparisons(night, random)]
    lab = [_lab_run(number, last) for number in range(3)]
    warehouse.write(lambda connection: connection.execute(schema.run.insert(), [*runs, *lab]))
    warehouse.write(lambda connection: connection.execute(schema.comparison.insert(), rows))
    _store_details(warehouse, NIGHTS, random)
    _store_incidents(warehouse, last)


def _moment(night: int, last: datetime) -> datetime:
    return last - timedelta(days=NIGHTS - 1 - night)


def _kind(night: int) -> str:
    if night == NIGHTS - 1:
        return "valid"
    if night % _AA_NIGHT == _AA_NIGHT - 1:
        return "aa"
    if night % _FAILED_NIGHT == _FAILED_NIGHT - 1:
        return "failed"
    return "invalid" if night % _INVALID_NIGHT == _INVALID_NIGHT - 1 else "valid"


def _run(night: int, last: datetime) -> dict[str, Any]:
    kind, left = _kind(night), NIGHTS - 1 - night
    order = ["off", "off"] if kind == "aa" else ["off", "on", "off"]
    began = _moment(night, last)
    version = "1.18.3" if left < _BROKEN else "1.18.1" if left < _FINE else "1.17.9"
    reasons = {"invalid": ["the proof of effect is missing in ipv6-stream-1"], "failed": ["node2 is not ready"]}
    return {
        "id": night + 1,
        "cluster": CLUSTER,
        "dag_id": DAG_ID,
        "run_id": f"scheduled__{began.isoformat()}",
        "status": "valid" if kind == "aa" else kind,
        "is_aa": kind == "aa",
        "started_at": began,
        "finished_at": began + timedelta(minutes=38),
        "trigger": "scheduled",
        "note": None,
        "plan_name": "nightly",
        "block_order": ",".join(order),
        "client_node": "worker-1",
        "server_node": "worker-2",
        "client_kernel": "6.18.5" if left < _KERNEL else "6.12.9",
        "server_kernel": "6.18.5" if left < _KERNEL else "6.12.9",
        "nic_driver": "mlx5_core",
        "nic_tso_max_size": 524_280,
        "mtu": 9000,
        "cilium_version": version,
        "iperf3_version": "3.18",
        "package_version": "0.1.0",
        "reasons": reasons.get(kind, []),
        "plan": _plan(order),
        "cilium_config": {"routing-mode": "native", "enable-ipv6-big-tcp": "false"},
        "images": {"cilium": f"quay.io/cilium/cilium:v{version}"},
        "tool_versions": {"iperf3": "iperf 3.18", "ip": "iproute2-6.1.0"},
        "environment": {"generated": True, "emulated": False, "kubernetes_version": "v1.34.1"},
        "checks": [
            {"name": "kernel", "node": "worker-1", "status": "pass", "found": "6.18.5", "advice": ""},
            {"name": "load", "node": "worker-2", "status": "warn", "found": HOSTILE, "advice": "look at it"},
        ],
        "restore_result": _restore(kind),
    }


def _plan(order: list[str]) -> dict[str, Any]:
    return {
        "name": "nightly",
        "scenarios": list(NAMES),
        "order": order,
        "generations": 2,
        "repetitions": 1,
        "duration_s": 10,
        "omit_s": 2,
        "thresholds": Thresholds.model_validate({}).model_dump(mode="json"),
    }


def _restore(kind: str) -> dict[str, Any]:
    if kind == "failed":
        return {"state": "not_verified", "detail": "worker-2: IPv6 BIG TCP is still on"}
    merged = {"ipv4": False, "ipv6": False}
    node = {"merged": merged, "wanted": merged, "limits": {"eth0": dict.fromkeys(_LIMITS, 65_536)}}
    return {"state": "verified", "detail": "restored in 4 s", "nodes": {"worker-1": node, "worker-2": node}}


_LIMITS = ("gso_max_size", "gro_max_size", "gso_ipv4_max_size", "gro_ipv4_max_size")


def _lab_run(number: int, last: datetime) -> dict[str, Any]:
    began = last - timedelta(days=3 - number)
    row = _run(NIGHTS - 1, last)
    return row | {
        "id": NIGHTS + 1 + number,
        "cluster": LAB,
        "dag_id": LAB_DAG_ID,
        "run_id": f"manual__{began.isoformat()}",
        "started_at": began,
        "finished_at": None if number == 2 else began + timedelta(minutes=4),
        "status": ("valid", "failed", "running")[number],
        "reasons": [f"no node is labelled {HOSTILE}"] if number == 1 else [],
        "environment": {"emulated": True},
        "note": HOSTILE,
        "restore_result": None,
    }


def _comparisons(night: int, random: np.random.Generator) -> Iterator[dict[str, Any]]:
    kind = _kind(night)
    if kind in ("aa", "failed"):
        return
    broken = NIGHTS - 1 - night < _BROKEN
    for name in NAMES:
        for metric in metrics_of(SCENARIOS[name].traffic):
            off, factor = _LEVELS.get(metric.name, (0.1, 1.0))
            if broken and name == "ipv6-stream-1" and metric.name == "throughput_bps":
                factor *= 0.86
            low, high = off * np.exp(random.normal(0, 0.012)), off * factor * np.exp(random.normal(0, 0.015))
            change = float(high / low - 1)
            better = -change if metric.better == "lower" else change
            verdict = "faster" if better > 0.03 else "slower" if better < -0.03 else "equivalent"
            if not metric.judged:
                verdict = "evidence"
            yield {
                "run_id": night + 1,
                "metric": metric.name,
                "scenario": name,
                "unit": metric.unit,
                "better": metric.better,
                "off_median": float(low),
                "on_median": float(high),
                "change": change,
                "ci_low": change - 0.025,
                "ci_high": change + 0.025,
                "level": 0.95,
                "margin": 0.05,
                "n_off": 4,
                "n_on": 4,
                "smallest_detectable_change": 0.04,
                "p_value": 0.001,
                "drift": 0.0,
                "below_margin": False,
                "verdict": "invalid" if kind == "invalid" else verdict,
                "reasons": [],
            }


def _store_details(warehouse: Warehouse, number: int, random: np.random.Generator) -> None:
    """Store what the pods and nodes of one run said."""
    for block, arm in ((1, "off"), (2, "on"), (3, "off")):
        warehouse.store_block(
            number,
            {
                "block": block,
                "arm": arm,
                "started_at": datetime(2026, 3, 1, 2, 10 * block, tzinfo=UTC),
                "finished_at": datetime(2026, 3, 1, 2, 10 * block + 9, tzinfo=UTC),
                "switch_report": {"restarted": block > 1, "nodes": _restore("valid")["nodes"]},
            },
        )
        for generation in range(1, 3 if block != 2 else 5):
            key = {"block": block, "generation": generation}
            results = [
                {
                    **key,
                    "arm": arm,
                    "scenario": name,
                    "repetition": 1,
                    "metric": metric.name,
                    "value": _LEVELS[metric.name][0]
                    * (_LEVELS[metric.name][1] if arm == "on" else 1)
                    * float(np.exp(random.normal(0, 0.02))),
                }
                for name in NAMES
                for metric in metrics_of(SCENARIOS[name].traffic)
            ]
            raw = [
                {
                    **key,
                    "kind": "repetition",
                    "scenario": name,
                    "repetition": 1,
                    "document": _packed(key | {"of": name}),
                }
                for name in NAMES
            ]
            warehouse.store_generation(number, block, generation, results=results, raw=raw)
        warehouse.store_counters(
            number,
            [
                {"block": block, "arm": arm, "node": node, "counter": counter, "value": 10.0 * block}
                for node in ("worker-1", "worker-2")
                for counter in ("snmp/TcpRetransSegs", "cpu/softirq_s", "snmp/TcpInSegs")
            ],
        )
    counted = {"block": 1, "arm": "off", "generation": 1, "scenario": NAMES[0], "repetition": 1, "end": "sender"}
    warehouse.store_pod_counters(number, [counted | {"counter": "snmp/TcpRetransSegs", "value": 3}])
    size = {"block": 2, "arm": "on", "family": "ipv6", "end": "sender", "direction": "sent"}
    warehouse.store_packet_sizes(number, [size | {"upper_bytes": 196_608, "packets": 5, "bytes": 900_000}])
    failed = {"block": 2, "arm": "on", "generation": 4, "scenario": NAMES[0], "repetition": 2, "reason": HOSTILE}
    warehouse.store_failures(number, [failed])


def _packed(document: dict[str, Any]) -> bytes:
    # Large enough to be sent in more than one piece.
    return zlib.compress(json.dumps(document | {"filling": list(range(30_000))}).encode())


def _store_incidents(warehouse: Warehouse, last: datetime) -> None:
    def night(left: int) -> str:
        return (last - timedelta(days=left)).date().isoformat()

    def one(uid: str, begun: int, **columns: Any) -> dict[str, Any]:
        member = {"metric": "throughput_bps", "confirmed": True, "first_seen": night(begun), "last_seen": night(0)}
        return {
            "uid": uid,
            "cluster": CLUSTER,
            "state": "regression",
            "attribution": "big-tcp",
            "changed_on": night(begun),
            "suspected_on": night(begun - 1),
            "confirmed_on": night(begun - 3),
            "members": [member | {"scenario": "ipv6-stream-1", "change": -0.14}],
            **columns,
        }

    incidents.revise(
        warehouse,
        CLUSTER,
        lambda _: [
            one("old", 300, state="recovered", attribution="platform", closed_on=night(290)),
            one("known", 90),
            one("new", _BROKEN),
        ],
    )
    incidents.acknowledge(warehouse, 2, by="grace", note=f"the switch was replaced {HOSTILE}")
    assert set(_LEVELS) == set(METRICS)
