"""Compare the two arms within one run: results frame in, one verdict per scenario and metric out.

The unit of analysis is the generation (one fresh pod pair): repetitions inside a generation share its luck, so
they are reduced to their median first. The arms are compared by a linear model over the generations

    value = usual + difference × (arm is on) + drift × (position in the run) + switch + generation

on the log scale for ratios, or on the linear scale for metrics where zero is an ordinary value. The drift term
keeps a warming or filling machine from looking like an effect of the arm, and the spread that each switch of arms
adds is part of the interval. docs/statistics.md shows by simulation what the alternatives would have cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from bigtcp_bench.planning.metrics import Metric, metrics_of
from bigtcp_bench.planning.plan import SCENARIOS, Plan, Thresholds, blocks

Verdict = Literal["faster", "slower", "equivalent", "inconclusive", "invalid", "evidence"]

#: Residual degrees of freedom below which the drift term costs more than it explains; designs whose arms are
#: not balanced over time need it all the same.
MIN_DF_FOR_DRIFT = 3

#: Correlation of arm and position above which a design counts as unbalanced (off,on has about 0.87).
BALANCED_CORRELATION = 0.2

#: Satterthwaite's formula is fed with estimates; a lucky small one must not promise more than this many times the
#: degrees of freedom that there are (without the limit, 12 % false positives with 1 + 2 + 1 generations).
MAX_DF_FACTOR = 3.0

FloatArray = npt.NDArray[np.float64]


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
    frame: pd.DataFrame,
    plan: Plan,
    thresholds: Thresholds | None = None,
    *,
    run_reasons: Sequence[str] = (),
    scenario_reasons: Mapping[str, Sequence[str]] | None = None,
    switch_sds: Mapping[tuple[str, str], float] | None = None,
    generations: pd.DataFrame | None = None,
) -> list[Comparison]:
    """Return one Comparison for each scenario of ``plan`` and each metric of it, in the plan's order.

    ``frame`` has the columns block, arm, generation, scenario, repetition, metric and value (failed repetitions
    have no rows). ``thresholds`` default to the plan's. ``run_reasons`` (of the whole run) and
    ``scenario_reasons`` (by scenario) make verdicts ``invalid``; the numbers are kept as evidence. ``switch_sds``
    is what A/A runs measured for (scenario, metric); without it ``thresholds.switch_sd`` is assumed.
    ``generations`` are the ``generation_medians`` of ``frame``, where they are known already.

    In an A/A run the odd blocks take the place of off and the even ones that of on: whatever differs is noise.
    """
    thresholds = thresholds or plan.thresholds
    series = series_of(generation_medians(frame, plan) if generations is None else generations)
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

    Columns: scenario, metric, block, generation, value, ``on`` (whether it stands for arm on) and ``position``
    (number of the generation in the run, from 0, as planned: a missing one leaves a gap). Rows of other scenarios
    than the plan's, such as the control, are left out.
    """
    planned = blocks(plan)
    first_position, total = {}, 0
    for block in planned:
        first_position[block.number] = total
        total += block.generations
    is_on = {block.number: block.number % 2 == 0 if plan.is_aa else block.arm == "on" for block in planned}
    wanted = frame["block"].isin(first_position) & frame["scenario"].isin(plan.scenarios)
    finite = frame[np.isfinite(frame["value"].to_numpy(dtype=float)) & wanted]
    medians = finite.groupby(["scenario", "metric", "block", "generation"], as_index=False, sort=True)[
        "value"
    ].median()
    medians["on"] = medians["block"].map(is_on).astype(bool)
    medians["position"] = medians["block"].map(first_position).astype(int) + medians["generation"].astype(int) - 1
    return medians


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
    places: Mapping[Any, Any] = generations.groupby(["scenario", "metric"], sort=False).indices
    return {
        (str(scenario), str(metric)): SeriesOfRun(value[at], on[at], position[at], block[at])
        for (scenario, metric), at in places.items()
    }


