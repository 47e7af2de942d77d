"""Every chart of a run, as an Altair specification: interactive in the browser, a PNG for Slack.

Those of many nights are in ``over_time``. Pure functions of frames and views; none asks the warehouse.
``vega.figure(chart)`` is a chart's HTML element, ``png(chart)`` its picture, ``vega.specification(chart)`` what
they draw.
Each carries its title, its units and a sentence for screen readers (``description``). What cannot be drawn (an
empty frame, a missing column) becomes a chart that says so.

Arms have the same two colours everywhere, and another shape each. Values are in the unit that suits them (Gbit/s),
and tooltips say them as the tables do.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import altair as alt

from bigtcp_bench.in_cluster.capture import PACKET_BOUNDS
from bigtcp_bench.in_cluster.treatment import ARMS, CLASSIC_MAX_PACKET_BYTES, FAMILIES
from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.planning.plan import PATHS, SCENARIOS, Way
from bigtcp_bench.readings.cpu import CPU_PARTS
from bigtcp_bench.report import units
from bigtcp_bench.report.charts.parts import (
    ACROSS,
    HEIGHT,
    NUMBERS,
    SIGNED_ACROSS,
    arm_colour,
    arm_shape,
    chart_of,
    empty,
    finished,
    list_height,
    log_axis,
    missing_columns,
    room_for_words,
    scenario_axis,
    tooltip,
    zero_line,
)
from bigtcp_bench.report.charts.series import benefit_percent
from bigtcp_bench.report.charts.style import (
    KIND_COLOURS,
    NEUTRAL_COLOUR,
    SIZE_COLOURS,
    VERDICT_COLOURS,
    VERDICT_SHAPES,
    Theme,
    config_of,
)
from bigtcp_bench.report.charts.vega import specification
from bigtcp_bench.report.words import verdict_word

if TYPE_CHECKING:
    import pandas as pd

    from bigtcp_bench.analysis.compare import Comparison
    from bigtcp_bench.report.view import Proof, RunView

End = Literal["sender", "receiver"]

_RESULT_COLUMNS = ("block", "arm", "generation", "scenario", "repetition", "metric", "value")
_SIZE_COLUMNS = ("family", "path", "end", "direction", "upper_bytes", "arm", "packets", "bytes")
_PERCENTILES = {
    "latency_p50_us": "p50",
    "latency_p90_us": "p90",
    "latency_p99_us": "p99",
    "latency_p999_us": "p99.9",
}
_PERCENTILE_SHAPES = dict(zip(_PERCENTILES.values(), ("circle", "square", "triangle-up", "diamond"), strict=True))
#: Height of what is written above the line of the largest classic packet.
_LIMIT_LABEL_PX = 14


def comparison_chart(view: RunView) -> alt.LayerChart:
    """Return a run's comparison: for each scenario its main metric, as a dot with its confidence interval."""
    title = "A/A run: the same arm twice" if view.is_aa else "What BIG TCP changes, by scenario"
    compared = [comparison for comparison in view.headline_comparisons() if comparison.change is not None]
    if not compared:
        return empty(title, "This run compared nothing.")
    # What was stored without its thresholds is drawn without them.
    known = next((one for one in compared if one.level is not None and one.margin is not None), None)
    margin = known.margin * 100 if known else 0
    judged_by = (
        f"{known.level * 100:g} % confidence intervals; grey: a change within ±{margin:g} % does not matter"
        if known
        else ""
    )
    rows = [_comparison_row(comparison) for comparison in compared]
    verdicts = [
        verdict for verdict in VERDICT_COLOURS if any(row["verdict"] == verdict_word(verdict) for row in rows)
    ]
    words = [verdict_word(verdict) for verdict in verdicts]
    colours = alt.Scale(domain=words, range=[VERDICT_COLOURS[verdict] for verdict in verdicts])
    shapes = alt.Scale(domain=words, range=[VERDICT_SHAPES[verdict] for verdict in verdicts])
    named = "change, positive is better (%)"
    y, colour = scenario_axis(rows), alt.Color("verdict:N", title=None, scale=colours)
    base = chart_of(rows)
    layers = [
        chart_of([{"low": -margin, "high": margin}])
        .mark_rect(opacity=0.15, color=NEUTRAL_COLOUR)
        .encode(x=alt.X("low:Q", title=named), x2=alt.X2("high:Q")),
        zero_line("x"),
        base.mark_rule(strokeWidth=2).encode(
            x=alt.X("low:Q", title=named), x2=alt.X2("high:Q"), y=y, color=colour
        ),
        base.mark_point(size=90).encode(
            x=alt.X("value:Q", title=named, axis=SIGNED_ACROSS),
            y=y,
            color=colour,
            shape=alt.Shape("verdict:N", title=None, scale=shapes),
            tooltip=tooltip(
                scenario="scenario", metric="metric", off="off", on="on", text="on against off", verdict="verdict"
            ),
        ),
    ]
    return finished(
        layers,
        title=title,
        subtitle=[judged_by],
        description="Dots with intervals: "
        + "; ".join(f"{row['scenario']}, {row['metric']}: {row['text']}, {row['verdict']}" for row in rows)
        + ".",
        height=list_height(rows),
    )


