"""What measuring again in the same run costs and buys: false positives, power, precision and minutes.

Usage: python -m simulations.again [--runs 1000] [--seed 1] [--processes 2]
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Sequence
from multiprocessing import Pool

import numpy as np
import pandas as pd

from bigtcp_bench.analysis import again
from bigtcp_bench.analysis.compare import Comparison, compare_run
from bigtcp_bench.in_cluster.traffic import KINDS
from bigtcp_bench.planning.duration import estimate, estimate_again
from bigtcp_bench.planning.plan import SCENARIOS, Block, Plan, blocks, load_plan, rerun_plan
from simulations.document import replace_section, table
from simulations.within_run import FULL, LOUD_SWITCH, WORLDS, World, make_generations

#: A machine of its own, with little noise.
CALM = World(
    "calm: 1 % per repetition and generation, 0.5 % per switch", generation=0.01, repetition=0.01, switch=0.005
)
_OTHERS = (
    "no drift, no switch noise",
    "U: ends 6 % above the middle",
    "correlation 0.6 between generations",
    "repetitions with Student's t, 4 df",
)
CASES = (FULL, CALM, *(world for world in WORLDS if world.name in _OTHERS), LOUD_SWITCH)

Rule = Callable[[Sequence[Comparison], Plan], list[str]]


def _nothing(found: Sequence[Comparison], plan: Plan) -> list[str]:
    return []


def _only_within_reach(found: Sequence[Comparison], plan: Plan) -> list[str]:
    """Choose those that another three blocks will bring to the plan's precision."""
    tight = plan.model_copy(update={"thresholds": plan.thresholds.model_copy(update={"margin": plan.precision})})
    return again.wanted(found, tight)


def _too_noisy(found: Sequence[Comparison], plan: Plan) -> list[str]:
    """Choose those that have no verdict yet, which looks at where the interval lies."""
    return [one.scenario for one in again.too_wide(found, plan) if one.verdict == "inconclusive"]


def _far_off_too(found: Sequence[Comparison], plan: Plan) -> list[str]:
    """Choose, besides those of the plan, whatever is more than 5 % off, as if no effect were usual."""
    far = {
        one.scenario
        for one in found
        if one.metric in {kind.headline for kind in KINDS.values()} and abs(one.change or 0) > 0.05
    }
    return [name for name in plan.scenarios if name in far | set(again.wanted(found, plan))]


RULES: tuple[tuple[str, Rule], ...] = (
    ("never", _nothing),
    ("as shipped", again.wanted),
    ("as shipped, and what is far off", _far_off_too),
    ("only what ±3 % is in reach of", _only_within_reach),
    ("what is too noisy to tell", _too_noisy),
)


def extended(plan: Plan) -> list[Block]:
    """Return the blocks of ``plan`` and those after them, neighbours of one arm as one block."""
    planned, later = blocks(plan), blocks(rerun_plan(plan, plan.scenarios))
    last = planned[-1]
    if last.arm == later[0].arm:
        joined = last.model_copy(update={"generations": last.generations + later[0].generations})
        planned, later = [*planned[:-1], joined], later[1:]
    return [*planned, *(block.model_copy(update={"number": len(planned) + n}) for n, block in enumerate(later, 1))]


def split(made: pd.DataFrame, plan: Plan) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the generations of the plan's own blocks, and those after them, numbered as in the re-run's plan."""
    own = sum(block.generations for block in blocks(plan))
    number = np.concatenate(
        [np.full(one.generations, one.number) for one in blocks(rerun_plan(plan, plan.scenarios))]
    )
    later = made[made["position"] >= own]
    place = later["position"] - own
    return made[made["position"] < own], later.assign(position=place, block=number[place.to_numpy(dtype=int)])


def simulate(work: tuple[World, float, int, int, Plan]) -> np.ndarray:
    """Return, for each made-up scenario and each rule: called different, half-width, measured again; minutes."""
    world, effect, seed, frames, plan = work
    random = np.random.default_rng([seed, round(1000 * effect)])
    series = [(name, SCENARIOS[name].kind.headline) for name in plan.scenarios]
    rows = []
    for _ in range(frames):
        made = make_generations(extended(plan), plan.repetitions, world, effect, random, series)
        first, later = split(made, plan)
        own = compare_run(first, plan)
        both = again.replaced(own, again.pooled(first, later, plan))
        for name, metric in series:
            place = next(n for n, one in enumerate(own) if (one.scenario, one.metric) == (name, metric))
            row = []
            for _, rule in RULES:
                due = rule(own, plan)
                one = (both if name in due else own)[place]
                called = one.verdict in ("faster", "slower")
                row.append((called, again.half_width(one), name in due, minutes(plan, due)))
            rows.append(row)
    return np.array(rows, dtype=float)


def minutes(plan: Plan, due: Sequence[str]) -> float:
    """Return the minutes of a night in which nothing is slow and ``due`` are measured again."""
    # Both agents restart at each switch but the first, and when the cluster is put back after an odd number.
    quick = estimate(plan, restarts=2 * (len(blocks(plan)) - 1)).quick_s
    extra = estimate_again(plan.model_copy(update={"scenarios": tuple(due)})).quick_s if due else 0.0
    return (quick + extra) / 60


def main() -> None:
    """Run all cases and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000, help="made-up scenarios per number")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    plan = load_plan("nightly")
    frames = math.ceil(options.runs / len(plan.scenarios) / options.processes)
    rows = []
    with Pool(options.processes, initializer=os.nice, initargs=(10,)) as pool:
        for world in CASES:
            found = []
            for effect in (0.0, math.log1p(0.05)):
                work = [(world, effect, options.seed + index, frames, plan) for index in range(options.processes)]
                found.append(np.concatenate(pool.map(simulate, work)))
            null, five = found
            for place, (label, _) in enumerate(RULES):
                called, half, due, took = null[:, place].T
                rows.append(
                    [
                        world.name,
                        label,
                        f"{called.mean():.3f}",
                        f"{five[:, place, 0].mean():.2f}",
                        f"±{100 * np.nanmedian(half):.1f} %",
                        f"{np.mean(half <= (plan.precision or 0)):.2f}",
                        f"{due.mean():.2f}",
                        f"{took.mean():.0f}",
                    ]
                )
                print(rows[-1], flush=True)
    header = ["world", "measured again", "false positives", "5 % found", "median interval"]
    header += [f"within ±{100 * (plan.precision or 0):g} %", "share measured again", "minutes per night"]
    replace_section(
        "again", f"{table(header, rows)}\n\n{len(null)} made-up scenarios per number, seed {options.seed}."
    )


if __name__ == "__main__":
    main()
