"""The two nodes of a run: how they are chosen, and what the Kubernetes API knows about them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from bigtcp_bench.cluster.api import NODE, ClusterApi, JsonObject
from bigtcp_bench.errors import PreconditionFailed
from bigtcp_bench.planning.plan import Family, Plan, Way

#: Nodes with this label (value ``true``) are the ones an administrator has set aside for the benchmark. It is
#: never written by this package.
PAIR_LABEL = "bigtcp-bench"
#: Pods of the benchmark tolerate a taint of this key, whatever its value and effect.
TAINT_KEY = "bigtcp-bench"
#: Ends of the keys of taints that pass by themselves: of Cilium's operator until the node's agent is ready (the
#: key is a setting, also with a prefix for the cluster autoscaler), of a cloud's controller, of a new network.
PASSING_TAINTS = ("agent-not-ready", "node.cloudprovider.kubernetes.io/uninitialized", "network-unavailable")
#: So long such a taint is waited for; an agent that was just restarted has it for some seconds.
PASSING_S = 120.0
POLL_S = 2.0


@dataclass(frozen=True)
class NodeInfo:
    """One node as the API describes it; ``cpu`` in cores, ``memory_bytes`` allocatable."""

    name: str
    ready: bool
    schedulable: bool
    blocking_taints: tuple[str, ...]
    os: str
    architecture: str
    kernel_release: str
    os_image: str
    kubelet_version: str
    internal_ips: tuple[str, ...]
    zone: str
    instance_type: str
    cpu: float
    memory_bytes: int
    labelled: bool
    #: Whether it has the benchmark's taint.
    tainted: bool = False
    #: What it is short of, as its conditions say (``MemoryPressure`` and the like).
    pressures: tuple[str, ...] = ()
    #: What runs it if it is a container itself (``kind``), else empty.
    in_container: str = ""

    @property
    def usable(self) -> bool:
        """Return whether a benchmark pod could run there now."""
        return self.ready and self.schedulable and not self.blocking_taints and self.os == "linux"

    @property
    def soon_usable(self) -> bool:
        """Return whether it is usable, or only has taints that pass by themselves."""
        passing = all(taint.rpartition(":")[0].endswith(PASSING_TAINTS) for taint in self.blocking_taints)
        return self.ready and self.schedulable and passing and self.os == "linux"

    @property
    def unusable_because(self) -> str:
        """Return why no benchmark pod can run there; empty if one can."""
        if not self.ready:
            return "is not Ready"
        if not self.schedulable:
            return "is cordoned"
        if self.blocking_taints:
            passes = ", which has not passed" if self.soon_usable else ", which benchmark pods do not tolerate"
            return f"has the taint {self.blocking_taints[0]}{passes}"
        return "" if self.os == "linux" else f"runs {self.os}, not linux"


@dataclass(frozen=True)
class NodePair:
    """The node that sends (``client``) and the node that receives (``server``)."""

    client: NodeInfo
    server: NodeInfo

    @property
    def nodes(self) -> tuple[NodeInfo, NodeInfo]:
        """Return both, the sender first."""
        return (self.client, self.server)

    @property
    def names(self) -> tuple[str, str]:
        """Return both names, the sender's first."""
        return (self.client.name, self.server.name)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a task's result or the warehouse."""
        return {"client": asdict(self.client), "server": asdict(self.server)}

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> NodePair:
        """Return the pair that ``to_dict`` wrote, also after a way through JSON."""
        return cls(*(_from_plain(document[role]) for role in ("client", "server")))


def candidates(api: ClusterApi, plan: Plan) -> list[JsonObject]:
    """Return the nodes to choose from: those named by the plan, else the labelled ones, else all.

    All nodes of a large cluster are many megabytes, so they are asked for only where it must be.
    """
    named = [name for name in (plan.client_node, plan.server_node) if name is not None]
    if named:
        return [node for name in named if (node := api.find(NODE, name)) is not None]
    return api.select(NODE, labels=f"{PAIR_LABEL}=true") or api.select(NODE)


def choose_pair(api: ClusterApi, plan: Plan) -> NodePair:
    """Return the nodes to measure between: named by the plan, else the labelled ones, else the first two usable.

    A taint that passes by itself is waited for, up to PASSING_S, before another node takes the place.
    Raises PreconditionFailed, in one sentence, if there is no such pair.
    """
    for passed_s in api.poll(PASSING_S, POLL_S):
        nodes = sorted((node_info(node) for node in candidates(api, plan)), key=lambda node: node.name)
        last = passed_s >= PASSING_S
        pair = _named(api, plan, nodes) if plan.client_node is not None else _first_two(nodes, usable=last)
        if all(node.usable for node in pair.nodes) or not all(node.soon_usable for node in pair.nodes):
            break
    for node in pair.nodes:
        if node.unusable_because:
            raise PreconditionFailed(f"node {node.name} {node.unusable_because}; choose another one or mend it")
    return pair


