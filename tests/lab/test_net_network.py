"""The wires of the lab: limits as the kernel keeps them, and paths between pods."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import pytest

from bigtcp_bench.lab.namespaces import NetworkNamespace
from bigtcp_bench.lab.netlink import LARGEST_SIZE, Limits, set_limits
from bigtcp_bench.lab.network import Fabric
from bigtcp_bench.pods.agent import device_limits

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
