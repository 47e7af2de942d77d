"""How often ``compare`` is wrong about one run: false positives, coverage, bias and power of each block order.

Usage: python -m simulations.within_run [--runs 2000] [--seed 1] [--processes 2]
"""

from __future__ import annotations

import argparse
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import Pool
from unittest import mock

import numpy as np
import pandas as pd

from bigtcp_bench.analysis import compare
from bigtcp_bench.planning.metrics import metrics_of
from bigtcp_bench.planning.plan import SCENARIOS, Block, Plan, blocks, load_plan, validate_plan
from simulations.document import replace_section, table

NAMES = [name for name, scenario in SCENARIOS.items() if scenario.path == "pod"]
#: Every ratio metric of every scenario is one independent made-up run: they share nothing but the frame.
SERIES = [
    (name, metric.name)
    for name in NAMES
    for metric in metrics_of(SCENARIOS[name].traffic)
    if metric.judged and metric.scale == "log"
]


@dataclass(frozen=True)
class World:
    """What befalls the generations of a run that has nothing to do with the arms, as relative changes.

    ``drift`` is from the first to the last generation, ``bend`` from the middle to both ends. ``warm_up`` is
    missing at the start, and comes back within the first block. ``wave`` is what a sine takes from and adds to
    the usual, ``periods`` times in a run, from ``phase`` (of a period) on; ``step`` is what changes at
    ``step_at`` of the run. ``walk`` is the spread of each step of a random walk, ``echo`` the correlation of a
    generation with the one before. ``switch``, ``generation`` and ``repetition`` are spreads, ``tails`` the
    degrees of freedom of repetitions that have heavy ones; ``low_share`` of the repetitions are 10 % low,
    ``missing`` of them failed. ``on_spread`` and ``off_spread`` widen one arm. ``outlier`` befalls one
    generation of each run. ``block_spread`` is that of the logarithm of each block's own spread.
    """

    name: str
    drift: float = 0.04
    bend: float = 0.0
    warm_up: float = 0.0
    wave: float = 0.0
    periods: float = 1.0
    phase: float = 0.0
    step: float = 0.0
    step_at: float = 0.5
    walk: float = 0.0
    echo: float = 0.0
    switch: float = 0.01
    generation: float = 0.02
    repetition: float = 0.03
    tails: float = 0.0
    low_share: float = 0.05
    missing: float = 0.0
    on_spread: float = 1.0
    off_spread: float = 1.0
    outlier: float = 0.0
    block_spread: float = 0.0


FULL = World("drift 4 %")
LOUD_SWITCH = World("switch 2 % instead of 1 %", switch=0.02)
#: No drift where something else moves the run.
WORLDS = (
    FULL,
    World("no drift, no switch noise", drift=0, switch=0),
    World("U: ends 6 % above the middle", drift=0, bend=0.06),
    World("hump: ends 6 % below the middle", drift=0, bend=-0.06),
    World("warm-up: 8 % low, over within the first block", drift=0, warm_up=0.08),
    World("correlation 0.6 between generations", echo=0.6),
    World("repetitions with Student's t, 4 df", tails=4),
    World("arm on spreads twice as much", on_spread=2),
    World("arm off spreads twice as much", off_spread=2),
    World("6 % of the repetitions missing", missing=0.06),
    World("5 % step in the middle", drift=0, step=0.05),
    World("5 % step after a third", drift=0, step=0.05, step_at=0.31),
    World("one sine of ±3 %", drift=0, wave=0.03),
    World("one cosine of ±3 %", drift=0, wave=0.03, phase=0.25),
    World("one and a half sines of ±3 %", drift=0, wave=0.03, periods=1.5),
    World("two sines of ±3 %", drift=0, wave=0.03, periods=2),
    World("two cosines of ±3 %", drift=0, wave=0.03, periods=2, phase=0.25),
    World("one generation 20 % low", outlier=0.2),
    World("every block spreads differently", block_spread=0.7),
    World("random walk, 1 % per generation", drift=0, walk=0.01),
    LOUD_SWITCH,
    World("switch 3 % instead of 1 %", switch=0.03),
)


@dataclass(frozen=True)
class Case:
    """One row of a table: a plan in a world, judged in one way."""

    label: str
    order: str
    generations: int
    world: World
    repetitions: int = 2
    #: Judged without drift and bend, and without the spread of switches (the plain pooled t interval).
    plain: bool = False
    #: One pod pair per block, and each repetition taken for a generation of its own.
    one_pair_per_block: bool = False
    #: What A/A runs would have measured; None: the assumed default.
    switch_sd: float | None = None

    def plan(self) -> Plan:
        """Return the plan of the case."""
        return validate_plan(
            {
                "scenarios": NAMES,
                "order": self.order,
                "generations": self.generations,
                "repetitions": self.repetitions,
                "duration_s": 1,
                "thresholds": {"bend_sd": 0} if self.plain else {},
            }
        )


