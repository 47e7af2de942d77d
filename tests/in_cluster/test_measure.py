"""The agent without a network: that any image can run it, what it computes, how it refuses."""

from __future__ import annotations

import array
import ast
import json
import math
import os
import re
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtcp_bench.in_cluster import measure
from bigtcp_bench.in_cluster.treatment import CLASSIC_MAX_PACKET_BYTES
from bigtcp_bench.readings.agent_log import RequestResponse, parse_log
from bigtcp_bench.readings.orders import ProbeOrders

SOURCE = Path(measure.__file__)
LIMITS = {"gso_max_size", "gro_max_size", "tso_max_size", "gso_ipv4_max_size", "gro_ipv4_max_size"}


def run_agent(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", str(SOURCE), *arguments], capture_output=True, text=True, timeout=60
    )


def test_it_fits_a_config_map_and_old_images() -> None:
    text = SOURCE.read_text()
    assert len(text.encode()) < 100 * 1024
    tree = ast.parse(text, feature_version=(3, 9))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [part.name for part in node.names]
        )
    }
    assert imported <= sys.stdlib_module_names


def test_a_probe_describes_this_machine() -> None:
    done = run_agent(ProbeOrders().to_argument())
    assert (done.returncode, done.stderr) == (0, "")
    probe = parse_log(done.stdout).probe
    assert probe is not None
    assert probe.kernel_release == os.uname().release
    assert probe.cpu_count == os.cpu_count()
    assert probe.load_average is not None
    assert probe.busy_share is None
    loopback = probe.snapshot.devices["lo"]
    assert loopback.mtu == 65_536
    assert loopback.rx_bytes is not None
    assert "MemTotal" in (probe.snapshot.meminfo or "")
    assert "intr " in (probe.snapshot.proc_stat or "")
    for text in (probe.snapshot.snmp, probe.snapshot.netstat, probe.snapshot.softnet_stat):
        assert text


def test_a_probe_tells_the_load_of_the_seconds_before() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            done = run_agent(ProbeOrders(sample_s=0.5).to_argument())
        finally:
            busy.kill()
    probe = parse_log(done.stdout).probe
    assert probe is not None
    assert probe.earlier is not None
    assert probe.snapshot.monotonic_s - probe.earlier.monotonic_s >= 0.5
    assert probe.busy_share is not None
    assert 0.3 / (os.cpu_count() or 1) < probe.busy_share <= 1


def test_limits_are_read_through_netlink() -> None:
    limits = measure.device_limits()["lo"]
    assert set(limits) <= LIMITS
    assert limits["gso_max_size"] >= 65_536


@pytest.mark.parametrize(
    ("written", "canonical"), [("10.0.0.5", "10.0.0.5"), ("FD00:0:0::5", "fd00::5"), ("fd44:0:0:1::eabb",) * 2]
)
def test_an_address_is_found_however_it_is_written(
    written: str, canonical: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        measure, "read_devices", lambda: {"lo": {"addresses": ["::1"]}, "net1": {"addresses": [canonical]}}
    )
    assert measure.snapshot(written)["device"] == "net1"
    assert measure.snapshot("10.9.9.9")["device"] is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "expected one argument, the orders as JSON"),
        (["{"], "orders are not a JSON object"),
        (["[1]"], "orders are not a JSON object"),
        (['{"version":2,"do":"probe"}'], "orders have version 2; this agent knows 1"),
        (['{"version":1,"do":"dance"}'], "allowed are serve, measure, capture, reach, probe"),
        (['{"version":1,"do":"serve","iperf_port":1}'], "orders to serve lack the field 'token'"),
    ],
)
def test_orders_it_cannot_carry_out_end_in_one_sentence(arguments: list[str], sentence: str) -> None:
    done = run_agent(*arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=300))
def test_percentiles_are_those_of_the_sorted_list(latencies_ns: list[int]) -> None:
    summary = measure._summarize(array.array("Q", latencies_ns), 2.0, 80_000, [len(latencies_ns)])
    ordered = sorted(latencies_ns)
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        exact_us = ordered[math.ceil(share * len(ordered)) - 1] / 1000
        assert summary["latency_us"][name] == pytest.approx(exact_us, abs=0.1)
    assert sum(count for _, count in summary["histogram"]) == len(latencies_ns)
    assert summary["transactions"] == len(latencies_ns)
    json.dumps(summary)


