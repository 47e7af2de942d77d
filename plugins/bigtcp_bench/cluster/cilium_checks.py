"""What Cilium must be and must allow, judged from its objects and from what its agents say of themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bigtcp_bench.cluster import saved_state
from bigtcp_bench.cluster.agent_settings import (
    NODE_PREFIX,
    PENDING_ADVICE,
    merging_of,
    pending_text,
)
from bigtcp_bench.cluster.api import JsonObject
from bigtcp_bench.cluster.bigtcp_switch import families_of
from bigtcp_bench.cluster.checks import Check
from bigtcp_bench.cluster.cilium import (
    CONFIGMAP_NAME,
    TUNNEL_DEVICES,
    AgentStatus,
    Cilium,
    Merged,
    Version,
    configured_routing,
    parse_version,
)
from bigtcp_bench.cluster.fingerprint import Difference
from bigtcp_bench.cluster.probe import NodeProbe
from bigtcp_bench.in_cluster import protocol
from bigtcp_bench.in_cluster.protocol import is_observed, merged_settings, selects
from bigtcp_bench.in_cluster.treatment import KEYS
from bigtcp_bench.planning.plan import Plan

#: Set on the pod template by the chart when ``rollOutCiliumPods`` is true.
CHECKSUM = "cilium.io/cilium-configmap-checksum"
#: What the tools leave on objects that they keep as they are in Git.
GITOPS_MARKS = {
    "argocd.argoproj.io/instance": "Argo CD",
    "argocd.argoproj.io/tracking-id": "Argo CD",
    "kustomize.toolkit.fluxcd.io/name": "Flux",
    "helm.toolkit.fluxcd.io/name": "Flux",
}
#: Argo CD's own mark until 3.0, which many charts set as well; Helm leaves its annotation beside it.
INSTANCE = "app.kubernetes.io/instance"
HELM_RELEASE = "meta.helm.sh/release-name"
#: ``Reconcile``: the addon manager of GKE, AKS and others puts the object back; ``EnsureExists``: it does not.
ADDON_MODE = "addonmanager.kubernetes.io/mode"
MANAGED_BY = "app.kubernetes.io/managed-by"
#: Releases that do not bring a node up with BIG TCP and a tunnel device (cilium/cilium#44198, #46337, #46710).
BROKEN_TUNNELS: tuple[Version, Version] = ((1, 19, 0), (1, 19, 5))


def version_check(cilium: Cilium, statuses: Collection[AgentStatus]) -> Check:
    """Judge Cilium's version: the oldest that an agent tells, or the image's where no agent answers."""
    oldest = min((_version(cilium, status) for status in statuses), default=cilium.version or (0, 0, 0))
    if oldest == (0, 0, 0):
        found = f"not told by image {cilium.image} or an agent"
        return Check("Cilium version", "", "warn", found, "1.14 or newer is needed")
    if oldest < (1, 14, 0):
        advice = "agents report the sizes by which BIG TCP is proven from 1.14 on; upgrade"
        return Check("Cilium version", "", "fail", _dotted(oldest), advice)
    return Check("Cilium version", "", "pass", _dotted(oldest))


def rollout_check(daemonset: JsonObject, behind: Sequence[str], plan: Plan) -> Check:
    """Judge whether a rollout is under way; ``behind``: nodes of the pair whose agent has not been through it.

    With scope nodes the others may be: one dead node keeps a rollout from ending for as long as it is dead.
    """
    name = "Cilium rollout"
    status = daemonset.get("status") or {}
    desired, ready = status.get("desiredNumberScheduled", 0), status.get("numberReady", 0)
    updated = status.get("updatedNumberScheduled", 0)
    current = is_observed(daemonset)
    found = f"{ready} of {desired} agents ready, {updated} of the present template"
    if current and updated >= desired:
        if ready >= desired:
            return Check(name, "", "pass", found)
        advice = "an agent is not ready; kubectl get pods -l k8s-app=cilium tells which"
        return Check(name, "", "warn", found, advice)
    if current and plan.scope == "nodes" and not behind:
        return Check(
            name, "", "warn", found, "a rollout is under way elsewhere; both nodes of the pair are through it"
        )
    advice = "a rollout is under way; wait for its end"
    if _strategy(daemonset) == "OnDelete":
        advice = "the update strategy is OnDelete: delete the pods of the older agents"
    if current and behind:
        found += f", an older one on {' and '.join(behind)}"
    return Check(name, "", "fail", found, advice)


@dataclass(frozen=True)
class _Problem:
    """Why the settings cannot be changed in the way of one scope: name of the line, finding and advice."""

    name: str
    found: str
    advice: str


def change_checks(cilium: Cilium, daemonset: JsonObject, config: JsonObject, plan: Plan) -> Iterator[Check]:
    """Judge whether the settings can be changed in the way that the plan's scope asks for.

    The other scope is advised only where it can be used.
    """
    in_nodes, in_cluster = list(_nodes_problems(cilium, daemonset)), list(_cluster_problems(daemonset, config))
    if plan.scope == "cluster":
        way_out = _way_out("use scope nodes", "nodes", in_nodes, daemonset)
        for problem in in_cluster:
            yield Check(problem.name, "", "fail", problem.found, f"{problem.advice}; {way_out}")
        if not any(problem.name == "update strategy" for problem in in_cluster):
            yield Check("update strategy", "", "pass", _strategy(daemonset))
        found = "every pod created anywhere in the cluster while BIG TCP is on keeps its large limits afterwards"
        yield Check("scope", "", "warn", found, "scope nodes touches two nodes only")
        return
    if cilium.node_config is not None:
        yield Check("CiliumNodeConfig", "", "pass", f"served as {cilium.node_config.api_version}")
    way_out = _way_out("scope cluster does without", "cluster", in_cluster, daemonset)
    for problem in in_nodes:
        yield Check(problem.name, "", "fail", problem.found, f"{problem.advice}; {way_out}")
    if not in_nodes:
        yield _overrides(daemonset)


def _way_out(words: str, other: str, problems: Sequence[_Problem], daemonset: JsonObject) -> str:
    """Return ``words`` where the ``other`` scope can be used, else why it cannot either."""
    if not problems:
        return words
    managed = ADDON_MODE in (daemonset["metadata"].get("labels") or {})
    end = "; a managed Cilium like this cannot be measured, only one that you install yourself" * managed
    return f"scope {other} is no way either: {problems[0].found}{end}"


def _nodes_problems(cilium: Cilium, daemonset: JsonObject) -> Iterator[_Problem]:
    """Find why a CiliumNodeConfig cannot set our two keys, if so."""
    if cilium.node_config is None:
        advice = "it comes with Cilium's chart from 1.13 on; managed distributions may leave it out"
        yield _Problem("CiliumNodeConfig", "the cluster serves no cilium.io CiliumNodeConfig", advice)
        return
    name, merging = "config overrides", merging_of(daemonset)
    if merging is None:
        found = f"DaemonSet {daemonset['metadata']['name']} has no init container config"
        yield _Problem(name, found, "this packaging of Cilium ignores CiliumNodeConfig")
        return
    refused = [key for key in KEYS.values() if not merging.counts(key)]
    if refused and merging.allowed:
        found = f"{refused[0]} is not among --allow-config-keys"
        yield _Problem(name, found, "add it to Helm's daemon.allowedConfigOverrides")
    elif refused:
        found = f"{refused[0]} may not be overridden (--deny-config-keys)"
        yield _Problem(name, found, "remove it from Helm's daemon.blockedConfigOverrides")
    elif merging.later is None:
        found = f"the sources are {','.join(merging.sources)}"
        yield _Problem(name, found, "add cilium-node-config to Helm's daemon.configSources")


def _overrides(daemonset: JsonObject) -> Check:
    """Tell what is applied after our CiliumNodeConfig, where that may set our two keys at all."""
    merging = merging_of(daemonset)
    assert merging is not None
    others = [source for source in merging.later or () if _kind(source) != "node"]
    if others:
        advice = f"make sure that it sets neither {' nor '.join(KEYS.values())}, or use scope cluster"
        found = f"source {others[0]} is applied after CiliumNodeConfigs"
        return Check("config overrides", "", "warn", found, advice)
    found = f"both keys may be overridden; sources {','.join(merging.sources)}"
    return Check("config overrides", "", "pass", found)


def _strategy(daemonset: JsonObject) -> str:
    return str((daemonset["spec"].get("updateStrategy") or {}).get("type", "RollingUpdate"))


def _cluster_problems(daemonset: JsonObject, config: JsonObject) -> Iterator[_Problem]:
    """Find why ``cilium-config`` cannot be changed for a run, if so."""
    if _strategy(daemonset) != "RollingUpdate":
        advice = "scope cluster restarts the agents by a rolling update"
        yield _Problem("update strategy", _strategy(daemonset), advice)
    correcting = _correcting(daemonset, config)
    if correcting:
        yield _Problem(
            "managed by", correcting, f"it may undo a change of {CONFIGMAP_NAME} in the middle of a run"
        )


def _correcting(daemonset: JsonObject, config: JsonObject) -> str:
    """Return who puts Cilium's objects back when they are changed, as a finding; empty if nobody says so."""
    found: set[str] = set()
    for item in (daemonset, config):
        present = _marks(item)
        found |= {tool for mark, tool in GITOPS_MARKS.items() if mark in present}
        if present.get(ADDON_MODE) == "Reconcile":
            found.add("the addon manager")
        elif INSTANCE in present and HELM_RELEASE not in present and not GITOPS_MARKS.keys() & present.keys():
            found.add("Argo CD (label tracking) or a similar tool")
    source = "in Git" if found <= {*GITOPS_MARKS.values()} else "at their source"
    return f"{' and '.join(sorted(found))} keeps Cilium's objects as they are {source}" if found else ""