def shape_of(world: World, block: np.ndarray) -> np.ndarray:
    """Return the relative change of each generation of a run, the same in every run of ``world``."""
    count = len(block)
    place = np.arange(count) / (count - 1)
    shape = world.drift * place + world.bend * (2 * place - 1) ** 2 + world.step * (place > world.step_at)
    shape = shape + world.wave * np.sin(2 * np.pi * (world.periods * place + world.phase))
    # Three quarters of the warm-up are over by the middle of the first block.
    first = (block == block[0]).sum()
    cooling = np.exp(-3 * np.arange(count) / first)
    return shape - world.warm_up * np.where(block == block[0], cooling, 0.0)


def _generations(world: World, shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    """Return the luck of each generation, in units of its spread."""
    luck = random.normal(size=shape)
    for index in range(1, shape[1]):
        luck[:, index] = world.echo * luck[:, index - 1] + math.sqrt(1 - world.echo**2) * luck[:, index]
    return luck


def make_generations(
    planned: Sequence[Block],
    repetitions: int,
    world: World,
    effect: float,
    random: np.random.Generator,
    series: Sequence[tuple[str, str]],
    one_pair_per_block: bool = False,
) -> pd.DataFrame:
    """Return ``compare.generation_medians`` of results in which each of ``series`` has a run of its own."""
    block = np.concatenate([np.full(item.generations, item.number) for item in planned])
    generation = np.concatenate([np.arange(1, item.generations + 1) for item in planned])
    on = np.concatenate([np.full(item.generations, item.arm == "on") for item in planned])
    count = len(block)
    shape, by_block = (len(series), count), (len(series), len(planned))
    spread = np.where(on, world.on_spread, world.off_spread)
    spread = spread * np.exp(world.block_spread * random.normal(size=by_block))[:, block - 1]
    luck = shape_of(world, block) + effect * on
    luck = luck + world.walk * np.cumsum(random.normal(size=shape), axis=1)
    luck = luck + world.switch * random.normal(size=by_block)[:, block - 1]
    if one_pair_per_block:
        luck = luck + world.generation * random.normal(size=by_block)[:, block - 1]
    else:
        luck = luck + world.generation * spread * _generations(world, shape, random)
    if world.outlier:
        luck[np.arange(len(series)), random.integers(0, count, len(series))] += math.log(1 - world.outlier)
    full = (*shape, repetitions)
    noise = random.standard_t(world.tails, size=full) if world.tails else random.normal(size=full)
    noise = world.repetition * spread[:, :, None] * noise
    noise += np.where(random.random(full) < world.low_share, math.log(0.9), 0.0)
    noise[random.random(full) < world.missing] = np.nan
    value = 1e9 * np.exp(luck + np.nanmedian(noise, axis=2))
    made = pd.DataFrame(
        {
            "scenario": np.repeat([name for name, _ in series], count),
            "metric": np.repeat([metric for _, metric in series], count),
            "block": np.tile(block, len(series)),
            "generation": np.tile(generation, len(series)),
            "value": value.ravel(),
            "on": np.tile(on, len(series)),
            "position": np.tile(np.arange(count), len(series)),
        }
    )
    return made.dropna()


@contextmanager
def _plain(case: Case) -> Iterator[float | None]:
    """Yield the spread of a switch that the case is judged with; leave the drift term out for plain cases."""
    if not case.plain:
        yield case.switch_sd
        return
    # What the designs of other cases have left in the cache has a drift term.
    compare._contrast_of.cache_clear()
    with (
        mock.patch.object(compare, "_wants_drift", return_value=False),
        mock.patch.object(compare, "SWITCH_PRIOR_DF", 1e9),
    ):
        yield 0.0
    compare._contrast_of.cache_clear()


def simulate(work: tuple[Case, float, int, int]) -> np.ndarray:
    """Return one row per made-up run.

    Called different, interval covers the truth, estimate, detectable change, called equivalent; nan where a run
    gives no figure.
    """
    case, effect, seed, frames = work
    # A generation none of whose repetitions succeeded has no median, and no row.
    warnings.filterwarnings("ignore", "All-NaN slice", RuntimeWarning)
    random = np.random.default_rng([seed, round(1000 * effect)])
    plan = case.plan()
    rows = []
    for _ in range(frames):
        made = make_generations(
            blocks(plan), plan.repetitions, case.world, effect, random, SERIES, case.one_pair_per_block
        )
        with _plain(case) as switch_sd:
            sds = None if switch_sd is None else dict.fromkeys(SERIES, switch_sd)
            found = compare.compare_run(made, plan, switch_sds=sds)
        for item in found:
            if (item.scenario, item.metric) not in SERIES:
                continue
            low, high = item.ci_low, item.ci_high
            covers = None if low is None or high is None else low <= math.expm1(effect) <= high
            estimate = None if item.change is None else math.log1p(item.change)
            called, same = item.verdict in ("faster", "slower"), item.verdict == "equivalent"
            rows.append((called, covers, estimate, item.smallest_detectable_change, same))
    return np.array(rows, dtype=float)


def measure(case: Case, effect: float, seed: int, runs: int, pool: object, processes: int) -> np.ndarray:
    """Return the rows of ``simulate`` for at least ``runs`` made-up runs."""
    frames = math.ceil(runs / len(SERIES) / processes)
    work = [(case, effect, seed + index, frames) for index in range(processes)]
    return np.concatenate(pool.map(simulate, work))  # type: ignore[attr-defined]


def case_of(name: str, world: World = FULL) -> Case:
    """Return the case of the shipped plan of that name."""
    plan = load_plan(name)
    size = "+".join(str(block.generations) for block in blocks(plan))
    label = f"{name}: {','.join(plan.order)} ({size})"
    return Case(label, ",".join(plan.order), plan.generations, world, plan.repetitions)


SHIPPED = ("quick", "nightly", "upgrade")


def cases() -> list[tuple[str, list[Case]]]:
    """Return the sections of the tables that have one case per row."""
    orders = [case_of(name) for name in SHIPPED] + [
        Case(f"{order} ({size})", order, generations, FULL)
        for order, generations, size in (
            ("off,on,off", 3, "3+6+3"),
            ("on,off,on", 3, "3+6+3"),
            ("off,on,off,on", 2, "2+4+4+2"),
            ("off,on", 6, "6+6"),
        )
    ]
    label = "off,on,off,on,off (2+4+4+4+2), two repetitions"
    orders.append(Case(label, "off,on,off,on,off", 2, FULL, repetitions=2))
    aa = replace(case_of("nightly", LOUD_SWITCH), switch_sd=0.02)
    orders.append(replace(aa, label="nightly, the switch's true 2 % measured by A/A runs"))
    plain = [
        Case("off,on: one pod pair per arm, repetition as unit", "off,on", 12, FULL, 1, True, True),
        Case("off,on (6+6), generation as unit", "off,on", 6, FULL, plain=True),
        Case("off,on,off (3+6+3), generation as unit", "off,on,off", 3, FULL, plain=True),
        Case("the last, U-shaped drift", "off,on,off", 3, WORLDS[2], plain=True),
    ]
    return [("within-run-orders", orders), ("within-run-plain", plain)]


def main() -> None:
    """Run all cases and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2_000, help="made-up runs per number")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    with Pool(options.processes, initializer=os.nice, initargs=(10,)) as pool:

        def rows_of(case: Case, effect: float) -> np.ndarray:
            return measure(case, math.log1p(effect), options.seed, options.runs, pool, options.processes)

        for section, listed in cases():
            rows = []
            for case in listed:
                null, five, ten = (rows_of(case, effect) for effect in (0.0, 0.05, 0.10))
                rows.append(
                    [
                        case.label,
                        f"{null[:, 0].mean():.3f}",
                        f"{np.nanmean(five[:, 1]):.3f}",
                        f"{100 * np.nanmean(null[:, 2]):+.2f} %",
                        f"{null[:, 4].mean():.2f}",
                        f"{five[:, 0].mean():.2f}",
                        f"{ten[:, 0].mean():.2f}",
                        f"{100 * np.nanmedian(null[:, 3]):.1f} %",
                    ]
                )
                print(rows[-1], flush=True)
            header = ["case", "false positives", "coverage", "bias", "equivalent", "5 %", "10 %", "detectable"]
            replace_section(
                section, table(header, rows) + f"\n\n{len(null)} runs per number, seed {options.seed}."
            )
        rows = []
        for world in WORLDS:
            row = [world.name]
            for name in SHIPPED:
                null, five = (rows_of(case_of(name, world), effect) for effect in (0.0, 0.05))
                row += [f"{null[:, 0].mean():.3f}", f"{np.nanmean(five[:, 1]):.2f}", f"{five[:, 0].mean():.2f}"]
            rows.append(row)
            print(row, flush=True)
        foot = f"{len(null)} runs per number, seed {options.seed}."
        header = ["world", *(f"{name}: {what}" for name in SHIPPED for what in ("false", "coverage", "5 %"))]
        replace_section("within-run-worlds", f"{table(header, rows)}\n\n{foot}")


if __name__ == "__main__":
    main()
