"""The steps of a run, one for each task of the DAG: what is done in which order; how is in the other rooms."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from bigtcp_bench import __version__, connections
from bigtcp_bench.errors import BenchError, PreconditionFailed, RestoreFailed
from bigtcp_bench.progress import say

if TYPE_CHECKING:
    from bigtcp_bench.cluster.api import ClusterApi
    from bigtcp_bench.cluster.guard import Fence
    from bigtcp_bench.cluster.nodes import NodePair
    from bigtcp_bench.plan import Block, Plan
    from bigtcp_bench.report.view import RunView
    from bigtcp_bench.warehouse.store import Warehouse

Result = dict[str, Any]
Step = TypeVar("Step", bound=Callable[..., Any])

#: States of tasks after which the run cannot count. Skipped ones are slots that the order of blocks does not use.
_BAD_STATES = {"failed", "upstream_failed"}


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
        except BenchError as error:
            self.add_reason(str(error))
            raise AirflowFailException(str(error)) from error
        except Exception as error:
            self.add_reason(f"{step.__name__}: {traceback.format_exception_only(error)[-1].strip()}")
            raise

    return wrapper  # type: ignore[return-value]


def _opening(step: Step) -> Step:
    """Close the run when a step fails that comes before, or is, the setup: then Airflow runs no teardown."""

    @functools.wraps(step)
    def wrapper(self: DagRunStep, *args: Any, **kwargs: Any) -> Any:
        try:
            return step(self, *args, **kwargs)
        except AirflowFailException:
            number = self._stored_number()
            if number is not None:
                self.warehouse.finish_run(number, "failed", self.warehouse.run(number)["reasons"])
                self._tell(self._view())
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
        )

    # What every step works with

    @property
    def run_key(self) -> str:
        """Return the name under which this run holds the cluster."""
        return f"{self.dag_id}/{self.run_id}"

    @property
    def conn_id(self) -> str:
        """Return the id of the Kubernetes connection."""
        return str(self.params["kubernetes_conn_id"])

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
        from bigtcp_bench.cluster.guard import Fence

        return Fence(self.api, self.run_key)

    def add_reason(self, reason: str) -> None:
        """Add ``reason`` to those in the run's row; without a row it is in the task's log only."""
        number = self._stored_number()
        if number is not None:
            reasons = list(self.warehouse.run(number)["reasons"])
            if reason not in reasons:
                self.warehouse.update_run(number, reasons=[*reasons, reason])

    def _stored_number(self) -> int | None:
        return self.warehouse.find_run(connections.cluster_name(self.conn_id), self.dag_id, self.run_id)

    # The steps, in the order of the run

    @_opening
    @_reported
    def check_kernel(self) -> Result:
        """Validate the plan, choose the nodes, look at them, and refuse what cannot be measured."""
        from bigtcp_bench.cluster import environment, nodes, probe, requirements
        from bigtcp_bench.params import plan_of_params

        self.warehouse.check_version()
        self._close_abandoned()
        number = self.warehouse.start_run(
            {
                "cluster": connections.cluster_name(self.conn_id),
                "dag_id": self.dag_id,
                "run_id": self.run_id,
                "status": "running",
                "is_aa": False,
                "started_at": datetime.now(UTC),
                "trigger": self.run_type,
                "note": self.params.get("note"),
                "package_version": __version__,
                "reasons": [],
            }
        )
        plan = plan_of_params(self.params)
        self.warehouse.update_run(
            number,
            plan=plan.model_dump(mode="json"),
            plan_name=plan.name,
            block_order=",".join(plan.order),
            is_aa=plan.is_aa,
        )
        pair = nodes.choose_pair(self.api, plan)
        say(f"checking {pair.client.name} (sends) and {pair.server.name} (receives)")
        probes = probe.probe_nodes(self.api, pair.names, plan.image)
        checks = requirements.check(self.api, plan, pair, probes, holder=self.run_key)
        self.warehouse.update_run(number, **environment.describe(self.api, pair, probes, checks))
        for check in checks:
            (print if check.status == "pass" else say)(str(check))
        say(f"{sum(check.status == 'pass' for check in checks)} of {len(checks)} checks passed")
        requirements.refuse_failed(checks)
        return {"run": number, "client_node": pair.client.name, "server_node": pair.server.name}

    @_opening
    @_reported
    def snapshot_config(self) -> Result:
        """Take the cluster for this run and save its configuration in it; changes nothing else."""
        from bigtcp_bench.cluster import guard

        window = guard.open_window(self.api, self.run_key, self.plan, self.pair, progress=say)
        return {"window": window.fence.window, "saved_at": window.state.saved_at}

    @_reported
    def switch(self, slot: int) -> list[Result]:
        """Put the arm of this slot's block in force and prove it; return its generations, for the mapped task."""
        from bigtcp_bench.cluster import bigtcp_switch, pods

        block = self._block_of(slot)
        fence = self.fence()
        with fence.renewing():
            fence.check()
            self._end_block_before(block.number)
            pods.delete_pods(self.api)
            say(f"block {block.number}: switching BIG TCP {block.arm}")
            report = bigtcp_switch.switch(
                self.api, fence, block.arm, self.pair, self.plan, force_restart=self.plan.is_aa, progress=say
            )
            self._store_node_counters(block.number, "begin")
        self.warehouse.store_block(
            self.number,
            {
                "block": block.number,
                "arm": block.arm,
                "started_at": datetime.now(UTC),
                "switch_report": report.to_dict(),
            },
        )
        return [
            {
                "run": self.number,
                "run_key": self.run_key,
                "block": block.number,
                "arm": block.arm,
                "generation": generation + 1,
                "arm_generation": block.arm_offset + generation,
                "client_node": self.pair.client.name,
                "server_node": self.pair.server.name,
            }
            for generation in range(block.generations)
        ]

    @_reported
    def collect_counters(self) -> Result:
        """End the last block, and store how much every counter of both nodes grew during each block."""
        from bigtcp_bench.cluster import counters
        from bigtcp_bench.plan import blocks

        planned = blocks(self.plan)
        fence = self.fence()
        with fence.renewing():
            self._end_block_before(planned[-1].number + 1)
        documents = {
            (document.block, document.kind): document
            for document in self.warehouse.raw_documents(self.number)
            if document.kind.startswith("node-")
        }
        rows = counters.deltas(documents, {block.number: block.arm for block in planned})
        self.warehouse.store_counters(self.number, rows)
        return {"counters": len(rows)}

    @_reported
    def compare(self) -> Result:
        """Judge the run: proof of effect and the other gates first, then the verdict per scenario and metric."""
        from bigtcp_bench.analysis.verdicts import judge_run
        from bigtcp_bench.evidence import facts_of

        reports = self.warehouse.blocks_frame(self.number).set_index("block")["switch_report"].to_dict()
        facts = facts_of(self.warehouse.raw_documents(self.number), reports)
        verdict = judge_run(self.warehouse.results_frame(self.number), self.plan, facts)
        self.warehouse.store_comparisons(self.number, verdict.comparisons)
        failures = self.warehouse.failures_frame(self.number)
        reasons = [*verdict.reasons, *failures["reason"].tolist()] if verdict.reasons else []
        self.warehouse.update_run(self.number, status=verdict.status, reasons=reasons)
        say(f"the run is {verdict.status}" + "".join(f"; {reason}" for reason in verdict.reasons))
        return {"status": verdict.status, "reasons": list(verdict.reasons)}

    @_reported
    def notify(self) -> Result:
        """Tell the outcome: in this task's log, and in Slack where there is a connection."""
        return {"sent": self._tell(self._view())}

    @_reported
    def restore_config(self) -> Result:
        """Put the cluster back as it was saved, and prove it. Needs nothing from the tasks before."""
        from bigtcp_bench.cluster import guard

        number = self._stored_number()
        try:
            report = guard.restore(self.api, "the run ended", holder=self.run_key, progress=say)
        except RestoreFailed as error:
            if number is not None:
                result = {"state": "not_verified", "detail": str(error)}
                self.warehouse.update_run(number, restore_result=result)
            raise
        state = "not_needed" if report.outcome == "nothing" else "verified"
        result = {"state": state, "detail": str(report), **report.to_dict()}
        if number is not None:
            self.warehouse.update_run(number, restore_result=result)
        say(str(report))
        return result

    @_reported
    def close_run(self) -> Result:
        """Make the run's state tell the truth, here and in Airflow, and tell what notify could not."""
        states = self.task_states()
        bad = sorted(task for task, state in states.items() if state in _BAD_STATES and task != self.task_id)
        row = self.warehouse.run(self.number)
        restore = row["restore_result"]
        status, reasons = row["status"], list(row["reasons"])
        if bad or status == "running" or restore is None:
            status = "failed"
            failures = self.warehouse.failures_frame(self.number)["reason"].tolist()
            reasons = list(dict.fromkeys([*reasons, *failures]))
            reasons += [f"task {task} ended {states[task]}" for task in bad if states[task] != "upstream_failed"]
        if status == "failed" and not reasons:
            reasons = ["the run was ended before it was judged"]
        self.warehouse.finish_run(self.number, status, [] if status == "valid" else reasons)
        if states.get("notify") != "success" or restore is None or restore["state"] == "not_verified":
            self._tell(self._view())
        if status != "valid":
            raise AirflowFailException(f"the run is {status}: {reasons[0]}")
        return {"status": status}

    # Parts of steps

    def _close_abandoned(self) -> None:
        """Close earlier runs that nobody closed: of one cluster only one run at a time goes on."""
        cluster = connections.cluster_name(self.conn_id)
        runs = self.warehouse.runs_frame(cluster, limit=50)
        open_runs = runs[(runs["status"] == "running") & (runs["dag_id"] == self.dag_id)]
        for number, run_id, reasons in open_runs[["id", "run_id", "reasons"]].itertuples(index=False):
            if run_id != self.run_id:
                why = "the run ended without being closed: Airflow was stopped, or its tasks were killed"
                self.warehouse.finish_run(int(number), "failed", [*reasons, why])

    def _block_of(self, slot: int) -> Block:
        from bigtcp_bench.plan import blocks

        for block in blocks(self.plan):
            if block.slot == slot:
                return block
        raise AirflowSkipException(f"the order {','.join(self.plan.order)} has no block here")

    def _end_block_before(self, number: int) -> None:
        """Note the end of the block before ``number``, once, with both nodes' counters."""
        before = number - 1
        found = self.warehouse.blocks_frame(self.number)
        open_blocks = found[(found["block"] == before) & found["finished_at"].isna()]
        if open_blocks.empty:
            return
        self._store_node_counters(before, "end")
        arm = open_blocks["arm"].iloc[0]
        self.warehouse.store_block(self.number, {"block": before, "arm": arm, "finished_at": datetime.now(UTC)})

    def _store_node_counters(self, block: int, moment: str) -> None:
        from bigtcp_bench.cluster import counters
        from bigtcp_bench.pods.results import packed

        documents = counters.read_nodes(self.api, self.pair, self.plan.image)
        self.warehouse.store_raw(
            self.number,
            [
                {"block": block, "generation": 0, "kind": f"node-{moment}:{name}", "document": packed(document)}
                for name, document in documents.items()
            ],
        )

    def _view(self) -> RunView:
        from airflow.configuration import conf

        from bigtcp_bench.report.view import RunView

        return RunView.from_warehouse(self.warehouse, self.number, conf.get("api", "base_url", fallback=None))

    def _tell(self, view: RunView) -> bool:
        from bigtcp_bench.report.slack import run_message, send, slack_client
        from bigtcp_bench.report.summary import run_summary

        print(run_summary(view))
        try:
            settings = connections.slack_settings()
        except PreconditionFailed as error:
            say(f"not sent to Slack: {error}")
            return False
        if settings is None:
            say(f"not sent to Slack: there is no connection {connections.SLACK_CONN_ID}")
            return False
        client = slack_client(settings.token, settings.base_url, settings.timeout_s)
        result = send(client, settings.channel, run_message(view))
        if not result.sent:
            say(f"not sent to Slack: {result.reason}")
            return False
        self.warehouse.update_run(self.number, slack_channel=result.channel, slack_ts=result.ts)
        return True
