"""Everything that must be true before a cluster is benchmarked, one line each: found, judged, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from bigtcp_bench.cluster import guard
from bigtcp_bench.cluster.api import CONFIGMAP, DAEMONSET, NODE, ClusterApi, JsonObject
from bigtcp_bench.cluster.bigtcp_switch import families_of
from bigtcp_bench.cluster.cilium import (
    CONFIGMAP_NAME,
    KEYS,
    LIMIT_NAMES,
    TUNNEL_DEVICES,
    AgentStatus,
    Cilium,
    Merged,
    agent_pod,
    find_cilium,
    is_ready,
    parse_version,
    read_merged,
    read_status,
    selects,
    waiting_reason,
)
from bigtcp_bench.cluster.nodes import NodeInfo, NodePair
from bigtcp_bench.cluster.probe import NodeProbe
from bigtcp_bench.errors import BenchError, PreconditionFailed
from bigtcp_bench.plan import CLASSIC_MAX_PACKET_BYTES, Plan

Status = Literal["pass", "warn", "fail"]

#: The sources an agent's configuration is merged from when the init container names none.
DEFAULT_SOURCES = f"config-map:{CONFIGMAP_NAME},cilium-node-config"
#: Set on the pod template by the chart when ``rollOutCiliumPods`` is true.
CHECKSUM = "cilium.io/cilium-configmap-checksum"
#: What the tools leave on objects that they keep as they are in Git.
GITOPS_MARKS = {
    "argocd.argoproj.io/instance": "Argo CD",
    "argocd.argoproj.io/tracking-id": "Argo CD",
    "kustomize.toolkit.fluxcd.io/name": "Flux",
    "helm.toolkit.fluxcd.io/name": "Flux",
}
#: Below this much free memory eight streams of large buffers compete with everything else on the node.
LOW_MEMORY_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Check:
    """One requirement: what was found, whether it will do, and what to do if not (``node`` empty: the cluster)."""

    name: str
    node: str
    status: Status
    found: str
    advice: str = ""

    def __str__(self) -> str:
        where = f" on {self.node}" if self.node else ""
        return f"{self.status:4} {self.name}{where}: {self.found}" + (f"; {self.advice}" if self.advice else "")

    @property
    def sentence(self) -> str:
        """Return the finding and the advice as one sentence for people."""
        where = f"node {self.node}: " if self.node else ""
        return f"{where}{self.name}: {self.found}" + (f"; {self.advice}" if self.advice else "")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for the warehouse."""
        return asdict(self)


def refuse_failed(checks: Sequence[Check]) -> None:
    """Raise PreconditionFailed with the first failed check, and how many more there are, if any failed."""
    failed = [check for check in checks if check.status == "fail"]
    if failed:
        more = f" (and {len(failed) - 1} more failed checks)" if len(failed) > 1 else ""
        raise PreconditionFailed(f"{failed[0].sentence}{more}")


def check(
    api: ClusterApi, plan: Plan, pair: NodePair, probes: Mapping[str, NodeProbe], *, holder: str | None = None
) -> list[Check]:
    """Return every check of the cluster and of both nodes; changes nothing.

    ``probes`` are fresh ones of both nodes. ``holder`` is the run that asks: its own hold on the cluster is no
    obstacle. Raises only if the API cannot be used or there is no Cilium at all.
    """
    checks = [Check("Kubernetes API", "", "pass", f"{api.version()} at {api.host}")]
    cilium = find_cilium(api)
    daemonset = api.get(DAEMONSET, cilium.daemonset, cilium.namespace)
    config = api.get(CONFIGMAP, CONFIGMAP_NAME, cilium.namespace)
    node_configs = api.select(cilium.node_config, cilium.namespace) if cilium.node_config else []
    abandoned = guard.leftovers(api)
    checks += _cilium(cilium, daemonset, plan)
    checks += _way_of_change(cilium, daemonset, plan)
    checks += _managers(daemonset, config, plan)
    checks += _hold(api, abandoned, holder)
    for node in pair.nodes:
        probed = probes[node.name]
        checks.append(_node(node))
        checks += _kernel(node.name, probed, plan)
        checks.append(_memory(node.name, probed))
        labels = api.get(NODE, node.name)["metadata"].get("labels") or {}
        checks += _overrulers(node.name, labels, node_configs)
        agent = agent_pod(api, cilium, node.name)
        if agent is None or not is_ready(agent):
            found = (
                "there is none" if agent is None else f"pod {agent['metadata']['name']} {waiting_reason(agent)}"
            )
            checks.append(
                Check("Cilium agent", node.name, "fail", found, "mend it before a benchmark restarts it")
            )
            continue
        name = agent["metadata"]["name"]
        try:
            status, merged = read_status(api, cilium, name), read_merged(api, cilium, name)
        except BenchError as error:
            checks.append(Check("Cilium agent", node.name, "fail", str(error)))
            continue
        checks.append(Check("Cilium agent", node.name, "pass", f"{name}, {status.version}"))
        checks += _agent(node.name, cilium, status, config)
        checks += _tunnels(node.name, cilium, status, probed)
        checks += _devices(node, status, merged, probed, plan, bool(abandoned))
    checks.append(_alike(pair, probes))
    return checks


