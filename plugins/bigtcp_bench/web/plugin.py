"""What Airflow is told: a page of runs in the navigation, and a tab with the comparison on every run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from airflow.plugins_manager import AirflowPlugin

URL_PREFIX = "/bigtcp-bench"


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
        await self._app(scope, receive, send)


class BigTcpBenchPlugin(AirflowPlugin):
    """Registers the pages; see bigtcp_bench.web.app."""

    name = "bigtcp_bench"
    # Class attributes, as Airflow's base class has them; nothing ever changes them.
    fastapi_apps = [  # noqa: RUF012
        {"app": LazyApp(), "url_prefix": URL_PREFIX, "name": "bigtcp-bench"},
    ]
    external_views = [  # noqa: RUF012
        {
            "name": "BIG TCP runs",
            "href": f"{URL_PREFIX}/runs",
            "destination": "nav",
            "category": "browse",
            "url_route": "bigtcp-runs",
        },
        {
            "name": "Comparison",
            "href": f"{URL_PREFIX}/run?dag_id={{DAG_ID}}&run_id={{RUN_ID}}",
            "destination": "dag_run",
            "url_route": "bigtcp-run",
        },
    ]
