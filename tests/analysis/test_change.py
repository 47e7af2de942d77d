from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import special
from simulations.before_after import WORLDS, coverage

from bigtcp_bench.analysis.change import MAX_RUNS, MIN_RUNS, compare_runs, usual_difference
from bigtcp_bench.planning.thresholds import Thresholds

THRESHOLDS = Thresholds.model_validate({})
SCENARIO = "ipv4-stream-1"
PLAN = {"scenarios": ["ipv4-stream-1", "ipv4-rate", "ipv4-rr"], "duration_s": 15, "omit_s": 2, "rate_bps": 10**9}


def run(off: float, on: float, scenario: str = SCENARIO, verdict: str = "faster") -> pd.DataFrame:
    row = {
        "scenario": scenario,
        "metric": "throughput_bps",
        "off_median": off,
        "on_median": on,
        "verdict": verdict,
    }
    return pd.DataFrame([row])


def nights(*pairs: tuple[float, float]) -> pd.DataFrame:
    return pd.concat([run(off, on) for off, on in pairs], ignore_index=True)


def quiet(count: int, sd: float = 0.02) -> pd.DataFrame:
    random = np.random.default_rng(1)
    values = np.exp(random.normal(0, sd, (count, 2))) * [10.0, 15.0]
    return nights(*map(tuple, values))


def test_both_arms_and_their_ratio_are_compared():
    history = quiet(20)
    (change,) = compare_runs(run(10, 15), run(10, 18), history, [SCENARIO], THRESHOLDS)
    assert (change.scenario, change.metric, change.runs) == (SCENARIO, "throughput_bps", 20)
    assert (change.off.change, change.on.change) == (pytest.approx(0), pytest.approx(0.2))
    assert (change.benefit.before, change.benefit.after) == (pytest.approx(1.5), pytest.approx(1.8))
    assert change.off.low < 0 < change.off.high
    assert 0 < change.on.low < 0.2 < change.on.high
    # The arms of these nights are independent, so their ratio is the noisier one.
    assert change.benefit.high - change.benefit.low > change.on.high - change.on.low


def test_of_many_figures_hardly_ever_one_is_beyond_chance_when_nothing_changed():
    random = np.random.default_rng(3)
    names = [f"{family}-stream-{streams}" for family in ("ipv4", "ipv6") for streams in (1, 8, 32)]
    names += [f"{name}@same-node" for name in names]
    wrong = 0
    for _ in range(8):
        values = np.exp(random.normal(0, 0.02, (31, len(names), 2))) * [10.0, 15.0]
        rows = pd.DataFrame(values.reshape(-1, 2), columns=["off_median", "on_median"])
        rows = rows.assign(scenario=names * 31, metric="throughput_bps", verdict="faster")
        *nights_before, before, after = (rows[at : at + len(names)] for at in range(0, len(rows), len(names)))
        changes = compare_runs(before, after, pd.concat([*nights_before, before]), names, THRESHOLDS)
        assert len(changes) == len(names)
        wrong += any(getattr(change, arm).beyond_chance for change in changes for arm in ("off", "on", "benefit"))
    # By their own intervals of 95 %, most of these eight would have moved.
    assert wrong <= 2


def test_what_is_far_beyond_chance_is_so_beside_many_others():
    names = [SCENARIO, "ipv6-stream-1", "ipv6-stream-8", "ipv6-stream-32"]
    steady = pd.concat([run(10, 15, name) for name in names])
    fallen = pd.concat([run(10, 13 if name == SCENARIO else 15, name) for name in names])
    history = pd.concat([quiet(30).assign(scenario=name) for name in names])
    first, *others = compare_runs(steady, fallen, history, names, THRESHOLDS)
    assert first.on.beyond_chance
    assert not first.off.beyond_chance
    assert not any(one.on.beyond_chance for one in others)


def test_too_few_runs_before_give_no_interval():
    (few,) = compare_runs(run(10, 15), run(11, 15), quiet(MIN_RUNS - 1), [SCENARIO], THRESHOLDS)
    assert (few.on.change, few.on.low, few.on.high) == (0.0, None, None)
    (enough,) = compare_runs(run(10, 15), run(11, 15), quiet(MIN_RUNS), [SCENARIO], THRESHOLDS)
    assert enough.on.low < 0 < enough.on.high


def test_how_far_neighbours_are_apart_is_known_by_von_neumanns_degrees_of_freedom():
    past = np.exp([0.0, 0.1] * 5)
    for figures in (1, 12):
        quantile = special.stdtrit(2 * 9**2 / (3 * 10 - 4), 1 - 0.05 / (2 * figures))
        assert usual_difference(past, THRESHOLDS, figures) == pytest.approx(0.1 * quantile)


def test_runs_that_never_differed_still_have_the_smallest_spread():
    (change,) = compare_runs(run(10, 15), run(10, 15), nights(*[(10, 15)] * 30), [SCENARIO], THRESHOLDS)
    assert change.off.high == pytest.approx(THRESHOLDS.min_sd * 2**0.5 * 2, rel=0.2)


def test_a_slow_drift_of_the_cluster_is_not_noise():
    steady = nights(*[(10.0, 15.0)] * 30)
    drifting = nights(*[(10 * 1.002**night, 15.0) for night in range(30)])
    results = [compare_runs(run(10, 15), run(10, 15), one, [SCENARIO], THRESHOLDS) for one in (steady, drifting)]
    assert results[1][0].off.high == pytest.approx(results[0][0].off.high, rel=0.01)


def test_only_the_newest_runs_say_what_is_usual():
    wild = nights(*[(10.0 * (1 + night % 2), 15.0) for night in range(40)])
    (change,) = compare_runs(run(10, 15), run(10, 15), pd.concat([wild, quiet(MAX_RUNS)]), [SCENARIO], THRESHOLDS)
    assert change.off.high < 0.1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (run(10, 15), run(10, 15, "ipv6-stream-1")),
        (run(10, float("nan")), run(10, 15)),
        (run(10, 15), run(10, 15, verdict="invalid")),
        (run(10, 0), run(10, 15)),
    ],
)
def test_what_has_not_both_arms_in_both_runs_is_left_out(before, after):
    assert compare_runs(before, after, quiet(20), [SCENARIO], THRESHOLDS) == []


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("runs", [MIN_RUNS, MAX_RUNS])
def test_the_interval_covers_what_it_should(world, runs):
    assert coverage(world, runs, series=1500, seed=7) > 0.915
