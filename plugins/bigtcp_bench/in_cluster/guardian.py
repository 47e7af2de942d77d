"""Put the cluster back when nobody else does: what the guardian's CronJob runs in the cluster under test.

Run as ``python3 guardian.py orders.json``, with the token of its own service account. It is mounted into any
image with python3, so it uses the standard library only and no syntax newer than Python 3.9. What things are
called it is told in its orders, which the guard writes beside this file.

It follows the protocol of ``cluster/guard.py``: it does nothing while the Lease is alive; else it takes the Lease
away from the run, undoes, restarts agents, reads the devices back, and only then deletes the saved state. It may
not run commands in the agents' pods. In place of what an agent has been told it therefore goes by when the agent
was created, and by the limits of the devices. Whatever it does, it says in one line.

It ends with 0 when there was nothing to do or everything is verified, and with 1 when something is not as it was;
then the saved state stays, for its own next round and for everybody else who can restore.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import http.client
import json
import os
import signal
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn, TypeVar

Json = dict[str, Any]
Family = TypeVar("Family", bound=str)

#: Where a pod finds the credentials of its service account.
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
#: As in ``cluster/api.py``: a request that is on its way cannot be fenced, so it must not be so for long.
REQUEST_TIMEOUT_S = 10.0
#: Answers that say "not now".
TRANSIENT_STATUSES = (429, 500, 502, 503, 504)
POLL_S = 0.5


@dataclasses.dataclass(frozen=True)
class Orders:
    """What the guard and the benchmark's pods call things, and how long things may take.

    ``keys`` is IP family → configuration key, ``traffic_pods`` and ``all_pods`` are label selectors; ``probe_pod``
    is the pod that looks at a node, complete but for the node.
    """

    namespace: str
    name: str
    lease_name: str
    state_name: str
    state_key: str
    state_version: int
    node_config_name: str
    config_map_name: str
    window: str
    holder: str
    in_flight: str
    restored: str
    undone: str
    arm: str
    prior: str
    restarted: str
    revoked: str
    keys: dict[str, str]
    agent_labels: str
    traffic_pods: str
    all_pods: str
    marker: str
    classic_max_packet_bytes: int
    probe_pod: Json
    lease_s: float
    renew_s: float
    settle_s: float
    agent_ready_s: float
    pod_start_s: float
    #: Requests are repeated for so long while the API server is away.
    away_s: float
    #: An agent whose devices' limits are wrong although it is new is restarted again when it is so old.
    restart_again_s: float


def say(text: str) -> None:
    """Print one line for people."""
    print(" ".join(text.split()), flush=True)


# --- The API ---------------------------------------------------------------------------------------------------


class Refused(Exception):
    """The API server said no; ``status`` is the HTTP status (0: it gave no usable answer)."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


class Lost(Exception):
    """Somebody else has the Lease now, so nothing may be changed any more."""


