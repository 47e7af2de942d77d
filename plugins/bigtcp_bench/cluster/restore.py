"""How the cluster comes back, whatever happens: what restores it from outside of the cluster.

Teardown, command and next run go through ``restore`` here. What is undone, and how it is verified, is in
``in_cluster/restore.py``, which the guardian in the cluster runs as well.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, field
from typing import Any

from bigtcp_bench import __version__
from bigtcp_bench.cluster import guardian_objects, pods
from bigtcp_bench.cluster.api import (
    CONFIGMAP,
    DAEMONSET,
    LEASE,
    NODE,
    ClusterApi,
    Conflict,
    Forbidden,
    JsonObject,
)
from bigtcp_bench.cluster.api import NAMESPACE as NAMESPACE_KIND
from bigtcp_bench.cluster.cilium import Cilium, Progress, cilium_of, find_cilium
from bigtcp_bench.cluster.hands import ClusterHands, means_of
from bigtcp_bench.cluster.lease import Fence, LeaseState, busy_sentence, read_lease
from bigtcp_bench.cluster.rehearsal import Rehearsal
from bigtcp_bench.cluster.saved_state import read_state
from bigtcp_bench.errors import FenceLost, PreconditionFailed, RestoreFailed
from bigtcp_bench.in_cluster import hold as holding
from bigtcp_bench.in_cluster import protocol
from bigtcp_bench.in_cluster import restore as core
from bigtcp_bench.in_cluster.hold import Hold, Lost, Refused
from bigtcp_bench.in_cluster.protocol import (
    ARM,
    CONFIGMAP_NAME,
    GUARDIAN_NAME,
    IN_FLIGHT,
    NAMESPACE,
    NODE_CONFIG_NAME,
    OTHER_RESTORE_S,
    RESTARTED,
    RESTARTS,
    STATE_NAME,
    WINDOW,
    SavedState,
    annotations_of,
    is_ours,
    restarted_by,
)


@dataclass
class RestoreReport:
    """What a restore found, did and verified.

    ``outcome`` is ``restored`` or ``nothing``; ``actions`` are the changes made, ``notes`` what the reader should
    know; ``nodes`` holds for each node its merged settings, device limits and whether its agent was restarted.
    ``unread`` says why the devices' limits were not read back, if they were not; ``already`` who had restored and
    verified the same window before, if somebody had.
    """

    outcome: str
    owner: str
    reason: str
    seconds: float = 0.0
    waited_s: float = 0.0
    actions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    unread: str = ""
    already: str = ""

    @property
    def changed(self) -> bool:
        """Return whether there was something to put back, for this restore or for one before it."""
        return self.outcome == "restored" or bool(self.already)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a task's result or the warehouse."""
        return asdict(self)

    def __str__(self) -> str:
        if self.outcome == "nothing":
            return "nothing to restore" + (f": {self.notes[0]}" if self.notes else "")
        done = "; ".join(self.actions) or "nothing had been changed"
        owner = self.owner or "an unknown run"
        but = f" by what the agents were told ({self.unread})" if self.unread else ""
        return f"restored what {owner} had changed, in {self.seconds:.0f} s, and verified it{but}: {done}"


def leftovers(api: ClusterApi) -> list[str]:
    """Return what an open or abandoned window, or a check that died, has left, in words; empty if nothing.

    A run in progress has these things too: ask the Lease whether it is alive.
    """
    found = changes(api)
    if api.find(CONFIGMAP, STATE_NAME, NAMESPACE) is not None:
        found.insert(0, f"saved state {NAMESPACE}/{STATE_NAME}")
    if guardian_objects.is_there(api):
        found.append(f"guardian {NAMESPACE}/{GUARDIAN_NAME}")
    # Of a check that was killed: it has no window yet.
    found += [f"ended pod {NAMESPACE}/{name}" for name in pods.forgotten(api)]
    return found


