"""What the two nodes must be: kernel, memory, load, and every device on the path, judged from what probes saw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bigtcp_bench.cluster.api import Forbidden
from bigtcp_bench.cluster.bigtcp_switch import families_of
from bigtcp_bench.cluster.checks import Check, Status
from bigtcp_bench.cluster.cilium import TUNNEL_DEVICES, AgentStatus, Merged
from bigtcp_bench.cluster.kernels import lacks_ipv4_fix
from bigtcp_bench.cluster.nodes import PAIR_LABEL, TAINT_KEY, NodeInfo, NodePair
from bigtcp_bench.cluster.probe import NodeProbe
from bigtcp_bench.cluster.reach import POLICY_DENIED
from bigtcp_bench.errors import BenchError, PreconditionFailed
from bigtcp_bench.in_cluster.treatment import CLASSIC_MAX_PACKET_BYTES, LIMITS
from bigtcp_bench.planning.plan import SCENARIOS, NetworkPath, Plan, Way
from bigtcp_bench.readings.agent_log import Device

#: Below this much free memory eight streams of large buffers compete with everything else on the node.
LOW_MEMORY_BYTES = 512 * 2**20


def node_check(node: NodeInfo) -> Check:
    """Judge what the Kubernetes API says of a node."""
    found = f"Ready, schedulable, {node.cpu:g} CPUs, {node.memory_bytes / 2**30:.1f} GiB, {node.os_image}"
    if node.unusable_because:
        return Check("node", node.name, "fail", node.unusable_because, "choose another one or mend it")
    if node.pressures:
        advice = "the node evicts pods while it is short of this; results will suffer"
        return Check("node", node.name, "warn", f"{found}, {', '.join(node.pressures)}", advice)
    if node.in_container:
        advice = (
            "use it to try things out: it shares kernel and CPUs with the other node, so its figures say little"
        )
        return Check("node", node.name, "warn", f"{found}, itself a container ({node.in_container})", advice)
    return Check("node", node.name, "pass", found)


def chosen_check(pair: NodePair, plan: Plan, usable: int, labelled: int) -> Check:
    """Judge how the pair came about.

    ``usable`` is how many nodes of the cluster could run benchmark pods, ``labelled`` how many have the label.
    """
    tainted = [node.name for node in pair.nodes if node.tainted]
    taint = f"tainted {TAINT_KEY}" if len(tainted) == 2 else f"not tainted {TAINT_KEY}, so other pods may come"
    if plan.client_node is not None:
        return Check("choice of nodes", "", "pass", f"named by the plan; {taint}")
    if labelled > 2:
        advice = "take the label off the others: when one of the pair is down, the next one would stand in for it"
        found = f"the first usable two of {labelled} labelled {PAIR_LABEL}=true; {taint}"
        return Check("choice of nodes", "", "warn", found, advice)
    if all(node.labelled for node in pair.nodes):
        return Check("choice of nodes", "", "pass", f"labelled {PAIR_LABEL}=true; {taint}")
    if usable == 2:
        return Check("choice of nodes", "", "pass", f"the only two that can be used; {taint}")
    advice = f"label two nodes {PAIR_LABEL}=true, so that every night measures the same pair"
    return Check("choice of nodes", "", "warn", f"the first two of {usable} by name; {taint}", advice)


def kernel_checks(node: str, probed: NodeProbe, plan: Plan) -> Iterator[Check]:
    """Judge the kernel by its attributes, for distributions backport BIG TCP; known regressions by its release."""
    release = probed.kernel_release
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
            yield Check(name, node, "pass", f"{release}, lo has {attribute}")
        elif family in families_of(plan):
            found = f"{release} does not know BIG TCP for {family} (lo has no {attribute})"
            advice = f"Linux {since} or a distribution's backport is needed; or leave the {family} scenarios out"
            yield Check(name, node, "fail", found, advice)
        else:
            yield Check(name, node, "pass", f"{release} does not know it; the plan does not need it")
    if able["ipv4"] and lacks_ipv4_fix(release):
        advice = (
            "the benchmark enables both families, which is the way around it; do the same in production "
            "(enableIPv6BIGTCP too), or take Linux 6.6.55, 6.10.14, 6.11.3, 6.12 or later"
        )
        found = (
            f"{release} segments big IPv4 packets where only IPv4 is enabled, unless the distribution mended it"
        )
        yield Check("kernel, IPv4 fix", node, "warn", found, advice)


def memory_check(node: str, probed: NodeProbe) -> Check:
    """Judge how much memory is free."""
    available = probed.memory_available_bytes
    if available is None:
        return Check("memory", node, "warn", "not reported", "see that /proc/meminfo can be read in pods")
    found = f"{available / 2**30:.1f} GiB available"
    if available < LOW_MEMORY_BYTES:
        return Check("memory", node, "warn", found, "the node is short of memory; results will suffer")
    return Check("memory", node, "pass", found)


def load_check(node: str, probed: NodeProbe, plan: Plan) -> Check:
    """Judge how much CPU time others use; the plan's ``load_gate`` says how much is too much."""
    share, gate = probed.busy_share, plan.load_gate
    if share is None:
        return Check("load", node, "warn", "not reported", "see that /proc/stat can be read in pods")
    seconds = probed.sampled_s or 0
    found = f"{share:.0%} of the CPU time used during {seconds:.0f} s without the benchmark"
    if share <= gate.busy_share:
        return Check("load", node, "pass", found)
    does: dict[str, tuple[Status, str]] = {
        "refuse": ("fail", "load_gate refuses that"),
        "wait": ("warn", f"a run waits up to {gate.wait_s} s for less"),
        "warn": ("warn", "results will suffer"),
    }
    status, consequence = does[gate.mode]
    advice = (
        f"more than {gate.busy_share:.0%}: {consequence}; choose a quieter hour, or keep others off with a taint"
    )
    return Check("load", node, status, found, advice)


