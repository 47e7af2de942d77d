"""What a run would do to a cluster, object by object and in order, found out without doing any of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from bigtcp_bench.cluster import (
    bigtcp_switch,
    guardian_objects,
    pods,
    reach,
    requirements,
    restore,
    rights,
    saved_state,
)
from bigtcp_bench.cluster.api import (
    CONFIGMAP,
    DAEMONSET,
    LEASE,
    NAMESPACE,
    PRIORITYCLASS,
    ClusterApi,
    JsonObject,
)
from bigtcp_bench.cluster.checks import Check
from bigtcp_bench.cluster.cilium import CONFIGMAP_NAME, Cilium, Merged, rollout_rounds
from bigtcp_bench.cluster.hands import ClusterHands
from bigtcp_bench.cluster.lease import read_lease
from bigtcp_bench.cluster.node_counters import LOAD_SAMPLE_S
from bigtcp_bench.cluster.nodes import NodePair, Place
from bigtcp_bench.cluster.probe import probe_pod
from bigtcp_bench.cluster.rehearsal import Rehearsal, merge_patch
from bigtcp_bench.cluster.requirements import Seen
from bigtcp_bench.cluster.rights import Right
from bigtcp_bench.cluster.services import build_service
from bigtcp_bench.errors import MeasurementFailed, RestoreFailed
from bigtcp_bench.in_cluster import hold as holding
from bigtcp_bench.in_cluster import protocol
from bigtcp_bench.in_cluster.hold import Hands
from bigtcp_bench.in_cluster.protocol import SavedNode, SavedState
from bigtcp_bench.in_cluster.treatment import switched
from bigtcp_bench.measuring import packet_sizes
from bigtcp_bench.measuring.control import control_pods
from bigtcp_bench.measuring.generation import client_pod, generations_of, orders_of, server_pod
from bigtcp_bench.planning.duration import Estimate, estimate, estimate_again
from bigtcp_bench.planning.plan import (
    RERUN_ORDER,
    RERUN_PREFIX,
    SLOT_ARMS,
    Block,
    Family,
    Plan,
    blocks,
    pod_pairs,
    task_ids,
)
from bigtcp_bench.resources import load_manifest
from bigtcp_bench.settings import GUARDIAN_IMAGE

Verb = Literal["create", "change", "delete", "restart"]

#: Stand in manifests for what only a run has: the id of its window, the token of two pods, the server's addresses.
WINDOW_ID = "WINDOW-ID"
_VERBS: dict[str, Verb] = {"POST": "create", "PUT": "change", "PATCH": "change", "DELETE": "delete"}
_KIND_NAMES = {
    "pods": "Pod",
    "configmaps": "ConfigMap",
    "nodes": "Node",
    "leases": "Lease",
    "ciliumnodeconfigs": "CiliumNodeConfig",
    "daemonsets": "DaemonSet",
}
TOKEN = "0" * 32
ADDRESSES: dict[Family, str] = {"ipv4": "192.0.2.1", "ipv6": "2001:db8::1"}
SERVICE_ADDRESSES: dict[Family, str] = {"ipv4": "192.0.2.2", "ipv6": "2001:db8::2"}


@dataclass(frozen=True)
class Act:
    """One thing that a run would do: in which task, to what, and what becomes of it.

    ``manifests`` are the objects as they would be sent, where there are any; ``count`` is how many of each.
    """

    task: str
    verb: Verb
    what: str
    note: str = ""
    manifests: tuple[JsonObject, ...] = ()
    count: int = 1


@dataclass(frozen=True)
class BlockOutline:
    """One block: its tasks, whether the setting is written, and which agents are restarted before it.

    ``rolls``: all agents of the cluster restart in turn (scope cluster); else ``restarts`` names the nodes.
    """

    block: Block
    tasks: tuple[str, str]
    writes: bool
    rolls: bool
    restarts: tuple[str, ...]


@dataclass(frozen=True)
class Outline:
    """Everything that a dry run tells."""

    plan: Plan
    pair: NodePair
    cilium: Cilium
    checks: list[Check]
    blocks: list[BlockOutline]
    acts: list[Act]
    duration: Estimate
    rights: list[Right]
    lacking: list[Right]
    unknown: str
    #: Tasks that measure scenarios again, and how much longer a run takes when that is due for all of them.
    reruns: list[str]
    again: Estimate | None


def outline(api: ClusterApi, plan: Plan, pair: NodePair, holder: str) -> Outline:
    """Return what a run of ``plan`` by ``holder`` would do on ``pair``. Only reads; starts no pod.

    Raises what ``requirements.preflight`` raises.
    """
    found = requirements.preflight(api, plan, pair, holder=holder, with_pods=False)
    seen = found.seen
    start = _start(api, seen)
    merged = {name: start.merged[name] for name in pair.names}
    told = list(_blocks(plan, pair, merged, start.data))
    needed = rights.needed(plan.scope, seen.cilium, pair.names)
    agents = {} if start.restarts else {name: agent.pod for name, agent in seen.agents.items()}
    sketch = _Sketch(api, plan, pair, seen.cilium, holder, start.node_config is not None, agents)
    rounds = rollout_rounds(seen.daemonset)
    end = _restored(sketch, start, told, merged, rounds)
    acts = [
        *start.acts,
        *sketch.preparation(),
        *sketch.window(),
        *(act for position in range(len(told)) for act in sketch.block(told, position)),
        *sketch.probes("collect_counters", "read the counters at the end"),
        *end.acts,
        *sketch.guardian_removed(),
        Act("restore_config", "change", f"Lease {pods.BENCH_NAMESPACE}/{protocol.LEASE_NAME}", "given back"),
    ]
    rollouts = sum(block.rolls for block in told) * rounds
    restarts = start.restarts + rollouts + sum(len(block.restarts) for block in told) + end.restarts
    return Outline(
        plan=plan,
        pair=pair,
        cilium=seen.cilium,
        checks=found.checks,
        blocks=told,
        acts=acts,
        duration=estimate(plan, restarts),
        rights=needed,
        lacking=rights.missing(api, needed),
        unknown=requirements.unknown_without_pods(plan),
        reruns=_reruns(plan),
        again=estimate_again(plan) if _reruns(plan) else None,
    )


@dataclass
class _Start:
    """The cluster when a run saves its state: as it is, or as it is once an earlier run's leftovers were put back.

    ``merged`` is what agents were told, ``data`` what ``cilium-config`` says, ``node_config`` the CiliumNodeConfig
    of our name, if there is one; ``hands`` see the cluster like that. ``acts`` is what the run does to get there,
    and ``restarts`` how often it restarts agents one after the other.
    """

    merged: dict[str, Merged | None]
    data: dict[str, str]
    node_config: JsonObject | None
    hands: Hands
    acts: list[Act] = field(default_factory=list)
    restarts: int = 0


def _start(api: ClusterApi, seen: Seen) -> _Start:
    """Return what the first block finds. Raises RestoreFailed where an earlier run's leftovers stay."""
    found = next((one for one in seen.node_configs if one["metadata"]["name"] == protocol.NODE_CONFIG_NAME), None)
    merged = {name: agent.merged for name, agent in seen.agents.items()}
    hands = ClusterHands(api, seen.cilium)
    start = _Start(merged, dict(seen.config.get("data") or {}), found, hands)
    if not seen.abandoned:
        return start
    state = saved_state.read_state(api)
    lease = read_lease(api)
    owner = state.holder if state is not None else (lease.owner if lease is not None else "")
    limits = {name: node.limits for name, node in state.nodes.items()} if state is not None else {}
    rehearsal = Rehearsal(hands, seen.cilium, limits)
    changed, rounds = state is None and bool(restore.changes(api)), rollout_rounds(seen.daemonset)
    done = _rehearsed(rehearsal, "check_kernel", state, owner, rounds, changed=changed, named=True)
    start.restarts = done.restarts
    start.acts = [
        replace(act, note=f"left behind by {owner or 'an earlier run'}; {act.note}".rstrip("; "))
        for act in done.acts
    ]
    if guardian_objects.is_there(api):
        start.acts += _guardian_removed("check_kernel", f"left behind by {owner or 'an earlier run'}")
    config = rehearsal.get(CONFIGMAP.path(seen.cilium.namespace, CONFIGMAP_NAME)) or {}
    start.data = dict(config.get("data") or {})
    start.node_config = rehearsal.get(_node_config_path(seen.cilium)) if seen.cilium.node_config else None
    start.merged.update({name: node["merged"] for name, node in done.nodes.items()})
    start.hands = rehearsal
    return start


