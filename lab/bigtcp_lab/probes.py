"""Probes of containers: one check of a startup, readiness or liveness probe, from inside the pod's own network."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from bigtcp_lab.namespaces import NetworkNamespace

Run = Callable[[list[str]], Awaitable[int]]
"""Runs a command in the container and returns its exit code."""


async def check(
    probe: dict[str, Any], container: dict[str, Any], network: NetworkNamespace, address: str, run: Run
) -> str:
    """Return an empty string when ``probe`` succeeds, else why not, as a kubelet words it.

    ``address`` is the pod's, for probes that name no host.
    """
    timeout_s = probe["timeoutSeconds"]
    try:
        async with asyncio.timeout(timeout_s):
            if "exec" in probe:
                code = await run(probe["exec"]["command"])
                return "" if code == 0 else f"command failed with exit code {code}"
            kind = "httpGet" if "httpGet" in probe else "tcpSocket"
            target = probe[kind]
            host = target.get("host") or address
            port = _port(target["port"], container)
            if kind == "tcpSocket":
                return await asyncio.to_thread(network.run, lambda: _connect(host, port, timeout_s))
            return await asyncio.to_thread(network.run, lambda: _get(target, host, port, timeout_s))
    except TimeoutError:
        return f"timeout: no answer within {timeout_s}s"


def _port(port: int | str, container: dict[str, Any]) -> int:
    if isinstance(port, int):
        return port
    for entry in container.get("ports") or []:
        if entry.get("name") == port:
            return int(entry["containerPort"])
    return int(port)


def _connect(host: str, port: int, timeout_s: float) -> str:
    try:
        with socket.create_connection((host, port), timeout_s):
            return ""
    except OSError as error:
        return f"dial tcp {host}:{port}: {error}"


def _get(target: dict[str, Any], host: str, port: int, timeout_s: float) -> str:
    path = target.get("path") or "/"
    headers = {header["name"]: header["value"] for header in target.get("httpHeaders") or []}
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    if target.get("scheme") == "HTTPS":
        unchecked = ssl._create_unverified_context()  # a kubelet does not verify what it probes, either
        connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=unchecked)
    try:
        connection.request("GET", path, headers=headers)
        code = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f'Get "http://{host}:{port}{path}": {error}'
    finally:
        connection.close()
    return "" if 200 <= code < 400 else f"HTTP probe failed with statuscode: {code}"
