"""The HTTP face of the store: routes, authentication, and the verbs of the Kubernetes API."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from . import discovery, openapi, patch, paths, pods, rbac, requests, status, stream, table, watches
from .discovery import CRDS, PODS, SELFSUBJECTACCESSREVIEWS, Resource
from .middleware import FaultMiddleware, Faults
from .paths import Target
from .runtime_protocol import Runtime
from .status import ApiError
from .store import Store
from .tokens import Tokens, User

Object = dict[str, Any]

VERSION = {
    "major": "1",
    "minor": "36",
    "emulationMajor": "1",
    "emulationMinor": "36",
    "minCompatibilityMajor": "1",
    "minCompatibilityMinor": "35",
    "gitVersion": "v1.36.2",
    "gitCommit": "8e16b12fda5b1dccc41a6de48b3e356cc7d5048b",
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
    "goVersion": "go1.26.6",
    "compiler": "gc",
    "platform": "linux/amd64",
}
#: Seconds an idle connection is kept: longer than any pause of a client, so that no request meets a closing one.
_KEEP_ALIVE_S = 600
#: Seconds that open watches and logs get when the server stops.
_SHUTDOWN_S = 1
#: Seconds that a log's first chunk may take before the answer begins without it: an error comes at once, the lines
#: of a running container may never.
_FIRST_CHUNK_S = 0.05
_DONE = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


class Api:
    """The request handlers; one instance serves one store."""

    def __init__(self, store: Store, runtime: Runtime, tokens: Tokens, *, rbac_on: bool) -> None:
        self.store = store
        self.runtime = runtime
        self.tokens = tokens
        self.rbac_on = rbac_on

    # Who is asking, and may they

    def _user(self, connection: HTTPConnection) -> User:
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        user = self.tokens.user(token.strip()) if scheme.lower() == "bearer" else None
        if user is None:
            raise ApiError(401, "Unauthorized", "Unauthorized")
        return user

    async def _authorize(self, user: User, verb: str, target: Target, name: str | None = None) -> None:
        if self.rbac_on:
            wanted = target.name if name is None else name
            request = rbac.Request(verb, target.resource, target.namespace, wanted, target.subresource)
            await rbac.check(self.store, user, request)

    # Documents

    async def document(self, request: Request) -> Response:
        """Answer discovery, version, health and OpenAPI requests."""
        path = request.url.path.strip("/")
        parts = path.split("/")
        found: Object | None = None
        if path in ("healthz", "livez", "readyz"):
            return PlainTextResponse("ok")
        if path == "version":
            return JSONResponse(VERSION)
        self._user(request)
        if path == "openapi/v2":
            if "proto-openapi" in request.headers.get("accept", ""):
                return Response(openapi.v2_protobuf(), media_type=openapi.V2_PROTOBUF_TYPE)
            found = openapi.v2()
        elif path == "openapi/v3":
            found = openapi.v3_paths()
        elif path.startswith("openapi/v3/"):
            found = openapi.v3(path.removeprefix("openapi/v3/"))
        elif path == "api":
            found = discovery.api_versions(request.url.netloc)
        elif parts[0] == "apis" and parts[1:2] and parts[1] in await self._undefined_groups():
            raise status.unknown_path()
        elif path == "apis":
            found = discovery.api_group_list()
            undefined = await self._undefined_groups()
            found["groups"] = [group for group in found["groups"] if group["name"] not in undefined]
        elif parts[0] == "api":
            found = discovery.api_resource_list("", parts[1])
        elif len(parts) == 2:
            found = discovery.api_group(parts[1])
        else:
            found = discovery.api_resource_list(parts[1], parts[2])
        if found is None:
            raise status.unknown_path()
        return JSONResponse(found)

    async def _undefined_groups(self) -> set[str]:
        """Return the groups of custom resources that no CustomResourceDefinition in the store defines."""
        defined = {definition["spec"]["group"] for definition in await self.store.list(CRDS)}
        return {resource.group for resource in discovery.RESOURCES if resource.custom} - defined

    # Verbs

    async def handle(self, request: Request) -> Response:
        """Answer a request for a collection, an object or a subresource."""
        user = self._user(request)
        target = paths.parse(request.url.path)
        if target.resource.custom and target.resource.group in await self._undefined_groups():
            raise status.unknown_path()
        if target.subresource in ("log", "exec", "eviction", "binding", "token"):
            return await self._subresource(user, target, request)
        match request.method, bool(target.name):
            case "GET", True:
                await self._authorize(user, "get", target)
                obj = await self.store.get(target.resource, target.name, target.namespace)
                return self._shown(request, target.resource, obj)
            case "GET", False:
                return await self._list_or_watch(user, target, request)
            case "POST", False:
                return await self._create(user, target, request)
            case "PUT", True:
                return await self._replace(user, target, request)
            case "PATCH", True:
                return await self._patch(user, target, request)
            case "DELETE", True:
                return await self._delete(user, target, request)
            case "DELETE", False:
                return await self._delete_collection(user, target, request)
        raise status.method_not_allowed()

    async def _list_or_watch(self, user: User, target: Target, request: Request) -> Response:
        query, resource = request.query_params, target.resource
        if "list" not in resource.verbs:
            raise status.method_not_allowed()
        selectors = (query.get("labelSelector"), query.get("fieldSelector"))
        watching = requests.boolean(query, "watch")
        await self._authorize(user, "watch" if watching else "list", target, requests.selected_name(query))
        if watching:
            return self._watch(target, request, *selectors)
        objects = await self.store.list(resource, target.namespace or None, *selectors)
        metadata: Object = {"resourceVersion": str(self.store.version)}
        objects = requests.page(query, objects, metadata)
        if table.wanted(request.headers.get("accept", "")):
            include = query.get("includeObject", "Metadata")
            return JSONResponse(table.table(resource, objects, metadata, include))
        if table.metadata_wanted(request.headers.get("accept", "")):
            return JSONResponse(table.metadata_list(objects, metadata))
        if not resource.custom:  # the items of a built-in list do not repeat what the list says
            objects = [{k: v for k, v in obj.items() if k not in ("kind", "apiVersion")} for obj in objects]
        kind, api_version = f"{resource.kind}List", resource.api_version
        return JSONResponse({"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": objects})

    def _watch(self, target: Target, request: Request, labels: str | None, fields: str | None) -> Response:
        query, resource = request.query_params, target.resource
        with_initial = requests.boolean(query, "sendInitialEvents")
        version = requests.integer(query, "resourceVersion")
        since = None if with_initial else version or None  # 0 means any
        try:
            watch = self.store.watch(resource, since, target.namespace or None, labels, fields)
        except ApiError as error:
            if error.code != 410:
                raise
            return Response(watches.error_line(error), media_type="application/json")
        as_table = table.wanted(request.headers.get("accept", ""))
        include = query.get("includeObject", "Metadata")

        def render(obj: Object) -> Object:
            if not as_table:
                return obj
            return table.table(resource, [obj], {"resourceVersion": obj["metadata"]["resourceVersion"]}, include)

        body = watches.lines(
            self.store,
            resource,
            watch,
            timeout_s=float(requests.integer(query, "timeoutSeconds") or watches.DEFAULT_TIMEOUT_S),
            bookmarks=requests.boolean(query, "allowWatchBookmarks"),
            initial_count=watch.pending_count if with_initial else None,
            render=render,
        )
        return StreamingResponse(body, media_type="application/json")

    async def _create(self, user: User, target: Target, request: Request) -> Response:
        resource = target.resource
        if "create" not in resource.verbs or (resource.namespaced and not target.namespace):
            raise status.method_not_allowed()
        body = await requests.body(request)
        await self._authorize(user, "create", target)
        if resource == SELFSUBJECTACCESSREVIEWS:
            return JSONResponse(await self._access_review(user, body), 201)
        created = await self.store.create(
            resource, body, target.namespace or None, dry_run=requests.is_dry_run(request.query_params)
        )
        return self._shown(request, resource, created, 201)

    async def _replace(self, user: User, target: Target, request: Request) -> Response:
        await self._authorize(user, "update", target)
        body = await requests.body(request)
        metadata = body.setdefault("metadata", {})
        if metadata.setdefault("name", target.name) != target.name:
            raise status.bad_request(
                f"the name of the object ({metadata['name']}) does not match the name on the URL ({target.name})"
            )
        if target.resource.namespaced:
            metadata["namespace"] = target.namespace
        updated = await self.store.update(
            target.resource, body, target.subresource or None, dry_run=requests.is_dry_run(request.query_params)
        )
        return self._shown(request, target.resource, updated)

    async def _patch(self, user: User, target: Target, request: Request) -> Response:
        await self._authorize(user, "patch", target)
        query = request.query_params
        content_type = request.headers.get("content-type", "").partition(";")[0].strip()
        body = await requests.body(request)
        options: dict[str, Any] = {
            "subresource": target.subresource or None,
            "dry_run": requests.is_dry_run(query),
        }
        if content_type == patch.APPLY_PATCH:
            manager = query.get("fieldManager")
            if not manager:
                raise status.bad_request("PatchOptions.meta.k8s.io is invalid: fieldManager: Required value")
            applied, created = await self.store.apply(
                target.resource,
                target.name,
                target.namespace or None,
                body,
                field_manager=manager,
                force=requests.boolean(query, "force"),
                **options,
            )
            return self._shown(request, target.resource, applied, 201 if created else 200)
        patched = await self.store.patch(
            target.resource, target.name, target.namespace or None, content_type, body, **options
        )
        return self._shown(request, target.resource, patched)

    async def _delete(self, user: User, target: Target, request: Request) -> Response:
        await self._authorize(user, "delete", target)
        options = requests.delete_options(request.query_params, await requests.body(request))
        deleted = await self.store.delete(target.resource, target.name, target.namespace or None, **options)
        return JSONResponse(deleted)

    async def _delete_collection(self, user: User, target: Target, request: Request) -> Response:
        resource, query = target.resource, request.query_params
        if "deletecollection" not in resource.verbs or (resource.namespaced and not target.namespace):
            raise status.method_not_allowed()
        await self._authorize(user, "deletecollection", target)
        options = requests.delete_options(request.query_params, await requests.body(request))
        selectors = (query.get("labelSelector"), query.get("fieldSelector"))
        objects = await self.store.list(resource, target.namespace or None, *selectors)
        for obj in objects:
            await self.store.delete(resource, obj["metadata"]["name"], target.namespace or None, **options)
        metadata = {"resourceVersion": str(self.store.version)}
        kind, api_version = f"{resource.kind}List", resource.api_version
        return JSONResponse({"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": objects})

    # Subresources that are not the object itself

    async def _subresource(self, user: User, target: Target, request: Request) -> Response:
        match target.subresource, request.method:
            case "log", "GET":
                await self._authorize(user, "get", target)
                return await self._log(target, request)
            case "exec", _:  # a WebSocket has a route of its own
                await self._command(user, target, request)
                raise status.bad_request(
                    "the lab runs commands over WebSocket only, not over SPDY: use kubectl 1.30 or newer"
                )
            case "eviction", "POST":
                await self._authorize(user, "create", target)
                options = requests.delete_options(
                    request.query_params, (await requests.body(request)).get("deleteOptions") or {}
                )
                await self.store.delete(PODS, target.name, target.namespace, **options)
                return JSONResponse(_DONE, 201)
            case "binding", "POST":
                await self._authorize(user, "create", target)
                pod = await self.store.get(PODS, target.name, target.namespace)
                await pods.bind(self.store, pod, (await requests.body(request))["target"]["name"])
                return JSONResponse(_DONE, 201)
            case "token", "POST":
                await self._authorize(user, "create", target)
                await self.store.get(target.resource, target.name, target.namespace)
                expires = datetime.now(UTC) + timedelta(hours=1)
                body = await requests.body(request)
                body["status"] = {
                    "token": self.tokens.service_account(target.namespace, target.name),
                    "expirationTimestamp": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
                }
                return JSONResponse(body, 201)
        raise status.method_not_allowed()

    async def _log(self, target: Target, request: Request) -> Response:
        pod = await self.store.get(PODS, target.name, target.namespace)
        container = pods.container_name(pod, request.query_params.get("container", ""))
        options = requests.log_options(request.query_params)
        pods.check_log(pod, container, previous=options.previous)
        chunks = self.runtime.logs(target.namespace, target.name, container, options)
        first = asyncio.ensure_future(anext(chunks))
        await asyncio.wait({first}, timeout=_FIRST_CHUNK_S)
        if first.done() and isinstance(error := first.exception(), ApiError):
            raise error
        return StreamingResponse(_log_chunks(first, chunks), media_type="text/plain")

    async def exec(self, websocket: WebSocket) -> None:
        """Answer ``pods/exec`` over WebSocket."""
        try:
            user = self._user(websocket)
            target = paths.parse(websocket.url.path)
            container, command = await self._command(user, target, websocket)
            query = websocket.query_params
            protocol = stream.chosen_protocol(websocket.scope.get("subprotocols") or [])
            session = await self.runtime.exec(
                target.namespace,
                target.name,
                container,
                command,
                stdin=requests.boolean(query, "stdin"),
                tty=requests.boolean(query, "tty"),
            )
        except ApiError as error:
            await websocket.send_denial_response(JSONResponse(error.body(), error.code))
            return
        await websocket.accept(subprotocol=protocol)
        await stream.serve_exec(websocket, session, command)

    async def _command(self, user: User, target: Target, connection: HTTPConnection) -> tuple[str, list[str]]:
        """Return the container to run a command in and the command; raises ApiError for what cannot be run."""
        await self._authorize(user, "create", target)
        pod = await self.store.get(PODS, target.name, target.namespace)
        container = pods.container_name(pod, connection.query_params.get("container", ""))
        pods.check_exec(pod, container)
        command = connection.query_params.getlist("command")
        if not command:
            raise status.bad_request("you must specify at least 1 command for the container")
        return container, command

    async def _access_review(self, user: User, body: Object) -> Object:
        asked = (body.get("spec") or {}).get("resourceAttributes") or {}
        group, plural = asked.get("group", ""), asked.get("resource", "")
        known = [r for r in discovery.RESOURCES if (r.group, r.plural) == (group, plural)]
        resource = known[0] if known else Resource(group, "v1", plural, plural, True)
        request = rbac.Request(
            asked.get("verb", ""),
            resource,
            asked.get("namespace", ""),
            asked.get("name", ""),
            asked.get("subresource", ""),
        )
        allowed = not self.rbac_on or await rbac.allowed(self.store, user, request)
        review = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "metadata": {}}
        return {**review, "spec": body.get("spec") or {}, "status": {"allowed": allowed}}

    def _shown(self, request: Request, resource: Resource, obj: Object, code: int = 200) -> Response:
        if request.method == "GET" and table.wanted(request.headers.get("accept", "")):
            metadata = {"resourceVersion": obj["metadata"]["resourceVersion"]}
            include = request.query_params.get("includeObject", "Metadata")
            return JSONResponse(table.table(resource, [obj], metadata, include), code)
        return JSONResponse(obj, code)


async def _log_chunks(first: asyncio.Future[bytes], chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the ``first`` chunk and the others; close their source when the client goes away in between."""
    try:
        with contextlib.suppress(StopAsyncIteration):
            yield await first
        async for chunk in chunks:
            yield chunk
    finally:
        first.cancel()
        if hasattr(chunks, "aclose"):
            await chunks.aclose()