def _cilium(cilium: Cilium, daemonset: JsonObject, plan: Plan) -> Iterator[Check]:
    if cilium.version is None:
        yield Check("Cilium version", "", "warn", f"not told by image {cilium.image}", "1.14 or newer is needed")
    elif cilium.version < (1, 13, 0) or ("ipv4" in families_of(plan) and cilium.version < (1, 14, 0)):
        advice = "BIG TCP needs Cilium 1.13 for IPv6 and 1.14 for IPv4; upgrade, or measure IPv6 only"
        yield Check("Cilium version", "", "fail", cilium.version_text, advice)
    else:
        yield Check("Cilium version", "", "pass", cilium.version_text)
    status = daemonset.get("status") or {}
    desired, ready = status.get("desiredNumberScheduled", 0), status.get("numberReady", 0)
    updated = status.get("updatedNumberScheduled", 0)
    current = status.get("observedGeneration", 0) >= daemonset["metadata"]["generation"]
    found = f"{ready} of {desired} agents ready, {updated} of the present template"
    if not current or updated < desired:
        yield Check("Cilium rollout", "", "fail", found, "a rollout is under way; wait for its end")
    elif ready < desired:
        yield Check("Cilium rollout", "", "warn", found, "agents elsewhere in the cluster are not ready")
    else:
        yield Check("Cilium rollout", "", "pass", found)


def _way_of_change(cilium: Cilium, daemonset: JsonObject, plan: Plan) -> Iterator[Check]:
    if plan.scope == "cluster":
        strategy = (daemonset["spec"].get("updateStrategy") or {}).get("type", "RollingUpdate")
        if strategy == "RollingUpdate":
            yield Check("update strategy", "", "pass", strategy)
        else:
            advice = "scope cluster restarts the agents by a rolling update; use scope nodes"
            yield Check("update strategy", "", "fail", strategy, advice)
        found = "every pod created anywhere in the cluster while BIG TCP is on keeps its large limits afterwards"
        yield Check("scope", "", "warn", found, "scope nodes touches two nodes only")
        return
    if cilium.node_config is None:
        found = "the cluster serves no cilium.io CiliumNodeConfig"
        advice = "it comes with Cilium's chart from 1.13 on; managed distributions may leave it out"
        yield Check("CiliumNodeConfig", "", "fail", found, advice)
        return
    yield Check("CiliumNodeConfig", "", "pass", f"served as {cilium.node_config.api_version}")
    yield _overrides(daemonset)


