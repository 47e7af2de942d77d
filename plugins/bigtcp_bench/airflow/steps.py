"""The steps of a run, one for each task of the DAG: what is done in which order; how is in the other rooms."""

from __future__ import annotations

import functools
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
    DownstreamTasksSkipped,
)

from bigtcp_bench import __version__
from bigtcp_bench.airflow import connections, dag_ids
from bigtcp_bench.errors import (
    BenchError,
    InvalidInput,
    PreconditionFailed,
    RestoreFailed,
    SwitchFailed,
    WrongVersion,
)
from bigtcp_bench.planning.plan import RERUN_PREFIX
from bigtcp_bench.progress import say

if TYPE_CHECKING:
    import pandas as pd

    from bigtcp_bench.analysis.verdicts import RunVerdict
    from bigtcp_bench.cluster.api import ClusterApi
    from bigtcp_bench.cluster.lease import Fence
    from bigtcp_bench.cluster.nodes import NodePair
    from bigtcp_bench.cluster.restore import RestoreReport
    from bigtcp_bench.judging.night import Night, Nightly, Rerun
    from bigtcp_bench.planning.plan import Block, Plan
    from bigtcp_bench.report.view import RunView
    from bigtcp_bench.warehouse.store import Warehouse

Result = dict[str, Any]
Step = TypeVar("Step", bound=Callable[..., Any])

#: States of tasks after which the run cannot count. Skipped ones are slots that the order of blocks does not use.
_BAD_STATES = {"failed", "upstream_failed"}

#: How long the outcome of a restore waits for a warehouse that is away, and how often it is tried.
STORE_S = 600.0
STORE_EVERY_S = 15.0


def _reported(step: Step) -> Step:
    """Write why a step failed into the run's row; end the task at once where trying again cannot help."""

    @functools.wraps(step)
    def wrapper(self: DagRunStep, *args: Any, **kwargs: Any) -> Any:
        try:
            return step(self, *args, **kwargs)
        except AirflowException:
            raise
        except RestoreFailed as error:
            self.add_reason(str(error))
            # The one failure that is worth many attempts: somebody may mend the node meanwhile.
            raise AirflowException(str(error)) from error
        except WrongVersion as error:
            # There is no row to write it into.
            raise AirflowFailException(str(error)) from error
        except BenchError as error:
            self.add_reason(str(error))
            raise AirflowFailException(str(error)) from error
        except Exception as error:
            self.add_reason(f"{step.__name__}: {traceback.format_exception_only(error)[-1].strip()}")
            raise

    return wrapper  # type: ignore[return-value]


def _opening(step: Step) -> Step:
    """Close the run when a step up to the setup fails for good: then Airflow runs no teardown."""

    @functools.wraps(step)
    def wrapper(self: DagRunStep, *args: Any, **kwargs: Any) -> Any:
        try:
            return step(self, *args, **kwargs)
        except (AirflowSkipException, DownstreamTasksSkipped):
            raise
        except (Exception, AirflowTaskTimeout) as failure:
            if self.last_try or isinstance(failure, AirflowFailException):
                self._close_unopened(failure)
            raise

    return wrapper  # type: ignore[return-value]


