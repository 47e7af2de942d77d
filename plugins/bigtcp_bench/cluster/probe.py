"""A look at the nodes themselves: what a short-lived pod in a node's own network namespace reports."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bigtcp_bench.cluster import at_once, pods
from bigtcp_bench.cluster.api import POD, Before, ClusterApi, Conflict, JsonObject
from bigtcp_bench.cluster.cilium import TUNNEL_DEVICES, AgentStatus, Limits
from bigtcp_bench.in_cluster import protocol
from bigtcp_bench.planning.plan import Plan
from bigtcp_bench.readings.agent_log import Device, Probe, parse_log
from bigtcp_bench.readings.orders import ProbeOrders
from bigtcp_bench.readings.proc import memory

#: Kinds of devices on top of one other, which IFLA_LINK names; of a veth it names the peer, in another namespace.
_STACKED = ("vlan", "macvlan", "ipvlan")
#: Kinds of devices whose ports carry them. Those of a bridge are pods as well.
_MASTERS = ("bond", "team")
#: A look that was begun longer ago is not taken: somebody may have done something since.
PREPARED_S = 60


@dataclass(frozen=True)
class NodeProbe:
    """What a probe saw on one node; ``cpu_limit`` is what admission has given its pod, if anything."""

    node: str
    probe: Probe
    cpu_limit: str = ""

    @property
    def devices(self) -> dict[str, Device]:
        """Return name → device, all of the node's own network namespace."""
        return self.probe.snapshot.devices

    @property
    def kernel_release(self) -> str:
        """Return what ``uname -r`` says."""
        return self.probe.kernel_release

    @property
    def document(self) -> dict[str, Any]:
        """Return everything as plain data, to be stored and to take counters from."""
        return self.probe.model_dump(mode="json")

    def limits(self, devices: Iterable[str]) -> Limits:
        """Return device → limit → bytes, for those of ``devices`` that exist."""
        return {name: self.devices[name].limits for name in devices if name in self.devices}

    def path_devices(self, status: AgentStatus | None, internal_ips: Iterable[str]) -> list[str]:
        """Return the devices that pod traffic takes: those the agent selects, and with tunnel routing its tunnels.

        An agent without kube-proxy replacement names none; then it is the one with the node's own address.
        """
        selected = self._selected(status, internal_ips)
        return self._with_tunnels(selected) if status and status.routing == "Tunnel" else selected

    def limited_devices(self, status: AgentStatus | None, internal_ips: Iterable[str]) -> list[str]:
        """Return the devices whose limits an agent may set: those it selects, and every tunnel device there is."""
        return self._with_tunnels(self._selected(status, internal_ips))

    def _selected(self, status: AgentStatus | None, internal_ips: Iterable[str]) -> list[str]:
        selected = [name for name in (status.devices if status else ()) if name in self.devices]
        if not selected:
            own = set(internal_ips)
            selected = [name for name, device in self.devices.items() if own & set(device.addresses)]
        return selected

    def _with_tunnels(self, selected: list[str]) -> list[str]:
        return selected + [name for name in TUNNEL_DEVICES if name in self.devices and name not in selected]

    def carriers(self, device: str) -> list[str]:
        """Return every device below ``device``, the nearest first: the bond of a VLAN, then the bond's ports."""
        found = [device]
        # The list grows while it is read; what is in it already is not looked at again, so a circle ends.
        for name in found:
            found += [below for below in self._directly_below(name) if below not in found]
        return found[1:]

    def cards(self, device: str) -> list[str]:
        """Return the lowest of the devices that carry ``device``; itself if there is none below."""
        return [name for name in (device, *self.carriers(device)) if not self._directly_below(name)]

    def _directly_below(self, device: str) -> list[str]:
        above = self.devices[device]
        if above.kind in _STACKED:
            return [name for name, below in self.devices.items() if below.index == above.peer_index]
        return [name for name, below in self.devices.items() if below.master == device and above.kind in _MASTERS]

    @property
    def sampled_s(self) -> float | None:
        """Return over how many seconds the load was sampled, None if it was not."""
        probe = self.probe
        return probe.snapshot.monotonic_s - probe.earlier.monotonic_s if probe.earlier else None

    @property
    def busy_share(self) -> float | None:
        """Return the share of the node's CPU time that was used just before, None if it was not sampled."""
        return self.probe.busy_share

    @property
    def memory_available_bytes(self) -> int | None:
        """Return what the kernel calls MemAvailable, or None if it was not reported."""
        return memory(self.probe.snapshot.meminfo).get("MemAvailable")


