"""Who may see and who may acknowledge: Airflow's own permissions of the DAGs whose runs are shown."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from airflow.sdk import conf
from fastapi import Depends, HTTPException, Request, status

from bigtcp_bench.airflow import connections, dag_ids
from bigtcp_bench.errors import BenchError
from bigtcp_bench.warehouse.pages import dags_by_cluster
from bigtcp_bench.web.data import open_warehouse

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.base_auth_manager import ResourceMethod
    from airflow.api_fastapi.auth.managers.models.base_user import BaseUser


@dataclass(frozen=True)
class Access:
    """What one request may see.

    ``dags`` are the DAGs with stored runs, by cluster. ``configured`` are those that measure it now. Incidents and
    states are judged from all runs of a cluster: they are for those who may read these, whoever else ran there.
    """

    request: Request
    user: BaseUser
    dags: Mapping[str, frozenset[str]]
    configured: Mapping[str, frozenset[str]]
    readable: frozenset[str]

    @property
    def clusters(self) -> list[str]:
        """Return the clusters of which at least one DAG's runs may be read, sorted."""
        return sorted(cluster for cluster, dags in self.dags.items() if dags & self.readable)

    @property
    def whole_clusters(self) -> list[str]:
        """Return the clusters of which all may be seen: every DAG that is configured for them may be read."""
        return sorted(cluster for cluster in self.dags if self._dags_of(cluster) <= self.readable)

    @property
    def hidden_clusters(self) -> int:
        """Return how many clusters have runs, none of which may be read."""
        return len(self.dags) - len(self.clusters)

    @property
    def user_name(self) -> str:
        """Return what an acknowledgement is signed with."""
        return self.user.get_name() or self.user.get_id()

    def readable_of(self, cluster: str) -> frozenset[str]:
        """Return the DAGs with stored runs of ``cluster`` whose runs may be read."""
        return self.dags[cluster] & self.readable

    def may_edit(self, cluster: str) -> bool:
        """Return whether the user may edit every DAG that is configured for ``cluster``."""
        dags = self._dags_of(cluster)
        return bool(dags) and all(_allowed("PUT", None, dag_id, self.request, self.user) for dag_id in dags)

    def _dags_of(self, cluster: str) -> frozenset[str]:
        # One that is measured no more belongs to those who may read all that has measured it.
        return self.configured.get(cluster) or self.dags.get(cluster, frozenset())


def access_of(request: Request, user: GetUserDep) -> Access:
    """Return what this request may see. Answers 401 to strangers and 403 to users without any readable DAG."""
    try:
        dags = dags_by_cluster(open_warehouse())
    except BenchError:
        # The page says itself why there is nothing to see; whether the user may be told is another question.
        dags = {}
    configured = _configured_dags()
    # Who may read a configured DAG may see the pages before anything has been stored.
    known = frozenset().union(*configured.values(), *dags.values())
    readable = frozenset(
        dag_id for dag_id in sorted(known) if _allowed("GET", DagAccessEntity.RUN, dag_id, request, user)
    )
    if not readable:
        raise HTTPException(status.HTTP_403_FORBIDDEN, "Airflow does not let you read the runs of the benchmark")
    access = Access(request, user, dags, configured, readable)
    # Pages that say what went wrong are made where there are no dependencies.
    request.state.access = access
    return access


def _configured_dags() -> dict[str, frozenset[str]]:
    """Return the DAGs that are configured, by the name of their cluster."""
    try:
        conn_ids = dag_ids.configured()
    except BenchError:
        # Airflow makes no DAG then, and says why; those who might read one may see the pages say it, too.
        return {"": frozenset({dag_ids.DAG_ID})}
    found: dict[str, set[str]] = {}
    for conn_id in conn_ids:
        try:
            name = connections.cluster_name(conn_id)
        except BenchError:
            name = conn_id
        found.setdefault(name, set()).add(dag_ids.dag_id_of(conn_id))
    return {name: frozenset(dags) for name, dags in found.items()}


AccessDep = Annotated[Access, Depends(access_of)]


def check_same_origin(request: Request) -> None:
    """Answer 403 to a change that another site may have made the browser send with the user's cookie.

    Airflow's cookie is SameSite=Lax, which keeps out other sites but not other hosts of the same site. Browsers
    say where a request comes from; a client that sends a token of its own cannot be made to.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        allowed = site == "same-origin"
    elif origin is not None:
        allowed = origin.lower() in _own_origins(request)
    else:
        allowed = request.headers.get("authorization", "").lower().startswith("bearer ")
    if not allowed:
        raise HTTPException(status.HTTP_403_FORBIDDEN, "this form was not sent from Airflow's own pages")


def _own_origins(request: Request) -> Collection[str]:
    urls = [str(request.base_url), conf.get("api", "base_url", fallback="")]
    return {f"{parts.scheme}://{parts.netloc}".lower() for url in urls if (parts := urlsplit(url)).netloc}


def _allowed(
    method: ResourceMethod, entity: DagAccessEntity | None, dag_id: str, request: Request, user: BaseUser
) -> bool:
    try:
        requires_access_dag(method, entity, dag_id)(request, user)
    except HTTPException:
        return False
    return True
