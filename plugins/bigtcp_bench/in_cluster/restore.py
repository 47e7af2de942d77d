"""Putting the cluster back: what every restore does, whoever does it, by the protocol of ``protocol.py``.

The teardown, the command, the next run and the guardian in the cluster run this code, each with hands of its own:
a client of the Kubernetes API, and what it may ask there. The dry run gives it hands that write down what would be
done. Standard library only, no syntax newer than Python 3.9: the guardian mounts this file.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from bigtcp_bench.in_cluster import protocol, treatment
from bigtcp_bench.in_cluster.hold import (
    NODES,
    PODS,
    Hands,
    Hold,
    Means,
    NotRestored,
    Refused,
    Report,
    delete_pods,
    forget_state,
)
from bigtcp_bench.in_cluster.objects import Objects
from bigtcp_bench.in_cluster.protocol import (
    IN_FLIGHT,
    NAMESPACE,
    RESTARTS,
    RESTORED,
    UNDONE,
    Json,
    SavedNode,
    SavedState,
    annotations_of,
    changed_keys,
    crashes,
    epoch,
    is_agent,
    is_ready,
    merged_settings,
    micro_time,
    node_trouble,
    present_agent,
    restarted_by,
    rollout_state,
    template_annotation,
    waiting_reason,
    words,
)
from bigtcp_bench.in_cluster.treatment import ALL_LIMITS, CLASSIC_MAX_PACKET_BYTES, KEYS


def put_back(
    hands: Hands,
    hold: Hold,
    state: SavedState,
    report: Report,
    means: Means,
    *,
    in_flight: str,
    by: str,
) -> None:
    """Put the cluster back to ``state``, verify it, and forget the state.

    ``in_flight`` is the mark that was found on the Lease; ``by`` is who restores, for the note that stays on it.
    Raises NotRestored, Lost and Refused; then the saved state stays, for the next attempt.
    """
    Restoration(hands, hold, state, report, means).run(in_flight)
    # Before the saved state goes: whoever asks after that must not hear that nothing was changed.
    hold.note({RESTORED: f"{state.holder} by {by} at {micro_time(hands.now())}"})
    forget_state(hands, hold.check)


class Restoration:
    """One restore: undo, restart what must be, read everything back."""

    def __init__(self, hands: Hands, hold: Hold, state: SavedState, report: Report, means: Means) -> None:
        self.hands = hands
        self.hold = hold
        self.state = state
        self.report = report
        self.means = means
        self.problems: list[str] = []
        self.objects = Objects(hands, hold, state, report, self.problems)
        #: When the settings had been undone; a restarted agent has the old ones from then on. 0: not yet.
        self.undone_at = 0.0
        self._restarted: set[str] = set()
        self._in_force = _InForce(hands, hold, state, report)
        cilium = f"/namespaces/{state.cilium_namespace}"
        self._agents = f"/api/v1{cilium}/pods"
        self._daemonset = f"/apis/apps/v1{cilium}/daemonsets/{state.cilium_daemonset}"

    def run(self, in_flight: str) -> None:
        """Do it, as ``put_back`` says, but for the end."""
        if in_flight:
            self.objects.in_flight = True
            self.report.waited_s = protocol.SETTLE_S
            self.report.say(f"a change was in flight ({in_flight}); waiting {protocol.SETTLE_S:g} s for its end")
            self.hands.sleep(protocol.SETTLE_S)
        self._delete_pods(self.means.traffic_pods)
        self._undo()
        if self.problems and not self.hands.sees_all:
            # By what they were told nobody could tell later which agents came back with what is still there.
            raise NotRestored("; ".join(self.problems))
        comparable = []
        for name, saved in self.state.nodes.items():
            try:
                if self._bring_back(name, saved):
                    comparable.append(name)
            except (Refused, NotRestored) as error:
                self.problems.append(str(error))
        self._verify_limits(comparable)
        # A task that was alive when its window was revoked may have started pods since; and the probes of a killed
        # one end by themselves, but nobody else deletes them.
        self._delete_pods(self.means.all_pods)
        if self.problems:
            raise NotRestored("; ".join(self.problems))

    def _undo(self) -> None:
        """Put objects back, note when that was done, and let all agents restart where a run had restarted all."""
        done = len(self.report.actions)
        self.objects.put_back()
        if self.problems:
            return
        self._note_undone(changed=len(self.report.actions) > done)
        # Agents that are all restarted before that would come back as they are, and nothing would tell it.
        if self.state.scope == "cluster":
            self._undo_rollout()
        if self.objects.in_flight and not self.problems:
            # It was waited for, and fits nothing any more.
            self.hold.note({IN_FLIGHT: None})

    def _delete_pods(self, labels: str) -> None:
        delete_pods(self.hands, self.hold, labels, self.report)

    def _note_undone(self, *, changed: bool) -> None:
        """Note on the Lease when the settings were undone: in this restore, or in one that got no further."""
        window, _, at = annotations_of(self.hold.check()).get(UNDONE, "").partition(" ")
        if window == self.state.window and at and not changed:
            self.undone_at = epoch(at)
            return
        self.undone_at = self.hands.now()
        self.hold.note({UNDONE: f"{self.state.window} {micro_time(self.undone_at)}"})

    def _await_next_second(self) -> None:
        """Times of creation are whole seconds: the next agent must have a later one than the undoing."""
        self.hands.sleep(max(0.0, self.undone_at + 1.5 - self.hands.now()))

    def _undo_rollout(self) -> None:
        """Remove our annotation from the pod template, which makes all agents restart with the old settings."""
        name = self.state.cilium_daemonset

        def attempt() -> None:
            found = self.hands.get(self._daemonset)
            if found is None:
                raise Refused(f"there is no DaemonSet {self.state.cilium_namespace}/{name}", 404)
            if restarted_by(found) is not None:
                self._await_next_second()
                self.hands.change("PATCH", self._daemonset, template_annotation(found, None), self.hold.check)
                self.report.did(f"restarted all agents of DaemonSet {name}")
            elif self.objects.in_flight:
                self.objects.age(self._daemonset, found, patch=True)

        before = len(self.problems)
        with contextlib.suppress(Refused):
            if restarted_by(self.hands.get(self._daemonset)) is not None:
                self._in_force.remember_all()
        self.objects.until_written(attempt, f"the agents of DaemonSet {name} could not be restarted")
        if len(self.problems) == before:
            self._await_rollout()
            self._in_force.tell_elsewhere()

    def _await_rollout(self) -> None:
        """Wait until every agent runs the present pod template and is available, as long as it makes progress."""
        seen, since = "", self.hands.monotonic()
        for _ in self.hold.waiting(float("inf")):
            state = rollout_state(self.hands.get(self._daemonset) or {"metadata": {"generation": 0}})
            if not state:
                return
            if state != seen:
                seen, since = state, self.hands.monotonic()
            if self.hands.monotonic() - since >= self.means.agent_ready_s:
                break
        self.problems.append(f"the rolling restart of the agents has stopped: {seen}")

    # Agents

    def _bring_back(self, name: str, saved: SavedNode) -> bool:
        """Restart a node's agent unless it has the settings it should; return whether its limits can be compared.

        They cannot where somebody else has changed the settings since they were saved, which stays, and on another
        machine of the node's name, which needs nothing put back.
        """
        self.hold.renew_if_due()
        found = self.hands.get(f"{NODES}/{name}")
        if found is None:
            self.report.note(f"node {name} no longer exists")
            return False
        replaced = bool(saved.machine) and protocol.machine_of(found) not in ("", saved.machine)
        wanted = self._expected(found)
        if replaced:
            self.report.note(f"node {name} is another machine than before the run; it needs nothing put back")
        elif saved.merged is not None and wanted != saved.merged:
            # What Cilium's rules say has changed since, somebody else has changed: that stays.
            self.report.note(f"somebody else changed the configuration of node {name}: BIG TCP {words(wanted)}")
        agent = self._agent(name)
        rebooted = bool(saved.boot) and protocol.boot_of(found) != saved.boot
        if agent is not None and self._is_stale(agent, saved, wanted, replaced, rebooted):
            self._restart(name, agent)
        agent = self._await_agent(name)
        self._in_force.tell(agent)
        told = None
        if self.hands.sees_all:
            told = self._told(agent)
            if told != wanted and name not in self._restarted:
                agent = self._restart(name, agent)
                told = self._told(agent)
        self.report.nodes[name] = {
            "merged": told,
            "wanted": wanted,
            "agent_pod": agent["metadata"]["name"],
            "agent_uid": agent["metadata"]["uid"],
            "restarted": name in self._restarted,
        }
        if told is not None and told != wanted:
            raise NotRestored(
                f"the Cilium agent on node {name} still has BIG TCP {words(told)} after its restart, wanted "
                f"{words(wanted)}"
            )
        return bool(wanted == saved.merged and saved.limits and not replaced)

    def _told(self, agent: Json) -> dict[str, bool]:
        told = treatment.told(self.hands.told(agent))
        return {str(family): on for family, on in told.items()}

    def _is_stale(
        self, agent: Json, saved: SavedNode, wanted: Mapping[str, bool], replaced: bool, rebooted: bool
    ) -> bool:
        """Return whether an agent must go before anything can be known of it.

        One of the run that is not Ready may be unable to start with the run's settings, and only a new pod gets
        the old ones. And who may not ask an agent what it was told goes by when it was created.
        """
        meta = agent["metadata"]
        untouched = meta["uid"] == saved.agent_uid and not rebooted
        before_undoing = epoch(meta["creationTimestamp"]) <= self.undone_at
        if self.hands.sees_all:
            return before_undoing and not untouched and not is_ready(agent)
        if replaced:
            return False
        return wanted != saved.merged if untouched else before_undoing

    def _expected(self, node: Json) -> dict[str, bool]:
        """Return what an agent started now on ``node`` would be told."""
        data = self.objects.cilium_config().get("data") or {}
        configs = self.hands.select(self.objects.node_configs) if self.objects.node_configs is not None else []
        return merged_settings(KEYS, data, configs, node["metadata"].get("labels") or {})

    def _agent(self, node: str) -> Json | None:
        """Return the agent pod of a node that is not being deleted, or None."""
        pods = self.hands.select(self._agents, protocol.AGENT_LABELS, f"spec.nodeName={node}")
        return present_agent(pods, self.state.cilium_daemonset)

    def _restart(self, node: str, agent: Json) -> Json:
        """Delete the agent pod of a node and return the next one once it is Ready. Raises NotRestored."""
        counts = self._restart_counts()
        if counts.get(node, 0) >= protocol.MAX_RESTARTS:
            raise NotRestored(
                f"the Cilium agent on node {node} was restarted {counts[node]} times to put it back, and is not "
                "restarted again: mend what keeps it from that, then run bigtcp-bench restore"
            )
        meta = agent["metadata"]
        self._in_force.remember(agent)
        self._await_next_second()
        mark = f"restart the Cilium agent on node {node} since {micro_time(self.hands.now())}"
        counts[node] = counts.get(node, 0) + 1
        self.hold.note({IN_FLIGHT: mark, RESTARTS: json.dumps(counts)})
        try:
            self.hands.delete(f"{self._agents}/{meta['name']}", uid=meta["uid"], before=self.hold.check)
        except Refused as error:
            # Without an answer nobody knows what became of it, and the mark stays.
            if error.status != 0:
                self.hold.note({IN_FLIGHT: None})
            if error.status != 409:
                raise
        else:
            self.hold.note({IN_FLIGHT: None})
        self._restarted.add(node)
        ready = self._await_agent(node, other_than=meta["uid"])
        self.report.did(f"restarted the Cilium agent on node {node}")
        self._in_force.tell(ready)
        return ready

    def _restart_counts(self) -> dict[str, int]:
        """Return node → how often restores of this window have restarted its agent."""
        try:
            counts = json.loads(annotations_of(self.hold.check()).get(RESTARTS, "{}"))
            return {str(node): int(count) for node, count in counts.items()}
        except (ValueError, TypeError, AttributeError):
            return {}

    def _await_agent(self, node: str, other_than: str | None = None) -> Json:
        """Return the agent of a node once it is Ready. Raises NotRestored."""
        seen = "there is none"
        for _ in self.hold.waiting(self.means.agent_ready_s):
            pod = self._agent(node)
            if pod is None or pod["metadata"]["uid"] == other_than:
                continue
            if is_ready(pod):
                return pod
            seen = f"pod {pod['metadata']['name']} {waiting_reason(pod)}"
            if crashes(pod):
                # An agent that refuses its configuration exits at start; waiting leaves the node without one.
                raise NotRestored(f"the Cilium agent on node {node} does not start: {seen}")
        seen += node_trouble(self.hands.get(f"{NODES}/{node}"))
        timeout_s = self.means.agent_ready_s
        raise NotRestored(f"the Cilium agent on node {node} was not Ready within {timeout_s:g} s: {seen}")

    # Devices

    def _verify_limits(self, nodes: list[str]) -> None:
        """Compare the devices' limits with the saved ones; an agent whose devices differ gets one restart.

        The settings are right but the devices are not, as after an agent that was killed while it started.
        """
        namespace = self.hands.get(f"/api/v1/namespaces/{NAMESPACE}") if self.hands.sees_all and nodes else None
        if namespace is not None and namespace["metadata"].get("deletionTimestamp"):
            # It waits for this restore, and takes no pod meanwhile.
            self.report.unread = f"the namespace {NAMESPACE} is being deleted, so no pod can look at the devices"
            return
        differing = self._differing(nodes)
        again = [node for node in differing if self._may_restart(node)]
        for node in again:
            agent = self._agent(node)
            try:
                if agent is not None:
                    self._restart(node, agent)
                    self.report.nodes[node]["restarted"] = True
            except (Refused, NotRestored) as error:
                self.problems.append(str(error))
        if again:
            others = {node: texts for node, texts in differing.items() if node not in again}
            differing = {**others, **self._differing(again)}
        for texts in differing.values():
            self.problems += texts

    def _may_restart(self, node: str) -> bool:
        agent, count = self._agent(node), self._restart_counts().get(node, 0)
        if agent is None or node in self._restarted or count >= protocol.MAX_RESTARTS:
            return False
        age_s = self.hands.now() - epoch(agent["metadata"]["creationTimestamp"])
        return count + 1 < protocol.MAX_RESTARTS or age_s >= protocol.LAST_RESTART_S

    def _differing(self, nodes: list[str]) -> dict[str, list[str]]:
        """Return node → what its devices' limits differ in, for those nodes where they do."""
        result: dict[str, list[str]] = {}
        for node in nodes:
            # Each by itself: a node that starts no pod must not hide what the other one's devices say.
            try:
                devices = self._probe(node)
            except (Refused, NotRestored) as error:
                self.problems.append(f"the devices of node {node} could not be read back: {error}")
                continue
            texts = self._compare(node, self.state.nodes[node], devices)
            if texts:
                result[node] = texts
            else:
                self.report.say(f"node {node}: the device limits are those saved")
        return result

    def _compare(self, node: str, saved: SavedNode, devices: dict[str, dict[str, Any]]) -> list[str]:
        texts, on = [], any((saved.merged or {}).values())
        self.report.nodes[node]["limits"] = {name: devices[name] for name in saved.limits if name in devices}
        for device, before in saved.limits.items():
            if device not in devices:
                self.report.note(f"device {device} of node {node} no longer exists")
                continue
            for limit in sorted(before.keys() & set(ALL_LIMITS)):
                now = devices[device].get(limit)
                if now == before[limit]:
                    continue
                text = f"node {node}: device {device} has {limit} {now}, it was {before[limit]}"
                if not on and now == CLASSIC_MAX_PACKET_BYTES:
                    # Cilium's own "off" is this, whatever somebody had set by hand before.
                    self.report.note(f"{text}; Cilium puts back {now} only")
                else:
                    texts.append(text)
        return texts

    def _probe(self, node: str) -> dict[str, dict[str, Any]]:
        """Return device → limit → bytes as the kernel of ``node`` says, from a short-lived pod there."""
        pod = json.loads(json.dumps(self.means.probe_pod))
        required = "requiredDuringSchedulingIgnoredDuringExecution"
        here = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
        pod["spec"]["affinity"]["nodeAffinity"][required]["nodeSelectorTerms"] = [here]
        # No fence: what is late ends by itself, and whoever comes next deletes it.
        name = self.hands.change("POST", PODS, pod)["metadata"]["name"]
        try:
            phase = "Pending"
            status: Json = {}
            for _ in self.hold.waiting(self.means.pod_start_s):
                found = self.hands.get(f"{PODS}/{name}")
                if found is None:
                    raise NotRestored("the probe pod was deleted while it was waited for")
                status = found.get("status") or {}
                phase = status.get("phase", "Pending")
                if phase in ("Succeeded", "Failed"):
                    break
            if phase != "Succeeded":
                why = "".join(f": {status[key]}" for key in ("reason", "message") if status.get(key))
                raise NotRestored(f"the probe pod is {phase} after up to {self.means.pod_start_s:g} s{why}")
            return self.hands.devices(node, name)
        finally:
            self.hands.delete(f"{PODS}/{name}", gracePeriodSeconds=1)


