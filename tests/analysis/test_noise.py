from __future__ import annotations

from typing import get_args

import numpy as np
import pandas as pd
import pytest

from bigtcp_bench.analysis.compare import compare_run, generation_medians
from bigtcp_bench.analysis.noise import (
    MAX_COUNT,
    Level,
    Noise,
    measure_noise,
    pool_noise,
    smallest_detectable_change,
    suggest,
    switch_sds,
)
from bigtcp_bench.planning.plan import blocks
from bigtcp_bench.planning.thresholds import Thresholds
from tests.analysis.runs import make_frame, make_plan

KEY = ("ipv4-stream-1", "throughput_bps")
TRUE = {"repetition": 0.03, "generation": 0.02, "switch": 0.015}


def aa_frame(plan, seed: int, drift: float = 0.0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    rows, position = [], 0
    for block in blocks(plan):
        switch = random.normal(0, TRUE["switch"])
        for generation in range(1, block.generations + 1):
            luck = switch + random.normal(0, TRUE["generation"]) + drift * position
            position += 1
            for repetition in range(1, plan.repetitions + 1):
                value = 14e9 * np.exp(luck + random.normal(0, TRUE["repetition"]))
                rows.append((block.number, block.arm, generation, KEY[0], repetition, KEY[1], value))
    return pd.DataFrame(rows, columns=["block", "arm", "generation", "scenario", "repetition", "metric", "value"])


@pytest.mark.parametrize("drift", [0.0, 0.01])
def test_the_three_levels_are_told_apart(drift):
    plan = make_plan(order="off,off", generations=6, repetitions=3)
    rows = [row for seed in range(80) for row in measure_noise(aa_frame(plan, seed, drift), plan)]
    pooled = {row.level: row.sd for row in pool_noise(rows)}
    assert tuple(pooled) == get_args(Level)
    assert pooled["repetition"] == pytest.approx(TRUE["repetition"], rel=0.05)
    assert pooled["generation"] == pytest.approx(TRUE["generation"], rel=0.15)
    # Negative estimates of single runs count as zero, so the pooled one is somewhat too high, never too low.
    assert TRUE["switch"] * 0.8 < pooled["switch"] < TRUE["switch"] * 2.5


def test_one_repetition_leaves_its_noise_to_the_generation():
    plan = make_plan(order="off,off", generations=6, repetitions=1)
    levels = {row.level for row in measure_noise(aa_frame(plan, 1), plan)}
    assert levels == {"generation", "switch"}


def test_an_effect_is_no_noise():
    plan = make_plan(order="off,on,off,on,off", generations=4)
    quiet = {(r.metric, r.level): r.sd for r in measure_noise(make_frame(plan, noise=0.01), plan)}
    strong = make_frame(plan, noise=0.01, effect={"throughput_bps": 0.5})
    loud = {(r.metric, r.level): r.sd for r in measure_noise(strong, plan)}
    assert loud["throughput_bps", "generation"] == pytest.approx(quiet["throughput_bps", "generation"], rel=0.01)
    assert loud["throughput_bps", "switch"] == pytest.approx(quiet["throughput_bps", "switch"], abs=1e-6)


def test_zeros_throughout_have_no_relative_noise():
    plan = make_plan(order="off,off")
    frame = make_frame(plan)
    frame.loc[frame["metric"] == "retransmits_per_gb", "value"] = 0.0
    assert "retransmits_per_gb" not in {row.metric for row in measure_noise(frame, plan)}


def test_the_measured_switch_replaces_the_assumed_one_step_by_step():
    thresholds = Thresholds.model_validate({})
    once = switch_sds([Noise(*KEY, "switch", 0.05, 1)], thresholds)[KEY]
    often = switch_sds([Noise(*KEY, "switch", 0.05, 1)] * 30, thresholds)[KEY]
    assert thresholds.switch_sd < once < often < 0.05
    assert often == pytest.approx(0.05, rel=0.1)


def test_smallest_detectable_change_agrees_with_what_a_run_says():
    plan = make_plan(generations=3)
    predicted = smallest_detectable_change({"repetition": 0.02, "generation": 0.02, "switch": 0.01}, plan)
    said = []
    for seed in range(40):
        comparison = compare_run(generation_medians(make_frame(plan, seed, noise=0.02), plan), plan)[0]
        said.append(comparison.smallest_detectable_change)
    assert np.mean(said) == pytest.approx(predicted, rel=0.15)


def test_the_optimal_count_is_that_of_kalibera_and_jones():
    noises = [
        Noise(*KEY, "repetition", 0.03, 10),
        Noise(*KEY, "generation", 0.02, 9),
        Noise(*KEY, "switch", 0.01, 3),
    ]
    (found,) = suggest(noises, make_plan(duration_s=3, omit_s=1))
    # ceil(sqrt(15/4 × 9/4)) = ceil(2.9)
    assert found.repetitions == 3


def test_more_noise_needs_more_generations_until_only_more_blocks_help():
    def suggested(generation: float, switch: float):
        noises = [Noise(*KEY, "generation", generation, 9), Noise(*KEY, "switch", switch, 3)]
        others = (KEY[0], "bytes_per_packet_sender"), ("ipv6-rr", "transactions_per_s")
        noises += [Noise(*other, "generation", generation, 9) for other in others]
        (found,) = suggest(noises, make_plan())
        return found

    quiet, loud, hopeless = suggested(0.01, 0.005), suggested(0.03, 0.005), suggested(0.03, 0.05)
    assert quiet.generations < loud.generations < MAX_COUNT
    assert max(quiet.smallest_detectable_change, loud.smallest_detectable_change) <= 0.05
    assert hopeless.generations == MAX_COUNT
    assert hopeless.smallest_detectable_change > 0.05


def test_a_plan_too_small_to_detect_anything():
    assert smallest_detectable_change({"generation": 0.01}, make_plan(order="off,on", generations=1)) is None
