"""Asks Prometheus about the blocks of a run and stores the answers; what is missing is said and fails nothing."""

from __future__ import annotations

import json
import statistics
import traceback
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from bigtcp_bench.errors import BenchError
from bigtcp_bench.monitoring.client import Prometheus, QueryRefused, Series
from bigtcp_bench.monitoring.queries import Query, filled_in, load_queries
from bigtcp_bench.monitoring.settings import PrometheusSettings

if TYPE_CHECKING:
    from bigtcp_bench.warehouse.store import Warehouse

#: The cluster is still the run's while it waits for Prometheus, and the Lease is not renewed meanwhile.
BUDGET_S = 30.0
#: A query about two nodes has a handful of series; more are about something else.
MAX_SERIES = 100
#: Prometheus answers with at most 11,000 values per series.
_MAX_VALUES = 5_000


@dataclass(frozen=True)
class Window:
    """One block, and when it was measured."""

    block: int
    arm: str
    started_at: datetime
    finished_at: datetime


def collect(
    warehouse: Warehouse,
    run: int,
    blocks: Collection[int],
    nodes: Sequence[str],
    cluster: str,
    settings: Callable[[], PrometheusSettings | None],
) -> list[str]:
    """Store what Prometheus knows of ``blocks`` of ``run``, and return what became of that, a line each.

    ``nodes`` are the names and addresses of the run's nodes; ``settings`` returns those of the connection, or None
    without one. Nothing is raised: the run has measured, and the cluster must still be put back.
    """
    try:
        known = settings()
        return [] if known is None else _collected(warehouse, run, blocks, nodes, cluster, known)
    except BenchError as error:
        return [f"no figures from Prometheus: {error}"]
    except Exception as error:
        traceback.print_exc()
        return [f"no figures from Prometheus: {type(error).__name__}: {error}"]


def _collected(
    warehouse: Warehouse,
    run: int,
    blocks: Collection[int],
    nodes: Sequence[str],
    cluster: str,
    settings: PrometheusSettings,
) -> list[str]:
    queries = load_queries()
    windows, lines = measurable(windows_of(warehouse, run, blocks), settings.window_s)
    rows: list[dict[str, Any]] = []
    missing: dict[str, list[int]] = {}
    try:
        with Prometheus(settings, budget_s=BUDGET_S) as prometheus:
            for query in queries:
                promql = filled_in(query, nodes, cluster, settings)
                try:
                    for window in windows:
                        found = _answer(prometheus, promql, window, settings)
                        rows += rows_of(window, query, found)
                        if not found:
                            missing.setdefault(query.name, []).append(window.block)
                except QueryRefused as error:
                    lines.append(f"no {query.name} from Prometheus: {error}")
    except BenchError as error:
        lines.append(f"figures from Prometheus are missing: {error}")
    warehouse.store_prometheus(run, rows)
    for name, of_blocks in missing.items():
        lines.append(f"Prometheus has no {name} of block {', '.join(map(str, of_blocks))}")
    series = len({(row["query"], row["series"]) for row in rows})
    lines.append(f"Prometheus: {len(rows)} figures of {series} series stored")
    return lines


def windows_of(warehouse: Warehouse, run: int, blocks: Collection[int]) -> list[Window]:
    """Return those of ``blocks`` that have begun and ended, in order."""
    found = warehouse.blocks_frame(run).dropna(subset=["started_at", "finished_at"])
    rows = found[found["block"].isin(list(blocks))]
    return [
        Window(row["block"], row["arm"], row["started_at"].to_pydatetime(), row["finished_at"].to_pydatetime())
        for row in rows.to_dict("records")
    ]


def measurable(windows: Sequence[Window], window_s: float) -> tuple[list[Window], list[str]]:
    """Return ``windows`` without the first ``window_s`` of each, and a line for each that is not longer.

    A rate looks back: one that is asked for earlier would have the arm before the switch in it.
    """
    shift = timedelta(seconds=window_s)
    kept, lines = [], []
    for one in windows:
        if one.finished_at - one.started_at <= shift:
            lines.append(
                f"block {one.block} is not longer than the {window_s:g} s of a rate, so Prometheus is not asked"
            )
        else:
            kept.append(replace(one, started_at=one.started_at + shift))
    return kept, lines


def rows_of(window: Window, query: Query, found: Sequence[Series]) -> list[dict[str, Any]]:
    """Return mean, lowest and highest value of each series during a block, with the fields of PrometheusRow."""
    return [
        {
            "block": window.block,
            "arm": window.arm,
            "query": query.name,
            "series": json.dumps(dict(one.labels), sort_keys=True, ensure_ascii=False),
            "unit": query.unit,
            "mean": statistics.fmean(one.values),
            "lowest": min(one.values),
            "highest": max(one.values),
            "samples": len(one.values),
        }
        for one in found
    ]


def _answer(prometheus: Prometheus, promql: str, window: Window, settings: PrometheusSettings) -> list[Series]:
    length_s = (window.finished_at - window.started_at).total_seconds()
    step_s = max(settings.scrape_interval_s, length_s / _MAX_VALUES)
    found = prometheus.range(promql, window.started_at, window.finished_at, step_s)
    if len(found) > MAX_SERIES:
        raise QueryRefused(f"it has {len(found)} series of two nodes, and at most {MAX_SERIES} are stored")
    return found
