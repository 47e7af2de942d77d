"""Putting one arm in force on the two nodes, and proving that it is.

A switch is believed only when four things agree on both nodes: the settings as merged for a new agent pod, what
that agent reports as its sizes (its "Enabled" merely repeats the request), the limits of the devices it selects,
and, later, the packets themselves.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bigtcp_bench.cluster import agent_settings, at_once, guardian_objects, pods, probe, saved_state
from bigtcp_bench.cluster.agents import Agent, read_agent
from bigtcp_bench.cluster.api import (
    CONFIGMAP,
    DAEMONSET,
    NODE,
    ApiProblem,
    ClusterApi,
    Conflict,
    JsonObject,
    NotFound,
)
from bigtcp_bench.cluster.cilium import (
    CONFIGMAP_NAME,
    AgentStatus,
    Cilium,
    Limits,
    Merged,
    Progress,
    agent_pod,
    await_rollout,
    config_values,
    find_cilium,
    is_ready,
    judge_limits,
    judge_status,
    ready_agent,
    restart_agent,
    rollout,
)
from bigtcp_bench.cluster.lease import Fence
from bigtcp_bench.cluster.nodes import NodePair
from bigtcp_bench.cluster.saved_state import SavedState
from bigtcp_bench.errors import FenceLost, SwitchFailed
from bigtcp_bench.in_cluster import protocol, treatment
from bigtcp_bench.in_cluster.protocol import selects
from bigtcp_bench.in_cluster.treatment import KEYS, settings_of, switched
from bigtcp_bench.planning.plan import SCENARIOS, Arm, Family, Plan
from bigtcp_bench.resources import load_manifest


@dataclass
class NodeProof(Agent):
    """What proves the arm on one node; sizes in bytes."""

    node: str
    restarted: bool
    restart_s: float
    max_gso: dict[Family, int | None]
    max_gro: dict[Family, int | None]
    limits: Limits


@dataclass
class SwitchReport:
    """What a switch did and what proves it. ``changed`` lists the objects that were written.

    ``seconds`` passed until the agents were ready again; 0 where none was restarted.
    """

    arm: Arm
    scope: str
    seconds: float = 0.0
    changed: list[str] = field(default_factory=list)
    nodes: dict[str, NodeProof] = field(default_factory=dict)

    @property
    def restarted(self) -> bool:
        """Return whether an agent was restarted; False if the arm was in force already."""
        return any(proof.restarted for proof in self.nodes.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a task's result or the warehouse."""
        return {**asdict(self), "restarted": self.restarted}

    def __str__(self) -> str:
        how = (
            f"agents restarted in {self.seconds:.0f} s"
            if self.restarted
            else "already in force, nothing restarted"
        )
        return f"BIG TCP is {self.arm} on {' and '.join(self.nodes)}, proven on the devices ({how})"


def families_of(plan: Plan) -> tuple[Family, ...]:
    """Return the IP families that a plan measures; only these must be proven to be on."""
    return tuple(dict.fromkeys(SCENARIOS[name].family for name in plan.scenarios))


def switch(
    api: ClusterApi,
    fence: Fence,
    arm: Arm,
    pair: NodePair,
    plan: Plan,
    *,
    force_restart: bool = False,
    in_force: Callable[[str], object] = lambda node: None,
    meanwhile: Callable[[], object] = lambda: None,
    progress: Progress = lambda text: None,
) -> SwitchReport:
    """Put ``arm`` in force on the nodes of ``pair`` and return the proof.

    Agents are restarted one node at a time, and not at all where the arm is in force and proven already
    (``force_restart`` restarts them nevertheless: in an A/A run a restart is part of what is measured). Benchmark
    pods are deleted first, since they would keep the limits they were created with. ``in_force`` is called with
    the receiver once its agent has the arm, before the sender's is restarted. ``meanwhile`` is called while the
    nodes are looked at, and once more if an agent is restarted after that. Raises SwitchFailed, naming node,
    device, value and what was wanted; FenceLost if the cluster is not this run's (any more).
    """
    started = api.monotonic()
    state = saved_state.open_state(api, fence)
    silence = guardian_objects.silence(api)
    if silence:
        progress(silence)
    cilium = find_cilium(api)
    told = _refuse_pending(api, cilium, pair, state.scope)
    gone = pods.delete_pods(api, before=fence.check)
    if gone:
        progress(f"deleted {len(gone)} benchmark pods, which would have kept the old limits")
    report = SwitchReport(arm, state.scope)
    switching = _Switching(api, fence, arm, pair, plan, state, cilium, report, progress)
    rolled = switching.write(force_restart=force_restart)
    stale = list(pair.names)
    if rolled or not force_restart:
        known = {} if rolled else told
        merged = at_once.of_each(pair.names, lambda name: known.get(name) or _merged_now(api, cilium, name))
        stale = [name for name in pair.names if merged[name] != switched(arm)]
        if not stale and not rolled:
            problems = switching.verify(meanwhile)
            if not problems:
                return report
            stale = [name for name in pair.names if any(f"node {name}:" in text for text in problems)]
            progress(f"{problems[0]}; restarting the agent there")
            pods.delete_pods(api, before=fence.check)
    seconds = switching.restart(stale, in_force)
    report.seconds = api.monotonic() - started
    problems = switching.verify(meanwhile)
    for name, proof in report.nodes.items():
        proof.restarted, proof.restart_s = rolled or name in seconds, seconds.get(name, 0.0)
    # What is found after the window was closed says nothing about the arm.
    fence.check()
    if problems:
        more = f" (and {len(problems) - 1} more findings)" if len(problems) > 1 else ""
        raise SwitchFailed(f"BIG TCP could not be proven to be {arm}: {problems[0]}{more}", report.to_dict())
    return report