def _marks(item: JsonObject) -> dict[str, str]:
    """Return the labels and annotations of an object."""
    meta = item["metadata"]
    return {**(meta.get("labels") or {}), **(meta.get("annotations") or {})}


def _kind(source: str) -> str:
    return source.partition(":")[0]


def manager_checks(daemonset: JsonObject, config: JsonObject, plan: Plan) -> Iterator[Check]:
    """Judge who else looks after Cilium's objects, and what they would do about our changes."""
    managers: set[str] = set()
    for item in (daemonset, config):
        present = _marks(item)
        managers |= {present[MANAGED_BY]} if MANAGED_BY in present else set()
    others, correcting = sorted(managers - {"Helm"}), _correcting(daemonset, config)
    if correcting and plan.scope == "nodes":
        advice = "make sure that it does not prune foreign CiliumNodeConfigs in Cilium's namespace"
        yield Check("managed by", "", "warn", correcting, advice)
    elif others:
        advice = "see that it neither puts changed objects of Cilium back nor removes foreign CiliumNodeConfigs"
        yield Check("managed by", "", "warn", f"{' and '.join(others)} ({MANAGED_BY})", advice)
    elif not correcting:
        yield Check("managed by", "", "pass", ", ".join(managers) or "nobody that says so")
    annotations = daemonset["spec"]["template"]["metadata"].get("annotations") or {}
    rolls = "yes: a Helm upgrade that changes the configuration restarts all agents by itself"
    yield Check("rollOutCiliumPods", "", "pass", rolls if CHECKSUM in annotations else "no")


