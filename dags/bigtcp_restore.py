"""Break-glass: puts a cluster's configuration back after a benchmark that could not do it itself.

Start it by hand. It reads the saved state from the cluster, undoes what the run changed, reads everything back,
and fails with one sentence if something is not as it was. Where nothing was left behind it does nothing.
"""

from __future__ import annotations

from datetime import timedelta

# Airflow imports this once, before it forks for each parse; `task` would import it at every one.
import airflow.providers.standard.decorators.python  # noqa: F401
from airflow.sdk import Param, dag, task

from bigtcp_bench.params import kubernetes_conn_id
from bigtcp_bench.steps import restore_by_hand


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
        "execution_timeout": timedelta(minutes=20),
    },
    doc_md=__doc__,
)
def bigtcp_restore():
    """Wire the one task."""

    @task
    def restore_config(params: dict | None = None) -> str:
        params = params or {}
        return restore_by_hand(params["kubernetes_conn_id"], force=params["force"])

    restore_config()


bigtcp_restore()