def _restored(
    sketch: _Sketch, start: _Start, told: list[BlockOutline], before: dict[str, Merged | None], rounds: int
) -> _Rehearsed:
    """Return what the restore at the end of the run does, on the cluster as the last block leaves it."""
    cilium, plan = sketch.cilium, sketch.plan
    arm, names = told[-1].block.arm, sketch.pair.names
    # Devices are not known before somebody looks at them; that somebody will is what is told.
    limits = {name: {"as saved": dict[str, int]()} for name in names}
    last: Merged = switched(arm)
    hands = Rehearsal(start.hands, cilium, limits, dict.fromkeys(names, last))
    nodes = {
        name: SavedNode("", "", "", "", "", cast("dict[str, bool] | None", before[name]), limits[name])
        for name in names
    }
    now = hands.now()
    state = saved_state.state_of(
        plan,
        cilium,
        nodes,
        holder=sketch.holder,
        window=WINDOW_ID,
        saved_at_s=now,
        data=start.data,
        node_config=start.node_config,
    )
    if plan.scope == "nodes":
        for name in names:
            _patch(hands, f"{holding.NODES}/{name}", {"metadata": {"labels": {protocol.WINDOW: WINDOW_ID}}})
        if cilium.node_config is not None:
            ours = bigtcp_switch.node_config(cilium, sketch.holder, WINDOW_ID, arm)
            there = start.node_config or {"metadata": {"uid": "rehearsed"}}
            meta = {**there["metadata"], **ours["metadata"]}
            hands.put(_node_config_path(cilium), {**ours, "metadata": meta})
    elif any(block.writes for block in told):
        marks = {"annotations": {protocol.ARM: arm, protocol.WINDOW: WINDOW_ID}}
        changed = {"metadata": marks, "data": bigtcp_switch.settings(arm)}
        _patch(hands, CONFIGMAP.path(cilium.namespace, CONFIGMAP_NAME), changed)
    if any(block.rolls for block in told):
        template = {"template": {"metadata": {"annotations": {protocol.RESTARTED: WINDOW_ID}}}}
        _patch(hands, DAEMONSET.path(cilium.namespace, cilium.daemonset), {"spec": template})
    saved = protocol.state_object(state)
    saved["metadata"] |= {"uid": "rehearsed", "resourceVersion": "1"}
    hands.put(holding.STATE, saved)
    hands.put(holding.LEASE, protocol.take(None, sketch.holder, WINDOW_ID, now, protocol.LEASE_S))
    untouched = bool(sketch.agents) and not any(block.rolls or block.restarts for block in told)
    return _rehearsed(hands, "restore_config", state, sketch.holder, rounds, changed=False, named=untouched)