async def _error_response(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.code)


def build_app(
    store: Store, runtime: Runtime, tokens: Tokens, faults: Faults, *, rbac_on: bool = False
) -> Starlette:
    """Return the API server of ``store`` as an ASGI application.

    ``runtime`` serves logs and commands, ``tokens`` says who may come in, ``faults`` is obeyed at every request;
    with ``rbac_on`` the store's roles and bindings decide what service accounts may do.
    """
    api = Api(store, runtime, tokens, rbac_on=rbac_on)
    documents = ["/version", "/healthz", "/livez", "/readyz", "/api", "/apis", "/api/{version}", "/apis/{group}"]
    documents += ["/apis/{group}/{version}", "/openapi/v2", "/openapi/v3", "/openapi/v3/{path:path}"]
    return Starlette(
        routes=[
            *(Route(path, api.document, methods=["GET"]) for path in documents),
            WebSocketRoute("/api/v1/namespaces/{namespace}/pods/{name}/exec", api.exec),
            Route("/api/{path:path}", api.handle, methods=_METHODS),
            Route("/apis/{path:path}", api.handle, methods=_METHODS),
            Route("/{path:path}", _unknown, methods=_METHODS),
        ],
        middleware=[Middleware(FaultMiddleware, faults=faults)],
        exception_handlers={ApiError: _error_response},
    )


async def _unknown(request: Request) -> Response:
    raise status.unknown_path()


class ApiServer(uvicorn.Server):
    """A uvicorn server that leaves the signals of its process alone.

    Use ``await server.serve(sockets=[…])`` with sockets that are bound already, and end it by setting
    ``server.should_exit``.
    """

    def __init__(self, app: Starlette, certificate: Path, key: Path) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                ssl_certfile=certificate,
                ssl_keyfile=key,
                log_level="warning",
                access_log=False,
                lifespan="off",
                loop="asyncio",
                http="httptools",
                ws="websockets-sansio",
                ws_ping_interval=None,  # clients ping; some of them never answer pings while they wait
                timeout_keep_alive=_KEEP_ALIVE_S,
                timeout_graceful_shutdown=_SHUTDOWN_S,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing: the process that runs the server handles its own signals."""
        yield