def changes(api: ClusterApi) -> list[str]:
    """Return what runs change in Cilium and on nodes and is changed now, in words."""
    found = [f"label {WINDOW} on node {node['metadata']['name']}" for node in api.select(NODE, labels=WINDOW)]
    with contextlib.suppress(PreconditionFailed):
        cilium = find_cilium(api)
        if cilium.node_config is not None:
            written = api.find(cilium.node_config, NODE_CONFIG_NAME, cilium.namespace)
            if written is not None and is_ours(written):
                found.append(f"CiliumNodeConfig {cilium.namespace}/{NODE_CONFIG_NAME}")
        config = api.find(CONFIGMAP, CONFIGMAP_NAME, cilium.namespace)
        if ARM in annotations_of(config):
            found.append(f"changed {cilium.namespace}/{CONFIGMAP_NAME}")
        if restarted_by(api.find(DAEMONSET, cilium.daemonset, cilium.namespace)) is not None:
            found.append(f"annotation {RESTARTED} on DaemonSet {cilium.namespace}/{cilium.daemonset}")
    return found


def restore(
    api: ClusterApi,
    reason: str,
    *,
    holder: str | None = None,
    force: bool = False,
    afresh: bool = False,
    progress: Progress = lambda text: None,
) -> RestoreReport:
    """Put the cluster back as it was before the open or abandoned window, and verify it by reading back.

    A run gives its own name as ``holder`` and touches no other's window. Without it, a window whose holder is
    alive is left alone (PreconditionFailed) unless ``force``. ``afresh`` forgets how often restores before this
    one have restarted agents: somebody has mended what kept them from it. Can be called any number of times, by
    several at once; whoever comes late finds nothing to restore. Raises RestoreFailed, and keeps the saved state
    for the next attempt, if something could not be put back.
    """
    started = api.monotonic()
    for _ in api.poll(OTHER_RESTORE_S, 1.0):
        lease, state = read_lease(api), read_state(api)
        owner = state.holder if state is not None else (lease.owner if lease is not None else "")
        if holder is not None and owner and owner != holder:
            return RestoreReport("nothing", holder, reason, notes=[f"the open window is that of {owner}"])
        live = lease is not None and lease.live(api.now())
        if lease is not None and live and lease.being_restored and not force:
            progress(f"another restore of {owner} is under way; waiting for it")
            continue
        if lease is not None and live and not force and holder is None:
            raise PreconditionFailed(
                f"{busy_sentence(api, lease)}; restoring now would break that run: wait, end it, or restore with "
                "force"
            )
        if state is None and not leftovers(api):
            return _nothing(api, lease, owner, reason, holder, force, started)
        if api.find(NAMESPACE_KIND, NAMESPACE) is None:
            pods.ensure_namespace(api)
        hands = ClusterHands(api, _cilium(api, state))
        seen = lease.raw if lease is not None else None
        try:
            hold = holding.take_over(hands, seen, owner, {RESTARTS: None} if afresh else None)
        except Refused as error:
            raise RestoreFailed(f"the cluster could not be put back: {error}") from error
        if hold is None:
            continue
        report = RestoreReport("restored", owner, reason)
        _restored(hands, hold, seen, state, report, progress)
        report.seconds = api.monotonic() - started
        progress(str(report))
        return report
    raise RestoreFailed(
        f"another restore has been under way for {OTHER_RESTORE_S:.0f} s; if it is not, restore with force"
    )


def _nothing(
    api: ClusterApi,
    lease: LeaseState | None,
    owner: str,
    reason: str,
    holder: str | None,
    force: bool,
    started: float,
) -> RestoreReport:
    """Free a Lease that nobody needs, and tell who has restored before."""
    report = RestoreReport("nothing", owner, reason)
    if lease is not None:
        if lease.holder and (lease.owner == holder or not lease.live(api.now()) or force):
            _forget(api, lease)
        if lease.restored and (holder is None or lease.restored.startswith(f"{holder} ")):
            report.already = lease.restored
            report.notes.append(f"put back already: {lease.restored}")
    report.seconds = api.monotonic() - started
    return report


def _cilium(api: ClusterApi, state: SavedState | None) -> Cilium:
    """Return the Cilium to put back: the saved one, whoever else has its label by now."""
    if state is None:
        return find_cilium(api)
    return cilium_of(api, state.cilium_namespace, state.cilium_daemonset, state.cilium_image)


