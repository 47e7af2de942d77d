"""What a restore works with: its hands, what it is told and says, and the Lease as it holds it.

Standard library only, no syntax newer than Python 3.9: the guardian mounts this file.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from bigtcp_bench.in_cluster import protocol
from bigtcp_bench.in_cluster.protocol import NAMESPACE, WINDOW, Json, annotate, annotations_of, micro_time

POLL_S = 0.5
_OF_NAMESPACE = f"/api/v1/namespaces/{NAMESPACE}"
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases"
LEASE = f"{LEASES}/{protocol.LEASE_NAME}"
CONFIGMAPS = f"{_OF_NAMESPACE}/configmaps"
STATE = f"{CONFIGMAPS}/{protocol.STATE_NAME}"
PODS = f"{_OF_NAMESPACE}/pods"
NODES = "/api/v1/nodes"

Check = Callable[[], object]


class Refused(Exception):
    """The API server said no; ``status`` is the HTTP status (0: no usable answer, and it may have been done)."""

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


class Lost(Exception):
    """Somebody else has the Lease now, so nothing may be changed any more."""


class NotRestored(Exception):
    """Something is not as it was; the text says what."""


class Hands(Protocol):
    """What a restore can do in a cluster. Paths are those of the API; every call may raise Refused."""

    #: Whether it may list nodes, and ask agents what they were told (the guardian may do neither).
    sees_all: bool

    def now(self) -> float:
        """Return the time by the API server's clock, in seconds since the epoch."""

    def monotonic(self) -> float:
        """Return seconds of a clock that never goes back."""

    def sleep(self, seconds: float) -> None:
        """Let time pass."""

    def get(self, path: str) -> Json | None:
        """Return the object at ``path``, or None if it does not exist."""

    def select(self, path: str, labels: str = "", fields: str = "") -> list[Json]:
        """Return the objects below ``path`` that match both selectors."""

    def change(self, method: str, path: str, body: Json, before: Check | None = None) -> Json:
        """POST, PUT or PATCH (a merge patch) and return the object as stored.

        A resource version in ``body`` makes it compare-and-set (409). ``before`` runs ahead of every attempt.
        """

    def delete(self, path: str, *, uid: str | None = None, before: Check | None = None, **options: Any) -> bool:
        """Delete an object; False if it was gone already. 409 if it is not the one with ``uid``."""

    def told(self, agent: Json) -> dict[str, str]:
        """Return key → value as this agent was told when it started, those of BIG TCP at least.

        Only if ``sees_all``.
        """

    def devices(self, node: str, pod: str) -> dict[str, dict[str, Any]]:
        """Return device → limit → bytes from the log of the probe ``pod`` that has ended on ``node``."""


@dataclasses.dataclass(frozen=True)
class Means:
    """What a restore needs that only the package outside of the cluster knows.

    ``traffic_pods`` and ``all_pods`` are label selectors of the benchmark's pods; ``probe_pod`` is the pod that
    looks at a node, complete but for the node.
    """

    traffic_pods: str
    all_pods: str
    probe_pod: Json
    agent_ready_s: float
    pod_start_s: float


@dataclasses.dataclass
class Report:
    """What a restore did and found; ``say`` is told every line at once.

    ``actions`` are the changes made, ``notes`` what the reader should know, ``nodes`` what each node has now.
    """

    say: Callable[[str], object]
    actions: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    nodes: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    waited_s: float = 0.0
    #: Why the limits of the devices were not read back; empty: they were.
    unread: str = ""

    def did(self, what: str) -> None:
        """Add a change."""
        self.actions.append(what)
        self.say(what)

    def note(self, text: str) -> None:
        """Add something to know, once."""
        if text not in self.notes:
            self.notes.append(text)
            self.say(text)


def poll(hands: Hands, timeout_s: float, interval_s: float = POLL_S) -> Iterator[float]:
    """Yield the seconds passed, every ``interval_s``, until ``timeout_s`` is over (at least once)."""
    start = hands.monotonic()
    while True:
        passed = hands.monotonic() - start
        yield passed
        if passed >= timeout_s:
            return
        hands.sleep(interval_s)


