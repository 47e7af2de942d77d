"""The charts of many nights: what both arms reached, and what BIG TCP gains. Pure, as the charts of a run are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import altair as alt

from bigtcp_bench.report import units
from bigtcp_bench.report.charts.notes import Notes
from bigtcp_bench.report.charts.parts import (
    HEIGHT,
    NUMBERS,
    SIGNED,
    aligned,
    arm_colour,
    arm_shape,
    chart_of,
    empty,
    finished,
    time_axis,
    tooltip,
    zero_line,
)
from bigtcp_bench.report.charts.series import Series, series_of
from bigtcp_bench.report.charts.style import ARM_COLOURS
from bigtcp_bench.report.epochs import changes_of

if TYPE_CHECKING:
    import pandas as pd

#: Runs by hand are points of their own.
_BY_HAND, _BY_HAND_SHAPE, _BY_HAND_SIZE = "large diamonds off the line: runs by hand", "diamond", 60
_SPREAD = "Medians; the band is from the lowest to the highest night"


def trend_chart(
    trend: pd.DataFrame,
    incidents: Iterable[Mapping[str, Any]] = (),
    run_url: Callable[[int], str] | None = None,
) -> alt.LayerChart:
    """Return what both arms reached night by night, for one scenario and metric.

    ``trend``: one row per night, as ``warehouse.pages.trend_frame`` and ``Warehouse.series_frame`` return it:
    started_at, scenario, metric, off_median, on_median; optional verdict, ci_low and ci_high (of the change),
    cilium_version, client_kernel, server_kernel. Nights whose verdict is invalid are left out and counted.

    The band about each arm is half as wide as the confidence interval of the change: where the bands of the arms
    do not touch, the night's change is surely not zero.

    What the figures depend on and has changed is marked (``changes_of(trend)``).
    ``run_url`` returns the address of a run by its number (column run_id): a click on a night's point opens it.
    ``incidents``: those to be shaded, with id, state, changed_on and closed_on, as ``warehouse.pages`` returns
    them.
    """
    series = series_of(trend)
    if isinstance(series, str):
        return empty("Nightly trend", series)
    metric, scenario = series.metric, series.scenario
    rows, span = series.by_arm()
    linked = _linked(rows, run_url)
    by_hand = series.arms_by_hand()
    divisor, unit = units.axis(metric.unit, max(abs(row["value"]) for row in rows))
    for row in (*rows, *by_hand):
        row |= {name: row[name] / divisor for name in ("value", "low", "high") if row.get(name) is not None}
    has_bands = any(row.get("low") is not None for row in rows)
    notes = Notes(rows, changes_of(trend), incidents)
    layers = _arms(rows, by_hand, f"{metric.label} ({unit})", span, notes, linked)
    meaning = "Half of the change's interval about each arm: where the bands do not touch, the arms differ"
    newest = {row["arm"]: row["text"] for row in rows}
    return _finished(
        series,
        [*notes.shades(), *layers, *notes.rules()],
        span,
        title=f"{units.capital(metric.label)} of {scenario}",
        meaning=meaning if has_bands else "",
        description=(
            f"Line chart: {metric.label} of {scenario} with BIG TCP off and on, {series.period}. "
            f"Last: off {newest['off']}, on {newest['on']}. {notes.text()}"
        ),
    )


def _arms(
    rows: list[dict[str, Any]],
    by_hand: list[dict[str, Any]],
    named: str,
    span: str,
    notes: Notes,
    linked: Mapping[str, Any],
) -> list[alt.Chart]:
    """Return both arms' bands, lines and points, and the runs by hand; ``named`` is what the axis is called."""
    base = chart_of(rows)
    x, colour = time_axis(rows), arm_colour(notes.height)
    y = alt.Y("value:Q", title=named, scale=alt.Scale(zero=False), axis=aligned(NUMBERS))
    layers = [
        base.mark_line(strokeWidth=1.2, opacity=0.7).encode(x=x, y=y, color=colour),
        base.mark_point(size=24).encode(
            x=x,
            y=y,
            color=colour,
            shape=arm_shape(notes.height),
            **linked,
            tooltip=tooltip(night=span or "night", arm="BIG TCP", text="value", change="on against off"),
        ),
    ]
    if any(row.get("low") is not None for row in rows):
        band = base.mark_area(opacity=0.22)
        layers.insert(0, band.encode(x=x, y=alt.Y("low:Q", title=named), y2=alt.Y2("high:Q"), color=colour))
    if by_hand:
        points = chart_of(by_hand).mark_point(size=_BY_HAND_SIZE, shape=_BY_HAND_SHAPE)
        told = tooltip(night="run by hand", arm="BIG TCP", text="value", change="on against off")
        layers.append(points.encode(x=x, y=y, color=colour, tooltip=told))
    return layers


