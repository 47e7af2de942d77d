"""Several clusters in one Airflow: one DAG for each Kubernetes connection, so that their runs may overlap."""

from __future__ import annotations

import os
import re

from bigtcp_bench.errors import InvalidInput

#: Connections of the clusters to be measured, separated by commas; the first one's DAG has no suffix.
CLUSTERS_VARIABLE = "BIGTCP_BENCH_CLUSTERS"
DEFAULT_CONN_ID = "kubernetes_default"
DAG_ID = "bigtcp_benchmark"
#: What the id of a connection may be made of; all of it may stand in the id of a DAG.
CONN_ID_PATTERN = r"^[\w.-]{1,200}$"


def configured() -> tuple[str, ...]:
    """Return the connections that have a DAG, in the order of the environment. Raises InvalidInput.

    Read from the environment and not from an Airflow variable: DAG files are parsed every few seconds.
    """
    text = os.environ.get(CLUSTERS_VARIABLE, "")
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in names:
        if not re.match(CONN_ID_PATTERN, name):
            raise InvalidInput(
                f"{CLUSTERS_VARIABLE} = {text!r}: {name!r} is no connection id; allowed are letters, digits, "
                "dots, dashes and underscores, at most 200"
            )
    return names or (DEFAULT_CONN_ID,)


def dag_id_of(conn_id: str) -> str:
    """Return the id of the DAG that measures the cluster of ``conn_id``.

    That of a connection without a DAG of its own is the first one, which can be told the connection as a param.
    """
    names = configured()
    return DAG_ID if conn_id == names[0] or conn_id not in names else f"{DAG_ID}_{conn_id}"