@dataclass(frozen=True)
class Contrast:
    """The linear model of one design (which generation stands where), before any value is known.

    ``design`` has one row per generation: 1, arm is on, and the position from 0 to 1 if ``has_drift``. The
    difference of the arms is ``weights`` · values, with ``df`` residual degrees of freedom.
    """

    design: FloatArray
    weights: FloatArray
    df: int
    has_drift: bool

    def switch_weight(self, block: FloatArray) -> float:
        """Return the factor from the variance of a switch to its part in the variance of the difference."""
        return float(sum(self.weights[block == number].sum() ** 2 for number in np.unique(block)))


@dataclass(frozen=True)
class Layout:
    """Where each generation of a plan stands: arrays with one entry per generation, in the order of the run."""

    on: npt.NDArray[np.bool_]
    position: FloatArray
    block: FloatArray


def layout_of(plan: Plan) -> Layout:
    """Return the layout of ``plan`` with nothing missing; in an A/A run the even blocks stand for arm on."""
    numbers = np.array([block.number for block in blocks(plan) for _ in range(block.generations)], dtype=float)
    on = [
        block.number % 2 == 0 if plan.is_aa else block.arm == "on"
        for block in blocks(plan)
        for _ in range(block.generations)
    ]
    return Layout(np.array(on, dtype=bool), np.arange(len(numbers), dtype=float), numbers)


def contrast_of(on: npt.NDArray[np.bool_], position: FloatArray) -> Contrast | None:
    """Return the contrast of on against off in the model of this module, or None if the design cannot say."""
    return _contrast_of(np.asarray(on, dtype=bool).tobytes(), np.asarray(position, dtype=float).tobytes())


# All metrics of a run have the same few designs.
@lru_cache(maxsize=256)
def _contrast_of(on_bytes: bytes, position_bytes: bytes) -> Contrast | None:
    on, position = np.frombuffer(on_bytes, dtype=bool), np.frombuffer(position_bytes, dtype=float)
    n = len(on)
    if n < 3 or on.all() or not on.any():
        return None
    columns = [np.ones(n), on.astype(float)]
    has_drift = _wants_drift(on, position)
    if has_drift:
        columns.append((position - position.min()) / (position.max() - position.min()))
    design = np.column_stack(columns)
    df = n - design.shape[1]
    if df < 1 or np.linalg.matrix_rank(design) < design.shape[1]:
        return None
    return Contrast(design, np.linalg.pinv(design)[1], df, has_drift)


def effective_df(df: int, noise: float, total: float) -> float:
    """Return Satterthwaite's degrees of freedom of ``total`` variance, of which only ``noise`` was estimated."""
    return df * (min((total / noise) ** 2, MAX_DF_FACTOR) if noise > 0 else MAX_DF_FACTOR)


def estimate_difference(
    values: FloatArray, on: npt.NDArray[np.bool_], position: FloatArray, block: FloatArray, switch_sd: float
) -> Difference | None:
    """Return the difference of the arms in the model of this module, or None if the data cannot say.

    All arrays have one entry per generation; ``values`` are on the scale of the model and ``switch_sd`` is too.
    The switches' spread is known beforehand, not estimated here: a run of three blocks has no degree of freedom
    left for it.
    """
    contrast = contrast_of(on, position)
    if contrast is None:
        return None
    coefficients = np.linalg.lstsq(contrast.design, values, rcond=None)[0]
    residuals = values - contrast.design @ coefficients
    # Rounding leaves residuals of some 1e-16 where the values are all the same.
    variance = float(residuals @ residuals) / contrast.df if np.ptp(values) > 0 else 0.0
    noise = variance * float(contrast.weights @ contrast.weights)
    total = noise + switch_sd**2 * contrast.switch_weight(block)
    return Difference(
        estimate=float(coefficients[1]),
        standard_error=math.sqrt(total),
        df=effective_df(contrast.df, noise, total),
        drift=float(coefficients[2]) if contrast.has_drift else None,
    )


