"""What a run would do to a cluster, object by object and in order, found out without doing any of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

from bigtcp_bench.cluster import (
    bigtcp_switch,
    guardian_objects,
    pods,
    reach,
    requirements,
    rights,
    saved_state,
)
from bigtcp_bench.cluster.api import (
    CONFIGMAP,
    LEASE,
    NAMESPACE,
    NODE,
    POD,
    PRIORITYCLASS,
    ClusterApi,
    JsonObject,
)
from bigtcp_bench.cluster.checks import Check
from bigtcp_bench.cluster.cilium import CONFIGMAP_NAME, KEYS, Cilium, Merged, rollout_rounds
from bigtcp_bench.cluster.node_counters import LOAD_SAMPLE_S
from bigtcp_bench.cluster.nodes import NodePair
from bigtcp_bench.cluster.requirements import Seen
from bigtcp_bench.cluster.rights import Right
from bigtcp_bench.errors import MeasurementFailed
from bigtcp_bench.in_cluster import protocol
from bigtcp_bench.in_cluster.protocol import merged_settings
from bigtcp_bench.measuring import packet_sizes
from bigtcp_bench.measuring.control import control_pods
from bigtcp_bench.measuring.generation import client_pod, generations_of, orders_of, server_pod
from bigtcp_bench.planning.duration import Estimate, estimate
from bigtcp_bench.planning.plan import (
    RERUN_ORDER,
    RERUN_PREFIX,
    SLOT_ARMS,
    Block,
    Family,
    Plan,
    blocks,
    task_ids,
)
from bigtcp_bench.readings.orders import ProbeOrders
from bigtcp_bench.resources import load_manifest

Verb = Literal["create", "change", "delete", "restart"]

#: Stand in manifests for what only a run has: the id of its window, the token of two pods, the server's addresses.
WINDOW_ID = "WINDOW-ID"
TOKEN = "0" * 32
ADDRESSES: dict[Family, str] = {"ipv4": "192.0.2.1", "ipv6": "2001:db8::1"}


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
    #: Tasks that measure scenarios again on nights that are far off.
    reruns: list[str]


def outline(api: ClusterApi, plan: Plan, pair: NodePair, holder: str) -> Outline:
    """Return what a run of ``plan`` by ``holder`` would do on ``pair``. Only reads; starts no pod.

    Raises what ``requirements.preflight`` raises.
    """
    found = requirements.preflight(api, plan, pair, holder=holder, with_pods=False)
    seen = found.seen
    start, rounds = _start(api, seen), rollout_rounds(seen.daemonset)
    merged = {name: start.merged[name] for name in pair.names}
    told = list(_blocks(plan, pair, merged, start.data))
    needed = rights.needed(plan.scope, seen.cilium, pair.names)
    sketch = _Sketch(api, plan, pair, seen.cilium, holder, start.node_config)
    acts = [
        *start.acts,
        *sketch.preparation(),
        *sketch.window(),
        *(act for position, block in enumerate(told) for act in sketch.block(block, position)),
        *sketch.end(told, merged),
    ]
    return Outline(
        plan=plan,
        pair=pair,
        cilium=seen.cilium,
        checks=found.checks,
        blocks=told,
        acts=acts,
        duration=estimate(plan, start.restarts + sketch.restarts(told, merged, rounds)),
        rights=needed,
        lacking=rights.missing(api, needed),
        unknown=requirements.unknown_without_pods(plan),
        reruns=_reruns(plan),
    )


@dataclass
class _Start:
    """The cluster when a run saves its state: as it is, or as it is once an earlier run's leftovers were put back.

    ``merged`` is what agents were told, ``data`` what ``cilium-config`` says, ``node_config`` whether there is a
    CiliumNodeConfig of our name; ``acts`` is what the run does to get there, as ``guard.restore`` does it, and
    ``restarts`` how often it restarts agents one after the other.
    """

    merged: dict[str, Merged | None]
    data: dict[str, str]
    node_config: bool
    acts: list[Act] = field(default_factory=list)
    restarts: int = 0


def _start(api: ClusterApi, seen: Seen) -> _Start:
    """Return what the first block finds. Raises RestoreFailed if the saved state cannot be understood."""
    found = next((one for one in seen.node_configs if one["metadata"]["name"] == protocol.NODE_CONFIG_NAME), None)
    merged = {name: agent.merged for name, agent in seen.agents.items()}
    start = _Start(merged, dict(seen.config.get("data") or {}), found is not None)
    if seen.abandoned:
        _put_back(api, seen, saved_state.read_state(api), found, start)
    return start


def _put_back(
    api: ClusterApi, seen: Seen, state: saved_state.SavedState | None, written: JsonObject | None, start: _Start
) -> None:
    """Add to ``start`` what the restore of leftovers does, and what is in force after it."""
    owner = state.holder if state is not None else "an earlier run"

    def act(verb: Verb, what: str, note: str) -> None:
        start.acts.append(Act("check_kernel", verb, what, f"left behind by {owner}; {note}"))

    cilium, saved = seen.cilium, state.nodes if state is not None else {}
    for pod in api.select(POD, pods.BENCH_NAMESPACE, labels=pods.selector(pods.ALL_ROLES)):
        act("delete", f"Pod {pods.BENCH_NAMESPACE}/{pod['metadata']['name']}", "not needed any more")
    # Not of the pair only: the earlier run may have had other nodes.
    nodes = [
        *api.select(NODE, labels=protocol.WINDOW),
        *(node for name in saved if (node := api.find(NODE, name))),
    ]
    labels = {node["metadata"]["name"]: dict(node["metadata"].get("labels") or {}) for node in nodes}
    labelled = [name for name, found in labels.items() if found.pop(protocol.WINDOW, None) is not None]
    for name in labelled:
        act("change", f"Node {name}", f"label {protocol.WINDOW} removed")

    prior = state.node_config if state is not None else None
    ours = written is not None and protocol.WINDOW in (written["metadata"].get("annotations") or {})
    what = f"CiliumNodeConfig {cilium.namespace}/{protocol.NODE_CONFIG_NAME}"
    configs = [item for item in seen.node_configs if item is not written]
    if prior is not None:
        if ours or written is None:
            act("change" if ours else "create", what, "as it was before")
        configs.append({"metadata": {"name": protocol.NODE_CONFIG_NAME}, "spec": prior["spec"]})
    elif written is not None and (ours or state is not None):
        act("delete", what, "there was none before")
    elif written is not None:
        configs.append(written)
    start.node_config = any(item["metadata"]["name"] == protocol.NODE_CONFIG_NAME for item in configs)

    rolls = False
    if state is None or state.scope == "cluster":
        annotations = seen.config["metadata"].get("annotations") or {}
        arm = annotations.get(protocol.ARM)
        if arm in ("off", "on"):
            values = state.config_map if state is not None else protocol.prior_values(seen.config)
            how = "both keys as they were" if values is not None else "cannot be: nobody knows what it was"
            act("change", f"ConfigMap {cilium.namespace}/{CONFIGMAP_NAME}", how)
            if start.data.items() >= bigtcp_switch.settings(arm).items():
                kept = {**start.data, **(values or {})}
                start.data = {key: value for key, value in kept.items() if value is not None}
        rolls = protocol.RESTARTED in (seen.daemonset["spec"]["template"]["metadata"].get("annotations") or {})
        if rolls:
            act("change", f"DaemonSet {cilium.namespace}/{cilium.daemonset}", "annotation removed")
            act("restart", "every agent of Cilium", "in turn")
            start.restarts += rollout_rounds(seen.daemonset)
    for name in (name for name in dict.fromkeys([*saved, *labelled]) if name in labels):
        agent = seen.agents.get(name) or requirements.look_at_agent(api, cilium, seen.daemonset, name)
        by_rules = merged_settings(KEYS, start.data, configs, labels[name])
        start.merged[name] = by_rules
        if agent.merged != start.merged[name] and not rolls:
            act("delete", f"Pod of Cilium's agent on {name}", "a restart with the settings as before")
            start.restarts += 1
    if saved:
        act("create", f"pods bigtcp-probe on {' and '.join(saved)}", "to verify the limits; deleted")
    if state is not None:
        what = f"ConfigMap {pods.BENCH_NAMESPACE}/{protocol.STATE_NAME}"
        act("change", what, "its finalizer removed")
        act("delete", what, "all is as it says")
    if guardian_objects.is_there(api):
        for kind in ("CronJob", "ConfigMap"):
            act("delete", f"{kind} {pods.BENCH_NAMESPACE}/{protocol.GUARDIAN_NAME}", "nothing left to guard")


def _blocks(
    plan: Plan, pair: NodePair, merged: dict[str, Merged | None], data: dict[str, str]
) -> Iterator[BlockOutline]:
    """Yield the blocks. ``merged`` is what agents were told, ``data`` what ``cilium-config`` says."""
    written = dict(data) if plan.scope == "cluster" else {}
    for block in blocks(plan):
        wanted: Merged = dict.fromkeys(KEYS, block.arm == "on")
        settings = bigtcp_switch.settings(block.arm)
        writes = any(written.get(key) != value for key, value in settings.items())
        rolls = plan.scope == "cluster" and (writes or plan.is_aa)
        stale = () if rolls else tuple(name for name in pair.names if plan.is_aa or merged[name] != wanted)
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
        yield from self._probes(task, "look at both nodes, end after seconds")
        server = reach.server_pod(self.plan, self.pair, self.holder, TOKEN)
        client = reach.client_pod(self.plan, self.pair, self.holder, ADDRESSES)
        yield _pods(task, "see whether pods reach each other", server, client)

    def window(self) -> Iterator[Act]:
        """Yield what snapshot_config does."""
        task = "snapshot_config"
        body = load_manifest("lease.yaml")
        body["metadata"]["annotations"] = {protocol.WINDOW: WINDOW_ID}
        body["spec"].update(holderIdentity=self.holder, leaseDurationSeconds=round(protocol.LEASE_S))
        verb: Verb = (
            "create" if self.api.find(LEASE, protocol.LEASE_NAME, pods.BENCH_NAMESPACE) is None else "change"
        )
        yield Act(
            task, verb, _name(body), "holds the cluster, renewed while tasks work; given back, stays", (body,)
        )
        yield from self._probes(task, "read the limits that are saved")
        if self.plan.guardian and not guardian_objects.obstacle(self.api):
            secrets = self.plan.image_pull_secrets
            note = "puts the cluster back if Airflow never comes back; deleted at the end"
            script = guardian_objects.config_map(self.plan.image, secrets)
            yield Act(task, "create", _name(script), "the guardian's script; deleted at the end", (script,))
            job = guardian_objects.cronjob(self.plan.image, self.api.now(), self.pair, secrets)
            yield Act(task, "create", _name(job), note, (job,))
        state = f"ConfigMap {pods.BENCH_NAMESPACE}/{protocol.STATE_NAME}"
        yield Act(task, "create", state, "the state before the first change, immutable; deleted at the end")

    def block(self, told: BlockOutline, position: int) -> Iterator[Act]:
        """Yield what the two tasks of one block do."""
        switch, measure = told.tasks
        if self.plan.load_gate.mode != "warn":
            yield from self._probes(switch, "sample the load before the switch")
        change = self._cluster_settings if self.plan.scope == "cluster" else self._node_settings
        yield from change(switch, told, first=position == 0)
        yield from self._probes(switch, "prove the arm on the devices")
        if self.plan.control:
            yield from self._control(switch, told.block)
        if self.plan.packet_sizes:
            block = told.block
            receives = packet_sizes.server_pod(self.plan, self.pair, self.holder, block.number, block.arm, TOKEN)
            sends, _ = packet_sizes.client_pod(
                self.plan, self.pair, self.holder, block.number, block.arm, self._addresses(), TOKEN
            )
            yield _pods(switch, "capture a second of traffic over each family", receives, sends)
        yield from self._probes(switch, "read the counters at the beginning")
        of_block = generations_of(told.block, run=0, run_key=self.holder, nodes=self.pair.names)
        server = server_pod(of_block[0], self.plan, TOKEN)
        client = client_pod(of_block[0], self.plan, orders_of(of_block[0], self.plan, ADDRESSES, TOKEN))
        yield _pods(measure, "one pair for each generation", server, client, count=len(of_block))

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
        yield from self._restarts(task, told)

    def _restarts(self, task: str, told: BlockOutline) -> Iterator[Act]:
        for name in told.restarts:
            yield Act(
                task, "delete", f"Pod of Cilium's agent on {name}", "its DaemonSet makes a new one: a restart"
            )

    def _control(self, task: str, block: Block) -> Iterator[Act]:
        try:
            server, client, _ = control_pods(self.plan, self.pair, self.holder, block.number, block.arm, TOKEN)
        except MeasurementFailed:
            return
        yield _pods(task, "the control between the nodes themselves", server, client)

    def _addresses(self) -> dict[Family, str]:
        return {
            family: address for family, address in ADDRESSES.items() if family in packet_sizes.families(self.plan)
        }

    def _cluster_settings(self, task: str, told: BlockOutline, *, first: bool) -> Iterator[Act]:
        del first
        where = self.cilium.namespace
        if told.writes:
            body = {"data": bigtcp_switch.settings(told.block.arm)}
            note = f"BIG TCP {told.block.arm} for all nodes; put back at the end"
            yield Act(task, "change", f"ConfigMap {where}/{CONFIGMAP_NAME}", note, (body,))
        if told.rolls:
            note = f"annotation {protocol.RESTARTED} of its pods; removed at the end"
            yield Act(task, "change", f"DaemonSet {where}/{self.cilium.daemonset}", note)
            yield Act(task, "restart", "every agent of Cilium", "in turn, as the DaemonSet's update strategy says")
        yield from self._restarts(task, told)

    def restored(self, told: list[BlockOutline], before: dict[str, Merged | None]) -> list[str]:
        """Return the nodes whose agents the restore restarts."""
        last: Merged = dict.fromkeys(KEYS, told[-1].block.arm == "on")
        return [name for name in self.pair.names if before[name] != last]

    def restarts(self, told: list[BlockOutline], before: dict[str, Merged | None], rounds: int) -> int:
        """Return how often agents restart one after the other; a rollout of all counts ``rounds`` times."""
        single = sum(len(block.restarts) for block in told)
        if self.plan.scope == "nodes":
            return single + len(self.restored(told, before))
        rollouts = sum(block.rolls for block in told)
        return single + (rollouts + bool(rollouts)) * rounds

    def end(self, told: list[BlockOutline], before: dict[str, Merged | None]) -> Iterator[Act]:
        """Yield what comes after the blocks."""
        yield from self._probes("collect_counters", "read the counters at the end")
        task = "restore_config"
        back = self.restored(told, before)
        if self.plan.scope == "cluster":
            where = self.cilium.namespace
            if any(block.writes for block in told):
                yield Act(task, "change", f"ConfigMap {where}/{CONFIGMAP_NAME}", "both keys as they were")
            if any(block.rolls for block in told):
                yield Act(task, "change", f"DaemonSet {where}/{self.cilium.daemonset}", "annotation removed")
                yield Act(task, "restart", "every agent of Cilium", "in turn")
        else:
            for name in self.pair.names:
                yield Act(task, "change", f"Node {name}", f"label {protocol.WINDOW} removed")
            what = f"CiliumNodeConfig {self.cilium.namespace}/{protocol.NODE_CONFIG_NAME}"
            yield Act(task, "change", what, "as it was before") if self.node_config else Act(task, "delete", what)
            for name in back:
                yield Act(
                    task, "delete", f"Pod of Cilium's agent on {name}", "a restart with the settings as before"
                )
        yield from self._probes(task, "verify the limits")
        what = f"ConfigMap {pods.BENCH_NAMESPACE}/{protocol.STATE_NAME}"
        yield Act(task, "change", what, "its finalizer removed")
        yield Act(task, "delete", what)
        if self.plan.guardian and not guardian_objects.obstacle(self.api):
            for kind in ("CronJob", "ConfigMap"):
                yield Act(task, "delete", f"{kind} {pods.BENCH_NAMESPACE}/{protocol.GUARDIAN_NAME}")
        yield Act(task, "change", f"Lease {pods.BENCH_NAMESPACE}/{protocol.LEASE_NAME}", "given back")

    def _probes(self, task: str, purpose: str) -> Iterator[Act]:
        orders = ProbeOrders(sample_s=LOAD_SAMPLE_S).to_argument()
        image, secrets = self.plan.image, self.plan.image_pull_secrets
        found = [
            pods.build_pod("probe", image=image, node=name, orders=orders, pull_secrets=secrets)
            for name in self.pair.names
        ]
        yield _pods(task, purpose, *found)


def _pods(task: str, purpose: str, *found: JsonObject, count: int = 1) -> Act:
    names = list(dict.fromkeys(pod["metadata"]["generateName"].removesuffix("-") for pod in found))
    what = f"pods {' and '.join(names)} on {' and '.join(pods.node_of(pod) for pod in found)}"
    return Act(task, "create", what, f"{purpose}; deleted", found, count)


def _reruns(plan: Plan) -> list[str]:
    if plan.is_aa:
        return []
    ids = [task_ids(RERUN_ORDER, slot, RERUN_PREFIX) for slot in range(1, len(RERUN_ORDER) + 1)]
    return [name for pair in ids for name in pair]


def _name(body: JsonObject) -> str:
    meta = body["metadata"]
    name = meta.get("name") or f"{meta['generateName']}…"
    namespace = f"{meta['namespace']}/" if meta.get("namespace") else ""
    return f"{body['kind']} {namespace}{name}"