def _patch(hands: Rehearsal, path: str, patch: JsonObject) -> None:
    """Change an object as a run would have, without writing that down."""
    hands.put(path, merge_patch(hands.get(path) or {}, patch))


@dataclass(frozen=True)
class _Rehearsed:
    """What a restore would do, how often it restarts agents one after the other, and what each node has then."""

    acts: list[Act]
    restarts: int
    nodes: dict[str, dict[str, Any]]


def _rehearsed(
    hands: Rehearsal,
    task: str,
    state: SavedState | None,
    owner: str,
    rounds: int,
    *,
    changed: bool,
    named: bool,
) -> _Rehearsed:
    """Return what the restore by ``hands`` does; ``named``: agents still have the names that they have now.

    Raises RestoreFailed if it would not be verified.
    """
    report = holding.Report(lambda text: hands.say(text) if text in report.actions else None)
    seen = hands.get(holding.LEASE)
    hold = holding.take_over(hands, seen, owner)
    assert hold is not None, "nobody else has a rehearsed Lease"
    try:
        restore.put_back(hands, hold, state, report, seen=seen, changed=changed, reason="rehearsed")
    except (holding.Refused, holding.NotRestored) as error:
        who = owner or "an earlier run"
        raise RestoreFailed(f"what {who} has changed would not be put back: {error}") from error
    acts: list[Act] = []
    restarts = 0
    made: set[str] = set()
    for change in hands.changes:
        *_, plural, name = change.path.split("/")
        namespace = change.path.partition("/namespaces/")[2].partition("/")[0]
        what = f"{_KIND_NAMES[plural]} {namespace + '/' if namespace else ''}{name}"
        if change.path == holding.LEASE or change.path in made:
            continue
        if plural == "pods" and change.method == "POST":
            made.add(change.path)
            acts.append(_pods(task, "to verify the limits", change.body))
        elif plural == "pods" and namespace == hands.cilium.namespace:
            node = change.body["spec"]["nodeName"]
            what = what if named else f"Pod of Cilium's agent on {node}"
            acts.append(Act(task, "delete", what, f"{change.said}, with the settings as before"))
            restarts += 1
        else:
            acts.append(Act(task, _VERBS[change.method], what, change.said))
            if plural == "daemonsets":
                acts.append(Act(task, "restart", "every agent of Cilium", "in turn"))
                restarts += rounds
    return _Rehearsed(acts, restarts, report.nodes)


