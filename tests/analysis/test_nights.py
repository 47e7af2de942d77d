"""Two sets of nights: known answers, what is left out, and how often the interval holds the truth."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from bigtcp_bench.analysis.nights import compare_nights


def nights(off, on, scenario="ipv6-stream-1", metric="throughput_bps", verdict="faster"):
    columns = {"scenario": scenario, "metric": metric, "verdict": verdict}
    return pd.DataFrame({"off_median": off, "on_median": on}).assign(**columns)


def test_means_and_ratios_are_geometric():
    (found,) = compare_nights(nights([1.0, 4.0], [2.0, 8.0]), nights([4.0, 4.0], [8.0, 32.0]))
    assert found.runs == 4
    assert found.off.before == pytest.approx(2)
    assert found.off.after == pytest.approx(4)
    assert found.off.change == pytest.approx(1.0)
    assert found.benefit.before == pytest.approx(2)
    assert found.benefit.after == pytest.approx(4)
    assert found.on.low < found.on.change < found.on.high


def test_the_interval_is_welchs():
    random = np.random.default_rng(1)
    before, after = random.lognormal(0, 0.1, (7, 2)), random.lognormal(0.2, 0.3, (15, 2))
    (found,) = compare_nights(nights(*before.T), nights(*after.T), level=0.9)
    # expm1 of what scipy.stats.ttest_ind(log after, log before, equal_var=False) says: it takes long to import.
    assert (found.off.low, found.off.high) == pytest.approx((0.0009269630169, 0.3565032325111))
    assert (found.on.low, found.on.high) == pytest.approx((-0.0213195849166, 0.3114197636456))


def test_an_interval_needs_two_nights_on_either_side_and_some_spread():
    (one,) = compare_nights(nights([1.0], [2.0]), nights([1.0, 1.1], [2.0, 2.1]))
    assert one.off.low is None
    assert one.off.change == pytest.approx(math.sqrt(1.1) - 1)
    (same,) = compare_nights(nights([1.0, 1.0], [2.0, 2.0]), nights([1.1, 1.1], [2.0, 2.0]))
    assert same.off.low is None
    assert same.off.change == pytest.approx(0.1)


def test_unusable_nights_and_lonely_series_are_left_out():
    before = pd.concat([nights([1.0, 0.0, math.nan], [2.0, 2.0, 2.0]), nights([9.0], [9.0], verdict="invalid")])
    after = pd.concat([nights([1.0, 1.2], [2.0, 2.0]), nights([5.0], [5.0], metric="latency_p50_us")])
    (found,) = compare_nights(before, after)
    assert (found.metric, found.runs, found.off.before) == ("throughput_bps", 3, 1.0)


def test_beyond_chance_is_what_is_so_with_all_figures_together():
    before, after = nights([1.0, 1.01, 1.02], [1.0, 1.01, 1.02]), nights([1.028, 1.038, 1.048], [2.0, 2.1, 2.2])
    (alone,) = compare_nights(before, after)
    assert (alone.off.low > 0, alone.off.beyond_chance, alone.on.beyond_chance) == (True, False, True)
    many = [
        pd.concat([frame.assign(scenario=f"scenario {number}") for number in range(1000)])
        for frame in (before, after)
    ]
    found = compare_nights(*many)
    assert {one.on.low for one in found} == {alone.on.low}
    assert not any(one.on.beyond_chance for one in found)


def test_the_interval_holds_the_truth_as_often_as_it_says():
    random = np.random.default_rng(20260301)
    rounds = 2000
    # Each round is a scenario of its own: one call for all of them.
    before, after = (
        nights(*np.exp(random.normal(mean, sd, (2, rounds * n))), scenario=np.repeat(np.arange(rounds), n))
        for mean, sd, n in ((0, 0.05, 12), (0.1, 0.02, 30))
    )
    found = compare_nights(before, after)
    assert len(found) == rounds
    held = sum(one.off.low <= math.expm1(0.1) <= one.off.high for one in found)
    # 95 %; five standard deviations of the simulation itself either way.
    assert held / rounds == pytest.approx(0.95, abs=0.025)