def _restored(
    hands: ClusterHands,
    hold: Hold,
    seen: JsonObject | None,
    state: SavedState | None,
    report: RestoreReport,
    progress: Progress,
) -> None:
    """Restore behind ``hold`` and give it back; else let it end at once. Raises RestoreFailed and FenceLost."""
    told = holding.Report(progress, report.actions, report.notes, report.nodes)
    changed = state is None and bool(changes(hands.api))
    try:
        put_back(
            hands,
            hold,
            state,
            told,
            seen=seen,
            changed=changed,
            reason=report.reason,
        )
        _remove_guardian(hands.api, hold, report)
        hold.release()
    except BaseException as error:
        with contextlib.suppress(Lost, Refused):
            hold.expire()
        if isinstance(error, Lost):
            raise FenceLost(str(error)) from error
        if isinstance(error, Refused):
            raise RestoreFailed(f"the cluster could not be put back: {error}") from error
        if isinstance(error, holding.NotRestored):
            raise RestoreFailed(
                f"the cluster is not as it was before {report.owner or 'the run'}: {error}; restore again once "
                "that is mended"
            ) from error
        raise
    finally:
        report.waited_s, report.unread = told.waited_s, told.unread


def put_back(
    hands: ClusterHands | Rehearsal,
    hold: Hold,
    state: SavedState | None,
    report: holding.Report,
    *,
    seen: JsonObject | None,
    changed: bool,
    reason: str,
) -> None:
    """Restore with whichever hands, also where something is ``changed`` but no state is saved.

    ``seen`` is the Lease before it was taken over. Raises what ``core.put_back`` raises.
    """
    if state is None and changed:
        state = _what_is_left(hands, seen, hold.owner or "an unknown run")
        hands.change("POST", holding.CONFIGMAPS, protocol.state_object(state), hold.check)
        report.say("no state was saved; what is changed now is noted in its place")
    image, secrets = (state.image, state.image_pull_secrets) if state is not None else ("", ())
    means = means_of(image, secrets, hands.cilium.agent_ready_s)
    if state is None:
        # The run died before it had changed anything.
        holding.delete_pods(hands, hold, means.all_pods, report)
        return
    in_flight, by = annotations_of(seen).get(IN_FLIGHT, ""), f"a restore ({reason})"
    core.put_back(hands, hold, state, report, means, in_flight=in_flight, by=by)


def _what_is_left(hands: ClusterHands | Rehearsal, lease: JsonObject | None, owner: str) -> SavedState:
    """Return a state of what is changed now, for a restore that finds changes but no saved state.

    It is saved before anything is undone, so that whoever comes next looks at the same nodes.
    """
    cilium = hands.cilium
    noted = annotations_of(lease).get(protocol.NODES, "").split(",")
    labelled = [node["metadata"]["name"] for node in hands.select(holding.NODES, WINDOW)]
    config_map = hands.get(CONFIGMAP.path(cilium.namespace, CONFIGMAP_NAME)) or {"metadata": {}}
    rolled = restarted_by(hands.get(DAEMONSET.path(cilium.namespace, cilium.daemonset)))
    wrote = annotations_of(lease).get(protocol.WROTE, "")
    changed = ARM in annotations_of(config_map) or rolled is not None or bool(wrote)
    return SavedState(
        package_version=__version__,
        holder=owner,
        window=wrote,
        saved_at=protocol.micro_time(hands.now()),
        plan="",
        scope="cluster" if changed else "nodes",
        image="",
        cilium_namespace=cilium.namespace,
        cilium_daemonset=cilium.daemonset,
        cilium_image=cilium.image,
        node_config=None,
        config_map=protocol.prior_values(config_map),
        nodes={
            name: protocol.SavedNode("", "", "", "", "", None, {})
            for name in dict.fromkeys([*noted, *labelled])
            if name and hands.get(f"{holding.NODES}/{name}") is not None
        },
    )


def _remove_guardian(api: ClusterApi, hold: Hold, report: RestoreReport) -> None:
    try:
        if guardian_objects.remove(api, jobs="Background", before=hold.check):
            report.actions.append("removed the guardian")
    except Forbidden as error:
        # It removes itself at its next look, having nothing left to guard.
        report.notes.append(f"the guardian was not removed: {error}")


def _forget(api: ClusterApi, lease: LeaseState) -> None:
    """Free a Lease whose window has nothing left to restore."""
    with contextlib.suppress(FenceLost):
        fence = Fence(api, lease.holder, window=lease.window)
        if lease.live(api.now()):
            fence.release()
            return
    body = lease.raw
    protocol.give_back(body)
    with contextlib.suppress(Conflict):
        api.replace(LEASE, body, NAMESPACE)
