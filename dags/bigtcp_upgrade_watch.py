"""Measures a changed Cilium: notices another image or datapath configuration, and starts the benchmark once.

Every 15 minutes the cluster is compared with what the newest valid run has measured. Where they differ, the
triggerer waits until the rollout has come to rest; then `bigtcp_benchmark` is started with the plan `upgrade` and
the reason as its note, and its report compares with the last valid run before the change.
"""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import CronTriggerTimetable, Param, dag

from bigtcp_bench.params import kubernetes_conn_id
from bigtcp_bench.upgrade import BENCHMARK_DAG
from bigtcp_bench.watch import SETTLE_S, UpgradeWatchOperator

SCHEDULE = os.environ.get("BIGTCP_BENCH_WATCH_SCHEDULE", "*/15 * * * *")


@dag(
    dag_id="bigtcp_upgrade_watch",
    schedule=None if SCHEDULE in ("", "none") else CronTriggerTimetable(SCHEDULE, timezone="UTC"),
    catchup=False,
    max_active_runs=1,
    params={
        "kubernetes_conn_id": kubernetes_conn_id(),
        "settle_s": Param(
            SETTLE_S,
            type="integer",
            minimum=1,
            maximum=86_400,
            title="Seconds at rest",
            description_md="How long Cilium must be unchanged, with all agents ready, before it is measured.",
        ),
    },
    tags=["bigtcp", "benchmark", "network"],
    allowed_run_types=["manual", "scheduled"],
    default_args={
        "owner": "bigtcp-bench",
        "retries": 1,
        "retry_delay": timedelta(seconds=30),
        "execution_timeout": timedelta(minutes=10),
    },
    doc_md=__doc__,
)
def bigtcp_upgrade_watch():
    """Wire the two tasks: notice and wait, then trigger."""
    watched = UpgradeWatchOperator(
        task_id="watch_cilium",
        kubernetes_conn_id="{{ params.kubernetes_conn_id }}",
        settle_s="{{ params.settle_s }}",
    )
    TriggerDagRunOperator(
        task_id="trigger_benchmark",
        trigger_dag_id=BENCHMARK_DAG,
        trigger_run_id=watched.output["run_id"],
        conf=watched.output["conf"],
        # A change is measured once, whatever becomes of that run: the same change has the same run id.
        skip_when_already_exists=True,
        reset_dag_run=False,
        logical_date=None,
    )


bigtcp_upgrade_watch()
