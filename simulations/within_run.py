"""How often ``compare`` is wrong about one run: false positives, coverage, bias and power of each block order.

Usage: python -m simulations.within_run [--runs 10000] [--seed 1] [--processes 2]
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import Pool
from unittest import mock

import numpy as np
import pandas as pd

from bigtcp_bench.analysis import compare
from bigtcp_bench.planning.metrics import metrics_of
from bigtcp_bench.planning.plan import SCENARIOS, Plan, blocks, validate_plan
from simulations.document import replace_section, table

#: Every ratio metric of every scenario is one independent made-up run: they share nothing but the frame.
SERIES = [
    (name, metric.name)
    for name, scenario in SCENARIOS.items()
    for metric in metrics_of(scenario.traffic)
    if metric.judged and metric.scale == "log"
]


@dataclass(frozen=True)
class World:
    """Relative spread at each level; ``drift`` is from the first to the last generation, ``walk`` of each step."""

    name: str
    drift: float = 0.04
    switch: float = 0.01
    generation: float = 0.02
    repetition: float = 0.03
    low_share: float = 0.05
    walk: float = 0.0


FULL = World("drift 4 %, switch 1 %")
NO_DRIFT = World("no drift, switch 1 %", drift=0)
QUIET_SWITCH = World("no drift, no switch noise", drift=0, switch=0)
ONLY_REPETITIONS = World("repetition noise alone", drift=0, switch=0, generation=0, low_share=0)
WALK = World("random walk 1 % per generation", drift=0, walk=0.01)
LOUD_SWITCH = World("drift 4 %, switch 2 %", switch=0.02)


@dataclass(frozen=True)
class Case:
    """One row of the table: a plan in a world, judged in one way."""

    label: str
    order: str
    generations: int
    world: World
    repetitions: int = 2
    #: Judged without drift term and without the spread of switches (the plain pooled t interval).
    plain: bool = False
    #: One pod pair per block, and each repetition taken for a generation of its own.
    one_pair_per_block: bool = False
    #: What A/A runs would have measured; None: the assumed default.
    switch_sd: float | None = None

    def plan(self) -> Plan:
        """Return the plan of the case."""
        return validate_plan(
            {
                "scenarios": list(SCENARIOS),
                "order": self.order,
                "generations": self.generations,
                "repetitions": self.repetitions,
            }
        )


def make_frame(case: Case, effect: float, random: np.random.Generator) -> pd.DataFrame:
    """Return one results frame in which every series has an independent run of ``case``."""
    plan, world = case.plan(), case.world
    planned = blocks(plan)
    block = np.concatenate([np.full(item.generations, item.number) for item in planned])
    generation = np.concatenate([np.arange(1, item.generations + 1) for item in planned])
    on = np.concatenate([np.full(item.generations, item.arm == "on") for item in planned])
    count, reps = len(block), plan.repetitions
    shape = (len(SERIES), count)
    luck = world.drift * np.arange(count) / (count - 1) + effect * on
    luck = luck + world.walk * np.cumsum(random.normal(size=shape), axis=1)
    luck = luck + world.switch * random.normal(size=(len(SERIES), len(planned)))[:, block - 1]
    if case.one_pair_per_block:
        luck = luck + world.generation * random.normal(size=(len(SERIES), len(planned)))[:, block - 1]
    else:
        luck = luck + world.generation * random.normal(size=shape)
    noise = world.repetition * random.normal(size=(*shape, reps))
    noise += np.where(random.random(noise.shape) < world.low_share, math.log(0.9), 0.0)
    values = 1e9 * np.exp(luck[:, :, None] + noise)
    per_series = count * reps
    return pd.DataFrame(
        {
            "block": np.tile(np.repeat(block, reps), len(SERIES)),
            "arm": np.tile(np.repeat(np.where(on, "on", "off"), reps), len(SERIES)),
            "generation": np.tile(np.repeat(generation, reps), len(SERIES)),
            "scenario": np.repeat([name for name, _ in SERIES], per_series),
            "repetition": np.tile(np.arange(1, reps + 1), len(SERIES) * count),
            "metric": np.repeat([metric for _, metric in SERIES], per_series),
            "value": values.ravel(),
        }
    )


@contextmanager
def _plain(case: Case) -> Iterator[float | None]:
    """Yield the spread of a switch that the case is judged with; leave the drift term out for plain cases."""
    if not case.plain:
        yield case.switch_sd
        return
    with mock.patch.object(compare, "_wants_drift", return_value=False):
        yield 0.0


def simulate(work: tuple[Case, float, int, int]) -> np.ndarray:
    """Return one row per made-up run: called different, interval covers the truth, estimate, detectable change."""
    case, effect, seed, frames = work
    random = np.random.default_rng([seed, round(1000 * effect)])
    plan = case.plan()
    rows = []
    for _ in range(frames):
        frame = make_frame(case, effect, random)
        with _plain(case) as switch_sd:
            sds = None if switch_sd is None else dict.fromkeys(SERIES, switch_sd)
            found = compare.compare_run(frame, plan, switch_sds=sds)
        for item in found:
            if (item.scenario, item.metric) not in SERIES or item.change is None:
                continue
            if item.ci_low is None or item.ci_high is None or item.smallest_detectable_change is None:
                continue
            covers = item.ci_low <= math.expm1(effect) <= item.ci_high
            called = item.verdict in ("faster", "slower")
            rows.append((called, covers, math.log1p(item.change), item.smallest_detectable_change))
    return np.array(rows, dtype=float)


def measure(case: Case, effect: float, seed: int, runs: int, pool: object, processes: int) -> np.ndarray:
    """Return the rows of ``simulate`` for at least ``runs`` made-up runs."""
    frames = math.ceil(runs / len(SERIES) / processes)
    work = [(case, effect, seed + index, frames) for index in range(processes)]
    return np.concatenate(pool.map(simulate, work))  # type: ignore[attr-defined]


ORDERS = (
    ("off,on,off", 3, "off,on,off (3+6+3), nightly"),
    ("off,on,off", 2, "off,on,off (2+4+2)"),
    ("on,off,on", 3, "on,off,on (3+6+3)"),
    ("off,on,off,on,off", 2, "off,on,off,on,off (2+4+4+4+2), upgrade"),
    ("off,on,off,on", 3, "off,on,off,on (3+6+6+3)"),
    ("off,on", 6, "off,on (6+6)"),
)


def cases() -> list[tuple[str, list[Case]]]:
    """Return the sections of the table with their cases."""
    by_order = [Case(label, order, generations, FULL) for order, generations, label in ORDERS]
    nightly = Case("off,on,off (3+6+3)", "off,on,off", 3, FULL)
    quick = Case("off,on,off (2+4+2), one repetition, quick", "off,on,off", 2, FULL, repetitions=1)
    worlds = [
        replace(nightly, label=f"{nightly.label}: {world.name}", world=world)
        for world in (NO_DRIFT, QUIET_SWITCH, ONLY_REPETITIONS, WALK, LOUD_SWITCH)
    ]
    worlds.append(
        replace(nightly, label="the last, the switch measured by A/A runs", world=LOUD_SWITCH, switch_sd=0.02)
    )
    worlds += [quick, replace(quick, label=f"quick: {NO_DRIFT.name}", world=NO_DRIFT)]
    plain = [
        Case("off,on: one pod pair per arm, repetition as unit", "off,on", 12, FULL, 1, True, True),
        Case("off,on (6+6), generation as unit", "off,on", 6, FULL, plain=True),
        Case("off,on,off (3+6+3), generation as unit", "off,on,off", 3, FULL, plain=True),
        Case("off,on,off (3+6+3), without drift", "off,on,off", 3, NO_DRIFT, plain=True),
    ]
    return [("within-run-orders", by_order), ("within-run-worlds", worlds), ("within-run-plain", plain)]


def main() -> None:
    """Run all cases and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="made-up runs per number")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    header = ["case", "false positives", "coverage", "bias", "power 5 %", "power 10 %", "detectable"]
    with Pool(options.processes, initializer=os.nice, initargs=(10,)) as pool:
        for section, listed in cases():
            rows = []
            for case in listed:
                null, five, ten = (
                    measure(case, math.log1p(effect), options.seed, options.runs, pool, options.processes)
                    for effect in (0.0, 0.05, 0.10)
                )
                rows.append(
                    [
                        case.label,
                        f"{null[:, 0].mean():.3f}",
                        f"{five[:, 1].mean():.3f}",
                        f"{100 * null[:, 2].mean():+.2f} %",
                        f"{five[:, 0].mean():.2f}",
                        f"{ten[:, 0].mean():.2f}",
                        f"{100 * np.median(null[:, 3]):.1f} %",
                    ]
                )
                print(rows[-1], flush=True)
            text = table(header, rows) + f"\n\n{len(null)} runs per number, seed {options.seed}."
            replace_section(section, text)


if __name__ == "__main__":
    main()