class Api:
    """The Kubernetes API for the account of this pod, as plain dictionaries."""

    clock: Callable[[], float] = staticmethod(time.time)
    monotonic: Callable[[], float] = staticmethod(time.monotonic)
    sleep: Callable[[float], None] = staticmethod(time.sleep)

    def __init__(self, away_s: float) -> None:
        self.away_s = away_s
        self._server_ahead_s = 0.0

    def now(self) -> float:
        """Return the time by the API server's clock, in seconds since the epoch."""
        return self.clock() + self._server_ahead_s

    def poll(self, timeout_s: float, interval_s: float = POLL_S) -> Iterator[float]:
        """Yield the seconds passed, every ``interval_s``, until ``timeout_s`` is over (at least once)."""
        start = self.monotonic()
        while True:
            passed = self.monotonic() - start
            yield passed
            if passed >= timeout_s:
                return
            self.sleep(interval_s)

    def get(self, path: str) -> Json | None:
        """Return the object at ``path``, or None if it does not exist."""
        try:
            return self.request("GET", path)
        except Refused as error:
            if error.status == 404:
                return None
            raise

    def select(self, path: str, labels: str = "", fields: str = "") -> list[Json]:
        """Return the objects below ``path`` that match both selectors."""
        given = {"labelSelector": labels, "fieldSelector": fields}
        query = urllib.parse.urlencode({key: value for key, value in given.items() if value})
        return self.request("GET", f"{path}?{query}").get("items") or []

    def delete(
        self,
        path: str,
        *,
        uid: str | None = None,
        before: Callable[[], object] | None = None,
        **options: Any,
    ) -> bool:
        """Delete an object; False if it was gone already. Raises Refused if it is not the one with ``uid``."""
        body: Json = {"apiVersion": "v1", "kind": "DeleteOptions", **options}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        try:
            self.request("DELETE", path, body, before=before)
        except Refused as error:
            if error.status == 404:
                return False
            raise
        return True

    def request(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        patch: bool = False,
        text: bool = False,
        before: Callable[[], object] | None = None,
    ) -> Any:
        """Make one request and return the document, or the text, of its answer.

        Repeats it for up to ``away_s`` seconds while the server is away; ``before`` runs ahead of every attempt.
        Raises Refused.
        """
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if patch:
            headers["Content-Type"] = "application/merge-patch+json"
        data = json.dumps(body).encode() if body is not None else None
        last = ""
        for _ in self.poll(self.away_s, 1.0):
            if before is not None:
                before()
            try:
                status, date, answer = self.send(method, path, headers, data)
            except ssl.SSLCertVerificationError as error:
                raise Refused(f"the API server's certificate is not the cluster's: {error}", 0) from error
            except (OSError, http.client.HTTPException) as error:
                last = str(error) or type(error).__name__
                continue
            self._learn_time(date)
            if status in TRANSIENT_STATUSES:
                last = f"answer {status}"
                continue
            if status >= 400:
                raise Refused(f"{method} {path} was refused with {status}: {_message(answer)}", status)
            return answer if text else json.loads(answer or "{}")
        raise Refused(f"{method} {path} had no usable answer for {self.away_s:g} s (last: {last})", 0)

    def send(self, method: str, path: str, headers: Mapping[str, str], data: bytes | None) -> tuple[int, str, str]:
        """Send one request and return status, date and text of the answer. Raises OSError if there is none."""
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
        host = f"[{host}]" if ":" in host else host
        # Read anew for every request: the kubelet renews the token.
        with open(f"{ACCOUNT}/token", encoding="ascii") as file:
            authorization = f"Bearer {file.read().strip()}"
        request = urllib.request.Request(
            f"https://{host}:{port}{path}", data, {**headers, "Authorization": authorization}, method=method
        )
        trusted = ssl.create_default_context(cafile=f"{ACCOUNT}/ca.crt")
        # No proxy: a variable of the image must not lead the token out of the cluster.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted)
        )
        try:
            with opener.open(request, timeout=REQUEST_TIMEOUT_S) as answer:
                return answer.status, answer.headers.get("Date", ""), answer.read().decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers.get("Date", ""), error.read().decode("utf-8", "replace")
        except urllib.error.URLError as error:
            if isinstance(error.reason, OSError):
                raise error.reason from error
            raise

    def _learn_time(self, date: str) -> None:
        try:
            # Whole seconds: the middle of that second is the best guess.
            self._server_ahead_s = parsedate_to_datetime(date).timestamp() + 0.5 - self.clock()
        except (TypeError, ValueError):
            return


def _message(answer: str) -> str:
    try:
        return str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        return " ".join(answer.split())[:300] or "no message"


# --- What the guard does too -----------------------------------------------------------------------------------


def merged_settings(
    keys: Mapping[Family, str], data: Mapping[str, str], configs: list[Json], labels: Mapping[str, str]
) -> dict[Family, bool]:
    """Return family → what an agent started now would be told, by Cilium's own rules.

    ``data`` is that of ``cilium-config``; over it go the CiliumNodeConfigs that select a node with ``labels``, in
    the order of their names. ``keys`` is family → configuration key.
    """
    values = {key: data.get(key) for key in keys.values()}
    for config in sorted(configs, key=lambda item: str(item["metadata"]["name"])):
        spec = config.get("spec") or {}
        if selects(spec.get("nodeSelector"), labels):
            defaults = spec.get("defaults") or {}
            values.update({key: defaults[key] for key in values if key in defaults})
    return {family: (values[key] or "").strip().lower() == "true" for family, key in keys.items()}


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Return whether a LabelSelector selects ``labels``; an absent selector selects nothing, an empty one all."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for expression in selector.get("matchExpressions") or []:
        key, operator, values = expression["key"], expression["operator"], expression.get("values") or []
        matched = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[operator]
        if not matched:
            return False
    return True


# --- The guardian ----------------------------------------------------------------------------------------------


