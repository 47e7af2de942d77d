"""Tells how a run went: in the log, in the run's note, and in Slack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import conf

from bigtcp_bench.airflow import connections
from bigtcp_bench.airflow.steps.step import DagRunStep, Result
from bigtcp_bench.errors import BenchError, first_line
from bigtcp_bench.progress import say

if TYPE_CHECKING:
    from bigtcp_bench.report.view import RunView


def notify(step: DagRunStep) -> Result:
    """Tell the outcome: in this task's log, and in Slack where there is a connection."""
    view = view_of(step)
    print_summary(view)
    # The cluster is put back only after this task.
    return {"slack": tell_slack(step, view, budget_s=60)}


def view_of(step: DagRunStep) -> RunView:
    """Return the run as it is told."""
    from bigtcp_bench.report.view import RunView

    return RunView.from_warehouse(step.warehouse, step.number, _airflow_url())


def print_summary(view: RunView) -> None:
    """Print the summary of the run into the log."""
    from bigtcp_bench.report.summary import run_summary

    print(run_summary(view))


def tell_slack(step: DagRunStep, view: RunView, *, budget_s: float) -> list[str]:
    """Tell Slack of this run, and send what waits; return what became of that, a line each."""
    from bigtcp_bench.notify.telling import tell

    lines = tell(step.warehouse, view, connections.channel_settings, airflow_url=_airflow_url(), budget_s=budget_s)
    for line in lines:
        say(line)
    return lines


def add_note(step: DagRunStep, text: str, *, first: bool = False) -> None:
    """Put ``text`` into the run's note where there is a connection to do it with; the run goes on without."""
    try:
        airflow = connections.airflow_api()
        if airflow is not None:
            airflow.add_note(step.dag_id, step.run_id, text, first=first)
    except BenchError as error:
        say(f"the run has no note: {error}")


def note_headline(step: DagRunStep, view: RunView) -> None:
    """Put the run's news above everything else in its note: a long note is cut at its end."""
    from bigtcp_bench.report.summary import headline

    add_note(step, f"**{headline(view)}**", first=True)


def diagnose(step: DagRunStep) -> None:
    """Store and say the likely causes of what is wrong with the run."""
    from bigtcp_bench.judging.causes import NONE_FOUND, diagnose_run

    try:
        for cause in diagnose_run(step.warehouse, step.number):
            if cause.name != NONE_FOUND:
                say(f"likely cause {cause.name}: {cause.sentence}")
    except Exception as error:  # whatever a document holds: no run fails for want of an explanation
        say(f"the run could not be diagnosed: {first_line(error)}")


def _airflow_url() -> str | None:
    return conf.get("api", "base_url", fallback=None)
