"""Making the API misbehave on demand: delays, errors, lost connections."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from typing import Protocol

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .status import ApiError

#: With the fault ``api-errors``, the share of requests that go wrong: a client that never retries is sure to fail.
ERROR_RATE = 0.2
#: With the fault ``api-slow``, how long every request waits.
DELAY_S = 2.0
#: With the fault ``api-down``, after how long at most a watch or followed log ends.
_DOWN_S = 0.1
_ERRORS = {500: "InternalError", 503: "ServiceUnavailable"}
_CUT_BEFORE, _CUT_AFTER = "cut before", "cut after"


class Faults(Protocol):
    """Which faults are on, asked at every request."""

    def is_on(self, name: str, node: str = "") -> bool:
        """Return whether the fault ``name`` is on."""


class ConnectionCut(Exception):
    """Raised to make the server close a connection in the middle of an answer."""


class _HideCuts(logging.Filter):
    """Keeps connections that were cut on purpose out of the server's log."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], ConnectionCut))


class FaultMiddleware:
    """Spoils some requests as ``faults`` says, and hands on all others.

    A connection is cut either before the request is carried out or after: the client cannot tell which.
    """

    def __init__(self, app: ASGIApp, faults: Faults) -> None:
        self.app = app
        self.faults = faults
        logging.getLogger("uvicorn.error").addFilter(_HideCuts())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or connection."""
        if self.faults.is_on("api-down"):
            await _refuse(scope, receive, send)
            return
        if scope["type"] == "http":
            if self.faults.is_on("api-slow"):
                await asyncio.sleep(DELAY_S)
            if self.faults.is_on("api-errors") and random.random() < ERROR_RATE:
                await self._spoil(scope, receive, send)
                return
            if re.search(rb"\b(watch|follow)=", scope["query_string"]):
                await self._serve_until_down(scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _serve_until_down(self, scope: Scope, receive: Receive, send: Send) -> None:
        serving = asyncio.ensure_future(self.app(scope, receive, send))
        try:
            while not (await asyncio.wait({serving}, timeout=_DOWN_S))[0]:
                if self.faults.is_on("api-down"):
                    raise ConnectionCut
            await serving
        finally:
            serving.cancel()

    async def _spoil(self, scope: Scope, receive: Receive, send: Send) -> None:
        how = random.choice([*_ERRORS, _CUT_BEFORE, _CUT_AFTER])
        if isinstance(how, int):
            error = ApiError(how, _ERRORS[how], "the lab was told to answer with this error", {})
            await JSONResponse(error.body(), how)(scope, receive, send)
            return
        if how == _CUT_AFTER and scope["method"] != "GET":  # reading leaves no trace, and may never end
            await self.app(scope, receive, _drop)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})
        raise ConnectionCut


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as the load balancer before a server that is down."""
    error = ApiError(503, "ServiceUnavailable", "the server is currently unable to handle the request", {})
    await JSONResponse(error.body(), error.code)(scope, receive, send)


async def _drop(message: Message) -> None:
    """Lose an answer."""
