"""What a run does not know well enough, and what it would take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.planning.plan import Plan, validate_plan
from bigtcp_bench.report import units

if TYPE_CHECKING:
    from bigtcp_bench.analysis.compare import Comparison


def unknown_line(comparisons: Iterable[Comparison], plan: Mapping[str, Any]) -> str:
    """Return which scenarios are not known to the precision of their stored ``plan``; empty where all are.

    Each with how many more pairs of pods it would take, and how much traffic that is.
    """
    from bigtcp_bench.analysis.again import half_width, more_generations, too_wide

    # A plan of before there was a precision asked for none.
    known = _plan(plan) if plan.get("precision") else None
    if known is None or known.precision is None:
        return ""
    repetition_s = known.duration_s + known.omit_s
    told = []
    for one in too_wide(comparisons, known):
        half, more = half_width(one) or 0.0, more_generations(one, known.precision) or 0
        traffic = units.duration(more * known.repetitions * repetition_s)
        told.append(f"{one.scenario} ±{100 * half:.1f} % ({more:,} more pairs of pods, {traffic} of traffic)")
    return f"not known to ±{100 * known.precision:g} %: {'; '.join(told)}" if told else ""


def _plan(stored: Mapping[str, Any]) -> Plan | None:
    try:
        return validate_plan(stored)
    except InvalidInput:  # of another version of this package
        return None