def repetitions_chart(results: pd.DataFrame, scenario: str, metric: str) -> alt.LayerChart:
    """Return every repetition of one scenario and metric of a run, by block, with each block's median.

    ``results``: as ``Warehouse.results_frame`` returns it: block, arm, generation, scenario, repetition, metric,
    value. Within a block repetitions stand in the order in which they were measured.
    """
    known = METRICS[metric]
    title = f"{scenario}: {known.short_label}"
    if missing := missing_columns(results, _RESULT_COLUMNS):
        return empty(title, missing)
    found = results[(results["scenario"] == scenario) & (results["metric"] == metric)]
    if found.empty:
        return empty(title, "No repetition of it was measured.")
    divisor, unit = units.axis(known.unit, float(found["value"].abs().max()))
    rows, medians = [], []
    ordered = found.sort_values(["block", "generation", "repetition"])
    for (block, arm), part in ordered.groupby(["block", "arm"], sort=False):
        label = f"{block}: {arm}"
        median = float(part["value"].median())
        text = units.value_text(median, known.unit)
        medians += [{"block": label, "place": end, "value": median / divisor, "text": text} for end in (0, 1)]
        rows += [
            {
                "block": label,
                "arm": arm,
                "place": (position + 0.5) / len(part),
                "value": float(row["value"]) / divisor,
                "text": units.value_text(float(row["value"]), known.unit),
                "which": f"generation {row['generation']}, repetition {row['repetition']}",
            }
            for position, row in enumerate(part.to_dict("records"))
        ]
    x = alt.X("block:N", title="block", sort=None, axis=alt.Axis(labelAngle=0))
    place = alt.XOffset("place:Q", scale=alt.Scale(domain=[0, 1]))
    y = alt.Y("value:Q", title=f"{known.label} ({unit})", scale=alt.Scale(zero=False), axis=NUMBERS)
    layers = [
        chart_of(medians)
        .mark_line(strokeWidth=1.5, opacity=0.8)
        .encode(
            x=x, xOffset=place, y=y, detail=alt.Detail("block:N"), tooltip=tooltip(block="block", text="median")
        ),
        chart_of(rows)
        .mark_point(size=45)
        .encode(
            x=x,
            xOffset=place,
            y=y,
            color=arm_colour(),
            shape=arm_shape(),
            tooltip=tooltip(block="block", which="which", text="value"),
        ),
    ]
    told = ", ".join(f"{row['block']} {row['text']}" for row in medians[::2])
    return finished(
        layers,
        title=title,
        subtitle=["Each dot: a repetition, as measured; line: the block's median"],
        description=f"Dots: {len(rows)} repetitions of {known.label} of {scenario}. Medians by block: {told}.",
        height=HEIGHT,
    )


def packet_size_chart(proofs: Sequence[Proof]) -> alt.LayerChart:
    """Return the mean bytes per packet at sender and receiver in both arms; ``proofs`` are those of a RunView."""
    title = "Packet sizes: what BIG TCP really did"
    rows: list[dict[str, Any]] = [
        {"scenario": proof.scenario, "end": end, "arm": proof.arm, "value": value, "text": units.byte_count(value)}
        for proof in proofs
        for end, value in (("sender", proof.sender_b), ("receiver", proof.receiver_b))
        if value is not None
    ]
    if not rows:
        return empty(title, "No packet sizes were measured.")
    largest = max(CLASSIC_MAX_PACKET_BYTES, *(row["value"] for row in rows))
    limit = chart_of([{"value": CLASSIC_MAX_PACKET_BYTES, "text": f"{CLASSIC_MAX_PACKET_BYTES:,} B"}])
    x = alt.X(
        "value:Q",
        title="mean bytes per packet (B)",
        scale=alt.Scale(domain=[0, largest * 1.05], nice=False),
        axis=alt.Axis(format=",d", **ACROSS),
    )
    above = limit.mark_text(align="left", dx=4, dy=-4, baseline="bottom")
    layers = [
        limit.mark_rule(strokeDash=[5, 4]).encode(x=x),
        above.encode(x=x, y=alt.YValue(0), text=alt.Text("text:N")),
        chart_of(rows)
        .mark_point(size=70)
        .encode(
            x=x,
            y=scenario_axis(rows),
            yOffset=alt.YOffset("end:N", sort=["sender", "receiver"]),
            color=arm_colour(_LIMIT_LABEL_PX),
            shape=arm_shape(_LIMIT_LABEL_PX),
            tooltip=tooltip(scenario="scenario", arm="BIG TCP", end="measured at the", text="mean packet"),
        ),
    ]
    return finished(
        layers,
        title=title,
        subtitle=[
            "Upper mark of each pair: sender, lower: receiver. "
            f"No packet above {CLASSIC_MAX_PACKET_BYTES:,} B exists without BIG TCP"
        ],
        description="Dots: mean bytes per packet. "
        + "; ".join(f"{row['scenario']} {row['arm']} {row['end']}: {row['text']}" for row in rows)
        + ".",
        height=list_height(rows),
    )


