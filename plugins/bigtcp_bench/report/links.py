"""Addresses of the pages in Airflow's UI, for whoever links to them: Slack, a task's links, the summary."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

#: Where Airflow mounts the pages, below its own address.
URL_PREFIX = "/bigtcp-bench"

#: Routes of Airflow's UI that show the pages: in the navigation, as a tab of a DAG, and as a tab of a run.
NAV_ROUTE = "bigtcp"
DAG_ROUTE = "bigtcp-trend"
RUN_ROUTE = "bigtcp-run"


def airflow_run_url(airflow_url: str, dag_id: str, run_id: str) -> str:
    """Return the address of a run in Airflow. ``airflow_url`` is ``[api] base_url``, or empty for a path alone."""
    return f"{airflow_url.rstrip('/')}/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"


def run_url(airflow_url: str, dag_id: str, run_id: str) -> str:
    """Return the address of a run's page, which is a tab of the run in Airflow."""
    return f"{airflow_run_url(airflow_url, dag_id, run_id)}/plugin/{RUN_ROUTE}"


def restore_url(airflow_url: str, dag_id: str) -> str:
    """Return the address of the DAG that puts back what runs of the DAG ``dag_id`` have changed."""
    own = dag_id.replace("bigtcp_benchmark", "bigtcp_restore", 1)
    return f"{airflow_url.rstrip('/')}/dags/{quote(own, safe='')}"


def incident_url(airflow_url: str, number: int) -> str:
    """Return the address of an incident's page, within Airflow's frame."""
    return page_url(airflow_url, f"incidents/{number}")


def page_url(airflow_url: str, path: str) -> str:
    """Return the address of the page ``path`` within Airflow's frame."""
    base = airflow_url.rstrip("/")
    # Behind its own route Airflow's UI repeats the path of what it frames, with its own path prefix.
    return f"{base}/plugin/{NAV_ROUTE}{urlsplit(base).path}{URL_PREFIX}/{path}"
