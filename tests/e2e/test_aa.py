"""An A/A run: the same arm twice measures the cluster's own noise, and the next run knows it."""

from __future__ import annotations

import pytest

from bigtcp_bench.judging.noise import advice, known_noise
from bigtcp_bench.report.view import RunView
from tests.e2e.runs import Installation

pytestmark = [pytest.mark.lab, pytest.mark.e2e]


def test_an_aa_run_measures_the_noise(installation: Installation):
    run = installation.run(order="off,off", scenarios=["ipv4-stream-1"], generations=2, repetitions=2)
    assert (run.state, run.row["status"], run.row["is_aa"]) == ("success", "valid", True), run.row["reasons"]
    assert installation.warehouse.judgements_frame(run.number).empty
    noises = known_noise(installation.warehouse, run.row["cluster"])
    levels = {noise.level: noise.sd for noise in noises if noise.metric == "throughput_bps"}
    assert set(levels) >= {"repetition", "generation"}
    assert all(0 <= sd < 1 for sd in levels.values())
    plan = installation.warehouse.plan_of(run.number)
    assert {one.scenario for one in advice(noises, plan)} == {"ipv4-stream-1"}
    (line,) = RunView.from_warehouse(installation.warehouse, run.number).noise
    assert line.startswith("noise of ipv4-stream-1, throughput_bps: ")
