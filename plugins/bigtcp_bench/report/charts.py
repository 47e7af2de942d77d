"""Every chart once, as an Altair specification: interactive in the browser, a PNG for Slack.

Pure functions of frames and views; none asks the warehouse. ``vega.figure(chart)`` is its HTML element,
``png(chart)`` its picture, ``chart.to_dict()`` its specification. Each chart carries its title, its units and a
sentence for screen readers (``description``). What cannot be drawn (an empty frame, a missing column) becomes a
chart that says so.

Arms have the same two colours everywhere, and another shape each. Values are in the unit that suits them (Gbit/s),
and tooltips say them as the tables do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import altair as alt

from bigtcp_bench.metrics import METRICS, Metric
from bigtcp_bench.plan import ARMS, CLASSIC_MAX_PACKET_BYTES, SCENARIOS
from bigtcp_bench.report import units
from bigtcp_bench.report.chart_style import (
    ARM_COLOURS,
    ARM_SHAPES,
    INCIDENT_COLOUR,
    KIND_COLOURS,
    VERDICT_COLOURS,
    VERDICT_SHAPES,
    Theme,
    config_of,
)

if TYPE_CHECKING:
    import pandas as pd

    from bigtcp_bench.analysis.compare import Comparison
    from bigtcp_bench.report.view import Proof, RunView

End = Literal["sender", "receiver"]

#: Above this many points a trend is drawn by weeks, months, ... : a browser draws it in well under a second.
MAX_POINTS = 1500
#: The spans that nights are put together to, in days, each with its name.
_SPANS = ((7, "weeks"), (28, "spans of four weeks"), (91, "quarters of a year"), (364, "years of 52 weeks"))

#: Height of a chart whose x axis is time, of a row of a chart whose y axis is a list, in pixels.
_HEIGHT = 280
_ROW = 34

#: Fraction of the width that two written marks must be apart.
_MARK_GAP = 0.03

_DAY_MS = 86_400_000


def trend_chart(
    trend: pd.DataFrame,
    marks: pd.DataFrame | None = None,
    incidents: pd.DataFrame | Iterable[Mapping[str, Any]] | None = None,
) -> alt.LayerChart:
    """Return what both arms reached night by night, for one scenario and metric.

    ``trend``: one row per night, as ``warehouse.pages.trend_frame`` and ``Warehouse.series_frame`` return it:
    started_at, scenario, metric, off_median, on_median; optional verdict, ci_low and ci_high (of the change),
    cilium_version, client_kernel, server_kernel. Nights whose verdict is invalid are left out and counted.

    The band about each arm is half as wide as the confidence interval of the change: where the bands of the arms
    do not touch, the night's change is surely not zero.

    ``marks``: what changed when, with the columns started_at, what and text; default ``changes_of(trend)``.
    ``incidents``: those to be shaded, with id or incident, state, changed_on and closed_on, as
    ``warehouse.pages.incidents`` and the trend query ``incident_history`` return them.
    """
    series = _series(trend, "Nightly trend")
    if isinstance(series, alt.LayerChart):
        return series
    metric, scenario, nights, left_out = series
    rows, span = _trend_rows(nights, metric)
    divisor, unit = units.axis(metric.unit, max(abs(row["value"]) for row in rows))
    for row in rows:
        row |= {name: row[name] / divisor for name in ("value", "low", "high") if row.get(name) is not None}
    has_bands = any(row.get("low") is not None for row in rows)
    explained = (
        f"{span}: median; band: lowest to highest night"
        if span
        else ("Where the bands do not touch, the change is surely not zero" if has_bands else "")
    )
    base = _chart(rows)
    named = f"{metric.label} ({unit})"
    y = alt.Y("value:Q", title=named, scale=alt.Scale(zero=False), axis=alt.Axis(format="~g"))
    tooltip = _tooltip(night="span" if span else "night", arm="arm", text="value", change="on against off")
    layers: list[alt.Chart] = []
    if has_bands:
        layers.append(
            base.mark_area(opacity=0.22, interpolate="linear").encode(
                x=_time(), y=alt.Y("low:Q", title=named), y2="high:Q", color=_arm()
            )
        )
    layers += [
        base.mark_line(strokeWidth=1.2, opacity=0.7).encode(x=_time(), y=y, color=_arm()),
        base.mark_point(size=18).encode(x=_time(), y=y, color=_arm(), shape=_arm_shape(), tooltip=tooltip),
    ]
    begin, end = (choose(row["at"] for row in rows) for choose in (min, max))
    shaded, marked = (
        _incident_rows(incidents, begin, end),
        _mark_rows(changes_of(trend) if marks is None else marks, begin, end),
    )
    newest = {row["arm"]: row["text"] for row in rows}
    return _finished(
        [*_incident_layers(shaded), *layers, *_mark_layers(marked)],
        title=f"{metric.label.capitalize()} of {scenario}, night by night",
        subtitle=[explained, _left_out(left_out)],
        description=(
            f"Line chart: {metric.label} of {scenario} over {len(nights)} nights, from {_day(begin)} to "
            f"{_day(end)}, with BIG TCP off and on. Last: off {newest.get('off', units.MISSING)}, "
            f"on {newest.get('on', units.MISSING)}. {_told(shaded, marked)}"
        ),
        height=_HEIGHT,
    )


def benefit_chart(
    benefit: pd.DataFrame,
    marks: pd.DataFrame | None = None,
    incidents: pd.DataFrame | Iterable[Mapping[str, Any]] | None = None,
) -> alt.LayerChart:
    """Return what BIG TCP gains over time, in per cent, positive when better in the metric's own direction.

    ``benefit``: the frame of ``trend_chart`` with the columns change, ci_low and ci_high. ``marks`` and
    ``incidents`` as there.
    """
    series = _series(benefit, "Benefit of BIG TCP", "change")
    if isinstance(series, alt.LayerChart):
        return series
    metric, scenario, nights, left_out = series
    rows, span = _benefit_rows(nights, metric)
    base = _chart(rows)
    named = "better with BIG TCP (%)"
    y = alt.Y("value:Q", title=named, axis=alt.Axis(format="+~g"))
    has_bands = any(row.get("low") is not None for row in rows)
    level = f"{span}: median; band: lowest to highest night" if span else "band: confidence interval"
    colour = ARM_COLOURS["on"]
    layers = [_zero_line()]
    if has_bands:
        layers.append(
            base.mark_area(opacity=0.22, color=colour).encode(
                x=_time(), y=alt.Y("low:Q", title=named), y2="high:Q"
            )
        )
    layers += [
        base.mark_line(strokeWidth=1.2, opacity=0.7, color=colour).encode(x=_time(), y=y),
        base.mark_point(size=18, color=colour).encode(
            x=_time(), y=y, tooltip=_tooltip(night="span" if span else "night", text="on against off")
        ),
    ]
    begin, end = (choose(row["at"] for row in rows) for choose in (min, max))
    shaded, marked = (
        _incident_rows(incidents, begin, end),
        _mark_rows(changes_of(benefit) if marks is None else marks, begin, end),
    )
    return _finished(
        [*_incident_layers(shaded), *layers, *_mark_layers(marked)],
        title=f"Benefit of BIG TCP: {metric.label} of {scenario}",
        subtitle=[level if has_bands else "", _left_out(left_out)],
        description=(
            f"Line chart: how much better {metric.label} of {scenario} is with BIG TCP, over {len(nights)} "
            f"nights, from {_day(begin)} to {_day(end)}. Last: {rows[-1]['text']}. {_told(shaded, marked)}"
        ),
        height=_HEIGHT,
    )


def comparison_chart(view: RunView) -> alt.LayerChart:
    """Return a run's comparison: for each scenario its main metric, as a dot with its confidence interval."""
    title = "A/A run: the same arm twice" if view.is_aa else "BIG TCP on against off"
    rows = [row for comparison in view.headline_comparisons() if (row := _comparison_row(comparison)) is not None]
    if not rows:
        return _empty(title, "This run compared nothing.")
    first = view.headline_comparisons()[0]
    base = _chart(rows)
    y = alt.Y("scenario:N", title=None, sort=[row["scenario"] for row in rows], axis=alt.Axis(labelLimit=140))
    named = "change, positive is better (%)"
    x = alt.X("value:Q", title=named, axis=alt.Axis(format="+~g"))
    verdicts = [verdict for verdict in VERDICT_COLOURS if any(row["verdict"] == verdict for row in rows)]
    colour = alt.Color(
        "verdict:N",
        title=None,
        scale=alt.Scale(domain=verdicts, range=[VERDICT_COLOURS[verdict] for verdict in verdicts]),
    )
    shape = alt.Shape(
        "verdict:N",
        title=None,
        scale=alt.Scale(domain=verdicts, range=[VERDICT_SHAPES[verdict] for verdict in verdicts]),
    )
    margin = first.margin * 100
    layers = [
        _chart([{"low": -margin, "high": margin}])
        .mark_rect(opacity=0.12, color="#999999")
        .encode(x="low:Q", x2="high:Q"),
        _zero_line("x"),
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=named), x2="high:Q", y=y, color=colour),
        base.mark_point(size=90).encode(
            x=x,
            y=y,
            color=colour,
            shape=shape,
            tooltip=_tooltip(
                scenario="scenario", metric="metric", off="off", on="on", text="on against off", verdict="verdict"
            ),
        ),
    ]
    return _finished(
        layers,
        title=title,
        subtitle=[
            f"{first.level * 100:g} % confidence intervals; grey: differences within ±{margin:g} % do not matter"
        ],
        description="Dots with intervals: "
        + "; ".join(f"{row['scenario']}, {row['metric']}: {row['text']}, {row['verdict']}" for row in rows)
        + ".",
        height=alt.Step(_ROW),
    )


