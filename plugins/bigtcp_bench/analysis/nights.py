"""Two sets of nights against each other: how both arms and the benefit differ between two Cilium versions.

The unit is the night. The two means are compared on the log scale with Welch's interval, which lets the two sets
be of different size and spread. It takes nights for independent: where a cluster drifts slowly, the interval is
narrower than what is really known.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import special

from bigtcp_bench.analysis.change import FIGURES, Moved, ScenarioChange

if TYPE_CHECKING:
    import pandas as pd

Numbers = npt.NDArray[np.floating[Any]]

#: A single night has no spread, and neither have nights that are all the same.
MIN_NIGHTS = 2


def compare_nights(before: pd.DataFrame, after: pd.DataFrame, level: float = 0.95) -> list[ScenarioChange]:
    """Return how each scenario and metric that both sets measured has moved, in the order of ``after``.

    Both frames have one row per night, scenario and metric, with off_median, on_median and verdict. Nights whose
    verdict is invalid, or with an arm that is not above zero, are left out.
    """
    earlier, later = _arms(before), _arms(after)
    pairs = {series: (earlier[series], last) for series, last in later.items() if series in earlier}
    moved = functools.partial(_moved, level=level, figures=FIGURES * len(pairs))
    return [
        ScenarioChange(
            scenario,
            metric,
            off=moved(first[:, 0], last[:, 0]),
            on=moved(first[:, 1], last[:, 1]),
            benefit=moved(first[:, 1] / first[:, 0], last[:, 1] / last[:, 0]),
            runs=len(first) + len(last),
        )
        for (scenario, metric), (first, last) in pairs.items()
    ]


def _arms(frame: pd.DataFrame) -> dict[tuple[str, str], Numbers]:
    usable = frame[frame["verdict"] != "invalid"]
    values = usable[["off_median", "on_median"]].to_numpy(dtype=float)
    kept = (np.isfinite(values) & (values > 0)).all(axis=1)
    places: dict[tuple[str, str], list[int]] = {}
    for place, (scenario, metric) in enumerate(
        zip(usable["scenario"].tolist(), usable["metric"].tolist(), strict=True)
    ):
        of_series = places.setdefault((str(scenario), str(metric)), [])
        if kept[place]:
            of_series.append(place)
    return {series: values[at] for series, at in places.items() if at}


def _moved(before: Numbers, after: Numbers, level: float, figures: int) -> Moved:
    """Return the geometric means of both sets, and how far the second is from the first."""
    logs = [np.log(values) for values in (before, after)]
    first, last = (math.exp(float(values.mean())) for values in logs)
    low, high = _interval(logs, level)
    # Of so many intervals some miss zero by chance: these hold at once (Bonferroni).
    lowest, highest = _interval(logs, 1 - (1 - level) / figures)
    beyond_chance = lowest is not None and highest is not None and not lowest <= 0 <= highest
    return Moved(first, last, last / first - 1, low, high, beyond_chance)


def _interval(logs: Sequence[Numbers], level: float) -> tuple[float | None, float | None]:
    """Return Welch's interval of the second mean minus the first, as relative changes."""
    if any(len(values) < MIN_NIGHTS or np.ptp(values) == 0 for values in logs):
        return None, None
    errors = [float(values.var(ddof=1)) / len(values) for values in logs]
    total = sum(errors)
    df = total**2 / sum(error**2 / (len(values) - 1) for error, values in zip(errors, logs, strict=True))
    half = float(special.stdtrit(df, 0.5 + level / 2)) * math.sqrt(total)
    estimate = float(logs[1].mean() - logs[0].mean())
    return math.expm1(estimate - half), math.expm1(estimate + half)
