"""Measuring again in the same run: what is not known well enough, and one comparison out of both parts.

Whether a scenario is measured again depends on the width of its interval alone, never on where it lies: looking at
the sign, or at what is not significant yet, would find an effect in more than 5 % of the runs without one
(docs/statistics.md has the simulation).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import pandas as pd

from bigtcp_bench.analysis.compare import Comparison, compare_run
from bigtcp_bench.planning.plan import RERUN_ORDER, Plan, blocks, main_metric, rerun_plan


def half_width(comparison: Comparison) -> float | None:
    """Return half of the interval's width as a relative change (0.03 = ±3 % of the ratio), if it has one."""
    low, high = comparison.ci_low, comparison.ci_high
    if low is None or high is None or low <= -1 or comparison.verdict == "invalid":
        return None
    return math.sqrt((1 + high) / (1 + low)) - 1


def too_wide(comparisons: Iterable[Comparison], plan: Plan) -> list[Comparison]:
    """Return the comparisons that stand for their scenario and are not known to the plan's precision yet."""
    if plan.precision is None or plan.is_aa:
        return []
    main = (one for one in comparisons if one.metric == main_metric(one.scenario))
    return [one for one in main if (half_width(one) or 0) > plan.precision]


def wanted(comparisons: Iterable[Comparison], plan: Plan) -> list[str]:
    """Return the scenarios that are worth measuring again, by what the plan's own blocks found.

    Those whose interval is too wide, but will fit into the margin with the generations of another ``plan.again``
    blocks. An interval that will not can neither say "unchanged" nor show an effect of the margin's size, so that
    these minutes would buy no verdict.
    """
    if not plan.again:
        return []
    own, more = (_generations(one) for one in (plan, rerun_plan(plan, plan.scenarios)))
    narrower = math.sqrt(own / (own + more))
    return [
        one.scenario
        for one in too_wide(comparisons, plan)
        if (half_width(one) or 0) * narrower <= plan.thresholds.margin
    ]


def more_generations(comparison: Comparison, precision: float) -> int | None:
    """Return about how many more generations a comparison needs for ``precision``; None if it has no interval.

    An interval narrows with the square root of its generations. As it also gains degrees of freedom, fewer will
    mostly do.
    """
    half = half_width(comparison)
    if half is None:
        return None
    more = (comparison.n_off + comparison.n_on) * ((half / precision) ** 2 - 1)
    return max(0, math.ceil(round(more, 6)))


def pooled(
    own: pd.DataFrame,
    again: pd.DataFrame,
    plan: Plan,
    switch_sds: Mapping[tuple[str, str], float] | None = None,
) -> list[Comparison]:
    """Return the comparisons of what was measured again, by all of its generations in one model.

    ``own`` and ``again`` are ``compare.generation_medians`` of the plan's blocks and of those after them, which
    are numbered as in ``plan.rerun_plan``. Where the first of these has the arm of the last one before, nothing
    was switched between them, and they are one block.
    """
    last = blocks(plan)[-1]
    joined = last.arm == RERUN_ORDER[0]
    later = again.assign(
        block=again["block"] + last.number - joined, position=again["position"] + _generations(plan)
    )
    names = tuple(name for name in plan.scenarios if name in set(again["scenario"]))
    both = pd.concat([own[own["scenario"].isin(names)], later], ignore_index=True)
    measured = plan.model_copy(update={"scenarios": names})
    return compare_run(both, measured, switch_sds=switch_sds)


def replaced(own: Iterable[Comparison], by: Iterable[Comparison]) -> list[Comparison]:
    """Return ``own`` with those of ``by`` in place of the same series, where both may be judged."""
    known = {(one.scenario, one.metric): one for one in by if one.verdict != "invalid"}
    return [one if one.verdict == "invalid" else known.get((one.scenario, one.metric), one) for one in own]


def _generations(plan: Plan) -> int:
    return sum(block.generations for block in blocks(plan))
