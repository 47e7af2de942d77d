"""Devices and snapshots of this very machine."""

from __future__ import annotations

import pytest

from bigtcp_bench.in_cluster import snapshot
from bigtcp_bench.in_cluster.devices import device_limits

LIMITS = {"gso_max_size", "gro_max_size", "tso_max_size", "gso_ipv4_max_size", "gro_ipv4_max_size"}


def test_limits_are_read_through_netlink() -> None:
    limits = device_limits()["lo"]
    assert set(limits) <= LIMITS
    assert limits["gso_max_size"] >= 65_536


@pytest.mark.parametrize(
    ("written", "canonical"), [("10.0.0.5", "10.0.0.5"), ("FD00:0:0::5", "fd00::5"), ("fd44:0:0:1::eabb",) * 2]
)
def test_an_address_is_found_however_it_is_written(
    written: str, canonical: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        snapshot, "read_devices", lambda: {"lo": {"addresses": ["::1"]}, "net1": {"addresses": [canonical]}}
    )
    assert snapshot.snapshot(written)["device"] == "net1"
    assert snapshot.snapshot("10.9.9.9")["device"] is None
