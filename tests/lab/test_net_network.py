"""The wires of the lab: limits as the kernel keeps them, and paths between pods."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import asdict

import pytest

from bigtcp_bench.in_cluster.devices import device_limits
from bigtcp_lab import cilium
from bigtcp_lab.namespaces import NetworkNamespace
from bigtcp_lab.netlink import LARGEST_SIZE, Limits, set_limits
from bigtcp_lab.network import Fabric

from .helpers import eventually

pytestmark = pytest.mark.lab


def read_limits(device: str) -> Limits:
    found = device_limits()[device]
    return Limits(**{name: found[name] for name in asdict(Limits())})


@pytest.fixture
def namespace() -> Iterator[NetworkNamespace]:
    namespace = NetworkNamespace()
    namespace.ip("link add v0 type veth peer name v1")
    yield namespace
    namespace.close()


def test_lowering_resets_both_families(namespace: NetworkNamespace) -> None:
    def raise_ipv4_alone_then_lower() -> Limits:
        set_limits("v0", Limits(gso_ipv4_max_size=LARGEST_SIZE, gro_ipv4_max_size=LARGEST_SIZE))
        assert read_limits("v0").gso_ipv4_max_size == LARGEST_SIZE
        set_limits("v0", Limits())  # IPv6 is there already, so writing it would change nothing for IPv4
        return read_limits("v0")

    assert namespace.run(raise_ipv4_alone_then_lower) == Limits()


def test_families_are_set_apart(namespace: NetworkNamespace) -> None:
    wanted = Limits(gso_max_size=65536, gro_max_size=65536, gso_ipv4_max_size=196608, gro_ipv4_max_size=131072)

    def from_above() -> Limits:
        set_limits("v0", Limits.all_at(LARGEST_SIZE))
        set_limits("v0", wanted)
        return read_limits("v0")

    assert namespace.run(from_above) == wanted


def test_the_kernels_refusal_names_limit_and_device(namespace: NetworkNamespace) -> None:
    with pytest.raises(OSError, match="gso_max_size=524281 on v0"):
        namespace.run(lambda: set_limits("v0", Limits.all_at(LARGEST_SIZE + 1)))


def test_addresses_are_not_used_twice_and_come_free() -> None:
    fabric = Fabric(2)
    fabric.up()
    node = fabric.nodes["node1"]
    first, second = node.attach_pod(Limits.all_at(196608)), node.attach_pod(Limits())
    assert (first.ipv4, first.ipv6) == ("10.244.0.2", "fd44::2")
    assert second.ipv4 == "10.244.0.3"
    assert first.namespace.run(lambda: read_limits("eth0")) == Limits.all_at(196608)
    assert node.namespace.run(lambda: read_limits(first.host_device)) == Limits.all_at(196608)
    assert second.namespace.run(lambda: read_limits("eth0")) == Limits()
    node.detach_pod(first)
    with pytest.raises(OSError, match=r"ip: .*lxc"):
        node.namespace.ip(f"link show {first.host_device}")
    fabric.close()


def arrived(sender: NetworkNamespace, receiver: NetworkNamespace, address: str, packets: int = 200) -> int:
    """Send packets from one namespace to an address in another, and return how many came."""

    def bound() -> socket.socket:
        found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        found.bind((address, 7))
        found.settimeout(1)
        return found

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outbox:
            for _ in range(packets):
                outbox.sendto(b"x", (address, 7))

    count = 0
    with receiver.run(bound) as inbox:
        sender.run(send)
        try:
            while inbox.recv(1):
                count += 1
        except TimeoutError:
            return count
    return count


@pytest.mark.parametrize("where", ["cable", "node"])
def test_a_share_of_the_packets_is_really_lost_and_none_afterwards(where: str) -> None:
    fabric = Fabric(2)
    fabric.up()
    near, far = fabric.nodes["node1"], fabric.nodes["node2"]
    sender, receiver = near.attach_pod(Limits()), far.attach_pod(Limits())
    lose: Callable[[float | None], None] = (
        far.set_drops if where == "node" else lambda share: fabric.set_cable_loss("node2", share)
    )
    ends = (sender.namespace, receiver.namespace, receiver.ipv4)
    # On a busy machine a bridge takes a moment to let the first packet through.
    eventually(lambda: arrived(*ends, packets=1) == 1, "the first packet")
    assert arrived(*ends) == 200
    lose(0.3)
    # 200 packets, of which 140 come on average, with a standard deviation of 6.5.
    assert 100 < arrived(*ends) < 180
    # Only what the node itself dropped is in its Cilium's counters.
    assert (sum(far.namespace.run(cilium.dropped).values()) > 20) == (where == "node")
    lose(None)
    assert arrived(*ends) == 200
    assert sum(far.namespace.run(cilium.dropped).values()) == 0
    fabric.close()