def _overrides(daemonset: JsonObject) -> Check:
    """Judge the init container that merges the configuration: may our two keys be overridden at all?"""
    name = "config overrides"
    containers = daemonset["spec"]["template"]["spec"].get("initContainers") or []
    found = next((item for item in containers if item["name"] == "config"), None)
    if found is None:
        advice = "this packaging of Cilium ignores CiliumNodeConfig; use scope cluster"
        return Check(
            name, "", "fail", f"DaemonSet {daemonset['metadata']['name']} has no init container config", advice
        )
    words = (found.get("command") or []) + (found.get("args") or [])
    denied = [key for key in KEYS.values() if key in _flag(words, "deny-config-keys")]
    allowed = _flag(words, "allow-config-keys")
    sources = _flag(words, "source") or DEFAULT_SOURCES.split(",")
    if denied:
        advice = "remove it from Helm's daemon.blockedConfigOverrides, or use scope cluster"
        return Check(name, "", "fail", f"{denied[0]} may not be overridden (--deny-config-keys)", advice)
    missing = [key for key in KEYS.values() if allowed and key not in allowed]
    if missing:
        advice = "add it to Helm's daemon.allowedConfigOverrides, or use scope cluster"
        return Check(name, "", "fail", f"{missing[0]} is not among --allow-config-keys", advice)
    if not any(source.partition(":")[0] == "cilium-node-config" for source in sources):
        advice = "add cilium-node-config to Helm's daemon.configSources, or use scope cluster"
        return Check(name, "", "fail", f"the sources are {','.join(sources)}", advice)
    return Check(name, "", "pass", f"both keys may be overridden; sources {','.join(sources)}")


def _flag(words: Sequence[str], name: str) -> list[str]:
    """Return the comma-separated values of ``--name=a,b`` or ``--name a,b``, given once or several times."""
    values: list[str] = []
    for position, word in enumerate(words):
        if word.startswith(f"--{name}="):
            values += word.partition("=")[2].split(",")
        elif word == f"--{name}" and position + 1 < len(words):
            values += words[position + 1].split(",")
    return [value.strip().strip('"') for value in values if value.strip()]


def _managers(daemonset: JsonObject, config: JsonObject, plan: Plan) -> Iterator[Check]:
    marks: dict[str, str] = {}
    for item in (daemonset, config):
        meta = item["metadata"]
        present = {**(meta.get("labels") or {}), **(meta.get("annotations") or {})}
        marks.update({mark: tool for mark, tool in GITOPS_MARKS.items() if mark in present})
        if present.get("app.kubernetes.io/managed-by") == "Helm":
            marks["app.kubernetes.io/managed-by"] = "Helm"
    tools = sorted(set(marks.values()))
    correcting = [tool for tool in tools if tool != "Helm"]
    if correcting:
        found = f"{' and '.join(correcting)} keeps Cilium's objects as they are in Git"
        if plan.scope == "cluster":
            advice = f"it may undo a change of {CONFIGMAP_NAME} in the middle of a run; use scope nodes"
            yield Check("managed by", "", "fail", found, advice)
        else:
            advice = "make sure that it does not prune foreign CiliumNodeConfigs in Cilium's namespace"
            yield Check("managed by", "", "warn", found, advice)
    else:
        yield Check("managed by", "", "pass", ", ".join(tools) or "nobody that says so")
    annotations = daemonset["spec"]["template"]["metadata"].get("annotations") or {}
    rolls = "yes: a Helm upgrade that changes the configuration restarts all agents by itself"
    yield Check("rollOutCiliumPods", "", "pass", rolls if CHECKSUM in annotations else "no")


def _hold(api: ClusterApi, abandoned: Sequence[str], holder: str | None) -> Iterator[Check]:
    lease = guard.read_lease(api)
    live = lease is not None and lease.live(api.now())
    if lease is not None and live and lease.owner != holder:
        age = api.now() - lease.renewed_at
        advice = "wait for its end; if it has crashed, its hold ends by itself"
        yield Check("lease", "", "fail", f"held by {lease.owner}, renewed {age:.0f} s ago", advice)
        return
    yield Check("lease", "", "pass", "free" if not live else f"held by this run ({holder})")
    if abandoned:
        advice = "put back first, when the cluster is taken for this run"
        yield Check("leftovers", "", "warn", ", ".join(abandoned), advice)
    else:
        yield Check("leftovers", "", "pass", "none")


def _node(node: NodeInfo) -> Check:
    found = f"Ready, schedulable, {node.cpu:g} CPUs, {node.memory_bytes / 2**30:.1f} GiB, {node.os_image}"
    if node.unusable_because:
        return Check("node", node.name, "fail", node.unusable_because)
    return Check("node", node.name, "pass", found)