def config_checks(config: JsonObject, plan: Plan) -> Iterator[Check]:
    """Judge settings of ``cilium-config`` with which there is nothing to measure."""
    data = config.get("data") or {}
    lacking = [family for family in families_of(plan) if data.get(f"enable-{family}") == "false"]
    if lacking:
        found = f"enable-{lacking[0]} is false, so pods have no {lacking[0]} address"
        yield Check("IP families", "", "fail", found, f"leave the {lacking[0]} scenarios out of the plan")
    else:
        yield Check("IP families", "", "pass", f"{' and '.join(families_of(plan))} as the plan needs")


def _dispatch(node: str, data: Mapping[str, str], version: Version) -> Iterator[Check]:
    """Judge a way of service traffic with which some agents do not start when BIG TCP is on."""
    dispatch = data.get("bpf-lb-dsr-dispatch", "")
    if dispatch not in ("ipip", "geneve"):
        return
    found = f"loadBalancer.dsrDispatch is {dispatch}"
    flagged = data.get("enable-tunnel-big-tcp") == "true"
    if version >= (1, 19, 0) and (dispatch == "ipip" or (version < (1, 19, 3) and not flagged)):
        advice = f"Cilium {_dotted(version)} does not start with BIG TCP and this dispatch; use opt"
        # Whatever bpf-lb-mode is: the agent does not look at that when it refuses to start.
        yield Check("DSR dispatch", node, "fail", found, advice)
    elif data.get("bpf-lb-mode") in ("dsr", "hybrid"):
        advice = (
            "service traffic through a tunnel has no BIG TCP on most kernels; pod to pod, which is measured, has"
        )
        yield Check("DSR dispatch", node, "warn", found, advice)


def override_checks(
    node: str, meta: JsonObject, node_configs: Sequence[JsonObject], daemonset: JsonObject
) -> Iterator[Check]:
    """Find what sets one of our keys for the node and is applied after our CiliumNodeConfig.

    ``meta`` is the node's metadata.
    """
    ours = protocol.NODE_CONFIG_NAME
    labels, annotations = meta.get("labels") or {}, meta.get("annotations") or {}
    merging = merging_of(daemonset)
    if merging is not None and any(_kind(source) == "node" for source in merging.later or ()):
        for mark in [NODE_PREFIX + key for key in KEYS.values()]:
            if mark in labels or mark in annotations:
                where = "annotation" if mark in annotations else "label"
                found = f"{where} {mark} of the node is applied after {ours}"
                yield Check("node config", node, "fail", found, "remove it, or measure on another node")
    for item in node_configs:
        name, spec = item["metadata"]["name"], item.get("spec") or {}
        keys = [key for key in KEYS.values() if key in (spec.get("defaults") or {})]
        if name > ours and keys and selects(spec.get("nodeSelector"), labels):
            found = f"CiliumNodeConfig {name} sets {keys[0]} and is applied after {ours}"
            yield Check("node config", node, "fail", found, "rename it, or take the node out of its selector")


