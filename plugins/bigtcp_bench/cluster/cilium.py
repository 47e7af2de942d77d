"""Cilium as it is found on a cluster: where it runs, what an agent has been told, what it says it did."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from bigtcp_bench.cluster.api import (
    CONFIGMAP,
    DAEMONSET,
    NODE,
    POD,
    ApiProblem,
    Before,
    ClusterApi,
    CommandFailed,
    JsonObject,
    Kind,
)
from bigtcp_bench.errors import PreconditionFailed, SwitchFailed
from bigtcp_bench.in_cluster import protocol
from bigtcp_bench.in_cluster.protocol import (
    AGENT_LABELS,
    CONFIGMAP_NAME,
    crashes,
    is_ready,
    rollout_state,
    waiting_reason,
)
from bigtcp_bench.in_cluster.treatment import CLASSIC_MAX_PACKET_BYTES, FAMILIES, KEYS, LIMITS, proves
from bigtcp_bench.planning.plan import Arm, Family

#: How a DaemonSet numbers its pod templates (an annotation), and how a pod tells which it was made from (a label).
TEMPLATE_GENERATION = "deprecated.daemonset.template.generation"
POD_TEMPLATE_GENERATION = "pod-template-generation"
AGENT_CONTAINER = "cilium-agent"
#: Where the init container ``config`` leaves the merged configuration for the agent (one file per key).
MERGED_DIR = "/tmp/cilium/config-map"
#: Devices that encapsulate, named by the agent. Features of native routing make them too (egress gateway, DSR by
#: Geneve), and then pod traffic does not take them. From 1.19 on the agent sets limits on them.
TUNNEL_DEVICES = ("cilium_vxlan", "cilium_geneve")
#: A new agent pod is usually Ready after 10 to 30 s; image pulls and slow nodes take longer. Where the agent's
#: startup probe allows more (605 s in the chart of 1.18), it gets that and ``PROBE_MARGIN_S``, but no more than
#: the time limits of tasks and of the guardian's Job have room for, with two agents one after the other.
AGENT_READY_S = 180.0
AGENT_READY_MAX_S = 900.0
PROBE_MARGIN_S = 30.0
#: After Ready, the agent's own API may still take this long to answer in full.
STATUS_S = 30.0
POLL_S = 0.5

Version = tuple[int, int, int]
Merged = dict[Family, bool]
Limits = dict[str, dict[str, int]]
Progress = Callable[[str], object]


@dataclass(frozen=True)
class Cilium:
    """Where Cilium runs and in which version.

    ``version`` is None if neither the image tag nor the digest-only reference tells it; ``node_config`` is None if
    the cluster serves no CiliumNodeConfig. ``agent_ready_s`` is how long an agent may take until it is Ready.
    ``template`` is the DaemonSet's generation, which grows whenever somebody changes what agents are made from.
    """

    namespace: str
    daemonset: str
    image: str
    version: Version | None
    node_config: Kind | None
    agent_ready_s: float = AGENT_READY_S
    template: int = 0

    @property
    def version_text(self) -> str:
        """Return the version as people write it."""
        return ".".join(map(str, self.version)) if self.version else f"of unknown version ({self.image})"

    @property
    def binaries(self) -> tuple[str, ...]:
        """Return the names of the agent's command-line tool to try, the likely one first (renamed in 1.15)."""
        old = self.version is not None and self.version < (1, 15, 0)
        return ("cilium", "cilium-dbg") if old else ("cilium-dbg", "cilium")

    @property
    def node_config_kind(self) -> Kind:
        """Return the served CiliumNodeConfig. Raises PreconditionFailed if there is none."""
        if self.node_config is None:
            raise PreconditionFailed(
                f"Cilium {self.version_text} in namespace {self.namespace} does not serve CiliumNodeConfig "
                "(cilium.io/v2 or v2alpha1), which scope 'nodes' needs; it comes with the chart from 1.13 on"
            )
        return self.node_config


