"""Break-glass: puts a cluster's configuration back after a benchmark that could not do it itself.

Start it by hand. It reads the saved state from the cluster, undoes what the run changed, reads everything back,
and fails with one sentence if something is not as it was. Where nothing was left behind it does nothing.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG, Param

from bigtcp_bench import settings
from bigtcp_bench.airflow import dag_ids
from bigtcp_bench.airflow.restore_by_hand import restore_by_hand
from bigtcp_bench.errors import InvalidInput


def conn_ids() -> tuple[str, ...]:
    """Return the connections to make a DAG for, whatever is wrong with the setting that names them."""
    try:
        return dag_ids.configured()
    except InvalidInput:
        return (settings.DEFAULT_CONN_ID,)


# A DAG for each cluster, as for the benchmark: who may put one back may not stop the runs of another.
for number, conn_id in enumerate(conn_ids()):
    with DAG(
        dag_id=f"bigtcp_restore_{conn_id}" if number else "bigtcp_restore",
        schedule=None,
        catchup=False,
        max_active_runs=1,
        params={
            "force": Param(
                False,
                type="boolean",
                title="Force",
                description_md="Also while a run holds the cluster: that run will fail.",
            ),
        },
        tags=["bigtcp", "restore", *([conn_id] if conn_id != settings.DEFAULT_CONN_ID else [])],
        default_args={
            "owner": "bigtcp-bench",
            "retries": 2,
            "retry_delay": timedelta(seconds=30),
            # With scope "cluster" all agents restart, some at a time.
            "execution_timeout": timedelta(hours=3),
        },
        doc_md=__doc__,
    ):
        # Not @task: the first use of that reads what every installed provider offers, and would at every parse.
        PythonOperator(task_id="restore_config", python_callable=restore_by_hand, op_args=[conn_id])