def benefit_chart(
    trend: pd.DataFrame,
    incidents: Iterable[Mapping[str, Any]] = (),
    run_url: Callable[[int], str] | None = None,
) -> alt.LayerChart:
    """Return what BIG TCP gains over time, in per cent, positive when better in the metric's own direction.

    ``trend``: the frame of ``trend_chart`` with the columns change, ci_low and ci_high. ``incidents`` and
    ``run_url`` as there.
    """
    series = series_of(trend, "change")
    if isinstance(series, str):
        return empty("Benefit of BIG TCP", series)
    metric, scenario = series.metric, series.scenario
    rows, span = series.benefit()
    linked = _linked(rows, run_url)
    by_hand = series.benefit_by_hand()
    has_bands = any(row.get("low") is not None for row in rows)
    notes = Notes(rows, changes_of(trend), incidents)
    base = chart_of(rows)
    named = "better with BIG TCP (%)"
    x, y, colour = time_axis(rows), alt.Y("value:Q", title=named, axis=aligned(SIGNED)), ARM_COLOURS["on"]
    layers = [
        zero_line("y"),
        base.mark_line(strokeWidth=1.2, opacity=0.7, color=colour).encode(x=x, y=y),
        base.mark_point(size=24, color=colour).encode(
            x=x, y=y, **linked, tooltip=tooltip(night=span or "night", text="on against off")
        ),
    ]
    if has_bands:
        band = base.mark_area(opacity=0.22, color=colour)
        layers.insert(0, band.encode(x=x, y=alt.Y("low:Q", title=named), y2=alt.Y2("high:Q")))
    if by_hand:
        points = chart_of(by_hand).mark_point(size=_BY_HAND_SIZE, shape=_BY_HAND_SHAPE, color=colour)
        layers.append(points.encode(x=x, y=y, tooltip=tooltip(night="run by hand", text="on against off")))
    return _finished(
        series,
        [*notes.shades(), *layers, *notes.rules()],
        span,
        title=f"Benefit of BIG TCP: {metric.label} of {scenario}",
        meaning="Band: confidence interval" if has_bands else "",
        description=(
            f"Line chart: how much better {metric.label} of {scenario} is with BIG TCP, {series.period}. "
            f"Last: {rows[-1]['text']}. {notes.text()}"
        ),
    )


def _finished(
    series: Series, layers: Sequence[alt.Chart], span: str, *, title: str, meaning: str, description: str
) -> alt.LayerChart:
    """Return the chart of ``series`` by ``span``, else by night, whose band has that ``meaning``."""
    return finished(
        layers,
        title=f"{title}, {f'by {span}' if span else 'night by night'}",
        subtitle=[_SPREAD if span else meaning, _BY_HAND * (not series.by_hand.empty), series.left_out_text],
        description=description,
        height=HEIGHT,
    )


def _linked(rows: list[dict[str, Any]], run_url: Callable[[int], str] | None) -> dict[str, alt.Href]:
    """Give every one of ``rows`` that is one run its address, and return the encoding for it, if there are any."""
    if run_url is None or not all("run" in row for row in rows):
        return {}
    for row in rows:
        row["href"] = run_url(row["run"])
    return {"href": alt.Href("href:N")}