def device_checks(
    node: NodeInfo, status: AgentStatus, merged: Merged, probed: NodeProbe, plan: Plan, abandoned: bool
) -> Iterator[Check]:
    """Judge every device that Cilium selects, and those that carry it.

    ``abandoned``: limits that a crashed run has left are not held against the node; they are put back first.
    """
    path = probed.path_devices(status, node.internal_ips)
    if not path:
        selected = ", ".join(status.devices) or "none"
        advice = "set Cilium's devices to the card that carries pod traffic"
        yield Check("devices", node.name, "fail", f"Cilium selects {selected}; the node has none of these", advice)
        return
    for name in path:
        yield _device(node, name, probed.devices[name], plan)
        for below in probed.carriers(name):
            yield _device(node, f"{below} (carries {name})", probed.devices[below], plan)
        if not abandoned:
            yield from _restorable(node.name, name, probed.devices[name].limits, merged)


def _device(node: NodeInfo, name: str, device: Device, plan: Plan) -> Check:
    kind = device.driver or device.kind or "unknown driver"
    speed = f", {device.speed_mbps / 1000:g} Gbit/s" if device.speed_mbps else ""
    found = f"{name}: {kind}{speed}, MTU {device.mtu}, tso_max_size {device.tso_max_size}"
    ceiling = device.tso_max_size
    if "on" in plan.order and ceiling is not None and ceiling <= CLASSIC_MAX_PACKET_BYTES:
        remedy = (
            "with tunnel routing it carries the pods' traffic; native routing is needed"
            if name in TUNNEL_DEVICES
            else "if it does not carry pod traffic, take it out of Cilium's devices"
        )
        advice = (
            f"this device cannot take packets above {CLASSIC_MAX_PACKET_BYTES} bytes, so BIG TCP cannot be on; "
            f"{remedy}"
        )
        return Check("device", node.name, "fail", found, advice)
    if kind == "veth" and name not in TUNNEL_DEVICES:
        advice = (
            "a virtual cable (kind, a lab): raise gso_max_size, gro_max_size, gso_ipv4_max_size and "
            "gro_ipv4_max_size of its other end too, or packets arrive segmented on kernels from 6.7"
        )
        return Check("device", node.name, "warn", found, advice)
    return Check("device", node.name, "pass", found)


def _restorable(node: str, device: str, limits: Mapping[str, int], merged: Merged) -> Iterator[Check]:
    """Find limits that somebody has set by hand: Cilium would overwrite them and never put them back."""
    for family, names in LIMITS.items():
        for name in names:
            value = limits.get(name)
            if merged[family] or value is None or value == CLASSIC_MAX_PACKET_BYTES:
                continue
            if value == limits.get("tso_max_size"):
                continue
            found = f"{device}: {name} is {value} although BIG TCP is off, so it was set by hand"
            advice = f"Cilium would leave {CLASSIC_MAX_PACKET_BYTES} behind; set it to that before a benchmark"
            yield Check("limits", node, "fail", found, advice)


def cpu_limit_checks(probed: NodeProbe) -> Iterator[Check]:
    """Find a CPU limit that the cluster has given to our pods, which ask for none."""
    if probed.cpu_limit:
        found = f"pods get a CPU limit of {probed.cpu_limit}, although they ask for none"
        advice = (
            "its throttling would be what is measured; take the default out of the namespace's LimitRange "
            "(kubectl -n bigtcp-bench get limitrange)"
        )
        yield Check("CPU limit", probed.node, "fail", found, advice)


