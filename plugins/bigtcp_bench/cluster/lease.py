"""Who may change the cluster: the Lease, and the fence that a run makes every change behind.

The Lease ``bigtcp-bench`` has the run as its holder, and a *window id* in an annotation tells one attempt of a run
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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from bigtcp_bench.cluster.api import LEASE, ApiUnreachable, ClusterApi, Conflict, JsonObject, NotFound
from bigtcp_bench.errors import BenchError, FenceLost
from bigtcp_bench.in_cluster import protocol
from bigtcp_bench.in_cluster.protocol import (
    IN_FLIGHT,
    LEASE_NAME,
    NAMESPACE,
    NODES,
    RENEW_S,
    RESTORED,
    REVOKED,
    WINDOW,
    WROTE,
    annotate,
    annotations_of,
    epoch,
    micro_time,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LeaseState:
    """The Lease as read; times are seconds since the epoch by the API server's clock."""

    holder: str
    window: str
    in_flight: str
    restored: str
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


def holder_of(dag_id: str, run_id: str, installation: str) -> str:
    """Return the name under which a run holds the cluster.

    Two Airflows with the same DAG and schedule have runs of the same id, so the installation is part of it.
    """
    return f"{dag_id}/{run_id}@{installation}" if installation else f"{dag_id}/{run_id}"


def read_lease(api: ClusterApi) -> LeaseState | None:
    """Return the Lease, or None if no run was ever made here."""
    raw = api.find(LEASE, LEASE_NAME, NAMESPACE)
    if raw is None:
        return None
    spec, annotations = raw.get("spec") or {}, annotations_of(raw)
    return LeaseState(
        holder=spec.get("holderIdentity") or "",
        window=annotations.get(WINDOW, ""),
        in_flight=annotations.get(IN_FLIGHT, ""),
        restored=annotations.get(RESTORED, ""),
        duration_s=float(spec.get("leaseDurationSeconds") or 0),
        renewed_at=epoch(spec.get("renewTime")),
        raw=raw,
    )


def acquire(
    api: ClusterApi, seen: LeaseState | None, holder: str, duration_s: float, nodes: Iterable[str]
) -> Fence | None:
    """Take the Lease in the version ``seen`` for a run on ``nodes``; None if somebody else was faster."""
    window = uuid.uuid4().hex[:12]
    raw = seen.raw if seen is not None else None
    body = protocol.take(raw, holder, window, api.now(), duration_s, {NODES: ",".join(nodes)})
    try:
        if seen is None:
            api.create(LEASE, body, NAMESPACE)
        else:
            api.replace(LEASE, body, NAMESPACE)
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
        if lease.raw["metadata"].get("deletionTimestamp"):
            raise FenceLost(
                f"the Lease {NAMESPACE}/{LEASE_NAME} is being deleted, or its namespace is, so {self.holder} may "
                "change nothing any more"
            )
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
    def mutating(self, what: str, *, config_map: bool = False) -> Iterator[None]:
        """Mark the Lease with ``what`` for as long as one change of the cluster is under way. Raises FenceLost.

        The mark stays if the process dies, or if nobody knows whether the request took effect: after a time-out of
        the task, which is no Exception, it may be still on its way. ``config_map``: it is ``cilium-config`` that
        is changed, which is noted for good.
        """
        marks = {IN_FLIGHT: f"{what} since {micro_time(self.api.now())}"}
        self.update(lambda body: annotate(body, {**marks, WROTE: self.window} if config_map else marks))
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
        with contextlib.suppress(FenceLost):
            self.update(protocol.give_back)

    def update(self, change: Callable[[JsonObject], object]) -> None:
        """Write the Lease with a new renewal time and ``change``, compare-and-set, while it is ours."""
        with self._lock:
            for _ in self.api.poll(30, 0.1):
                body = self.check().raw
                body["spec"]["renewTime"] = micro_time(self.api.now())
                change(body)
                try:
                    self.api.replace(LEASE, body, NAMESPACE)
                    return
                except Conflict:
                    continue
                except NotFound:
                    raise FenceLost(self._lost(None)) from None
        raise FenceLost(f"Lease {NAMESPACE}/{LEASE_NAME} is being changed all the time by somebody else")


def busy_sentence(api: ClusterApi, lease: LeaseState) -> str:
    """Return who holds the cluster, since when and for how long."""
    left = lease.renewed_at + lease.duration_s - api.now()
    doing = "is being restored after" if lease.being_restored else "is held by"
    return (
        f"the cluster {doing} {lease.owner} (renewed {api.now() - lease.renewed_at:.0f} s ago, for another "
        f"{left:.0f} s unless renewed); only one run at a time may change it"
    )
