"""Who may change the cluster: the Lease, and the fence that asks it before every change.

The Lease ``bigtcp-bench`` says who holds the cluster. A *window id* in an annotation tells one attempt of a run
from the next, so that a task that was given up cannot act for the attempt that follows.

A change is made inside ``Fence.mutating``: it marks the Lease first, by compare-and-set. Once the holder is
revoked no mark can be set any more, and a mark that is still there tells the restorer that one request may be on
its way; only then it has to wait.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from bigtcp_bench.cluster import pods
from bigtcp_bench.cluster.api import LEASE, ApiUnreachable, ClusterApi, Conflict, JsonObject, NotFound
from bigtcp_bench.cluster.protocol import IN_FLIGHT, LEASE_NAME, RENEW_S, RESTORED, REVOKED, UNDONE, WINDOW
from bigtcp_bench.errors import BenchError, FenceLost
from bigtcp_bench.resources import load_manifest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LeaseState:
    """The Lease as read; times are seconds since the epoch by the API server's clock."""

    holder: str
    window: str
    in_flight: str
    restored: str
    undone: str
    duration_s: float
    renewed_at: float
    raw: JsonObject

    def live(self, now: float) -> bool:
        """Return whether somebody holds it and has renewed it in time."""
        return bool(self.holder) and now < self.renewed_at + self.duration_s

    @property
    def owner(self) -> str:
        """Return the run that holds it, or that was revoked."""
        return self.holder.removeprefix(REVOKED)

    @property
    def being_restored(self) -> bool:
        """Return whether the holder is a restore."""
        return self.holder.startswith(REVOKED)


def read_lease(api: ClusterApi) -> LeaseState | None:
    """Return the Lease, or None if no run was ever made here."""
    raw = api.find(LEASE, LEASE_NAME, pods.BENCH_NAMESPACE)
    if raw is None:
        return None
    spec = raw.get("spec") or {}
    annotations = raw["metadata"].get("annotations") or {}
    return LeaseState(
        holder=spec.get("holderIdentity") or "",
        window=annotations.get(WINDOW, ""),
        in_flight=annotations.get(IN_FLIGHT, ""),
        restored=annotations.get(RESTORED, ""),
        undone=annotations.get(UNDONE, ""),
        duration_s=float(spec.get("leaseDurationSeconds") or 0),
        renewed_at=epoch(spec.get("renewTime")),
        raw=raw,
    )


def acquire(api: ClusterApi, seen: LeaseState | None, holder: str, duration_s: float) -> Fence | None:
    """Take the Lease in the version ``seen`` and return its fence, or None if somebody else was faster."""
    window = uuid.uuid4().hex[:12]
    body = seen.raw if seen is not None else load_manifest("lease.yaml")
    spec = body.setdefault("spec", {})
    now = micro_time(api.now())
    spec.update(
        holderIdentity=holder,
        leaseDurationSeconds=round(duration_s),
        acquireTime=now,
        renewTime=now,
        leaseTransitions=int(spec.get("leaseTransitions") or 0) + 1,
    )
    annotate(body, {WINDOW: window})
    if not holder.startswith(REVOKED):
        # All of these concern the windows before this one. A restore still has to wait for what is in flight.
        annotate(body, {IN_FLIGHT: None, RESTORED: None, UNDONE: None})
    try:
        if seen is None:
            api.create(LEASE, body, pods.BENCH_NAMESPACE)
        else:
            api.replace(LEASE, body, pods.BENCH_NAMESPACE)
    except Conflict:
        # Possibly with ourselves: an attempt whose answer was lost has taken it.
        taken = read_lease(api)
        if taken is None or taken.window != window:
            return None
    return Fence(api, holder, window=window)