class Hold:
    """The Lease as a restore has it; ``take_over`` gets it."""

    def __init__(self, hands: Hands, holder: str, window: str) -> None:
        self.hands = hands
        self.holder = holder
        self.window = window
        self._renewed = hands.monotonic()

    @property
    def owner(self) -> str:
        """Return the run from which it was taken."""
        return self.holder.removeprefix(protocol.REVOKED)

    def check(self) -> Json:
        """Return the Lease if it is ours. Raises Lost."""
        lease = self.hands.get(LEASE)
        holder = ((lease or {}).get("spec") or {}).get("holderIdentity") or "nobody"
        if lease is None or (holder, annotations_of(lease).get(WINDOW)) != (self.holder, self.window):
            raise Lost(f"{holder} has taken the cluster over; this restore stops")
        if not protocol.is_live(lease, self.hands.now()):
            raise Lost("this restore has not renewed its hold on the cluster in time; it stops")
        return lease

    def update(self, change: Callable[[Json], object]) -> None:
        """Write the Lease with a new renewal time and ``change``, compare-and-set. Raises Lost."""
        for _ in poll(self.hands, 30, 0.1):
            body = self.check()
            body["spec"]["renewTime"] = micro_time(self.hands.now())
            change(body)
            try:
                self.hands.change("PUT", LEASE, body)
            except Refused as error:
                if error.status != 409:
                    raise
                continue
            self._renewed = self.hands.monotonic()
            return
        raise Lost("the Lease is being changed all the time by somebody else; this restore stops")

    def note(self, annotations: Mapping[str, str | None]) -> None:
        """Set annotations of the Lease; None removes one."""
        self.update(lambda body: annotate(body, annotations))

    def waiting(self, timeout_s: float, interval_s: float = POLL_S) -> Iterator[float]:
        """Poll, and renew the Lease meanwhile."""
        for passed in poll(self.hands, timeout_s, interval_s):
            self.renew_if_due()
            yield passed

    def renew_if_due(self) -> None:
        """Renew the Lease unless that was done a moment ago."""
        if self.hands.monotonic() - self._renewed >= protocol.RENEW_S:
            self.update(lambda body: None)

    def release(self) -> None:
        """Give the Lease back. Raises Lost.

        An attempt whose answer was lost may have done it: then the next one finds that nobody has it.
        """
        tried = []

        def give_back(body: Json) -> None:
            tried.append(body)
            protocol.give_back(body)

        try:
            self.update(give_back)
        except (Lost, Refused):
            if not tried or self._holder():
                raise

    def _holder(self) -> str:
        """Return who holds the Lease, if anybody."""
        return str(((self.hands.get(LEASE) or {}).get("spec") or {}).get("holderIdentity") or "")

    def expire(self) -> None:
        """Let the hold end at once but stay on record, so that the next one knows whose work to finish."""
        self.update(lambda body: body["spec"].update(leaseDurationSeconds=1))


def take_over(
    hands: Hands, seen: Json | None, owner: str, annotations: Mapping[str, str | None] | None = None
) -> Hold | None:
    """Take the Lease, in the version ``seen``, from ``owner``; None if somebody else was faster."""
    holder, window = protocol.REVOKED + owner, uuid.uuid4().hex[:12]
    body = protocol.take(seen, holder, window, hands.now(), protocol.RESTORE_LEASE_S, annotations)
    try:
        if seen is None:
            hands.change("POST", LEASES, body)
        else:
            hands.change("PUT", LEASE, body)
    except Refused as error:
        if error.status != 409:
            raise
        # Possibly with ourselves: an attempt whose answer was lost has taken it.
        if annotations_of(hands.get(LEASE)).get(WINDOW) != window:
            return None
    return Hold(hands, holder, window)


def forget_state(hands: Hands, before: Check) -> None:
    """Delete the saved state, if there is one: the window is over."""
    for _ in poll(hands, 30, 0.2):
        found = hands.get(STATE)
        if found is None:
            return
        meta = found["metadata"]
        try:
            if protocol.FINALIZER in (meta.get("finalizers") or []):
                protocol.release_finalizer(found)
                # The uid, so that a restore which was overtaken cannot delete the state of the next window.
                kept = {key: meta[key] for key in ("uid", "resourceVersion", "finalizers")}
                hands.change("PATCH", STATE, {"metadata": kept}, before)
            hands.delete(STATE, uid=meta["uid"], before=before)
            return
        except Refused as error:
            if error.status == 404:
                return
            if error.status != 409:
                raise


def delete_pods(hands: Hands, hold: Hold, labels: str, report: Report) -> None:
    """Delete the benchmark's pods that have ``labels`` (a selector) and wait until they are gone."""
    names: dict[str, None] = {}
    for _ in hold.waiting(60):
        left = hands.select(PODS, labels)
        if not left:
            break
        for pod in left:
            meta = pod["metadata"]
            names[meta["name"]] = None
            if not meta.get("deletionTimestamp"):
                path = f"{PODS}/{meta['name']}"
                hands.delete(path, uid=meta["uid"], before=hold.check, gracePeriodSeconds=1)
    else:
        # Pods on a node that is away stop nobody from putting the configuration back.
        report.note(f"benchmark pods are still there 60 s after they were deleted: {', '.join(names)}")
        return
    if names:
        report.did(f"deleted benchmark pods {', '.join(names)}")