def _refuse_pending(api: ClusterApi, cilium: Cilium, pair: NodePair, scope: str) -> dict[str, Merged]:
    """Raise SwitchFailed where a restart would put in force what somebody has written since the run began.

    Returns what the agents were told, as far as they say it.
    """
    daemonset = api.get(DAEMONSET, cilium.daemonset, cilium.namespace)

    def read(name: str) -> tuple[agent_settings.Settings | None, agent_settings.Settings | None]:
        agent = agent_pod(api, cilium, name)
        if agent is None or not is_ready(agent):
            return None, None
        told = agent_settings.told(api, cilium, agent["metadata"]["name"])
        return told, agent_settings.of_next_start(api, cilium, daemonset, name)

    merged = {}
    for name, (told, then) in at_once.of_each(pair.names, read).items():
        if told is None:
            continue
        merged[name] = treatment.told(told)
        found = [] if then is None else agent_settings.differences(told, then)
        if found:
            text = agent_settings.pending_text(found)
            raise SwitchFailed(f"node {name}: {text}; {agent_settings.PENDING_ADVICE}")
    if scope == "cluster":
        others = agent_settings.pending_elsewhere(api, cilium, daemonset, pair.names, switched=True)
        if others:
            text = agent_settings.elsewhere_text(others)
            raise SwitchFailed(f"{text}; {agent_settings.PENDING_ADVICE}")
    return merged


def _merged_now(api: ClusterApi, cilium: Cilium, node: str) -> Merged:
    name = ready_agent(api, cilium, node)["metadata"]["name"]
    return agent_settings.read_told(api, cilium, name)[1]


def settings(arm: Arm) -> dict[str, str]:
    """Return the two keys of Cilium's configuration, spelled out for ``arm``."""
    return settings_of(switched(arm))


def node_config(cilium: Cilium, holder: str, window: str, arm: Arm) -> JsonObject:
    """Return the CiliumNodeConfig that puts ``arm`` in force for the nodes of a window."""
    body = load_manifest("ciliumnodeconfig.yaml")
    body["apiVersion"] = cilium.node_config_kind.api_version
    body["metadata"]["namespace"] = cilium.namespace
    body["metadata"]["annotations"] = {protocol.HOLDER: holder, protocol.WINDOW: window}
    body["spec"] = {
        "nodeSelector": {"matchLabels": {protocol.WINDOW: window}},
        "defaults": settings(arm),
    }
    return body


def _carries(found: JsonObject, window: str) -> bool:
    return protocol.annotations_of(found).get(protocol.WINDOW) == window


