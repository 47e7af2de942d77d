"""The nightly comparison: BIG TCP off, on, and off again, with fresh pods, proof of effect and a verdict.

**What it does.** It checks two nodes, saves their state in the cluster, switches Cilium's BIG TCP on just these
nodes, measures throughput, latency and CPU cost between fresh pods in every block, judges the difference, and
puts the cluster back. Both Cilium agents are restarted at each switch, so connections through these two nodes
may stall for some seconds.

**What it says.** A run is *valid*, *invalid* (measured, but something makes the figures unusable, and it says
what) or *failed*. The tab *BIG TCP comparison* of a run has verdicts, proof of effect and raw documents;
*Browse → BIG TCP* has every cluster, the trend of every figure, and incidents: changes for the worse that last.

**When something goes wrong.** `restore_config` runs whatever happened, and the run's page says whether it could
verify the cluster's state. If it could not, trigger the DAG `bigtcp_restore`. A killed run is put back by the
next one, or by the guardian in the cluster.
"""

from __future__ import annotations

from datetime import timedelta

# Airflow imports what a DAG file names of Airflow once, before it forks for each parse. The operators of this DAG
# are made of these two, which would else be imported at every parse, every few seconds.
import airflow.providers.cncf.kubernetes.operators.pod  # noqa: F401
import airflow.providers.standard.decorators.python  # noqa: F401
from airflow.sdk import CronTriggerTimetable, TaskGroup, chain, dag, setup

from bigtcp_bench import settings
from bigtcp_bench.airflow import dag_ids
from bigtcp_bench.airflow.generation_operator import IperfGenerationOperator
from bigtcp_bench.airflow.params import dag_params
from bigtcp_bench.airflow.steps import DagRunStep
from bigtcp_bench.airflow.tasks import task
from bigtcp_bench.planning.plan import RERUN_ORDER, RERUN_PREFIX, SLOT_ARMS, task_ids

SCHEDULE = settings.SCHEDULE.value()

# Unused slots of the order of blocks are skipped; the steps after them must run all the same.
GO_ON = {"trigger_rule": "none_failed"}
# These must be given to partial(): what an operator sets by itself, the scheduler does not know of a mapped task.
# Two generations at once would measure each other. A generation's pods have their own, shorter, deadline.
ONE_BY_ONE = {"max_active_tis_per_dagrun": 1, "execution_timeout": timedelta(hours=6)}
# With scope "cluster" all agents restart, some at a time. Every wait in these tasks has its own, shorter, limit.
ALL_AGENTS = {"execution_timeout": timedelta(hours=3)}


def bigtcp_benchmark():
    """Wire the run: check, save, then per block switch and measure, then judge; put the cluster back."""

    # It may have to put back what a run with scope "cluster" has left, which restarts all agents.
    @task(**ALL_AGENTS)
    def check_kernel() -> dict:
        return DagRunStep.current().check_kernel()

    @setup
    @task(**ALL_AGENTS)
    def snapshot_config() -> dict:
        return DagRunStep.current().snapshot_config()

    @task(**ALL_AGENTS)
    def switch(slot: int) -> list[dict]:
        return DagRunStep.current().switch(slot)

    @task(**GO_ON)
    def collect_counters() -> dict:
        return DagRunStep.current().collect_counters()

    @task(**GO_ON)
    def compare() -> dict:
        return DagRunStep.current().compare()

    @task(**ALL_AGENTS)
    def rerun_switch(slot: int) -> list[dict]:
        return DagRunStep.current().rerun_switch(slot)

    # A re-run that failed is no reason not to judge the night by what there is.
    @task(trigger_rule="all_done")
    def compare_rerun() -> dict:
        return DagRunStep.current().compare_rerun()

    @task(**GO_ON)
    def notify() -> dict:
        return DagRunStep.current().notify()

    # Half a minute, then twice as long each time: an API server or a node may be away for a quarter of an hour.
    @task(retries=5, retry_delay=timedelta(seconds=30), retry_exponential_backoff=2.0, **ALL_AGENTS)
    def restore_config() -> dict:
        return DagRunStep.current().restore_config()

    @task
    def close_run() -> dict:
        return DagRunStep.current().close_run()

    opened = snapshot_config()

    def slot_tasks(slot: int) -> list:
        """Return the two tasks of a slot; the switch hands out the generations that the other maps over."""
        switch_id, measure_id = task_ids(SLOT_ARMS, slot)
        # What follows a setup must have the default rule; it is never skipped, so that makes no difference.
        rule = {} if slot == 1 else GO_ON
        generations = switch.override(task_id=switch_id, **rule)(slot)
        measured = IperfGenerationOperator.partial(task_id=measure_id, **GO_ON, **ONE_BY_ONE).expand(
            generation=generations
        )
        return [generations, measured]

    first = [step for slot in (1, 2) for step in slot_tasks(slot)]
    with TaskGroup("closing_blocks", prefix_group_id=False, tooltip="Blocks after the second one") as closing:
        later = [step for slot in range(3, len(SLOT_ARMS) + 1) for step in slot_tasks(slot)]
        chain(*later)

    def rerun_tasks(slot: int) -> list:
        """Return the two tasks of a slot of the re-run. All are skipped with the first: nothing is due."""
        switch_id, measure_id = task_ids(RERUN_ORDER, slot, RERUN_PREFIX)
        generations = rerun_switch.override(task_id=switch_id)(slot)
        measured = IperfGenerationOperator.partial(task_id=measure_id, **ONE_BY_ONE)
        return [generations, measured.expand(generation=generations)]

    with TaskGroup("rerun", prefix_group_id=False, tooltip="Scenarios far off what is usual, again") as again:
        chain(*(step for slot in range(1, len(RERUN_ORDER) + 1) for step in rerun_tasks(slot)))

    restored = restore_config().as_teardown(setups=opened, on_failure_fail_dagrun=True)
    compared, told = compare(), notify()
    chain(check_kernel(), opened, *first, closing, collect_counters(), compared)
    chain(compared, again, compare_rerun(), told, restored)
    # compare_rerun runs whatever happened; a failed compare must still keep notify from telling half a run.
    compared >> told
    restored >> close_run().as_teardown(setups=opened, on_failure_fail_dagrun=True)


for conn_id in dag_ids.configured():
    dag(
        dag_id=dag_ids.dag_id_of(conn_id),
        schedule=None
        if SCHEDULE is None
        # A DAG that is new waits for the next night; by default it would catch up with one that has just passed.
        else CronTriggerTimetable(SCHEDULE, timezone="UTC", run_immediately=timedelta(0)),
        catchup=False,
        # Runs of one cluster queue here; those of different clusters are different DAGs, and may overlap.
        max_active_runs=1,
        params=dag_params(),
        tags=["bigtcp", "benchmark", "network", *([conn_id] if conn_id != settings.DEFAULT_CONN_ID else [])],
        # A backfill of a live cluster has no meaning.
        allowed_run_types=["manual", "scheduled", "operator_triggered", "asset_triggered"],
        # No dagrun_timeout: it would skip the teardown that puts the cluster back. Each task has its own limit.
        default_args={
            "owner": "bigtcp-bench",
            # A killed task is tried once more: every step can be repeated, and pods are found again.
            "retries": 1,
            "retry_delay": timedelta(seconds=5),
            "execution_timeout": timedelta(minutes=20),
        },
        doc_md=__doc__,
    )(bigtcp_benchmark)()
