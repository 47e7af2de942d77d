"""The cluster's own noise: what A/A runs have stored of it, and what it says about the size of a plan."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bigtcp_bench.analysis.noise import Level, Noise, pool_noise, smallest_detectable_change, suggest
from bigtcp_bench.planning.plan import TELLING_BLOCKS, Arm, Plan, blocks, main_metric

if TYPE_CHECKING:
    from bigtcp_bench.warehouse.store import Warehouse


@dataclass(frozen=True)
class Advice:
    """What the known noise of one scenario and metric means for a plan.

    The relative standard deviations are None where they were not measured. ``detects`` is the smallest change that
    the plan sees as it is; ``order``, ``generations`` and ``repetitions`` are suggested to see the margin, and
    ``would_detect`` is what these see: more than the margin where only more blocks would help.
    """

    scenario: str
    metric: str
    repetition_sd: float | None
    generation_sd: float | None
    switch_sd: float | None
    detects: float | None
    order: str
    generations: int
    repetitions: int
    would_detect: float | None


def known_noise(warehouse: Warehouse, cluster: str, run: int | None = None) -> list[Noise]:
    """Return the newest noise that A/A runs have measured on ``cluster``; empty before the first of them.

    With ``run``, only what of that is from this run.
    """
    frame = warehouse.noise_frame(cluster)
    if run is not None:
        frame = frame[frame["run_id"] == run]
    frame = frame[frame["n"].notna() & frame["n"].gt(0).fillna(False)]
    columns = (frame[name] for name in ("scenario", "metric", "level", "sd", "n"))
    return [
        Noise(scenario, metric, level, float(sd), int(n))
        for scenario, metric, level, sd, n in zip(*columns, strict=True)
    ]


def advice(noises: Iterable[Noise], plan: Plan) -> list[Advice]:
    """Return the advice for every scenario of ``plan`` and every judged metric whose noise is known.

    An A/A plan is taken as one that compares the arms in ``TELLING_BLOCKS``.
    """
    enough = _with_enough_blocks(plan)
    if plan.is_aa:
        plan = enough
    known = list(noises)
    sds: dict[tuple[str, str], dict[Level, float]] = {}
    for noise in pool_noise(known):
        sds.setdefault((noise.scenario, noise.metric), {})[noise.level] = noise.sd
    found = []
    for item in suggest(known, enough):
        of = sds[item.scenario, item.metric]
        found.append(
            Advice(
                scenario=item.scenario,
                metric=item.metric,
                repetition_sd=of.get("repetition"),
                generation_sd=of.get("generation"),
                switch_sd=of.get("switch"),
                detects=smallest_detectable_change(of, plan),
                order=",".join(enough.order),
                generations=item.generations,
                repetitions=item.repetitions,
                would_detect=item.smallest_detectable_change
                if math.isfinite(item.smallest_detectable_change)
                else None,
            )
        )
    return sorted(found, key=lambda one: (plan.scenarios.index(one.scenario), one.metric))


def _with_enough_blocks(plan: Plan) -> Plan:
    """Return ``plan`` with ``TELLING_BLOCKS`` where it has fewer: no number of generations makes up for them."""
    if not plan.is_aa and len(blocks(plan)) >= TELLING_BLOCKS:
        return plan
    first = plan.order[0]
    other: Arm = "on" if first == "off" else "off"
    return plan.model_copy(update={"order": tuple((first, other)[n % 2] for n in range(TELLING_BLOCKS))})


def headlines(found: Iterable[Advice]) -> list[Advice]:
    """Return the advice on the one metric that stands for each scenario; a plan is sized by these."""
    return [one for one in found if one.metric == main_metric(one.scenario)]


def shortfall(noises: Iterable[Noise], plan: Plan) -> str | None:
    """Return the sentence that says what ``plan`` cannot see and what would, or None if it sees the margin."""
    wanting = [
        one
        for one in headlines(advice(noises, plan))
        if one.detects is None or one.detects > plan.thresholds.margin
    ]
    if not wanting:
        return None
    worst = max(wanting, key=lambda one: math.inf if one.detects is None else one.detects)
    generations = max(one.generations for one in wanting)
    repetitions = max(one.repetitions for one in wanting)
    sees = "no change at all" if worst.detects is None else f"changes from {worst.detects:.1%}"
    then = max((one.would_detect for one in wanting if one.would_detect is not None), default=None)
    would = f", which would see changes from {then:.1%}" if then is not None else ""
    more = "" if worst.order == ",".join(plan.order) else f"the order {worst.order} with "
    return (
        f"by the noise of earlier A/A runs this plan sees {sees} in {worst.scenario}; suggested are {more}"
        f"{generations} generations of {repetitions} repetitions (the plan has {plan.generations} of "
        f"{plan.repetitions}{f' in {len(blocks(plan))} blocks' if more else ''}){would}"
    )


def noise_line(one: Advice) -> str:
    """Return the noise of one scenario at its levels, in one line for people."""
    levels = (
        ("repetition", one.repetition_sd),
        ("generation", one.generation_sd),
        ("switch", one.switch_sd),
    )
    spread = ", ".join(f"{sd:.1%} per {level}" for level, sd in levels if sd is not None)
    detects = f"; this plan's size sees changes from {one.detects:.1%}" if one.detects is not None else ""
    return f"noise of {one.scenario}, {one.metric}: {spread}{detects}"
