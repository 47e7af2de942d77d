"""A/A, then cleared: real Airflow runs the DAG again from its first task on, under a changed plan."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bigtcp_bench.judging.noise import advice, known_noise
from bigtcp_bench.report.summary import run_summary
from bigtcp_bench.report.view import RunView
from tests.e2e.runs import Finished, Installation

pytestmark = [pytest.mark.lab, pytest.mark.e2e]


def scenarios_of(installation: Installation, number: int) -> set[str]:
    warehouse = installation.warehouse
    frames = [warehouse.results_frame(number), warehouse.comparisons_frame(number)]
    return {name for frame in frames for name in frame["scenario"]}


def assert_noise_is_known(installation: Installation, run: Finished) -> None:
    """Two blocks of one arm, with fresh agents before each, say how much of a difference is chance."""
    assert run.row["is_aa"] is True
    assert installation.warehouse.judgements_frame(run.number).empty
    noises = known_noise(installation.warehouse, run.row["cluster"])
    levels = {noise.level: noise.sd for noise in noises if noise.metric == "throughput_bps"}
    assert set(levels) >= {"repetition", "generation"}
    assert all(0 <= sd < 1 for sd in levels.values())
    plan = installation.warehouse.plan_of(run.number)
    assert {one.scenario for one in advice(noises, plan)} == {"ipv4-stream-1"}
    (line,) = RunView.from_warehouse(installation.warehouse, run.number).noise
    assert line.startswith("noise of ipv4-stream-1, throughput_bps: ")


def test_an_aa_run_that_is_cleared_is_another_attempt_that_keeps_nothing_of_the_first(
    installation: Installation,
) -> None:
    """Only Airflow gives a run its tasks once more, under the same run id, as a person's clear does."""
    before, at = installation.cluster_state(), datetime.now(UTC)
    first = installation.run(at, order="off,off", scenarios=["ipv4-stream-1"], generations=2, repetitions=2)
    assert_noise_is_known(installation, first)
    again = installation.run(at, order="off,on", scenarios=["ipv6-stream-1"])
    for run, attempt in ((first, 1), (again, 2)):
        assert (run.state, run.row["status"], run.row["attempt"]) == ("success", "valid", attempt), run.row[
            "reasons"
        ]
    assert again.row["run_id"] == first.row["run_id"]
    assert again.number != first.number

    assert scenarios_of(installation, again.number) == {"ipv6-stream-1"}
    assert "ipv4-stream-1" not in run_summary(RunView.from_warehouse(installation.warehouse, again.number))
    # The first one is kept, and nothing that speaks of results sees it.
    assert scenarios_of(installation, first.number) == {"ipv4-stream-1"}
    assert installation.warehouse.attempts(again.number) == [first.number, again.number]
    assert first.number not in set(installation.warehouse.runs_frame()["id"])
    assert installation.cluster_state() == before
