"""The generated history tells what pages must be able to show, and its figures follow its story."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from bigtcp_bench.generated import figures
from bigtcp_bench.generated.story import NightStory, stories
from bigtcp_bench.planning.metrics import metrics_of
from bigtcp_bench.planning.plan import SCENARIOS, blocks, load_plan
from bigtcp_bench.readings.cpu import CPU_PARTS

PLAN = load_plan("nightly")


@pytest.fixture(scope="module")
def told() -> list[NightStory]:
    return stories(400, seed=1)


def test_every_fate_comes_about(told):
    found = Counter(one.fate for one in told)
    assert found.keys() == {
        "ordinary",
        "aa",
        "missed",
        "unproven",
        "other_machine",
        "lossy",
        "failed",
        "unrestored",
    }
    assert found["unrestored"] == 1
    assert found["ordinary"] > 370
    assert told[-1].fate == "ordinary"


def test_the_same_seed_tells_the_same_story(told):
    assert stories(400, seed=1) == told
    assert stories(400, seed=2) != told


def test_cilium_and_kernel_only_go_forward(told):
    assert list(dict.fromkeys(one.cilium for one in told)) == ["1.17.9", "1.18.1", "1.18.2", "1.18.3", "1.19.0"]
    assert len({one.kernel for one in told}) == 2


def test_a_slow_cilium_touches_only_big_tcp_over_ipv6(told):
    slow = next(one for one in told if one.cilium == "1.18.2")
    usual = slow.speed["ipv4-stream-1", "on"]
    assert slow.speed["ipv6-stream-1", "off"] == usual
    assert slow.speed["ipv6-stream-1", "on"] == pytest.approx(0.89 * usual)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_metric_has_a_usual_value(scenario):
    usual = figures.usual_of(scenario)
    # The parts of CPU time follow from the whole and the share of softirq.
    parts = tuple(f"{part}_s_per_gb" for part in CPU_PARTS)
    metrics = [metric.name for metric in metrics_of(SCENARIOS[scenario].traffic)]
    assert set(usual) == {name for name in metrics if not name.startswith(parts)}


def test_a_night_has_every_repetition_of_its_plan(told):
    frame = figures.night_results(told[0], PLAN, blocks(PLAN), seed=1)
    of_plan = frame[frame["scenario"] != "host-control"]
    assert set(of_plan["metric"]) == {
        one.name for name in PLAN.scenarios for one in metrics_of(SCENARIOS[name].traffic)
    }
    per_metric = of_plan.groupby(["scenario", "metric"]).size().unique()
    assert per_metric.tolist() == [sum(block.generations for block in blocks(PLAN)) * PLAN.repetitions]
    assert len(frame) - len(of_plan) == len(blocks(PLAN))
    assert np.isfinite(frame["value"]).all()


def test_figures_depend_on_their_arguments_alone(told):
    one, other = (figures.night_results(told[5], PLAN, blocks(PLAN), seed=1) for _ in range(2))
    assert one.equals(other)
    assert not one.equals(figures.night_results(told[5], PLAN, blocks(PLAN), seed=2))
