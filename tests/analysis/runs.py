"""Made-up runs for the tests of the analysis: frames as the warehouse gives them."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import numpy as np
import pandas as pd

from bigtcp_bench.analysis.verdicts import ENDS, Captures
from bigtcp_bench.planning.metrics import METRICS, metrics_of
from bigtcp_bench.planning.plan import (
    SCENARIOS,
    Plan,
    blocks,
    captured_places,
    captured_ways,
    turns,
    validate_plan,
)
from bigtcp_bench.warehouse.frames import TEXT

#: Any other metric has 0.1, whatever its unit.
USUAL = {
    "throughput_bps": 14e9,
    "transactions_per_s": 9_000.0,
    "latency_p50_us": 100.0,
    "latency_p90_us": 140.0,
    "latency_p99_us": 300.0,
    "latency_p999_us": 700.0,
    "connections_per_s": 4_000.0,
    "cpu_s_per_gb_sender": 0.4,
    "cpu_s_per_gb_receiver": 0.6,
    "softirq_share_sender": 0.3,
    "softirq_share_receiver": 0.5,
    "user_s_per_gb_sender": 0.01,
    "system_s_per_gb_sender": 0.27,
    "softirq_s_per_gb_sender": 0.12,
    "user_s_per_gb_receiver": 0.02,
    "system_s_per_gb_receiver": 0.28,
    "softirq_s_per_gb_receiver": 0.3,
    "retransmits_per_gb": 20.0,
}
PACKET_BYTES = {"off": 59_000.0, "on": 150_000.0}


def make_plan(**fields: Any) -> Plan:
    return validate_plan({"scenarios": ["ipv4-stream-1"], "generations": 3, "repetitions": 2, **fields})


def make_captures(plan: Plan) -> Captures:
    """Return what the captured streams of a sound run say."""
    return {
        (block.number, way, end): [PACKET_BYTES[block.arm]] * len(captured_places(way, block))
        for block in blocks(plan)
        for way in captured_ways(plan)
        for end in ENDS
    }


def make_frame(
    plan: Plan,
    seed: int = 1,
    noise: float = 0.01,
    effect: Mapping[str, float] | None = None,
    drift: float = 0.0,
    metrics: Container[str] = METRICS,
) -> pd.DataFrame:
    """Return a run whose metrics change by ``effect`` (metric → on/off − 1) and by ``drift`` from end to end.

    Only ``metrics`` were measured.
    """
    random = np.random.default_rng(seed)
    total = sum(block.generations for block in blocks(plan))
    measured = {
        name: [metric for metric in metrics_of(SCENARIOS[name].traffic) if metric.name in metrics]
        for name in plan.scenarios
    }
    rows = []
    position = 0
    for block in blocks(plan):
        changes = effect or {} if block.arm == "on" else {}
        for generation, turn, scenarios in turns(block, plan.scenarios):
            usual = 1 + drift * (position + turn) / max(1, total - 1)
            for name in scenarios:
                luck = float(np.exp(random.normal(0, noise)))
                for repetition in range(1, plan.repetitions + 1):
                    for metric in measured[name]:
                        if metric.name.startswith("bytes_per_packet"):
                            value = PACKET_BYTES[block.arm] * (1 + random.normal(0, 0.001))
                        else:
                            value = (
                                USUAL.get(metric.name, 0.1) * usual * (1 + changes.get(metric.name, 0.0)) * luck
                            )
                            value *= float(np.exp(random.normal(0, noise)))
                        rows.append(
                            (
                                block.number,
                                block.arm,
                                generation,
                                name,
                                repetition,
                                metric.name,
                                value,
                                metric.unit,
                            )
                        )
        position += block.generations
    columns = ["block", "arm", "generation", "scenario", "repetition", "metric", "value", "unit"]
    texts = ("arm", "scenario", "metric", "unit")
    return pd.DataFrame(
        {
            name: pd.array(values, dtype=TEXT) if name in texts else values
            for name, values in zip(columns, zip(*rows, strict=True), strict=True)
        }
    )
