"""What of a captured packet is read."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtcp_bench.in_cluster import capture
from bigtcp_bench.in_cluster.treatment import CLASSIC_MAX_PACKET_BYTES
from tests.in_cluster.namespaces import joined_namespaces

#: A connection that is refused is two packets: it is asked for, and reset.
REFUSED = """
import contextlib, json, socket, threading
from bigtcp_bench.in_cluster import capture

def refused():
    with contextlib.suppress(ConnectionRefusedError):
        socket.create_connection(("10.99.0.2", 9))
"""
LATE = """
capture.SILENCE_S = 0.5
seen = capture.Capture("10.99.0.1", 9)
found = []
ending = threading.Thread(target=lambda: found.append(seen.stop()))
ending.start()
while seen._ended_at is None:
    pass
refused()
ending.join()
print(json.dumps(found[0]))
"""
UNREAD = """
seen = capture.Capture("10.99.0.1", 9)
read = seen._take
seen._take = lambda frame: seen._read_packets < 1 and read(frame)
for _ in range(5):
    refused()
print(json.dumps(seen.stop()))
"""


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


def captured(script: str) -> dict[str, Any]:
    with joined_namespaces() as pair:
        command = pair.command("client", sys.executable, "-c", REFUSED + script)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.lab
def test_what_a_sender_still_had_when_it_ended_is_captured() -> None:
    found = captured(LATE)
    (one,) = found["connections"]
    assert [sum(size["packets"] for size in one[way]) for way in ("sent", "received")] == [1, 1]
    assert found["dropped"] == 0


@pytest.mark.lab
def test_a_packet_that_is_never_read_is_a_lost_one() -> None:
    found = captured(UNREAD)
    assert found["seen"] >= 10
    assert found["dropped"] == found["seen"] - 1
