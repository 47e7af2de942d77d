"""The operator of the run's steps; by its class the plugin's link to the run's page finds their tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from bigtcp_bench.airflow.steps import PHASES
from bigtcp_bench.errors import InvalidInput

if TYPE_CHECKING:
    from airflow.sdk import Context


class StepOperator(BaseOperator):
    """Runs one step of a run.

    :param step: its name, a key of ``steps.PHASES``; the id of the task unless it is given.
    :param slot: which slot of the order of blocks it is for; for the steps that switch.
    """

    def __init__(self, *, step: str | None = None, slot: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.step = step or self.task_id
        self.slot = slot
        if self.step not in PHASES:
            raise InvalidInput(f"task {self.task_id}: step = {self.step!r}: must be one of {', '.join(PHASES)}")

    def execute(self, context: Context) -> Any:
        """Do the step and leave what it returns as the task's XCom; tasks that are not needed are skipped at once.

        Raises DownstreamTasksSkipped for these, with which Airflow counts this task as a success.
        """
        from airflow.sdk.exceptions import DownstreamTasksSkipped

        from bigtcp_bench.airflow.steps.perform import perform
        from bigtcp_bench.airflow.steps.step import DagRunStep

        step = DagRunStep.of(context)
        result = perform(self.step, step, *(() if self.slot is None else (self.slot,)))
        if not step.skipped:
            return result
        context["ti"].xcom_push(key="return_value", value=result)
        raise DownstreamTasksSkipped(tasks=sorted(step.skipped))
