"""Two agents, real iperf3 and real BIG TCP between two network namespaces."""

from __future__ import annotations

import itertools
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from bigtcp_bench.in_cluster.traffic import KINDS
from bigtcp_bench.in_cluster.treatment import CLASSIC_MAX_PACKET_BYTES
from bigtcp_bench.planning.metrics import metrics_of
from bigtcp_bench.planning.plan import SCENARIOS
from bigtcp_bench.readings.agent_log import Repetition, parse_log
from bigtcp_bench.readings.frames import document_of, frames_in, unpacked
from bigtcp_bench.readings.measurements import absences, measurements, problems, proof
from bigtcp_bench.readings.orders import CaptureOrders, MeasureOrders, ReachOrders, ServeOrders
from tests.in_cluster.mounted import agent_command
from tests.in_cluster.namespaces import ADDRESSES, Pair, joined_namespaces
from tests.readings.documents import TOKEN, orders

pytestmark = pytest.mark.lab

BEGIN_IPERF3 = '{"do":"iperf3","address":"10.99.0.2"}'
NO_ADDRESS = '{"do":"snapshot","address":"eth0"}'
Process = subprocess.Popen[str]


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with joined_namespaces() as made:
        yield made


def start(pair: Pair, end: Any, argument: str) -> Process:
    return subprocess.Popen(
        pair.command(end, *agent_command(argument)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition: Callable[[], bool], problem: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, problem
        time.sleep(0.02)


def read_until(process: Process, text: str, timeout_s: float = 60) -> str:
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


def serve_orders(**fields: Any) -> ServeOrders:
    return ServeOrders(token=TOKEN, **{"addresses": tuple(ADDRESSES["server"].values()), **fields})


@contextmanager
def serving(pair: Pair, **fields: Any) -> Iterator[Process]:
    process = start(pair, "server", serve_orders(lifetime_s=120, **fields).to_argument())
    try:
        ready = parse_log(read_until(process, '"kind":"ready"')).ready
        assert ready is not None
        assert ready.control_port == 5203
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


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
    names = [f"ipv{6 if number % 2 else 4}-{kind.name}" for number, kind in enumerate(KINDS.values())]
    names = [name if name in SCENARIOS else f"{name}-1" for name in names]
    wanted = short_orders(*names, duration_s=2, omit_s=1)
    many = short_orders("ipv6-stream-1", "ipv6-stream-8", "ipv6-stream-32")
    with serving(pair) as server:
        code, out, err = measure(pair, wanted)
        _, out_of_many, _ = measure(pair, many)
        server.terminate()
        served, complaints = server.communicate(timeout=60)
    assert (code, err) == (0, "")
    _assert_no_token_in(out, out_of_many, served, complaints)
    log = parse_log(out)
    assert (log.damaged, log.missing(wanted)) == ([], [])
    assert log.hello is not None
    assert log.done is not None
    assert log.hello.unreachable == {}
    assert log.hello.server.tools["iperf3"] is not None
    assert log.hello.server.snapshot.devices["eth0"].limits["gro_max_size"] == 196_608
    assert (log.done.repetitions, log.done.failed) == (len(KINDS), 0)
    repetitions = [*log.repetitions, *parse_log(out_of_many).repetitions]
    assert len(repetitions) == len(KINDS) + 3
    for repetition in repetitions:
        # A busy machine may notice late that the omitted second is over: what is left is short, and said to be.
        given = wanted if repetition in log.repetitions else many
        assert [one for one in problems(repetition, given) if ": measured for " not in one] == []
        assert absences(repetition) == []
        assert [found.metric for found in measurements(repetition)] == [
            metric.name for metric in metrics_of(repetition.traffic)
        ]
        document = unpacked(repetition.stored)
        assert document.get("sockets") or repetition.traffic == "crr", "ss saw no socket while the traffic ran"
        for end in ("client", "server"):
            assert document[end]["before"]["device"] == "eth0"
            for text in ("proc_stat", "snmp", "snmp6", "netstat", "softnet_stat", "meminfo"):
                assert document[end]["after"][text]
    shown = {found.scenario: found for found in map(proof, repetitions)}
    for scenario, big in (("ipv4-stream-1", False), ("ipv6-stream-1", True), ("ipv6-stream-8", True)):
        for mean in (shown[scenario].bytes_per_packet_sender, shown[scenario].bytes_per_packet_receiver):
            assert mean is not None
            assert (mean > CLASSIC_MAX_PACKET_BYTES) == big, (scenario, mean)


def _assert_no_token_in(*texts: str) -> None:
    """Assert that nobody who reads what the agents print can ask them for anything, nor from its documents."""
    frames = [frame for text in texts for line in text.splitlines() for frame in frames_in(line)]
    documents = [document_of(frame)[0] for frame in frames if isinstance(frame, dict) and "doc" in frame]
    assert len(documents) >= 2
    for text in (*texts, json.dumps(documents)):
        assert TOKEN not in text


def capture_orders(**fields: Any) -> CaptureOrders:
    context = {"token": TOKEN, "run_key": "dag/run", "block": 1, "arm": "on", "duration_s": 1}
    server = fields.pop("server", ADDRESSES["server"])
    ways = [(family, "pod") for family in server]
    return CaptureOrders.model_validate({**context, "server": server, "ways": ways, **fields})


def test_a_capture_agrees_with_the_sizes_that_both_devices_allow(pair: Pair) -> None:
    # As above: IPv6 is the arm "on" and IPv4, beside it, "off".
    for end in ("client", "server"):
        pair.run(end, "ip", "link", "set", "eth0", "gso_max_size", "196608", "gro_max_size", "196608")
    with serving(pair):
        client = start(pair, "client", capture_orders().to_argument())
        out, err = client.communicate(timeout=120)
    assert (client.returncode, err) == (0, "")
    _assert_no_token_in(out)
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
        assert sent > unpacked(one.stored)["iperf3"]["end"]["sum_received"]["bytes"] * (0.5 if lost else 1)


def test_a_capture_without_the_right_to_one_is_a_sentence(pair: Pair) -> None:
    argument = capture_orders(server={"ipv4": ADDRESSES["server"]["ipv4"]}).to_argument()
    with serving(pair):
        without = [
            "setpriv",
            "--bounding-set=-net_raw",
            "--inh-caps=-net_raw",
            *agent_command(argument),
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
        told, _ = reaching.communicate(timeout=60)
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
    """Return the children of all its threads that have not ended."""
    found = []
    for path in Path(f"/proc/{process.pid}/task").glob("*/children"):
        with suppress(OSError):  # a thread that has just ended
            found += [int(child) for child in path.read_text().split()]
    return [child for child in found if _is_alive(child)]


def _is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _ask(pair: Pair, *requests: str) -> list[tuple[float, dict[str, Any]]]:
    """Return seconds and answer of each request to the control server, asked over one connection."""
    script = (
        "import json,socket,sys,time\n"
        f"s=socket.create_connection(('10.99.0.2',5203),10); s.sendall({TOKEN.encode()}); f=s.makefile('rb')\n"
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
        "unknown request 'dance'; known are snapshot, hello, capture, end_capture, iperf3",
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


def test_iperf3_serves_one_test_of_the_partner_and_is_gone_with_it(pair: Pair) -> None:
    begin, elsewhere = '{"do":"iperf3","address":"10.99.0.2"}', '{"do":"iperf3","address":"127.0.0.1"}'
    with serving(pair) as server:
        assert _children(server) == []
        answers = [answer for _, answer in _ask(pair, begin, begin, elsewhere)]
        assert answers[0] == answers[1] == {"port": 5201}
        assert "this server has 10.99.0.2 and fd99::2" in answers[2]["error"]
        wait_until(lambda: _children(server) == [], "iperf3 outlives the connection that began it")
        _, out, _ = measure(pair, short_orders("ipv4-stream-1", "ipv6-stream-1"))
        wait_until(lambda: _children(server) == [], "iperf3 outlives its partner")
    for repetition in parse_log(out).repetitions:
        assert problems(repetition, short_orders("ipv4-stream-1", "ipv6-stream-1")) == []


def _killed_in_the_first(pair: Pair, wanted: MeasureOrders) -> list[Repetition]:
    """Return both repetitions of ``wanted``, of one scenario; its iperf3 is killed while the first one runs."""
    with serving(pair) as server:
        client = start(pair, "client", wanted.to_argument())
        printed = read_until(client, f"{wanted.scenarios[0].name} 1/2: measuring")
        wait_until(lambda: _children(server) != [], "no iperf3 was started")
        time.sleep(0.5)
        os.kill(_children(server)[0], signal.SIGKILL)
        out, _ = client.communicate(timeout=60)
    return parse_log(printed + out).repetitions


def test_an_iperf3_that_died_costs_no_other_repetition(pair: Pair) -> None:
    wanted = short_orders("ipv4-stream-1", repetitions=2, duration_s=2)
    first, second = _killed_in_the_first(pair, wanted)
    assert problems(first, wanted)
    assert problems(second, wanted) == []


# What a stranger of the cluster finds.


def _stranger(pair: Pair, body: str, *arguments: str) -> str:
    """Return what a program in the client's namespace prints; it has ``at(port)``, a connected socket."""
    script = (
        "import json,socket,struct,sys,time\n"
        "def at(port): return socket.create_connection(('10.99.0.2',port),5)\n" + body
    )
    done = subprocess.run(
        pair.command("client", sys.executable, "-c", script, *arguments),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _memory_mib(process: Process) -> float:
    (line,) = [text for text in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "VmHWM" in text]
    return int(line.split()[1]) / 1024


def test_who_has_no_token_is_told_nothing(pair: Pair) -> None:
    body = (
        "for port, said in json.loads(sys.argv[1]):\n"
        '    s=at(port); s.sendall(said.encode()+b\'{"do":"hello"}\\n\'*bool(said))\n'
        "    s.settimeout(10); t=time.monotonic()\n"
        "    try: got=s.recv(100)\n"
        "    except ConnectionResetError: got=b''\n"
        "    print(port, said, got, time.monotonic()-t < 8)\n"
    )
    sayings = ("", "0" * 32, '{"do":"hello"}' + " " * 18, TOKEN[:-1] + "x")
    asked = [(port, said) for port in (5202, 5203) for said in sayings]
    with serving(pair):
        told = _stranger(pair, body, json.dumps(asked)).splitlines()
    assert told == [f"{port} {said} b'' True" for port, said in asked]


def test_strangers_cost_neither_memory_nor_a_measurement(pair: Pair) -> None:
    """Lines without end, the sizes of eight large requests, and more silent connections than one could serve."""
    body = (
        "held=[]\n"
        "for port in (5202, 5203):\n"
        "    for _ in range(8):\n"
        "        s=at(port); s.sendall(b'x'*32+struct.pack('!Q',100_000_000)); held.append(s)\n"
        "    s=at(port); s.setblocking(True)\n"
        "    try:\n"
        "        for _ in range(100): s.sendall(b'x'*1_000_000)\n"
        "    except OSError: pass\n"
        "    held+=[at(port) for _ in range(100)]\n"
        "print('ready',flush=True); time.sleep(30)\n"
    )
    wanted = short_orders("ipv4-stream-1", "ipv4-rr", "ipv4-crr", "ipv4-loaded-rr")
    with serving(pair) as server:
        before = _memory_mib(server)
        script = "import socket,struct,time\ndef at(port): return socket.create_connection(('10.99.0.2',port),5)\n"
        stranger = subprocess.Popen(
            pair.command("client", sys.executable, "-c", script + body), stdout=subprocess.PIPE, text=True
        )
        try:
            read_until(stranger, "ready")
            _, out, _ = measure(pair, wanted)
            grown = _memory_mib(server) - before
        finally:
            stranger.kill()
            stranger.communicate()
    assert [problems(repetition, wanted) for repetition in parse_log(out).repetitions] == [[]] * 4
    assert grown < 30


def test_a_partner_with_a_line_without_end_is_hung_up_on(pair: Pair) -> None:
    body = (
        "s=at(5203); s.sendall(sys.argv[1].encode())\n"
        "try:\n"
        "    for _ in range(200): s.sendall(b'x'*1_000_000)\n"
        "    print('took it all')\n"
        "except OSError: print('closed')\n"
    )
    with serving(pair) as server:
        before = _memory_mib(server)
        assert _stranger(pair, body, TOKEN) == "closed\n"
        assert _memory_mib(server) - before < 10


def test_it_listens_on_its_own_addresses_only(pair: Pair) -> None:
    pair.run("server", "ip", "addr", "add", "10.99.1.2/32", "dev", "lo")
    body = (
        "for address in ('10.99.0.2','10.99.1.2'):\n"
        "    try: socket.create_connection((address,5203),2); print(address)\n"
        "    except OSError: pass\n"
    )
    try:
        pair.run("client", "ip", "route", "add", "10.99.1.2/32", "via", "10.99.0.2")
        with serving(pair):
            assert _stranger(pair, body) == "10.99.0.2\n"
    finally:
        pair.run("server", "ip", "addr", "del", "10.99.1.2/32", "dev", "lo")


def test_the_addresses_that_kubernetes_gives_are_those_it_listens_on(pair: Pair) -> None:
    argument = serve_orders(addresses=(), families=("ipv4",), lifetime_s=60).to_argument()
    command = pair.command("server", "env", "POD_IPS=10.99.0.2,fd99::2", *agent_command(argument))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        read_until(server, '"kind":"ready"')
        tried = (
            "for address in ('10.99.0.2','fd99::2'):\n"
            "    try: socket.create_connection((address,5203),2); print(address)\n"
            "    except OSError: pass\n"
        )
        assert _stranger(pair, tried) == "10.99.0.2\n"
        server.terminate()
        server.communicate(timeout=60)
    without = start(pair, "server", argument)
    _, err = without.communicate(timeout=60)
    assert (without.returncode, "neither the orders nor POD_IPS name one" in err) == (1, True)


def test_requests_are_answered_however_they_come(pair: Pair) -> None:
    """At once, the token first, and in pieces."""
    body = (
        "for size, cuts in json.loads(sys.argv[2]):\n"
        "    said=sys.argv[1].encode()+struct.pack('!Q',size)+b'a'*size; s=at(5202)\n"
        "    def got():\n"
        "        found=b''\n"
        "        while len(found)<size: found+=s.recv(size)\n"
        "        return found\n"
        "    for start,stop in zip([0,*cuts],[*cuts,len(said)]): s.sendall(said[start:stop]); time.sleep(0.05)\n"
        "    first=got()==b'a'*size; time.sleep(0.05); s.sendall(b'b'*size)\n"
        "    print(size, cuts, first, got()==b'b'*size); s.close()\n"
    )
    asked = [(size, cuts) for size in (10, 1_000, 5_000) for cuts in ([], [32], [7, 35, 41])]
    with serving(pair):
        answered = _stranger(pair, body, TOKEN, json.dumps(asked)).splitlines()
    assert answered == [f"{size} {cuts} True True" for size, cuts in asked]


@pytest.fixture
def few_ports() -> Iterator[Pair]:
    """Yield a pair with few ports, where no connection of another test still waits for its end."""
    with joined_namespaces() as made:
        made.run("client", "sysctl", "-w", "net.ipv4.ip_local_port_range=40000 40999")
        yield made


def test_connections_end_before_ports_do_and_say_so(few_ports: Pair) -> None:
    wanted = short_orders("ipv4-crr", "ipv6-crr", repetitions=2, duration_s=2)
    with serving(few_ports):
        code, out, err = measure(few_ports, wanted)
    assert (code, err) == (0, "")
    log = parse_log(out)
    assert [problems(one, wanted) for one in log.repetitions] == [[]] * 4
    said = "ipv6-crr: ends after 99 connections, its share of the 399 that this pod may make, 600 a second at most"
    assert out.count(said) == 2
    seen = [unpacked(one.stored)["client"] for one in (log.repetitions[0], log.repetitions[-1])]
    texts = (seen[0]["before"]["sockstat"], seen[1]["after"]["sockstat"])
    before, after = (int(re.findall(r"^TCP: .* tw (\d+)", text, re.MULTILINE)[0]) for text in texts)
    # The client's few connections of another kind wait there, too.
    assert 0 < after - before <= 399 + 10, "closed connections wait at the client, where they hold its ports"
    # Each takes the time that it was ordered to, however soon it ends.
    began_s = [one.started_s for one in log.repetitions]
    assert all(later - sooner >= 2 for sooner, later in itertools.pairwise(began_s))
    assert all(one.elapsed_s < 2 for one in log.repetitions)
    assert log.done is not None
    assert log.done.elapsed_s >= 4 * 2


def test_a_stream_that_dies_beside_the_requests_costs_that_repetition(pair: Pair) -> None:
    wanted = short_orders("ipv4-loaded-rr", repetitions=2, duration_s=2)
    first, second = _killed_in_the_first(pair, wanted)
    (problem,) = problems(first, wanted)
    assert "the stream beside the requests: iperf3" in problem
    assert unpacked(first.stored)["rr"]["transactions"] > 0
    assert problems(second, wanted) == []


def test_requests_without_the_token_get_no_answer(pair: Pair) -> None:
    """A kind that asks for iperf3 first does not even get that far without it, so its own client is asked."""
    script = (
        "import json,sys; from bigtcp_bench.in_cluster.traffic import KINDS\n"
        "from bigtcp_bench.in_cluster.output import Failed\n"
        "for orders,scenario in json.loads(sys.argv[1]):\n"
        "    try: KINDS[scenario['traffic']].run('10.99.0.2',orders,scenario)\n"
        "    except Failed as failure: print(scenario['name'],failure)\n"
    )
    names = ("ipv4-small-rr", "ipv4-crr", "ipv4-loaded-rr")
    given = [
        (
            {**short_orders(name).model_dump(mode="json"), "token": "0" * 32},
            SCENARIOS[name].model_dump(mode="json"),
        )
        for name in names
    ]
    python = agent_command()[:-2]
    with serving(pair):
        done = subprocess.run(
            pair.command("client", *python, "-c", script, json.dumps(given)),
            capture_output=True,
            text=True,
            timeout=60,
        )
    counted = ("transactions", "connections", "transactions")
    for name, what, line in zip(names, counted, done.stdout.splitlines(), strict=True):
        assert line.startswith(name)
        assert f"broke after 0 counted {what}" in line


def test_a_server_that_is_killed_in_the_middle_costs_that_repetition(pair: Pair) -> None:
    wanted = short_orders("ipv4-stream-1", duration_s=3)
    with serving(pair) as server:
        client = start(pair, "client", wanted.to_argument())
        printed = read_until(client, "measuring 3 s")
        wait_until(lambda: _children(server) != [], "no iperf3 was started")
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
        wait_until(lambda: _children(client) != [], "no iperf3 was started")
        (iperf3,) = _children(client)
        client.terminate()
        out, _ = client.communicate(timeout=60)
    assert client.returncode == 143
    assert not _is_alive(iperf3)
    assert out.endswith("client ends: stopped by SIGTERM after 1 of 2 repetitions, printed above\n")
    log = parse_log(printed + out)
    assert log.missing(wanted) == [("ipv4-stream-1", 2)]
    assert problems(log.repetitions[0], wanted) == []
    assert log.done is None


def test_a_server_ends_by_itself_after_its_lifetime_and_takes_iperf3_along(pair: Pair) -> None:
    server = start(pair, "server", serve_orders(lifetime_s=8).to_argument())
    read_until(server, '"kind":"ready"')
    hold = f"s=at(5203); s.sendall(b'{TOKEN}'+b'{BEGIN_IPERF3}\\n'); s.recv(100); time.sleep(20)\n"
    script = "import socket,time\ndef at(port): return socket.create_connection(('10.99.0.2',port),5)\n"
    partner = subprocess.Popen(pair.command("client", sys.executable, "-c", script + hold))
    try:
        wait_until(lambda: _children(server) != [], "no iperf3 was started")
        (iperf3,) = _children(server)
        out, _ = server.communicate(timeout=60)
    finally:
        partner.kill()
        partner.wait()
    assert server.returncode == 0
    assert out.endswith("server ends: lifetime of 8 s is over\n")
    assert not _is_alive(iperf3)


def test_a_taken_port_is_one_sentence(pair: Pair) -> None:
    with serving(pair):
        second = start(pair, "server", serve_orders().to_argument())
        out, err = second.communicate(timeout=60)
    assert (second.returncode, out) == (1, "")
    assert re.fullmatch(
        r"bigtcp-bench agent: cannot listen on port 5202 of 10\.99\.0\.2: Address already in use\n", err
    )
