"""Break-glass: puts a cluster's configuration back after a benchmark that could not do it itself.

Start it by hand. It reads the saved state from the cluster, undoes what the run changed, reads everything back,
and fails with one sentence if something is not as it was. Where nothing was left behind it does nothing.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import Param, dag

from bigtcp_bench.airflow.params import kubernetes_conn_id
from bigtcp_bench.airflow.steps import restore_by_hand


@dag(
    dag_id="bigtcp_restore",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params={
        "kubernetes_conn_id": kubernetes_conn_id(),
        "force": Param(
            False,
            type="boolean",
            title="Force",
            description_md="Also while a run holds the cluster: that run will fail.",
        ),
    },
    tags=["bigtcp", "restore"],
    default_args={
        "owner": "bigtcp-bench",
        "retries": 2,
        "retry_delay": timedelta(seconds=30),
        # With scope "cluster" all agents restart, some at a time.
        "execution_timeout": timedelta(hours=3),
    },
    doc_md=__doc__,
)
def bigtcp_restore():
    """Wire the one task."""

    def restore_config(params: dict) -> str:
        return restore_by_hand(params["kubernetes_conn_id"], force=params["force"])

    # Not @task: the first use of that reads what every installed provider offers, and would at every parse.
    PythonOperator(task_id="restore_config", python_callable=restore_config)


bigtcp_restore()