def repetitions_chart(results: pd.DataFrame, scenario: str, metric: str) -> alt.LayerChart:
    """Return every repetition of one scenario and metric of a run, by block, with each block's median.

    ``results``: as ``Warehouse.results_frame`` returns it: block, arm, generation, scenario, repetition, metric,
    value. Within a block repetitions stand in the order in which they were measured.
    """
    known = METRICS[metric]
    title = f"Repetitions: {known.label} of {scenario}"
    needed = ("block", "arm", "generation", "scenario", "repetition", "metric", "value")
    if (missing := _missing(results, needed)) is not None:
        return _empty(title, missing)
    found = results[(results["scenario"] == scenario) & (results["metric"] == metric)]
    if found.empty:
        return _empty(title, "No repetition of it was measured.")
    found = found.sort_values(["block", "generation", "repetition"])
    divisor, unit = units.axis(known.unit, float(found["value"].abs().max()))
    rows, medians = [], []
    for (block, arm), part in found.groupby(["block", "arm"], sort=False):
        label = f"{block}: {arm}"
        medians.append({"block": label, "arm": arm, "value": float(part["value"].median()) / divisor})
        medians[-1]["text"] = units.value_text(float(part["value"].median()), known.unit)
        for position, row in enumerate(part.to_dict("records")):
            rows.append(
                {
                    "block": label,
                    "arm": arm,
                    "place": (position + 0.5) / len(part),
                    "value": float(row["value"]) / divisor,
                    "text": units.value_text(float(row["value"]), known.unit),
                    "which": f"generation {row['generation']}, repetition {row['repetition']}",
                }
            )
    x = alt.X("block:N", title="block", sort=None, axis=alt.Axis(labelAngle=0))
    y = alt.Y("value:Q", title=f"{known.label} ({unit})", scale=alt.Scale(zero=False), axis=alt.Axis(format="~g"))
    layers = [
        _chart(medians)
        .mark_tick(thickness=2, orient="horizontal", opacity=0.8)
        .encode(x=x, y=y, tooltip=_tooltip(block="block", text="median")),
        _chart(rows)
        .mark_point(size=45, opacity=0.85)
        .encode(
            x=x,
            xOffset=alt.XOffset("place:Q", scale=alt.Scale(domain=[0, 1])),
            y=y,
            color=_arm(),
            shape=_arm_shape(),
            tooltip=_tooltip(block="block", which="which", text="value"),
        ),
    ]
    return _finished(
        layers,
        title=title,
        subtitle=["Each dot is one repetition, in the order of measuring; the line is the block's median"],
        description=f"Dots: {len(rows)} repetitions of {known.label} of {scenario}. Medians by block: "
        + ", ".join(f"{row['block']} {row['text']}" for row in medians)
        + ".",
        height=_HEIGHT,
    )


