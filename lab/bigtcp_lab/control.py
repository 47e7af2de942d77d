"""The lab's own few requests beside the Kubernetes API: what its state is, and switching faults."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from bigtcp_bench.errors import InvalidInput, PreconditionFailed
from bigtcp_lab.api.tokens import Tokens
from bigtcp_lab.faults import FaultState

_TIMEOUT_S = 10

Describe = Callable[[], Awaitable[dict[str, Any]]]


def with_control(api: ASGIApp, tokens: Tokens, faults: FaultState, describe: Describe) -> Starlette:
    """Return ``api`` with ``/lab/status`` and ``/lab/faults`` before it; faults of the API do not touch these."""

    def is_admin(request: Request) -> bool:
        user = tokens.user(request.headers.get("authorization", "").removeprefix("Bearer "))
        return user is not None and user.is_admin

    async def status(request: Request) -> Response:
        if not is_admin(request):
            return JSONResponse({"error": "only the lab's administrator may do this"}, 403)
        return JSONResponse({**await describe(), "faults": faults.active()})

    async def switch(request: Request) -> Response:
        if not is_admin(request):
            return JSONResponse({"error": "only the lab's administrator may do this"}, 403)
        wanted = await request.json()
        try:
            faults.switch(wanted["fault"], wanted["on"])
        except InvalidInput as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse({"faults": faults.active()})

    routes = [Route("/status", status), Route("/faults", switch, methods=["POST"])]
    return Starlette(routes=[Mount("/lab", routes=routes), Mount("/", api)])


def request(kubeconfig: Path, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Send a control request to the lab that ``kubeconfig`` belongs to and return its answer.

    Raises InvalidInput for what the lab refuses, PreconditionFailed when it does not answer.
    """
    config = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    message = urllib.request.Request(
        f"{cluster['server']}/lab/{path}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {user['token']}"},
    )
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}),  # never through a proxy: it is on this machine
        urllib.request.HTTPSHandler(context=ssl.create_default_context(cadata=authority)),
    )
    try:
        with opener.open(message, timeout=_TIMEOUT_S) as answer:
            document: dict[str, Any] = json.load(answer)
            return document
    except urllib.error.HTTPError as error:
        raise InvalidInput(json.load(error)["error"]) from error
    except OSError as error:
        raise PreconditionFailed(f"lab: {cluster['server']} does not answer ({error})") from error
