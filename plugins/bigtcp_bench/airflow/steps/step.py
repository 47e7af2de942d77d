"""One task of one DAG run, with what every step needs to know of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bigtcp_bench.airflow import connections, dag_ids
from bigtcp_bench.errors import PreconditionFailed, first_line
from bigtcp_bench.judging.attempts import planned_blocks, refuse_changed
from bigtcp_bench.planning.plan import RERUN_PREFIX
from bigtcp_bench.progress import say

if TYPE_CHECKING:
    from airflow.sdk import Context

    from bigtcp_bench.cluster.api import ClusterApi
    from bigtcp_bench.cluster.lease import Fence
    from bigtcp_bench.cluster.nodes import NodePair
    from bigtcp_bench.judging.run import JudgedRun
    from bigtcp_bench.planning.plan import Block, Plan
    from bigtcp_bench.warehouse.store import Warehouse

#: What a step leaves as its XCom.
Result = dict[str, Any]


@dataclass(frozen=True)
class DagRunStep:
    """One task of one DAG run. What it looks up it knows from then on."""

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
    #: Returns what another task of this DAG run has left as its XCom, if anything.
    left_by: Callable[[str], Any] = lambda task_id: None
    #: Tasks that are skipped when this one has succeeded, without a process of their own; see ``skip``.
    skipped: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, context: Context) -> DagRunStep:
        """Return the task that is running in ``context``."""
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
            left_by=lambda task_id: instance.xcom_pull(task_ids=task_id),
        )

    @property
    def run_key(self) -> str:
        """Return the name under which this run holds the cluster."""
        from bigtcp_bench.cluster.lease import holder_of

        return holder_of(self.dag_id, self.run_id, self.installation)

    @property
    def conn_id(self) -> str:
        """Return the id of the Kubernetes connection: the DAG's own."""
        return dag_ids.conn_id_of(self.dag_id)

    @property
    def cluster(self) -> str:
        """Return the name of the cluster under test."""
        return connections.cluster_name(self.conn_id)

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
        number = self.stored_number()
        if number is None:
            raise PreconditionFailed(f"run {self.run_key} is not in the warehouse; clear it from check_kernel")
        return number

    @property
    def choice(self) -> str:
        """Return what tells the plan and the nodes with which the run has begun; empty before that."""
        before = self.task_id in ("check_kernel", "snapshot_config")
        return "" if before else (self.left_by("snapshot_config") or {}).get("choice", "")

    @functools.cached_property
    def plan(self) -> Plan:
        """Return the plan that check_kernel has stored. Raises PreconditionFailed if it was changed since."""
        refuse_changed(self.warehouse, self.number, self.choice)
        return self.warehouse.plan_of(self.number)

    @functools.cached_property
    def pair(self) -> NodePair:
        """Return the pair of nodes that check_kernel has chosen. Raises PreconditionFailed if it was changed."""
        from bigtcp_bench.cluster.nodes import NodePair

        refuse_changed(self.warehouse, self.number, self.choice)
        return NodePair.from_dict(self.warehouse.run(self.number)["environment"]["pair"])

    @property
    def run(self) -> JudgedRun:
        """Return the run as it is judged."""
        from bigtcp_bench.judging.run import JudgedRun

        return JudgedRun(self.warehouse, self.number)

    def stored_number(self) -> int | None:
        """Return the number of the run's newest attempt, or None if none is stored."""
        return self.warehouse.find_run(self.cluster, self.dag_id, self.run_id)

    def forget(self) -> None:
        """Ask for the attempt and what belongs to it again: another one has begun."""
        for known in ("number", "plan", "pair"):
            self.__dict__.pop(known, None)

    def planned(self) -> list[Block]:
        """Return the blocks of the plan; none when the run ended before it had one."""
        return planned_blocks(self.warehouse, self.number)

    def skip(self, tasks: Iterable[str]) -> None:
        """Have ``tasks`` skipped once this one has succeeded; those that run or have ended stay as they are.

        One that found out by itself would cost the start of a process, some seconds.
        """
        self.skipped.update(tasks)

    def fence(self) -> Fence:
        """Return the fence that every change of the cluster is made behind."""
        from bigtcp_bench.cluster.lease import Fence

        return Fence(self.api, self.run_key)

    def add_reason(self, reason: str) -> None:
        """Add ``reason`` to those in the run's row; only the log has it without a row, and of a re-run.

        A warehouse that is away is only said: the failure itself is what the task ends with.
        """
        try:
            number = self.stored_number()
            if number is not None and not self.task_id.startswith(RERUN_PREFIX):
                reasons = list(self.warehouse.run(number)["reasons"])
                if reason not in reasons:
                    self.warehouse.update_run(number, reasons=[*reasons, reason])
        except Exception as error:
            say(f"why this task fails could not be stored: {first_line(error)}")
