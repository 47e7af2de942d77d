"""What a chart over time draws of one scenario and metric: a row for each night, or for each span of nights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bigtcp_bench.in_cluster.kind import Metric
from bigtcp_bench.in_cluster.treatment import ARMS
from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.report import units
from bigtcp_bench.report.charts.parts import DAY_MS, day_text, milliseconds, missing_columns

if TYPE_CHECKING:
    import pandas as pd

#: With more points than these a series is drawn by weeks or longer spans; these a browser draws in half a second.
MAX_POINTS = 1500
#: The spans, in days, each with its name after "by".
_SPANS = ((7, "week"), (28, "four weeks"), (91, "quarter"), (364, "year of 52 weeks"))
#: 1970-01-05 was a Monday.
_FIRST_MONDAY_MS = 4 * DAY_MS


#: Figures of some nights, by the name of their column.
_Columns = Mapping[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Series:
    """The usable nights of one scenario and metric, oldest first; ``left_out`` counts the others.

    ``by_hand`` are runs that are no nights: points beside the line.
    """

    scenario: str
    metric: Metric
    nights: pd.DataFrame
    left_out: int
    by_hand: pd.DataFrame

    @property
    def left_out_text(self) -> str:
        """Return how many nights are left out, in words, or nothing."""
        count = self.left_out
        return f"{count} night{'s' if count > 1 else ''} without a usable value left out" if count else ""

    @property
    def period(self) -> str:
        """Return how many nights there are, from when to when, in words."""
        moments = self.nights["started_at"]
        first, last = (day_text(milliseconds(moments.iloc[place])) for place in (0, -1))
        return f"{len(self.nights)} nights from {first} to {last}"

    def by_arm(self) -> tuple[list[dict[str, Any]], str]:
        """Return rows with at, night, arm, value, text and change, and the name of the span, if not a night.

        ``low`` and ``high`` are the ends of the band, where there is one, in the metric's own unit.
        """
        span = self._span(points=len(ARMS) * len(self.nights))
        if span:
            return [row for part in self._spans(span[0]) for row in self._arms_of_span(*part)], span[1]
        return [row for night in self.nights.to_dict("records") for row in self._arms_of_night(night)], ""

    def benefit(self) -> tuple[list[dict[str, Any]], str]:
        """Return rows with at, night, value, low and high, in per cent, positive when better, and text."""
        span = self._span(points=len(self.nights))
        if span:
            return [self._benefit_of_span(*part) for part in self._spans(span[0])], span[1]
        return [self._benefit_of_night(night) for night in self.nights.to_dict("records")], ""

    def arms_by_hand(self) -> list[dict[str, Any]]:
        """Return the rows of ``by_arm`` for each run by hand."""
        return [row for run in self.by_hand.to_dict("records") for row in self._arms_of_night(run)]

    def benefit_by_hand(self) -> list[dict[str, Any]]:
        """Return the row of ``benefit`` for each run by hand."""
        return [self._benefit_of_night(run) for run in self.by_hand.to_dict("records")]

    def _arms_of_night(self, night: dict[Any, Any]) -> Iterator[dict[str, Any]]:
        change, low, high = (_number(night.get(name)) for name in ("change", "ci_low", "ci_high"))
        at = milliseconds(night["started_at"])
        for arm in ARMS:
            value = float(night[f"{arm}_median"])
            band = _band(self.metric, arm, value, float(night["off_median"]), (change, low, high))
            yield {
                "at": at,
                **_run_of(night),
                "night": day_text(at),
                "arm": arm,
                "value": value,
                **band,
                "text": units.value_text(value, self.metric.unit),
                "change": units.change_with_interval(change, low, high),
            }

    def _arms_of_span(self, at: int, name: str, part: _Columns) -> Iterator[dict[str, Any]]:
        known = [float(one) for one in part.get("change", ()) if math.isfinite(one)]
        change = units.change_text(median(known) if known else None)
        for arm in ARMS:
            # No night of a series lacks an arm.
            low, middle, high = _ends_and_middle(part[f"{arm}_median"])
            lowest, usual, highest = (units.value_text(value, self.metric.unit) for value in (low, middle, high))
            yield {
                "at": at,
                "night": name,
                "arm": arm,
                "value": middle,
                "low": low,
                "high": high,
                "text": f"{usual} ({lowest} to {highest})",
                "change": change,
            }

    def _benefit_of_night(self, night: dict[Any, Any]) -> dict[str, Any]:
        change, low, high = (_number(night.get(name)) for name in ("change", "ci_low", "ci_high"))
        at = milliseconds(night["started_at"])
        return {
            "at": at,
            **_run_of(night),
            "night": day_text(at),
            **benefit_percent(self.metric, change, low, high),
            "text": units.change_with_interval(change, low, high),
        }

    def _benefit_of_span(self, at: int, name: str, part: _Columns) -> dict[str, Any]:
        low, middle, high = _ends_and_middle(part["change"])
        text = f"{units.change_text(middle)} ({units.change_text(low)} to {units.change_text(high)})"
        return {"at": at, "night": name, **benefit_percent(self.metric, middle, low, high), "text": text}

    def _span(self, points: int) -> tuple[int, str] | None:
        """Return the shortest span that brings ``points`` down to MAX_POINTS, with its name; None: every night."""
        if points <= MAX_POINTS:
            return None
        moments = self.nights["started_at"]
        days = (milliseconds(moments.iloc[-1]) - milliseconds(moments.iloc[0])) / DAY_MS
        per_night = points / len(self.nights)
        return next((span for span in _SPANS if (days / span[0] + 1) * per_night <= MAX_POINTS), _SPANS[-1])

    def _spans(self, days: int) -> Iterator[tuple[int, str, _Columns]]:
        """Yield for each span of ``days`` with a night in it: its middle, its name, and its nights' figures.

        As arrays: ten years have five hundred weeks, and a frame of each would take most of the chart's time.
        """
        length = days * DAY_MS
        numbers = [(milliseconds(moment) - _FIRST_MONDAY_MS) // length for moment in self.nights["started_at"]]
        names = [name for name in ("off_median", "on_median", "change") if name in self.nights]
        columns = {name: self.nights[name].to_numpy(dtype=float) for name in names}
        place = 0
        for number, nights in itertools.groupby(numbers):
            count = len(list(nights))
            begin = number * length + _FIRST_MONDAY_MS
            name = f"{day_text(begin)} to {day_text(begin + length - DAY_MS)} ({count} nights)"
            yield begin + length // 2, name, {one: of[place : place + count] for one, of in columns.items()}
            place += count


def series_of(trend: pd.DataFrame, *more: str) -> Series | str:
    """Return the series in ``trend``, or a sentence that says why it cannot be drawn.

    Nights without a value (also of the columns ``more``) or with the verdict invalid are left out and counted.
    """
    needed = ("started_at", "scenario", "metric", "off_median", "on_median", *more)
    if trend.empty:
        return "No night has been measured in this period."
    if missing := missing_columns(trend, needed):
        return missing
    kinds = trend[["scenario", "metric"]].drop_duplicates()
    if len(kinds) > 1:
        return "Choose one scenario and one metric."
    scenario, metric = (str(value) for value in kinds.iloc[0])
    usable = trend.dropna(subset=["off_median", "on_median", *more])
    if "verdict" in usable:
        usable = usable[usable["verdict"] != "invalid"]
    if usable.empty:
        return "No night of this period could be judged."
    ordered = usable.sort_values("started_at")
    nights, by_hand = ordered, ordered.iloc[:0]
    # Where nobody but people measures, their runs are the series.
    if "is_night" in ordered and ordered["is_night"].any():
        nights, by_hand = ordered[ordered["is_night"]], ordered[~ordered["is_night"]]
    return Series(scenario, METRICS[metric], nights, len(trend) - len(usable), by_hand)


def benefit_percent(
    metric: Metric, change: float | None, low: float | None, high: float | None
) -> dict[str, float]:
    """Return value, low and high of a relative change in per cent, positive when better in the metric's direction.

    What is not known is left out.
    """
    if change is None:
        return {}
    sign = -100.0 if metric.better == "lower" else 100.0
    ends = (
        {}
        if low is None or high is None
        else dict(zip(("low", "high"), sorted((sign * low, sign * high)), strict=True))
    )
    return {"value": sign * change, **ends}


def _band(
    metric: Metric, arm: str, value: float, off: float, interval: tuple[float | None, float | None, float | None]
) -> dict[str, float]:
    """Return the band about one arm whose half width is half of the change's: two bands that touch make one.

    ``interval``: the change, and its lower and upper end. No band leaves what the metric can be.
    """
    change, low, high = interval
    if change is None or low is None or high is None:
        return {}
    if metric.scale == "linear":
        below, above = (abs(part) * abs(off) / 2 for part in (change - low, high - change))
        if arm == "off":
            below, above = above, below
        most = 1.0 if metric.unit == "1" else math.inf
        return {"low": min(value, max(0.0, value - below)), "high": max(value, min(most, value + above))}
    if low <= -1:
        return {}
    factor = math.exp((math.log1p(high) - math.log1p(low)) / 4)
    return {"low": value / factor, "high": value * factor}


def _run_of(night: dict[Any, Any]) -> dict[str, int]:
    return {"run": int(night["run_id"])} if "run_id" in night else {}


def _ends_and_middle(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the lowest of a few values, their median, and the highest."""
    known = [float(value) for value in values]
    return min(known), median(known), max(known)


def _number(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
