"""What Airflow is told: the pages in the navigation, tabs on a DAG and on a run, and a link on a run's tasks."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from airflow.plugins_manager import AirflowPlugin
from airflow.sdk import conf

from bigtcp_bench.report.links import DAG_ROUTE, NAV_ROUTE, RUN_ROUTE, URL_PREFIX
from bigtcp_bench.web.task_link import RunPageLink

App = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]


#: What pages import when they are asked for.
_FIRST_PAGES = (
    "bigtcp_bench.analysis.verdicts",
    "bigtcp_bench.report.detail",
    "bigtcp_bench.warehouse.frames",
)


class LazyApp:
    """An ASGI app that is built when the API server starts, or at its first request.

    Every Airflow process loads plugins, but only the API server serves pages; workers need not import FastAPI.
    """

    def __init__(self) -> None:
        self._app: App | None = None
        self._building = threading.Lock()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Serve one request."""
        await self._built()(scope, receive, send)

    def warm_up(self, server: App) -> App:
        """Return ``server`` as it is, after a thread has begun to make ready what the first pages need.

        Airflow takes it for middleware, which is the only thing of a plugin that it calls in a starting API server
        and nowhere else.
        """
        threading.Thread(target=self._make_ready, name="bigtcp-bench warm-up", daemon=True).start()
        return server

    def _built(self) -> App:
        with self._building:
            if self._app is None:
                from bigtcp_bench.web.app import build_app

                self._app = build_app()
            return self._app

    def _make_ready(self) -> None:
        self._built()
        # Whatever is wrong with the warehouse, the first page says it.
        with suppress(Exception):
            importlib.import_module("bigtcp_bench.web.data").open_warehouse()
        for name in _FIRST_PAGES:
            importlib.import_module(name)
        importlib.import_module("bigtcp_bench.report.html").vega.javascript()


_APP = LazyApp()


def _path(page: str) -> str:
    """Return the path of a page, below the path of Airflow's own address where it has one."""
    return f"{urlsplit(conf.get('api', 'base_url', fallback='')).path.rstrip('/')}{URL_PREFIX}/{page}"


class BigTcpBenchPlugin(AirflowPlugin):
    """Registers the pages; see bigtcp_bench.web.app."""

    name = "bigtcp_bench"
    # Class attributes, as Airflow's base class has them; nothing ever changes them.
    fastapi_apps = [  # noqa: RUF012
        {"app": _APP, "url_prefix": URL_PREFIX, "name": "bigtcp-bench"},
    ]
    fastapi_root_middlewares = [  # noqa: RUF012
        {"middleware": _APP.warm_up, "name": "bigtcp-bench warm-up"},
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
