"""A night far off what is usual: the real DAG measures the scenario again before it says anything."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from bigtcp_bench.planning.plan import validate_plan
from bigtcp_bench.report.view import RunView
from bigtcp_bench.warehouse import incidents
from tests.e2e.runs import PLANS, Installation
from tests.support.nights import add_night

pytestmark = [pytest.mark.lab, pytest.mark.e2e]

SCENARIO = "ipv4-stream-1"
USUAL_NIGHTS = 20
#: The least that has both arms: the re-run has blocks of its own.
ORDER = ["off", "on"]


@pytest.fixture
def history(installation: Installation, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Give the lab a name of its own, and 20 nights in which BIG TCP did far more than it really does."""
    cluster = request.node.name
    connection = json.loads(os.environ["AIRFLOW_CONN_KUBERNETES_DEFAULT"])
    connection["extra"]["cluster_name"] = cluster
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps(connection))
    short = yaml.safe_load((PLANS / "short.yaml").read_text(encoding="utf-8"))
    # Nights of another plan, or of other terms, are not what tonight is held against.
    plan = validate_plan({**short, "name": "short", "scenarios": [SCENARIO], "order": ORDER}).model_dump(
        mode="json"
    )
    first = datetime.now(UTC) - timedelta(days=USUAL_NIGHTS)
    for number in range(USUAL_NIGHTS):
        add_night(
            installation.warehouse,
            number,
            on={SCENARIO: 10.0},
            scenarios=[SCENARIO],
            first=first,
            cluster=cluster,
            plan=plan,
        )
    return cluster


def states(installation: Installation, number: int) -> dict[str, str]:
    frame = installation.warehouse.judgements_frame(number)
    return dict(zip(frame["metric"], frame["state"], strict=True))


def test_far_off_is_measured_again(installation: Installation, history: str):
    """Only Airflow shows that tasks which skip on other nights run tonight, and that the run waits for them."""
    before = installation.cluster_state()
    run = installation.run(scenarios=[SCENARIO], order=",".join(ORDER), night=True)
    assert (run.state, run.row["status"]) == ("success", "valid"), run.row["reasons"]
    blocks = installation.warehouse.blocks_frame(run.number)
    assert list(zip(blocks["arm"], blocks["purpose"], strict=True)) == [
        *((arm, "plan") for arm in ORDER),
        *((arm, "rerun") for arm in ("off", "on", "off")),
    ]
    assert blocks["finished_at"].notna().all()
    results = installation.warehouse.results_frame(run.number, purpose="rerun")
    assert results.groupby("block")["generation"].nunique().to_dict() == {3: 1, 4: 2, 5: 1}
    # The run's comparison is that of all blocks.
    comparisons = installation.warehouse.comparisons_frame(run.number)
    assert comparisons["n_off"].max() == 3

    assert states(installation, run.number)["throughput_bps"] == "suspect"
    assert states(installation, run.number)["softirq_share_sender"] == "learning"
    (incident,) = incidents.open_incidents(installation.warehouse, history)
    assert incident.state == "suspect"
    lines = RunView.from_warehouse(installation.warehouse, run.number).history.lines()
    assert any("the median of the three counts" in line for line in lines)
    assert installation.cluster_state() == before
