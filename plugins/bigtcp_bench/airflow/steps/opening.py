"""Opens a run: checks that it can be measured, takes the cluster and saves its state."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk.exceptions import AirflowSkipException

from bigtcp_bench import __version__
from bigtcp_bench.airflow.dag_ids import identity_checks
from bigtcp_bench.airflow.params import plan_of_params
from bigtcp_bench.airflow.steps import telling
from bigtcp_bench.airflow.steps.step import DagRunStep, Result
from bigtcp_bench.cluster import environment, load, nodes, requirements
from bigtcp_bench.cluster.checks import Check, counted, refuse_failed
from bigtcp_bench.cluster.window import open_window
from bigtcp_bench.judging.attempts import (
    choice_of,
    has_ended,
    measured_anew,
    pending,
    refuse_changed,
    refuse_parts,
)
from bigtcp_bench.planning.plan import Plan
from bigtcp_bench.progress import say
from bigtcp_bench.report.preflight import checks_note, checks_text
from bigtcp_bench.warehouse.records import BY_HAND


def check_kernel(step: DagRunStep) -> Result:
    """Validate the plan, choose the nodes, look at them, and refuse what cannot be measured.

    What a run that died has left in the cluster is put back before.

    A dry run ends here: with what it would do in the log, no run in the warehouse, all other tasks skipped.
    """
    if step.params.get("dry_run"):
        _tell_outline(step)
        step.skip(task for task in step.task_ids if task != step.task_id)
        return {}
    step.warehouse.check_version()
    stored, due = _stored_blocks(step)
    if stored and not due:
        raise AirflowSkipException("the check was cleared alone: nothing is to be measured after it")
    return _begin(step)


def snapshot_config(step: DagRunStep) -> Result:
    """Take the cluster for this run and save its configuration in it; changes nothing else.

    A run that is cleared so that all of it is measured again, but not checked, is checked here.
    """
    stored, due = _stored_blocks(step)
    anew = measured_anew(step.planned(), stored, due, has_ended(step.warehouse.run(step.number)))
    if anew == "partly":
        refuse_parts(step.warehouse, step.number)
    begun = _begin(step) if anew == "whole" else step.left_by("check_kernel")
    choice = (begun or {}).get("choice") or choice_of(step.warehouse.run(step.number))
    refuse_changed(step.warehouse, step.number, choice)
    window = open_window(step.api, step.run_key, step.plan, step.pair, progress=say)
    return {"window": window.fence.window, "saved_at": window.state.saved_at, "choice": choice}


def _begin(step: DagRunStep) -> Result:
    """Begin an attempt of this run, and do what check_kernel is for."""
    number = step.warehouse.start_run(
        {
            "cluster": step.cluster,
            "dag_id": step.dag_id,
            "run_id": step.run_id,
            "status": "running",
            "is_aa": False,
            "is_night": step.run_type != BY_HAND or bool(step.params.get("night")),
            "started_at": datetime.now(UTC),
            "trigger": step.run_type,
            "note": step.params.get("note"),
            "package_version": __version__,
            "reasons": [],
        }
    )
    step.forget()
    plan = plan_of_params(step.params, step.conn_id)
    step.warehouse.update_run(
        number,
        plan=plan.model_dump(mode="json"),
        plan_name=plan.name,
        block_order=",".join(plan.order),
        is_aa=plan.is_aa,
    )
    requirements.refuse_held(step.api, step.run_key)
    _close_abandoned(step)
    requirements.put_back_abandoned(step.api, step.run_key, progress=say)
    pair = nodes.choose_pair(step.api, plan)
    say(f"checking {pair.client.name} (sends) and {pair.server.name} (receives)")
    found = requirements.preflight(step.api, plan, pair, holder=step.run_key)
    uid = environment.cluster_uid(step.api)
    checks = [*found.checks, *identity_checks(step.warehouse, step.cluster, uid)]
    _tell_checks(step, checks)
    row: Result = {"checks": [check.to_dict() for check in checks]}
    if found.complete:
        row = environment.describe(step.api, pair, found, checks)
    step.warehouse.update_run(number, **row)
    refuse_failed(checks)
    seen = {name: probe.document for name, probe in found.probes.items()}
    load.await_quiet(step.api, plan, pair, seen or None, progress=say)
    _say_shortfall(step, plan)
    choice = choice_of(step.warehouse.run(number))
    return {"run": number, "client_node": pair.client.name, "server_node": pair.server.name, "choice": choice}


def _tell_checks(step: DagRunStep, checks: list[Check]) -> None:
    print(checks_text(checks))
    for check in checks:
        if check.status != "pass":
            say(str(check))
    say(counted(checks))
    telling.add_note(step, checks_note(checks))


def _stored_blocks(step: DagRunStep) -> tuple[set[int], set[int]]:
    """Return the blocks of the newest attempt that are stored, and those whose switch is still to run."""
    if step.stored_number() is None:
        return set(), set()
    stored = set(step.warehouse.blocks_frame(step.number)["block"].tolist())
    return stored, pending(step.planned(), step.task_states()) if stored else set()


def _tell_outline(step: DagRunStep) -> None:
    """Print what a run would do; nothing is created, changed or stored."""
    from bigtcp_bench.measuring.dry_run import outline
    from bigtcp_bench.report.dry_run import outline_text

    plan = plan_of_params(step.params, step.conn_id)
    found = outline(step.api, plan, nodes.choose_pair(step.api, plan), step.run_key)
    print(outline_text(found))
    telling.add_note(step, f"**Dry run** of plan {plan.name}: the log of {step.task_id} says what a run would do.")
    say(f"dry run of plan {plan.name}: nothing was created, changed or stored; the log has what a run would do")


def _close_abandoned(step: DagRunStep) -> None:
    """Close earlier runs that nobody closed: of one cluster only one run at a time goes on."""
    cluster = step.cluster
    runs = step.warehouse.runs_frame(cluster, limit=50)
    open_runs = runs[(runs["status"] == "running") & (runs["dag_id"] == step.dag_id)]
    for number, run_id, reasons in open_runs[["id", "run_id", "reasons"]].itertuples(index=False):
        if run_id != step.run_id:
            why = "the run ended without being closed: Airflow was stopped, or its tasks were killed"
            step.warehouse.finish_run(int(number), "failed", [*reasons, why])


def _say_shortfall(step: DagRunStep, plan: Plan) -> None:
    from bigtcp_bench.judging.noise import known_noise, shortfall

    if not plan.is_aa and (sentence := shortfall(known_noise(step.warehouse, step.cluster), plan)):
        say(sentence)