class Guardian:
    """One round of the guardian."""

    def __init__(self, api: Api, orders: Orders) -> None:
        self.api = api
        self.orders = orders
        namespace = f"namespaces/{orders.namespace}"
        self._leases = f"/apis/coordination.k8s.io/v1/{namespace}/leases"
        self._lease = f"{self._leases}/{orders.lease_name}"
        self._state = f"/api/v1/{namespace}/configmaps/{orders.state_name}"
        self._pods = f"/api/v1/{namespace}/pods"
        self._own_job = f"/apis/batch/v1/{namespace}/cronjobs/{orders.name}"
        self._own_files = f"/api/v1/{namespace}/configmaps/{orders.name}"
        self._me = ""
        self._window = ""
        self._renewed = 0.0
        self._restarted: set[str] = set()
        self._changed = False
        #: Whether a request of the run may be still on its way, even after the time that it was waited for.
        self._in_flight = False
        self._problems: list[str] = []

    def run(self) -> int:
        """Restore if the run that had the cluster is gone; return the exit status."""
        if self._is_held(self.api.get(self._lease)):
            return 0
        # In this order: a run that begins meanwhile changes the Lease, and has a guardian with other uids.
        own = {path: self.api.get(path) for path in (self._own_job, self._own_files)}
        lease = self.api.get(self._lease)
        saved = self.api.get(self._state)
        if self._is_held(lease):
            return 0
        if saved is None:
            say("there is no saved state, so there is nothing to restore; the guardian is no longer needed")
            self._tidy(lease, own)
            return 0
        state = self._read(saved)
        if state is None:
            return 1
        owner = state["holder"]
        if not self._acquire(lease, owner):
            say("somebody else took the cluster at the same moment; nothing to do")
            return 0
        say(f"{owner} is gone and has left its changes; restoring what was saved at {state['saved_at']}")
        try:
            self._settle(lease)
            self._restore(state)
            self.api.delete(self._state, uid=saved["metadata"]["uid"], before=self._check)
        except Lost as reason:
            say(str(reason))
            return 1
        except (Refused, _NotRestored) as error:
            if self._expire():
                say(f"NOT RESTORED, the saved state stays: {error}")
            return 1
        except BaseException:
            self._expire()
            raise
        say(f"restored what {owner} had changed, and verified it")
        try:
            self._retire(own, before=self._check)
            self._release(owner)
        except (Lost, Refused) as reason:
            say(f"the hold on the cluster ends by itself: {reason}")
        return 0

    def _tidy(self, lease: Json | None, own: Mapping[str, Json | None]) -> None:
        """Delete itself, and the pods of a run that died before it had saved, and so changed, anything."""
        owner = (_spec(lease).get("holderIdentity") or "").removeprefix(self.orders.revoked)
        if not owner:
            self._retire(own)
            return
        if not self._acquire(lease, owner):
            say("somebody else took the cluster at the same moment; nothing to do")
            return
        try:
            self._delete_pods(self.orders.all_pods)
            self._retire(own, before=self._check)
            self._release()
        except (Lost, Refused) as error:
            say(f"pods of {owner} may be left, and the hold on the cluster ends by itself: {error}")

    def _read(self, saved: Json) -> Json | None:
        """Return the saved state, or None, and say why, if this guardian cannot go by it."""
        try:
            state: Json = json.loads((saved.get("data") or {})[self.orders.state_key])
            version = state["version"]
        except (ValueError, KeyError, TypeError) as error:
            say(f"the saved state cannot be read ({error!r}); the cluster must be put back by hand")
            return None
        if version != self.orders.state_version:
            say(f"the saved state has version {version}, which this guardian does not know")
            return None
        return state

    # The Lease

    def _is_held(self, lease: Json | None) -> bool:
        """Return whether a run or a restore is alive, and say so."""
        if lease is None or not self._is_live(lease):
            return False
        age = self.api.now() - _epoch(_spec(lease).get("renewTime"))
        holder = _spec(lease)["holderIdentity"]
        say(f"{holder} holds the cluster and renewed its hold {age:.0f} s ago; nothing to do")
        return True

    def _is_live(self, lease: Json) -> bool:
        spec = _spec(lease)
        until = _epoch(spec.get("renewTime")) + float(spec.get("leaseDurationSeconds") or 0)
        return bool(spec.get("holderIdentity")) and self.api.now() < until

    def _acquire(self, seen: Json | None, owner: str) -> bool:
        """Take the Lease in the version ``seen``; return False if somebody else was faster."""
        names = self.orders
        self._me, self._window = names.revoked + owner, uuid.uuid4().hex[:12]
        metadata = {"name": names.lease_name, "namespace": names.namespace}
        kind = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
        body: Json = copy.deepcopy(seen) if seen is not None else {**kind, "metadata": metadata, "spec": {}}
        now = _micro_time(self.api.now())
        body["spec"].update(
            holderIdentity=self._me,
            leaseDurationSeconds=round(names.lease_s),
            acquireTime=now,
            renewTime=now,
            leaseTransitions=int(body["spec"].get("leaseTransitions") or 0) + 1,
        )
        # What is in flight stays on record: whoever follows on this guardian has to wait for it, too.
        _annotate(body, {names.window: self._window})
        self._renewed = self.api.monotonic()
        try:
            if seen is None:
                self.api.request("POST", self._leases, body)
            else:
                self.api.request("PUT", self._lease, body)
        except Refused as error:
            if error.status != 409:
                raise
            # Possibly with ourselves: an attempt whose answer was lost has taken it.
            taken = self.api.get(self._lease)
            return taken is not None and _annotations(taken).get(names.window) == self._window
        return True

    def _check(self) -> Json:
        """Return the Lease if it is ours. Raises Lost."""
        lease = self.api.get(self._lease)
        holder = _spec(lease).get("holderIdentity") or "nobody"
        if lease is None or (holder, _annotations(lease).get(self.orders.window)) != (self._me, self._window):
            raise Lost(f"{holder} has taken the cluster over; this guardian stops")
        if not self._is_live(lease):
            raise Lost("this guardian has not renewed its hold on the cluster in time; it stops")
        return lease

    def _update(self, change: Callable[[Json], None]) -> None:
        """Write the Lease with a new renewal time and ``change``, compare-and-set. Raises Lost."""
        for _ in self.api.poll(30, 0.1):
            body = self._check()
            body["spec"]["renewTime"] = _micro_time(self.api.now())
            change(body)
            try:
                self.api.request("PUT", self._lease, body)
            except Refused as error:
                if error.status != 409:
                    raise
                continue
            self._renewed = self.api.monotonic()
            return
        raise Lost("the Lease is being changed all the time by somebody else; this guardian stops")

    def _waiting(self, timeout_s: float) -> Iterator[float]:
        """Poll, and renew the Lease meanwhile."""
        for passed in self.api.poll(timeout_s):
            if self.api.monotonic() - self._renewed >= self.orders.renew_s:
                self._update(lambda body: None)
            yield passed

    def _mark(self, what: str | None) -> None:
        """Say on the Lease that a change is on its way, or that none is, for whoever takes over."""
        text = f"{what} since {_micro_time(self.api.now())}" if what else None
        self._update(lambda body: _annotate(body, {self.orders.in_flight: text}))

    def _release(self, restored: str = "") -> None:
        """Give the Lease back, with a note for the run that was ``restored``, should it ever ask."""
        names = self.orders

        def give_back(body: Json) -> None:
            body["spec"]["holderIdentity"] = ""
            _annotate(body, dict.fromkeys((names.window, names.in_flight, names.undone)))
            if restored:
                note = f"{restored} by the guardian at {_micro_time(self.api.now())}"
                _annotate(body, {names.restored: note})

        self._update(give_back)

    def _expire(self) -> bool:
        """Let the hold end at once but stay on record; return whether it was still ours to the end."""

        def end(body: Json) -> None:
            body["spec"]["leaseDurationSeconds"] = 1

        try:
            self._update(end)
        except Lost as reason:
            say(str(reason))
            return False
        except Refused as error:
            say(f"the hold on the cluster ends by itself: {error}")
        return True

    def _retire(self, own: Mapping[str, Json | None], before: Callable[[], object] | None = None) -> None:
        """Remove the guardian's ``own`` CronJob and ConfigMap, but not the running Job: its log is the report."""
        try:
            for path, found in own.items():
                if found is not None and not found["metadata"].get("deletionTimestamp"):
                    jobs = {"propagationPolicy": "Orphan"} if path == self._own_job else {}
                    self.api.delete(path, uid=found["metadata"]["uid"], before=before, **jobs)
            # The CronJob stays until its Jobs are cut loose; one that ended earlier would be deleted with its log.
            for _ in self.api.poll(30):
                if not ((self.api.get(self._own_job) or {}).get("metadata") or {}).get("deletionTimestamp"):
                    return
        except Refused as error:
            say(f"the guardian's CronJob {self.orders.name} may be still there: {error}")

    # The restore

    def _settle(self, lease: Json | None) -> None:
        in_flight = _annotations(lease).get(self.orders.in_flight)
        if in_flight:
            self._in_flight = True
            say(f"a change was in flight ({in_flight}); waiting {self.orders.settle_s:g} s for its end")
            self.api.sleep(self.orders.settle_s)

    def _restore(self, state: Json) -> None:
        """Undo, restart what must be, read everything back. Raises _NotRestored."""
        self._delete_pods(self.orders.traffic_pods)
        for node in state["nodes"]:
            self._remove_label(node)
        node_configs = self._node_configs(state)
        if node_configs is not None:
            self._undo_node_config(node_configs, state)
        if state["scope"] == "cluster":
            self._undo_config_map(state)
        if self._problems:
            # Agents that are restarted now would come back as they are.
            raise _NotRestored("; ".join(self._problems))
        undone_at = self._note_undone(state)
        if state["scope"] == "cluster":
            self._undo_rollout(state)
        if self._in_flight:
            # It was waited for, and fits nothing any more.
            self._mark(None)
        nodes = [node for node in state["nodes"] if self._bring_back(node, state, node_configs, undone_at)]
        self._verify_limits(nodes, state)
        self._delete_pods(self.orders.all_pods)
        if self._problems:
            raise _NotRestored("; ".join(self._problems))

    def _did(self, what: str) -> None:
        self._changed = True
        say(what)

    def _delete_pods(self, labels: str) -> None:
        names: dict[str, None] = {}
        for _ in self._waiting(60):
            left = self.api.select(self._pods, labels)
            if not left:
                break
            for pod in left:
                meta = pod["metadata"]
                names[meta["name"]] = None
                if not meta.get("deletionTimestamp"):
                    path = f"{self._pods}/{meta['name']}"
                    self.api.delete(path, uid=meta["uid"], before=self._check, gracePeriodSeconds=1)
        else:
            # Pods on a node that is away stop nobody from putting the configuration back.
            say(f"benchmark pods are still there 60 s after they were deleted: {', '.join(names)}")
            return
        if names:
            say(f"deleted benchmark pods {', '.join(names)}")

    def _remove_label(self, node: str) -> None:
        label = self.orders.window

        def attempt() -> None:
            found = self.api.get(f"/api/v1/nodes/{node}")
            if found is None:
                say(f"node {node} no longer exists")
            elif label in (found["metadata"].get("labels") or {}):
                version = found["metadata"]["resourceVersion"]
                body = {"metadata": {"resourceVersion": version, "labels": {label: None}}}
                self.api.request("PATCH", f"/api/v1/nodes/{node}", body, patch=True, before=self._check)
                self._did(f"removed label {label} from node {node}")

        self._until_written(attempt, f"the label {label} could not be removed from node {node}")

    def _until_written(self, attempt: Callable[[], object], problem: str) -> None:
        """Repeat ``attempt`` while somebody else changes the object; note ``problem`` if that does not end."""
        for _ in self._waiting(30):
            try:
                attempt()
                return
            except Refused as error:
                if error.status == 409:
                    continue
                if error.status == 0:
                    raise
                self._problems.append(f"{problem}: {error}")
                return
        self._problems.append(f"{problem}: it is being changed all the time")

    def _node_configs(self, state: Json) -> str | None:
        """Return the path of the CiliumNodeConfigs, or None if the cluster serves none."""
        for version in ("v2", "v2alpha1"):
            resources = (self.api.get(f"/apis/cilium.io/{version}") or {}).get("resources") or []
            if any(resource["name"] == "ciliumnodeconfigs" for resource in resources):
                return f"/apis/cilium.io/{version}/namespaces/{state['cilium_namespace']}/ciliumnodeconfigs"
        return None

    def _undo_node_config(self, path: str, state: Json) -> None:
        name, prior = self.orders.node_config_name, state["node_config"]

        def attempt() -> None:
            found = self.api.get(f"{path}/{name}")
            if (found and _as_saved(found)) == prior:
                if found is not None and self._in_flight:
                    self._age(f"{path}/{name}", found, patch=False)
                return
            if prior is None:
                assert found is not None
                if self.orders.window not in _annotations(found):
                    say(f"CiliumNodeConfig {name} is not the benchmark's; it stays")
                elif self.api.delete(f"{path}/{name}", uid=found["metadata"]["uid"], before=self._check):
                    self._did(f"deleted CiliumNodeConfig {name}")
                return
            version = "/".join(path.split("/")[2:4])
            body = found or {"apiVersion": version, "kind": "CiliumNodeConfig", "metadata": {"name": name}}
            body["metadata"].update(labels=prior["labels"], annotations=prior["annotations"])
            body["spec"] = prior["spec"]
            method, where = ("POST", path) if found is None else ("PUT", f"{path}/{name}")
            written = self.api.request(method, where, body, before=self._check)
            self._did(f"put back CiliumNodeConfig {name}")
            if _as_saved(written) != prior:
                self._problems.append(f"the CiliumNodeConfig {name} differs from the one saved")

        self._until_written(attempt, f"the CiliumNodeConfig {name} could not be put back")

    def _age(self, path: str, found: Json, *, patch: bool) -> None:
        """Give an object that is as it was another version, so that a late write of the run does not fit it."""
        for value in (self._window, None):
            body = found
            if patch:
                annotations = {self.orders.window: value}
                version = found["metadata"]["resourceVersion"]
                body = {"metadata": {"resourceVersion": version, "annotations": annotations}}
            else:
                _annotate(body, {self.orders.window: value})
            found = self.api.request("PATCH" if patch else "PUT", path, body, patch=patch, before=self._check)

    def _undo_config_map(self, state: Json) -> None:
        names = self.orders
        path = f"/api/v1/namespaces/{state['cilium_namespace']}/configmaps/{names.config_map_name}"

        def attempt() -> None:
            found = self.api.request("GET", path)
            arm = _annotations(found).get(names.arm)
            if arm is None:
                if self._in_flight:
                    self._age(path, found, patch=True)
                return
            data = found.get("data") or {}
            ours = all(data.get(key) == ("true" if arm == "on" else "false") for key in names.keys.values())
            body: Json = {
                "metadata": {
                    "resourceVersion": found["metadata"]["resourceVersion"],
                    "annotations": dict.fromkeys((names.arm, names.prior, names.window, names.holder)),
                }
            }
            if ours:
                body["data"] = state["config_map"]
            else:
                say(f"somebody else changed {names.config_map_name} during the run; their values stay")
            self.api.request("PATCH", path, body, patch=True, before=self._check)
            self._did(f"put back {' and '.join(names.keys.values())} in {names.config_map_name}")

        self._until_written(attempt, f"{names.config_map_name} could not be put back")

    def _undo_rollout(self, state: Json) -> None:
        """Remove our annotation from the pod template, which makes all agents restart with the old settings."""
        name, annotation = state["cilium_daemonset"], self.orders.restarted
        path = f"/apis/apps/v1/namespaces/{state['cilium_namespace']}/daemonsets/{name}"

        def attempt() -> None:
            found = self.api.request("GET", path)
            template = found["spec"]["template"]["metadata"]
            if annotation in (template.get("annotations") or {}):
                body = {
                    "metadata": {"resourceVersion": found["metadata"]["resourceVersion"]},
                    "spec": {"template": {"metadata": {"annotations": {annotation: None}}}},
                }
                self.api.request("PATCH", path, body, patch=True, before=self._check)
                self._did(f"restarted all agents of DaemonSet {name}")
            elif self._in_flight:
                self._age(path, found, patch=True)

        before = len(self._problems)
        self._until_written(attempt, f"the agents of DaemonSet {name} could not be restarted")
        if len(self._problems) == before:
            self._await_rollout(path)

    def _await_rollout(self, path: str) -> None:
        """Wait until every agent runs the present pod template and is available, as long as it makes progress."""
        seen: tuple[int, ...] = ()
        since = self.api.monotonic()
        for _ in self._waiting(float("inf")):
            found = self.api.request("GET", path)
            status = found.get("status") or {}
            numbers = tuple(
                int(status.get(name, 0))
                for name in ("desiredNumberScheduled", "updatedNumberScheduled", "numberAvailable")
            )
            current = status.get("observedGeneration", 0) >= found["metadata"]["generation"]
            if current and numbers[0] and len(set(numbers)) == 1:
                return
            if numbers != seen:
                seen, since = numbers, self.api.monotonic()
            if self.api.monotonic() - since >= self.orders.agent_ready_s:
                break
        self._problems.append(
            f"the rolling restart of the agents has stopped: {seen[1]} of {seen[0]} agents are updated, "
            f"{seen[2]} available"
        )

    def _note_undone(self, state: Json) -> float:
        """Return when the settings were undone, in this round or an earlier one, and note it on the Lease."""
        window, _, text = _annotations(self._check()).get(self.orders.undone, "").partition(" ")
        if window == state["window"] and not self._changed:
            return _epoch(text)
        now = self.api.now()
        note = f"{state['window']} {_micro_time(now)}"
        self._update(lambda body: _annotate(body, {self.orders.undone: note}))
        # Times of creation are whole seconds: whatever is created from here on must have a later one.
        self.api.sleep(1.5)
        return now

    def _bring_back(self, node: str, state: Json, node_configs: str | None, undone_at: float) -> bool:
        """Restart a node's agent unless it has the settings it should; return whether its limits can be compared.

        They cannot where somebody else has changed the settings since they were saved; that stays.
        """
        saved = state["nodes"][node]
        found = self.api.get(f"/api/v1/nodes/{node}")
        if found is None:
            return False
        try:
            expected = self._expected(found, state, node_configs)
            changed = {family: on for family, on in expected.items() if on != saved["expected"][family]}
            if changed:
                say(f"somebody else changed the configuration of node {node}: {changed}")
            kept = {**saved["merged"], **changed}
            # A new agent has what the configuration says, whatever the one before it had.
            wanted = expected
            agent = self._agent(node, state)
            if agent is not None:
                untouched = agent["metadata"]["uid"] == saved["agent_uid"]
                if untouched and kept == saved["merged"]:
                    wanted = kept
                elif untouched or _epoch(agent["metadata"]["creationTimestamp"]) <= undone_at:
                    self._restart(node, agent, state)
            if wanted != kept:
                say(f"node {node} had BIG TCP {saved['merged']} before the run, unlike its configuration")
            self._await_agent(node, state)
        except (Refused, _NotRestored) as error:
            self._problems.append(str(error))
            return False
        return bool(wanted == saved["merged"])

    def _expected(self, node: Json, state: Json, node_configs: str | None) -> dict[str, bool]:
        path = f"/api/v1/namespaces/{state['cilium_namespace']}/configmaps/{self.orders.config_map_name}"
        data = self.api.request("GET", path).get("data") or {}
        configs = self.api.select(node_configs) if node_configs is not None else []
        return merged_settings(self.orders.keys, data, configs, node["metadata"].get("labels") or {})

    def _agent(self, node: str, state: Json) -> Json | None:
        """Return the agent pod of a node that is not being deleted, or None."""
        path = f"/api/v1/namespaces/{state['cilium_namespace']}/pods"
        pods = self.api.select(path, self.orders.agent_labels, f"spec.nodeName={node}")
        alive = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
        return max(alive, key=lambda pod: str(pod["metadata"]["creationTimestamp"])) if alive else None

    def _restart(self, node: str, agent: Json, state: Json) -> None:
        meta = agent["metadata"]
        path = f"/api/v1/namespaces/{state['cilium_namespace']}/pods/{meta['name']}"
        self._mark(f"restart the Cilium agent on node {node}")
        self.api.delete(path, uid=meta["uid"], before=self._check)
        self._mark(None)
        self._restarted.add(node)
        self._await_agent(node, state, other_than=meta["uid"])
        self._did(f"restarted the Cilium agent on node {node}")

    def _await_agent(self, node: str, state: Json, other_than: str | None = None) -> None:
        """Wait until the agent of a node is Ready. Raises _NotRestored."""
        seen = "there is none"
        for _ in self._waiting(self.orders.agent_ready_s):
            pod = self._agent(node, state)
            if pod is None or pod["metadata"]["uid"] == other_than:
                continue
            conditions = (pod.get("status") or {}).get("conditions") or []
            if any(item["type"] == "Ready" and item["status"] == "True" for item in conditions):
                return
            seen = f"pod {pod['metadata']['name']} is {(pod.get('status') or {}).get('phase', 'Pending')}"
        raise _NotRestored(
            f"the Cilium agent on node {node} was not Ready within {self.orders.agent_ready_s:g} s: {seen}"
        )

    # Reading back

    def _verify_limits(self, nodes: list[str], state: Json) -> None:
        """Compare the devices' limits with the saved ones; an agent whose devices differ gets one restart."""
        differing = self._differing(nodes, state)
        again = [node for node in differing if self._may_restart(node, state)]
        for node in again:
            agent = self._agent(node, state)
            try:
                if agent is not None:
                    self._restart(node, agent, state)
            except (Refused, _NotRestored) as error:
                self._problems.append(str(error))
        if again:
            others = {node: texts for node, texts in differing.items() if node not in again}
            differing = {**others, **self._differing(again, state)}
        for texts in differing.values():
            self._problems += texts

    def _may_restart(self, node: str, state: Json) -> bool:
        agent = self._agent(node, state)
        if agent is None or node in self._restarted:
            return False
        age_s = self.api.now() - _epoch(agent["metadata"]["creationTimestamp"])
        untouched = agent["metadata"]["uid"] == state["nodes"][node]["agent_uid"]
        return bool(untouched or age_s >= self.orders.restart_again_s)

    def _differing(self, nodes: list[str], state: Json) -> dict[str, list[str]]:
        """Return node → what its devices' limits differ in, for those nodes where they do."""
        result: dict[str, list[str]] = {}
        for node in nodes:
            try:
                devices = self._probe(node)
            except (Refused, _NotRestored) as error:
                self._problems.append(f"the devices of node {node} could not be read back: {error}")
                continue
            texts = self._compare(node, state["nodes"][node], devices)
            if texts:
                result[node] = texts
            else:
                say(f"node {node}: the device limits are those saved")
        return result

    def _compare(self, node: str, saved: Json, devices: Json) -> list[str]:
        texts = []
        for device, before in saved["limits"].items():
            if device not in devices:
                say(f"device {device} of node {node} no longer exists")
                continue
            for limit, value in before.items():
                now = devices[device].get(limit)
                if now == value:
                    continue
                text = f"node {node}: device {device} has {limit} {now}, it was {value}"
                if not any(saved["merged"].values()) and now == self.orders.classic_max_packet_bytes:
                    # Cilium's own "off" is 65536, whatever somebody had set by hand before.
                    say(f"{text}; Cilium puts back {now} only")
                else:
                    texts.append(text)
        return texts

    def _probe(self, node: str) -> Json:
        """Return device name → what the kernel of ``node`` says of it, from a short-lived pod there."""
        pod = copy.deepcopy(self.orders.probe_pod)
        required = "requiredDuringSchedulingIgnoredDuringExecution"
        here = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
        pod["spec"]["affinity"]["nodeAffinity"][required]["nodeSelectorTerms"] = [here]
        path = f"{self._pods}/{self.api.request('POST', self._pods, pod)['metadata']['name']}"
        try:
            status: Json = {}
            phase = "Pending"
            for _ in self._waiting(self.orders.pod_start_s):
                found = self.api.get(path)
                if found is None:
                    raise _NotRestored("the probe pod was deleted while it was waited for")
                status = found.get("status") or {}
                phase = status.get("phase", "Pending")
                if phase in ("Succeeded", "Failed"):
                    break
            if phase != "Succeeded":
                why = "".join(f": {status[name]}" for name in ("reason", "message") if status.get(name))
                raise _NotRestored(f"the probe pod is {phase} after up to {self.orders.pod_start_s:g} s{why}")
            return self._devices_in(self.api.request("GET", f"{path}/log", text=True))
        finally:
            self.api.delete(path, gracePeriodSeconds=1)

    def _devices_in(self, log: str) -> Json:
        for line in log.splitlines():
            _, marker, text = line.partition(self.orders.marker)
            if not marker:
                continue
            try:
                frame = json.loads(text)
                if frame["kind"] == "probe":
                    document = json.loads(zlib.decompress(base64.b64decode(frame["doc"])))
                    devices: Json = document["snapshot"]["devices"]
                    return devices
            except (ValueError, KeyError, TypeError, zlib.error) as error:
                raise _NotRestored(f"the probe pod printed something else than a probe: {error!r}") from error
        raise _NotRestored("the probe pod printed no probe")


