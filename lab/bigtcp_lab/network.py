"""The lab's wires: a fabric bridge, a namespace per node behind it, and a veth pair into each pod.

Everything is one Ethernet segment, as two machines on a switch. Addresses are the recorded cluster's: nodes
172.30.0.0/16 and fd30::/64, pods 10.244.0.0/16 and fd44::/56. What a switch would not mind is always raised to
the ceiling (the fabric's ends of the nodes' cables); a node's ``eth0`` belongs to its Cilium agent, and a pod's
pair gets what that agent offers when the pod is created.
"""

from __future__ import annotations

import ipaddress
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

from bigtcp_lab.api.addresses import SERVICE_NETWORKS
from bigtcp_lab.namespaces import NetworkNamespace
from bigtcp_lab.netlink import LARGEST_SIZE, Limits, set_limits

API_ADDRESS = "172.30.0.1"
"""Where pods and nodes reach the Kubernetes API, in the fabric's namespace."""
_ROUTER = ("172.30.0.2", "fd30::2")
_POD_NETWORKS = ("10.244.0.0/16", "fd44::/56")
_NODE_NETWORKS = ("172.30.0.0/16", "fd30::/64")
#: Where Services have their addresses: what is sent there leaves the pod addressed to another one (services.py).
_SERVICE_NETWORKS = tuple(SERVICE_NETWORKS.values())
_BRIDGE = "type bridge forward_delay 0 mcast_snooping 0"
FIRST_NODE = 11
"""The last part of node1's address; node2 has the next."""
MAX_NODES = 100


@dataclass(frozen=True)
class PodNetwork:
    """A pod's own network: its namespace, its addresses and the name of the node's end of its veth pair."""

    namespace: NetworkNamespace
    ipv4: str
    ipv6: str
    host_device: str


class LabNode:
    """A node by its number, from 1: its name and addresses, and those of its pods."""

    def __init__(self, number: int) -> None:
        self.name = f"node{number}"
        self.zone = f"zone-{number}"
        self.ipv4 = f"172.30.0.{FIRST_NODE + number - 1}"
        self.ipv6 = f"fd30::{FIRST_NODE + number - 1}"
        self.pod_prefix_ipv4 = f"10.244.{number - 1}"
        self.pod_prefix_ipv6 = "fd44:" if number == 1 else f"fd44:0:0:{number - 1:x}:"
        self.pod_networks = (f"{self.pod_prefix_ipv4}.0/24", f"{self.pod_prefix_ipv6}:/64")


