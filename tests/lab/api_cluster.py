"""A whole API server with controllers and a simple node, in a thread of the test process."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import kubernetes
import yaml
from starlette.types import ASGIApp, Receive, Scope, Send

from bigtcp_lab.api.certificates import issue, kubeconfig
from bigtcp_lab.api.discovery import resource_of_kind
from bigtcp_lab.api.server import ApiServer, build_app
from bigtcp_lab.api.store import Store
from bigtcp_lab.api.tokens import Tokens
from bigtcp_lab.controllers import run_controllers
from bigtcp_lab.listening import listen
from bigtcp_lab.objects import seed

from .process_node import ProcessNode

RECORDED = Path(__file__).parent.parent / "recorded"


def recorded(name: str) -> Any:
    """Return a recorded answer of a real cluster."""
    return json.loads((RECORDED / name).read_text(encoding="utf-8"))


class Switches:
    """Faults that a test switches."""

    def __init__(self) -> None:
        self.on: set[str] = set()

    def is_on(self, name: str, node: str = "") -> bool:
        return name in self.on


class _Recorder:
    """Notes every request that the server gets and how it was answered."""

    def __init__(self, app: ASGIApp, calls: list[str]) -> None:
        self.app = app
        self.calls = calls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def noting(message: Any) -> None:
            if message["type"] == "http.response.start":
                query = scope["query_string"].decode()
                self.calls.append(
                    f"{scope['method']} {scope['path']}{'?' + query if query else ''} -> {message['status']}"
                )
            await send(message)

        await self.app(scope, receive, noting)


class ApiCluster:
    """A running API server: ``kubeconfig`` leads to it, ``calls`` lists what it was asked."""

    def __init__(self, folder: Path, *, rbac_on: bool = False, cilium: bool = True) -> None:
        self.kubeconfig = folder / "kubeconfig"
        self.calls: list[str] = []
        self.faults = Switches()
        self.tokens = Tokens()
        self._rbac_on = rbac_on
        self._cilium = cilium
        self._socket = listen("127.0.0.1")
        self.url = f"https://127.0.0.1:{self._socket.getsockname()[1]}"
        certificate = issue(["127.0.0.1", "localhost"])
        self.ca_pem = certificate.ca_pem
        self._files = folder / "server.crt", folder / "server.key"
        self._files[0].write_text(certificate.certificate_pem)
        self._files[1].write_text(certificate.key_pem)
        config = kubeconfig(self.url, self.ca_pem, self.tokens.admin)
        self.kubeconfig.write_text(yaml.safe_dump(config))
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.store = Store()
        await seed(self.store, cilium=self._cilium)
        node = ProcessNode(self.store)
        app = build_app(self.store, node, self.tokens, self.faults, rbac_on=self._rbac_on)
        app.add_middleware(_Recorder, calls=self.calls)
        self._server = ApiServer(app, *self._files)
        tasks = [asyncio.create_task(run_controllers(self.store, self.ca_pem)), asyncio.create_task(node.run())]
        self._started.set()
        await self._server.serve(sockets=[self._socket])
        for task in tasks:
            task.cancel()
        await node.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    def __enter__(self) -> ApiCluster:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.should_exit = self._server.force_exit = True  # clients may keep their connections
        self._thread.join(10)

    def client(self, token: str | None = None) -> kubernetes.client.ApiClient:
        """Return a client of the Python library, for the administrator or for ``token``."""
        config = kubeconfig(self.url, self.ca_pem, token or self.tokens.admin)
        return kubernetes.config.new_client_from_config_dict(config)

    def create(self, obj: dict[str, Any]) -> dict[str, Any]:
        """Put ``obj`` into the store, past the API."""
        resource = resource_of_kind(obj["apiVersion"], obj["kind"])
        assert resource is not None
        namespace = obj["metadata"].get("namespace", "default") if resource.namespaced else None
        future = asyncio.run_coroutine_threadsafe(self.store.create(resource, obj, namespace), self._loop)
        return future.result(10)


def pod(name: str, *command: str, image: str = "busybox:1", **spec: Any) -> dict[str, Any]:
    """Return a pod with one container ``base`` that runs ``command``."""
    container = {"name": "base", "image": image, "command": list(command) or ["sleep", "1000"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "containers": [container],
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            **spec,
        },
    }
