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
from typing import Any

# Airflow imports what a DAG file names of Airflow once, before it forks for each parse. The generations' operator
# is made of this one, which would else be imported at every parse, every few seconds.
import airflow.providers.cncf.kubernetes.operators.pod  # noqa: F401
from airflow.sdk import CronTriggerTimetable, TaskGroup, chain, dag

from bigtcp_bench import settings
from bigtcp_bench.airflow import dag_ids
from bigtcp_bench.airflow.generation_operator import IperfGenerationOperator
from bigtcp_bench.airflow.params import dag_params
from bigtcp_bench.airflow.step_operator import StepOperator
from bigtcp_bench.planning.plan import RERUN_ORDER, RERUN_PREFIX, SLOT_ARMS, task_ids

SCHEDULE = settings.SCHEDULE.value()

# With scope "cluster" all agents restart, some at a time. Every wait in these tasks has its own, shorter, limit.
ALL_AGENTS = {"execution_timeout": timedelta(hours=3)}
# Half a minute, then twice as long each time: an API server or a node may be away for a quarter of an hour.
PATIENTLY = {"retries": 5, "retry_delay": timedelta(seconds=30), "retry_exponential_backoff": 2.0}
# The first of unused slots in a row has the others skipped, in its turn (ahead of it, the steps after them would
# begin before the blocks are measured); the steps after them must run all the same.
GO_ON = {"trigger_rule": "none_failed"}
# These must be given to partial(): what an operator sets by itself, the scheduler does not know of a mapped task.
# Two generations at once would measure each other. A generation's pods have their own, shorter, deadline.
ONE_BY_ONE = {"max_active_tis_per_dagrun": 1, "execution_timeout": timedelta(hours=6)}


def bigtcp_benchmark() -> None:
    """Wire the run: check, save, then per block switch and measure, then judge; put the cluster back."""
    # It may have to put back what a run with scope "cluster" has left, which restarts all agents.
    checked = StepOperator(task_id="check_kernel", **ALL_AGENTS)
    opened = StepOperator(task_id="snapshot_config", **ALL_AGENTS).as_setup()
    measured = [*slot_tasks(1), *slot_tasks(2)]
    with TaskGroup("closing_blocks", prefix_group_id=False, tooltip="Blocks after the second one") as closing:
        later = [task for slot in range(3, len(SLOT_ARMS) + 1) for task in slot_tasks(slot)]
        chain(*later)
    counted = StepOperator(task_id="collect_counters", **GO_ON)
    compared = StepOperator(task_id="compare", **GO_ON)
    what = "Scenarios far off what is usual, or not known well enough"
    with TaskGroup("rerun", prefix_group_id=False, tooltip=what) as again:
        chain(*(task for slot in range(1, len(RERUN_ORDER) + 1) for task in rerun_slot(slot)))
    # A re-run that failed is no reason not to judge the night by what there is; a run that has nothing is one.
    compared_again = StepOperator(task_id="compare_rerun", trigger_rule="all_done_min_one_success")
    told = StepOperator(task_id="notify", **GO_ON)
    always = {"setups": opened, "on_failure_fail_dagrun": True}
    restored = StepOperator(task_id="restore_config", **PATIENTLY, **ALL_AGENTS).as_teardown(**always)
    closed = StepOperator(task_id="close_run").as_teardown(**always)

    chain(checked, opened, *measured, closing, counted, compared, again, compared_again, told, restored, closed)
    # Airflow hands a failure on by one task in each turn of its scheduler, and the teardown waits for all of them.
    # With these the tasks of a group, and notify, hear of it in the same turn.
    measured[-1] >> later
    compared >> [*again.children.values(), compared_again]
    [*measured, *later, counted, compared] >> told


def slot_tasks(slot: int) -> list[Any]:
    """Return the two tasks of a slot; the switch hands out the generations that the other maps over."""
    switch_id, measure_id = task_ids(SLOT_ARMS, slot)
    # What follows a setup must have the default rule; it is never skipped, so that makes no difference.
    rule = {} if slot == 1 else GO_ON
    switched = StepOperator(task_id=switch_id, step="switch", slot=slot, **rule, **ALL_AGENTS)
    measured = IperfGenerationOperator.partial(task_id=measure_id, **GO_ON, **ONE_BY_ONE)
    return [switched, measured.expand(generation=switched.output)]


def rerun_slot(slot: int) -> list[Any]:
    """Return the two tasks of a slot of the re-run. Where nothing is due, compare has skipped them all."""
    switch_id, measure_id = task_ids(RERUN_ORDER, slot, RERUN_PREFIX)
    switched = StepOperator(task_id=switch_id, step="rerun_switch", slot=slot, **ALL_AGENTS)
    measured = IperfGenerationOperator.partial(task_id=measure_id, **ONE_BY_ONE)
    return [switched, measured.expand(generation=switched.output)]


for conn_id in dag_ids.configured():
    made = dag(
        dag_id=dag_ids.dag_id_of(conn_id),
        schedule=None
        if SCHEDULE is None
        # A DAG that is new waits for the next night; by default it would catch up with one that has just passed.
        else CronTriggerTimetable(SCHEDULE, timezone="UTC", run_immediately=timedelta(0)),
        catchup=False,
        # Runs of one cluster queue here; those of different clusters are different DAGs, and may overlap.
        max_active_runs=1,
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
    # Only now: every task made before would have a copy of its own, which Airflow checks and stores at each parse.
    made.params.update(dag_params())