@dataclass
class _Switching:
    """One switch under way: writes the arm, restarts agents, and reads everything back into ``report``."""

    api: ClusterApi
    fence: Fence
    arm: Arm
    pair: NodePair
    plan: Plan
    state: SavedState
    cilium: Cilium
    report: SwitchReport
    progress: Progress

    def write(self, *, force_restart: bool) -> bool:
        """Write the arm where new agents find it; return whether all agents were restarted."""
        try:
            if self.state.scope == "nodes":
                self._write_for_nodes()
                return False
            rolled = self._write_for_cluster(force_restart)
            self.cilium = replace(self.cilium, template=find_cilium(self.api).template)
            return rolled
        except FenceLost:
            self._withdraw()
            raise

    def restart(self, stale: Collection[str], in_force: Callable[[str], object]) -> dict[str, float]:
        """Restart the agents of the ``stale`` nodes; return how many seconds each took until it was ready."""
        sender, receiver = self.pair.names
        seconds: dict[str, float] = {}
        for name in (receiver, sender):
            if name in stale:
                begun = self.api.monotonic()
                self.progress(f"restarting the Cilium agent on {name}")
                with self.fence.mutating(f"restart the Cilium agent on node {name}"):
                    restart_agent(self.api, self.cilium, name, before=self.fence.check)
                seconds[name] = self.api.monotonic() - begun
                self.progress(f"the Cilium agent on {name} is ready after {seconds[name]:.1f} s")
            if name == receiver and sender in stale:
                in_force(receiver)
        return seconds

    def verify(self, meanwhile: Callable[[], object]) -> list[str]:
        """Read everything back and return what contradicts the arm, one sentence each."""
        arm, families = self.arm, families_of(self.plan)
        problems: list[str] = []

        def ask(name: str) -> tuple[Agent, AgentStatus]:
            return read_agent(self.api, self.cilium, ready_agent(self.api, self.cilium, name))

        with probe.probing(self.api, self.plan, self.pair.names) as collect:
            asked = at_once.begin(lambda: at_once.of_each(self.pair.names, ask))
            read = at_once.begin(collect)
            meanwhile()
            told, probes = asked.result(), read.result()
        for node in self.pair.nodes:
            agent, status = told[node.name]
            seen = probes[node.name]
            limits = seen.limits(seen.path_devices(status, node.internal_ips))
            self.report.nodes[node.name] = NodeProof(
                **vars(agent),
                node=node.name,
                restarted=False,
                restart_s=0.0,
                max_gso=status.max_gso,
                max_gro=status.max_gro,
                limits=limits,
            )
            for family, value in agent.merged.items():
                if value != (arm == "on"):
                    problems.append(
                        f"node {node.name}: the agent was told {KEYS[family]}={str(value).lower()}, wanted "
                        f"{str(arm == 'on').lower()}; {self._overruled(node.name)}"
                    )
            problems += judge_status(node.name, arm, status, families)
            problems += judge_limits(node.name, arm, limits, families)
        return problems

    def _overruled(self, node: str) -> str:
        """Return why an agent was told otherwise than the benchmark has written, as far as its objects tell it."""
        api, cilium, wanted = self.api, self.cilium, settings(self.arm)
        if self.state.scope == "cluster":
            data = config_values(api, cilium)
            if any(data.get(key) != value for key, value in wanted.items()):
                return f"somebody else, such as Argo CD or Flux, has put {CONFIGMAP_NAME} back"
            return (
                "a CiliumNodeConfig or another source of the init container 'config' overrules " + CONFIGMAP_NAME
            )
        found = api.find(cilium.node_config_kind, protocol.NODE_CONFIG_NAME, cilium.namespace)
        if found is None or found["spec"].get("defaults") != wanted:
            return f"somebody else has removed or changed CiliumNodeConfig {protocol.NODE_CONFIG_NAME}"
        if not selects(found["spec"].get("nodeSelector"), api.get(NODE, node)["metadata"].get("labels") or {}):
            return f"somebody else has removed the label {protocol.WINDOW} from the node"
        return (
            "another CiliumNodeConfig or a restriction of the init container 'config' overrules the benchmark's "
            f"{protocol.NODE_CONFIG_NAME}"
        )

    def _until_written(
        self, what: str, undone: str, attempt: Callable[[], bool], *passing: type[ApiProblem]
    ) -> bool:
        """Return what ``attempt`` does, repeated while somebody else changes ``what`` at the same moments."""
        for _ in self.api.poll(30, 0.2):
            with contextlib.suppress(Conflict, *passing):
                return attempt()
        raise SwitchFailed(f"{what} is being changed by somebody else all the time; {undone}")

    # Scope nodes

    def _write_for_nodes(self) -> None:
        """Write the CiliumNodeConfig of the arm and the label by which it selects the two nodes."""
        api, fence, name = self.api, self.fence, protocol.NODE_CONFIG_NAME
        for node in self.pair.names:
            self._label(node)
        namespace, kind = self.cilium.namespace, self.cilium.node_config_kind
        wanted = node_config(self.cilium, fence.holder, fence.window, self.arm)

        def attempt() -> bool:
            found = api.find(kind, name, namespace)
            if found is not None and found["spec"] == wanted["spec"]:
                return False
            with fence.mutating(f"write CiliumNodeConfig {name} ({self.arm})"):
                if found is None:
                    api.create(kind, wanted, namespace, before=fence.check)
                else:
                    body = {**wanted, "metadata": {**found["metadata"], **wanted["metadata"]}}
                    api.replace(kind, body, namespace, before=fence.check)
            self.report.changed.append(f"CiliumNodeConfig {namespace}/{name}")
            self.progress(f"CiliumNodeConfig {name} says {self.arm} for {' and '.join(self.pair.names)}")
            return True

        self._until_written(f"CiliumNodeConfig {name}", "it could not be written", attempt, NotFound)

    def _label(self, node: str) -> None:
        def attempt() -> bool:
            meta = self.api.get(NODE, node)["metadata"]
            if (meta.get("labels") or {}).get(protocol.WINDOW) == self.fence.window:
                return False
            # The kubelet writes its node too; the version makes sure that nothing of that is lost.
            labels = {"resourceVersion": meta["resourceVersion"], "labels": {protocol.WINDOW: self.fence.window}}
            with self.fence.mutating(f"label node {node}"):
                self.api.patch(NODE, node, {"metadata": labels}, before=self.fence.check)
            self.report.changed.append(f"label {protocol.WINDOW} on node {node}")
            return True

        self._until_written(f"node {node}", "it could not be labelled", attempt)

    # Scope cluster

    def _write_for_cluster(self, force_restart: bool) -> bool:
        """Write the arm into ``cilium-config`` and restart all agents if need be; return whether they were."""
        api, fence, cilium, arm = self.api, self.fence, self.cilium, self.arm
        what = f"DaemonSet {cilium.daemonset}"

        def attempt() -> bool:
            found = api.get(DAEMONSET, cilium.daemonset, cilium.namespace)
            # An attempt that ended early may have come so far; then its restart goes on by itself.
            if (protocol.restarted_by(found) or "").startswith(f"{fence.window}-{arm}-") and not force_restart:
                return False
            self.progress(f"{CONFIGMAP_NAME} says {arm}; restarting all agents of {what} in turn")
            with fence.mutating(f"restart the agents of {what}"):
                rollout(api, cilium, found, f"{fence.window}-{arm}-{int(api.now() * 1000)}", before=fence.check)
            self.report.changed.append(f"DaemonSet {cilium.namespace}/{cilium.daemonset}")
            return True

        if not self._write_config_map() and not force_restart:
            return False
        rolled = self._until_written(what, "its agents could not be restarted", attempt)
        await_rollout(api, cilium)
        return rolled

    def _write_config_map(self) -> bool:
        """Make ``cilium-config`` say the arm; return False if it did so before this window."""
        api, fence, arm, namespace = self.api, self.fence, self.arm, self.cilium.namespace

        def attempt() -> bool:
            found = api.get(CONFIGMAP, CONFIGMAP_NAME, namespace)
            data = found.get("data") or {}
            if all(data.get(key) == value for key, value in settings(arm).items()):
                return _carries(found, fence.window)
            annotations = {
                protocol.ARM: arm,
                protocol.WINDOW: fence.window,
                protocol.HOLDER: fence.holder,
                protocol.PRIOR: json.dumps(self.state.config_map),
            }
            body = {
                "metadata": {"resourceVersion": found["metadata"]["resourceVersion"], "annotations": annotations},
                "data": settings(arm),
            }
            with fence.mutating(f"write {CONFIGMAP_NAME} ({arm})", config_map=True):
                api.patch(CONFIGMAP, CONFIGMAP_NAME, body, namespace, before=fence.check)
            self.report.changed.append(f"ConfigMap {namespace}/{CONFIGMAP_NAME}")
            return True

        return self._until_written(CONFIGMAP_NAME, "it could not be written", attempt)

    # After the right to change anything was lost

    def _withdraw(self) -> None:
        """Take back what was written after the right to write it was gone: only what carries this very window.

        A restore that ended before the write has not seen it, and may have deleted the saved state.
        """
        api, cilium, window, state = self.api, self.cilium, self.fence.window, self.state
        if state.scope == "cluster":
            with contextlib.suppress(Conflict):
                found = api.get(CONFIGMAP, CONFIGMAP_NAME, cilium.namespace)
                undoing = protocol.undo_config_map(found, state.config_map, wrote=True)
                if _carries(found, window) and undoing.patch is not None:
                    api.patch(CONFIGMAP, CONFIGMAP_NAME, undoing.patch, cilium.namespace)
            with contextlib.suppress(Conflict):
                found = api.get(DAEMONSET, cilium.daemonset, cilium.namespace)
                if (protocol.restarted_by(found) or "").startswith(f"{window}-"):
                    rollout(api, cilium, found, None)
            return
        with contextlib.suppress(Conflict):
            config = api.find(cilium.node_config_kind, protocol.NODE_CONFIG_NAME, cilium.namespace)
            if config is not None and _carries(config, window):
                kind, prior = cilium.node_config_kind, state.node_config
                if prior is None:
                    api.delete(kind, protocol.NODE_CONFIG_NAME, cilium.namespace, uid=config["metadata"]["uid"])
                else:
                    body = protocol.node_config_as_before(config, prior, cilium.namespace, kind.api_version)
                    api.replace(kind, body, cilium.namespace)
        for name in state.nodes:
            with contextlib.suppress(Conflict, NotFound):
                meta = api.get(NODE, name)["metadata"]
                if (meta.get("labels") or {}).get(protocol.WINDOW) == window:
                    labels = {"resourceVersion": meta["resourceVersion"], "labels": {protocol.WINDOW: None}}
                    api.patch(NODE, name, {"metadata": labels})
