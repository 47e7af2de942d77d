"""Several clusters in one Airflow: one DAG for each Kubernetes connection, and each cluster under its own name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bigtcp_bench.errors import PreconditionFailed
from bigtcp_bench.settings import CLUSTERS

if TYPE_CHECKING:
    from bigtcp_bench.cluster.checks import Check
    from bigtcp_bench.warehouse.store import Warehouse

DAG_ID = "bigtcp_benchmark"


def configured() -> tuple[str, ...]:
    """Return the connections that have a DAG; the first one's has no suffix. Raises InvalidInput.

    Read from the environment and not from an Airflow variable: DAG files are parsed every few seconds.
    """
    return CLUSTERS.value()


def dag_id_of(conn_id: str, dag_id: str = DAG_ID) -> str:
    """Return the id of the DAG that measures the cluster of ``conn_id``.

    A DAG for another purpose, ``dag_id``, has the same suffix. Raises PreconditionFailed for one without a DAG.
    """
    names = configured()
    if conn_id not in names:
        raise PreconditionFailed(
            f"the connection {conn_id!r} has no DAG here: {CLUSTERS.name} names {', '.join(names)}"
        )
    return dag_id if conn_id == names[0] else f"{dag_id}_{conn_id}"


def conn_id_of(dag_id: str) -> str:
    """Return the connection whose cluster the DAG ``dag_id`` measures; no run can choose another one.

    Raises PreconditionFailed for a DAG that measures none.
    """
    own = {dag_id_of(conn_id): conn_id for conn_id in configured()}
    if dag_id not in own:
        raise PreconditionFailed(
            f"the DAG {dag_id!r} measures no cluster here: {CLUSTERS.name} makes {', '.join(own)}; it must be the "
            "same for all Airflow components"
        )
    return own[dag_id]


def identity_checks(warehouse: Warehouse, cluster: str, uid: str | None) -> list[Check]:
    """Return what is wrong with the name ``cluster`` for the cluster ``uid``; nothing if all is well.

    A cluster that comes again after another one of its name fails: there are two, and both fail in turn until one
    of them has a name of its own. One that was never seen may have been made anew, so it passes with a warning.
    ``uid`` None: the account in use may not read it.
    """
    from bigtcp_bench.cluster.checks import Check
    from bigtcp_bench.warehouse.sightings import newest

    if uid is None:
        found = "the uid of namespace kube-system cannot be read, so two clusters of one name would not be noticed"
        return [Check("cluster name", "", "warn", found, "apply include/manifests/rbac.yaml again")]
    last = newest(warehouse, cluster=cluster)
    if last is None:
        return []
    if last.uid != uid:
        found = f"run {last.number} was on another cluster, also called {cluster}"
        before = newest(warehouse, cluster=cluster, uid=uid)
        if before is None:
            advice = "fine if it was made anew; else set cluster_name in the extra of the Kubernetes connection"
            return [Check("cluster name", "", "warn", found, advice)]
        found += f", and run {before.number} on this one"
        advice = "set cluster_name in the extra of one Kubernetes connection: their nights would be one series"
        return [Check("cluster name", "", "fail", found, advice)]
    other = newest(warehouse, not_cluster=cluster, uid=uid)
    if other is not None and other.started_at > last.started_at:
        found = f"run {other.number} was on this cluster, then called {other.cluster}"
        advice = "two connections to one cluster need the same cluster_name, and one DAG"
        return [Check("cluster name", "", "warn", found, advice)]
    return []