def _kernel(node: str, probed: NodeProbe, plan: Plan) -> Iterator[Check]:
    able = {
        "ipv4": probed.probe.capabilities.ipv4_big_tcp,
        "ipv6": probed.probe.capabilities.ipv6_big_tcp,
    }
    for family, attribute, since in (
        ("ipv4", "gso_ipv4_max_size", "6.3"),
        ("ipv6", "tso_max_size", "5.19"),
    ):
        name = f"kernel, {family}"
        if able[family]:
            yield Check(name, node, "pass", f"{probed.kernel_release}, lo has {attribute}")
        elif family in families_of(plan):
            found = f"{probed.kernel_release} does not know BIG TCP for {family} (lo has no {attribute})"
            advice = f"Linux {since} or a distribution's backport is needed; or leave the {family} scenarios out"
            yield Check(name, node, "fail", found, advice)
        else:
            yield Check(name, node, "pass", f"{probed.kernel_release} does not know it; the plan does not need it")


def _memory(node: str, probed: NodeProbe) -> Check:
    available = probed.memory_available_bytes
    if available is None:
        return Check("memory", node, "warn", "not reported")
    found = f"{available / 2**30:.1f} GiB available"
    if available < LOW_MEMORY_BYTES:
        return Check("memory", node, "warn", found, "the node is short of memory; results will suffer")
    return Check("memory", node, "pass", found)


def _overrulers(node: str, labels: Mapping[str, str], node_configs: Sequence[JsonObject]) -> Iterator[Check]:
    """Find CiliumNodeConfigs that select the node, set one of our keys and are applied after ours."""
    for item in node_configs:
        name, spec = item["metadata"]["name"], item.get("spec") or {}
        keys = [key for key in KEYS.values() if key in (spec.get("defaults") or {})]
        if name > guard.NODE_CONFIG_NAME and keys and selects(spec.get("nodeSelector"), labels):
            found = f"CiliumNodeConfig {name} sets {keys[0]} and is applied after {guard.NODE_CONFIG_NAME}"
            yield Check("node config", node, "fail", found, "rename it, or take the node out of its selector")


def _agent(node: str, cilium: Cilium, status: AgentStatus, config: JsonObject) -> Iterator[Check]:
    data = config.get("data") or {}
    version = cilium.version or parse_version(status.version) or (0, 0, 0)
    if status.routing == "Native":
        yield Check("routing mode", node, "pass", status.routing)
    elif version >= (1, 19, 0):
        advice = "BIG TCP needs a kernel whose tunnel devices can do it; on others the agent may not start"
        flagged = version >= (1, 19, 3) or data.get("enable-tunnel-big-tcp") == "true"
        yield Check("routing mode", node, "warn" if flagged else "fail", status.routing or "unknown", advice)
    else:
        advice = "Cilium before 1.19 does not start with BIG TCP and tunneling; native routing is needed"
        yield Check("routing mode", node, "fail", status.routing or "unknown", advice)
    if status.host_routing == "BPF":
        yield Check("host routing", node, "pass", "BPF")
    else:
        advice = "BIG TCP needs BPF host routing: kubeProxyReplacement and bpf.masquerade, no legacy routing"
        yield Check("host routing", node, "fail", status.host_routing or "unknown", advice)
    yield _datapath(node, status.datapath_mode, version)
    if status.encryption == "Disabled":
        yield Check("encryption", node, "pass", "Disabled")
    else:
        advice = "with encryption there is no BIG TCP to measure (with IPsec the agent would not start)"
        yield Check("encryption", node, "fail", status.encryption, advice)
    replacement = status.kube_proxy_replacement or "unknown"
    if replacement in ("True", "Strict"):
        yield Check("kube-proxy replacement", node, "pass", replacement)
    else:
        yield Check("kube-proxy replacement", node, "warn", replacement, "Cilium documents BIG TCP with it only")
    if status.masquerading in ("BPF", "Disabled"):
        yield Check("masquerading", node, "pass", status.masquerading)
    else:
        advice = "Cilium documents BIG TCP with bpf.masquerade=true only"
        yield Check("masquerading", node, "warn", status.masquerading or "unknown", advice)


def _datapath(node: str, mode: str, version: tuple[int, int, int]) -> Check:
    if mode == "veth" or (mode.startswith("netkit") and version >= (1, 18, 0)):
        return Check("datapath mode", node, "pass", mode)
    if version and version < (1, 16, 0):
        advice = "Cilium before 1.16 does not start with BIG TCP in any mode but veth"
        return Check("datapath mode", node, "fail", mode or "unknown", advice)
    return Check("datapath mode", node, "warn", mode or "unknown", "BIG TCP is known to work with veth and netkit")


