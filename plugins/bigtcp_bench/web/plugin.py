"""What Airflow is told: the pages in the navigation, tabs on a DAG and on a run, and a link on a run's tasks."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

from bigtcp_bench.report.links import DAG_ROUTE, NAV_ROUTE, RUN_ROUTE, URL_PREFIX
from bigtcp_bench.web.task_link import RunPageLink


class LazyApp:
    """An ASGI app that is built at its first request.

    Every Airflow process loads plugins, but only the API server serves pages; workers need not import FastAPI.
    """

    def __init__(self) -> None:
        self._app: Callable[..., Awaitable[None]] | None = None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Serve one request."""
        if self._app is None:
            from bigtcp_bench.web.app import build_app

            self._app = build_app()
            # What the first page does not need, but the next one: nobody has to wait for it then.
            threading.Thread(target=_import_ahead, daemon=True).start()
        await self._app(scope, receive, send)


def _import_ahead() -> None:
    importlib.import_module("bigtcp_bench.report.charts")
    importlib.import_module("bigtcp_bench.report.html").vega.javascript()


def _path(page: str) -> str:
    """Return the path of a page, below the path of Airflow's own address where it has one."""
    return f"{urlsplit(conf.get('api', 'base_url', fallback='')).path.rstrip('/')}{URL_PREFIX}/{page}"


class BigTcpBenchPlugin(AirflowPlugin):
    """Registers the pages; see bigtcp_bench.web.app."""

    name = "bigtcp_bench"
    # Class attributes, as Airflow's base class has them; nothing ever changes them.
    fastapi_apps = [  # noqa: RUF012
        {"app": LazyApp(), "url_prefix": URL_PREFIX, "name": "bigtcp-bench"},
    ]
    external_views = [  # noqa: RUF012
        {
            "name": "BIG TCP",
            "href": _path("overview"),
            "destination": "nav",
            "category": "browse",
            "url_route": NAV_ROUTE,
        },
        {
            "name": "BIG TCP trend",
            "href": _path("dag?dag_id={DAG_ID}"),
            "destination": "dag",
            "url_route": DAG_ROUTE,
        },
        {
            "name": "BIG TCP comparison",
            "href": _path("run?dag_id={DAG_ID}&run_id={RUN_ID}"),
            "destination": "dag_run",
            "url_route": RUN_ROUTE,
        },
    ]
    operator_extra_links = [RunPageLink()]  # noqa: RUF012
