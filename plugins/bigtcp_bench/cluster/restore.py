"""How the cluster comes back, whatever happened: by teardown, next run, command."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bigtcp_bench.cluster import guardian_objects, pods, probe
from bigtcp_bench.cluster.api import (
    CONFIGMAP,
    DAEMONSET,
    LEASE,
    NAMESPACE,
    NODE,
    Before,
    ClusterApi,
    Conflict,
    Forbidden,
    JsonObject,
    Kind,
)
from bigtcp_bench.cluster.cilium import (
    CONFIGMAP_NAME,
    KEYS,
    Cilium,
    Progress,
    agent_pod,
    await_rollout,
    expected_merged,
    find_cilium,
    is_ready,
    read_merged,
    ready_agent,
    restart_agent,
    rollout,
)
from bigtcp_bench.cluster.lease import (
    Fence,
    LeaseState,
    acquire,
    annotate,
    busy_sentence,
    epoch,
    micro_time,
    read_lease,
)
from bigtcp_bench.cluster.protocol import (
    ARM,
    GUARDIAN_NAME,
    HOLDER,
    IN_FLIGHT,
    NODE_CONFIG_NAME,
    OTHER_RESTORE_S,
    PRIOR,
    RENEW_S,
    RESTARTED,
    RESTORE_LEASE_S,
    RESTORED,
    REVOKED,
    SETTLE_S,
    STATE_NAME,
    UNDONE,
    WINDOW,
)
from bigtcp_bench.cluster.saved_state import SavedNode, SavedNodeConfig, SavedState, _words, as_saved, read_state
from bigtcp_bench.errors import BenchError, FenceLost, PreconditionFailed, RestoreFailed
from bigtcp_bench.planning.plan import CLASSIC_MAX_PACKET_BYTES
from bigtcp_bench.resources import load_manifest


def silent(_text: str) -> None:
    """Report nothing."""


@dataclass
class RestoreReport:
    """What a restore found, did and verified.

    ``outcome`` is ``restored`` or ``nothing``; ``actions`` are the changes made, ``notes`` what the reader should
    know; ``nodes`` holds for each node its merged settings, device limits and whether its agent was restarted.
    ``already`` says who had restored and verified the same window before, if somebody had.
    """

    outcome: str
    owner: str
    reason: str
    seconds: float = 0.0
    waited_s: float = 0.0
    actions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
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
        return f"restored what {owner} had changed, in {self.seconds:.0f} s, and verified it: {done}"


def leftovers(api: ClusterApi) -> list[str]:
    """Return what an open or abandoned window has left in the cluster, in words; empty if nothing.

    A run in progress has these things too: ask the Lease whether it is alive.
    """
    found = changes(api)
    if api.find(CONFIGMAP, STATE_NAME, pods.BENCH_NAMESPACE) is not None:
        found.insert(0, f"saved state {pods.BENCH_NAMESPACE}/{STATE_NAME}")
    if guardian_objects.is_there(api):
        found.append(f"guardian {pods.BENCH_NAMESPACE}/{GUARDIAN_NAME}")
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
        if config is not None and ARM in (config["metadata"].get("annotations") or {}):
            found.append(f"changed {cilium.namespace}/{CONFIGMAP_NAME}")
        if restarted_by(api.find(DAEMONSET, cilium.daemonset, cilium.namespace) or {}) is not None:
            found.append(f"annotation {RESTARTED} on DaemonSet {cilium.namespace}/{cilium.daemonset}")
    return found


def restore(
    api: ClusterApi,
    reason: str,
    *,
    holder: str | None = None,
    force: bool = False,
    progress: Progress = silent,
    agent_ready_s: float | None = None,
    settle_s: float = SETTLE_S,
) -> RestoreReport:
    """Put the cluster back as it was before the open or abandoned window, and verify it by reading back.

    A run gives its own name as ``holder`` and touches no other's window. Without it, a window whose holder is
    alive is left alone (PreconditionFailed) unless ``force``. Can be called any number of times, by several at
    once; whoever comes late finds nothing to restore. Raises RestoreFailed, and keeps the saved state for the
    next attempt, if something could not be put back.
    """
    started = api.monotonic()
    fence, state, lease = None, None, None
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
            if lease is not None and lease.holder and (lease.owner == holder or not live or force):
                _forget(api, lease)
            report = RestoreReport("nothing", owner, reason, seconds=api.monotonic() - started)
            if (
                lease is not None
                and lease.restored
                and (holder is None or lease.restored.startswith(f"{holder} "))
            ):
                report.already = lease.restored
                report.notes.append(f"put back already: {lease.restored}")
            return report
        pods.ensure_namespace(api)
        fence = acquire(api, lease, REVOKED + owner, RESTORE_LEASE_S)
        if fence is not None:
            break
    if fence is None:
        raise RestoreFailed(
            f"another restore has been under way for {OTHER_RESTORE_S:.0f} s; if it is not, restore with force"
        )
    report = RestoreReport("restored", owner, reason)
    try:
        with fence.renewing(RENEW_S):
            if lease is not None and lease.in_flight:
                progress(f"a change was in flight ({lease.in_flight}); waiting {settle_s:g} s for its end")
                api.sleep(settle_s)
                report.waited_s = settle_s
            in_flight = lease is not None and bool(lease.in_flight)
            _Restorer(api, fence, state, report, progress, agent_ready_s, in_flight).run()
            if owner:
                # Before the saved state goes: whoever asks after that must not hear that nothing was changed.
                note = f"{owner} by a restore ({reason}) at {micro_time(api.now())}"
                fence.update(lambda body: annotate(body, {RESTORED: note}))
            _delete_state(api, fence)
            _remove_guardian(api, fence, report)
            fence.release()
    except BaseException:
        with contextlib.suppress(BenchError):
            fence.expire()
        raise
    report.seconds = api.monotonic() - started
    progress(str(report))
    return report


def _delete_state(api: ClusterApi, fence: Fence) -> None:
    found = api.find(CONFIGMAP, STATE_NAME, pods.BENCH_NAMESPACE)
    if found is not None:
        # The uid, so that a restore which was overtaken cannot delete the state of the next window.
        uid = found["metadata"]["uid"]
        api.delete(CONFIGMAP, STATE_NAME, pods.BENCH_NAMESPACE, uid=uid, before=fence.check)


def _remove_guardian(api: ClusterApi, fence: Fence, report: RestoreReport) -> None:
    try:
        if guardian_objects.remove(api, jobs="Background", before=fence.check):
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
    body["spec"]["holderIdentity"] = ""
    annotate(body, {WINDOW: None, IN_FLIGHT: None, UNDONE: None})
    with contextlib.suppress(Conflict):
        api.replace(LEASE, body, pods.BENCH_NAMESPACE)


class _Restorer:
    """One restore: undo, restart what must be, read everything back."""

    def __init__(
        self,
        api: ClusterApi,
        fence: Fence,
        state: SavedState | None,
        report: RestoreReport,
        progress: Progress,
        agent_ready_s: float | None,
        in_flight: bool,
    ) -> None:
        self.api = api
        self.fence = fence
        self.state = state
        self.report = report
        self.progress = progress
        self.agent_ready_s = agent_ready_s
        #: Whether a request of the run may be still on its way, even after the time that it was waited for.
        self.in_flight = in_flight
        #: When the settings had been undone; a restarted agent has the old ones from then on.
        self.undone_at = 0.0
        self.problems: list[str] = []

    def run(self) -> None:
        """Do it. Raises RestoreFailed if anything is not as it was."""
        cilium = find_cilium(self.api)
        if self.agent_ready_s is not None:
            cilium = replace(cilium, agent_ready_s=self.agent_ready_s)
        if self.api.find(NAMESPACE, pods.BENCH_NAMESPACE) is not None:
            self._delete_pods()
        labelled = {node["metadata"]["name"]: node for node in self.api.select(NODE, labels=WINDOW)}
        saved = self.state.nodes if self.state is not None else {}
        done = len(self.report.actions)
        for name in dict.fromkeys([*saved, *labelled]):
            self._remove_label(name)
        self._undo_node_config(cilium)
        # Without a saved state the scope is unknown, but what was changed tells itself.
        if self.state is None or self.state.scope == "cluster":
            self._undo_config_map(cilium)
        if not self.problems:
            self._note_undone(changed=len(self.report.actions) > done)
            # Agents that are all restarted before that would come back as they are, and nothing would tell it.
            if self.state is None or self.state.scope == "cluster":
                self._undo_rollout(cilium)
        if self.in_flight and not self.problems:
            # It was waited for, and fits nothing any more.
            self.fence.clear_mark()
        for name in dict.fromkeys([*saved, *labelled]):
            try:
                self._bring_back(cilium, name, saved.get(name))
            except FenceLost:
                raise
            except BenchError as error:
                self.problems.append(str(error))
        if self.state is not None:
            self._verify_limits(cilium, self.state)
        # A task that was alive when its window was revoked may have started pods since; and the probes of a killed
        # one end by themselves, but nobody else deletes them.
        self._delete_pods(pods.ALL_ROLES)
        if self.problems:
            raise RestoreFailed(
                f"the cluster is not as it was before {self.report.owner or 'the run'}: "
                f"{'; '.join(self.problems)}; restore again once that is mended"
            )

    def _did(self, what: str) -> None:
        self.report.actions.append(what)
        self.progress(what)

    def _delete_pods(self, roles: Iterable[str] = pods.TRAFFIC_ROLES) -> None:
        try:
            names = pods.delete_pods(self.api, roles, before=self.fence.check)
        except pods.PodFailed as error:
            # Pods on a node that is away stop nobody from putting the configuration back.
            self.report.notes.append(str(error))
            return
        if names:
            self._did(f"deleted benchmark pods {', '.join(names)}")

    def _remove_label(self, node: str) -> None:
        for _ in self.api.poll(30, 0.2):
            found = self.api.find(NODE, node)
            if found is None:
                self.report.notes.append(f"node {node} no longer exists")
                return
            if WINDOW not in (found["metadata"].get("labels") or {}):
                return
            version = found["metadata"]["resourceVersion"]
            body = {"metadata": {"resourceVersion": version, "labels": {WINDOW: None}}}
            try:
                self.api.patch(NODE, node, body, before=self.fence.check)
                self._did(f"removed label {WINDOW} from node {node}")
                return
            except Conflict:
                continue
        self.problems.append(f"the label {WINDOW} could not be removed from node {node}")

    def _undo_node_config(self, cilium: Cilium) -> None:
        if cilium.node_config is None:
            return
        kind, prior = cilium.node_config, self.state.node_config if self.state is not None else None
        for _ in self.api.poll(30, 0.2):
            found = self.api.find(kind, NODE_CONFIG_NAME, cilium.namespace)
            # Without a saved state only what this package wrote is ours to delete.
            if self.state is None and found is not None and not is_ours(found):
                return
            try:
                if (as_saved(found) if found is not None else None) != prior:
                    written = put_back_node_config(self.api, cilium, found, prior, before=self.fence.check)
                    self._did(f"{'deleted' if prior is None else 'put back'} CiliumNodeConfig {NODE_CONFIG_NAME}")
                    if written is not None and as_saved(written) != prior:
                        self.problems.append(f"the CiliumNodeConfig {NODE_CONFIG_NAME} differs from the one saved")
                elif found is not None and self.in_flight:
                    self._age(kind, found)
                return
            except Conflict:
                continue
        self.problems.append(f"the CiliumNodeConfig {NODE_CONFIG_NAME} could not be put back")

    def _age(self, kind: Kind, found: JsonObject) -> None:
        """Give an object that is as it was another version, so that a late write of the run does not fit it."""
        name, namespace = found["metadata"]["name"], found["metadata"]["namespace"]
        for value in (self.fence.window, None):
            if kind in (CONFIGMAP, DAEMONSET):
                version = found["metadata"]["resourceVersion"]
                body: JsonObject = {"metadata": {"resourceVersion": version, "annotations": {WINDOW: value}}}
                found = self.api.patch(kind, name, body, namespace, before=self.fence.check)
            else:
                annotate(found, {WINDOW: value})
                found = self.api.replace(kind, found, namespace, before=self.fence.check)

    def _undo_config_map(self, cilium: Cilium) -> None:
        for _ in self.api.poll(30, 0.2):
            found = self.api.get(CONFIGMAP, CONFIGMAP_NAME, cilium.namespace)
            annotations = found["metadata"].get("annotations") or {}
            arm = annotations.get(ARM)
            try:
                if arm is None:
                    if self.in_flight and self.state is not None:
                        self._age(CONFIGMAP, found)
                    return
                data = found.get("data") or {}
                ours = all(data.get(key) == ("true" if arm == "on" else "false") for key in KEYS.values())
                prior = self.state.config_map if self.state is not None else prior_values(annotations)
                if ours and prior is None:
                    self.problems.append(
                        f"{CONFIGMAP_NAME} was changed by a run and nothing tells what it said before; give "
                        f"{' and '.join(KEYS.values())} their values by hand and remove the annotation {ARM}"
                    )
                    return
                if not ours:
                    self.report.notes.append(
                        f"somebody else changed {CONFIGMAP_NAME} during the run; their values of "
                        f"{' and '.join(KEYS.values())} stay"
                    )
                put_back_config_map(self.api, cilium, found, prior if ours else None, before=self.fence.check)
                self._did(f"put back {' and '.join(KEYS.values())} in {CONFIGMAP_NAME}")
                return
            except Conflict:
                continue
        self.problems.append(f"{CONFIGMAP_NAME} could not be put back")

    def _note_undone(self, *, changed: bool) -> None:
        """Note on the Lease when the settings were undone: in this restore, or in one that got no further."""
        window, _, at = self.fence.check().undone.partition(" ")
        known = self.state is not None and window == self.state.window and not changed
        self.undone_at = epoch(at) if known else self.api.now()
        if self.state is not None and not known:
            note = f"{self.state.window} {micro_time(self.undone_at)}"
            self.fence.update(lambda body: annotate(body, {UNDONE: note}))

    def _undo_rollout(self, cilium: Cilium) -> None:
        """Remove our annotation from the pod template, which makes all agents restart with the old settings."""
        for _ in self.api.poll(30, 0.2):
            found = self.api.get(DAEMONSET, cilium.daemonset, cilium.namespace)
            try:
                if restarted_by(found) is not None:
                    rollout(self.api, cilium, found, RESTARTED, None, before=self.fence.check)
                    self._did(f"restarted all agents of DaemonSet {cilium.daemonset}")
                elif self.state is None:
                    return
                elif self.in_flight:
                    self._age(DAEMONSET, found)
                break
            except Conflict:
                continue
        else:
            self.problems.append(
                f"DaemonSet {cilium.daemonset} is being changed by somebody else all the time; its agents could "
                "not be restarted with the old settings"
            )
            return
        try:
            await_rollout(self.api, cilium)
        except BenchError as error:
            self.problems.append(str(error))

    def _bring_back(self, cilium: Cilium, name: str, saved: SavedNode | None) -> None:
        """Restart the agent of a node if it still has other settings than it should."""
        if self.api.find(NODE, name) is None:
            return
        expected = expected_merged(self.api, cilium, name)
        agent = agent_pod(self.api, cilium, name)
        restarted = agent is not None and self._never_started(agent, saved)
        if restarted:
            self._restart(cilium, name)
        agent = ready_agent(self.api, cilium, name)
        merged = read_merged(self.api, cilium, agent["metadata"]["name"])
        wanted = expected
        if saved is not None:
            changed = {family: value for family, value in expected.items() if value != saved.expected[family]}
            if changed:
                # What Cilium's rules say has changed since, somebody else has changed: that stays.
                self.report.notes.append(f"somebody else changed the configuration of node {name}: {changed}")
            if agent["metadata"]["uid"] == saved.agent_uid:
                wanted = {**saved.merged, **changed}
            elif saved.merged != saved.expected:
                self.report.notes.append(
                    f"node {name} had BIG TCP {_words(saved.merged)} before the run, but its configuration said "
                    f"{_words(saved.expected)} already; its agent was restarted and follows that"
                )
        if merged != wanted and not restarted:
            restarted = True
            # A new agent has what the configuration says, whatever the one before it had.
            wanted = expected
            agent = self._restart(cilium, name)
            merged = read_merged(self.api, cilium, agent["metadata"]["name"])
        self.report.nodes[name] = {
            "merged": merged,
            "wanted": wanted,
            "agent_pod": agent["metadata"]["name"],
            "agent_uid": agent["metadata"]["uid"],
            "restarted": restarted,
        }
        if merged != wanted:
            self.problems.append(
                f"the Cilium agent on node {name} still has BIG TCP {merged} after its restart, wanted {wanted}"
            )

    def _never_started(self, agent: JsonObject, saved: SavedNode | None) -> bool:
        """Return whether an agent that is not ready is one of the run's, with the run's settings.

        It may be unable to start with them, and only a new pod gets the old ones.
        """
        meta = agent["metadata"]
        if is_ready(agent) or (saved is not None and meta["uid"] == saved.agent_uid):
            return False
        return epoch(meta["creationTimestamp"]) <= self.undone_at

    def _restart(self, cilium: Cilium, name: str) -> JsonObject:
        # Times of creation are whole seconds: the next agent must have a later one than the undoing.
        self.api.sleep(max(0.0, self.undone_at + 1.5 - self.api.now()))
        with self.fence.mutating(f"restart the Cilium agent on node {name}"):
            agent = restart_agent(self.api, cilium, name, before=self.fence.check)
        self._did(f"restarted the Cilium agent on node {name}")
        return agent

    def _verify_limits(self, cilium: Cilium, state: SavedState) -> None:
        there = [name for name in state.nodes if name in self.report.nodes]
        # A node that is being restored to other settings than it had has no limits to compare with.
        there = [name for name in there if self.report.nodes[name]["wanted"] == state.nodes[name].merged]
        differing = self._differing(there, state)
        again = [name for name in differing if not self.report.nodes[name]["restarted"]]
        for name in again:
            # The settings are right but the devices are not, as after an agent that was killed while it started.
            try:
                self._restart(cilium, name)
                self.report.nodes[name]["restarted"] = True
            except FenceLost:
                raise
            except BenchError as error:
                self.problems.append(str(error))
        if again:
            others = {name: texts for name, texts in differing.items() if name not in again}
            differing = others | self._differing(again, state)
        for texts in differing.values():
            self.problems += texts

    def _differing(self, names: list[str], state: SavedState) -> dict[str, list[str]]:
        """Return node → what its devices' limits differ in, for those nodes where they do."""
        result = {}
        for name in names:
            # Each by itself: a node that starts no pod must not hide what the other one's devices say.
            try:
                (seen,) = probe.probe_nodes(
                    self.api, [name], state.image, pull_secrets=state.image_pull_secrets
                ).values()
            except FenceLost:
                raise
            except BenchError as error:
                self.problems.append(f"the devices of node {name} could not be read back: {error}")
                continue
            saved = state.nodes[name].limits
            self.report.nodes[name]["limits"] = seen.limits(saved)
            texts = []
            for device, before in saved.items():
                if device not in seen.devices:
                    self.report.notes.append(f"device {device} of node {name} no longer exists")
                    continue
                for limit, value in before.items():
                    now = seen.devices[device].limits.get(limit)
                    if now == value:
                        continue
                    text = f"node {name}: device {device} has {limit} {now}, it was {value}"
                    on = any(state.nodes[name].merged.values())
                    if not on and now == CLASSIC_MAX_PACKET_BYTES:
                        # Cilium's own "off" is 65536, whatever somebody had set by hand before.
                        self.report.notes.append(f"{text}; Cilium puts back 65536 only")
                    else:
                        texts.append(text)
            if texts:
                result[name] = texts
        return result


