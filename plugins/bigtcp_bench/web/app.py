"""The pages as one application, which Airflow's API server mounts: routes, errors in words, headers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException as StarletteHTTPException

from bigtcp_bench.errors import BenchError, InvalidInput
from bigtcp_bench.web import compare, downloads, incidents, metrics, one_run, overview, runs, static_files, trend
from bigtcp_bench.web.access import AccessDep, access_of
from bigtcp_bench.web.params import sentence_of
from bigtcp_bench.web.rendering import HEADERS, Site, message

_TITLES = {
    400: "That cannot be shown",
    401: "Not logged in",
    403: "Not allowed",
    404: "Not found",
    405: "Not possible",
    422: "That cannot be shown",
    500: "This page failed",
    503: "The warehouse does not answer",
}
#: Browsers never keep pages: a permission may be gone tomorrow.
_HEADERS = {**HEADERS, "Cache-Control": "no-store"}
_LOGIN = "You are not logged in to Airflow, or no longer. Log in there and load this page again."


def build_app() -> FastAPI:
    """Return the application. Every route of it needs Airflow's permission to read a benchmark DAG's runs."""
    app = FastAPI(
        dependencies=[Depends(access_of)],
        # The routes of the API docs bypass the dependency above.
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    for module in (overview, trend, runs, one_run, downloads, compare, incidents, metrics, static_files):
        app.include_router(module.router)

    @app.get("/")
    def start(request: Request) -> Response:
        """Lead to the first page."""
        return RedirectResponse(Site(request.scope["root_path"]).url("overview"), status_code=302)

    @app.get("/{path:path}")
    def nothing_here(access: AccessDep, path: str) -> Response:
        """Answer what is at no other address: only to those who may see the pages."""
        raise HTTPException(404, f"There is no page {path!r}.")

    app.add_exception_handler(StarletteHTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(BenchError, _unusable)
    app.add_exception_handler(Exception, _failed)
    app.add_middleware(_AddHeaders)
    return app


class _AddHeaders:
    """Adds what every answer must carry, unless it says something else itself."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        async def send_with_headers(event: MutableMapping[str, Any]) -> None:
            if event["type"] == "http.response.start":
                headers = MutableHeaders(scope=event)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(event)

        await self.app(scope, receive, send_with_headers)


def _refused(request: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 500)
    sentence = _LOGIN if status == 401 else str(getattr(error, "detail", error))
    return _answer(request, status, sentence)


def _invalid(request: Request, error: Exception) -> Response:
    return _answer(request, 422, sentence_of(getattr(error, "errors")()))  # noqa: B009


def _unusable(request: Request, error: Exception) -> Response:
    return _answer(request, 400 if isinstance(error, InvalidInput) else 503, str(error))


def _failed(request: Request, error: Exception) -> Response:
    # Starlette raises the error again when this has been sent, which puts it into the server's log.
    answer = _answer(request, 500, "Something in it is broken; the log of Airflow's API server says what.")
    # This answer is made outside of what adds headers to all others.
    answer.headers.update(_HEADERS)
    return answer


def _answer(request: Request, status: int, sentence: str) -> Response:
    if status != 422:
        # There it begins with the name of a parameter.
        sentence = sentence[:1].upper() + sentence[1:]
    if not sentence.endswith("."):
        sentence += "."
    if request.url.path.endswith(".json"):
        return JSONResponse({"detail": sentence}, status_code=status)
    return message(
        request, _TITLES.get(status, "Not possible"), sentence, getattr(request.state, "access", None), status
    )
