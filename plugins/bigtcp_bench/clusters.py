"""Several clusters in one Airflow: one DAG for each Kubernetes connection, so that their runs may overlap."""

from __future__ import annotations

from bigtcp_bench.settings import CLUSTERS

DAG_ID = "bigtcp_benchmark"


def configured() -> tuple[str, ...]:
    """Return the connections that have a DAG; the first one's has no suffix. Raises InvalidInput.

    Read from the environment and not from an Airflow variable: DAG files are parsed every few seconds.
    """
    return CLUSTERS.value()


def dag_id_of(conn_id: str) -> str:
    """Return the id of the DAG that measures the cluster of ``conn_id``.

    That of a connection without a DAG of its own is the first one, which can be told the connection as a param.
    """
    names = configured()
    return DAG_ID if conn_id == names[0] or conn_id not in names else f"{DAG_ID}_{conn_id}"
