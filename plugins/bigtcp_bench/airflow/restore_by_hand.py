"""What the DAG ``bigtcp_restore`` does: puts a cluster back that no run can put back itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk.exceptions import AirflowFailException

from bigtcp_bench.errors import InvalidInput, PreconditionFailed
from bigtcp_bench.progress import say


def restore_by_hand(conn_id: str, params: Mapping[str, Any]) -> str:
    """Put the cluster of a connection back as the last run's saved state says; return what was done.

    Of ``params``, which may be whatever a trigger's conf held, only ``force`` is allowed.
    """
    from bigtcp_bench.airflow import connections
    from bigtcp_bench.airflow.params import refuse_unknown
    from bigtcp_bench.cluster.restore import restore

    try:
        refuse_unknown(params, ("force",))
        api = connections.cluster_api(conn_id)
        report = restore(api, "asked for by hand", force=params["force"], afresh=True, progress=say)
    except (InvalidInput, PreconditionFailed) as error:
        raise AirflowFailException(str(error)) from error
    return str(report)
