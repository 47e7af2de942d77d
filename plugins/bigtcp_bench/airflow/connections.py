"""From Airflow connections to the things the library works with; the only place that reads them."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from bigtcp_bench.errors import InvalidInput, PreconditionFailed
from bigtcp_bench.notify.channel import CHANNELS
from bigtcp_bench.settings import (
    AIRFLOW_CONN_ID,
    PROMETHEUS_CONN_ID,
    WAREHOUSE_CONN_ID,
    without_secrets,
)

if TYPE_CHECKING:
    from bigtcp_bench.airflow.run_note import AirflowApi
    from bigtcp_bench.cluster.api import ClusterApi
    from bigtcp_bench.monitoring.settings import PrometheusSettings
    from bigtcp_bench.notify.channel import Settings
    from bigtcp_bench.warehouse.store import Warehouse

#: Names of clusters stand in columns of tables, addresses of pages and headings of messages.
MAX_CLUSTER_NAME = 200
INSTALLATION_VARIABLE = "bigtcp_installation"
INSTALLATION_PATTERN = re.compile(r"[\w.-]{1,40}", re.ASCII)

#: What may be shown of extras: of the Kubernetes connection, and of Slack's.
_NO_SECRETS = {
    *("kube_config_path", "in_cluster", "cluster_context", "cluster_name", "namespace", "disable_verify_ssl"),
    *("channel", "mention", "min_severity", "digest", "clusters", "timeout", "base_url", "proxy"),
}


def cluster_api(conn_id: str, **options: Any) -> ClusterApi:
    """Return the API behind the Airflow connection ``conn_id``; ``options`` are those of ClusterApi."""
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

    from bigtcp_bench.cluster.api import ClusterApi

    return ClusterApi(KubernetesHook(conn_id=conn_id).api_client, **options)


def cluster_name(conn_id: str) -> str:
    """Return the short name of the cluster: the connection's extra ``cluster_name``, else its id.

    Raises PreconditionFailed when it is no text, or a long one.
    """
    connection = _connection(conn_id)
    name = connection.extra_dejson.get("cluster_name") if connection is not None else None
    if name and not (isinstance(name, str) and len(name) <= MAX_CLUSTER_NAME):
        raise PreconditionFailed(
            f"the Airflow connection {conn_id!r}: cluster_name = {name!r}: must be a text of at most "
            f"{MAX_CLUSTER_NAME} characters"
        )
    return name or conn_id


def installation() -> str:
    """Return what tells this Airflow from every other one that may have runs of the same id.

    It is the Airflow Variable ``bigtcp_installation``; where there is none, one is made up and kept in Airflow's
    database. Raises PreconditionFailed when it is not a short word.
    """
    from airflow.sdk import Variable

    name = Variable.get(INSTALLATION_VARIABLE, default=None)
    if name is None:
        Variable.set(
            INSTALLATION_VARIABLE, secrets.token_hex(4), description="of bigtcp-bench: which Airflow this is"
        )
        # Another task may have been faster or slower; both go by what is kept.
        name = Variable.get(INSTALLATION_VARIABLE)
    if not isinstance(name, str) or not INSTALLATION_PATTERN.fullmatch(name):
        raise PreconditionFailed(
            f"the Airflow Variable {INSTALLATION_VARIABLE} = {name!r}: must be up to 40 letters, digits, dots, "
            "dashes and underscores"
        )
    return name


def warehouse_url() -> str:
    """Return the SQLAlchemy URL of the connection ``bigtcp_warehouse``.

    Raises PreconditionFailed with the sentence that says how to create the connection.
    """
    connection = _connection(WAREHOUSE_CONN_ID)
    if connection is None:
        raise PreconditionFailed(
            f"the Airflow connection {WAREHOUSE_CONN_ID!r} does not exist; create it with the database for the "
            f"results, for example AIRFLOW_CONN_BIGTCP_WAREHOUSE='sqlite:////var/lib/bigtcp/warehouse.db' or "
            "'postgres://user:password@host:5432/bigtcp'"
        )
    return _sqlalchemy_url(connection)


def warehouse() -> Warehouse:
    """Return the warehouse of the connection ``bigtcp_warehouse``, after a check of its version."""
    from bigtcp_bench.warehouse.store import Warehouse

    return Warehouse(warehouse_url())


def channel_settings() -> Settings | None:
    """Return the settings of the first channel that has a connection, or None when there is none.

    Raises PreconditionFailed with one sentence for what is wrong in it.
    """
    for conn_id, reader in CHANNELS.items():
        connection = _connection(conn_id)
        if connection is not None:
            where = f"the Airflow connection {conn_id!r}"
            read: Callable[..., Settings] = resolve_name(reader)
            return read(connection.password, connection.extra_dejson, where)
    return None


def airflow_api() -> AirflowApi | None:
    """Return Airflow's own REST API from the connection ``bigtcp_airflow``, or None when there is none.

    Raises PreconditionFailed with one sentence if it lacks something.
    """
    from bigtcp_bench.airflow.run_note import AirflowApi

    connection = _connection(AIRFLOW_CONN_ID)
    if connection is None:
        return None
    host = connection.host or ""
    if not (host and connection.login and connection.password):
        raise PreconditionFailed(
            f"the Airflow connection {AIRFLOW_CONN_ID!r} needs the address of the API server as host, and the "
            "login and password of a user who may edit runs"
        )
    return AirflowApi(_address(connection), connection.login, connection.password)


def prometheus_settings() -> PrometheusSettings | None:
    """Return the settings of the connection ``bigtcp_prometheus``, or None when there is no such connection.

    The password is that of the login, or a bearer token without one; monitoring.settings says what the extra may
    hold. Raises PreconditionFailed with one sentence for what is wrong in it.
    """
    from bigtcp_bench.monitoring.settings import prometheus_settings

    connection = _connection(PROMETHEUS_CONN_ID)
    if connection is None:
        return None
    where = f"the Airflow connection {PROMETHEUS_CONN_ID!r}"
    return prometheus_settings(
        _address(connection), connection.login, connection.password, connection.extra_dejson, where
    )


def _address(connection: Any) -> str:
    # A connection given as an address has the scheme in its type or its schema, the form of the UI in the host.
    host = connection.host or ""
    scheme = "https" if "https" in (connection.conn_type, connection.schema) else "http"
    port = f":{connection.port}" if connection.port else ""
    return host if "://" in host else f"{scheme}://{host}{port}"


def in_force(conn_id: str) -> tuple[str, str] | None:
    """Return what the connection says, without its secrets, and where Airflow has it from; None if nowhere.

    Raises PreconditionFailed with one sentence for what is wrong in it.
    """
    connection = _connection(conn_id)
    if connection is None:
        return None
    check = {
        WAREHOUSE_CONN_ID: warehouse_url,
        **dict.fromkeys(CHANNELS, channel_settings),
        AIRFLOW_CONN_ID: airflow_api,
        PROMETHEUS_CONN_ID: prometheus_settings,
    }
    check.get(conn_id, lambda: cluster_name(conn_id))()
    return _shown(connection), _source(conn_id)


def _shown(connection: Any) -> str:
    """Return a connection as one line. Of its extra only what is known to be no secret is shown."""
    if connection.conn_id == WAREHOUSE_CONN_ID:
        return without_secrets(_sqlalchemy_url(connection))
    parts = [connection.conn_type or "no type"]
    if connection.host:
        parts.append(without_secrets(f"{connection.host}{f':{connection.port}' if connection.port else ''}"))
    if connection.login:
        parts.append(f"login={connection.login}")
    if connection.password:
        parts.append("password=***")
    for name, value in connection.extra_dejson.items():
        shown = value if isinstance(value, str) else json.dumps(value)
        parts.append(f"{name}={without_secrets(shown) if name in _NO_SECRETS else '***'}")
    return ", ".join(parts)


def _source(conn_id: str) -> str:
    from airflow.sdk import conf

    variable = f"AIRFLOW_CONN_{conn_id.upper()}"
    backend = conf.get("secrets", "backend", fallback="")
    if backend:
        return f"Airflow (secrets backend {backend}, else environment or database)"
    return f"environment {variable}" if variable in os.environ else "Airflow's database"


def _connection(conn_id: str) -> Any:
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        return None


def _sqlalchemy_url(connection: Any) -> str:
    """Return all that the connection says as a URL. Raises PreconditionFailed for what cannot be done so."""
    from sqlalchemy.engine import URL

    from bigtcp_bench.warehouse.engine import parsed_url

    where = f"the Airflow connection {WAREHOUSE_CONN_ID!r}"
    given = {"username": connection.login, "password": connection.password, "port": connection.port}
    query = _query(connection.extra_dejson, where)
    if connection.conn_type == "sqlite":
        # A URI puts the path into schema, the connection form into host.
        if connection.host and connection.schema:
            raise PreconditionFailed(
                f"{where} names a host and a SQLite file; allowed is sqlite:////path/to/file.db"
            )
        path = connection.schema or connection.host
        if not path:
            raise PreconditionFailed(f"{where} names no SQLite file")
        url = URL.create("sqlite", database=path, query=query, **given)
    elif connection.conn_type in ("postgres", "postgresql"):
        host = connection.host
        if host and host.startswith("/"):
            # A folder with a Unix socket: before the question mark it would be taken for the database.
            if "host" in query:
                raise PreconditionFailed(f"{where} names a host twice: {host!r}, and in the extra")
            query["host"] = str(host)
            host = None
        url = URL.create("postgresql+psycopg", host=host, database=connection.schema, query=query, **given)
    else:
        raise PreconditionFailed(f"{where} has type {connection.conn_type!r}; allowed are sqlite and postgres")
    try:
        return parsed_url(url).render_as_string(hide_password=False)
    except InvalidInput as error:
        raise PreconditionFailed(f"{where}: {error}") from error


def _query(extra: Any, where: str) -> dict[str, str]:
    found = {}
    for name, value in extra.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise PreconditionFailed(f"{where}: {name} in the extra must be a text or a number")
        found[name] = str(value)
    return found