def _guardian_removed(task: str, note: str = "") -> list[Act]:
    name = f"{pods.BENCH_NAMESPACE}/{protocol.GUARDIAN_NAME}"
    return [Act(task, "delete", f"{kind} {name}", note) for kind in ("CronJob", "ConfigMap")]


def _node_config_path(cilium: Cilium) -> str:
    return cilium.node_config_kind.path(cilium.namespace, protocol.NODE_CONFIG_NAME)


def _blocks(
    plan: Plan, pair: NodePair, merged: dict[str, Merged | None], data: dict[str, str]
) -> Iterator[BlockOutline]:
    """Yield the blocks. ``merged`` is what agents were told, ``data`` what ``cilium-config`` says."""
    written = dict(data) if plan.scope == "cluster" else {}
    for block in blocks(plan):
        wanted: Merged = switched(block.arm)
        settings = bigtcp_switch.settings(block.arm)
        writes = any(written.get(key) != value for key, value in settings.items())
        rolls = plan.scope == "cluster" and (writes or plan.is_aa)
        stale = (
            () if rolls else tuple(name for name in reversed(pair.names) if plan.is_aa or merged[name] != wanted)
        )
        yield BlockOutline(block, task_ids(SLOT_ARMS, block.slot), writes, rolls, stale)
        merged, written = dict.fromkeys(merged, wanted), {**written, **settings}


