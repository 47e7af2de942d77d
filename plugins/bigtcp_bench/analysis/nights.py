"""Two sets of nights against each other: how both arms and the benefit differ between two Cilium versions.

The unit is the night. The two means are compared on the log scale with Welch's interval, which lets the two sets
be of different size and spread. It takes nights for independent: where a cluster drifts slowly, the interval is
narrower than what is really known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import special

from bigtcp_bench.analysis.change import Moved

if TYPE_CHECKING:
    import pandas as pd

Numbers = npt.NDArray[np.floating[Any]]

#: A single night has no spread, and neither have nights that are all the same.
MIN_NIGHTS = 2


@dataclass(frozen=True)
class NightsChange:
    """How one scenario and metric differ between two sets of nights, in both arms and in their ratio."""

    scenario: str
    metric: str
    off: Moved
    on: Moved
    benefit: Moved
    nights_before: int
    nights_after: int


def compare_nights(before: pd.DataFrame, after: pd.DataFrame, level: float = 0.95) -> list[NightsChange]:
    """Return one NightsChange for each scenario and metric that both sets measured, in the order of ``after``.

    Both frames have one row per night, scenario and metric, with off_median, on_median and verdict. Nights whose
    verdict is invalid, or with an arm that is not above zero, are left out.
    """
    earlier, later = _arms(before), _arms(after)
    return [
        NightsChange(
            scenario,
            metric,
            off=_moved(first[:, 0], last[:, 0], level),
            on=_moved(first[:, 1], last[:, 1], level),
            benefit=_moved(first[:, 1] / first[:, 0], last[:, 1] / last[:, 0], level),
            nights_before=len(first),
            nights_after=len(last),
        )
        for (scenario, metric), last in later.items()
        if (first := earlier.get((scenario, metric))) is not None
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


def _moved(before: Numbers, after: Numbers, level: float) -> Moved:
    """Return the geometric means of both sets, and how far the second is from the first."""
    logs = [np.log(values) for values in (before, after)]
    first, last = (math.exp(float(values.mean())) for values in logs)
    low, high = _interval(logs, level)
    return Moved(first, last, last / first - 1, low, high)


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