def find_cilium(api: ClusterApi) -> Cilium:
    """Return the Cilium of this cluster. Raises PreconditionFailed if there is none."""
    sets = api.select(DAEMONSET, labels=AGENT_LABELS)
    if not sets:
        raise PreconditionFailed(
            f"no Cilium on the cluster at {api.host}: no namespace has a DaemonSet labelled {AGENT_LABELS}"
        )
    return _as_cilium(api, _believed(sets))


def _believed(sets: list[JsonObject]) -> JsonObject:
    """Return the DaemonSet that is Cilium's: anybody may put its label on one of their own.

    Nobody but the cluster's administrators writes to kube-system, and who has pods in the nodes' own network is
    more than a tenant. Raises PreconditionFailed where that does not tell.
    """
    believed = [item for item in sets if item["metadata"]["namespace"] == "kube-system"] or [
        item for item in sets if item["spec"]["template"]["spec"].get("hostNetwork")
    ]
    named = [item for item in believed if item["metadata"]["name"] == protocol.DAEMONSET_NAME]
    if len(believed) > 1 and len(named) == 1:
        return named[0]
    if len(believed or sets) == 1:
        return (believed or sets)[0]
    names = ", ".join(f"{one['metadata']['namespace']}/{one['metadata']['name']}" for one in believed or sets)
    raise PreconditionFailed(
        f"the DaemonSets {names} are all labelled {AGENT_LABELS}, so it cannot be told which is Cilium's; take "
        "the label off the others"
    )


def cilium_of(api: ClusterApi, namespace: str, daemonset: str, image: str) -> Cilium:
    """Return the Cilium of this very DaemonSet, also where that is gone; ``image`` is what it had."""
    found = api.find(DAEMONSET, daemonset, namespace)
    if found is not None:
        return _as_cilium(api, found)
    return Cilium(namespace, daemonset, image, version_of_image(image), _served_node_config(api))


def _as_cilium(api: ClusterApi, daemonset: JsonObject) -> Cilium:
    containers = daemonset["spec"]["template"]["spec"]["containers"]
    agent = next((item for item in containers if item["name"] == AGENT_CONTAINER), containers[0])
    image = agent["image"]
    return Cilium(
        namespace=daemonset["metadata"]["namespace"],
        daemonset=daemonset["metadata"]["name"],
        image=image,
        version=version_of_image(image),
        node_config=_served_node_config(api),
        agent_ready_s=_allowed_s(agent),
        template=int(daemonset["metadata"].get("generation") or 0),
    )


def _allowed_s(agent: JsonObject) -> float:
    """Return how long the kubelet lets a new agent start before it ends it, within our own bounds."""
    probe = agent.get("startupProbe")
    if probe is None:
        return AGENT_READY_S
    # The defaults are those of Kubernetes.
    tries_s = probe.get("failureThreshold", 3) * probe.get("periodSeconds", 10)
    allowed_s = probe.get("initialDelaySeconds", 0) + tries_s + PROBE_MARGIN_S
    return float(min(max(AGENT_READY_S, allowed_s), AGENT_READY_MAX_S))


def _served_node_config(api: ClusterApi) -> Kind | None:
    served = api.served_versions("cilium.io")
    for version in ("v2", "v2alpha1"):
        kind = Kind("cilium.io", version, "ciliumnodeconfigs")
        # The group has had v2 for other kinds since long before; only its resource list tells.
        if version in served and api.serves(kind):
            return kind
    return None


def version_of_image(image: str) -> Version | None:
    """Return the version in an image reference such as ``quay.io/cilium/cilium:v1.18.3@sha256:…``."""
    return parse_version(image.split("@", 1)[0].rsplit("/", 1)[-1].partition(":")[2])


def parse_version(text: str) -> Version | None:
    """Return the first ``major.minor.patch`` in ``text``, or None."""
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def agent_pod(api: ClusterApi, cilium: Cilium, node: str) -> JsonObject | None:
    """Return the agent pod of a node that is not being deleted, or None."""
    pods = api.select(POD, cilium.namespace, labels=AGENT_LABELS, fields=f"spec.nodeName={node}")
    return protocol.present_agent(pods, cilium.daemonset)


