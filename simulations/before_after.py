"""How often the interval of a before/after comparison holds what it should: nothing.

Usage: python -m simulations.before_after [--series 20000] [--seed 1]
"""

from __future__ import annotations

import argparse

import numpy as np

from bigtcp_bench.analysis.change import MAX_RUNS, MIN_RUNS, usual_difference
from bigtcp_bench.planning.thresholds import Thresholds
from simulations.document import replace_section, table

SD = 0.03

#: Nights as in simulations.across_nights, and one that warms up or fills: 0.2 % more every night.
WORLDS = ("Gaussian", "bad nights", "autocorrelated", "drift")


def make_runs(world: str, random: np.random.Generator, count: int) -> np.ndarray:
    """Return the logarithms of ``count`` runs of one arm in a cluster that nobody has changed."""
    noise = random.normal(0, SD, count)
    if world == "bad nights":
        return noise + np.where(random.random(count) < 0.04, np.log(0.85), 0.0)
    if world == "autocorrelated":
        for index in range(1, count):
            noise[index] = 0.5 * noise[index - 1] + np.sqrt(0.75) * noise[index]
    if world == "drift":
        noise += 0.002 * np.arange(count)
    return noise


def coverage(world: str, runs: int, series: int, seed: int) -> float:
    """Return the share of intervals that hold zero, where ``runs`` are known and one more follows."""
    random = np.random.default_rng(seed)
    thresholds = Thresholds.model_validate({})
    held = 0
    for _ in range(series):
        values = make_runs(world, random, runs + 1)
        held += abs(values[-1] - values[-2]) <= usual_difference(np.exp(values[:-1]), thresholds)
    return held / series


def main() -> None:
    """Write the table into docs/generated/simulations.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    counts = (MIN_RUNS, 14, MAX_RUNS)
    rows = [
        [world, *(f"{coverage(world, count, options.series, options.seed):.3f}" for count in counts)]
        for world in WORLDS
    ]
    replace_section("before-after", table(["runs differ by", *(f"{count} runs" for count in counts)], rows))


if __name__ == "__main__":
    main()
