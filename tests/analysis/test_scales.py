from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtcp_bench.analysis.scales import ModelScale

KINDS = ("log", "amount", "share")


@given(kind=st.sampled_from(KINDS), value=st.floats(1e-6, 1))
def test_there_and_back(kind, value):
    scale = ModelScale(kind)
    (there,) = scale.of(np.array([value]))
    assert scale.back(float(there)) == pytest.approx(value)


@given(kind=st.sampled_from(KINDS), off=st.floats(1e-3, 0.999), on=st.floats(1e-3, 0.999))
def test_the_change_is_that_of_the_metric_itself(kind, off, on):
    scale = ModelScale(kind)
    there = scale.of(np.array([off, on]))
    assert scale.change(float(there[0]), float(there[1] - there[0])) == pytest.approx(on / off - 1, abs=1e-6)


@given(kind=st.sampled_from(KINDS), usual=st.floats(1e-3, 1.5), difference=st.floats(-1e4, 1e4))
def test_no_change_leaves_the_range(kind, usual, difference):
    scale = ModelScale(kind)
    change = scale.change(usual, difference)
    assert change >= -1
    assert math.isfinite(change)
    if kind == "share":
        assert scale.back(usual) * (1 + change) <= 1 + 1e-9


@pytest.mark.parametrize("kind", ["amount", "share"])
def test_nothing_has_no_relative_change(kind):
    assert ModelScale(kind).change(0.0, 0.1) is None
    assert ModelScale(kind).change(0.0, 0.0) == 0


@pytest.mark.parametrize(("kind", "value"), [("log", 7.0), ("amount", 40.0), ("share", 0.3), ("share", 0.9)])
def test_a_relative_spread_keeps_its_size(kind, value):
    scale = ModelScale(kind)
    random = np.random.default_rng(1)
    values = scale.of(value * (1 + 0.01 * random.normal(size=20_000)))
    (usual,) = scale.of(np.array([value]))
    assert values.std() == pytest.approx(scale.spread(float(usual), 0.01), rel=0.03)


def test_what_noise_puts_outside_of_the_range_counts_as_its_end():
    assert ModelScale("share").of(np.array([-0.1, 1.2])).tolist() == [0, math.pi / 2]
    assert ModelScale("amount").of(np.array([-3.0])).tolist() == [0]


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_cannot_be_leaves_the_range(kind):
    scale = ModelScale(kind)
    low, high = scale.ends
    assert not scale.leaves_range(1.0, -0.9)
    assert not scale.leaves_range(1.0, 0.5)
    assert scale.leaves_range(1.0, -1.0) is (low == 0)
    assert scale.leaves_range(1.0, 0.6) is (high < 2)
