"""What of a captured packet is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtcp_bench.in_cluster import capture
from bigtcp_bench.in_cluster.treatment import CLASSIC_MAX_PACKET_BYTES


def _ip(version: int, payload: bytes, next_header: int = 6, options: bytes = b"") -> bytes:
    if version == 4:
        header = bytearray(20)
        header[0], header[9] = 0x40 | (5 + len(options) // 4), next_header
    else:
        header = bytearray(40)
        header[0], header[6] = 0x60, next_header
    return bytes(header) + options + payload


PORTS = bytes([0x14, 0x51, 0xC0, 0x00])


@pytest.mark.parametrize(
    ("packet", "ports"),
    [
        (_ip(4, PORTS), (5201, 49152)),
        (_ip(4, PORTS, options=bytes(8)), (5201, 49152)),
        (_ip(6, PORTS), (5201, 49152)),
        # A jumbogram, as Linux before 7.0 makes large IPv6 packets: a hop-by-hop header, then TCP.
        (_ip(6, bytes([6, 0, 0xC2, 4, 0, 2, 0, 0]) + PORTS, next_header=0), (5201, 49152)),
        (_ip(4, PORTS, next_header=17), None),
        (_ip(6, PORTS, next_header=58), None),
        (_ip(4, PORTS[:3]), None),
        (b"", None),
        (b"\x00" * 60, None),
    ],
)
def test_the_ports_of_a_captured_packet(packet: bytes, ports: tuple[int, int] | None) -> None:
    assert capture._tcp_ports(packet) == ports


@given(st.binary(max_size=120))
def test_any_captured_bytes_are_read(packet: bytes) -> None:
    capture._tcp_ports(packet)


def test_the_bounds_of_packet_sizes_have_those_of_big_tcp() -> None:
    assert list(capture.PACKET_BOUNDS) == sorted(capture.PACKET_BOUNDS)
    assert {CLASSIC_MAX_PACKET_BYTES, 196_608} < set(capture.PACKET_BOUNDS)
    assert capture.PACKET_BOUNDS[-1] == 8 * 65_535