def refused_check(error: BenchError, plan: Plan) -> Check:
    """Tell why the pods that look at the nodes could not run, with what helps against just that."""
    if isinstance(error, Forbidden):
        return Check("pods", "", "fail", f"not allowed: {error.said}", error.advice)
    if isinstance(error, PreconditionFailed):
        advice = "kubectl apply -f include/manifests/namespace.yaml, priorityclass.yaml and rbac.yaml, once"
    elif "cannot be scheduled" in str(error):
        advice = "make room for one pod on each node (0.1 CPU, 128 MiB), or choose other nodes"
    else:
        advice = f"pods of image {plan.image} must be able to run on both nodes, with python3 and iperf3 in it"
    return Check("pods", "", "fail", str(error), advice)


def alike_check(pair: NodePair, probes: Mapping[str, NodeProbe], statuses: Mapping[str, AgentStatus]) -> Check:
    """Judge whether it matters which of the two nodes sends."""
    ours, theirs = pair.nodes
    pairs: list[tuple[str, object, object]] = [
        ("kernel", ours.kernel_release, theirs.kernel_release),
        ("architecture", ours.architecture, theirs.architecture),
        ("instance type", ours.instance_type, theirs.instance_type),
        ("CPUs", ours.cpu, theirs.cpu),
        ("zone", ours.zone, theirs.zone),
    ]
    if all(name in statuses for name in pair.names):
        pairs.append(("Cilium", statuses[ours.name].version, statuses[theirs.name].version))
        if probes:
            cards = [_card(node, probes[node.name], statuses[node.name]) for node in pair.nodes]
            pairs += [(label, cards[0][label], cards[1][label]) for label in cards[0]]
    different = [f"{name} {mine} and {other}" for name, mine, other in pairs if mine != other]
    if different:
        return Check("nodes alike", "", "warn", "; ".join(different), "figures depend on which of them sends")
    return Check("nodes alike", "", "pass", f"same {', '.join(name for name, _, _ in pairs)}")


def _card(node: NodeInfo, probed: NodeProbe, status: AgentStatus) -> dict[str, object]:
    """Return what is compared of the first device on a node's path, and of the cards that carry it."""
    path = probed.path_devices(status, node.internal_ips)[:1]
    devices = [probed.devices[name] for name in path]
    cards = [probed.devices[card] for name in path for card in probed.cards(name)]
    return {
        "NIC driver": " + ".join(str(card.driver) for card in cards),
        "NIC speed": " + ".join(str(card.speed_mbps) for card in cards),
        "MTU": " + ".join(str(device.mtu) for device in devices),
        "tso_max_size": " + ".join(str(device.tso_max_size) for device in cards),
    }


#: Path → what was tried on it, and what helps where it did not work.
_TRIED: dict[NetworkPath, tuple[str, str]] = {
    "pod": ("pod to pod", "see to routes and firewalls; server pods listen on TCP 5201 to 5203"),
    "same-node": (
        "pod to pod on one node",
        "see to policies of the node's own; server pods listen on TCP 5201 to 5203; or leave @same-node out",
    ),
    "service": (
        "pod to Service",
        "see to a route to the cluster's Service addresses and to what leads them to pods (Cilium's kube-proxy "
        "replacement, or kube-proxy); or leave @service out",
    ),
}


def reach_checks(pair: NodePair, plan: Plan, unreachable: Mapping[Way, str]) -> Iterator[Check]:
    """Judge whether pods reached each other on each way that the plan measures."""
    names = " and ".join(pair.names)
    reached = {
        "pod": f"a pod on {pair.client.name} reaches one on {pair.server.name}",
        "same-node": f"pods on {names} reach others there",
        "service": f"a pod on {pair.client.name} reaches one on {pair.server.name} by its Service",
    }
    for way in dict.fromkeys(SCENARIOS[name].way for name in plan.scenarios):
        what, advice = _TRIED[way.path]
        # What fails between the pods themselves fails through a Service, too.
        reason = unreachable.get(way) or (unreachable.get(Way(way.family)) if way.path == "service" else None)
        if reason is None:
            yield Check(f"{what}, {way.family}", "", "pass", reached[way.path])
            continue
        if POLICY_DENIED in reason:
            advice = (
                "a network policy keeps the pods of namespace bigtcp-bench apart: kubectl apply -f "
                "include/manifests/networkpolicy.yaml; where that is there, look for one of Cilium's own"
            )
        yield Check(f"{what}, {way.family}", "", "fail", reason, advice)