@dataclass(frozen=True)
class _Sketch:
    """Writes down acts; the objects come from the code that a run makes them with."""

    api: ClusterApi
    plan: Plan
    pair: NodePair
    cilium: Cilium
    holder: str
    #: Whether there is a CiliumNodeConfig of our name before the first block.
    node_config: bool
    #: Node → the pod of its agent now; empty if none has it any more when the first block begins.
    agents: dict[str, str]

    def preparation(self) -> Iterator[Act]:
        """Yield what check_kernel does."""
        task = "check_kernel"
        for kind, file in ((NAMESPACE, "namespace.yaml"), (PRIORITYCLASS, "priorityclass.yaml")):
            body = load_manifest(file)
            if self.api.find(kind, body["metadata"]["name"]) is None:
                yield Act(task, "create", _name(body), "stays", (body,))
        body = pods.agent_configmap()
        there = self.api.find(CONFIGMAP, pods.AGENT_CONFIGMAP, pods.BENCH_NAMESPACE)
        if there is None:
            yield Act(task, "create", _name(body), "the script that pods run; stays", (body,))
        elif there.get("data") != body["data"]:
            yield Act(task, "change", _name(body), "to the script of this package; stays", (body,))
        yield from self.probes(task, "look at both nodes, end after seconds")
        for place in reach.places(self.plan, self.pair):
            server = reach.server_pod(self.plan, place, self.holder, TOKEN)
            service = SERVICE_ADDRESSES if place.has_service else {}
            client = reach.client_pod(self.plan, place, self.holder, ADDRESSES, service)
            if place.has_service:
                yield _service(task, server)
            yield _pods(task, "see whether pods reach each other", server, client)

    def window(self) -> Iterator[Act]:
        """Yield what snapshot_config does."""
        task = "snapshot_config"
        nodes = {protocol.NODES: ",".join(self.pair.names)}
        body = protocol.take(None, self.holder, WINDOW_ID, self.api.now(), protocol.LEASE_S, nodes)
        verb: Verb = (
            "create" if self.api.find(LEASE, protocol.LEASE_NAME, pods.BENCH_NAMESPACE) is None else "change"
        )
        yield Act(
            task, verb, _name(body), "holds the cluster, renewed while tasks work; given back, stays", (body,)
        )
        yield from self.probes(task, "read the limits that are saved")
        if self.plan.guardian and not guardian_objects.obstacle(self.api):
            secrets = self.plan.image_pull_secrets
            note = "puts the cluster back if Airflow never comes back; deleted at the end"
            script = guardian_objects.config_map(GUARDIAN_IMAGE.value(), secrets)
            yield Act(task, "create", _name(script), "the guardian's script; deleted at the end", (script,))
            job = guardian_objects.cronjob(GUARDIAN_IMAGE.value(), self.api.now(), self.pair, secrets)
            yield Act(task, "create", _name(job), note, (job,))
        state = f"ConfigMap {pods.BENCH_NAMESPACE}/{protocol.STATE_NAME}"
        yield Act(task, "create", state, "the state before the first change, immutable; deleted at the end")

    def block(self, all_told: list[BlockOutline], position: int) -> Iterator[Act]:
        """Yield what the two tasks of one block do."""
        told, earlier = all_told[position], all_told[:position]
        switch, measure = told.tasks
        if position:
            yield from self.probes(switch, "read the counters, and the load, at the end of the block before")
        elif self.plan.load_gate.mode != "warn":
            yield from self.probes(switch, "sample the load before the switch")
        if self.plan.scope == "cluster":
            yield from self._cluster_settings(switch, told)
        else:
            yield from self._node_settings(switch, told, first=position == 0)
        for name in told.restarts:
            gone = any(block.rolls or name in block.restarts for block in earlier)
            pod = None if gone else self.agents.get(name)
            what = f"Pod {self.cilium.namespace}/{pod}" if pod else f"Pod of Cilium's agent on {name}"
            yield Act(switch, "delete", what, f"its DaemonSet makes a new one: a restart of the agent on {name}")
        yield from self.probes(switch, "prove the arm on the devices")
        for place in packet_sizes.places(self.plan, self.pair, told.block):
            yield from self._capture(switch, place, told.block)
        if self.plan.control:
            yield from self._control(switch, told.block)
        yield from self.probes(switch, "read the counters at the beginning")
        yield from self._generations(measure, told.block)

    def _capture(self, task: str, place: Place, block: Block) -> Iterator[Act]:
        capturing = packet_sizes.CapturePods(self.plan, self.holder, block)
        receives = capturing.server(place, TOKEN)
        addresses = {family: ADDRESSES[family] for family in place.families}
        service = SERVICE_ADDRESSES if place.has_service else {}
        sends, _ = capturing.client(place, addresses, TOKEN, service)
        if place.has_service:
            yield _service(task, receives)
        yield _pods(task, f"capture a second of traffic on {' and '.join(map(str, place.ways))}", receives, sends)

    def _generations(self, task: str, block: Block) -> Iterator[Act]:
        of_block = generations_of(
            block, run=0, run_key=self.holder, nodes=self.pair.names, scenarios=self.plan.scenarios
        )
        # The first turn of each pair stands for all of them.
        for kind in of_block[: len(pod_pairs(self.plan.scenarios))]:
            server = server_pod(kind, self.plan, TOKEN)
            service = SERVICE_ADDRESSES if kind.has_service else None
            client = client_pod(kind, self.plan, orders_of(kind, self.plan, ADDRESSES, TOKEN, service))
            # Airflow's operator names its pod after its task.
            client["metadata"]["generateName"] = f"{task.replace('_', '-')}-"
            if kind.has_service:
                yield _service(task, server, block.generations)
            alone = ", on each of the nodes in turn" if kind.client_node == kind.server_node else ""
            yield _pods(task, f"one pair for each generation{alone}", server, client, count=block.generations)

    def _node_settings(self, task: str, told: BlockOutline, *, first: bool) -> Iterator[Act]:
        if first:
            for name in self.pair.names:
                yield Act(
                    task, "change", f"Node {name}", f"label {protocol.WINDOW}={WINDOW_ID}; removed at the end"
                )
        if told.writes and self.cilium.node_config is not None:
            body = bigtcp_switch.node_config(self.cilium, self.holder, WINDOW_ID, told.block.arm)
            there = not first or self.node_config
            end = "put back as it was" if self.node_config else "deleted"
            note = f"BIG TCP {told.block.arm} on both nodes; {end} at the end"
            yield Act(task, "change" if there else "create", _name(body), note, (body,))

    def _control(self, task: str, block: Block) -> Iterator[Act]:
        try:
            server, client, _ = control_pods(self.plan, self.pair, self.holder, block.number, block.arm, TOKEN)
        except MeasurementFailed:
            return
        yield _pods(task, "the control between the nodes themselves", server, client)

    def _cluster_settings(self, task: str, told: BlockOutline) -> Iterator[Act]:
        where = self.cilium.namespace
        if told.writes:
            body = {"data": bigtcp_switch.settings(told.block.arm)}
            note = f"BIG TCP {told.block.arm} for all nodes; put back at the end"
            yield Act(task, "change", f"ConfigMap {where}/{CONFIGMAP_NAME}", note, (body,))
        if told.rolls:
            note = f"annotation {protocol.RESTARTED} of its pods; removed at the end"
            yield Act(task, "change", f"DaemonSet {where}/{self.cilium.daemonset}", note)
            yield Act(task, "restart", "every agent of Cilium", "in turn, as the DaemonSet's update strategy says")

    def guardian_removed(self) -> list[Act]:
        """Return what becomes of the guardian, if there can be one."""
        there = self.plan.guardian and not guardian_objects.obstacle(self.api)
        return _guardian_removed("restore_config") if there else []

    def probes(self, task: str, purpose: str) -> Iterator[Act]:
        """Yield the looks at both nodes."""
        yield _pods(
            task, purpose, *(probe_pod(self.plan, name, sample_s=LOAD_SAMPLE_S) for name in self.pair.names)
        )


