"""Two agents, real iperf3 and real BIG TCP between two network namespaces."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bigtcp_bench.in_cluster import measure
from bigtcp_bench.planning.metrics import metrics_of
from bigtcp_bench.planning.plan import CLASSIC_MAX_PACKET_BYTES, SCENARIOS
from bigtcp_bench.readings.agent_log import absences, measurements, parse_log, problems, proof
from bigtcp_bench.readings.orders import CaptureOrders, MeasureOrders, ReachOrders, ServeOrders
from tests.in_cluster.namespaces import ADDRESSES, Pair, joined_namespaces
from tests.readings.documents import orders

pytestmark = pytest.mark.lab

NO_ADDRESS = '{"do":"snapshot","address":"eth0"}'
AGENT = str(Path(measure.__file__))
Process = subprocess.Popen[str]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with joined_namespaces() as made:
        yield made


def start(pair: Pair, end: Any, argument: str) -> Process:
    return subprocess.Popen(
        pair.command(end, sys.executable, "-I", AGENT, argument),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_until(process: Process, text: str, timeout_s: float = 20) -> str:
    """Return what ``process`` printed up to the line that contains ``text``."""
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    printed, deadline = b"", time.monotonic() + timeout_s
    while text.encode() not in printed or not printed.endswith(b"\n"):
        assert time.monotonic() < deadline, f"{text!r} did not come: {printed!r}"
        assert process.poll() is None, (
            f"ended before {text!r}: {printed!r} {process.stderr and process.stderr.read()}"
        )
        if select.select([process.stdout], [], [], 0.5)[0]:
            printed += os.read(process.stdout.fileno(), 1 << 20)
    os.set_blocking(process.stdout.fileno(), True)
    return printed.decode()


@contextmanager
def serving(pair: Pair, **fields: Any) -> Iterator[Process]:
    process = start(pair, "server", ServeOrders(lifetime_s=120, **fields).to_argument())
    try:
        ready = parse_log(read_until(process, '"kind":"ready"')).ready
        assert ready is not None
        assert ready.control_port == 5203
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=10)


def measure(pair: Pair, given_orders: MeasureOrders, timeout_s: float = 120) -> tuple[int, str, str]:
    client = start(pair, "client", given_orders.to_argument())
    out, err = client.communicate(timeout=timeout_s)
    return client.returncode, out, err


def short_orders(*scenarios: str, **fields: Any) -> MeasureOrders:
    defaults: dict[str, Any] = {
        "duration_s": 1,
        "omit_s": 0,
        "rate_bps": 200_000_000,
        "server": ADDRESSES["server"],
    }
    return orders(**{**defaults, "scenarios": [SCENARIOS[name] for name in scenarios], **fields})


def test_every_traffic_yields_its_metrics_and_big_tcp_shows_in_the_proof(pair: Pair) -> None:
    # iproute2 before 6.3 knows the IPv6 limits only: so IPv6 is the arm "on" and IPv4, beside it, "off".
    for end in ("client", "server"):
        pair.run(end, "ip", "link", "set", "eth0", "gso_max_size", "196608", "gro_max_size", "196608")
    wanted = short_orders("ipv4-stream-1", "ipv6-stream-1", "ipv6-stream-8", "ipv4-rate", "ipv6-rr", omit_s=1)
    with serving(pair):
        code, out, err = measure(pair, wanted)
    assert (code, err) == (0, "")
    log = parse_log(out)
    assert (log.damaged, log.missing(wanted)) == ([], [])
    assert log.hello is not None
    assert log.done is not None
    assert log.hello.unreachable == {}
    assert log.hello.server.tools["iperf3"] is not None
    assert log.hello.server.snapshot.devices["eth0"].limits["gro_max_size"] == 196_608
    assert (log.done.repetitions, log.done.failed) == (5, 0)
    for repetition in log.repetitions:
        assert problems(repetition, wanted) == []
        assert absences(repetition) == []
        assert [found.metric for found in measurements(repetition)] == [
            metric.name for metric in metrics_of(repetition.traffic)
        ]
        assert repetition.raw["sockets"], "ss saw no socket while the traffic ran"
        for end in ("client", "server"):
            assert repetition.raw[end]["before"]["device"] == "eth0"
            for text in ("proc_stat", "snmp", "snmp6", "netstat", "softnet_stat", "meminfo"):
                assert repetition.raw[end]["after"][text]
    shown = {found.scenario: found for found in map(proof, log.repetitions)}
    for scenario, big in (("ipv4-stream-1", False), ("ipv6-stream-1", True), ("ipv6-stream-8", True)):
        for mean in (shown[scenario].bytes_per_packet_sender, shown[scenario].bytes_per_packet_receiver):
            assert mean is not None
            assert (mean > CLASSIC_MAX_PACKET_BYTES) == big, (scenario, mean)


def capture_orders(**fields: Any) -> CaptureOrders:
    context = {"run_key": "dag/run", "block": 1, "arm": "on", "duration_s": 1}
    return CaptureOrders.model_validate({**context, "server": ADDRESSES["server"], **fields})


def test_a_capture_agrees_with_the_sizes_that_both_devices_allow(pair: Pair) -> None:
    # As above: IPv6 is the arm "on" and IPv4, beside it, "off".
    for end in ("client", "server"):
        pair.run(end, "ip", "link", "set", "eth0", "gso_max_size", "196608", "gro_max_size", "196608")
    with serving(pair):
        client = start(pair, "client", capture_orders().to_argument())
        out, err = client.communicate(timeout=120)
    assert (client.returncode, err) == (0, "")
    log = parse_log(out)
    assert log.damaged == []
    assert [(one.family, one.error) for one in log.captures] == [("ipv4", None), ("ipv6", None)]
    for one in log.captures:
        assert one.sender is not None
        assert one.receiver is not None
        assert sum(bucket.packets for bucket in one.sender.sent) > 1_000
        lost = one.sender.dropped or one.receiver.dropped
        assert lost or one.sender.sent == one.receiver.received, "veth hands packets over as they are"
        assert {bucket.upper_bytes for bucket in one.sender.received} == {1_500}, "acknowledgements carry no data"
        big = [bucket for bucket in one.sender.sent if bucket.upper_bytes > CLASSIC_MAX_PACKET_BYTES]
        assert bool(big) is (one.family == "ipv6")
        for bucket in (*one.sender.sent, *one.receiver.received):
            assert bucket.bytes <= bucket.packets * bucket.upper_bytes
        sent = sum(bucket.bytes for bucket in one.sender.sent)
        assert sent > one.raw["iperf3"]["end"]["sum_received"]["bytes"] * (0.5 if lost else 1)


def test_a_capture_without_the_right_to_one_is_a_sentence(pair: Pair) -> None:
    argument = capture_orders(server={"ipv4": ADDRESSES["server"]["ipv4"]}).to_argument()
    with serving(pair):
        without = [
            "setpriv",
            "--bounding-set=-net_raw",
            "--inh-caps=-net_raw",
            sys.executable,
            "-I",
            AGENT,
            argument,
        ]
        done = subprocess.run(pair.command("client", *without), capture_output=True, text=True, timeout=60)
    (captured,) = parse_log(done.stdout).captures
    assert captured.error == "packets cannot be captured: Operation not permitted"
    assert captured.sender is None


def test_broken_ipv6_fails_the_ipv6_repetitions_only(pair: Pair) -> None:
    wanted = short_orders(
        "ipv6-stream-1", "ipv4-stream-1", "ipv6-rr", server={"ipv4": "10.99.0.2", "ipv6": "fd98::2"}
    )
    with serving(pair):
        reaching = start(pair, "client", ReachOrders(server=wanted.server).to_argument())
        code, out, _ = measure(pair, wanted)
        told, _ = reaching.communicate(timeout=20)
    reach = parse_log(told).reach
    assert reach is not None
    assert reach.unreachable == {
        "ipv6": "cannot reach fd98::2 port 5203 over ipv6: Network is unreachable",
    }
    log = parse_log(out)
    assert code == 0
    assert log.done is not None
    assert log.done.failed == 2
    assert log.hello is not None
    assert list(log.hello.unreachable) == ["ipv6"]
    failed = {repetition.scenario: problems(repetition, wanted) for repetition in log.repetitions}
    assert failed["ipv4-stream-1"] == []
    assert "cannot reach fd98::2 port 5203 over ipv6: Network is unreachable" in failed["ipv6-rr"][0]
    assert "over ipv6" in failed["ipv6-stream-1"][0]


def test_a_scenario_of_a_family_the_server_lacks_fails(pair: Pair) -> None:
    wanted = short_orders("ipv6-rr", "ipv4-rr", server={"ipv4": "10.99.0.2"})
    with serving(pair, families=("ipv4",)):
        code, out, _ = measure(pair, wanted)
    first, second = parse_log(out).repetitions
    assert code == 0
    assert first.error == "the server has no ipv6 address"
    assert problems(second, wanted) == []


def _children(process: Process) -> list[int]:
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(child) for child in text.split()]


def _ask(pair: Pair, *requests: str) -> list[tuple[float, dict[str, Any]]]:
    """Return seconds and answer of each request to the control server, asked over one connection."""
    script = (
        "import json,socket,sys,time\n"
        "s=socket.create_connection(('10.99.0.2',5203),10); f=s.makefile('rb')\n"
        "for line in sys.argv[1:]:\n"
        "    t=time.monotonic(); s.sendall(line.encode()+b'\\n'); a=json.loads(f.readline())\n"
        "    print(json.dumps([time.monotonic()-t, a]))\n"
    )
    done = subprocess.run(
        pair.command("client", sys.executable, "-c", script, *requests), capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_the_control_server_answers_at_once_and_survives_nonsense(pair: Pair) -> None:
    ask_twenty = ['{"do":"snapshot","address":"10.99.0.2"}'] * 20
    with serving(pair):
        answers = _ask(pair, *ask_twenty, "nonsense", "[]", '{"do":"dance"}', NO_ADDRESS, '{"do":"hello"}')
    assert sorted(seconds for seconds, _ in answers[:20])[10] < 0.05
    assert all(answer["device"] == "eth0" for _, answer in answers[:20])
    assert [answer["error"] for _, answer in answers[20:24]] == [
        "expected a JSON object with the field do",
        "expected a JSON object with the field do",
        "unknown request 'dance'; known are snapshot, hello, capture, end_capture, restart_iperf3",
        "no snapshot for address 'eth0': illegal IP address string passed to inet_pton",
    ]
    assert answers[24][1]["tools"]["python"]


def test_the_control_server_captures_until_it_is_told_to_end_and_only_what_it_was_told(pair: Pair) -> None:
    begin, end = '{"do":"capture","address":"10.99.0.2"}', '{"do":"end_capture"}'
    elsewhere = '{"do":"capture","address":"10.99.9.9"}'
    with serving(pair):
        answers = [answer for _, answer in _ask(pair, end, elsewhere, begin, begin, end, end)]
        # One that is not ended ends with its connection, so the next one has the device for itself.
        (begun,) = [answer for _, answer in _ask(pair, begin)]
    assert answers[0] == {"error": "nothing is captured"}
    assert answers[1] == {"error": "no capture for address '10.99.9.9': no device has the address 10.99.9.9"}
    assert answers[2] == answers[3] == begun == {"device": "eth0"}
    # The control connection itself is on another port than iperf3's.
    assert answers[4]["connections"] == []
    assert answers[4]["seen"] > 0
    assert answers[5] == {"error": "nothing is captured"}


def test_the_server_starts_iperf3_again_when_it_dies(pair: Pair) -> None:
    wanted = short_orders("ipv4-stream-1")
    with serving(pair) as server:
        (first,) = _children(server)
        os.kill(first, signal.SIGKILL)
        read_until(server, "starting it again")
        ((_, answer),) = _ask(pair, '{"do":"restart_iperf3"}')
        assert answer == {"listening": True}
        assert _children(server) != [first]
        _, out, _ = measure(pair, wanted)
    (repetition,) = parse_log(out).repetitions
    assert problems(repetition, wanted) == []


def test_a_server_that_is_killed_in_the_middle_costs_that_repetition(pair: Pair) -> None:
    wanted = short_orders("ipv4-stream-1", duration_s=3)
    with serving(pair) as server:
        client = start(pair, "client", wanted.to_argument())
        printed = read_until(client, "measuring 3 s")
        time.sleep(1)
        (iperf3,) = _children(server)
        server.kill()  # first the one that would start another
        os.kill(iperf3, signal.SIGKILL)
        out, err = client.communicate(timeout=60)
    log = parse_log(printed + out)
    assert (client.returncode, err) == (0, "")
    (repetition,) = log.repetitions
    (problem,) = problems(repetition, wanted)
    assert "iperf3" in problem
    assert measurements(repetition)
    assert any("the receiver has no snapshot after" in absence for absence in absences(repetition))
    assert log.done is not None
    assert log.done.failed == 1


def test_sigterm_keeps_what_was_measured_and_ends_iperf3(pair: Pair) -> None:
    wanted = short_orders("ipv4-stream-1", repetitions=2, duration_s=2)
    with serving(pair):
        client = start(pair, "client", wanted.to_argument())
        printed = read_until(client, "ipv4-stream-1 2/2: measuring")
        time.sleep(0.5)
        (iperf3,) = _children(client)
        client.terminate()
        out, _ = client.communicate(timeout=10)
    assert client.returncode == 143
    assert not Path(f"/proc/{iperf3}").exists()
    assert out.endswith("client ends: stopped by SIGTERM after 1 of 2 repetitions, printed above\n")
    log = parse_log(printed + out)
    assert log.missing(wanted) == [("ipv4-stream-1", 2)]
    assert problems(log.repetitions[0], wanted) == []
    assert log.done is None


def test_a_server_ends_by_itself_after_its_lifetime_and_takes_iperf3_along(pair: Pair) -> None:
    server = start(pair, "server", ServeOrders(lifetime_s=1).to_argument())
    read_until(server, '"kind":"ready"')
    (iperf3,) = _children(server)
    out, _ = server.communicate(timeout=10)
    assert server.returncode == 0
    assert out.endswith("server ends: lifetime of 1 s is over\n")
    assert not Path(f"/proc/{iperf3}").exists()


def test_a_taken_port_is_one_sentence(pair: Pair) -> None:
    with serving(pair):
        second = start(pair, "server", ServeOrders().to_argument())
        out, err = second.communicate(timeout=30)
    assert (second.returncode, out) == (1, "")
    assert re.fullmatch(r"bigtcp-bench agent: cannot listen on port 5202: Address already in use\n", err)