#: End → in which direction the data passes its device.
_DATA_DIRECTIONS = {"sender": "sent", "receiver": "received"}


def packet_distribution_chart(sizes: pd.DataFrame) -> alt.LayerChart:
    """Return which share of a stream's bytes travelled in packets of which size, by arm, at both ends.

    ``sizes``: as ``Warehouse.packet_sizes_frame`` returns it. Only the direction of the data is drawn: the other
    one carries acknowledgements. Blocks of one arm are added up.
    """
    title = "Packet sizes: what BIG TCP really did"
    if missing := missing_columns(sizes, _SIZE_COLUMNS):
        return empty(title, missing)
    # A bin without a packet, or without a byte, has no share.
    data = sizes[
        sizes["end"].map(_DATA_DIRECTIONS).eq(sizes["direction"])
        & sizes["upper_bytes"].isin(PACKET_BOUNDS)
        & sizes["packets"].gt(0)
        & sizes["bytes"].gt(0)
    ]
    if data.empty:
        return empty(title, "No packets were captured.")
    rows, means = _shares_of_sizes(data)
    y, offset = scenario_axis(rows), alt.YOffset("arm:N", sort=list(ARMS))
    shares = room_for_words(100, 120)
    axis = alt.Axis(values=list(range(0, 101, 20)))
    x = alt.X("value:Q", title="share of the bytes (%)", stack="zero", scale=shares, axis=axis)
    places = sorted({row["place"] for row in rows})
    listed = [_size_text(place) for place in places]
    colours = alt.Scale(domain=listed, range=[SIZE_COLOURS[place] for place in places])
    layers = [
        chart_of(rows)
        .mark_bar()
        .encode(
            x=x,
            y=y,
            yOffset=offset,
            color=alt.Color("size:N", title=None, sort=listed, scale=colours, legend=_legend_of(4)),
            order=alt.Order("place:Q"),
            tooltip=tooltip(scenario="where", arm="BIG TCP", size="packets of", packets="packets", text="bytes"),
        ),
        chart_of(means)
        .mark_text(align="left", dx=5, baseline="middle")
        .encode(x=x, y=y, yOffset=offset, text=alt.Text("label:N")),
    ]
    return finished(
        layers,
        title=title,
        subtitle=[
            "A stream captured once per block, by IP length. "
            f"No packet above {CLASSIC_MAX_PACKET_BYTES:,} B exists without BIG TCP"
        ],
        description="Stacked bars: share of bytes by size of packet. "
        + "; ".join(f"{row['scenario']} {row['label']}" for row in means)
        + ".",
        height=list_height(rows),
    )