def test_a_summary_is_what_results_reads() -> None:
    summary = measure._summarize(array.array("Q", range(1000, 90_000, 7)), 2.0, 80_000, [1])
    assert RequestResponse.model_validate(summary).latency_us.p99 > 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', {"a": 1}),
        ('warning: JSON data length overflow\n{"a": 1}\n', {"a": 1}),
        ('{"a": 1}\n{"a": 1}\n', {"a": 1}),
        ('{"a": ', None),
        ("", None),
        ("Segmentation fault", None),
    ],
)
def test_the_first_json_object_counts(text: str, found: Any) -> None:
    assert measure._first_json(text) == found


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("echo broken; exit 3", "iperf3 (exit code 3) printed no JSON but: broken"),
        ("kill -SEGV $$", "iperf3 (exit code -11) printed no JSON but: (nothing)"),
        ("""echo '{"error": "the server is busy"}'""", "iperf3: the server is busy"),
        ("""echo '{"end": {}}'; echo oops >&2; exit 1""", "iperf3 ended with exit code 1: oops"),
        ("""trap '' TERM; exec sleep 30""", "iperf3 did not end within 2 s and was stopped"),
    ],
)
def test_an_iperf3_that_fails_is_a_failed_repetition(
    script: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "iperf3"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(measure, "GRACE_S", 1)
    orders = {"iperf_port": 5201, "duration_s": 1, "omit_s": 0, "rate_bps": 1, "request_bytes": 1}
    scenario = {"name": "ipv4-stream-1", "family": "ipv4", "traffic": "stream", "streams": 1}
    started = time.monotonic()
    with pytest.raises(measure.Failed) as failure:
        measure._run_iperf3("127.0.0.1", orders, scenario)
    assert str(failure.value) == sentence
    assert failure.value.seen["command"][:3] == ["iperf3", "-c", "127.0.0.1"]
    assert time.monotonic() - started < 10


def test_an_unreachable_server_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "CONNECT_DEADLINE_S", 0.5)
    with pytest.raises(
        measure.CannotStart, match=r"did not answer within 0\.5 s: cannot reach 127\.0\.0\.1 port 9 "
    ):
        measure.Server({"ipv4": "127.0.0.1"}, 9).wait()


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
    assert measure._tcp_ports(packet) == ports


@given(st.binary(max_size=120))
def test_any_captured_bytes_are_read(packet: bytes) -> None:
    measure._tcp_ports(packet)


def test_the_bounds_of_packet_sizes_have_those_of_big_tcp() -> None:
    assert list(measure.PACKET_BOUNDS) == sorted(measure.PACKET_BOUNDS)
    assert {CLASSIC_MAX_PACKET_BYTES, 196_608} < set(measure.PACKET_BOUNDS)
    assert measure.PACKET_BOUNDS[-1] == 8 * 65_535


def test_drivers_count_by_their_own_names() -> None:
    """Whatever devices this machine has, what a driver counts is read, and a device without any has nothing."""
    counted = {device: measure._statistics(device) for device in measure.read_devices()}
    assert counted["lo"] == {}
    assert measure._statistics("no-such-device") == {}
    for values in counted.values():
        assert all(name and value >= 0 for name, value in values.items())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"end": {"streams": [], "sum": {"lost_percent": -nan}}}', "a bare -nan (lost_percent)"),
        ('{"a": {"x\\"y": inf, "b": nan}}', 'a bare inf (x\\"y)'),
        ('{"a": "-nan"}', None),
        ('{"a": -nan', None),
        ("-nan", None),
        ("", None),
    ],
)
def test_output_that_is_json_but_for_no_number_is_called_that(text: str, expected: str | None) -> None:
    assert measure._not_a_number(text) == expected


def test_an_iperf3_that_divides_by_nothing_is_told_from_one_that_prints_no_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "iperf3"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    orders = {"iperf_port": 5201, "duration_s": 1, "omit_s": 0}
    scenario = {"family": "ipv4", "traffic": "stream", "streams": 1}
    for printed, sentence in (
        ('{"end": {"sum": {"lost_percent": -nan}}}', "printed what is JSON but for a bare -nan (lost_percent)"),
        ("Segmentation fault", "printed no JSON but: Segmentation fault"),
    ):
        tool.write_text(f"#!/bin/sh\necho '{printed}'\n")
        tool.chmod(0o755)
        with pytest.raises(measure.Failed, match=re.escape(f"iperf3 (exit code 0) {sentence}")):
            measure._run_iperf3("127.0.0.1", orders, scenario)