@dataclass(frozen=True)
class DagRunStep:
    """One task of one DAG run, with what the steps need to know of it."""

    dag_id: str
    run_id: str
    task_id: str
    run_type: str
    params: Mapping[str, Any]
    #: Returns task id → state of this DAG run.
    task_states: Callable[[], Mapping[str, str]]
    #: Of all tasks of the DAG.
    task_ids: Sequence[str] = ()
    #: Whether Airflow does not try this task again, whatever becomes of it.
    last_try: bool = True
    #: What tells this Airflow from every other one.
    installation: str = ""

    @classmethod
    def current(cls) -> DagRunStep:
        """Return the task that is running right now."""
        from airflow.sdk import get_current_context

        context = get_current_context()
        instance, dag_run = context["ti"], context["dag_run"]

        def task_states() -> Mapping[str, str]:
            found = instance.get_task_states(dag_id=instance.dag_id, run_ids=[dag_run.run_id])
            return found.get(dag_run.run_id, {})

        return cls(
            dag_id=instance.dag_id,
            run_id=dag_run.run_id,
            task_id=instance.task_id,
            run_type=str(getattr(dag_run.run_type, "value", dag_run.run_type)),
            params=context["params"],
            task_states=task_states,
            task_ids=sorted(context["dag"].task_ids),
            last_try=instance.try_number > instance.max_tries,
            installation=connections.installation(),
        )

    # What every step works with

    @property
    def run_key(self) -> str:
        """Return the name under which this run holds the cluster."""
        from bigtcp_bench.cluster.lease import holder_of

        return holder_of(self.dag_id, self.run_id, self.installation)

    @property
    def conn_id(self) -> str:
        """Return the id of the Kubernetes connection: the DAG's own."""
        return dag_ids.conn_id_of(self.dag_id)

    @functools.cached_property
    def warehouse(self) -> Warehouse:
        """Return the warehouse of the connection."""
        return connections.warehouse()

    @functools.cached_property
    def api(self) -> ClusterApi:
        """Return the API of the cluster under test."""
        return connections.cluster_api(self.conn_id)

    @functools.cached_property
    def number(self) -> int:
        """Return the run's number in the warehouse."""
        number = self._stored_number()
        if number is None:
            raise PreconditionFailed(f"run {self.run_key} is not in the warehouse; clear it from check_kernel")
        return number

    @functools.cached_property
    def plan(self) -> Plan:
        """Return the plan that check_kernel has stored."""
        return self.warehouse.plan_of(self.number)

    @functools.cached_property
    def pair(self) -> NodePair:
        """Return the pair of nodes that check_kernel has chosen."""
        from bigtcp_bench.cluster.nodes import NodePair

        return NodePair.from_dict(self.warehouse.run(self.number)["environment"]["pair"])

    def fence(self) -> Fence:
        """Return the fence that every change of the cluster is made behind."""
        from bigtcp_bench.cluster.lease import Fence

        return Fence(self.api, self.run_key)

    def add_reason(self, reason: str) -> None:
        """Add ``reason`` to those in the run's row; only the log has it without a row, and of a re-run.

        A warehouse that is away is only said: the failure itself is what the task ends with.
        """
        try:
            number = self._stored_number()
            if number is not None and not self.task_id.startswith(RERUN_PREFIX):
                reasons = list(self.warehouse.run(number)["reasons"])
                if reason not in reasons:
                    self.warehouse.update_run(number, reasons=[*reasons, reason])
        except Exception as error:
            say(f"why this task fails could not be stored: {_first_line(error)}")

    def _stored_number(self) -> int | None:
        return self.warehouse.find_run(self._cluster, self.dag_id, self.run_id)

    # The steps, in the order of the run

    @_opening
    @_reported
    def check_kernel(self) -> Result:
        """Validate the plan, choose the nodes, look at them, and refuse what cannot be measured.

        What a run that died has left in the cluster is put back before.

        A dry run ends here: with what it would do in the log, no run in the warehouse, all other tasks skipped.
        """
        if self.params.get("dry_run"):
            self._tell_outline()
            raise DownstreamTasksSkipped(tasks=[task for task in self.task_ids if task != self.task_id])
        self.warehouse.check_version()
        stored, due = self._stored_blocks()
        if stored and not due:
            raise AirflowSkipException("the check was cleared alone: nothing is to be measured after it")
        return self._begin()

    @_opening
    @_reported
    def snapshot_config(self) -> Result:
        """Take the cluster for this run and save its configuration in it; changes nothing else.

        A run that is cleared so that all of it is measured again, but not checked, is checked here.
        """
        from bigtcp_bench.cluster.window import open_window
        from bigtcp_bench.judging.attempts import has_ended, measured_anew, refuse_parts

        stored, due = self._stored_blocks()
        anew = measured_anew(self._planned(), stored, due, has_ended(self.warehouse.run(self.number)))
        if anew == "partly":
            refuse_parts(self.warehouse, self.number)
        if anew == "whole":
            self._begin()
        window = open_window(self.api, self.run_key, self.plan, self.pair, progress=say)
        return {"window": window.fence.window, "saved_at": window.state.saved_at}

    @_reported
    def switch(self, slot: int) -> list[Result]:
        """Put the arm of this slot's block in force and prove it; return its generations, for the mapped task."""
        from bigtcp_bench.judging.attempts import refuse_ended

        refuse_ended(self.warehouse, self.number)
        return self._switched(self._block_of(slot), "plan")

    @_reported
    def rerun_switch(self, slot: int) -> list[Result]:
        """Do what ``switch`` does for a block of the re-run; skips unless there are scenarios to measure again."""
        from bigtcp_bench.judging.attempts import has_ended

        due = self._due()
        if not due:
            raise AirflowSkipException("no scenario is to be measured again tonight")
        if has_ended(self.warehouse.run(self.number)):
            raise AirflowSkipException("the run has ended: what it measured twice, or did not, stays as it is")
        block = self._rerun_blocks(due)[slot - 1]
        try:
            return self._switched(block, "rerun", due)
        except Exception as error:
            reason = f"block {block.number} (re-run): {_first_line(error)}"
            row = {"block": block.number, "arm": block.arm, "generation": 1, "reason": reason}
            self.warehouse.store_failures(self.number, [row])
            raise

    @_reported
    def collect_counters(self) -> Result:
        """End the last block; store how much both nodes' counters grew during each, and what Prometheus knows."""
        found = {"counters": self._store_counters(self._planned())}
        self._store_prometheus(self._planned())
        return found

    @_reported
    def compare(self) -> Result:
        """Judge the run: proof of effect and the other gates first, then the verdict per scenario and metric.

        A valid run is then judged across nights, unless scenarios are to be measured again before; an A/A run
        says instead how noisy the cluster is.
        """
        plan = self.plan
        verdict = self._verdict(plan)
        self.warehouse.store_comparisons(self.number, verdict.comparisons)
        reasons = [*verdict.reasons, *self._failures(self._planned())] if verdict.reasons else []
        self.warehouse.update_run(self.number, status=verdict.status, reasons=reasons)
        say(f"the run is {verdict.status}" + "".join(f"; {reason}" for reason in verdict.reasons))
        due: list[str] = []
        if verdict.status == "valid" and plan.is_aa:
            self._calibrate()
        elif verdict.status == "valid":
            nightly = self._nightly()
            due = nightly.due()
            if due:
                say(f"far off what is usual, so measured again: {', '.join(due)}")
            else:
                self._say_night(nightly.judge())
        self._diagnose()
        return {"status": verdict.status, "reasons": list(verdict.reasons), "rerun": due}

    @_reported
    def compare_rerun(self) -> Result:
        """Judge the night by the median of its three measurements; without a usable re-run, by the first."""
        due = self._due()
        if not due:
            raise AirflowSkipException("no scenario was to be measured again tonight")
        rerun = self._rerun(due)
        for reason in rerun.reasons:
            say(f"the re-run does not count: {reason}")
        self._say_night(self._nightly().judge(rerun))
        self._diagnose()
        return {"rerun": due, "counted": not rerun.reasons, "reasons": list(rerun.reasons)}

    @_reported
    def notify(self) -> Result:
        """Tell the outcome: in this task's log, and in Slack where there is a connection."""
        view = self._view()
        self._print(view)
        # The cluster is put back only after this task.
        return {"slack": self._tell_slack(view, budget_s=60)}

    @_reported
    def restore_config(self) -> Result:
        """Put the cluster back as it was saved, and prove it. Needs nothing from the tasks before.

        Nor does it need the warehouse, which is told afterwards. Whatever keeps the cluster from being put back is
        worth another attempt.
        """
        try:
            report = self._restored()
        except RestoreFailed as failure:
            try:
                self._store_restore({"state": "not_verified", "detail": str(failure)})
            except Exception as error:
                say(f"the outcome of the restore could not be stored: {_first_line(error)}")
            raise
        state = "verified" if report.changed else "not_needed"
        result = {"state": state, "detail": str(report), **report.to_dict()}
        if report.outcome == "nothing":  # else the restore has said it itself
            say(str(report))
        try:
            self._store_restore(result, wait_s=STORE_S)
        except Exception as error:
            # Not one for another attempt: the cluster is right, and the warehouse had its time.
            why = _first_line(error)
            raise AirflowFailException(
                f"the cluster is as it was before the run, but the warehouse does not know it: {why}"
            ) from error
        return result

    @_reported
    def close_run(self) -> Result:
        """Make the run's state tell the truth, here and in Airflow, and tell what notify could not."""
        states = self.task_states()
        bad = sorted(
            task
            for task, state in states.items()
            if state in _BAD_STATES and task != self.task_id and not task.startswith(RERUN_PREFIX)
        )
        row = self.warehouse.run(self.number)
        restore = row["restore_result"]
        status, reasons = row["status"], list(row["reasons"])
        if bad or status == "running" or restore is None:
            status = "failed"
            reasons = list(dict.fromkeys([*reasons, *self._failures(self._planned())]))
            reasons += [f"task {task} ended {states[task]}" for task in bad if states[task] != "upstream_failed"]
        if status == "failed" and not reasons:
            reasons = ["the run was ended before it was judged"]
        # Judged or told once more, it ended when it ended.
        ended = row["finished_at"]
        self.warehouse.finish_run(self.number, status, [] if status == "valid" else reasons, finished_at=ended)
        self._diagnose()
        view = self._view()
        if states.get("notify") != "success" or restore is None or restore["state"] == "not_verified":
            self._print(view)
        self._note_headline(view)
        self._tell_slack(view, budget_s=300)
        if status != "valid":
            raise AirflowFailException(f"the run is {status}: {reasons[0]}")
        return {"status": status}

    # Parts of steps

    def _begin(self) -> Result:
        """Begin an attempt of this run, and do what check_kernel is for."""
        from bigtcp_bench.airflow.dag_ids import identity_checks
        from bigtcp_bench.airflow.params import plan_of_params
        from bigtcp_bench.cluster import environment, load, nodes, requirements
        from bigtcp_bench.cluster.checks import counted, refuse_failed
        from bigtcp_bench.report.preflight import checks_note, checks_text
        from bigtcp_bench.warehouse.records import BY_HAND

        number = self.warehouse.start_run(
            {
                "cluster": self._cluster,
                "dag_id": self.dag_id,
                "run_id": self.run_id,
                "status": "running",
                "is_aa": False,
                "is_night": self.run_type != BY_HAND or bool(self.params.get("night")),
                "started_at": datetime.now(UTC),
                "trigger": self.run_type,
                "note": self.params.get("note"),
                "package_version": __version__,
                "reasons": [],
            }
        )
        self._forget()
        plan = plan_of_params(self.params, self.conn_id)
        self.warehouse.update_run(
            number,
            plan=plan.model_dump(mode="json"),
            plan_name=plan.name,
            block_order=",".join(plan.order),
            is_aa=plan.is_aa,
        )
        requirements.refuse_held(self.api, self.run_key)
        self._close_abandoned()
        requirements.put_back_abandoned(self.api, self.run_key, progress=say)
        pair = nodes.choose_pair(self.api, plan)
        say(f"checking {pair.client.name} (sends) and {pair.server.name} (receives)")
        found = requirements.preflight(self.api, plan, pair, holder=self.run_key)
        uid = environment.cluster_uid(self.api)
        checks = [*found.checks, *identity_checks(self.warehouse, self._cluster, uid)]
        print(checks_text(checks))
        for check in checks:
            if check.status != "pass":
                say(str(check))
        say(counted(checks))
        self._add_note(checks_note(checks))
        row: Result = {"checks": [check.to_dict() for check in checks]}
        if found.complete:
            row = environment.describe(self.api, pair, found.probes, checks)
        self.warehouse.update_run(number, **row)
        refuse_failed(checks)
        load.await_quiet(self.api, plan, pair, found.probes, progress=say)
        self._say_shortfall(plan)
        return {"run": number, "client_node": pair.client.name, "server_node": pair.server.name}

    def _forget(self) -> None:
        """Ask for the attempt and what belongs to it again: another one has begun."""
        for known in ("number", "plan", "pair"):
            self.__dict__.pop(known, None)

    def _stored_blocks(self) -> tuple[set[int], set[int]]:
        """Return the blocks of the newest attempt that are stored, and those whose switch is still to run."""
        from bigtcp_bench.judging.attempts import pending

        if self._stored_number() is None:
            return set(), set()
        stored = set(self.warehouse.blocks_frame(self.number)["block"].tolist())
        return stored, pending(self._planned(), self.task_states()) if stored else set()

    def _close_unopened(self, failure: BaseException) -> None:
        """Close the run that ended by ``failure`` before its teardowns could run, and tell it."""
        cause = failure.__cause__
        if isinstance(cause, WrongVersion):
            return
        try:
            number = self._stored_number()
            if number is None:
                return
            self._forget()
            # A time-out has written none.
            reasons = self.warehouse.run(number)["reasons"] or [f"task {self.task_id}: {_first_line(failure)}"]
            if isinstance(cause, RestoreFailed):
                result = {"state": "not_verified", "detail": str(cause)}
                self.warehouse.update_run(number, restore_result=result)
            self.warehouse.finish_run(number, "failed", reasons)
            self._diagnose()
            view = self._view()
            self._print(view)
            self._note_headline(view)
            self._tell_slack(view, budget_s=60)
        except Exception as error:
            say(f"the run could not be closed: {_first_line(error)}")

    def _restored(self) -> RestoreReport:
        """Put the cluster back. Raises RestoreFailed, whatever the reason."""
        from bigtcp_bench.cluster import restore

        try:
            return restore.restore(self.api, "the run ended", holder=self.run_key, progress=say)
        except RestoreFailed:
            raise
        except Exception as error:
            raise RestoreFailed(f"the cluster could not be put back: {_first_line(error)}") from error

    def _store_restore(self, result: Result, *, wait_s: float = 0) -> None:
        """Store what became of the cluster, if the run is stored; a warehouse that is away is waited for."""
        import tenacity

        def store() -> None:
            number = self._stored_number()
            if number is not None:
                self.warehouse.update_run(number, restore_result=result)

        tenacity.Retrying(
            stop=tenacity.stop_after_delay(wait_s), wait=tenacity.wait_fixed(STORE_EVERY_S), reraise=True
        )(store)

    def _add_note(self, text: str, *, first: bool = False) -> None:
        """Put ``text`` into the run's note where there is a connection to do it with; the run goes on without."""
        try:
            airflow = connections.airflow_api()
            if airflow is not None:
                airflow.add_note(self.dag_id, self.run_id, text, first=first)
        except BenchError as error:
            say(f"the run has no note: {error}")

    def _note_headline(self, view: RunView) -> None:
        """Put the run's news above everything else in its note: a long note is cut at its end."""
        from bigtcp_bench.report.summary import headline

        self._add_note(f"**{headline(view)}**", first=True)

    def _tell_outline(self) -> None:
        """Print what a run would do; nothing is created, changed or stored."""
        from bigtcp_bench.airflow.params import plan_of_params
        from bigtcp_bench.cluster.nodes import choose_pair
        from bigtcp_bench.measuring.dry_run import outline
        from bigtcp_bench.report.dry_run import outline_text

        plan = plan_of_params(self.params, self.conn_id)
        found = outline(self.api, plan, choose_pair(self.api, plan), self.run_key)
        print(outline_text(found))
        self._add_note(f"**Dry run** of plan {plan.name}: the log of {self.task_id} says what a run would do.")
        say(
            f"dry run of plan {plan.name}: nothing was created, changed or stored; the log has what a run would do"
        )

    def _close_abandoned(self) -> None:
        """Close earlier runs that nobody closed: of one cluster only one run at a time goes on."""
        cluster = self._cluster
        runs = self.warehouse.runs_frame(cluster, limit=50)
        open_runs = runs[(runs["status"] == "running") & (runs["dag_id"] == self.dag_id)]
        for number, run_id, reasons in open_runs[["id", "run_id", "reasons"]].itertuples(index=False):
            if run_id != self.run_id:
                why = "the run ended without being closed: Airflow was stopped, or its tasks were killed"
                self.warehouse.finish_run(int(number), "failed", [*reasons, why])

    def _block_of(self, slot: int) -> Block:
        from bigtcp_bench.planning.plan import blocks

        for block in blocks(self.plan):
            if block.slot == slot:
                return block
        raise AirflowSkipException(f"the order {','.join(self.plan.order)} has no block here")

    def _planned(self) -> list[Block]:
        """Return the blocks of the plan; none when the run ended before it had one."""
        from bigtcp_bench.planning.plan import blocks

        return blocks(self.plan) if self.warehouse.run(self.number)["plan"] is not None else []

    def _rerun_blocks(self, scenarios: Sequence[str]) -> list[Block]:
        """Return the blocks of the re-run, numbered on from those of the plan."""
        from bigtcp_bench.planning.plan import blocks, rerun_plan

        before = len(self._planned())
        return [
            block.model_copy(update={"number": before + block.number})
            for block in blocks(rerun_plan(self.plan, scenarios))
        ]

    def _switched(self, block: Block, purpose: str, scenarios: Sequence[str] = ()) -> list[Result]:
        """Put the arm of ``block`` in force and prove it; return its generations."""
        from bigtcp_bench.cluster import bigtcp_switch, load, pods
        from bigtcp_bench.measuring.generation import generations_of
        from bigtcp_bench.planning.plan import captured_ways, rerun_plan

        fence = self.fence()
        with fence.renewing():
            fence.check()
            self._end_block_before(block.number)
            pods.delete_pods(self.api, before=fence.check)
            # What nodes use at rest is known from just before the switch, or else from before the run.
            usual = (self.warehouse.run(self.number)["environment"] or {}).get("busy_cpus") or {}
            usual = usual | load.await_quiet(self.api, self.plan, self.pair, progress=say)
            say(f"block {block.number}: switching BIG TCP {block.arm}")
            try:
                report = bigtcp_switch.switch(
                    self.api, fence, block.arm, self.pair, self.plan, force_restart=self.plan.is_aa, progress=say
                )
            except SwitchFailed as error:
                if error.report and purpose == "plan":
                    row = {"block": block.number, "arm": block.arm, "switch_report": error.report}
                    self.warehouse.store_block(self.number, row)
                raise
            if self.plan.control and purpose == "plan":
                self._measure_control(block)
            measured = rerun_plan(self.plan, scenarios) if purpose == "rerun" else self.plan
            if captured_ways(measured):
                self._measure_packet_sizes(block, measured)
            documents = load.read_at_rest(
                self.api, self.plan, self.pair, usual if report.restarted else {}, progress=say
            )
            self._store_nodes(block.number, "begin", documents)
        self.warehouse.store_block(
            self.number,
            {
                "block": block.number,
                "arm": block.arm,
                "purpose": purpose,
                "started_at": datetime.now(UTC),
                "finished_at": None,
                "switch_report": report.to_dict(),
            },
        )
        generations = generations_of(
            block, run=self.number, run_key=self.run_key, nodes=self.pair.names, scenarios=scenarios
        )
        return [one.model_dump(mode="json") for one in generations]

    def _measure_control(self, block: Block) -> None:
        """Store the control of ``block``; one that fails is said and missing, and the block goes on."""
        from bigtcp_bench.measuring.control import measure_control

        try:
            measured = measure_control(
                self.api, self.plan, self.pair, run_key=self.run_key, block=block.number, arm=block.arm
            )
        except BenchError as error:
            say(f"block {block.number} has no control: {_first_line(error)}")
            return
        key = {"block": block.number, "arm": block.arm, "generation": 0}
        self.warehouse.store_results(self.number, [{**key, **asdict(one)} for one in measured])
        value = next((one.value for one in measured if one.metric == "transactions_per_s"), None)
        if value is not None:
            say(f"block {block.number}: the control has {value:,.0f} transactions/s between the nodes themselves")

    def _measure_packet_sizes(self, block: Block, plan: Plan) -> None:
        """Store the packet sizes of ``block``; a capture that fails is said and missing, and the block goes on.

        Where nothing else proves what BIG TCP does, it is tried once more.
        """
        from bigtcp_bench.measuring import packet_sizes
        from bigtcp_bench.planning.plan import unproven_ways
        from bigtcp_bench.readings.agent_log import Captured

        needed = {way.family for way in unproven_ways(plan.scenarios)}
        found: dict[str, Captured] = {}
        for _ in range(2 if needed else 1):
            try:
                captured = packet_sizes.measure_packet_sizes(
                    self.api, plan, self.pair, run_key=self.run_key, block=block.number, arm=block.arm
                )
            except BenchError as error:
                say(f"block {block.number} has no packet sizes: {_first_line(error)}")
                continue
            for loss in packet_sizes.losses(captured):
                say(f"block {block.number}: {loss}")
            found |= {one.family: one for one in captured if one.error is None or one.family not in found}
            if all(family in found and found[family].error is None for family in needed):
                break
        self.warehouse.store_packet_sizes(self.number, packet_sizes.rows(list(found.values())))
        key = {"block": block.number, "generation": 0}
        self.warehouse.store_raw(
            self.number,
            [{**key, "kind": f"capture:{one.family}", "document": one.stored} for one in found.values()],
        )

    def _store_counters(self, of_blocks: Sequence[Block]) -> int:
        """End the last of ``of_blocks``, and store the growth of both nodes' counters during each."""
        from bigtcp_bench.cluster import node_counters

        fence = self.fence()
        with fence.renewing():
            self._end_block_before(of_blocks[-1].number + 1)
        documents = {
            (document.block, document.kind): document
            for document in self.warehouse.raw_documents(self.number)
            if document.kind.startswith("node-")
        }
        rows, gaps = node_counters.deltas(documents, {block.number: block.arm for block in of_blocks})
        for gap in gaps:
            say(gap)
        self.warehouse.store_counters(self.number, rows)
        return len(rows)

    def _store_prometheus(self, of_blocks: Sequence[Block]) -> None:
        """Store what Prometheus knows of ``of_blocks``, where there is a connection to it."""
        from bigtcp_bench.monitoring.collect import collect

        names = [name for node in self.pair.nodes for name in (node.name, *node.internal_ips)]
        blocks = [block.number for block in of_blocks]
        settings = connections.prometheus_settings
        for line in collect(self.warehouse, self.number, blocks, names, self._cluster, settings):
            say(line)

    def _verdict(self, plan: Plan, before: int = 0) -> RunVerdict:
        """Return the verdict on the blocks of ``plan``, which were measured after ``before`` others."""
        from bigtcp_bench.analysis.noise import switch_sds
        from bigtcp_bench.analysis.verdicts import judge_run
        from bigtcp_bench.judging.facts import captures_of, facts_of
        from bigtcp_bench.judging.noise import known_noise
        from bigtcp_bench.warehouse.controls import control_history, control_values

        numbers = self._numbers(plan, before)
        reports = self.warehouse.blocks_frame(self.number).set_index("block")["switch_report"].to_dict()
        documents = [one for one in self.warehouse.raw_documents(self.number) if one.block <= max(numbers)]
        facts = facts_of(
            [
                document.model_copy(update={"block": numbers[document.block]})
                for document in documents
                if document.block in numbers
            ],
            {numbers[block]: report for block, report in reports.items() if block in numbers},
        )
        if before:
            # The night is judged by all of its blocks together, so all of them must have had the same Cilium.
            of_nodes = [one for one in documents if one.kind.startswith("node-")]
            facts = replace(facts, environments=facts_of(of_nodes, reports).environments)
        sizes = self.warehouse.packet_sizes_frame(self.number)
        sizes = sizes[sizes["block"].isin(numbers)].assign(block=lambda rows: rows["block"].map(numbers))
        facts = replace(
            facts,
            captures=captures_of(sizes),
            control=control_values(self.warehouse, [self.number]).get(self.number),
            control_history=control_history(self.warehouse, self.number, plan.thresholds.control_nights),
        )
        sds = switch_sds(known_noise(self.warehouse, self._cluster), plan.thresholds)
        return judge_run(self._results(plan, before), plan, facts, sds)

    def _numbers(self, plan: Plan, before: int) -> dict[int, int]:
        """Return the number in ``plan`` of each of its blocks, by that in the warehouse."""
        from bigtcp_bench.planning.plan import blocks

        return {before + block.number: block.number for block in blocks(plan)}

    def _results(self, plan: Plan, before: int) -> pd.DataFrame:
        numbers = self._numbers(plan, before)
        results = self.warehouse.results_frame(self.number)
        return results[results["block"].isin(numbers)].assign(block=lambda rows: rows["block"].map(numbers))

    def _failures(self, of_blocks: Sequence[Block]) -> list[str]:
        """Return why repetitions of ``of_blocks`` have no measurement."""
        found = self.warehouse.failures_frame(self.number)
        reasons: list[str] = found[found["block"].isin([block.number for block in of_blocks])]["reason"].tolist()
        return reasons

    @property
    def _cluster(self) -> str:
        return connections.cluster_name(self.conn_id)

    def _nightly(self) -> Nightly:
        from bigtcp_bench.judging.night import Nightly

        return Nightly(self.warehouse, self.number, self.plan.thresholds)

    def _due(self) -> list[str]:
        """Return the scenarios to measure again tonight: none unless the run is valid and compares the arms."""
        if self.plan.is_aa or self.warehouse.run(self.number)["status"] != "valid":
            return []
        return self._nightly().due()

    def _rerun(self, scenarios: Sequence[str]) -> Rerun:
        """Return what measuring ``scenarios`` again gave, if it passes the gates that the run itself passed."""
        from bigtcp_bench.judging.night import Rerun, rerun_pairs
        from bigtcp_bench.planning.plan import rerun_plan

        plan, before = rerun_plan(self.plan, scenarios), len(self._planned())
        again = self._rerun_blocks(scenarios)
        try:
            self._store_counters([*self._planned(), *again])
        except BenchError as error:
            # What nobody has read at its end may have had another Cilium.
            return Rerun(plan.scenarios, reasons=(f"the end of the re-run could not be read: {error}",))
        self._store_prometheus(again)
        verdict = self._verdict(plan, before)
        if verdict.reasons:
            reasons = dict.fromkeys([*self._failures(again), *verdict.reasons])
            return Rerun(plan.scenarios, reasons=tuple(reasons))
        wrong = {(one.scenario, one.metric) for one in verdict.comparisons if one.verdict == "invalid"}
        pairs = rerun_pairs(self._results(plan, before), plan)
        kept = {series: values for series, values in pairs.items() if series not in wrong}
        return Rerun(plan.scenarios, kept)

    def _calibrate(self) -> None:
        """Store the noise that an A/A run measured, and say it."""
        from bigtcp_bench.analysis.noise import measure_noise
        from bigtcp_bench.judging.noise import advice, headlines, noise_line

        noises = measure_noise(self._results(self.plan, 0), self.plan)
        self.warehouse.store_noise(self.number, noises)
        for one in headlines(advice(noises, self.plan)):
            say(noise_line(one))

    def _say_shortfall(self, plan: Plan) -> None:
        from bigtcp_bench.judging.noise import known_noise, shortfall

        if not plan.is_aa and (sentence := shortfall(known_noise(self.warehouse, self._cluster), plan)):
            say(sentence)

    def _diagnose(self) -> None:
        """Store and say the likely causes of what is wrong with the run."""
        from bigtcp_bench.judging.causes import NONE_FOUND, diagnose_run

        try:
            for cause in diagnose_run(self.warehouse, self.number):
                if cause.name != NONE_FOUND:
                    say(f"likely cause {cause.name}: {cause.sentence}")
        except Exception as error:  # whatever a document holds: no run fails for want of an explanation
            say(f"the run could not be diagnosed: {_first_line(error)}")

    def _say_night(self, night: Night) -> None:
        states = Counter(item.judgement.state for item in night.judgements)
        say(f"across nights: {', '.join(f'{count} {state}' for state, count in states.items()) or 'nothing'}")
        for change in night.changes:
            say(
                f"incident {change.kind}: {len(change.incident.members)} series since {change.incident.changed_on}"
            )

    def _end_block_before(self, number: int) -> None:
        """Note the end of the block before ``number``, once, with both nodes' counters."""
        from bigtcp_bench.cluster import node_counters

        before = number - 1
        found = self.warehouse.blocks_frame(self.number)
        open_blocks = found[(found["block"] == before) & found["finished_at"].isna()]
        if open_blocks.empty:
            return
        documents = node_counters.read_nodes(
            self.api, self.pair, self.plan.image, pull_secrets=self.plan.image_pull_secrets, agents=True
        )
        self._store_nodes(before, "end", documents)
        arm = open_blocks["arm"].iloc[0]
        self.warehouse.store_block(self.number, {"block": before, "arm": arm, "finished_at": datetime.now(UTC)})

    def _store_nodes(self, block: int, moment: str, documents: Mapping[str, Mapping[str, Any]]) -> None:
        """Store what was read of both nodes at the beginning or the end of a block."""
        from bigtcp_bench.readings.frames import packed

        self.warehouse.store_raw(
            self.number,
            [
                {
                    "block": block,
                    "generation": 0,
                    "kind": f"node-{moment}:{name}",
                    "document": packed(dict(document)),
                }
                for name, document in documents.items()
            ],
        )

    def _view(self) -> RunView:
        from bigtcp_bench.report.view import RunView

        return RunView.from_warehouse(self.warehouse, self.number, _airflow_url())

    def _print(self, view: RunView) -> None:
        from bigtcp_bench.report.summary import run_summary

        print(run_summary(view))

    def _tell_slack(self, view: RunView, *, budget_s: float) -> list[str]:
        """Tell Slack of this run, and send what waits; return what became of that, a line each."""
        from bigtcp_bench.notify.telling import tell

        lines = tell(
            self.warehouse, view, connections.channel_settings, airflow_url=_airflow_url(), budget_s=budget_s
        )
        for line in lines:
            say(line)
        return lines


def _airflow_url() -> str | None:
    from airflow.configuration import conf

    return conf.get("api", "base_url", fallback=None)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def restore_by_hand(conn_id: str, params: Mapping[str, Any]) -> str:
    """Put the cluster of a connection back as the last run's saved state says; return what was done.

    Of ``params``, which may be whatever a trigger's conf held, only ``force`` is allowed.
    """
    from bigtcp_bench.airflow.params import refuse_unknown
    from bigtcp_bench.cluster import restore

    try:
        refuse_unknown(params, ("force",))
        api = connections.cluster_api(conn_id)
        report = restore.restore(api, "asked for by hand", force=params["force"], afresh=True, progress=say)
    except (InvalidInput, PreconditionFailed) as error:
        raise AirflowFailException(str(error)) from error
    return str(report)
