"""Where the nights of a series lie, robustly: level and spread, the night of a change, two levels and not one."""

from __future__ import annotations

import math
import operator
import statistics
from bisect import bisect
from collections.abc import Sequence

#: Values further out than this many (MAD-based) standard deviations do not count for the usual level ...
_TRIM_SDS = 3.0

#: ... and for the usual spread those beyond this many count as if they were there. The factor makes the result
#: right for Gaussian values.
_WINSOR_SDS = 2.0
_WINSOR_FACTOR = 1.042

#: The autocorrelation of neighbouring nights is believed beyond this many of its standard errors, up to a maximum.
_ECHO_ERRORS = 1.0
_MAX_ECHO = 0.8

#: Makes the median absolute deviation of Gaussian values their standard deviation.
_MAD_FACTOR = 1.4826

#: Makes the mean absolute deviation of Gaussian values their standard deviation.
_MEAN_FACTOR = 1.2533

#: The standard error of the median of Gaussian values, in those of their mean.
MEDIAN_FACTOR = 1.2533

#: Fewest nights before a change that can say what was usual.
_MIN_BEFORE = 5

#: Standard errors by which the nights after the best split must differ from those before it: the split was
#: chosen, so three would often be chance. docs/statistics.md has the false alarms of series that begin.
_SPLIT_ERRORS = 4.5

#: Two levels must lie this many standard deviations of the nights around them apart: the halves of a single
#: Gaussian are 2.7 apart.
_MODES_SDS = 4.5

#: Smallest share of the nights at one of two levels, and fewest nights; fewer are outliers.
_MODES_SHARE = 0.15
_MODES_NIGHTS = 3

#: Moves from one level to the other that make two modes: down, up, down, up, and down again. A regression that
#: recovers has two, one that comes back has three.
_MODES_MOVES = 5


def robust_level(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation that single outliers hardly move.

    The mean is of the values within three (MAD-based) standard deviations of the median; for the standard
    deviation, values further out than ``_WINSOR_SDS`` count as if they were there.
    """
    median = statistics.median(values)
    distances = [abs(value - median) for value in values]
    # Where most nights are the same (often: no retransmits at all), the few others are all there is to go by.
    spread = _MAD_FACTOR * statistics.median(distances) or _MEAN_FACTOR * math.fsum(distances) / len(values)
    inside = [value for value in values if abs(value - median) <= _TRIM_SDS * spread]
    centre = math.fsum(inside) / len(inside)
    limit = _WINSOR_SDS * spread
    deviations = [max(-limit, min(limit, value - centre)) for value in values]
    squares = sum(map(operator.mul, deviations, deviations))
    if squares <= 0:
        return centre, 0.0
    # Nights that resemble their neighbours carry less news each; only what cannot be chance is believed.
    echo = sum(map(operator.mul, deviations, deviations[1:])) / squares - _ECHO_ERRORS / math.sqrt(len(values))
    echo = max(0.0, min(_MAX_ECHO, echo))
    variance = squares / max(1, len(values) - 1) * (1 + echo) / (1 - echo)
    return centre, _WINSOR_FACTOR * math.sqrt(variance)


def change_point(deviations: Sequence[float]) -> int:
    """Return the index from which a lower level explains ``deviations`` best (least absolute deviations)."""
    best, best_index, before = math.inf, 0, 0.0
    for index, deviation in enumerate(deviations):
        level = min(0.0, statistics.median(deviations[index:]))
        cost = before + sum(abs(later - level) for later in deviations[index:])
        if cost < best:
            best, best_index = cost, index
        before += abs(deviation)
    return best_index


def changed_at(values: Sequence[float], least: float, least_sd: float) -> int | None:
    """Return the index from which the few ``values`` have another level, or None where that may be chance.

    The levels must differ by ``least`` and by ``_SPLIT_ERRORS`` standard errors; the spread is taken to be at
    least ``least_sd``.
    """
    best, at = math.inf, 0
    for index in range(_MIN_BEFORE, len(values)):
        cost = _distance(values[:index]) + _distance(values[index:])
        if cost < best:
            best, at = cost, index
    if not at:
        return None
    before, after = values[:at], values[at:]
    centres = statistics.median(before), statistics.median(after)
    # Two centres were fitted.
    sd = max(_MEAN_FACTOR * best / (len(values) - 2), least_sd)
    error = sd * math.sqrt(1 / len(before) + 1 / len(after))
    return at if abs(centres[1] - centres[0]) > max(least, _SPLIT_ERRORS * error) else None


def two_modes(values: Sequence[float], least: float) -> tuple[float, float] | None:
    """Return the border between two levels and how far apart they are, where ``values`` move to and fro, or None.

    ``values`` are oldest first. The levels must be ``least`` apart, and far against the spread at each.
    """
    count, ordered = len(values), sorted(values)
    fewest = max(_MODES_NIGHTS, math.ceil(_MODES_SHARE * count))
    if count < 2 * fewest:
        return None
    # The split with the least squares within both parts has the most between them.
    total, left, best, at = math.fsum(ordered), math.fsum(ordered[: fewest - 1]), -math.inf, 0
    for index in range(fewest, count - fewest + 1):
        left += ordered[index - 1]
        between = left * left / index + (total - left) ** 2 / (count - index)
        if between > best:
            best, at = between, index
    border = (statistics.median(ordered[:at]) + statistics.median(ordered[at:])) / 2
    low, high = ordered[: bisect(ordered, border)], ordered[bisect(ordered, border) :]
    gap = statistics.median(high) - statistics.median(low) if low and high else 0.0
    between = sum(abs(value - border) < gap / 4 for value in values)
    if min(len(low), len(high)) < fewest or between >= fewest or moves(values, border, gap) < _MODES_MOVES:
        return None
    sd = _MEAN_FACTOR * (_distance(low) + _distance(high)) / (count - 2)
    return (border, gap) if gap >= max(least, _MODES_SDS * sd) else None


def moves(values: Sequence[float], border: float, gap: float) -> int:
    """Return how often ``values`` go from one side of ``border`` to the other, by a quarter of ``gap``."""
    sides = [value < border for value in values if abs(value - border) >= gap / 4]
    return sum(map(operator.ne, sides, sides[1:]))


def _distance(values: Sequence[float]) -> float:
    """Return the sum of the distances from the median."""
    median = statistics.median(values)
    return sum(abs(value - median) for value in values)