def ready_agent(api: ClusterApi, cilium: Cilium, node: str) -> JsonObject:
    """Return the agent pod of a node once it is Ready. Raises SwitchFailed after ``cilium.agent_ready_s``."""
    return _await_agent(api, cilium, node, other_than=None)


def restart_agent(api: ClusterApi, cilium: Cilium, node: str, *, before: Before) -> JsonObject:
    """Delete the agent pod of a node and return the next one once it is Ready.

    A new *pod*, because only its init container merges the configuration anew. ``before`` guards the deletion.
    Raises SwitchFailed, naming the node, the pod and what its container waits for.
    """
    old = ready_or_any_agent(api, cilium, node)
    if old is None:
        return _await_agent(api, cilium, node, other_than=None)
    api.delete(POD, old["metadata"]["name"], cilium.namespace, uid=old["metadata"]["uid"], before=before)
    return _await_agent(api, cilium, node, other_than=old["metadata"]["uid"])


def ready_or_any_agent(api: ClusterApi, cilium: Cilium, node: str) -> JsonObject | None:
    """Return the agent pod of a node, Ready or not, waiting a moment if it is just being replaced."""
    for _ in api.poll(10, POLL_S):
        pod = agent_pod(api, cilium, node)
        if pod is not None:
            return pod
    return None


def _await_agent(api: ClusterApi, cilium: Cilium, node: str, *, other_than: str | None) -> JsonObject:
    state, timeout_s = "there is none", cilium.agent_ready_s
    for _ in api.poll(timeout_s, POLL_S):
        pod = agent_pod(api, cilium, node)
        if pod is None or pod["metadata"]["uid"] == other_than:
            continue
        if is_ready(pod):
            return pod
        state = f"pod {pod['metadata']['name']} {waiting_reason(pod)}"
        # An agent that refuses its configuration exits at start; waiting leaves the node without one.
        if crashes(pod):
            raise SwitchFailed(f"the Cilium agent on node {node} does not start: {state}")
    state += protocol.node_trouble(api.find(NODE, node))
    raise SwitchFailed(f"the Cilium agent on node {node} was not Ready within {timeout_s:g} s: {state}")


def read_merged(api: ClusterApi, cilium: Cilium, pod: str) -> Merged:
    """Return the two settings as this very agent has been told them; a key that is not set counts as false.

    Raises SwitchFailed if that cannot be read within STATUS_S.
    """
    return {family: _merged_value(api, cilium, pod, KEYS[family]) for family in FAMILIES}


def _merged_value(api: ClusterApi, cilium: Cilium, pod: str, key: str) -> bool:
    problem = ""
    for _ in api.poll(STATUS_S, 1.0):
        try:
            text = api.exec(cilium.namespace, pod, AGENT_CONTAINER, ["cat", f"{MERGED_DIR}/{key}"])
        except CommandFailed as error:
            # Only this says that the key is not set; a command that hangs says nothing about it.
            if "No such file or directory" in str(error):
                return False
            problem = str(error)
        else:
            return text.strip().strip("\"'").lower() == "true"
    raise SwitchFailed(f"the Cilium agent {pod} does not say what it was told: {problem}")


@dataclass(frozen=True)
class AgentStatus:
    """What one agent says about itself (``cilium-dbg status -o json``).

    ``max_gso`` and ``max_gro`` are bytes per family, None if the answer lacks them. ``enabled`` only echoes the
    request and proves nothing. ``routing`` and ``datapath_mode`` are empty before 1.16, whose agents do not tell
    them. The raw document is kept.
    """

    version: str
    enabled: Merged
    max_gso: dict[Family, int | None]
    max_gro: dict[Family, int | None]
    routing: str
    host_routing: str
    datapath_mode: str
    kube_proxy_replacement: str
    masquerading: str
    encryption: str
    #: The plugin that makes the pods' devices where that is not Cilium; empty where the agent does not tell.
    cni_chaining: str
    devices: tuple[str, ...]
    raw: JsonObject


