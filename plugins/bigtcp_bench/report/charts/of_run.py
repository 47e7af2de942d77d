"""The charts of one run, each under a name, as its page and its report file show them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.planning.plan import SCENARIOS
from bigtcp_bench.report import units
from bigtcp_bench.report.charts import all as charts

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

    from bigtcp_bench.report.view import RunView


@dataclass(frozen=True)
class RunChart:
    """One chart of a run: where it belongs on the page, what it is called, and how it is made."""

    name: str
    section: str
    title: str
    draw: Callable[[], alt.LayerChart]


def run_charts(view: RunView, results: pd.DataFrame, packet_sizes: pd.DataFrame) -> dict[str, RunChart]:
    """Return the charts of a run by name, in the order of the page; none of them is drawn before it is asked for.

    ``results`` and ``packet_sizes`` are as the frames of ``Warehouse`` of these names. Where no packets were
    captured, the mean sizes that the repetitions had are shown. Names are made of letters, digits and dashes.
    Sections are comparison, effect, repetitions, cost and latency.
    """
    pairs = results[["scenario", "metric"]].drop_duplicates()
    known = {(str(scenario), str(metric)) for scenario, metric in pairs.to_numpy()}
    measured = {metric for _, metric in known}
    ends: tuple[charts.End, ...] = ("sender", "receiver")
    found = [RunChart("comparison", "comparison", "What BIG TCP changes", lambda: charts.comparison_chart(view))]
    if not packet_sizes.empty:
        draw = partial(charts.packet_distribution_chart, packet_sizes)
        found.append(RunChart("packets", "effect", "Packet sizes", draw))
    elif view.proofs:
        found.append(RunChart("packets", "effect", "Packet sizes", lambda: charts.packet_size_chart(view.proofs)))
    for scenario in SCENARIOS:
        metric = SCENARIOS[scenario].kind.headline
        if (scenario, metric) in known:
            found.append(_repetitions(results, scenario, metric))
    found += [_cost(results, end) for end in ends if f"cpu_s_per_gb_{end}" in measured]
    if any(comparison.metric.startswith("latency_") for comparison in view.comparisons):
        found.append(RunChart("latency", "latency", "Latency", lambda: charts.latency_chart(view)))
    return {chart.name: chart for chart in found}


def _repetitions(results: pd.DataFrame, scenario: str, metric: str) -> RunChart:
    title = f"{METRICS[metric].label} of {scenario}, repetition by repetition"
    return RunChart(
        f"repetitions-{scenario.replace('@', '-')}",
        "repetitions",
        units.capital(title),
        lambda: charts.repetitions_chart(results, scenario, metric),
    )


def _cost(results: pd.DataFrame, end: charts.End) -> RunChart:
    return RunChart(f"cpu-{end}", "cost", f"CPU cost, {end}", lambda: charts.cpu_chart(results, end))
