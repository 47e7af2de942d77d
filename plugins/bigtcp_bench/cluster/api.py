"""The Kubernetes API as plain dictionaries: retries while it is away, one clear sentence when it says no."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal

import tenacity
import urllib3
import websocket
import yaml
from kubernetes import client as k8s
from kubernetes import config as k8s_config
from kubernetes.stream import ws_client

from bigtcp_bench.errors import BenchError

log = logging.getLogger(__name__)

#: How long a single request may take. Short, because a request that is already on its way cannot be fenced:
#: ``guard.SETTLE_S`` must be longer than this.
REQUEST_TIMEOUT_S = 10.0
#: Answers that say "not now": throttled, or the API server or its etcd is away.
TRANSIENT_STATUSES = frozenset({429, 500, 502, 503, 504})
#: A server that has just come back refuses everybody (401, 403) until its caches of accounts and roles are filled:
#: that took some seconds when it was seen. For so long after an outage a refusal is only passing.
COMING_BACK_S = 30.0
#: A connection that was never let in cannot know of an outage before it: for so long its refusals are passing.
FRESH_S = 10.0
#: So long after an outage pods that were just made may not reach each other (up to a minute, when it was seen).
SETTLED_S = 90.0
#: Asks for a list without spec and status, in the words of the API server.
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
#: An exec that prints nothing for this long is given up.
EXEC_TIMEOUT_S = 30.0

JsonObject = dict[str, Any]
Before = Callable[[], object]


@dataclass(frozen=True)
class Kind:
    """One resource of the API: how it is addressed in a URL."""

    group: str
    version: str
    plural: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """Return ``group/version``, or ``v1`` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """Return the URL path of one object, or of all of them (``namespace`` None: of the whole cluster)."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part is not None]
        return "/" + "/".join(parts)


POD = Kind("", "v1", "pods")
CONFIGMAP = Kind("", "v1", "configmaps")
NAMESPACE = Kind("", "v1", "namespaces", namespaced=False)
NODE = Kind("", "v1", "nodes", namespaced=False)
DAEMONSET = Kind("apps", "v1", "daemonsets")
LEASE = Kind("coordination.k8s.io", "v1", "leases")
NETWORKPOLICY = Kind("networking.k8s.io", "v1", "networkpolicies")
SERVICE = Kind("", "v1", "services")
ENDPOINTSLICE = Kind("discovery.k8s.io", "v1", "endpointslices")
PRIORITYCLASS = Kind("scheduling.k8s.io", "v1", "priorityclasses", namespaced=False)


class ApiProblem(BenchError):
    """The Kubernetes API refused a request; ``status`` is the HTTP status of its answer (0: no answer)."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


class NotFound(ApiProblem):
    """The object does not exist (404)."""


class Conflict(ApiProblem):
    """The object exists already, or is not in the version that the request was made for (409)."""


class Forbidden(ApiProblem):
    """The credentials in use lack a right, or an admission rule of the cluster says no (403).

    ``said`` is what the API server says, ``advice`` what helps.
    """

    def __init__(self, said: str, advice: str) -> None:
        super().__init__(f"not allowed: {said}; {advice}", 403)
        self.said = said
        self.advice = advice


class ApiUnreachable(ApiProblem):
    """No usable answer for as long as retries go on; the request may or may not have taken effect."""


class _Transient(Exception):
    """An answer, or none, after which the same request may be made again."""


class _Away(_Transient):
    """The API server itself is away."""