class _InForce:
    """What agents were told before their restart, so that it can be said what the restart put in force besides."""

    def __init__(self, hands: Hands, hold: Hold, state: SavedState, report: Report) -> None:
        self.hands = hands
        self.hold = hold
        self.state = state
        self.report = report
        #: Node → what its agent was told.
        self._before: dict[str, dict[str, str]] = {}

    def remember(self, agent: Json) -> None:
        """Keep what an agent that is to be restarted was told; one that does not say is left out."""
        if self.hands.sees_all and is_ready(agent):
            with contextlib.suppress(Refused, NotRestored):
                self._before[agent["spec"]["nodeName"]] = self.hands.told(agent)

    def remember_all(self) -> None:
        """Keep what every agent was told."""
        for agent in self._all_agents():
            self.remember(agent)

    def tell(self, agent: Json) -> None:
        """Say what the restart of an agent has put in force besides."""
        self._say(self._changed(agent), agent["spec"]["nodeName"])

    def tell_elsewhere(self) -> None:
        """Say what the restart of all agents has put in force on nodes that were not measured."""
        found: dict[str, list[str]] = {}
        for agent in self._all_agents():
            node = agent["spec"]["nodeName"]
            if node not in self.state.nodes:
                # One that does not say keeps nobody from putting back what is ours.
                with contextlib.suppress(Refused, NotRestored):
                    found.setdefault(self._changed(agent), []).append(node)
        for changed, nodes in found.items():
            more = f" and on {len(nodes) - 1} other nodes" if len(nodes) > 1 else ""
            self._say(changed, f"{nodes[0]}{more}")

    def _all_agents(self) -> Iterator[Json]:
        """Yield the agents of all nodes, where they may be asked what they were told."""
        agents = f"/api/v1/namespaces/{self.state.cilium_namespace}/pods"
        # What is only told keeps nobody from putting back what is ours.
        with contextlib.suppress(Refused):
            for pod in self.hands.select(agents, protocol.AGENT_LABELS) if self.hands.sees_all else ():
                if is_agent(pod, self.state.cilium_daemonset) and is_ready(pod):
                    # Asking hundreds of agents takes minutes.
                    self.hold.renew_if_due()
                    yield pod

    def _changed(self, agent: Json) -> str:
        """Return the keys that an agent was told otherwise before its restart; empty where that is not known."""
        before = self._before.pop(agent["spec"]["nodeName"], {})
        return changed_keys(before, self.hands.told(agent)) if before else ""

    def _say(self, changed: str, where: str) -> None:
        if changed:
            self.report.note(
                f"the restart of the agent on node {where} put in force what had waited for one: {changed}"
            )