def _shares_of_sizes(data: pd.DataFrame) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a row for each size of packet that carried data, by way, end and arm, and the mean of each."""
    rows: list[dict[str, Any]] = []
    means: list[dict[str, Any]] = []
    sums = data.groupby(["path", "family", "end", "arm", "upper_bytes"])[["bytes", "packets"]].sum()
    known: dict[Any, dict[int, tuple[int, int]]] = {}
    for (*where_at, bound), size, packets in sums.itertuples(name=None):
        known.setdefault(tuple(where_at), {})[bound] = int(size), int(packets)
    for path, family, end, arm in itertools.product(PATHS, FAMILIES, _DATA_DIRECTIONS, ARMS):
        of = known.get((path, family, end, arm))
        if of is None:
            continue
        where = {"scenario": f"{Way(family, path)}, {end}", "arm": arm}
        total = sum(size for size, _ in of.values())
        mean = units.byte_count(total / sum(packets for _, packets in of.values()))
        means.append(where | {"value": 100, "label": f"{arm}: mean {mean}"})
        rows += [
            where
            | {
                "size": _size_text(place),
                "place": place,
                "value": of[bound][0] / total * 100,
                "text": units.byte_count(of[bound][0]),
                "packets": f"{of[bound][1]:,}",
            }
            for place, bound in enumerate(PACKET_BOUNDS)
            if bound in of
        ]
    return rows, means


def _size_text(place: int) -> str:
    """Return what the packets up to one bound, and above the bound before it, are called."""
    return f"≤ {PACKET_BOUNDS[place]:,} B"


def cpu_chart(results: pd.DataFrame, end: End = "sender") -> alt.LayerChart:
    """Return CPU seconds per gigabyte of one node by arm, split by the kind of CPU time.

    ``results``: as ``Warehouse.results_frame`` returns it. ``end`` is the sending or the receiving node. Bars are
    means over the repetitions, for only means of parts add up to the mean of the whole.
    """
    title = f"CPU seconds per gigabyte, {'sending' if end == 'sender' else 'receiving'} node"
    if missing := missing_columns(results, _RESULT_COLUMNS):
        return empty(title, missing)
    parts, totals = _cpu_parts(results, end)
    if not totals:
        return empty(title, "No CPU time was measured.")
    kinds = list(dict.fromkeys(str(row["kind"]) for row in parts))
    y, offset = scenario_axis(totals), alt.YOffset("arm:N", sort=list(ARMS))
    x = alt.X(
        "value:Q",
        title="CPU seconds per gigabyte (s/GB)",
        stack="zero",
        scale=room_for_words(max(row["value"] for row in totals), 100),
        axis=alt.Axis(format=",~f", **ACROSS),
    )
    colours = alt.Scale(domain=kinds, range=list(KIND_COLOURS[: len(kinds)]))
    layers = [
        chart_of(parts)
        .mark_bar()
        .encode(
            x=x,
            y=y,
            yOffset=offset,
            color=alt.Color("kind:N", title=None, sort=kinds, scale=colours, legend=_legend_of(len(kinds))),
            order=alt.Order("place:Q"),
            tooltip=tooltip(scenario="scenario", arm="BIG TCP", kind="kind", text="mean"),
        ),
        chart_of(totals)
        .mark_text(align="left", dx=5, baseline="middle")
        .encode(x=x, y=y, yOffset=offset, text=alt.Text("label:N")),
    ]
    return finished(
        layers,
        title=title,
        subtitle=[
            "Means over the repetitions, by kind of CPU time; what a node used before the block is subtracted"
        ],
        description=f"Stacked bars: {title}. "
        + "; ".join(f"{row['scenario']} {row['label']}" for row in totals)
        + ".",
        height=list_height(totals),
    )


def latency_chart(view: RunView) -> alt.LayerChart:
    """Return p50, p90 and p99 of the latency of every request/response scenario of a run, by arm."""
    title = "Latency of a request and its response"
    # The two sides of an A/A run are blocks of one arm.
    arms = view.order[:1] * 2 if view.is_aa else ARMS
    found = [
        (comparison.scenario, _PERCENTILES[comparison.metric], arm, value)
        for comparison in view.comparisons
        if comparison.metric in _PERCENTILES
        for arm, value in zip(arms, (comparison.off_median, comparison.on_median), strict=True)
        if value is not None
    ]
    divisor, unit = units.axis("us", max((value for _, _, _, value in found), default=0.0))
    # Of nothing there is no logarithm, nor of what is nothing in this unit; nor does a request take none.
    found = [one for one in found if one[-1] / divisor > 0]
    if not found:
        return empty(title, "This run measured no latency.")
    rows: list[dict[str, Any]] = [
        {
            "scenario": scenario,
            "percentile": percentile,
            "arm": arm,
            "value": value / divisor,
            "text": units.microseconds(value),
        }
        for scenario, percentile, arm, value in found
    ]
    base = chart_of(rows)
    y, offset = scenario_axis(rows), alt.YOffset("arm:N", sort=list(ARMS))
    x = log_axis([row["value"] for row in rows], f"latency ({unit})")
    measured = {row["percentile"] for row in rows}
    known = {name: shape for name, shape in _PERCENTILE_SHAPES.items() if name in measured}
    shapes = alt.Scale(domain=list(known), range=list(known.values()))
    layers = [
        base.mark_line(strokeWidth=2, opacity=0.6).encode(
            x=x, y=y, yOffset=offset, color=arm_colour(), detail=[alt.Detail("scenario:N"), alt.Detail("arm:N")]
        ),
        base.mark_point(size=80).encode(
            x=x,
            y=y,
            yOffset=offset,
            color=arm_colour(),
            # Beside the arms there is no room for four of them on a narrow page.
            shape=alt.Shape("percentile:N", title=None, scale=shapes, legend=alt.Legend(orient="bottom")),
            tooltip=tooltip(scenario="scenario", arm="BIG TCP", percentile="percentile", text="latency"),
        ),
    ]
    return finished(
        layers,
        title=title,
        subtitle=["Medians over fresh pod pairs; the axis is logarithmic"],
        description="Dots: latency percentiles. "
        + "; ".join(f"{row['scenario']} {row['arm']} {row['percentile']}: {row['text']}" for row in rows)
        + ".",
        height=list_height(rows),
    )


def _legend_of(columns: int) -> alt.Legend:
    """Return a legend of so many columns, or of two where the chart is narrow: what has no room is cut off."""
    return alt.Legend(columns=alt.ExprRef(expr=f"width < 340 ? 2 : {columns}"))


def png(chart: alt.LayerChart, theme: Theme = "light", width_px: int = 1200, scale: float = 2.0) -> bytes:
    """Return ``chart`` as a PNG of ``width_px`` pixels, drawn offline; with ``scale`` its text grows."""
    import vl_convert

    spec = specification(chart)
    width = round(width_px / scale)
    spec |= {"width": width, "autosize": {"type": "fit-x", "contains": "padding"}}
    _fold_titles(spec, width)
    picture: bytes = vl_convert.vegalite_to_png(spec, config=config_of(theme), scale=scale, show_warnings=False)
    return picture


def _comparison_row(comparison: Comparison) -> dict[str, Any]:
    metric = METRICS[comparison.metric]
    low, high = comparison.ci_low, comparison.ci_high
    percent = benefit_percent(metric, comparison.change, low, high)
    return {
        "scenario": comparison.scenario,
        "metric": metric.label,
        # Without an interval the line is as short as the dot.
        "low": percent["value"],
        "high": percent["value"],
        **percent,
        "off": units.value_text(comparison.off_median, metric.unit),
        "on": units.value_text(comparison.on_median, metric.unit),
        "text": units.change_with_interval(comparison.change, low, high),
        "verdict": verdict_word(comparison.verdict),
    }


def _cpu_parts(results: pd.DataFrame, end: End) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the mean CPU seconds per gigabyte by scenario, arm and kind, and by scenario and arm.

    What a run did not tell apart is one kind.
    """
    names = {f"cpu_s_per_gb_{end}": "total"} | {f"{kind}_s_per_gb_{end}": kind for kind in CPU_PARTS}
    found = results[results["metric"].isin(names) & results["scenario"].isin(SCENARIOS)]
    keys = ["scenario", "arm", "block", "generation", "repetition"]
    wide = found.pivot_table(index=keys, columns="metric", values="value").rename(columns=names).reset_index()
    parts: list[dict[str, Any]] = []
    totals: list[dict[str, Any]] = []
    if "total" not in wide:
        return parts, totals
    groups = dict(list(wide.groupby(["scenario", "arm"])))
    for scenario, arm in itertools.product(SCENARIOS, ARMS):
        of = groups.get((scenario, arm))
        if of is None or (total := float(of["total"].mean())) != total:
            continue
        row = {"scenario": scenario, "arm": arm}
        label = f"{arm}: {units.value_text(total, 's/GB')}"
        totals.append(row | {"value": total, "label": label})
        known = [kind for kind in CPU_PARTS if kind in of and of[kind].notna().all()]
        # Bars have no room for less than nothing, which noise makes of a kind that hardly runs.
        kinds = {kind: max(float(of[kind].mean()), 0.0) for kind in known}
        kinds["interrupts and stolen" if known else "all kinds"] = max(total - sum(kinds.values()), 0.0)
        parts += [
            row | {"kind": kind, "place": place, "value": value, "text": units.value_text(value, "s/GB")}
            for place, (kind, value) in enumerate(kinds.items())
        ]
    return parts, totals


def _fold_titles(spec: dict[str, Any], width: int) -> None:
    """Break title and subtitle of ``spec`` into lines that fit into ``width``: Vega would cut them."""
    import textwrap

    title = spec.get("title", {})
    # Mean widths of a character of 14 and of 12 pixels.
    for name, per_character in (("text", 7.4), ("subtitle", 5.8)):
        if lines := title.get(name):
            folded = [lines] if isinstance(lines, str) else lines
            title[name] = [part for line in folded for part in textwrap.wrap(line, int(width / per_character))]
