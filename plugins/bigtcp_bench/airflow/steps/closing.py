"""Ends a run: puts the cluster back, and makes the run's state tell the truth, whatever happened before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import tenacity
from airflow.sdk.exceptions import AirflowFailException

from bigtcp_bench.airflow.steps import telling
from bigtcp_bench.airflow.steps.step import DagRunStep, Result
from bigtcp_bench.cluster.restore import restore
from bigtcp_bench.errors import RestoreFailed, WrongVersion, first_line
from bigtcp_bench.progress import say

if TYPE_CHECKING:
    from bigtcp_bench.cluster.restore import RestoreReport

#: How long the outcome of a restore waits for a warehouse that is away, and how often it is tried.
STORE_S = 600.0
STORE_EVERY_S = 15.0


def restore_config(step: DagRunStep) -> Result:
    """Put the cluster back as it was saved, and prove it. Needs nothing from the tasks before.

    Nor does it need the warehouse, which is told afterwards. Whatever keeps the cluster from being put back is
    worth another attempt.
    """
    try:
        report = _restored(step)
    except RestoreFailed as failure:
        try:
            _store_restore(step, {"state": "not_verified", "detail": str(failure)})
        except Exception as error:
            say(f"the outcome of the restore could not be stored: {first_line(error)}")
        raise
    state = "verified" if report.changed else "not_needed"
    result = {"state": state, "detail": str(report), **report.to_dict()}
    if report.outcome == "nothing":  # else the restore has said it itself
        say(str(report))
    try:
        _store_restore(step, result, wait_s=STORE_S)
    except Exception as error:
        # Not one for another attempt: the cluster is right, and the warehouse had its time.
        why = first_line(error)
        raise AirflowFailException(
            f"the cluster is as it was before the run, but the warehouse does not know it: {why}"
        ) from error
    return result


def close_run(step: DagRunStep) -> Result:
    """Make the run's state tell the truth, here and in Airflow, and tell what notify could not."""
    states = step.task_states()
    row = step.warehouse.run(step.number)
    restored = row["restore_result"]
    status, reasons = step.run.outcome(states, step.task_id)
    # Judged or told once more, it ended when it ended.
    ended = row["finished_at"]
    step.warehouse.finish_run(step.number, status, reasons, finished_at=ended)
    untold = states.get("notify") != "success" or restored is None or restored["state"] == "not_verified"
    _tell_end(step, print_summary=untold, budget_s=300)
    if status != "valid":
        raise AirflowFailException(f"the run is {status}: {reasons[0]}")
    return {"status": status}


def close_unopened(step: DagRunStep, failure: BaseException) -> None:
    """Close the run that ended by ``failure`` before its teardowns could run, and tell it."""
    cause = failure.__cause__
    if isinstance(cause, WrongVersion):
        return
    try:
        number = step.stored_number()
        if number is None:
            return
        step.forget()
        # A time-out has written none.
        reasons = step.warehouse.run(number)["reasons"] or [f"task {step.task_id}: {first_line(failure)}"]
        if isinstance(cause, RestoreFailed):
            result = {"state": "not_verified", "detail": str(cause)}
            step.warehouse.update_run(number, restore_result=result)
        step.warehouse.finish_run(number, "failed", reasons)
        _tell_end(step, print_summary=True, budget_s=60)
    except Exception as error:
        say(f"the run could not be closed: {first_line(error)}")


def _tell_end(step: DagRunStep, *, print_summary: bool, budget_s: float) -> None:
    """Tell how the run ended, wherever runs are told."""
    telling.diagnose(step)
    view = telling.view_of(step)
    if print_summary:
        telling.print_summary(view)
    telling.note_headline(step, view)
    telling.tell_slack(step, view, budget_s=budget_s)


def _restored(step: DagRunStep) -> RestoreReport:
    """Put the cluster back. Raises RestoreFailed, whatever the reason."""
    try:
        return restore(step.api, "the run ended", holder=step.run_key, progress=say)
    except RestoreFailed:
        raise
    except Exception as error:
        raise RestoreFailed(f"the cluster could not be put back: {first_line(error)}") from error


def _store_restore(step: DagRunStep, result: Result, *, wait_s: float = 0) -> None:
    """Store what became of the cluster, if the run is stored; a warehouse that is away is waited for."""

    def store() -> None:
        number = step.stored_number()
        if number is not None:
            step.warehouse.update_run(number, restore_result=result)

    tenacity.Retrying(
        stop=tenacity.stop_after_delay(wait_s), wait=tenacity.wait_fixed(STORE_EVERY_S), reraise=True
    )(store)