def _tunnels(node: str, cilium: Cilium, status: AgentStatus, probed: NodeProbe) -> Iterator[Check]:
    tunnels = [name for name in TUNNEL_DEVICES if name in probed.devices]
    if not tunnels:
        yield Check("tunnel devices", node, "pass", "none")
        return
    found = ", ".join(tunnels)
    version = cilium.version or parse_version(status.version) or (0, 0, 0)
    if (1, 19, 0) <= version <= (1, 19, 5):
        advice = (
            "Cilium 1.19.0 to 1.19.5 does not bring the node up with BIG TCP and a tunnel device (from egress "
            "gateway, DSR with Geneve and others); upgrade to a later release first"
        )
        yield Check("tunnel devices", node, "fail", f"{found} with Cilium {cilium.version_text}", advice)
    else:
        yield Check("tunnel devices", node, "warn", found, "traffic through them has no BIG TCP on most kernels")


def _devices(
    node: NodeInfo, status: AgentStatus, merged: Merged, probed: NodeProbe, plan: Plan, abandoned: bool
) -> Iterator[Check]:
    path = probed.path_devices(status, node.internal_ips)
    if not path:
        selected = ", ".join(status.devices) or "none"
        advice = "set Cilium's devices to the card that carries pod traffic"
        yield Check("devices", node.name, "fail", f"Cilium selects {selected}; the node has none of these", advice)
        return
    for name in path:
        device = probed.devices[name]
        kind = device.driver or device.kind or "unknown driver"
        found = f"{name}: {kind}, MTU {device.mtu}, tso_max_size {device.tso_max_size}"
        ceiling = device.tso_max_size
        if "on" in plan.order and ceiling is not None and ceiling <= CLASSIC_MAX_PACKET_BYTES:
            advice = (
                f"this card cannot take packets above {CLASSIC_MAX_PACKET_BYTES} bytes, so BIG TCP cannot be on; "
                "if it does not carry pod traffic, take it out of Cilium's devices"
            )
            yield Check("device", node.name, "fail", found, advice)
        elif kind == "veth" and name not in TUNNEL_DEVICES:
            advice = "a virtual cable (kind, a lab): its other end must be raised too, or packets arrive segmented"
            yield Check("device", node.name, "warn", found, advice)
        else:
            yield Check("device", node.name, "pass", found)
        # What a crashed run has left is put back before the limits are saved.
        if not abandoned:
            yield from _restorable(node.name, name, device.limits, merged)


def _restorable(node: str, device: str, limits: Mapping[str, int], merged: Merged) -> Iterator[Check]:
    """Find limits that somebody has set by hand: Cilium would overwrite them and never put them back."""
    for family, names in LIMIT_NAMES.items():
        for name in names:
            value = limits.get(name)
            if merged[family] or value is None or value == CLASSIC_MAX_PACKET_BYTES:
                continue
            if value == limits.get("tso_max_size"):
                continue
            found = f"{device}: {name} is {value} although BIG TCP is off, so it was set by hand"
            advice = f"Cilium would leave {CLASSIC_MAX_PACKET_BYTES} behind; set it to that before a benchmark"
            yield Check("limits", node, "fail", found, advice)


def _alike(pair: NodePair, probes: Mapping[str, NodeProbe]) -> Check:
    ours, theirs = pair.nodes
    pairs: list[tuple[str, object, object]] = [
        ("kernel", probes[ours.name].kernel_release, probes[theirs.name].kernel_release),
        ("architecture", ours.architecture, theirs.architecture),
        ("instance type", ours.instance_type, theirs.instance_type),
        ("CPUs", ours.cpu, theirs.cpu),
        ("zone", ours.zone, theirs.zone),
    ]
    different = [f"{name} {mine} and {other}" for name, mine, other in pairs if mine != other]
    if different:
        return Check("nodes alike", "", "warn", "; ".join(different), "figures depend on which of them sends")
    return Check("nodes alike", "", "pass", "same kernel, architecture, type, CPUs and zone")
