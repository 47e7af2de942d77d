"""Measure a cluster's own noise from A/A runs, and size the runs that follow by it.

Noise has three levels: repetitions within a generation (one pod pair), generations within a block, and blocks
(each begins with a switch or restart). Their variances are estimated by a nested analysis of variance with a
linear drift; the optimal count of repetitions is Kalibera and Jones' (Rigorous benchmarking in reasonable time,
2013).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from bigtcp_bench.analysis.compare import SWITCH_PRIOR_DF, contrast_of_plan, effective_df
from bigtcp_bench.analysis.scales import FloatArray
from bigtcp_bench.planning.metrics import METRICS, metrics_of
from bigtcp_bench.planning.plan import SCENARIOS, Plan, blocks, turn_of
from bigtcp_bench.planning.thresholds import Thresholds

Level = Literal["repetition", "generation", "switch"]

#: Bounds of the plan's fields ``generations`` and ``repetitions``.
MAX_COUNT = 20

#: Seconds to create a pod pair.
GENERATION_S = 15.0


@dataclass(frozen=True)
class Noise:
    """Relative standard deviation ``sd`` at one level for one scenario and metric, from ``n`` degrees of freedom.

    Relative to the mean for linear metrics, of the logarithm for the others. Where a level could not be measured
    (one repetition per generation, one block) there is no such row; its noise is then part of the level above.
    """

    scenario: str
    metric: str
    level: Level
    sd: float
    n: int


@dataclass(frozen=True)
class Suggestion:
    """How often to measure one metric of one scenario on a cluster whose noise is known.

    ``repetitions`` per generation is Kalibera and Jones' count for the least time; ``generations`` is the least
    number that detects the margin, or MAX_COUNT if none does: then only more blocks help.
    ``smallest_detectable_change`` is what it detects.
    """

    scenario: str
    metric: str
    repetitions: int
    generations: int
    smallest_detectable_change: float


def measure_noise(frame: pd.DataFrame, plan: Plan) -> list[Noise]:
    """Return the noise of an A/A run (or of any run: then the effect of the arms is taken out first).

    ``frame`` is the results frame of ``compare.compare_run``. Metrics that were zero or less on the log scale, or
    zero throughout, have no relative noise and no rows.
    """
    result: list[Noise] = []
    keys = [(block.number, turn) for block in blocks(plan) for turn in range(block.generations)]
    position_of = {key: position for position, key in enumerate(keys)}
    on_of = {block.number: block.arm == "on" for block in blocks(plan)}
    series = {(str(name), str(metric)): rows for (name, metric), rows in frame.groupby(["scenario", "metric"])}
    for name in plan.scenarios:
        for metric in metrics_of(SCENARIOS[name].traffic):
            rows = series.get((name, metric.name))
            if rows is None:
                continue
            values = rows["value"].to_numpy(dtype=float)
            if metric.scale == "log":
                if values.min() <= 0:
                    continue
                scaled = np.log(values)
            else:
                mean = abs(values.mean())
                if mean == 0:
                    continue
                scaled = values / mean
            cells: dict[tuple[int, int], list[float]] = {}
            for *cell, value in zip(rows["block"].tolist(), rows["generation"].tolist(), scaled, strict=True):
                cells.setdefault((cell[0], turn_of(plan, cell[1])), []).append(value)
            planned = {cell: values for cell, values in sorted(cells.items()) if cell in position_of}
            position = np.array([position_of[cell] for cell in planned], dtype=float)
            block = np.array([number for number, _ in planned])
            # In an A/A run the blocks' differences are what is measured, not an effect to take out.
            on = np.array([0.0 if plan.is_aa else on_of[number] for number, _ in planned])
            result += [
                Noise(name, metric.name, level, math.sqrt(max(0.0, variance)), n)
                for level, (variance, n) in _components(list(planned.values()), block, position, on).items()
            ]
    return result


def _components(
    cells: Sequence[Sequence[float]],
    block: npt.NDArray[np.int64],
    position: FloatArray,
    on: FloatArray,
) -> dict[Level, tuple[float, int]]:
    """Return variance and degrees of freedom of each level that the data can tell (Henderson's method III).

    ``cells`` has the repetitions of each generation.
    """
    found: dict[Level, tuple[float, int]] = {}
    counts = np.array([len(values) for values in cells], dtype=float)
    values = np.array([sum(values) for values in cells]) / counts
    repetition, df_repetition = 0.0, int((counts - 1).sum())
    if df_repetition:
        squares = sum((one - mean) ** 2 for of, mean in zip(cells, values, strict=True) for one in of)
        repetition = float(squares) / df_repetition
        found["repetition"] = (repetition, df_repetition)
    members = np.equal.outer(block, np.unique(block)).astype(float)
    fixed = np.column_stack([np.ones(len(values)), position, on])
    rest_fixed, df_fixed = _residual(fixed, values)
    rest_all, df_all = _residual(np.column_stack([fixed, members]), values)
    if df_all < 1:
        return found
    generation_means = rest_all / df_all
    found["generation"] = (generation_means - repetition * float((1 / counts).mean()), df_all)
    df_blocks = df_fixed - df_all
    if df_blocks > 0:
        projection = np.eye(len(values)) - fixed @ np.linalg.pinv(fixed)
        weight = float(np.trace(members.T @ projection @ members))
        found["switch"] = ((rest_fixed - generation_means * df_fixed) / weight, df_blocks)
    return found


def _residual(design: FloatArray, values: FloatArray) -> tuple[float, int]:
    """Return the residual sum of squares and its degrees of freedom."""
    rank = int(np.linalg.matrix_rank(design))
    residuals = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return float(residuals @ residuals), len(values) - rank


def pool_noise(noises: Iterable[Noise]) -> list[Noise]:
    """Return one row per scenario, metric and level: the runs' variances, weighted by their degrees of freedom."""
    groups: dict[tuple[str, str, Level], list[Noise]] = {}
    for noise in noises:
        groups.setdefault((noise.scenario, noise.metric, noise.level), []).append(noise)
    pooled = []
    for (scenario, metric, level), rows in groups.items():
        n = sum(row.n for row in rows)
        variance = sum(row.sd**2 * row.n for row in rows) / n
        pooled.append(Noise(scenario, metric, level, math.sqrt(variance), n))
    return pooled


def switch_sds(noises: Iterable[Noise], thresholds: Thresholds) -> dict[tuple[str, str], float]:
    """Return, for (scenario, metric), the spread of a switch that ``compare_run`` should reckon with.

    What A/A runs measured, and ``thresholds.switch_sd`` with the weight of ``SWITCH_PRIOR_DF`` more of them.
    """
    assumed = SWITCH_PRIOR_DF * thresholds.switch_sd**2
    return {
        (noise.scenario, noise.metric): math.sqrt((assumed + noise.n * noise.sd**2) / (SWITCH_PRIOR_DF + noise.n))
        for noise in pool_noise(noises)
        if noise.level == "switch"
    }


def smallest_detectable_change(
    sds: Mapping[Level, float], plan: Plan, generations: int | None = None, repetitions: int | None = None
) -> float | None:
    """Return the relative change that ``plan`` detects with ``thresholds.power``, given the noise per level.

    ``generations`` and ``repetitions`` replace the plan's. None if the plan is too small to detect anything.
    """
    thresholds = plan.thresholds
    sized = plan.model_copy(update={"generations": generations or plan.generations})
    contrast = contrast_of_plan(sized)
    if contrast is None:
        return None
    generation_variance = sds.get("generation", 0.0) ** 2
    generation_variance += sds.get("repetition", 0.0) ** 2 * _median_variance(repetitions or plan.repetitions)
    switch = sds.get("switch", thresholds.switch_sd)
    _, total, noise = contrast.estimator(generation_variance, switch**2, thresholds.bend_sd**2)
    df = effective_df(contrast.df, noise, total)
    quantiles = special.stdtrit(df, 0.5 + thresholds.confidence_level / 2) + special.stdtrit(df, thresholds.power)
    return math.expm1(min(700.0, float(quantiles) * math.sqrt(total)))


def suggest(noises: Iterable[Noise], plan: Plan) -> list[Suggestion]:
    """Return how often to measure, for each scenario and judged metric of ``plan`` whose noise is known."""
    by_series: dict[tuple[str, str], dict[Level, float]] = {}
    for noise in pool_noise(noises):
        by_series.setdefault((noise.scenario, noise.metric), {})[noise.level] = noise.sd
    repetition_s = float((plan.duration_s + plan.omit_s) * len(plan.scenarios))
    result = []
    for (scenario, metric), sds in by_series.items():
        if scenario not in plan.scenarios or "generation" not in sds or not METRICS[metric].judged:
            continue
        repetitions = _optimal(GENERATION_S / repetition_s, sds.get("repetition", 0.0), sds["generation"])
        generations, change = MAX_COUNT, math.inf
        for count in range(1, MAX_COUNT + 1):
            detectable = smallest_detectable_change(sds, plan, count, repetitions)
            if detectable is None:
                continue
            generations, change = count, detectable
            if detectable <= plan.thresholds.margin:
                break
        result.append(Suggestion(scenario, metric, repetitions, generations, change))
    return result


def _optimal(cost_ratio: float, sd: float, sd_above: float) -> int:
    """Return ceil(sqrt(cost above / cost × variance / variance above)): how often to repeat below a level."""
    if sd == 0:
        return 1
    if sd_above == 0:
        return MAX_COUNT
    return max(1, min(MAX_COUNT, math.ceil(math.sqrt(cost_ratio) * sd / sd_above)))


def _median_variance(count: int) -> float:
    """Return the variance of the median of ``count`` Gaussian values of variance 1 (from 3 on, nearly)."""
    return 1 / count if count < 3 else math.pi / (2 * (count + 0.5))