class Place(NamedTuple):
    """Where a pair of pods is: the nodes of the sender and of the receiver, and the ways between the two."""

    sender: str
    receiver: str
    ways: tuple[Way, ...]

    @property
    def families(self) -> list[Family]:
        """Return the IP families of its ways, sorted."""
        return sorted({way.family for way in self.ways})

    @property
    def has_service(self) -> bool:
        """Return whether one of its ways leads through a Service."""
        return any(way.path == "service" for way in self.ways)


def _named(api: ClusterApi, plan: Plan, nodes: list[NodeInfo]) -> NodePair:
    """Return the pair that the plan names. Raises PreconditionFailed if one of them does not exist."""
    by_name = {node.name: node for node in nodes}
    for role, name in (("client_node", plan.client_node), ("server_node", plan.server_node)):
        if name not in by_name:
            names = sorted(node["metadata"]["name"] for node in api.select(NODE, metadata_only=True))
            raise PreconditionFailed(
                f"plan {plan.name!r}: {role} {name!r} does not exist in this cluster; "
                f"its nodes are {_listed(names)}"
            )
    return NodePair(by_name[str(plan.client_node)], by_name[str(plan.server_node)])


def _first_two(nodes: list[NodeInfo], *, usable: bool) -> NodePair:
    """Return the first two that are usable, or will be soon. Raises PreconditionFailed if there are not two."""
    found = [node for node in nodes if (node.usable if usable else node.soon_usable)]
    if len(found) < 2:
        group = f"labelled {PAIR_LABEL}=true" if any(node.labelled for node in nodes) else "in this cluster"
        reasons = "; ".join(f"{node.name} {node.unusable_because}" for node in nodes if node not in found)
        raise PreconditionFailed(
            f"two usable nodes are needed, but of the nodes {group} ({_listed([node.name for node in nodes])}) "
            f"{len(found)} can run benchmark pods{': ' + reasons if reasons else ''}; label two nodes "
            f"with {PAIR_LABEL}=true or name client_node and server_node in the plan"
        )
    return NodePair(found[0], found[1])


def node_info(node: JsonObject) -> NodeInfo:
    """Return what matters of a Node object."""
    meta, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    labels = meta.get("labels") or {}
    system = status.get("nodeInfo") or {}
    allocatable = status.get("allocatable") or {}
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions") or []}
    return NodeInfo(
        name=meta["name"],
        ready=conditions.get("Ready") == "True",
        schedulable=not spec.get("unschedulable", False),
        blocking_taints=tuple(
            f"{taint['key']}:{taint['effect']}"
            for taint in spec.get("taints") or []
            if taint.get("effect") in ("NoSchedule", "NoExecute")
            and taint["key"] != TAINT_KEY
            # Cordoning shows twice: as a field and as this taint.
            and taint["key"] != "node.kubernetes.io/unschedulable"
        ),
        os=system.get("operatingSystem", "linux"),
        architecture=system.get("architecture", ""),
        kernel_release=system.get("kernelVersion", ""),
        os_image=system.get("osImage", ""),
        kubelet_version=system.get("kubeletVersion", ""),
        internal_ips=tuple(
            address["address"] for address in status.get("addresses") or [] if address["type"] == "InternalIP"
        ),
        zone=labels.get("topology.kubernetes.io/zone", ""),
        instance_type=labels.get("node.kubernetes.io/instance-type", ""),
        cpu=quantity(allocatable.get("cpu", "0")),
        memory_bytes=int(quantity(allocatable.get("memory", "0"))),
        labelled=labels.get(PAIR_LABEL) == "true",
        tainted=any(taint["key"] == TAINT_KEY for taint in spec.get("taints") or []),
        pressures=tuple(
            kind for kind, value in conditions.items() if kind.endswith("Pressure") and value == "True"
        ),
        in_container="kind" if spec.get("providerID", "").startswith("kind://") else "",
    )


#: Suffixes of Kubernetes quantities.
_SUFFIXES = {
    **{"n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18},
    **{f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTPE", start=1)},
}


def quantity(text: str) -> float:
    """Return a Kubernetes quantity (``1500m``, ``24477616Ki``, ``2``) as a number."""
    for suffix in sorted(_SUFFIXES, key=len, reverse=True):
        if text.endswith(suffix):
            return float(text.removesuffix(suffix)) * _SUFFIXES[suffix]
    return float(text)


def _listed(names: list[str], limit: int = 10) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "none") + more


def _from_plain(document: dict[str, Any]) -> NodeInfo:
    fields: dict[str, Any] = dict(document)
    for name in ("blocking_taints", "internal_ips", "pressures"):
        fields[name] = tuple(fields.get(name, ()))
    return NodeInfo(**fields)
