"""Judges what was measured: the run, and the night among the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from airflow.sdk.exceptions import AirflowSkipException

from bigtcp_bench.airflow.steps import telling
from bigtcp_bench.airflow.steps.step import DagRunStep, Result
from bigtcp_bench.errors import BenchError
from bigtcp_bench.judging.night import Night, Rerun
from bigtcp_bench.planning.plan import rerun_tasks
from bigtcp_bench.progress import say


def compare(step: DagRunStep) -> Result:
    """Judge the run: proof of effect and the other gates first, then the verdict per scenario and metric.

    A valid run is then judged across nights, unless scenarios are to be measured again before; an A/A run
    says instead how noisy the cluster is.
    """
    verdict = step.run.verdict()
    step.warehouse.store_comparisons(step.number, verdict.comparisons)
    reasons = [*verdict.reasons, *step.run.failures(step.planned())] if verdict.reasons else []
    step.warehouse.update_run(step.number, status=verdict.status, reasons=reasons)
    say(f"the run is {verdict.status}" + "".join(f"; {reason}" for reason in verdict.reasons))
    due: list[str] = []
    if verdict.status == "valid" and step.plan.is_aa:
        for line in step.run.calibrate():
            say(line)
    elif verdict.status == "valid":
        due = step.run.due()
        if due:
            say(f"far off what is usual, or not known well enough, so measured again: {', '.join(due)}")
        else:
            _say_night(step.run.nightly().judge())
    if not due:
        step.skip(rerun_tasks())
    telling.diagnose(step)
    return {"status": verdict.status, "reasons": list(verdict.reasons), "rerun": due}


def compare_rerun(step: DagRunStep) -> Result:
    """Judge the run by all that was measured, and the night by the median of three values.

    Without a usable re-run both are judged by the plan's own blocks.

    The comparisons of the plan's own blocks say what was due, so those of all blocks are stored last: a second try
    begins where the first did.
    """
    if not step.run.due():
        raise AirflowSkipException("no scenario was to be measured again")
    step.warehouse.store_comparisons(step.number, step.run.verdict().comparisons)
    due = step.run.due()
    rerun = _measured_again(step, due)
    for reason in rerun.reasons:
        say(f"the re-run does not count: {reason}")
    _say_night(step.run.nightly().judge(rerun))
    if not rerun.reasons:
        step.warehouse.store_comparisons(step.number, step.run.pooled(rerun))
    telling.diagnose(step)
    return {"rerun": due, "counted": not rerun.reasons, "reasons": list(rerun.reasons)}


def _measured_again(step: DagRunStep, scenarios: Sequence[str]) -> Rerun:
    """Return what measuring ``scenarios`` again gave, if it passes the gates that the run itself passed."""
    # Needs the Kubernetes client, which most nights do without here.
    from bigtcp_bench.airflow.steps import blocks

    again = step.run.rerun_blocks(scenarios)
    try:
        blocks.store_counters(step, [*step.planned(), *again])
    except BenchError as error:
        # What nobody has read at its end may have had another Cilium.
        return step.run.uncounted(scenarios, (f"the end of the re-run could not be read: {error}",))
    blocks.store_prometheus(step, again)
    return step.run.rerun(scenarios)


def _say_night(night: Night) -> None:
    states = Counter(item.judgement.state for item in night.judgements)
    say(f"across nights: {', '.join(f'{count} {state}' for state, count in states.items()) or 'nothing'}")
    for change in night.changes:
        say(f"incident {change.kind}: {len(change.incident.members)} series since {change.incident.changed_on}")
