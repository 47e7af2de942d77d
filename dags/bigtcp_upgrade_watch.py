"""Measures a changed Cilium: notices another image or datapath configuration, and starts the benchmark once.

Every 15 minutes the cluster is compared with what the newest valid run has measured. Where they differ, the
triggerer waits until the rollout has come to rest; then `bigtcp_benchmark` is started with the plan `upgrade` and
the reason as its note, and its report compares with the last valid run before the change. A run that fails before
it has measured anything is followed by another one, three at most.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, CronTriggerTimetable, Param

from bigtcp_bench import settings
from bigtcp_bench.airflow import dag_ids
from bigtcp_bench.airflow.watch import SETTLE_S, UpgradeWatchOperator

SCHEDULE = settings.WATCH_SCHEDULE.value()


# A DAG for each cluster, as for the benchmark: a rollout on one of them must not keep the others waiting.
for conn_id in dag_ids.configured():
    benchmark = dag_ids.dag_id_of(conn_id)
    with DAG(
        dag_id=benchmark.replace(dag_ids.DAG_ID, "bigtcp_upgrade_watch", 1),
        schedule=None if SCHEDULE is None else CronTriggerTimetable(SCHEDULE, timezone="UTC"),
        catchup=False,
        max_active_runs=1,
        params={
            "settle_s": Param(
                SETTLE_S,
                type="integer",
                minimum=1,
                maximum=86_400,
                title="Seconds at rest",
                description_md="How long Cilium must be unchanged, with all agents ready, before it is measured.",
            ),
        },
        tags=["bigtcp", "benchmark", "network", *([conn_id] if conn_id != settings.DEFAULT_CONN_ID else [])],
        allowed_run_types=["manual", "scheduled"],
        default_args={
            "owner": "bigtcp-bench",
            "retries": 1,
            "retry_delay": timedelta(seconds=30),
            "execution_timeout": timedelta(minutes=10),
        },
        doc_md=__doc__,
    ):
        watched = UpgradeWatchOperator(
            task_id="watch_cilium", kubernetes_conn_id=conn_id, settle_s="{{ params.settle_s }}"
        )
        TriggerDagRunOperator(
            task_id="trigger_benchmark",
            trigger_dag_id=benchmark,
            trigger_run_id=watched.output["run_id"],
            conf=watched.output["conf"],
            # A change is measured once: the same change has the same run id, until that run ends without a figure.
            skip_when_already_exists=True,
            reset_dag_run=False,
            logical_date=None,
        )