def put_back_node_config(
    api: ClusterApi,
    cilium: Cilium,
    found: JsonObject | None,
    prior: SavedNodeConfig | None,
    *,
    before: Before | None = None,
) -> JsonObject | None:
    """Make the CiliumNodeConfig ``found`` what it was before a run; return it as stored, None if it was deleted.

    Raises Conflict if it has changed since it was read.
    """
    kind = cilium.node_config_kind
    if prior is None:
        if found is not None:
            uid = found["metadata"]["uid"]
            api.delete(kind, NODE_CONFIG_NAME, cilium.namespace, uid=uid, before=before)
        return None
    body = found or load_manifest("ciliumnodeconfig.yaml")
    body["apiVersion"] = kind.api_version
    body["metadata"].update(
        namespace=cilium.namespace, labels=dict(prior.labels), annotations=dict(prior.annotations)
    )
    body["spec"] = prior.spec
    write = api.create if found is None else api.replace
    return write(kind, body, cilium.namespace, before=before)


def put_back_config_map(
    api: ClusterApi,
    cilium: Cilium,
    found: JsonObject,
    prior: Mapping[str, str | None] | None,
    *,
    before: Before | None = None,
) -> None:
    """Take a run's annotations off ``cilium-config`` and, unless ``prior`` is None, give the keys these values.

    Raises Conflict if it has changed since it was read.
    """
    version = found["metadata"]["resourceVersion"]
    annotations = dict.fromkeys((ARM, PRIOR, WINDOW, HOLDER))
    body: JsonObject = {"metadata": {"resourceVersion": version, "annotations": annotations}}
    if prior is not None:
        body["data"] = dict(prior)
    api.patch(CONFIGMAP, CONFIGMAP_NAME, body, cilium.namespace, before=before)


def prior_values(annotations: Mapping[str, str]) -> dict[str, str | None] | None:
    """Return what ``cilium-config`` said before a run, as it noted beside its change; None if it did not."""
    try:
        values = json.loads(annotations.get(PRIOR, ""))
    except ValueError:
        return None
    return values if isinstance(values, dict) and set(values) == set(KEYS.values()) else None


def restarted_by(daemonset: JsonObject) -> str | None:
    """Return what a run has written into the pod template to restart the agents, or None."""
    template = (daemonset.get("spec") or {}).get("template") or {}
    return ((template.get("metadata") or {}).get("annotations") or {}).get(RESTARTED)


def is_ours(found: JsonObject) -> bool:
    """Return whether an object carries the annotation of a window."""
    return WINDOW in (found["metadata"].get("annotations") or {})