class NodeNetwork(LabNode):
    """The network of a node: a namespace with ``eth0`` (the NIC) and the pods' ``lxc…`` devices on one bridge."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.namespace = NetworkNamespace()
        self._mac = f"02:30:00:00:00:{FIRST_NODE + number - 1:02x}"
        self._suffixes: Iterator[int] = cycle(range(2, 255))
        self._used: set[int] = set()
        self._devices: set[str] = set()
        self._apart = False

    def configure(self) -> None:
        """Put ``eth0`` (already moved here) and the pods' side together."""
        self.namespace.ip(
            "link set lo up",
            f"link add br0 address {self._mac} {_BRIDGE}",
            f"link set eth0 address {self._mac}",
            "link set eth0 master br0 up",
            "link set br0 up",
            f"addr add {self.ipv4}/16 dev br0",
            f"addr add {self.ipv6}/64 dev br0 nodad",
            *(f"route add {network} dev br0" for network in (*_POD_NETWORKS, *_SERVICE_NETWORKS)),
        )

    def set_drops(self, share: float | None) -> None:
        """Drop this share of the packets that arrive on ``eth0``, behind its own counters (None: no packet)."""
        _drop(self.namespace, "eth0", "ingress", share)

    def keep_apart(self, on: bool) -> None:
        """Drop what one pod of this node sends to another one here, as a policy would."""
        self._apart = on
        for device in sorted(self._devices):
            _filter(self.namespace, device, "egress", self._from_here if on else None)

    @property
    def _from_here(self) -> str:
        """Return the program that drops what comes from a pod of this node: classic BPF, see _drop.

        By the EtherType (at 12) and as much of the source address (at 26 for IPv4, 22 for IPv6) as the network is.
        """
        ipv4, ipv6 = (ipaddress.ip_network(network).network_address.packed for network in self.pod_networks)
        words = [int.from_bytes(part, "big") for part in (ipv4, ipv6[:4], ipv6[4:8])]
        return (
            f"12,40 0 0 12,21 0 3 2048,32 0 0 26,84 0 0 4294967040,21 5 6 {words[0]},21 0 5 34525,32 0 0 22,"
            f"21 0 3 {words[1]},32 0 0 26,21 0 1 {words[2]},6 0 0 2,6 0 0 4294967295"
        )

    def attach_pod(self, limits: Limits, *, routed: bool = False, services: bool = True) -> PodNetwork:
        """Create a pod's namespace with ``eth0`` in it and ``limits`` on both ends of the pair.

        With ``routed`` the pod reaches other nodes' pods by the fabric's router instead of directly; without
        ``services`` it has no route to the addresses of Services.
        """
        suffix = next(number for number in self._suffixes if number not in self._used)
        self._used.add(suffix)
        ipv4, ipv6 = f"{self.pod_prefix_ipv4}.{suffix}", f"{self.pod_prefix_ipv6}:{suffix:x}"
        # From the address, so that an old neighbour entry is still right when an address is used again.
        mac = "0a:58:" + ":".join(f"{int(part):02x}" for part in ipv4.split("."))
        device = f"lxc{self.name[4:]}p{suffix}"
        pod = NetworkNamespace()
        self.namespace.ip(
            f"link add {device} type veth peer name eth0 address {mac} netns {pod.path}",
            f"link set {device} master br0 up",
            others=(pod,),
        )
        if routed:
            pod.sysctl("net/ipv6/conf/eth0/accept_redirects", "0")
        near = self.pod_networks if routed else _POD_NETWORKS
        on_link = [*_NODE_NETWORKS, *near, *(_SERVICE_NETWORKS if services else ())]
        pod.ip(
            "link set lo up",
            "link set eth0 up",
            f"addr add {ipv4}/32 dev eth0",
            f"addr add {ipv6}/128 dev eth0 nodad",
            *(f"route add {network} dev eth0 src {_own(network, ipv4, ipv6)}" for network in on_link),
        )
        if routed:
            pod.ip(*(f"route add {net} via {via}" for net, via in zip(_POD_NETWORKS, _ROUTER, strict=True)))
        self.namespace.run(lambda: set_limits(device, limits))
        pod.run(lambda: set_limits("eth0", limits))
        self._devices.add(device)
        if self._apart:
            _filter(self.namespace, device, "egress", self._from_here)
        return PodNetwork(pod, ipv4, ipv6, device)

    def detach_pod(self, pod: PodNetwork) -> None:
        """Take a pod's network down and free its addresses."""
        self._devices.discard(pod.host_device)
        self.namespace.ip(f"link delete {pod.host_device}")  # now: the namespace itself may outlive its processes
        pod.namespace.close()
        self._used.discard(int(pod.ipv4.rpartition(".")[2]))


def _own(network: str, ipv4: str, ipv6: str) -> str:
    return ipv6 if ":" in network else ipv4


def _drop(namespace: NetworkNamespace, device: str, direction: str, share: float | None) -> None:
    """Drop a random share of the packets on their way into or out of ``device``, or none.

    A classic BPF program, because no kernel need have netem for it: load a random number of 32 bits
    (SKF_AD_RANDOM), and if it is above the limit return TC_ACT_SHOT, else TC_ACT_UNSPEC. A packet of any size, big
    ones too, is one. The qdisc counts what was dropped.
    """
    limit = int((1 - (share or 0)) * (2**32 - 1))
    program = f"4,32 0 0 4294963256,37 0 1 {limit},6 0 0 2,6 0 0 4294967295"
    _filter(namespace, device, direction, None if share is None else program)