class ClusterApi:
    """A connection to one cluster.

    ``api_client`` gives host and credentials; the requests run on a client of our own, because the retries that
    urllib3 makes by itself could repeat a change after the right to make it was lost. Transient failures are
    retried for up to ``away_s`` seconds. ``clock``, ``monotonic`` and ``sleep`` can be replaced in tests.
    """

    def __init__(
        self,
        api_client: k8s.ApiClient,
        *,
        away_s: float = 180.0,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        configuration = copy.copy(api_client.configuration)
        configuration.retries = False
        self._client = k8s.ApiClient(configuration=configuration)
        self._client.default_headers.update(api_client.default_headers)
        self._away_s = away_s
        self._clock = clock
        self.monotonic = monotonic
        self.sleep = sleep
        self._server_ahead_s = 0.0
        self._outage_at = float("-inf")
        #: Whether a request was let in yet, and when the first one was refused before that.
        self._let_in = False
        self._first_refusal_at: float | None = None

    @classmethod
    def from_kubeconfig(
        cls, path: str | Path | None = None, context: str | None = None, **options: Any
    ) -> ClusterApi:
        """Connect with a kubeconfig file (None: ``KUBECONFIG`` or the default one, else the pod's own account)."""
        try:
            return cls(k8s_config.new_client_from_config(str(path) if path else None, context), **options)
        except (k8s_config.ConfigException, OSError, yaml.YAMLError) as error:
            if path is None:
                with contextlib.suppress(k8s_config.ConfigException):
                    configuration = k8s.Configuration()
                    k8s_config.load_incluster_config(client_configuration=configuration)
                    return cls(k8s.ApiClient(configuration=configuration), **options)
            raise ApiProblem(f"kubeconfig {path or 'of this user'} cannot be used: {error}", 0) from error

    def close(self) -> None:
        """Close all connections; the next request opens new ones."""
        self._client.rest_client.pool_manager.clear()

    @property
    def host(self) -> str:
        """Return the URL of the API server."""
        return str(self._client.configuration.host)

    def now(self) -> float:
        """Return the time by the API server's clock, in seconds since the epoch.

        Every party compares times with this one clock (the ``Date`` header of the last answer), so that lease
        times mean the same on a worker, in the cluster and on a laptop.
        """
        return self._clock() + self._server_ahead_s

    def unsettled_s(self) -> float:
        """Return for how long after the last outage that this connection saw pods may not reach each other yet."""
        return max(0.0, self._outage_at + SETTLED_S - self.monotonic())

    def settle(self, progress: Callable[[str], object]) -> None:
        """Wait until pods that are made now reach each other, where the API was away a moment ago."""
        unsettled_s = self.unsettled_s()
        if unsettled_s:
            progress(f"the Kubernetes API was away; waiting {unsettled_s:.0f} s until fresh pods reach each other")
            self.sleep(unsettled_s)

    def poll(self, timeout_s: float, interval_s: float) -> Iterator[float]:
        """Yield the seconds passed, every ``interval_s``, until ``timeout_s`` is over (at least once)."""
        start = self.monotonic()
        while True:
            passed = self.monotonic() - start
            yield passed
            if passed >= timeout_s:
                return
            self.sleep(interval_s)

    def get(self, kind: Kind, name: str, namespace: str | None = None) -> JsonObject:
        """Return one object. Raises NotFound."""
        return self.request("GET", kind.path(namespace, name))

    def find(self, kind: Kind, name: str, namespace: str | None = None) -> JsonObject | None:
        """Return one object, or None if it does not exist."""
        try:
            return self.get(kind, name, namespace)
        except NotFound:
            return None

    def select(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        metadata_only: bool = False,
    ) -> list[JsonObject]:
        """Return the objects that match both selectors, in one namespace or (None) in all.

        With ``metadata_only`` they have no spec and no status: a thousand of them are a tenth of the bytes.
        """
        query = [("labelSelector", labels)] * bool(labels) + [("fieldSelector", fields)] * bool(fields)
        headers = {"Accept": METADATA_LIST} if metadata_only else {}
        return list(self.request("GET", kind.path(namespace), query=query, headers=headers).get("items") or [])

    def create(
        self, kind: Kind, body: Mapping[str, Any], namespace: str | None = None, *, before: Before | None = None
    ) -> JsonObject:
        """Create an object and return it as stored. Raises Conflict if the name is taken.

        ``before`` runs ahead of every attempt, here and in the other changing calls: a fence goes there.
        """
        return self.request("POST", kind.path(namespace), body=body, before=before)

    def replace(
        self, kind: Kind, body: Mapping[str, Any], namespace: str | None = None, *, before: Before | None = None
    ) -> JsonObject:
        """Replace an object. Raises Conflict unless it is still in the ``resourceVersion`` of ``body``."""
        return self.request("PUT", kind.path(namespace, body["metadata"]["name"]), body=body, before=before)

    def patch(
        self,
        kind: Kind,
        name: str,
        body: Mapping[str, Any],
        namespace: str | None = None,
        *,
        before: Before | None = None,
    ) -> JsonObject:
        """Apply a JSON merge patch; a ``metadata.resourceVersion`` in it makes it compare-and-set (Conflict)."""
        headers = {"Content-Type": "application/merge-patch+json"}
        return self.request("PATCH", kind.path(namespace, name), body=body, headers=headers, before=before)

    def delete(
        self,
        kind: Kind,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        grace_s: int | None = None,
        propagation: Literal["Background", "Orphan"] | None = None,
        before: Before | None = None,
    ) -> bool:
        """Delete an object; False if it was gone already. Raises Conflict if it is not the one with ``uid``.

        ``propagation`` says what becomes of the objects that it owns: they go with it, or are cut loose.
        """
        body: JsonObject = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        if propagation is not None:
            body["propagationPolicy"] = propagation
        try:
            self.request("DELETE", kind.path(namespace, name), body=body, before=before)
        except NotFound:
            return False
        return True

    def logs(self, namespace: str, pod: str, container: str) -> str:
        """Return everything that a container has printed so far."""
        path = POD.path(namespace, pod, "log")
        return str(self._request("GET", path, query=[("container", container)], answer="text"))

    def served_versions(self, group: str) -> list[str]:
        """Return the versions that an API group is served in; empty if the cluster has no such group."""
        try:
            return [version["version"] for version in self.request("GET", f"/apis/{group}")["versions"]]
        except NotFound:
            return []

    def serves(self, kind: Kind) -> bool:
        """Return whether the cluster serves this very resource in this very version."""
        try:
            resources = self.request("GET", f"/apis/{kind.group}/{kind.version}").get("resources") or []
        except NotFound:
            return False
        return any(resource["name"] == kind.plural for resource in resources)

    def version(self) -> str:
        """Return the API server's version, as ``v1.36.2``."""
        return str(self.request("GET", "/version")["gitVersion"])

    def exec(self, namespace: str, pod: str, container: str, argv: Sequence[str]) -> str:
        """Run a command that only reads in a container and return its standard output.

        Raises CommandFailed if it ends with another status than 0.
        """
        path = POD.path(namespace, pod, "exec")
        query = [("command", word) for word in argv]
        query += [("container", container), ("stdout", "true"), ("stderr", "true")]

        def attempt() -> str:
            headers: dict[str, str] = {}
            self._client.update_params_for_auth(headers, query, ["BearerToken"])
            url = ws_client.get_websocket_url(self.host + path, query)
            what = f"{' '.join(argv)} in pod {namespace}/{pod}"
            try:
                return _executed(self._client.configuration, url, headers, what)
            except websocket.WebSocketBadStatusException as error:
                if error.status_code in TRANSIENT_STATUSES or self._may_be_coming_back(error.status_code):
                    raise _Transient(f"exec was answered with {error.status_code}") from error
                raise _problem(error.status_code, "GET", path, error.resp_body or b"") from error
            except (websocket.WebSocketException, OSError) as error:
                raise _Transient(str(error) or type(error).__name__) from error

        return str(self._retried(attempt, f"GET {path}"))

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        before: Before | None = None,
    ) -> JsonObject:
        """Make one request by its path and return the document of its answer."""
        answer = self._request(method, path, query=query, body=body, headers=headers, before=before)
        return answer if isinstance(answer, dict) else {}

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        before: Before | None = None,
        answer: Literal["json", "text"] = "json",
    ) -> Any:
        def attempt() -> Any:
            if before is not None:
                before()
            sent = {"Accept": "application/json", **self._client.default_headers, **(headers or {})}
            self._client.update_params_for_auth(sent, None, ["BearerToken"])
            try:
                response = self._client.rest_client.request(
                    method,
                    self.host + path,
                    query_params=list(query),
                    headers=sent,
                    body=body,
                    _request_timeout=REQUEST_TIMEOUT_S,
                )
            except k8s.ApiException as error:
                if error.status in TRANSIENT_STATUSES or self._may_be_coming_back(error.status):
                    kind = _Away if error.status >= 500 else _Transient
                    raise kind(f"answer {error.status} {error.reason}") from error
                if error.status == 0:
                    _refuse_bad_certificate(str(error.reason), self.host)
                    raise _Away(_shorten(str(error.reason))) from error
                self._let_in = self._let_in or error.status not in (401, 403)
                raise _problem(error.status, method, path, error.body) from error
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise _Away(_shorten(str(error))) from error
            self._let_in = True
            self._learn_time(response.urllib3_response.headers.get("Date"))
            text = response.data.decode("utf-8", "replace")
            if answer == "text":
                return text
            try:
                return json.loads(text or "{}")
            except ValueError as error:
                # Somebody in between has answered, such as a login page; or the answer was cut off.
                raise _Transient(f"an answer that is not JSON: {_shorten(text, 80)}") from error

        return self._retried(attempt, f"{method} {path}")

    def _may_be_coming_back(self, status: int) -> bool:
        if status not in (401, 403):
            return False
        now = self.monotonic()
        if self._let_in:
            return now < self._outage_at + COMING_BACK_S
        if self._first_refusal_at is None:
            self._first_refusal_at = now
        fresh_s = min(FRESH_S, self._away_s)
        return now < max(self._outage_at + COMING_BACK_S, self._first_refusal_at + fresh_s)

    def _retried(self, attempt: Callable[[], Any], what: str) -> Any:
        def is_passing(failure: BaseException) -> bool:
            if isinstance(failure, _Away):
                self._outage_at = self.monotonic()
            return isinstance(failure, _Transient)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_passing),
            stop=tenacity.stop_after_delay(self._away_s),
            wait=tenacity.wait_exponential(multiplier=0.25, max=5),
            sleep=self.sleep,
            before_sleep=lambda state: log.warning(
                "Kubernetes API at %s, %s: %s; trying again",
                self.host,
                what,
                state.outcome.exception() if state.outcome else "",
            ),
            reraise=True,
        )
        try:
            return retrying(attempt)
        except _Transient as error:
            raise ApiUnreachable(
                f"the Kubernetes API at {self.host} gave no usable answer to {what} for {self._away_s:g} s "
                f"(last: {error})",
                0,
            ) from error

    def _learn_time(self, date: str | None) -> None:
        if date:
            # Whole seconds: the middle of that second is the best guess.
            with contextlib.suppress(ValueError):
                self._server_ahead_s = parsedate_to_datetime(date).timestamp() + 0.5 - self._clock()
                if abs(self._server_ahead_s) <= 1:
                    self._server_ahead_s = 0.0


