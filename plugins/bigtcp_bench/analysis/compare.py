"""Compare the two arms within one run: results frame in, one verdict per scenario and metric out.

The unit of analysis is the generation (one fresh pod pair): repetitions inside a generation share its luck, so
they are reduced to their median first. The arms are compared by a linear model over the generations

    value = usual + difference × (arm is on) + drift × (position in the run) + bend + switch + generation

on the scale of ``scales.py``. The drift term keeps a warming or filling machine from looking like an effect of
the arm. A bend of that drift, and what each switch of arms adds, have spreads that are known beforehand: they
are part of the estimate's weights and of the interval. docs/statistics.md shows by simulation what the
alternatives would have cost.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import median
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from bigtcp_bench.analysis.scales import FloatArray, ModelScale
from bigtcp_bench.in_cluster.kind import Metric
from bigtcp_bench.planning.metrics import metrics_of
from bigtcp_bench.planning.plan import SCENARIOS, Plan, blocks, turn_of
from bigtcp_bench.planning.thresholds import Thresholds

Verdict = Literal["faster", "slower", "equivalent", "inconclusive", "invalid", "evidence"]

#: Residual degrees of freedom below which the drift term costs more than it explains; designs whose arms are
#: not balanced over time need it all the same.
MIN_DF_FOR_DRIFT = 3

#: Correlation of arm and position above which a design counts as unbalanced (off,on has about 0.87).
BALANCED_CORRELATION = 0.2

#: Satterthwaite's formula is fed with estimates; a lucky small one must not promise more than this many times the
#: degrees of freedom that there are (without the limit, 12 % false positives with 1 + 2 + 1 generations).
MAX_DF_FACTOR = 3.0

#: Weight, in degrees of freedom, of the spread of a switch that is known beforehand against what was measured of
#: it: by the blocks of one run (five leave one degree of freedom for that), or by A/A runs (two blocks have one,
#: too).
SWITCH_PRIOR_DF = 4

#: A change of more than this (1,000 %) that is not sure to be one is no figure to print.
MAX_UNSURE_CHANGE = 10.0


@dataclass(frozen=True)
class Comparison:
    """What one run says about one metric of one scenario.

    ``off_median`` and ``on_median`` are medians over generations, in the metric's unit. ``change`` is on/off − 1,
    and so are ``ci_low`` and ``ci_high`` (at ``level``), ``margin`` and ``smallest_detectable_change``; they are
    None where they cannot be known, for instance relative to zero. ``n_off`` and ``n_on`` count generations.
    ``drift`` is the estimated relative change from the first to the last generation that has nothing to do with
    the arms. ``faster`` and ``slower`` mean better and worse in the metric's own direction; ``evidence`` is the
    verdict of metrics that are not judged. ``below_margin`` marks a change that is real but too small to matter.
    """

    scenario: str
    metric: str
    off_median: float | None
    on_median: float | None
    change: float | None
    ci_low: float | None
    ci_high: float | None
    level: float
    margin: float
    n_off: int
    n_on: int
    smallest_detectable_change: float | None
    p_value: float | None
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    below_margin: bool = False
    drift: float | None = None


@dataclass(frozen=True)
class Difference:
    """The estimated difference of the arms (on − off) on the scale of the model, and how sure it is.

    ``standard_error`` includes the switches; ``df`` are the effective degrees of freedom of its t distribution.
    ``drift`` is from the first to the last position (None when the design left no room to estimate it).
    """

    estimate: float
    standard_error: float
    df: float
    drift: float | None

    def interval(self, level: float) -> tuple[float, float]:
        """Return the confidence interval at ``level`` (0.95 = 95 %)."""
        half = float(special.stdtrit(self.df, 0.5 + level / 2)) * self.standard_error
        return self.estimate - half, self.estimate + half

    def p_value(self) -> float:
        """Return the two-sided p value of "there is no difference"."""
        if self.standard_error == 0:
            return 1.0 if self.estimate == 0 else 0.0
        return float(2 * special.stdtr(self.df, -abs(self.estimate) / self.standard_error))

    def smallest_detectable(self, level: float, power: float) -> float:
        """Return the true difference that would be found at ``level`` with probability ``power``."""
        quantiles = special.stdtrit(self.df, 0.5 + level / 2) + special.stdtrit(self.df, power)
        return float(quantiles) * self.standard_error


def compare_run(
    generations: pd.DataFrame,
    plan: Plan,
    *,
    run_reasons: Sequence[str] = (),
    scenario_reasons: Mapping[str, Sequence[str]] | None = None,
    switch_sds: Mapping[tuple[str, str], float] | None = None,
) -> list[Comparison]:
    """Return one Comparison for each scenario of ``plan`` and each metric of it, in the plan's order.

    ``generations`` are the ``generation_medians`` of the run. ``run_reasons`` (of the whole run) and
    ``scenario_reasons`` (by scenario) make verdicts ``invalid``; the numbers are kept as evidence. ``switch_sds``
    is what A/A runs measured for (scenario, metric); without it ``thresholds.switch_sd`` is assumed.

    In an A/A run the odd blocks take the place of off and the even ones that of on: whatever differs is noise.
    """
    thresholds = plan.thresholds
    series = series_of(generations)
    empty = SeriesOfRun(np.empty(0), np.empty(0, dtype=bool), np.empty(0), np.empty(0))
    comparisons = []
    for name in plan.scenarios:
        reasons = (*run_reasons, *(scenario_reasons or {}).get(name, ()))
        for metric in metrics_of(SCENARIOS[name].traffic):
            comparisons.append(
                _compare(
                    series.get((name, metric.name), empty),
                    name,
                    metric,
                    thresholds,
                    reasons,
                    (switch_sds or {}).get((name, metric.name), thresholds.switch_sd),
                )
            )
    return comparisons


def generation_medians(frame: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Return the median over repetitions of each generation, with columns for the model of the run.

    ``frame`` has the columns block, arm, generation, scenario, repetition, metric and value (failed repetitions
    have no rows). What is returned has scenario, metric, block, generation, value, ``on`` (whether it stands for
    arm on) and ``position`` (which turn of its pods in the run it is, from 0, as planned: a missing one leaves a
    gap). Rows of other scenarios than the plan's, such as the control, are left out.
    """
    planned = blocks(plan)
    first_position, total = {}, 0
    for block in planned:
        first_position[block.number] = total
        total += block.generations
    rows, value = _medians(frame, np.isin(frame["block"], list(first_position)) & _is_in(frame, plan.scenarios))
    medians = {name: frame[name].array.take(rows) for name in ("scenario", "metric", "block", "generation")}
    number, generation = (medians[name].tolist() for name in ("block", "generation"))
    turns = {one: turn_of(plan, one) for one in set(generation)}
    position = [first_position[one] + turns[turn] for one, turn in zip(number, generation, strict=True)]
    return pd.DataFrame(
        {
            **medians,
            "value": value,
            "on": np.isin(number, _numbers_on(plan)),
            "position": np.array(position, dtype=np.int64),
        }
    )