class Fence:
    """The right of one run to change the cluster, asked anew before every change.

    The window id is fixed by the first look at the Lease, so a fence never serves a later window, not even one of
    the same run.
    """

    def __init__(self, api: ClusterApi, holder: str, *, window: str | None = None) -> None:
        self.api = api
        self.holder = holder
        self._window = window
        self._lock = threading.Lock()

    @property
    def window(self) -> str:
        """Return the window id. Raises FenceLost if this run has no open window."""
        if self._window is None:
            self.check()
        assert self._window is not None
        return self._window

    def check(self) -> LeaseState:
        """Return the Lease if it is ours. Raises FenceLost, saying who has it, if it is not."""
        lease = read_lease(self.api)
        if lease is None or lease.holder != self.holder:
            raise FenceLost(self._lost(lease))
        now = self.api.now()
        if not lease.live(now):
            raise FenceLost(
                f"{self.holder} has not renewed its hold on the cluster for {now - lease.renewed_at:.0f} s "
                f"(it lasts {lease.duration_s:.0f} s), so it may change nothing any more; start a new run"
            )
        if self._window is None:
            self._window = lease.window
        if lease.window != self._window:
            raise FenceLost(
                f"{self.holder} was started again and holds the cluster in a new window; this older attempt may "
                "change nothing any more"
            )
        return lease

    def _lost(self, lease: LeaseState | None) -> str:
        if lease is None or not lease.holder:
            state = "nobody does: its window was closed, or never opened"
        elif lease.being_restored and lease.owner == self.holder:
            state = "its hold was revoked and its changes are being undone"
        else:
            state = f"{lease.owner} does"
        return (
            f"{self.holder} does not hold the cluster, so it may change nothing; {state}. "
            "Start the run again from its first task"
        )

    def renew(self) -> None:
        """Hold the cluster for another lease duration. Raises FenceLost."""
        self.update(lambda body: None)

    @contextlib.contextmanager
    def renewing(self, interval_s: float = RENEW_S) -> Iterator[Fence]:
        """Renew now and in the background until the end of the ``with`` block.

        The thread only renews. That the fence was lost is noticed at the next check, before the next change.
        """
        self.renew()
        stop = threading.Event()

        def loop() -> None:
            while not stop.wait(interval_s):
                try:
                    self.renew()
                except FenceLost as error:
                    log.warning("%s", error)
                    return
                except BenchError as error:
                    log.warning("lease not renewed, trying again in %g s: %s", interval_s, error)

        thread = threading.Thread(target=loop, name="bigtcp-bench-renewer", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join(timeout=1)

    @contextlib.contextmanager
    def mutating(self, what: str) -> Iterator[None]:
        """Mark the Lease with ``what`` for as long as one change of the cluster is under way. Raises FenceLost.

        The mark stays if the process dies, or if nobody knows whether the request took effect: after a time-out of
        the task, which is no Exception, it may be still on its way.
        """
        self.update(lambda body: annotate(body, {IN_FLIGHT: f"{what} since {micro_time(self.api.now())}"}))
        try:
            yield
        except ApiUnreachable:
            raise
        except Exception:
            with contextlib.suppress(BenchError):
                self.clear_mark()
            raise
        # If the right was lost meanwhile, the caller must learn it: what it just did is about to be undone.
        self.clear_mark()

    def clear_mark(self) -> None:
        """Take the mark of a change off the Lease. Raises FenceLost."""
        self.update(lambda body: annotate(body, {IN_FLIGHT: None}))

    def release(self) -> None:
        """Give the Lease back; nothing happens if it is not ours any more."""

        def give_back(body: JsonObject) -> None:
            body["spec"]["holderIdentity"] = ""
            annotate(body, {WINDOW: None, IN_FLIGHT: None, UNDONE: None})

        with contextlib.suppress(FenceLost):
            self.update(give_back)

    def expire(self) -> None:
        """Let the hold end at once but stay on record, so that the next one knows whose work to finish."""

        def end(body: JsonObject) -> None:
            body["spec"]["leaseDurationSeconds"] = 1

        with contextlib.suppress(FenceLost):
            self.update(end)

    def update(self, change: Callable[[JsonObject], None]) -> None:
        """Write the Lease with a new renewal time and ``change``, compare-and-set, while it is ours."""
        with self._lock:
            for _ in self.api.poll(30, 0.1):
                body = self.check().raw
                body["spec"]["renewTime"] = micro_time(self.api.now())
                change(body)
                try:
                    self.api.replace(LEASE, body, pods.BENCH_NAMESPACE)
                    return
                except Conflict:
                    continue
                except NotFound:
                    raise FenceLost(self._lost(None)) from None
        raise FenceLost(
            f"Lease {pods.BENCH_NAMESPACE}/{LEASE_NAME} is being changed all the time by somebody else"
        )


def busy_sentence(api: ClusterApi, lease: LeaseState) -> str:
    """Return who holds the cluster, since when and for how long."""
    left = lease.renewed_at + lease.duration_s - api.now()
    doing = "is being restored after" if lease.being_restored else "is held by"
    return (
        f"the cluster {doing} {lease.owner} (renewed {api.now() - lease.renewed_at:.0f} s ago, for another "
        f"{left:.0f} s unless renewed); only one run at a time may change it"
    )


def annotate(body: JsonObject, changes: dict[str, str | None]) -> None:
    """Set annotations of an object in place; None takes one off."""
    annotations = dict(body["metadata"].get("annotations") or {})
    for key, value in changes.items():
        if value is None:
            annotations.pop(key, None)
        else:
            annotations[key] = value
    body["metadata"]["annotations"] = annotations


def micro_time(seconds: float) -> str:
    """Return seconds since the epoch as Kubernetes writes a MicroTime."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def epoch(text: str | None) -> float:
    """Return a time of Kubernetes in seconds since the epoch; 0 if there is none."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() if text else 0.0