class CommandFailed(BenchError):
    """A command inside a container ended with another status than 0."""


def _problem(status: int, method: str, path: str, body: bytes | str | None) -> ApiProblem:
    """Return the error for a refused request, with what the API server says about it."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else (body or "")
    try:
        document = json.loads(text)
        message = document["message"] if isinstance(document, dict) else text
    except (ValueError, KeyError):
        message = text
    message = _shorten(message) or "no message"
    where = f"{method} {path}"
    if status == 401:
        return ApiProblem(f"the Kubernetes API does not accept the credentials in use for {where}: {message}", 401)
    if status == 403:
        return Forbidden(message, _remedy(message))
    if status == 404:
        return NotFound(f"the Kubernetes API has no {path}: {message}", 404)
    if status == 409:
        return Conflict(f"{where} met another change: {message}", 409)
    return ApiProblem(f"the Kubernetes API refused {where} with {status}: {message}", status)


#: What the API server's admission says → what helps; of what it says the first that matches counts.
_REMEDIES = (
    # As RBAC words it; admission says no with the same status.
    ('" cannot ', "the rights that are needed are in include/manifests/rbac.yaml"),
    (
        "failed quota: .*must specify ",
        "that ResourceQuota wants what benchmark pods do not say (a CPU limit they must not have): take that out "
        "of it, or give it a scope that leaves them out",
    ),
    (
        "exceeded quota: ",
        "a ResourceQuota of the namespace has no room for a server and a client pod at a time, or for their "
        "Service: raise it, or remove it there",
    ),
    (
        'violates PodSecurity "',
        "the namespace needs the level privileged, for pods that look at their node: kubectl apply -f "
        "include/manifests/namespace.yaml",
    ),
    (
        "(usage|ratio) per (Container|Pod) is",
        "a LimitRange of the namespace does not let the benchmark's pods in (requests of 100m CPU and 128Mi, a "
        "limit of 512Mi): widen it, or remove it there",
    ),
    (
        "",
        "that is no missing right but an admission rule of the cluster: let the pods of include/manifests pass it",
    ),
)


def _remedy(message: str) -> str:
    return next(text for pattern, text in _REMEDIES if re.search(pattern, message))


def _executed(configuration: k8s.Configuration, url: str, headers: Mapping[str, str], what: str) -> str:
    """Return what a command printed; ``what`` names it. Raises CommandFailed, and what the websocket raises."""
    # The client offers no timeout for the handshake, only this process-wide default of its library.
    if websocket.getdefaulttimeout() is None:
        websocket.setdefaulttimeout(EXEC_TIMEOUT_S)
    # Not kubernetes.stream.stream(): it swaps the request method of the whole client while it runs, and the lease
    # is renewed on that client in another thread.
    session = ws_client.WSClient(configuration, url, headers, capture_all=True)
    try:
        session.run_forever(timeout=EXEC_TIMEOUT_S)
        if session.is_open():
            raise CommandFailed(f"{what} did not end within {EXEC_TIMEOUT_S:g} s")
        out, err = (
            session.read_channel(ws_client.STDOUT_CHANNEL),
            session.read_channel(ws_client.STDERR_CHANNEL),
        )
        status = session.read_channel(ws_client.ERROR_CHANNEL)
    finally:
        session.close()
        # After the server's own close, close() leaves the socket to the garbage collector.
        session.sock.shutdown()
    if not status:
        raise _Transient("exec ended without a status")
    outcome = yaml.safe_load(status)
    if outcome.get("status") != "Success":
        said = " ".join((err or outcome.get("message") or "no message").split())
        raise CommandFailed(f"{what} failed: {said}")
    return str(out)


def _refuse_bad_certificate(text: str, host: str) -> None:
    if "CERTIFICATE_VERIFY_FAILED" in text:
        raise ApiProblem(
            f"the certificate of the Kubernetes API at {host} is not the one that the kubeconfig allows: "
            f"{_shorten(text)}",
            0,
        ) from ssl.SSLCertVerificationError(text)


def _shorten(text: str, limit: int = 400) -> str:
    text = " ".join(str(text).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
