"""Nights as runs leave them in a warehouse: valid runs with a comparison of both arms for every scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from bigtcp_bench.planning.plan import CONTROL, SCENARIOS
from bigtcp_bench.warehouse.store import Warehouse

FIRST_NIGHT = datetime(2026, 3, 1, 2, tzinfo=UTC)
CLUSTER = "lab"
SCENARIO_NAMES = ("ipv4-stream-1", "ipv6-stream-1", "ipv4-rr")


def add_night(
    warehouse: Warehouse,
    number: int,
    *,
    off: Mapping[str, float] | None = None,
    on: Mapping[str, float] | None = None,
    scenarios: Sequence[str] = SCENARIO_NAMES,
    first: datetime = FIRST_NIGHT,
    sd: float = 0.01,
    verdict: str = "faster",
    controls: Sequence[float] = (),
    **columns: Any,
) -> int:
    """Store night ``number`` (from 0) and return its run.

    Every arm of a scenario's headline metric is at 10 (off) and 15 (on) within ``sd``, times the factor that
    ``off`` and ``on`` give for the scenario. ``controls`` are those of its blocks.
    """
    random = np.random.default_rng(abs(number))
    run = warehouse.start_run(
        {
            "cluster": CLUSTER,
            "dag_id": "bigtcp_benchmark",
            "run_id": f"night {number}",
            "started_at": first + timedelta(days=number),
            "client_node": "node1",
            "server_node": "node2",
            "client_kernel": "6.18.5",
            "server_kernel": "6.18.5",
            "cilium_version": "1.18.3",
            "iperf3_version": "3.18",
            "plan": {"name": "nightly", "scenarios": list(scenarios), "order": ["off", "on", "off"]},
            "status": "valid",
            **columns,
        }
    )
    rows = []
    for name in scenarios:
        low, high = (
            level * factors.get(name, 1.0) * float(np.exp(random.normal(0, sd)))
            for level, factors in ((10.0, off or {}), (15.0, on or {}))
        )
        rows.append(
            {
                "scenario": name,
                "metric": SCENARIOS[name].kind.headline,
                "off_median": low,
                "on_median": high,
                "change": high / low - 1,
                "ci_low": high / low - 1.03,
                "ci_high": high / low - 0.97,
                "level": 0.95,
                "margin": 0.05,
                "n_off": 6,
                "n_on": 6,
                "verdict": verdict,
            }
        )
    warehouse.store_comparisons(run, rows)
    control = {"generation": 0, "scenario": CONTROL, "repetition": 1, "metric": "transactions_per_s"}
    warehouse.store_results(
        run,
        [
            {**control, "block": block, "arm": "on" if block == 2 else "off", "value": value}
            for block, value in enumerate(controls, start=1)
        ],
    )
    return run