def probe_nodes(api: ClusterApi, plan: Plan, nodes: Sequence[str], *, sample_s: float = 0) -> dict[str, NodeProbe]:
    """Return a probe of each node, by name; with its load over ``sample_s`` seconds if that is not 0.

    Raises PodFailed, naming node and reason, if one of the pods does not start or does not succeed.
    """
    with probing(api, plan, nodes, sample_s=sample_s) as collect:
        return collect()


@contextlib.contextmanager
def probing(
    api: ClusterApi,
    plan: Plan,
    nodes: Sequence[str],
    *,
    sample_s: float = 0,
    prepared: Mapping[str, str] | None = None,
) -> Iterator[Callable[[], dict[str, NodeProbe]]]:
    """Start a probe on each node and yield the function that waits for them; delete the pods at the end.

    Meanwhile the caller can do something else. The nodes are looked at when the pods run, not when they are asked.
    Probes with the labels ``prepared`` may have been started before, by ``prepare``.
    """
    found: dict[str, str] = {}
    try:
        found = {pods.node_of(pod): pod["metadata"]["name"] for pod in _prepared(api, prepared)}
        missing = [node for node in nodes if node not in found]
        if missing:
            pods.ensure_namespace(api)
            pods.ensure_agent_configmap(api)
        for node in missing:
            pod = probe_pod(plan, node, sample_s=sample_s)
            found[node] = pods.create_pod(api, pod)["metadata"]["name"]
        yield lambda: at_once.of_each(nodes, lambda node: _read(api, node, found[node]))
    finally:
        _delete(api, found.values())


def prepare(
    api: ClusterApi,
    plan: Plan,
    nodes: Sequence[str],
    labels: Mapping[str, str],
    *,
    sample_s: float = 0,
    before: Before | None = None,
) -> None:
    """Start a probe on each node for whoever is ``probing`` with these labels, and this sample, next."""
    for node in nodes:
        pods.create_pod(api, probe_pod(plan, node, sample_s=sample_s, labels=labels), before=before)


def discard(api: ClusterApi, labels: Mapping[str, str]) -> None:
    """Delete what ``prepare`` has started: something else happens before anybody looks."""
    _delete(api, [pod["metadata"]["name"] for pod in _labelled(api, labels)])


def probe_pod(
    plan: Plan, node: str, *, sample_s: float = 0, labels: Mapping[str, str] | None = None
) -> JsonObject:
    """Return the pod that looks at ``node``, to be created."""
    return pods.plan_pod("probe", plan, node, ProbeOrders(sample_s=sample_s), labels=labels)


def _labelled(api: ClusterApi, labels: Mapping[str, str]) -> list[JsonObject]:
    wanted = f"{pods.selector(['probe'])},{pods.selecting(labels)}"
    found = api.select(POD, pods.BENCH_NAMESPACE, labels=wanted)
    return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]


def _prepared(api: ClusterApi, labels: Mapping[str, str] | None) -> Iterator[JsonObject]:
    for pod in _labelled(api, labels) if labels else ():
        age_s = api.now() - protocol.epoch(pod["metadata"].get("creationTimestamp"))
        if age_s < PREPARED_S and (pod.get("status") or {}).get("phase") != "Failed":
            yield pod


def _delete(api: ClusterApi, names: Iterable[str]) -> None:
    for name in names:
        with contextlib.suppress(Conflict):
            api.delete(POD, name, pods.BENCH_NAMESPACE, grace_s=1)


def _read(api: ClusterApi, node: str, pod: str) -> NodeProbe:
    ended = pods.wait_ended(api, pod, poll_s=pods.START_POLL_S)
    seen = probe_of_log(node, pods.log_of(api, pod))
    return replace(seen, cpu_limit=pods.cpu_limit(ended))


def probe_of_log(node: str, text: str) -> NodeProbe:
    """Return the probe in a probe pod's log. Raises PodFailed if there is none."""
    log = parse_log(text)
    if log.probe is None:
        last = text.strip().splitlines()[-1:] or ["nothing"]
        why = log.damaged[0] if log.damaged else f"its last line was: {last[0][:200]}"
        raise pods.PodFailed(f"the probe pod on node {node} printed no probe; {why}")
    return NodeProbe(node, log.probe)