def _wants_drift(on: npt.NDArray[np.bool_], position: FloatArray) -> bool:
    """Return whether the drift term belongs into the model of this design."""
    if np.ptp(position) == 0:
        return False
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
    off_median = float(np.median(values[~on])) if n_off else None
    on_median = float(np.median(values[on])) if n_on else None
    missing = " and ".join(arm for arm, count in (("off", n_off), ("on", n_on)) if not count)
    if missing:
        reasons = (*reasons, f"{metric.name} of {scenario} was not measured in arm {missing}")
    elif metric.scale == "log" and values.min() <= 0:
        reasons = (
            *reasons,
            f"{metric.name} of {scenario} is {values.min():g} {metric.unit} in a generation; "
            "only values above 0 can be compared as a ratio (measure longer)",
        )

    difference = None
    # Relative changes refer to the off arm; None where that is zero.
    reference: float | None = None
    linear_scale = 1.0
    if not missing and metric.scale == "linear":
        reference = float(values[~on].mean())
        # Half of each arm: the same number when the arms are swapped, so that the verdict is mirrored exactly.
        linear_scale = float((abs(values[~on].mean()) + abs(values[on].mean())) / 2)
        difference = _difference(series, values, switch_sd * linear_scale)
    elif not missing and values.min() > 0:
        difference = _difference(series, np.log(values), switch_sd)

    def relative(value: float) -> float | None:
        if metric.scale == "log":
            return math.expm1(min(value, 700.0))
        if value == 0:
            return 0.0
        return value / abs(reference) if reference else None

    fields = {
        "scenario": scenario,
        "metric": metric.name,
        "off_median": off_median,
        "on_median": on_median,
        "level": thresholds.confidence_level,
        "margin": thresholds.margin,
        "n_off": n_off,
        "n_on": n_on,
    }
    if difference is None:
        change = on_median / off_median - 1 if off_median and on_median is not None else None
        verdict: Verdict = "inconclusive"
        if reasons:
            verdict = "invalid"
        else:
            reasons = (
                f"{n_off} and {n_on} generations are too few to tell a change from noise; raise generations",
            )
        return Comparison(
            **fields,  # type: ignore[arg-type]
            change=change,
            ci_low=None,
            ci_high=None,
            smallest_detectable_change=None,
            p_value=None,
            verdict=verdict,
            reasons=reasons,
        )

    low, high = difference.interval(thresholds.confidence_level)
    smallest = relative(difference.smallest_detectable(thresholds.confidence_level, thresholds.power))
    # The margin is symmetric on the model's scale: a ratio of 1 + margin, or of 1 / (1 + margin).
    margin = math.log1p(thresholds.margin) if metric.scale == "log" else thresholds.margin * linear_scale
    verdict, below_margin = _verdict(difference, metric, thresholds.confidence_level, margin)
    if reasons:
        verdict, below_margin = "invalid", False
    elif verdict == "inconclusive":
        seen = f"{smallest:.1%}" if smallest is not None else f"more than zero {metric.unit}"
        reasons = (f"this run could have seen a change of {seen} or more",)
    return Comparison(
        **fields,  # type: ignore[arg-type]
        change=relative(difference.estimate),
        ci_low=relative(low),
        ci_high=relative(high),
        smallest_detectable_change=smallest,
        p_value=difference.p_value(),
        verdict=verdict,
        reasons=reasons,
        below_margin=below_margin,
        drift=relative(difference.drift) if difference.drift is not None else None,
    )


def _difference(series: SeriesOfRun, values: FloatArray, switch_sd: float) -> Difference | None:
    return estimate_difference(values, series.on, series.position, series.block, switch_sd)


def _verdict(difference: Difference, metric: Metric, level: float, margin: float) -> tuple[Verdict, bool]:
    """Return the verdict and whether the change, though real, is below the margin."""
    if not metric.judged:
        return "evidence", False
    low, high = difference.interval(level)
    if low > 0 or high < 0:
        rises = difference.estimate > 0
        better = rises == (metric.better == "higher")
        return ("faster" if better else "slower"), abs(difference.estimate) < margin
    # Two one-sided tests, each at 1 − level: the interval at 2 × level − 1 lies inside the margins.
    inner_low, inner_high = difference.interval(2 * level - 1)
    if (-margin < inner_low and inner_high < margin) or difference.standard_error == 0:
        return "equivalent", False
    return "inconclusive", False
