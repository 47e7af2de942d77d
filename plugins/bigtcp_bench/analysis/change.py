"""Before and after a change of the cluster: how both arms and the benefit moved from one run to another.

A run's own interval says how well it knows its two arms, not how much two runs differ when nothing has changed.
That is measured by the runs before: how much each of them differed from the one before it. Neighbours are
compared, rather than each run with the mean, so that a slow drift of the cluster does not count.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import special

from bigtcp_bench.planning.plan import SCENARIOS
from bigtcp_bench.planning.thresholds import Thresholds

if TYPE_CHECKING:
    import pandas as pd

Numbers = npt.NDArray[np.floating[Any]]

#: Fewer runs before the change say too little about how much runs differ for an interval to mean anything.
MIN_RUNS = 8
#: Runs before the change that are asked, newest first: more would reach into other times.
MAX_RUNS = 30
#: What is compared of each series: both arms, and their ratio.
FIGURES = 3


@dataclass(frozen=True)
class Moved:
    """One figure before and after; ``change`` is after/before − 1, ``low`` and ``high`` its interval.

    For the benefit, ``before`` and ``after`` are on/off. The interval is None where too few runs are known.
    ``beyond_chance``: zero is excluded by an interval so wide that those of all figures of the comparison hold at
    once; of single ones some miss zero by chance.
    """

    before: float
    after: float
    change: float
    low: float | None = None
    high: float | None = None
    beyond_chance: bool = False


@dataclass(frozen=True)
class ScenarioChange:
    """One metric of one scenario in both arms, and the ratio of the arms. ``runs`` gave the interval."""

    scenario: str
    metric: str
    off: Moved
    on: Moved
    benefit: Moved
    runs: int


def compare_runs(
    before: pd.DataFrame,
    after: pd.DataFrame,
    history: pd.DataFrame,
    scenarios: Sequence[str],
    thresholds: Thresholds,
) -> list[ScenarioChange]:
    """Return how the headline metric of each of ``scenarios`` moved; scenarios without both arms are left out.

    ``before`` and ``after`` have one row per scenario and metric with off_median, on_median and verdict; so has
    ``history``, of earlier runs like ``before``, oldest first, ``before`` among them.
    """
    ends = [_arms(frame) for frame in (before, after)]
    earlier = _arms(history)
    pairs = {}
    for scenario in scenarios:
        arms = [of.get((scenario, SCENARIOS[scenario].kind.headline), []) for of in ends]
        if all(len(of) == 1 for of in arms):
            pairs[scenario] = arms[0][0], arms[1][0]
    changes = []
    for scenario, (first, last) in pairs.items():
        metric = SCENARIOS[scenario].kind.headline
        past = np.array(earlier.get((scenario, metric), [])[-MAX_RUNS:]).reshape(-1, 2)
        moved = functools.partial(_moved, thresholds=thresholds, figures=FIGURES * len(pairs))
        changes.append(
            ScenarioChange(
                scenario,
                metric,
                off=moved(first[0], last[0], past[:, 0]),
                on=moved(first[1], last[1], past[:, 1]),
                benefit=moved(first[1] / first[0], last[1] / last[0], past[:, 1] / past[:, 0]),
                runs=len(past),
            )
        )
    return changes


def _arms(frame: pd.DataFrame) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """Return scenario and metric → the medians of off and on of each run, where both are above zero and judged."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    columns = (frame[name].tolist() for name in ("scenario", "metric", "verdict", "off_median", "on_median"))
    for scenario, metric, verdict, off, on in zip(*columns, strict=True):
        # What is not known is not above zero either.
        if verdict != "invalid" and 0 < off < math.inf and 0 < on < math.inf:
            found.setdefault((scenario, metric), []).append((off, on))
    return found


def _moved(before: float, after: float, past: Numbers, thresholds: Thresholds, figures: int) -> Moved:
    low, high, beyond_chance = None, None, False
    if len(past) >= MIN_RUNS:
        estimate = math.log(after / before)
        half = usual_difference(past, thresholds)
        low, high = math.expm1(estimate - half), math.expm1(estimate + half)
        beyond_chance = abs(estimate) > usual_difference(past, thresholds, figures)
    change = float(after / before - 1)
    return Moved(float(before), float(after), change, low, high, beyond_chance)


def usual_difference(past: Numbers, thresholds: Thresholds, figures: int = 1) -> float:
    """Return how far apart two neighbouring runs may be by chance, as a logarithm, at the level of confidence.

    With ``figures`` that is the level at which so many hold at once (Bonferroni). ``past`` are the values of the
    runs before, oldest first, at least MIN_RUNS of them.
    """
    steps = np.diff(np.log(past))
    # As for a single night's spread: however quiet they were. A difference has the variance of two runs.
    spread = max(float(np.sqrt(np.mean(steps**2))), thresholds.min_sd * math.sqrt(2))
    # Neighbouring differences share a run, so they say less than as many independent ones would: von Neumann's
    # mean square successive difference of n values has the variance of a chi-square with this many degrees.
    df = 2 * (len(past) - 1) ** 2 / (3 * len(past) - 4)
    return float(special.stdtrit(df, 1 - (1 - thresholds.confidence_level) / (2 * figures))) * spread