def _pods(task: str, purpose: str, *found: JsonObject, count: int = 1) -> Act:
    names = list(dict.fromkeys(pod["metadata"]["generateName"].removesuffix("-") for pod in found))
    what = f"pods {' and '.join(names)} on {' and '.join(pods.node_of(pod) for pod in found)}"
    return Act(task, "create", what, f"{purpose}; deleted", found, count)


def _service(task: str, server: JsonObject, count: int = 1) -> Act:
    # Its owner has a name and a uid only when it runs.
    owner = {**server["metadata"], "name": f"{server['metadata']['generateName']}…", "uid": "POD-UID"}
    body = build_service({"metadata": owner})
    note = "leads to the pod that receives, which owns it; deleted"
    return Act(task, "create", _name(body), note, (body,), count)


def _reruns(plan: Plan) -> list[str]:
    if plan.is_aa or not plan.again:
        return []
    ids = [task_ids(RERUN_ORDER, slot, RERUN_PREFIX) for slot in range(1, len(RERUN_ORDER) + 1)]
    return [name for pair in ids for name in pair]


def _name(body: JsonObject) -> str:
    meta = body["metadata"]
    name = meta.get("name") or f"{meta['generateName']}…"
    namespace = f"{meta['namespace']}/" if meta.get("namespace") else ""
    return f"{body['kind']} {namespace}{name}"
