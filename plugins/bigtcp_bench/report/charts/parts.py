"""Pieces that charts are put together from: axes, the encodings of the arms, tooltips, titles, an empty chart."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import altair as alt

from bigtcp_bench.report import units
from bigtcp_bench.report.charts.style import ARM_COLOURS, ARM_SHAPES

if TYPE_CHECKING:
    import pandas as pd

#: Height of a chart over time, in pixels.
HEIGHT = 280
#: Height of the row of one scenario: two bars, or two dots one below the other, find room in it.
_ROW_HEIGHT = 38

#: Labels of an axis keep so far apart, and those that cannot are left out.
_APART: dict[str, Any] = {"labelOverlap": "greedy", "labelSeparation": 6, "labelFlush": False}
NUMBERS = alt.Axis(format=",~f", **_APART)
#: Of changes: each with its sign, but for zero, which has none.
_SIGN = "datum.value == 0 ? '0' : format(datum.value, '+,~f')"
SIGNED = alt.Axis(labelExpr=_SIGN, **_APART)
#: Of a horizontal axis: so few ticks that each has room for its number. Twice as many are drawn at the most.
ACROSS: dict[str, Any] = {"tickCount": alt.ExprRef(expr="ceil(width / 110)"), **_APART}
SIGNED_ACROSS = alt.Axis(labelExpr=_SIGN, **ACROSS)
#: Of charts that stand above each other: their left edges agree, so that the same night is in the same place.
ALIGNED_PX = 52

DAY_MS = 86_400_000

_LEGEND_OFFSET = 8
_TITLE_OFFSET = 12
#: From this many days on, the axis of time has one tick for each year, and before one for some months or days.
_BY_YEARS = 1500
_BY_MONTHS = 150
_MOST_TICKS = 10
_DAY_STEPS = (1, 2, 4, 7, 14, 28)
_MONTH_STEPS = (1, 2, 3, 6)


def chart_of(rows: Sequence[Mapping[str, Any]]) -> alt.Chart:
    """Return a chart of ``rows``, to be given a mark; moments are milliseconds since 1970.

    As a mapping they become one dataset of the whole chart, which Altair does not check value by value. Channels
    are given as objects: from words Altair makes them by a search of the whole schema.
    """
    return alt.Chart({"values": tuple(rows)})


def time_axis(rows: Sequence[Mapping[str, Any]]) -> alt.X:
    """Return the x axis for the moments ``at`` of ``rows``, in UTC.

    Its ticks are days, first days of a month or years of their own, so that no two of them have the same label.
    """
    begin, end = (choose(row["at"] for row in rows) for choose in (min, max))
    ticks, form = _time_ticks(begin, end)
    # As an expression: moments themselves become calls that the interpreter of the pages cannot make.
    axis = alt.Axis(format=form, values=alt.ExprRef(expr=str(ticks)), grid=False, **_APART)
    return alt.X("at:T", title=None, scale=alt.Scale(type="utc"), axis=axis)


def _time_ticks(begin_ms: int, end_ms: int) -> tuple[list[int], str]:
    """Return the moments of the ticks between two moments, and the format of their labels."""
    import pandas as pd

    days = (end_ms - begin_ms) / DAY_MS
    first, last = (pd.Timestamp(moment, unit="ms") for moment in (begin_ms, end_ms))
    if days <= _BY_MONTHS:
        step = next(step for step in _DAY_STEPS if days / step <= _MOST_TICKS)
        # Back from the last night, which is the one that is looked at first.
        stamps = pd.date_range(end=last.floor("D"), periods=int(days // step) + 1, freq=f"{step}D")
        # A night has its label where it is drawn, not at midnight before it.
        return [int(stamp.timestamp() * 1000) + end_ms % DAY_MS for stamp in stamps], "%d %b"
    if days <= _BY_YEARS:
        step = next(step for step in _MONTH_STEPS if days / 30 / step <= _MOST_TICKS)
        return [int(one.timestamp() * 1000) for one in pd.date_range(first, last, freq=f"{step}MS")], "%b %Y"
    return [int(one.timestamp() * 1000) for one in pd.date_range(first, last, freq="YS")], "%Y"


def scenario_axis(rows: Sequence[Mapping[str, Any]]) -> alt.Y:
    """Return the y axis that lists the scenarios of ``rows`` in their order."""
    names = list(dict.fromkeys(str(row["scenario"]) for row in rows))
    return alt.Y("scenario:N", title=None, sort=names, axis=alt.Axis(labelLimit=140))


def room_for_words(largest: float, words_px: int) -> alt.Scale:
    """Return a scale from 0 to ``largest`` with ``words_px`` pixels behind it, however narrow the chart is."""
    end = alt.ExprRef(expr=f"{largest} * width / max(width - {words_px}, 1)")
    return alt.Scale(domainMin=0, domainMax=end, nice=False, zero=True)


#: Where ticks of a logarithmic axis may stand within a power of ten, from few to many.
_LOG_STEPS: tuple[tuple[float, ...], ...] = (
    (1,),
    (1, 3),
    (1, 2, 5),
    (1, 1.5, 2, 3, 5, 7),
    (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 5, 6, 7, 8, 9),
)
_FEWEST_TICKS = 3


def log_axis(values: Sequence[float], title: str) -> alt.X:
    """Return the logarithmic x axis for ``values``, above zero, with some room at both ends.

    Its ticks are at round numbers, or at both ends where there are too few of these.
    """
    # The largest number there is has no room above it.
    low, high = min(values) / 1.08, min(max(values) * 1.08, sys.float_info.max)
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in _LOG_STEPS:
        ticks = [tick for power in powers for step in steps if low <= (tick := step * 10.0**power) <= high]
        if len(ticks) >= _FEWEST_TICKS:
            break
    if len(ticks) < _FEWEST_TICKS:
        ticks = sorted({min(values), max(values)})
    # Vega's own format leaves out the numbers of most ticks of such an axis.
    axis = alt.Axis(values=ticks, labelExpr="format(datum.value, ',.3~r')", **_APART)
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    return alt.X("value:Q", title=title, scale=scale, axis=axis)


def aligned(axis: alt.Axis) -> alt.Axis:
    """Return ``axis``, a vertical one, as wide as that of every other chart over time."""
    copy: alt.Axis = axis.copy()
    copy.minExtent = copy.maxExtent = ALIGNED_PX
    return copy


def list_height(rows: Sequence[Mapping[str, Any]]) -> int:
    """Return the height of a chart that lists the scenarios of ``rows``."""
    return _ROW_HEIGHT * len({row["scenario"] for row in rows})


def arm_colour(above: int = 0) -> alt.Color:
    """Return the colour of column ``arm``; the legend stands ``above`` pixels higher than usual."""
    scale = alt.Scale(domain=list(ARM_COLOURS), range=list(ARM_COLOURS.values()))
    return alt.Color("arm:N", title=None, scale=scale, legend=_arm_legend(above))


def arm_shape(above: int = 0) -> alt.Shape:
    """Return the shape of column ``arm``, with the legend of its colour."""
    scale = alt.Scale(domain=list(ARM_SHAPES), range=list(ARM_SHAPES.values()))
    return alt.Shape("arm:N", title=None, scale=scale, legend=_arm_legend(above))


def _arm_legend(above: int) -> alt.Legend:
    return alt.Legend(labelExpr="'BIG TCP ' + datum.label", offset=_LEGEND_OFFSET + above)


def tooltip(**titles: str) -> list[alt.Tooltip]:
    """Return a tooltip that shows each of these columns under its title."""
    return [alt.Tooltip(f"{name}:N", title=title) for name, title in titles.items()]


def zero_line(channel: Literal["x", "y"]) -> alt.Chart:
    """Return a line where that channel is zero."""
    zero = chart_of([{"value": 0}]).mark_rule(opacity=0.6)
    return zero.encode(x=alt.X("value:Q")) if channel == "x" else zero.encode(y=alt.Y("value:Q"))


def finished(
    layers: Sequence[alt.Chart],
    *,
    title: str,
    subtitle: Sequence[str] = (),
    description: str,
    height: Any,
) -> alt.LayerChart:
    """Return ``layers`` as one chart as wide as its place; empty lines of ``subtitle`` are left out.

    ``description`` is what a screen reader says.
    """
    lines = [units.unbroken(line) for line in subtitle if line]
    lines[:1] = map(units.capital, lines[:1])
    return alt.LayerChart(
        layer=list(layers),
        title=alt.TitleParams(title, offset=_TITLE_OFFSET, subtitle=lines or alt.Undefined),
        description=description.strip(),
        width="container",
        height=height,
    )


def empty(title: str, reason: str) -> alt.LayerChart:
    """Return a chart without figures that says why there are none."""
    words = chart_of([{"text": reason}]).mark_text(align="left", fontSize=13)
    place = words.encode(x=alt.XValue(4), y=alt.YValue(20), text=alt.Text("text:N"))
    return finished([place], title=title, description=f"{title}: {reason}", height=40)


def missing_columns(frame: pd.DataFrame, columns: Sequence[str]) -> str:
    """Return a sentence that names the ``columns`` which ``frame`` lacks; nothing when it has them all."""
    missing = [name for name in columns if name not in frame]
    return f"Cannot be drawn without {', '.join(missing)}." if missing else ""


def milliseconds(moment: Any) -> int:
    """Return a moment, date or ISO text as milliseconds since 1970; without a zone it is UTC."""
    import pandas as pd

    stamp = pd.Timestamp(moment)
    return int((stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp).timestamp() * 1000)


def day_text(moment_ms: int) -> str:
    """Return the UTC day of ``moment_ms``, such as 2026-01-31."""
    import pandas as pd

    return f"{pd.Timestamp(moment_ms, unit='ms'):%Y-%m-%d}"