def packet_size_chart(proofs: Sequence[Proof]) -> alt.LayerChart:
    """Return the mean bytes per packet at sender and receiver in both arms; ``proofs`` are those of a RunView."""
    title = "Packet sizes: what BIG TCP really did"
    rows = [
        {
            "scenario": proof.scenario,
            "end": end,
            "arm": proof.arm,
            "value": value,
            "text": units.byte_count(value),
        }
        for proof in proofs
        for end, value in (("sender", proof.sender_b), ("receiver", proof.receiver_b))
        if value is not None
    ]
    if not rows:
        return _empty(title, "No packet sizes were measured.")
    scenarios = list(dict.fromkeys(row["scenario"] for row in rows))
    limit = [{"value": CLASSIC_MAX_PACKET_BYTES, "text": f"{CLASSIC_MAX_PACKET_BYTES:,} B"}]
    x = alt.X(
        "value:Q", title="mean bytes per packet (B)", scale=alt.Scale(domainMin=0), axis=alt.Axis(format=",d")
    )
    layers = [
        _chart(limit).mark_rule(strokeDash=[5, 4]).encode(x="value:Q"),
        _chart(limit)
        .mark_text(align="left", dx=4, dy=-6, baseline="bottom")
        .encode(x="value:Q", y=alt.value(0), text="text:N"),
        _chart(rows)
        .mark_point(size=70)
        .encode(
            x=x,
            y=alt.Y("scenario:N", title=None, sort=scenarios, axis=alt.Axis(labelLimit=140)),
            yOffset=alt.YOffset("end:N", sort=["sender", "receiver"]),
            color=_arm(),
            shape=_arm_shape(),
            tooltip=_tooltip(scenario="scenario", arm="arm", end="measured at the", text="mean packet"),
        ),
    ]
    return _finished(
        layers,
        title=title,
        subtitle=[
            f"Upper dot: sender, lower dot: receiver. Above {CLASSIC_MAX_PACKET_BYTES:,} B only BIG TCP can be"
        ],
        description="Dots: mean bytes per packet. "
        + "; ".join(f"{row['scenario']} {row['arm']} {row['end']}: {row['text']}" for row in rows)
        + ".",
        height=alt.Step(_ROW // 2),
    )


def cpu_chart(results: pd.DataFrame, end: End = "sender") -> alt.LayerChart:
    """Return CPU seconds per gigabyte of one node by arm, split by the kind of CPU time.

    ``results``: as ``Warehouse.results_frame`` returns it. ``end`` is the sending or the receiving node. Bars are
    means over the repetitions, for only means of parts add up to the mean of the whole.
    """
    title = f"CPU seconds per gigabyte, {'sending' if end == 'sender' else 'receiving'} node"
    if (
        missing := _missing(results, ("block", "arm", "generation", "scenario", "repetition", "metric", "value"))
    ) is not None:
        return _empty(title, missing)
    parts = _cpu_parts(results, end)
    if not parts:
        return _empty(title, "No CPU time was measured.")
    scenarios = list(dict.fromkeys(row["scenario"] for row in parts))
    kinds = list(dict.fromkeys(row["kind"] for row in parts))
    totals = {(row["scenario"], row["arm"]): row["total"] for row in parts}
    sums = [
        {"scenario": scenario, "arm": arm, "value": total, "text": f"{arm}: {units.value_text(total, 's/GB')}"}
        for (scenario, arm), total in totals.items()
    ]
    y = alt.Y("scenario:N", title=None, sort=scenarios, axis=alt.Axis(labelLimit=140))
    offset = alt.YOffset("arm:N", sort=list(ARMS))
    largest = max(totals.values())
    x = alt.X(
        "value:Q",
        title="CPU seconds per gigabyte (s/GB)",
        stack="zero",
        scale=alt.Scale(domain=[0, largest * 1.3]),
    )
    layers = [
        _chart(parts)
        .mark_bar()
        .encode(
            x=x,
            y=y,
            yOffset=offset,
            color=alt.Color(
                "kind:N",
                title=None,
                sort=kinds,
                scale=alt.Scale(domain=kinds, range=list(KIND_COLOURS[: len(kinds)])),
            ),
            order=alt.Order("place:Q"),
            tooltip=_tooltip(scenario="scenario", arm="arm", kind="kind", text="mean"),
        ),
        _chart(sums)
        .mark_text(align="left", dx=5, baseline="middle")
        .encode(x=alt.X("value:Q"), y=y, yOffset=offset, text="text:N"),
    ]
    return _finished(
        layers,
        title=title,
        subtitle=["Means over the repetitions; upper bar: BIG TCP off, lower bar: on"],
        description=f"Stacked bars: {title}. "
        + "; ".join(f"{row['scenario']} {row['text']}" for row in sums)
        + ".",
        height=alt.Step(_ROW // 2),
    )


def latency_chart(view: RunView) -> alt.LayerChart:
    """Return p50, p90 and p99 of the latency of every request/response scenario of a run, by arm."""
    title = "Latency of a request and its response"
    names = {"latency_p50_us": "p50", "latency_p90_us": "p90", "latency_p99_us": "p99"}
    found = [
        (comparison.scenario, names[comparison.metric], arm, value)
        for comparison in view.comparisons
        if comparison.metric in names
        for arm, value in (("off", comparison.off_median), ("on", comparison.on_median))
        if value is not None and math.isfinite(value)
    ]
    if not found:
        return _empty(title, "This run measured no latency.")
    divisor, unit = units.axis("us", max(value for *_, value in found))
    rows = [
        {
            "scenario": scenario,
            "percentile": percentile,
            "arm": arm,
            "value": value / divisor,
            "text": units.microseconds(value),
        }
        for scenario, percentile, arm, value in found
    ]
    scenarios = list(dict.fromkeys(row["scenario"] for row in rows))
    y = alt.Y("scenario:N", title=None, sort=scenarios, axis=alt.Axis(labelLimit=140))
    offset = alt.YOffset("arm:N", sort=list(ARMS))
    x = alt.X("value:Q", title=f"latency ({unit})", scale=alt.Scale(domainMin=0), axis=alt.Axis(format="~g"))
    base = _chart(rows)
    layers = [
        base.mark_line(strokeWidth=2, opacity=0.6).encode(x=x, y=y, yOffset=offset, color=_arm(), detail="arm:N"),
        base.mark_point(size=80).encode(
            x=x,
            y=y,
            yOffset=offset,
            color=_arm(),
            shape=alt.Shape(
                "percentile:N",
                title=None,
                scale=alt.Scale(domain=["p50", "p90", "p99"], range=["circle", "square", "triangle-up"]),
            ),
            tooltip=_tooltip(scenario="scenario", arm="arm", percentile="percentile", text="latency"),
        ),
    ]
    return _finished(
        layers,
        title=title,
        subtitle=["Medians over the repetitions of the percentiles of each"],
        description="Dots: latency percentiles. "
        + "; ".join(f"{row['scenario']} {row['arm']} {row['percentile']}: {row['text']}" for row in rows)
        + ".",
        height=alt.Step(_ROW),
    )


def changes_of(trend: pd.DataFrame) -> pd.DataFrame:
    """Return when the Cilium version and the kernels changed in the frame of a trend: started_at, what, text."""
    import pandas as pd

    columns = {
        "cilium_version": ("Cilium", "Cilium {}"),
        "client_kernel": ("kernel", "kernel {} (client)"),
        "server_kernel": ("kernel", "kernel {} (server)"),
    }
    found: dict[tuple[Any, str], list[str]] = {}
    ordered = trend.sort_values("started_at") if "started_at" in trend else trend.iloc[:0]
    for name, (what, text) in columns.items():
        if name not in ordered:
            continue
        known = ordered.dropna(subset=[name])
        changed = known[name].ne(known[name].shift()) & known[name].shift().notna()
        for moment, value in zip(known.loc[changed, "started_at"], known.loc[changed, name], strict=True):
            # "1.18.3 (v1.18.3-dd29cc335e)": the first word is the version.
            found.setdefault((moment, what), []).append(text.format(str(value).partition(" ")[0]))
    rows = []
    for (moment, what), texts in found.items():
        kernels = {text.partition(" (")[0] for text in texts}
        rows.append((moment, what, kernels.pop() if len(texts) == 2 and len(kernels) == 1 else ", ".join(texts)))
    return pd.DataFrame(rows, columns=["started_at", "what", "text"]).sort_values("started_at", ignore_index=True)


def png(chart: alt.LayerChart, theme: Theme = "light", width_px: int = 1200, scale: float = 2.0) -> bytes:
    """Return ``chart`` as a PNG of ``width_px`` pixels, drawn offline; with ``scale`` its text grows."""
    import vl_convert

    spec = chart.to_dict()
    width = round(width_px / scale)
    spec["width"] = width
    _fold_titles(spec, width)
    picture: bytes = vl_convert.vegalite_to_png(spec, config=config_of(theme), scale=scale, show_warnings=False)
    return picture


# Rows of trends


_Series = tuple[Metric, str, "pd.DataFrame", int]


def _series(trend: pd.DataFrame, title: str, *more: str) -> _Series | alt.LayerChart:
    """Return metric, scenario, the usable nights and how many were left out, or the chart that says why not."""
    needed = ("started_at", "scenario", "metric", "off_median", "on_median", *more)
    if (missing := _missing(trend, needed)) is not None:
        return _empty(title, missing)
    if trend.empty:
        return _empty(title, "No night has been measured in this period.")
    kinds = trend[["scenario", "metric"]].drop_duplicates()
    if len(kinds) > 1:
        return _empty(title, "Choose one scenario and one metric.")
    scenario, metric = (str(value) for value in kinds.iloc[0])
    usable = trend.dropna(subset=["off_median", "on_median", *more])
    if "verdict" in usable:
        usable = usable[usable["verdict"] != "invalid"]
    if usable.empty:
        return _empty(title, "No night of this period could be judged.")
    return METRICS[metric], scenario, usable.sort_values("started_at"), len(trend) - len(usable)


def _trend_rows(nights: pd.DataFrame, metric: Metric) -> tuple[list[dict[str, Any]], str]:
    """Return one row per night and arm (or per span and arm, with the name of the spans), oldest first."""
    chosen = _span(len(nights) * len(ARMS), nights)
    rows: list[dict[str, Any]] = []
    if chosen is not None:
        for at, text, part in _spans(nights, chosen[0]):
            for arm in ARMS:
                values = part[f"{arm}_median"]
                middle = float(values.median())
                ends = [float(values.min()), float(values.max())]
                rows.append(
                    {
                        "at": at,
                        "night": text,
                        "arm": arm,
                        "value": middle,
                        "low": ends[0],
                        "high": ends[1],
                        "text": f"{units.value_text(middle, metric.unit)} "
                        f"({' to '.join(units.value_text(end, metric.unit) for end in ends)})",
                        "change": units.change_text(float(part["change"].median())) if "change" in part else "",
                    }
                )
        return rows, chosen[1]
    for row in nights.to_dict("records"):
        change, low, high = (_number(row.get(name)) for name in ("change", "ci_low", "ci_high"))
        for arm in ARMS:
            value = float(row[f"{arm}_median"])
            band = _band(metric, value, float(row["off_median"]), low, high)
            rows.append(
                {
                    "at": _ms(row["started_at"]),
                    "night": _day(_ms(row["started_at"])),
                    "arm": arm,
                    "value": value,
                    **({"low": band[0], "high": band[1]} if band else {}),
                    "text": units.value_text(value, metric.unit),
                    "change": units.change_with_interval(change, low, high),
                }
            )
    return rows, ""


def _benefit_rows(nights: pd.DataFrame, metric: Metric) -> tuple[list[dict[str, Any]], str]:
    chosen = _span(len(nights), nights)
    sign = -100.0 if metric.better == "lower" else 100.0
    rows = []
    if chosen is not None:
        for at, text, part in _spans(nights, chosen[0]):
            change = part["change"]
            ends = sorted((sign * float(change.min()), sign * float(change.max())))
            rows.append(
                {
                    "at": at,
                    "night": text,
                    "value": sign * float(change.median()),
                    "low": ends[0],
                    "high": ends[1],
                    "text": f"{units.change_text(float(change.median()))} "
                    f"({units.change_text(float(change.min()))} to {units.change_text(float(change.max()))})",
                }
            )
        return rows, chosen[1]
    for row in nights.to_dict("records"):
        change, low, high = (_number(row.get(name)) for name in ("change", "ci_low", "ci_high"))
        if change is None:
            continue
        interval = sorted((sign * low, sign * high)) if low is not None and high is not None else None
        rows.append(
            {
                "at": _ms(row["started_at"]),
                "night": _day(_ms(row["started_at"])),
                "value": sign * change,
                **({"low": interval[0], "high": interval[1]} if interval else {}),
                "text": units.change_with_interval(change, low, high),
            }
        )
    return rows, ""


def _span(points: int, nights: pd.DataFrame) -> tuple[int, str] | None:
    """Return the shortest span, and its name, that brings ``points`` below MAX_POINTS; None: every night."""
    if points <= MAX_POINTS:
        return None
    days = (_ms(nights["started_at"].iloc[-1]) - _ms(nights["started_at"].iloc[0])) / _DAY_MS
    per_night = points / len(nights)
    return next((span for span in _SPANS if (days / span[0] + 1) * per_night <= MAX_POINTS), _SPANS[-1])


def _spans(nights: pd.DataFrame, days: int) -> Iterable[tuple[int, str, pd.DataFrame]]:
    """Yield for each span of ``days`` with a night in it: its middle, its first and last day, and its nights."""
    length = days * _DAY_MS
    # Monday, 1970-01-05.
    epoch = 4 * _DAY_MS
    numbers = [(_ms(moment) - epoch) // length for moment in nights["started_at"]]
    for number, part in nights.groupby(numbers, sort=True):
        begin = int(str(number)) * length + epoch
        yield begin + length // 2, f"{_day(begin)} to {_day(begin + length - _DAY_MS)} ({len(part)} nights)", part


def _band(
    metric: Metric, value: float, off: float, low: float | None, high: float | None
) -> tuple[float, float] | None:
    """Return the band about one arm whose half width is half of the change's: two bands that touch make one."""
    if low is None or high is None:
        return None
    if metric.scale == "linear":
        quarter = (high - low) * abs(off) / 4
        return value - quarter, value + quarter
    if low <= -1:
        return None
    factor = math.exp((math.log1p(high) - math.log1p(low)) / 4)
    return value / factor, value * factor


def _comparison_row(comparison: Comparison) -> dict[str, Any] | None:
    if comparison.change is None:
        return None
    metric = METRICS[comparison.metric]
    sign = -100.0 if metric.better == "lower" else 100.0
    low, high = comparison.ci_low, comparison.ci_high
    ends = (
        sorted((sign * low, sign * high))
        if low is not None and high is not None
        else [sign * comparison.change] * 2
    )
    return {
        "scenario": comparison.scenario,
        "metric": metric.label,
        "value": sign * comparison.change,
        "low": ends[0],
        "high": ends[1],
        "off": units.value_text(comparison.off_median, metric.unit),
        "on": units.value_text(comparison.on_median, metric.unit),
        "text": units.change_with_interval(comparison.change, low, high),
        "verdict": comparison.verdict,
    }


def _cpu_parts(results: pd.DataFrame, end: End) -> list[dict[str, Any]]:
    """Return the mean CPU seconds per gigabyte of each scenario, arm and kind of CPU time."""
    names = {f"cpu_s_per_gb_{end}": "total", f"softirq_share_{end}": "share"}
    found = results[results["metric"].isin(names)]
    if found.empty:
        return []
    keys = ["scenario", "arm", "block", "generation", "repetition"]
    wide = found.pivot_table(index=keys, columns="metric", values="value").rename(columns=names).reset_index()
    if "total" not in wide:
        return []
    wide["softirq"] = wide["total"] * wide["share"] if "share" in wide else 0.0
    rows = []
    order = [name for name in SCENARIOS if name in set(wide["scenario"])]
    for scenario in order:
        for arm in ARMS:
            part = wide[(wide["scenario"] == scenario) & (wide["arm"] == arm)]
            if part.empty:
                continue
            total, softirq = float(part["total"].mean()), float(part["softirq"].mean())
            kinds = {"softirq": softirq, "user and system": total - softirq}
            rows += [
                {
                    "scenario": scenario,
                    "arm": arm,
                    "kind": kind,
                    "place": place,
                    "value": value,
                    "total": total,
                    "text": units.value_text(value, "s/GB"),
                }
                for place, (kind, value) in enumerate(kinds.items())
            ]
    return rows


# Marks and incidents


def _mark_rows(marks: pd.DataFrame, begin: int, end: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    last = -math.inf
    if _missing(marks, ("started_at", "what", "text")) is not None:
        return rows
    for row in marks.sort_values("started_at").to_dict("records"):
        at = _ms(row["started_at"])
        if not begin <= at <= end:
            continue
        # A label that would lie on the one before is left to the tooltip.
        is_free = (at - last) > _MARK_GAP * (end - begin)
        last = at if is_free else last
        rows.append(
            {
                "at": at,
                "night": _day(at),
                "text": row["text"],
                "label": row["text"] if is_free else "",
                "what": row["what"],
            }
        )
    return rows


def _mark_layers(rows: list[dict[str, Any]]) -> list[alt.Chart]:
    if not rows:
        return []
    base = _chart(rows)
    return [
        base.mark_rule(strokeDash=[4, 3], strokeWidth=1.5, opacity=0.7).encode(
            x=_time(), tooltip=_tooltip(night="night", text="changed")
        ),
        base.mark_text(angle=270, align="right", baseline="bottom", dx=-4, dy=-3).encode(
            x=_time(), y=alt.value(0), text="label:N"
        ),
    ]


def _incident_rows(
    incidents: pd.DataFrame | Iterable[Mapping[str, Any]] | None, begin: int, end: int
) -> list[dict[str, Any]]:
    if incidents is None:
        return []
    records = incidents if not hasattr(incidents, "to_dict") else incidents.to_dict("records")
    rows = []
    for one in records:
        first = _ms(one["changed_on"])
        closed = one.get("closed_on")
        is_open = not isinstance(closed, str) or not closed
        last = end if is_open else min(_ms(closed) + _DAY_MS, end)
        if last < begin or first > end:
            continue
        number = one.get("id", one.get("incident"))
        rows.append(
            {
                "at": max(first, begin),
                "until": last,
                "night": f"since {one['changed_on']}" if is_open else f"{one['changed_on']} to {closed}",
                "text": f"incident {number}: {one['state']}",
                "label": f"#{number}{' (open)' if is_open else ''}",
            }
        )
    return rows


def _incident_layers(rows: list[dict[str, Any]]) -> list[alt.Chart]:
    if not rows:
        return []
    base = _chart(rows)
    return [
        base.mark_rect(opacity=0.25, color=INCIDENT_COLOUR).encode(
            x=_time(), x2="until:T", tooltip=_tooltip(text="incident", night="nights")
        ),
        base.mark_text(align="left", baseline="bottom", dx=3, dy=-4).encode(
            x=_time(), y=alt.value(_HEIGHT), text="label:N"
        ),
    ]


def _told(shaded: list[dict[str, Any]], marked: list[dict[str, Any]]) -> str:
    told = [f"{row['text']}, {row['night']}" for row in shaded]
    told += [f"{row['text']} from {row['night']}" for row in marked]
    return f"Marked: {'; '.join(told)}." if told else ""


# Pieces of charts


def _chart(rows: list[dict[str, Any]]) -> alt.Chart:
    return alt.Chart(alt.Data(values=rows))


def _time() -> alt.X:
    return alt.X("at:T", title=None, scale=alt.Scale(type="utc"), axis=alt.Axis(labelOverlap=True, grid=False))


def _arm() -> alt.Color:
    return alt.Color(
        "arm:N", title="BIG TCP", scale=alt.Scale(domain=list(ARM_COLOURS), range=list(ARM_COLOURS.values()))
    )


def _arm_shape() -> alt.Shape:
    return alt.Shape(
        "arm:N", title="BIG TCP", scale=alt.Scale(domain=list(ARM_SHAPES), range=list(ARM_SHAPES.values()))
    )


def _tooltip(**titles: str) -> list[alt.Tooltip]:
    return [alt.Tooltip(f"{name}:N", title=title) for name, title in titles.items()]


def _zero_line(channel: Literal["x", "y"] = "y") -> alt.Chart:
    zero = _chart([{"value": 0}]).mark_rule(opacity=0.6)
    return zero.encode(x="value:Q") if channel == "x" else zero.encode(y="value:Q")


def _finished(
    layers: Sequence[alt.Chart], *, title: str, subtitle: Sequence[str], description: str, height: Any
) -> alt.LayerChart:
    lines = [line for line in subtitle if line]
    return alt.layer(*layers).properties(
        title=alt.TitleParams(title, subtitle=lines) if lines else alt.TitleParams(title),
        description=description.strip(),
        width="container",
        height=height,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
    )


def _empty(title: str, reason: str) -> alt.LayerChart:
    words = (
        _chart([{"text": reason}])
        .mark_text(align="left", fontSize=13)
        .encode(x=alt.value(4), y=alt.value(20), text="text:N")
    )
    return _finished([words], title=title, subtitle=[], description=f"{title}: {reason}", height=40)


def _missing(frame: pd.DataFrame, columns: Sequence[str]) -> str | None:
    missing = [name for name in columns if name not in frame]
    return f"Cannot be drawn without {', '.join(missing)}." if missing else None


def _left_out(count: int) -> str:
    return f"{count} night{'s' if count > 1 else ''} without a usable value left out" if count else ""


def _number(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _ms(moment: Any) -> int:
    import pandas as pd

    stamp = pd.Timestamp(moment)
    return int((stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp).timestamp() * 1000)


def _day(ms: int) -> str:
    import pandas as pd

    return f"{pd.Timestamp(ms, unit='ms'):%Y-%m-%d}"


def _fold_titles(spec: dict[str, Any], width: int) -> None:
    """Break title and subtitle of ``spec`` into lines that fit into ``width``: Vega would cut them."""
    import textwrap

    title = spec.get("title", {})
    # Mean widths of a character of 14 and of 12 pixels.
    for name, per_character in (("text", 7.4), ("subtitle", 5.8)):
        if lines := title.get(name):
            folded = [lines] if isinstance(lines, str) else lines
            title[name] = [part for line in folded for part in textwrap.wrap(line, int(width / per_character))]