class _NotRestored(Exception):
    """Something is not as it was; the text says what."""


def _spec(obj: Json | None) -> Json:
    return (obj or {}).get("spec") or {}


def _annotations(obj: Json | None) -> dict[str, str]:
    return ((obj or {}).get("metadata") or {}).get("annotations") or {}


def _annotate(body: Json, changes: Mapping[str, str | None]) -> None:
    annotations = {**_annotations(body), **changes}
    body["metadata"]["annotations"] = {key: value for key, value in annotations.items() if value is not None}


def _as_saved(found: Json) -> Json:
    meta = found["metadata"]
    return {
        "labels": meta.get("labels") or {},
        "annotations": meta.get("annotations") or {},
        "spec": found.get("spec") or {},
    }


def _micro_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # noqa: UP017


def _epoch(text: str | None) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() if text else 0.0


# --- Start -----------------------------------------------------------------------------------------------------


def _stop(number: int, _frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # one is enough: the second must not interrupt the giving back
    sys.exit(128 + number)


def main(arguments: list[str]) -> int:
    """Do one round by the orders in the file that is named; return the exit status."""
    signal.signal(signal.SIGTERM, _stop)
    with open(arguments[0], encoding="utf-8") as file:
        orders = Orders(**json.load(file))
    try:
        return Guardian(Api(orders.away_s), orders).run()
    except Refused as error:
        say(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