def _filter(namespace: NetworkNamespace, device: str, direction: str, program: str | None) -> None:
    """Let a program decide what passes a device in that direction, or let everything pass."""
    commands = [f"qdisc del dev {device} clsact"]
    if program is not None:
        where = f"filter replace dev {device} {direction}"
        commands = [f"qdisc replace dev {device} clsact", f"{where} prio 1 handle 1 bpf da bytecode {program!r}"]

    def inside() -> None:
        for command in commands:
            subprocess.run(["tc", *shlex.split(command)], check=True, capture_output=True)

    namespace.run(inside)


class Fabric:
    """The switch between the nodes, in a namespace of its own, and the nodes on it."""

    def __init__(self, nodes: int) -> None:
        self.namespace = NetworkNamespace()
        self.nodes = {f"node{number}": NodeNetwork(number) for number in range(1, nodes + 1)}
        self._router: NetworkNamespace | None = None

    def up(self) -> None:
        """Connect everything; raises OSError when the kernel lacks a part (bridge, veth)."""
        self.namespace.ip(
            "link set lo up",
            f"link add fabric0 {_BRIDGE}",
            f"addr add {API_ADDRESS}/16 dev fabric0",
            "addr add fd30::1/64 dev fabric0 nodad",
            "link set fabric0 up",
            *(f"route add {network} dev fabric0" for network in _POD_NETWORKS),
        )
        for name, node in self.nodes.items():
            self._add_cable(name, "eth0", node.namespace)
            node.configure()

    def _add_cable(self, name: str, far_name: str, far: NetworkNamespace) -> None:
        """Connect ``far`` to the bridge by a veth pair whose near end, ``name``, is raised to the ceiling."""
        self.namespace.ip(
            f"link add {name} type veth peer name {far_name} netns {far.path}",
            f"link set {name} master fabric0 up",
            others=(far,),
        )
        self.set_cable_size(name, LARGEST_SIZE)

    def set_cable_size(self, node: str, size: int) -> None:
        """Set the limits of the fabric's end of a node's cable: ``LARGEST_SIZE`` lets everything through."""
        self.namespace.run(lambda: set_limits(node, Limits.all_at(size)))

    def set_cable_rate(self, node: str, rate_mbit: int | None) -> None:
        """Limit what a node receives to ``rate_mbit`` (None: no limit).

        The burst is 1 MB, so that the shaper need not segment packets of any size.
        """
        if rate_mbit is None:
            command = f"qdisc del dev {node} root"
        else:
            command = f"qdisc replace dev {node} root tbf rate {rate_mbit}mbit burst 1mb latency 20ms"

        def inside() -> None:
            subprocess.run(["tc", *command.split()], check=True, capture_output=True)

        self.namespace.run(inside)

    def set_cable_loss(self, node: str, share: float | None) -> None:
        """Lose this share of the packets on their way to a node (None: no packet)."""
        _drop(self.namespace, node, "egress", share)

    def set_cable_up(self, node: str, up: bool) -> None:
        """Plug a node in or out."""
        self.namespace.ip(f"link set {node} {'up' if up else 'down'}")

    def add_router(self) -> None:
        """Add a namespace that forwards between the pod networks by IP, for pods created as ``routed``."""
        if self._router is not None:
            return
        router = NetworkNamespace()
        self._add_cable("router", "eth0", router)
        router.ip(
            "link set lo up",
            "link set eth0 up",
            f"addr add {_ROUTER[0]}/16 dev eth0",
            f"addr add {_ROUTER[1]}/64 dev eth0 nodad",
            *(f"route add {network} dev eth0" for network in _POD_NETWORKS),
        )
        router.run(lambda: set_limits("eth0", Limits.all_at(LARGEST_SIZE)))
        router.sysctl("net/ipv4/ip_forward", "1")
        router.sysctl("net/ipv6/conf/all/forwarding", "1")
        # In and out by one device would make it tell the pods of the shorter way.
        for scope in ("all", "eth0"):
            router.sysctl(f"net/ipv4/conf/{scope}/send_redirects", "0")
        self._router = router

    def close(self) -> None:
        """Let go of all namespaces."""
        for node in self.nodes.values():
            node.namespace.close()
        if self._router is not None:
            self._router.close()
        self.namespace.close()
