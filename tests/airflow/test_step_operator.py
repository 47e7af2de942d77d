"""The operator of the steps: what it hands to Airflow."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import DownstreamTasksSkipped

from bigtcp_bench.airflow.step_operator import StepOperator
from bigtcp_bench.airflow.steps import telling
from bigtcp_bench.airflow.steps.step import DagRunStep
from bigtcp_bench.errors import InvalidInput


class Instance(SimpleNamespace):
    """A task instance, as far as it is asked."""

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed = (key, value)


def context() -> dict[str, Any]:
    ti = Instance(dag_id="bigtcp_benchmark", task_id="told", try_number=1, max_tries=1, pushed=None)
    run = SimpleNamespace(run_id="night 1", run_type="manual")
    return {"ti": ti, "dag_run": run, "params": {}, "dag": SimpleNamespace(task_ids=["told", "later"])}


def test_a_step_that_is_none_is_refused_when_the_dag_is_parsed() -> None:
    with pytest.raises(InvalidInput, match=r"task x: step = 'swich': must be one of check_kernel, .*, close_run"):
        StepOperator(task_id="x", step="swich")


@pytest.mark.parametrize("skipped", [[], ["later"]])
def test_what_a_step_returns_is_its_xcom_whether_or_not_others_are_skipped(skipped, monkeypatch) -> None:
    def notify(step: DagRunStep) -> dict[str, Any]:
        step.skip(skipped)
        return {"slack": []}

    monkeypatch.setattr(telling, "notify", notify)
    monkeypatch.setenv("AIRFLOW_VAR_BIGTCP_INSTALLATION", "here")
    operator, given = StepOperator(task_id="told", step="notify"), context()
    if not skipped:
        assert operator.execute(given) == {"slack": []}
        return
    with pytest.raises(DownstreamTasksSkipped) as raised:
        operator.execute(given)
    assert raised.value.tasks == skipped
    assert given["ti"].pushed == ("return_value", {"slack": []})
