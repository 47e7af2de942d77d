"""Making the API misbehave on demand: delays, errors, an outage."""

from __future__ import annotations

import asyncio
import random
from typing import Protocol

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from .status import ApiError

_REASONS = {429: "TooManyRequests", 500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout"}


class Faults(Protocol):
    """The switches that the server obeys, read at every request."""

    #: Share of the requests, 0 to 1, that are answered with ``api_error_code``.
    api_error_rate: float
    api_error_code: int
    #: Seconds that every request waits before it is handled.
    api_delay_s: float
    #: Whether the server is to look dead: every request gets 503 and watches end.
    api_down: bool


class NoFaults:
    """A server that does its best."""

    api_error_rate = 0.0
    api_error_code = 500
    api_delay_s = 0.0
    api_down = False


class FaultMiddleware:
    """Answers some requests with errors, as ``faults`` says, and hands on all others."""

    def __init__(self, app: ASGIApp, faults: Faults) -> None:
        self.app = app
        self.faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self.faults.api_delay_s > 0:
            await asyncio.sleep(self.faults.api_delay_s)
        code = 503 if self.faults.api_down else None
        if code is None and random.random() < self.faults.api_error_rate:
            code = self.faults.api_error_code
        if code is None:
            await self.app(scope, receive, send)
            return
        error = ApiError(
            code, _REASONS.get(code, "InternalError"), "the lab was told to answer with this error", {}
        )
        headers = {"Retry-After": "1"} if code in (429, 503) else {}
        await JSONResponse(error.body(), code, headers)(scope, receive, send)