def _numbers_on(plan: Plan) -> list[int]:
    """Return the blocks that stand for arm on: in an A/A run the even ones."""
    return [block.number for block in blocks(plan) if (block.number % 2 == 0 if plan.is_aa else block.arm == "on")]


def _is_in(frame: pd.DataFrame, scenarios: Sequence[str]) -> npt.NDArray[np.bool_]:
    known = set(scenarios)
    return np.array([name in known for name in frame["scenario"].tolist()], dtype=bool)


def _medians(frame: pd.DataFrame, wanted: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """Return the median of each generation's ``wanted`` rows, and one of these rows, in the order of generations.

    By hand: grouping by pandas would take most of the time in which a run is judged.
    """
    value: FloatArray = frame["value"].to_numpy(dtype=float)
    rows = np.flatnonzero(np.isfinite(value) & wanted)
    value = value[rows]
    generation: npt.NDArray[np.int64] = np.zeros(len(rows), dtype=np.int64)
    for name in ("scenario", "metric", "block", "generation"):
        place, _ = frame[name].factorize(sort=True)
        generation = generation * (place.max(initial=0) + 1) + place[rows]
    order = np.lexsort((value, generation))
    rows, value = rows[order], value[order]
    first = np.flatnonzero(np.diff(generation[order], prepend=-1))
    count = np.diff(first, append=len(rows))
    middle = (value[first + (count - 1) // 2] + value[first + count // 2]) / 2
    return rows[first], np.asarray(middle, dtype=np.float64)


@dataclass(frozen=True)
class SeriesOfRun:
    """One scenario and metric of a run: arrays with one entry per generation, as in ``generation_medians``."""

    value: FloatArray
    on: npt.NDArray[np.bool_]
    position: FloatArray
    block: FloatArray


def series_of(generations: pd.DataFrame) -> dict[tuple[str, str], SeriesOfRun]:
    """Return the series in ``generations`` (see ``generation_medians``) by scenario and metric."""
    value, position, block = (generations[name].to_numpy(dtype=float) for name in ("value", "position", "block"))
    on = generations["on"].to_numpy(dtype=bool)
    places: dict[tuple[str, str], list[int]] = {}
    names = zip(generations["scenario"].tolist(), generations["metric"].tolist(), strict=True)
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    return {
        name: SeriesOfRun(*(column[np.array(at)] for column in (value, on, position, block)))
        for name, at in places.items()
    }


@dataclass(frozen=True)
class Spreads:
    """What is known beforehand of a run's noise, as standard deviations on the scale of the model.

    ``switch``: what each switch of arms adds to its block. ``bend``: how far the middle of the run is from its
    ends, beside drift and arms.
    """

    switch: float
    bend: float


@dataclass(frozen=True)
class Contrast:
    """The linear model of one design (which generation stands where), before any value is known.

    ``design`` has one row per generation: 1, arm is on, and the position from 0 to 1 if ``has_drift``. ``bend``
    is the shape of a bend: 1 at both ends, 0 in the middle. ``members`` has one column per block. ``residual``
    makes values into what the terms leave of them (a bend taken out where there is room), with ``df`` degrees of
    freedom; ``within`` and ``within_df`` are the same for what is left inside of blocks.
    """

    design: FloatArray
    bend: FloatArray
    members: FloatArray
    residual: FloatArray
    df: int
    within: FloatArray
    within_df: int
    has_drift: bool

    def variances(self, values: FloatArray, spreads: Spreads) -> tuple[float, float]:
        """Return the variance of a generation, and of a switch: what was known of it, and what ``values`` add."""
        squares = float(values @ self.residual @ values)
        switch = spreads.switch**2
        between_df = self.df - self.within_df
        if between_df > 0 and self.within_df > 0:
            inside = float(values @ self.within @ values)
            between = squares - inside - between_df * inside / self.within_df
            found = max(0.0, between / float(np.trace(self.members.T @ self.residual @ self.members)))
            switch = (SWITCH_PRIOR_DF * switch + between_df * found) / (SWITCH_PRIOR_DF + between_df)
        return squares / self.df, switch

    def estimator(self, generation: float, switch: float, bend: float) -> tuple[FloatArray, float, float]:
        """Return what makes values into the coefficients of ``design``, and the variance of the difference.

        All arguments are variances. The last number is the part of that variance which comes from generations.
        """
        known = switch * self.members @ self.members.T + bend * np.outer(self.bend, self.bend)
        # Without any noise of its own a generation still needs some for the weights.
        least = max(generation, 1e-6 * (switch + bend)) or 1.0
        weighted = np.linalg.solve(least * np.eye(len(self.design)) + known, self.design)
        rows = np.linalg.solve(weighted.T @ self.design, weighted.T)
        noise = generation * float(rows[1] @ rows[1])
        return rows, noise + float(rows[1] @ known @ rows[1]), noise


def contrast_of_plan(plan: Plan) -> Contrast | None:
    """Return the contrast of ``plan`` with nothing missing, or None if it cannot say."""
    number = np.array([block.number for block in blocks(plan) for _ in range(block.generations)], dtype=float)
    return contrast_of(np.isin(number, _numbers_on(plan)), np.arange(len(number), dtype=float), number)


def contrast_of(on: npt.NDArray[np.bool_], position: FloatArray, block: FloatArray) -> Contrast | None:
    """Return the contrast of on against off in the model of this module, or None if the design cannot say.

    Each arm has a generation at least, and each generation a position of its own.
    """
    return _contrast_of(
        np.asarray(on, dtype=bool).tobytes(),
        np.asarray(position, dtype=float).tobytes(),
        np.asarray(block, dtype=float).tobytes(),
    )


# All metrics of a run have the same few designs.
@lru_cache(maxsize=256)
def _contrast_of(on_bytes: bytes, position_bytes: bytes, block_bytes: bytes) -> Contrast | None:
    on, position, block = (
        np.frombuffer(raw, dtype=kind)
        for raw, kind in ((on_bytes, bool), (position_bytes, float), (block_bytes, float))
    )
    n = len(on)
    columns = [np.ones(n), on.astype(float)]
    place = (position - position.min()) / np.ptp(position)
    bend = (2 * place - 1) ** 2
    has_drift = _wants_drift(on, position)
    if has_drift:
        columns.append(place)
    design = np.column_stack(columns)
    if np.linalg.matrix_rank(design) < design.shape[1] or n - design.shape[1] < 1:
        return None
    if has_drift and n - 4 >= MIN_DF_FOR_DRIFT:
        columns.append(bend)
    members = np.equal.outer(block, np.unique(block)).astype(float)
    residual, df = _residual_maker(np.column_stack(columns))
    within, within_df = _residual_maker(np.column_stack([*columns, members]))
    return Contrast(design, bend, members, residual, df, within, within_df, has_drift)


def _residual_maker(columns: FloatArray) -> tuple[FloatArray, int]:
    """Return the matrix that takes ``columns`` out of values, and the degrees of freedom that it leaves."""
    maker: FloatArray = np.asarray(np.eye(len(columns)) - columns @ np.linalg.pinv(columns), dtype=np.float64)
    return maker, len(columns) - int(np.linalg.matrix_rank(columns))


def effective_df(df: int, noise: float, total: float) -> float:
    """Return Satterthwaite's degrees of freedom of ``total`` variance, of which only ``noise`` was estimated."""
    return df * (min((total / noise) ** 2, MAX_DF_FACTOR) if noise > 0 else MAX_DF_FACTOR)


def estimate_difference(
    values: FloatArray,
    on: npt.NDArray[np.bool_],
    position: FloatArray,
    block: FloatArray,
    spreads: Spreads,
) -> Difference | None:
    """Return the difference of the arms in the model of this module, or None if the data cannot say.

    All arrays have one entry per generation; ``values`` are on the scale of the model and ``spreads`` are too:
    they are known beforehand, because a run of a few blocks can hardly estimate them.
    """
    contrast = contrast_of(on, position, block)
    if contrast is None:
        return None
    # Rounding leaves residuals of some 1e-16 where the values are all the same.
    steady = np.ptp(values) == 0
    centred = values - values.mean()
    generation, switch = (0.0, spreads.switch**2) if steady else contrast.variances(centred, spreads)
    rows, total, noise = contrast.estimator(generation, switch, spreads.bend**2)
    coefficients = rows @ centred
    return Difference(
        estimate=0.0 if steady else float(coefficients[1]),
        standard_error=math.sqrt(total),
        df=effective_df(contrast.df, noise, total),
        drift=float(coefficients[2]) if contrast.has_drift else None,
    )


def _wants_drift(on: npt.NDArray[np.bool_], position: FloatArray) -> bool:
    """Return whether the drift term belongs into the model of this design."""
    unbalanced = abs(float(np.corrcoef(on, position)[0, 1])) > BALANCED_CORRELATION
    return unbalanced or len(on) - 3 >= MIN_DF_FOR_DRIFT


def _compare(
    series: SeriesOfRun,
    scenario: str,
    metric: Metric,
    thresholds: Thresholds,
    reasons: tuple[str, ...],
    switch_sd: float,
) -> Comparison:
    values, on = series.value, series.on
    n_off, n_on = int((~on).sum()), int(on.sum())
    missing = " and ".join(arm for arm, count in (("off", n_off), ("on", n_on)) if not count)
    wrong = ""
    if missing:
        wrong = f"{metric.name} of {scenario} was not measured in arm {missing}"
    elif metric.scale == "log" and values.min() <= 0:
        wrong = (
            f"{metric.name} of {scenario} is {values.min():g} {metric.unit} in a generation; "
            "only values above 0 can be compared as a ratio (measure longer)"
        )
    if wrong:
        reasons = (*reasons, wrong)
    found = Comparison(
        scenario=scenario,
        metric=metric.name,
        off_median=float(median(values[~on])) if n_off else None,
        on_median=float(median(values[on])) if n_on else None,
        change=None,
        ci_low=None,
        ci_high=None,
        level=thresholds.confidence_level,
        margin=thresholds.margin,
        n_off=n_off,
        n_on=n_on,
        smallest_detectable_change=None,
        p_value=None,
        verdict="invalid" if reasons else "inconclusive",
        reasons=reasons,
    )
    if wrong:
        return found
    scale = scale_of(metric)
    scaled = scale.of(values)
    usual_off, usual_on = float(scaled[~on].mean()), float(scaled[on].mean())
    # Between the arms: the same number when the arms are swapped, so that the verdict is mirrored exactly.
    middle = (usual_off + usual_on) / 2
    spreads = Spreads(scale.spread(middle, switch_sd), scale.spread(middle, thresholds.bend_sd))
    difference = estimate_difference(scaled, on, series.position, series.block, spreads)
    if difference is None:
        few = f"{n_off} and {n_on} generations are too few to tell a change from noise; raise generations"
        return replace(found, change=scale.change(usual_off, usual_on - usual_off), reasons=reasons or (few,))
    return _judged(found, metric, thresholds, scale, difference, (usual_off, usual_on))


def scale_of(metric: Metric) -> ModelScale:
    """Return the scale on which the arms of one run are compared by ``metric``."""
    if metric.scale == "log":
        return ModelScale("log")
    return ModelScale("share" if metric.unit == "1" else "amount")


def _within(
    margin: float, scale: ModelScale, usual: tuple[float, float], floor: float, *differences: float
) -> bool:
    """Return whether these are changes within the margin, whichever arm they are relative to."""
    off, on = usual
    changes = [
        change for one in differences for change in (scale.change(off, one, floor), scale.change(on, -one, floor))
    ]
    return all(change is not None and 1 / (1 + margin) - 1 < change < margin for change in changes)


def _judged(
    found: Comparison,
    metric: Metric,
    thresholds: Thresholds,
    scale: ModelScale,
    difference: Difference,
    usual: tuple[float, float],
) -> Comparison:
    """Return ``found`` with the figures and the verdict of ``difference``; ``usual`` is the mean of each arm."""
    usual_off, usual_on = usual
    low, high = difference.interval(thresholds.confidence_level)
    detectable = difference.smallest_detectable(thresholds.confidence_level, thresholds.power)

    inside = functools.partial(_within, thresholds.margin, scale, usual, metric.floor)
    smallest = scale.change(usual_off, detectable)
    if smallest is not None and (smallest > MAX_UNSURE_CHANGE or scale.leaves_range(usual_off, detectable)):
        smallest = None
    verdict: Verdict = "inconclusive"
    if found.reasons:
        verdict = "invalid"
    elif not metric.judged:
        verdict = "evidence"
    elif max(map(scale.back, usual)) < metric.floor and inside(low, high):
        # Three retransmits per gigabyte more than none are no news, however sure they are.
        verdict = "equivalent"
    elif low > 0 or high < 0:
        verdict = "faster" if (difference.estimate > 0) == (metric.better == "higher") else "slower"
    elif inside(low, high):
        # The interval that is told is the one that lies inside the margin.
        verdict = "equivalent"
    told = replace(
        found,
        change=scale.change(usual_off, difference.estimate),
        ci_low=scale.change(usual_off, low),
        ci_high=scale.change(usual_off, high),
        smallest_detectable_change=smallest,
        p_value=difference.p_value(),
        verdict=verdict,
        below_margin=verdict in ("faster", "slower") and inside(difference.estimate),
        drift=scale.change(usual_off, difference.drift) if difference.drift is not None else None,
    )
    if low < 0 < high and _says_nothing(scale, usual_off, usual_on, low, high):
        told = replace(told, change=None, ci_low=None, ci_high=None, smallest_detectable_change=None)
    if verdict == "inconclusive":
        sees = told.smallest_detectable_change
        reason = (
            "too noisy to tell: this run could not have seen any change that is possible"
            if sees is None
            else f"this run could have seen a change of {sees:.1%} or more"
        )
        return replace(told, reasons=(reason,))
    return told


def _says_nothing(scale: ModelScale, usual_off: float, usual_on: float, low: float, high: float) -> bool:
    """Return whether an interval about zero is no figure: it ends where the metric's range does, or nowhere near.

    Whichever arm the change is relative to.
    """
    for usual, down, up in ((usual_off, low, high), (usual_on, -high, -low)):
        most = scale.change(usual, up)
        if most is None or most > MAX_UNSURE_CHANGE:
            return True
        if scale.leaves_range(usual, down) or scale.leaves_range(usual, up):
            return True
    return False
