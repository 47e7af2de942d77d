"""Ask apache-otava, an optional package, whether a series fell: a second opinion before a regression is called."""

from __future__ import annotations

from collections.abc import Sequence

from bigtcp_bench.errors import PreconditionFailed
from bigtcp_bench.planning.plan import Thresholds

#: With a second opinion the CUSUM may speak earlier: its limit is multiplied by this.
CUSUM_SHARE = 0.8

#: Otava's p value for one change point, the one of the vote whose simulation is in docs/generated/simulations.md.
_MAX_P_VALUE = 0.001

#: Nights that must lie after a change point: Otava takes one or two bad last nights for one.
_MIN_AFTER = 3

#: Twice the distance between changes that are to be told apart, in nights.
_WINDOW = 50


def fell(values: Sequence[float], at: int, by: float, thresholds: Thresholds) -> bool:
    """Return whether Otava, too, sees ``values`` fall by at least ``by`` around index ``at``.

    ``values`` are oldest first and higher is better; "around" is within ``thresholds.incident_nights``. Raises
    PreconditionFailed when the package is not installed.
    """
    try:
        from otava.series import AnalysisOptions, Metric, Series
    except ImportError as error:
        raise PreconditionFailed(
            "use_otava is on but apache-otava is not installed; install bigtcp-bench[otava] or turn it off"
        ) from error
    options = AnalysisOptions()
    options.window_len, options.max_pvalue, options.min_magnitude = _WINDOW, _MAX_P_VALUE, 0.0
    # Lists, not arrays: Otava ignores its windows for arrays. No gaps: missing nights are not in the series.
    series = Series(
        "series",
        None,
        list(range(len(values))),
        {"value": Metric(1, 1.0)},
        {"value": [float(v) for v in values]},
        {},
    )
    return any(
        abs(int(group.index) - at) <= thresholds.incident_nights
        and len(values) - int(group.index) >= _MIN_AFTER
        and float(change.stats.mean_1) - float(change.stats.mean_2) >= by
        for group in series.analyze(options).change_points_by_time
        for change in group.changes
    )