def read_status(api: ClusterApi, cilium: Cilium, pod: str) -> AgentStatus:
    """Return an agent's status. Raises SwitchFailed if it does not answer with one within STATUS_S."""
    problem = ""
    for _ in api.poll(STATUS_S, 1.0):
        for binary in cilium.binaries:
            try:
                text = api.exec(cilium.namespace, pod, AGENT_CONTAINER, [binary, "status", "-o", "json"])
                return parse_status(json.loads(text))
            except (CommandFailed, ValueError) as error:
                problem = problem or str(error)
            except ApiProblem as error:
                # The tool of the other name does not exist: the container runtime, not a command, says so.
                if error.status in (401, 403, 404):
                    raise
                problem = problem or str(error)
    raise SwitchFailed(f"the Cilium agent {pod} gives no status: {problem}")


def parse_status(document: JsonObject) -> AgentStatus:
    """Return the status in an agent's JSON. Every field may be missing: the agent omits what is false or zero."""
    big_tcp = {family: document.get(f"{family}-big-tcp") or {} for family in FAMILIES}
    routing = document.get("routing") or {}
    # Until 1.15 there is no "routing", and this section in its place.
    host_routing = document.get("host-routing") or {}
    masquerading = document.get("masquerading") or {}
    replacement = document.get("kube-proxy-replacement") or {}
    return AgentStatus(
        version=str((document.get("cilium") or {}).get("msg", "")),
        enabled={family: bool(big_tcp[family].get("enabled", False)) for family in FAMILIES},
        max_gso={family: big_tcp[family].get("maxGSO") for family in FAMILIES},
        max_gro={family: big_tcp[family].get("maxGRO") for family in FAMILIES},
        routing=str(routing.get("inter-host-routing-mode", "")),
        host_routing=str(routing.get("intra-host-routing-mode") or host_routing.get("mode") or ""),
        datapath_mode=str(document.get("datapath-mode") or document.get("configured-datapath-mode") or ""),
        kube_proxy_replacement=str(replacement.get("mode", "")),
        masquerading=str(masquerading.get("mode", "")) if masquerading.get("enabled") else "Disabled",
        encryption=str((document.get("encryption") or {}).get("mode", "Disabled")),
        cni_chaining=str((document.get("cni-chaining") or {}).get("mode", "")),
        devices=tuple(_status_devices(document)),
        raw=document,
    )


def _status_devices(document: JsonObject) -> list[str]:
    names: list[str] = []
    for section in ("kube-proxy-replacement", "host-firewall", "bandwidth-manager"):
        found = document.get(section) or {}
        # Old versions write "eth0 172.30.0.11 (Direct Routing)".
        names += [str(item).split()[0] for item in found.get("devices") or [] if str(item).strip()]
        names += [str(item["name"]) for item in found.get("deviceList") or [] if item.get("name")]
    return list(dict.fromkeys(names))


#: What a size was wanted to be.
_WITH: dict[Arm, str] = {
    "on": f"with BIG TCP switched on, wanted more than {CLASSIC_MAX_PACKET_BYTES}",
    "off": f"with BIG TCP switched off, wanted at most {CLASSIC_MAX_PACKET_BYTES}",
}


def judge_status(node: str, arm: Arm, status: AgentStatus, families: Iterable[Family]) -> list[str]:
    """Return what in an agent's status contradicts ``arm``, one sentence each; empty if nothing does."""
    problems = []
    for family in families if arm == "on" else FAMILIES:
        for name, value in (("maxGSO", status.max_gso[family]), ("maxGRO", status.max_gro[family])):
            if not proves(value or 0, arm):
                what = f"Cilium reports {name} {'none' if value is None else value} for {family}"
                problems.append(f"node {node}: {what} {_WITH[arm]}")
    return problems


def judge_limits(node: str, arm: Arm, limits: Limits, families: Iterable[Family]) -> list[str]:
    """Return which device limits contradict ``arm``, one sentence each; empty if none does.

    ``limits`` are those of the devices that Cilium selects. A device without an attribute (a kernel that does
    not know it) cannot be on, and is off by nature.
    """
    problems = []
    if not limits:
        return [f"node {node}: none of the devices that Cilium selects was found on the node"]
    for device, values in limits.items():
        for family in families if arm == "on" else FAMILIES:
            for name in LIMITS[family]:
                value = values.get(name)
                if not proves(value or 0, arm):
                    ceiling = f" (tso_max_size of the device: {values.get('tso_max_size')})"
                    hint = ceiling if arm == "on" and name.startswith("gso") else ""
                    what = f"device {device} has {name} {'none' if value is None else value}"
                    problems.append(f"node {node}: {what} {_WITH[arm]}{hint}")
    return problems


