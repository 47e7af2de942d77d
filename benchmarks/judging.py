"""How long judging a night takes beside years of history; part of the table of ``benchmarks.warehouse``."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from bigtcp_bench.judging.night import Nightly
from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.planning.thresholds import Thresholds
from bigtcp_bench.warehouse.store import Warehouse


def judging_times(
    warehouse: Warehouse,
    cluster: str,
    scenarios: Sequence[str],
    metrics: Sequence[str],
    after: datetime,
    rounds: int,
) -> Iterator[float]:
    """Yield the seconds to read, judge and store each of some more nights, which are added to the history.

    The first night finds no state that an earlier one left, unless this was called before for the same series.
    Nights begin at ``after``, an hour apart, so that the generated ones can go on after them.
    """
    random = np.random.default_rng(1)
    thresholds = Thresholds.model_validate({})
    for number in range(rounds):
        run = warehouse.start_run(
            {
                "cluster": cluster,
                "dag_id": "bench",
                "run_id": f"{after} {number} {len(metrics)}",
                "started_at": after + timedelta(hours=number),
            }
        )
        warehouse.store_comparisons(run, _comparisons(scenarios, metrics, random))
        warehouse.finish_run(run, "valid")
        began = time.perf_counter()
        nightly = Nightly(warehouse, run, thresholds)
        nightly.due()
        night = nightly.judge()
        yield time.perf_counter() - began
        assert len(night.judgements) == len(scenarios) * sum(METRICS[name].judged for name in metrics)


def _comparisons(
    scenarios: Sequence[str], metrics: Sequence[str], random: np.random.Generator
) -> list[dict[str, Any]]:
    return [
        {"scenario": scenario, "metric": metric, "off_median": 100.0, "on_median": high, "verdict": "faster"}
        for (metric, scenario), high in zip(
            itertools.product(metrics, scenarios),
            random.normal(130.0, 3.0, len(metrics) * len(scenarios)).tolist(),
            strict=True,
        )
    ]
