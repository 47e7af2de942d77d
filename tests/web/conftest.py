"""The pages as one user sees them, over HTTP, with Airflow's own permission checks behind them."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.api_fastapi import app as airflow_app
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.core_api.security import get_user
from airflow.models.dag import DagModel
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from bigtcp_bench.report.links import URL_PREFIX
from bigtcp_bench.warehouse.store import Warehouse
from bigtcp_bench.web.app import build_app
from tests.web.history import fill

Client = Callable[..., TestClient]


class PerDag(SimpleAuthManager):
    """Airflow's simple auth manager, except that ``only`` names the DAGs that exist for a user."""

    def __init__(self, only: dict[str, set[str]]) -> None:
        super().__init__()
        self.only = only

    def is_authorized_dag(self, *, user: SimpleAuthManagerUser, details: Any = None, **others: Any) -> bool:
        allowed = self.only.get(user.username)
        if allowed is not None and (details is None or details.id not in allowed):
            return False
        return super().is_authorized_dag(user=user, details=details, **others)


@pytest.fixture(scope="session")
def filled_file(tmp_path_factory: pytest.TempPathFactory, new_warehouse: Callable[[Path], Warehouse]) -> Path:
    path = tmp_path_factory.mktemp("filled") / "warehouse.db"
    warehouse = new_warehouse(path)
    fill(warehouse)
    # The file is complete only when its last connection is closed.
    warehouse.engine.dispose()
    return path


@pytest.fixture
def warehouse(filled_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Warehouse]:
    path = shutil.copy(filled_file, tmp_path / "warehouse.db")
    monkeypatch.setenv("AIRFLOW_CONN_BIGTCP_WAREHOUSE", f"sqlite:///{path}")
    yield (opened := Warehouse(f"sqlite:///{path}"))
    opened.engine.dispose()


@functools.cache
def _pages(*, known: bool) -> FastAPI:
    """Return the application, which takes long to build; the ``known`` user of one is in each request's scope."""
    pages = build_app()
    if known:
        pages.dependency_overrides[get_user] = _user_of
    return pages


def _user_of(request: Request) -> SimpleAuthManagerUser:
    user: SimpleAuthManagerUser = request.scope["logged in"]
    return user


def _as(user: SimpleAuthManagerUser, pages: ASGIApp) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await pages({**scope, "logged in": user}, receive, send)

    return app


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Yield a function that logs a user in; without one, nobody is."""
    opened: list[TestClient] = []
    # These would ask Airflow's database, which has no teams here.
    monkeypatch.setattr(DagModel, "get_team_name", staticmethod(lambda dag_id, **_: None))

    def log_in(
        name: str | None = None, role: str | None = "viewer", *, dags: set[str] | None = None, prefix: str = ""
    ) -> TestClient:
        manager = PerDag({name: dags} if name is not None and dags is not None else {})
        monkeypatch.setattr(airflow_app._AuthManagerState, "instance", manager)
        airflow = FastAPI(root_path=prefix)
        pages: ASGIApp = _pages(known=name is not None)
        if name is not None:
            pages = _as(SimpleAuthManagerUser(username=name, role=role), pages)
        airflow.mount(URL_PREFIX, pages)
        opened.append(
            TestClient(
                airflow,
                base_url=f"http://airflow.example{prefix}{URL_PREFIX}/",
                raise_server_exceptions=False,
                follow_redirects=False,
            )
        )
        return opened[-1]

    yield log_in
    for one in opened:
        one.close()