def rollout(
    api: ClusterApi, cilium: Cilium, found: JsonObject, value: str | None, *, before: Before | None = None
) -> None:
    """Set (or, with None, remove) our annotation of the agents' pod template, which restarts them all in turn.

    ``found`` is the DaemonSet as read. Raises Conflict if it has changed since.
    """
    body = protocol.template_annotation(found, value)
    api.patch(DAEMONSET, cilium.daemonset, body, cilium.namespace, before=before)


def await_rollout(api: ClusterApi, cilium: Cilium) -> None:
    """Wait until every agent runs the present pod template and is available. Raises SwitchFailed.

    However long that takes, as long as it goes on: its numbers may stay the same for ``cilium.agent_ready_s``.
    """
    seen, since_s = "", 0.0
    for passed_s in api.poll(float("inf"), POLL_S):
        state = rollout_state(api.get(DAEMONSET, cilium.daemonset, cilium.namespace))
        if not state:
            return
        if state != seen:
            seen, since_s = state, passed_s
        elif passed_s - since_s >= cilium.agent_ready_s:
            break
    raise SwitchFailed(
        f"the rolling restart of DaemonSet {cilium.namespace}/{cilium.daemonset} has stopped for "
        f"{cilium.agent_ready_s:g} s: {seen}{_hindrance(api, cilium)}"
    )


def _hindrance(api: ClusterApi, cilium: Cilium) -> str:
    """Return what an agent that is not Ready waits for, one that crashes before others; empty if all are Ready."""
    pods = api.select(POD, cilium.namespace, labels=AGENT_LABELS)
    unready = sorted((pod for pod in pods if not is_ready(pod)), key=crashes, reverse=True)
    if not unready:
        return ""
    pod = unready[0]
    node = (pod.get("spec") or {}).get("nodeName", "no node")
    return f"; pod {pod['metadata']['name']} on {node} {waiting_reason(pod)}"


def is_of_template(pod: JsonObject, daemonset: JsonObject) -> bool:
    """Return whether a DaemonSet's pod was made from its present template; its metadata are enough."""
    made_from = (pod["metadata"].get("labels") or {}).get(POD_TEMPLATE_GENERATION)
    return made_from is not None and made_from == daemonset["metadata"].get("annotations", {}).get(
        TEMPLATE_GENERATION
    )


def rollout_rounds(daemonset: JsonObject) -> int:
    """Return how many times a rolling restart restarts as many agents at once as the DaemonSet allows."""
    desired = int((daemonset.get("status") or {}).get("desiredNumberScheduled", 0))
    rolling = (daemonset["spec"].get("updateStrategy") or {}).get("rollingUpdate") or {}
    at_once = rolling.get("maxUnavailable", 1)
    if isinstance(at_once, str):
        at_once = desired * int(at_once.rstrip("%")) // 100
    return -(-desired // max(1, at_once))


def configured_routing(config: Mapping[str, str]) -> str:
    """Return the routing mode that ``cilium-config`` asks for, in the words of an agent's status.

    Before 1.14 the key is ``tunnel``; 1.14 still reads it where ``routing-mode`` is not set.
    """
    native = config.get("routing-mode", "native" if config.get("tunnel") == "disabled" else "tunnel") == "native"
    return "Native" if native else "Tunnel"


def config_values(api: ClusterApi, cilium: Cilium) -> dict[str, str]:
    """Return the data of ``cilium-config``."""
    found = api.find(CONFIGMAP, CONFIGMAP_NAME, cilium.namespace)
    if found is None:
        raise PreconditionFailed(f"namespace {cilium.namespace} has no ConfigMap {CONFIGMAP_NAME}")
    return dict(found.get("data") or {})