def drift_checks(
    node: str, labels: Mapping[str, str], merged: Merged, config: JsonObject, node_configs: Sequence[JsonObject]
) -> Iterator[Check]:
    """Find an agent that has other settings than it would have after a restart, which is all that a run can do."""
    expected = merged_settings(KEYS, config.get("data") or {}, list(node_configs), labels)
    if merged != expected:
        yield Check("settings", node, "fail", saved_state.drift_text(merged, expected), saved_state.DRIFT_ADVICE)


def pending_checks(node: str, pending: Sequence[Difference] | None) -> Iterator[Check]:
    """Find what an agent's next start would change beside BIG TCP; None: that cannot be known."""
    if pending is None:
        found = "whether the agent's next start would change anything beside BIG TCP cannot be known"
        advice = "see that agents were restarted since Cilium's configuration was last changed"
        yield Check("pending settings", node, "warn", found, advice)
    elif pending:
        yield Check("pending settings", node, "fail", pending_text(pending), PENDING_ADVICE)


def agent_checks(node: str, cilium: Cilium, status: AgentStatus, config: JsonObject) -> Iterator[Check]:
    """Judge how an agent says that it forwards packets."""
    data = config.get("data") or {}
    version = _version(cilium, status)
    routing = status.routing or configured_routing(data)
    if routing == "Native":
        yield Check("routing mode", node, "pass", routing)
    elif version >= (1, 19, 0):
        advice = "BIG TCP needs a kernel whose tunnel devices can do it; on others the agent may not start"
        flagged = version >= (1, 19, 3) or data.get("enable-tunnel-big-tcp") == "true"
        yield Check("routing mode", node, "warn" if flagged else "fail", routing, advice)
    else:
        advice = "Cilium before 1.19 does not start with BIG TCP and tunneling; native routing is needed"
        yield Check("routing mode", node, "fail", routing, advice)
    if status.host_routing == "BPF":
        yield Check("host routing", node, "pass", "BPF")
    else:
        advice = "BIG TCP needs BPF host routing: kubeProxyReplacement and bpf.masquerade, no legacy routing"
        yield Check("host routing", node, "fail", status.host_routing or "unknown", advice)
    yield _chaining(node, status, data)
    mode = status.datapath_mode
    if not mode and (0, 0, 0) < version < (1, 16, 0):
        # Another mode than veth had to be configured, and agents did not tell theirs.
        mode = data.get("datapath-mode", "veth")
    yield _datapath(node, mode, version)
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
    yield from _dispatch(node, data, version)


def _chaining(node: str, status: AgentStatus, data: Mapping[str, str]) -> Check:
    """Judge whether Cilium makes the pods' devices itself; with portmap it does, and only adds host ports."""
    mode = status.cni_chaining or data.get("cni-chaining-mode", "none")
    if mode in ("none", "portmap"):
        return Check("CNI chaining", node, "pass", mode)
    advice = (
        "another plugin makes the pods' devices, and Cilium sets no limits on these, so no pod gets BIG TCP; "
        "Cilium has to be the CNI itself (cni.chainingMode=none)"
    )
    return Check("CNI chaining", node, "fail", mode, advice)


def _datapath(node: str, mode: str, version: Version) -> Check:
    if mode == "veth" or (mode.startswith("netkit") and version >= (1, 18, 0)):
        return Check("datapath mode", node, "pass", mode)
    if (0, 0, 0) < version < (1, 16, 0):
        advice = "Cilium before 1.16 does not start with BIG TCP in any mode but veth"
        return Check("datapath mode", node, "fail", mode or "unknown", advice)
    return Check("datapath mode", node, "warn", mode or "unknown", "BIG TCP is known to work with veth and netkit")


def tunnel_check(node: str, cilium: Cilium, status: AgentStatus, probed: NodeProbe) -> Check:
    """Judge the tunnel devices that the agent has made, which it also does for features of native routing."""
    tunnels = [name for name in TUNNEL_DEVICES if name in probed.devices]
    if not tunnels:
        return Check("tunnel devices", node, "pass", "none")
    found = ", ".join(tunnels)
    version = _version(cilium, status)
    if BROKEN_TUNNELS[0] <= version <= BROKEN_TUNNELS[1]:
        advice = (
            "Cilium 1.19.0 to 1.19.5 does not bring the node up with BIG TCP and a tunnel device (from egress "
            "gateway, DSR with Geneve and others); upgrade to a later release first"
        )
        return Check("tunnel devices", node, "fail", f"{found} with Cilium {_dotted(version)}", advice)
    return Check("tunnel devices", node, "warn", found, "traffic through them has no BIG TCP on most kernels")


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))


def _version(cilium: Cilium, status: AgentStatus) -> Version:
    # A mirror's tag may mean something else, or nothing.
    return parse_version(status.version) or cilium.version or (0, 0, 0)
