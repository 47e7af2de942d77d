"""A finished run that real Airflow clears from its first task on and measures again under a changed plan."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bigtcp_bench.report.summary import run_summary
from bigtcp_bench.report.view import RunView
from tests.e2e.runs import Installation

pytestmark = [pytest.mark.lab, pytest.mark.e2e]


def scenarios_of(installation: Installation, number: int) -> set[str]:
    warehouse = installation.warehouse
    frames = [warehouse.results_frame(number), warehouse.comparisons_frame(number)]
    return {name for frame in frames for name in frame["scenario"]}


@pytest.mark.timeout(600)
def test_a_cleared_run_is_another_attempt_that_keeps_nothing_of_the_first(installation: Installation) -> None:
    before, at = installation.cluster_state(), datetime.now(UTC)
    first = installation.run(at, scenarios=["ipv4-stream-1"])
    again = installation.run(at, scenarios=["ipv6-stream-1"])
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
