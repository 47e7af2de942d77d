"""The pages within an Airflow that knows who asks. Few workers need what this imports."""

from __future__ import annotations

import functools
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
from bigtcp_bench.web.app import build_app


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


@functools.cache
def pages(*, known: bool) -> FastAPI:
    """Return the application, which takes long to build; the ``known`` user of one is in each request's scope."""
    found = build_app()
    if known:
        found.dependency_overrides[get_user] = _user_of
    return found


def _user_of(request: Request) -> SimpleAuthManagerUser:
    user: SimpleAuthManagerUser = request.scope["logged in"]
    return user


def _as(user: SimpleAuthManagerUser, app: ASGIApp) -> ASGIApp:
    async def asked(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "logged in": user}, receive, send)

    return asked


def log_in(
    monkeypatch: pytest.MonkeyPatch, name: str | None, role: str | None, dags: set[str] | None, prefix: str
) -> TestClient:
    """Return the client of a user; of nobody when ``name`` is None."""
    # This would ask Airflow's database, which has no teams here.
    monkeypatch.setattr(DagModel, "get_team_name", staticmethod(lambda dag_id, **_: None))
    manager = PerDag({name: dags} if name is not None and dags is not None else {})
    monkeypatch.setattr(airflow_app._AuthManagerState, "instance", manager)
    airflow = FastAPI(root_path=prefix)
    app: ASGIApp = pages(known=name is not None)
    if name is not None:
        app = _as(SimpleAuthManagerUser(username=name, role=role), app)
    airflow.mount(URL_PREFIX, app)
    return TestClient(
        airflow,
        base_url=f"http://airflow.example{prefix}{URL_PREFIX}/",
        raise_server_exceptions=False,
        follow_redirects=False,
    )
