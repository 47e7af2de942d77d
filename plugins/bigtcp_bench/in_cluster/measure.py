"""Measure inside a pod: serve or send the traffic, snapshot both ends around it, print it all, judge nothing.

Run as ``python3 agent.py '<orders as JSON>'``. It is mounted into any image with python3 and iperf3, so it uses
the standard library only and no syntax newer than Python 3.9. Five orders:

- ``serve``: an echo server for request/response, and a control server that answers with snapshots and starts
  ``iperf3 -s`` for each test; both only for whom has the token of the orders;
- ``measure``: every scenario × repetition against such a server, one frame printed for each;
- ``capture``: a second of traffic over each family to such a server, and one frame for each that says how large
  the packets were at both ends (both pods need CAP_NET_RAW);
- ``reach``: one frame that says over which IP families such a server answers;
- ``probe``: one frame that describes the node (in a pod with ``hostNetwork``).

A frame is one log line, ``@@bigtcp-bench {"v":1,"kind":…,small fields…,"doc":"<base64(zlib(JSON))>"}``, written at
once, so that a pod that dies keeps what it measured. All other lines are for people.
"""

from __future__ import annotations

import array
import base64
import bisect
import collections
import contextlib
import errno
import fcntl
import hmac
import json
import math
import mmap
import os
import platform
import re
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any, NoReturn

VERSION = 1
MARKER = "@@bigtcp-bench "

#: How long a client waits for its server: a pod of a cached image starts within a few seconds, but right after an
#: outage of the API server fresh pods may not reach each other for a minute.
CONNECT_DEADLINE_S = 75
#: Wait for one TCP connection, and for one answer of the control server.
CONNECT_TIMEOUT_S = 5
#: An iperf3 that needs this much longer than it was told to run hangs.
GRACE_S = 10
#: A request without its whole response for this long ends the repetition.
RESPONSE_TIMEOUT_S = 10
#: The write size with which BIG TCP has its largest effect (180 KB per packet; the default 128K gives 141 KB).
WRITE_SIZE = "1M"
#: Sanity bound of the echo server, which allocates what a client asks for.
MAX_REQUEST_BYTES = 100_000_000
#: No request to the control server is longer.
MAX_LINE_BYTES = 4096
#: A connection that has not said the token by then is closed, and earlier where so many others have not either.
TOKEN_TIMEOUT_S = 5
MAX_STRANGERS = 32
#: iperf3 listens a few milliseconds after its start; less than CONNECT_TIMEOUT_S, for which a client waits.
IPERF3_START_S = 3

Json = dict[str, Any]


class CannotStart(Exception):
    """The orders cannot be carried out at all; the text is the sentence for the user."""


class Failed(Exception):
    """One repetition failed; the text is its sentence. ``seen`` is what was observed until then."""

    def __init__(self, sentence: str, seen: Json | None = None) -> None:
        super().__init__(sentence)
        self.seen = seen or {}


class Stopped(BaseException):
    """SIGTERM arrived, or the server's lifetime is over. No error, so no ``except Exception`` catches it."""


# --- Output ---------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """Print one line for people."""
    _write_line(" ".join(text.split()))


def print_frame(kind: str, fields: Json, document: Json | None = None) -> None:
    """Print one frame: ``fields`` readable in the log, ``document`` packed."""
    frame: Json = {"v": VERSION, "kind": kind, **fields}
    if document is not None:
        packed = zlib.compress(json.dumps(document, separators=(",", ":")).encode(), 9)
        frame["doc"] = base64.b64encode(packed).decode()
    _write_line(MARKER + json.dumps(frame, separators=(",", ":")))


def _write_line(text: str) -> None:
    """Write a whole line at once. SIGTERM waits meanwhile, so that it cannot cut a frame in two."""
    data = (text + "\n").encode()
    blocked = {signal.SIGTERM, signal.SIGALRM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        while data:
            data = data[os.write(1, data) :]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- Devices, through rtnetlink (iproute2 before 6.3 cannot show the IPv4 limits) -------------------------------

RTM_GETLINK, RTM_GETADDR = 18, 22
NLM_F_REQUEST, NLM_F_DUMP, NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
NLMSG_ERROR, NLMSG_DONE = 2, 3
ATTRIBUTE_TYPE_MASK = 0x3FFF

# Numbers from include/uapi/linux/if_link.h and if_addr.h.
IFLA_IFNAME, IFLA_QDISC, IFLA_LINKINFO, IFLA_STATS64 = 3, 6, 18, 23
IFLA_INFO_KIND = 1
IFLA_OPERSTATE = 16
IFA_ADDRESS, IFA_LOCAL = 1, 2
LINK_NUMBERS = {4: "mtu", 5: "peer_index", 10: "master_index", 31: "tx_queues", 32: "rx_queues"}
LIMITS = {
    41: "gso_max_size",
    58: "gro_max_size",
    59: "tso_max_size",
    63: "gso_ipv4_max_size",
    64: "gro_ipv4_max_size",
}
OPERSTATES = ("unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up")
#: The beginning of struct rtnl_link_stats64; every kernel since 4.6 has these.
COUNTERS = (
    "rx_packets",
    "tx_packets",
    "rx_bytes",
    "tx_bytes",
    "rx_errors",
    "tx_errors",
    "rx_dropped",
    "tx_dropped",
    "multicast",
    "collisions",
    "rx_length_errors",
    "rx_over_errors",
    "rx_crc_errors",
    "rx_frame_errors",
    "rx_fifo_errors",
    "rx_missed_errors",
    "tx_aborted_errors",
    "tx_carrier_errors",
    "tx_fifo_errors",
    "tx_heartbeat_errors",
    "tx_window_errors",
    "rx_compressed",
    "tx_compressed",
    "rx_nohandler",
)


def device_limits() -> dict[str, dict[str, int]]:
    """Return device name → BIG TCP limits (bytes) of the current network namespace.

    A limit that the kernel does not know is absent.
    """
    return {
        name: {limit: device[limit] for limit in LIMITS.values() if limit in device}
        for name, device in read_devices().items()
    }


def read_devices() -> dict[str, Json]:
    """Return device name → what the kernel says of it: limits, MTU, state, counters, addresses.

    A dump during which devices came or went (nodes create pods all the time) may lack one, so it is repeated.
    """
    devices: dict[str, Json] = {}
    for _ in range(5):
        links, complete = _dump(RTM_GETLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0))
        devices = dict(_device(message) for message in links)
        if complete:
            break
    names = {device["index"]: name for name, device in devices.items()}
    for device in devices.values():
        device["master"] = names.get(device.pop("master_index", None))
        device["addresses"] = []
    for message in _dump(RTM_GETADDR, struct.pack("=BBBBI", 0, 0, 0, 0, 0))[0]:
        family, index = struct.unpack_from("=B3xI", message)
        attributes = _attributes(message[8:])
        # IFA_LOCAL is the own address where IFA_ADDRESS is the other end's; IPv6 has IFA_ADDRESS only.
        packed = attributes.get(IFA_LOCAL, attributes.get(IFA_ADDRESS))
        if packed and index in names and family in (socket.AF_INET, socket.AF_INET6):
            devices[names[index]]["addresses"].append(socket.inet_ntop(family, packed))
    return devices


def _device(message: bytes) -> tuple[str, Json]:
    attributes = _attributes(message[16:])
    device: Json = {"index": struct.unpack_from("=i", message, 4)[0]}
    for number, name in {**LINK_NUMBERS, **LIMITS}.items():
        if number in attributes:
            device[name] = struct.unpack_from("=I", attributes[number])[0]
    kind = _attributes(attributes.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_KIND)
    device["kind"] = _text(kind) if kind else None
    device["qdisc"] = _text(attributes.get(IFLA_QDISC, b""))
    state = attributes.get(IFLA_OPERSTATE, b"\0")[0]
    device["operstate"] = OPERSTATES[state] if state < len(OPERSTATES) else "unknown"
    statistics = attributes.get(IFLA_STATS64, b"")
    if len(statistics) >= 8 * len(COUNTERS):
        values = struct.unpack_from(f"={len(COUNTERS)}Q", statistics)
        device.update({name: values[position] for position, name in enumerate(COUNTERS)})
    return _text(attributes[IFLA_IFNAME]), device


def _dump(kind: int, header: bytes) -> tuple[list[bytes], bool]:
    """Return the messages of one rtnetlink dump, and whether nothing changed during it."""
    messages: list[bytes] = []
    complete = True
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        size = 16 + len(header)
        netlink.send(struct.pack("=IHHII", size, kind, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + header)
        while True:
            data = netlink.recv(1 << 17)
            while data:
                length, found, flags = struct.unpack_from("=IHH", data)
                if flags & NLM_F_DUMP_INTR:
                    complete = False
                if found == NLMSG_DONE:
                    return messages, complete
                if found == NLMSG_ERROR:
                    number = -struct.unpack_from("=i", data, 16)[0]
                    raise OSError(number, os.strerror(number))
                messages.append(data[16:length])
                data = data[(length + 3) & ~3 :]


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            break
        found[kind & ATTRIBUTE_TYPE_MASK] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode(errors="replace")


# --- Snapshots: raw, never interpreted --------------------------------------------------------------------------

TEXT_FILES = {
    "proc_stat": "/proc/stat",
    "snmp": "/proc/net/snmp",
    "snmp6": "/proc/net/snmp6",
    "netstat": "/proc/net/netstat",
    "softnet_stat": "/proc/net/softnet_stat",
    "sockstat": "/proc/net/sockstat",
    "sockstat6": "/proc/net/sockstat6",
    "meminfo": "/proc/meminfo",
    "loadavg": "/proc/loadavg",
    "cpu_pressure": "/proc/pressure/cpu",
    "cgroup_cpu_stat": "/sys/fs/cgroup/cpu.stat",
    "conntrack_count": "/proc/sys/net/netfilter/nf_conntrack_count",
    "conntrack_max": "/proc/sys/net/netfilter/nf_conntrack_max",
}


def snapshot(address: str | None = None) -> Json:
    """Return everything that is counted here, as it is now; a file that does not exist is ``None``.

    ``device`` is the name of the device that has ``address``, the one the traffic of this end goes through.
    """
    devices = read_devices()
    wanted = _canonical(address) if address else None
    carriers = [name for name, device in devices.items() if wanted in device["addresses"]]
    return {
        "time_s": time.time(),
        "monotonic_s": time.monotonic(),
        "machine": platform.machine(),
        "user_hz": os.sysconf("SC_CLK_TCK"),
        "device": carriers[0] if carriers else None,
        "devices": devices,
        **{name: _read(path) for name, path in TEXT_FILES.items()},
    }


def _canonical(address: str) -> str:
    """Return an address as the kernel's are written here: orders may say ``fd00:0::5`` for ``fd00::5``."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_ntop(family, socket.inet_pton(family, address))


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def describe() -> Json:
    """Return what this machine and image are: names, kernel, tools, and what the kernel can do."""
    return {
        "hostname": socket.gethostname(),
        "kernel_release": platform.release(),
        "machine": platform.machine(),
        "boot_id": (_read("/proc/sys/kernel/random/boot_id") or "").strip() or None,
        "cpu_count": os.cpu_count(),
        "tools": {
            "python": platform.python_version(),
            "iperf3": _first_line("iperf3", "--version"),
            "ip": _first_line("ip", "-V"),
            "ss": _first_line("ss", "-V"),
            "ethtool": _first_line("ethtool", "--version"),
            "tcpdump": _first_line("tcpdump", "--version"),
        },
        "tcp_congestion_control": (_read("/proc/sys/net/ipv4/tcp_congestion_control") or "").strip() or None,
        "capabilities": capabilities(),
    }


def capabilities() -> dict[str, bool]:
    """Return which families' BIG TCP the kernel has, by the attributes of ``lo``: distributions backport it."""
    loopback = device_limits().get("lo", {})
    return {
        "ipv4_big_tcp": bool(loopback.get("gso_ipv4_max_size")),
        "ipv6_big_tcp": bool(loopback.get("tso_max_size")),
    }


def _first_line(*command: str) -> str | None:
    """Return the first line a command prints, or None if it is not there."""
    output = _output_of(*command)
    return output.splitlines()[0].strip() if output and output.strip() else None


def _output_of(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=CONNECT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace")


# --- Server -----------------------------------------------------------------------------------------------------


def serve(orders: Json) -> int:
    """Serve request/response, snapshots and iperf3, one test at a time, until SIGTERM or ``lifetime_s`` is over.

    On the pod's own addresses, and only to whom begins a connection with the token of the orders.
    """
    addresses = _own_addresses(orders)
    iperf3 = Iperf3Server(orders["iperf_port"])
    ports = [
        (orders["rr_port"], _echo),
        (orders["control_port"], lambda connection: Control(iperf3, addresses).answer_all(connection)),
    ]
    token = orders["token"].encode()
    servers = [_listen(address, port, token, answer) for port, answer in ports for address in addresses]
    end = "stopped by SIGTERM"
    try:
        signal.alarm(orders["lifetime_s"])
        for server in servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        print_frame(
            "ready", {name: orders[name] for name in ("iperf_port", "rr_port", "control_port")}, describe()
        )
        while True:
            signal.pause()
    except Stopped as stopped:
        if stopped.args == (signal.SIGALRM,):
            end = f"lifetime of {orders['lifetime_s']} s is over"
    finally:
        iperf3.stop()
    say(f"server ends: {end}")
    return 0


def _own_addresses(orders: Json) -> list[str]:
    """Return where to listen: on the addresses of the orders, else on those that Kubernetes gave to the pod."""
    given = orders["addresses"] or os.environ.get("POD_IPS", "").split(",")
    found = [address for address in given if address and _family(address) in orders["families"]]
    if not found:
        wanted = " or ".join(orders["families"])
        raise CannotStart(f"this pod has no {wanted} address: neither the orders nor POD_IPS name one")
    return found


def _family(address: str) -> str:
    return "ipv6" if ":" in address else "ipv4"


class Iperf3Server:
    """Starts an ``iperf3 -s`` for one test: it knows no token, so it only runs while the partner measures."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def start_one(self, address: str) -> None:
        """Start a server on ``address`` that ends after its first test. Raises OSError with what is wrong.

        One that is still there goes: after a client was lost in the middle of a test, it would call itself busy.
        """
        with self._lock:
            self._end()
            # Its report comes to the client's document (--get-server-output); complaints go to the log.
            command = ["iperf3", "-s", "-1", "-B", address, "-p", str(self.port)]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            self._process = process
            deadline = time.monotonic() + IPERF3_START_S
            while time.monotonic() < deadline and process.poll() is None:
                if _is_listening(self.port):
                    return
                time.sleep(0.01)
            code = process.poll()
            self._end()
        raise OSError(f"iperf3 -s does not listen on port {self.port} of {address} (exit code {code})")

    def stop(self) -> None:
        """End what may be running."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            _end(process)


def _is_listening(port: int) -> bool:
    """Return whether something listens on ``port``, without connecting: iperf3 would take that for a client."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in (_read(table) or "").splitlines()[1:]:
            local, state = line.split()[1], line.split()[3]
            if state == "0A" and int(local.rsplit(":", 1)[1], 16) == port:
                return True
    return False


class Listener(socketserver.ThreadingTCPServer):
    """Calls ``answer(connection)`` in a thread for every connection that begins with the token.

    A connection that does not say it at once is closed, the oldest first where many wait.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 4 * MAX_STRANGERS

    def __init__(self, address: str, port: int, token: bytes, answer: Callable[[socket.socket], None]) -> None:
        self.address_family = socket.AF_INET6 if _family(address) == "ipv6" else socket.AF_INET
        self._token = token
        self._answer = answer
        self._strangers: collections.deque[socket.socket] = collections.deque()
        super().__init__((address, port), socketserver.BaseRequestHandler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a new connection in a thread of its own."""
        self._strangers.append(request)
        if len(self._strangers) > MAX_STRANGERS:
            with contextlib.suppress(OSError, IndexError):
                self._strangers.popleft().shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer one connection. A client that goes away in the middle is its own affair."""
        with contextlib.suppress(OSError):
            try:
                known = self._says_token(request)
            finally:
                with contextlib.suppress(ValueError):
                    self._strangers.remove(request)
            if known:
                request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                request.settimeout(None)
                self._answer(request)

    def _says_token(self, connection: socket.socket) -> bool:
        deadline = time.monotonic() + TOKEN_TIMEOUT_S
        said = b""
        while len(said) < len(self._token):
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            part = connection.recv(len(self._token) - len(said))
            if not part:
                return False
            said += part
        return hmac.compare_digest(said, self._token)


def _listen(address: str, port: int, token: bytes, answer: Callable[[socket.socket], None]) -> Listener:
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    while True:
        try:
            return Listener(address, port, token, answer)
        except OSError as error:
            # A fresh IPv6 address is not usable until the kernel has looked for a second owner.
            if error.errno == errno.EADDRNOTAVAIL and time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            raise CannotStart(f"cannot listen on port {port} of {address}: {_reason(error)}") from error


def _echo(connection: socket.socket) -> None:
    """Answer requests with responses of the same size, which the client names first (8 bytes, network order)."""
    size = struct.unpack("!Q", _receive_exactly(connection, memoryview(bytearray(8))))[0]
    if not 0 < size <= MAX_REQUEST_BYTES:
        return
    view = memoryview(bytearray(size))
    while True:
        _receive_exactly(connection, view)
        connection.sendall(view)


def _receive_exactly(connection: socket.socket, view: memoryview) -> memoryview:
    """Fill ``view``. Raises ConnectionResetError when the other end closes before."""
    missing = len(view)
    count = connection.recv_into(view)
    while count < missing:
        if not count:
            raise ConnectionResetError("the connection was closed")
        missing -= count
        count = connection.recv_into(view[-missing:])
    return view


class Control:
    """What one control connection asks for. A capture or an iperf3 ends with the connection that began it."""

    def __init__(self, iperf3: Iperf3Server, addresses: list[str]) -> None:
        self._iperf3 = iperf3
        self._addresses = addresses
        self._capture: Capture | None = None
        self._has_iperf3 = False

    def answer_all(self, connection: socket.socket) -> None:
        """Answer one JSON line for each JSON line, until one is longer than any request is."""
        try:
            with connection.makefile("rb") as lines:
                while True:
                    line = lines.readline(MAX_LINE_BYTES)
                    if not line.endswith(b"\n"):
                        return
                    answer = self._answer(line)
                    connection.sendall(json.dumps(answer, separators=(",", ":")).encode() + b"\n")
        finally:
            if self._capture is not None:
                self._capture.stop()
            if self._has_iperf3:
                self._iperf3.stop()

    def _answer(self, line: bytes) -> Json:
        try:
            request = json.loads(line)
            wanted, address = request["do"], request.get("address")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {"error": "expected a JSON object with the field do"}
        try:
            if wanted == "snapshot":
                return snapshot(address)
            if wanted == "hello":
                return {**describe(), "snapshot": snapshot(address)}
            if wanted == "capture":
                return self._begin_capture(address)
            if wanted == "iperf3":
                return self._begin_iperf3(address)
        except (OSError, TypeError) as error:
            return {"error": f"no {wanted} for address {address!r}: {_reason(error)}"}
        if wanted == "end_capture":
            return self._end_capture()
        known = "snapshot, hello, capture, end_capture, iperf3"
        return {"error": f"unknown request {wanted!r}; known are {known}"}

    def _begin_iperf3(self, address: str) -> Json:
        if address not in self._addresses:
            raise OSError(f"this server has {' and '.join(self._addresses)}")
        self._has_iperf3 = True
        self._iperf3.start_one(address)
        return {"port": self._iperf3.port}

    def _begin_capture(self, address: str) -> Json:
        self._end_capture()
        self._capture = Capture(address, self._iperf3.port)
        return {"device": self._capture.device}

    def _end_capture(self) -> Json:
        if self._capture is None:
            return {"error": "nothing is captured"}
        seen, self._capture = self._capture.stop(), None
        return seen


# --- Client -----------------------------------------------------------------------------------------------------


class Server:
    """The server pod as its client sees it: one address for each family, and the control connection."""

    def __init__(self, addresses: dict[str, str], control_port: int, token: str = "") -> None:
        self.addresses = addresses
        self._token = token.encode()
        self.control_port = control_port
        self._connection: socket.socket | None = None

    def wait(self) -> dict[str, str]:
        """Wait until the server answers; return family → reason for each family that it cannot be reached over.

        One family is enough to go on. Raises CannotStart when no family answers within CONNECT_DEADLINE_S.
        """
        pending = self.try_all()
        if len(pending) == len(self.addresses):
            reasons = "; ".join(pending.values()) or "the orders name no address"
            raise CannotStart(f"the server did not answer within {CONNECT_DEADLINE_S} s: {reasons}")
        return pending

    def try_all(self) -> dict[str, str]:
        """Return family → reason for each family that the server cannot be reached over.

        Tries for up to CONNECT_DEADLINE_S. Once one family has answered the others get CONNECT_TIMEOUT_S more: a
        fresh IPv6 address is unusable for a second or two, but a family that stays broken must not hold up the
        other.
        """
        deadline = time.monotonic() + CONNECT_DEADLINE_S
        pending = dict.fromkeys(self.addresses, "not tried")
        while pending and time.monotonic() < deadline:
            for family in list(pending):
                try:
                    self.reach(family)
                except Failed as failure:
                    pending[family] = str(failure)
                    continue
                if len(pending) == len(self.addresses):
                    deadline = min(deadline, time.monotonic() + CONNECT_TIMEOUT_S)
                del pending[family]
            if pending:
                time.sleep(0.2)
        return pending

    def reach(self, family: str) -> None:
        """Connect once over ``family`` and hang up. Raises Failed."""
        self._connect(family).close()

    def ask(self, do: str, family: str) -> Json:
        """Return the control server's answer, over any family that works. Raises Failed.

        ``family`` says through which of the server's addresses the traffic goes, not how to ask.
        """
        line = json.dumps({"do": do, "address": self.addresses.get(family)}).encode() + b"\n"
        for attempt in (1, 2):
            try:
                connection = self._connection or self._connect_any()
                self._connection = connection
                connection.sendall(line)
                with connection.makefile("rb") as answers:
                    text = answers.readline()
                if not text:
                    raise ConnectionResetError("the connection was closed")
                answer = json.loads(text)
                if "error" in answer:
                    raise Failed(f"the server answered {do!r} with: {answer['error']}")
                return dict(answer)
            except (OSError, ValueError) as error:
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                if attempt == 2:
                    raise Failed(f"the server did not answer {do!r}: {_reason(error)}") from error
        raise AssertionError("unreachable")

    def _connect_any(self) -> socket.socket:
        failures = []
        for family in self.addresses:
            try:
                return self._connect(family)
            except Failed as failure:
                failures.append(str(failure))
        raise Failed("; ".join(failures))

    def _connect(self, family: str) -> socket.socket:
        address = self.addresses.get(family)
        if not address:
            raise Failed(f"the server has no {family} address")
        try:
            connection = socket.create_connection((address, self.control_port), CONNECT_TIMEOUT_S)
        except OSError as error:
            raise Failed(
                f"cannot reach {address} port {self.control_port} over {family}: {_reason(error)}"
            ) from error
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # whoever asks something notices
            connection.sendall(self._token)
        return connection


def reach(orders: Json) -> int:
    """Connect to a server over each of its families and print one frame with those it cannot be reached over."""
    print_frame("reach", {"unreachable": Server(orders["server"], orders["control_port"]).try_all()})
    return 0


def measure(orders: Json) -> int:
    """Run every scenario × repetition in the order given and print one frame for each, failed ones too."""
    server = Server(orders["server"], orders["control_port"], orders["token"])
    unreachable = server.wait()
    for reason in unreachable.values():
        say(f"going on without it: {reason}")
    context = {name: orders[name] for name in ("run_key", "block", "arm", "generation")}
    _print_hello(server, orders, context, unreachable)
    wanted = [
        (scenario, repetition)
        for scenario in orders["scenarios"]
        for repetition in range(1, orders["repetitions"] + 1)
    ]
    started, finished, failed = time.monotonic(), 0, 0
    try:
        for scenario, repetition in wanted:
            label = f"{scenario['name']} {repetition}/{orders['repetitions']}"
            say(f"{label}: measuring {orders['duration_s']} s after {orders['omit_s']} s of warm-up")
            fields, document = _repetition(server, orders, scenario)
            finished += 1
            failed += fields["error"] is not None
            print_frame("repetition", {**context, **_identity(scenario, repetition), **fields}, document)
            say(f"{label}: {_headline(fields, document)}")
    except Stopped:
        say(f"client ends: stopped by SIGTERM after {finished} of {len(wanted)} repetitions, printed above")
        raise
    elapsed_s = round(time.monotonic() - started, 3)
    print_frame("done", {**context, "repetitions": finished, "failed": failed, "elapsed_s": elapsed_s})
    say(f"client ends: {finished} repetitions, {failed} of them failed")
    return 0


def _identity(scenario: Json, repetition: int) -> Json:
    return {
        "scenario": scenario["name"],
        "family": scenario["family"],
        "traffic": scenario["traffic"],
        "streams": scenario["streams"],
        "repetition": repetition,
    }


def _print_hello(server: Server, orders: Json, context: Json, unreachable: dict[str, str]) -> None:
    family = next(family for family in server.addresses if family not in unreachable)
    try:
        far = server.ask("hello", family)
    except Failed as failure:
        raise CannotStart(str(failure)) from failure
    near = {**describe(), "snapshot": snapshot(_own_address(server, family))}
    if near["tools"]["iperf3"] is None and any(scenario["traffic"] != "rr" for scenario in orders["scenarios"]):
        raise CannotStart("iperf3 cannot be run: it is not in this image")
    versions = {"client_iperf3": near["tools"]["iperf3"], "server_iperf3": far["tools"]["iperf3"]}
    fields = {**context, **versions, "unreachable": unreachable}
    print_frame("hello", fields, {"client": near, "server": far})


def _repetition(server: Server, orders: Json, scenario: Json) -> tuple[Json, Json]:
    """Return the frame's fields and its document: both ends before and after, and the traffic between.

    The server is asked first and last, so that its window contains the client's. What happens in between, the
    omitted seconds too, is inside both windows, for CPU time and for bytes alike.
    """
    family = scenario["family"]
    started_s, started = time.time(), time.monotonic()
    document: Json = {"client": {}, "server": {}}
    error: str | None = None
    try:
        server.reach(family)
        if scenario["traffic"] != "rr":
            server.ask("iperf3", family)
        document["server"]["before"] = server.ask("snapshot", family)
        own_address = _own_address(server, family)
        document["client"]["before"] = snapshot(own_address)
        try:
            run = _run_rr if scenario["traffic"] == "rr" else _run_iperf3
            document.update(run(server.addresses[family], orders, scenario))
        except Failed as failure:
            error = str(failure)
            document.update(failure.seen)
        document["client"]["after"] = snapshot(own_address)
        document["server"]["after"] = server.ask("snapshot", family)
    except (Failed, OSError) as failure:
        error = error or _reason(failure)
    elapsed_s = round(time.monotonic() - started, 3)
    return {"started_s": round(started_s, 3), "elapsed_s": elapsed_s, "error": error}, document


def _own_address(server: Server, family: str) -> str:
    """Return the own address that packets to the server carry. Sends nothing. Raises Failed."""
    kind = socket.AF_INET6 if family == "ipv6" else socket.AF_INET
    try:
        with socket.socket(kind, socket.SOCK_DGRAM) as probe:
            probe.connect((server.addresses[family], server.control_port))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise Failed(f"no route to {server.addresses[family]} over {family}: {_reason(error)}") from error


def _run_iperf3(address: str, orders: Json, scenario: Json) -> Json:
    """Run one iperf3 client and return what it printed. Raises Failed."""
    duration_s, omit_s = orders["duration_s"], orders["omit_s"]
    command = ["iperf3", "-c", address, "-p", str(orders["iperf_port"])]
    command += ["-6" if scenario["family"] == "ipv6" else "-4", "-l", WRITE_SIZE, "-t", str(duration_s)]
    command += ["-P", str(scenario["streams"]), "--json", "--get-server-output"]
    command += ["--connect-timeout", str(CONNECT_TIMEOUT_S * 1000)]
    if omit_s:
        command += ["-O", str(omit_s)]
    if scenario["traffic"] == "rate":
        command += ["-b", str(orders["rate_bps"] // scenario["streams"])]
    limit_s = omit_s + duration_s + GRACE_S
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as error:
        raise Failed(f"iperf3 cannot be run: {_reason(error)}") from error
    seen: Json = {"command": command}
    timed_out = False
    try:
        halfway_s = omit_s + duration_s / 2
        try:
            output, complaints = process.communicate(timeout=halfway_s)
        except subprocess.TimeoutExpired:
            # Only while it runs do its sockets exist; one look costs some milliseconds of CPU.
            seen["sockets"] = _output_of("ss", "-tinOH", "dport", "=", f":{orders['iperf_port']}")
            try:
                output, complaints = process.communicate(timeout=limit_s - halfway_s)
            except subprocess.TimeoutExpired:
                timed_out = True
                _end(process)
                output, complaints = process.communicate()
    finally:
        _end(process)
    seen["exit_code"] = process.returncode
    seen["stderr"] = complaints.decode(errors="replace")[-2000:]
    seen["iperf3"] = _first_json(output.decode(errors="replace"))
    if timed_out:
        raise Failed(f"iperf3 did not end within {limit_s} s and was stopped", seen)
    if seen["iperf3"] is None:
        seen["stdout"] = output.decode(errors="replace")[:2000]
        text = output.decode(errors="replace")
        odd = _not_a_number(text)
        if odd:
            raise Failed(f"iperf3 (exit code {process.returncode}) printed what is JSON but for {odd}", seen)
        shown = _tail(seen["stderr"] or seen["stdout"])
        raise Failed(f"iperf3 (exit code {process.returncode}) printed no JSON but: {shown}", seen)
    if seen["iperf3"].get("error"):
        raise Failed(f"iperf3: {seen['iperf3']['error']}", seen)
    if process.returncode:
        raise Failed(f"iperf3 ended with exit code {process.returncode}: {_tail(seen['stderr'])}", seen)
    return seen


def _tail(text: str) -> str:
    return " ".join(text.split())[-200:] or "(nothing)"


def _first_json(text: str) -> Json | None:
    """Return the first JSON object in ``text``: some versions print a warning before it, or it twice."""
    start = text.find("{")
    try:
        found = json.JSONDecoder().raw_decode(text, start)[0] if start >= 0 else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


#: A value that is no JSON, behind the string before it: what C's printf makes of a division by nothing.
NOT_A_NUMBER = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:\s*(-?(?:nan|inf(?:inity)?))\b', re.IGNORECASE)


def _not_a_number(text: str) -> str | None:
    """Return which value, and of what, is all that keeps ``text`` from being JSON; None if it is not."""
    found = NOT_A_NUMBER.search(text)
    if found is None or _first_json(NOT_A_NUMBER.sub(r'"\1":null', text)) is None:
        return None
    return f"a bare {found[2]} ({found[1]})"


def _run_rr(address: str, orders: Json, scenario: Json) -> Json:
    """Exchange requests and responses over one connection, one at a time. Raises Failed.

    Their size is the scenario's ``request_bytes``, or else that of the orders.

    iperf3 has no such test. One buffer serves both directions and every exchange; the warm-up is not counted.
    """
    size = scenario.get("request_bytes") or orders["request_bytes"]
    view = memoryview(bytearray(size))
    clock = time.perf_counter_ns
    latencies_ns = array.array("Q")
    per_second: list[int] = []
    try:
        with socket.create_connection((address, orders["rr_port"]), CONNECT_TIMEOUT_S) as connection:
            # The kernel's own timeouts: Python's would make every call poll first.
            connection.settimeout(None)
            limit = struct.pack("@ll", RESPONSE_TIMEOUT_S, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(orders["token"].encode() + struct.pack("!Q", size))
            warm = clock() + orders["omit_s"] * 1_000_000_000
            while clock() < warm:
                connection.sendall(view)
                _receive_exactly(connection, view)
            begin = now = clock()
            for second in range(1, orders["duration_s"] + 1):
                counted = len(latencies_ns)
                end = begin + second * 1_000_000_000
                while now < end:
                    sent = now
                    connection.sendall(view)
                    _receive_exactly(connection, view)
                    now = clock()
                    latencies_ns.append(now - sent)
                per_second.append(len(latencies_ns) - counted)
            sockets = _output_of("ss", "-tinOH", "dport", "=", f":{orders['rr_port']}")
    except BlockingIOError as error:
        raise Failed(
            f"no response within {RESPONSE_TIMEOUT_S} s, after {len(latencies_ns)} counted transactions"
        ) from error
    except OSError as error:
        raise Failed(
            f"request/response to {address} port {orders['rr_port']} broke after {len(latencies_ns)} counted "
            f"transactions: {_reason(error)}"
        ) from error
    return {"rr": _summarize(latencies_ns, (now - begin) / 1e9, size, per_second), "sockets": sockets}


def _summarize(latencies_ns: array.array[int], seconds: float, size: int, per_second: list[int]) -> Json:
    """Return transactions, percentiles (nearest rank, to 0.1 µs) and a histogram with steps of about 12 %."""
    counts = sorted(collections.Counter(latency // 100 for latency in latencies_ns).items())
    total = len(latencies_ns)
    histogram: dict[int, int] = {}
    for tenths, count in counts:
        step = math.ceil(20 * math.log10(max(tenths, 1) / 10))
        histogram[step] = histogram.get(step, 0) + count
    return {
        "request_bytes": size,
        "transactions": total,
        "seconds": seconds,
        "per_second": per_second,
        "latency_us": {
            "min": counts[0][0] / 10,
            "mean": round(sum(latencies_ns) / total / 1000, 2),
            "p50": _percentile(counts, total, 0.5),
            "p90": _percentile(counts, total, 0.9),
            "p99": _percentile(counts, total, 0.99),
            "max": counts[-1][0] / 10,
        },
        "histogram": [[round(10 ** (step / 20), 1), count] for step, count in histogram.items()],
    }


def _percentile(counts: list[tuple[int, int]], total: int, share: float) -> float:
    """Return the smallest latency (µs) that at least ``share`` of the transactions do not exceed."""
    rank = math.ceil(share * total)
    for tenths, count in counts:
        rank -= count
        if rank <= 0:
            return tenths / 10
    raise ValueError("no transactions")


def _headline(fields: Json, document: Json) -> str:
    """Return the result of a repetition in a few words for the log; nothing reads them back."""
    if fields["error"]:
        return f"FAILED: {fields['error']}"
    try:
        if "rr" in document:
            rr = document["rr"]
            return f"{rr['transactions'] / rr['seconds']:,.0f} transactions/s, p50 {rr['latency_us']['p50']} us"
        device = document["client"]["before"]["device"]
        before, after = (document["client"][when]["devices"][device] for when in ("before", "after"))
        per_packet = (after["tx_bytes"] - before["tx_bytes"]) / (after["tx_packets"] - before["tx_packets"])
        bps = document["iperf3"]["end"]["sum_received"]["bits_per_second"]
        return f"{bps / 1e9:.2f} Gbit/s, {per_packet:,.0f} bytes per packet sent"
    except (KeyError, TypeError, ZeroDivisionError):
        return "done"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a child: politely, then not."""
    for end in (process.terminate, process.kill):
        if process.poll() is not None:
            return
        end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)


# --- Capture ----------------------------------------------------------------------------------------------------

# Numbers from include/uapi/linux/if_packet.h and if_ether.h.
SOL_PACKET = 263
PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION = 5, 6, 10
TPACKET_V2, TP_STATUS_USER = 1, 1
ETH_P_ALL = 3
PACKET_OUTGOING = 4
#: struct tpacket2_hdr, as far as it is read: status, length of the packet, length that was kept, offsets of the
#: link's and of the IP header. Behind all of it, at 32, a struct sockaddr_ll with the packet's direction.
TPACKET2_HEADER = struct.Struct("=IIIHH")
TPACKET2_DIRECTION = 32 + 10
#: 8 MB for 32,768 packets, a quarter of a second of 100,000 a second and more, of which only headers are kept.
RING_BLOCK_BYTES, RING_BLOCKS, RING_FRAME_BYTES = 1 << 16, 128, 256
#: How long the reader sleeps when it has read everything.
RING_PAUSE_S = 0.002
#: Upper bounds of packet sizes, in bytes with the IP header: an Ethernet frame, a jumbo frame, what is possible
#: without BIG TCP (65,536), what Cilium sets (196,608), and the largest that Linux allows (GSO_MAX_SIZE, 524,280).
PACKET_BOUNDS = (1_500, 9_000, 16_384, 65_536, 131_072, 196_608, 524_280)
TCP, HOP_BY_HOP = 6, 0


class Capture:
    """Counts the packets of TCP connections on the device that has ``address``, by size, in both directions.

    Only those from or to ``port``. The kernel writes headers and true lengths (``skb->len``, as a pcap record's
    original length is) into a ring, read in a thread: a socket's buffer would be full after two large packets.
    """

    def __init__(self, address: str, port: int) -> None:
        """Begin. Raises OSError, in particular without CAP_NET_RAW, or if no device has the address."""
        device = snapshot(address)["device"]
        if device is None:
            raise OSError(f"no device has the address {address}")
        self.device = str(device)
        self._port = port
        #: (sent, near port, far port) → for each bound: packets, bytes.
        self._sizes: dict[tuple[bool, int, int], list[list[int]]] = {}
        self._ended = threading.Event()
        with contextlib.ExitStack() as stack:
            # SOCK_DGRAM leaves the link's header out of lengths; protocol 0 until everything is set up.
            self._socket = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))
            self._socket.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V2)
            self._frames = RING_BLOCK_BYTES // RING_FRAME_BYTES * RING_BLOCKS
            request = struct.pack("=IIII", RING_BLOCK_BYTES, RING_BLOCKS, RING_FRAME_BYTES, self._frames)
            self._socket.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
            self._ring = stack.enter_context(mmap.mmap(self._socket.fileno(), RING_BLOCK_BYTES * RING_BLOCKS))
            self._socket.bind((self.device, ETH_P_ALL))
            self._resources = stack.pop_all()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def stop(self) -> Json:
        """End, and return what was seen: packets by connection, direction and size, and how many were lost."""
        self._ended.set()
        self._reader.join()
        seen, dropped = struct.unpack("=II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        self._resources.close()
        connections: dict[tuple[int, int], Json] = {}
        for (sent, near, far), sizes in self._sizes.items():
            ports = {"near_port": near, "far_port": far}
            one = connections.setdefault((near, far), {**ports, "sent": [], "received": []})
            one["sent" if sent else "received"] = [
                {"upper_bytes": PACKET_BOUNDS[place], "packets": packets, "bytes": size}
                for place, (packets, size) in enumerate(sizes)
                if packets
            ]
        return {"device": self.device, "seen": seen, "dropped": dropped, "connections": list(connections.values())}

    def _read(self) -> None:
        """Count what is in the ring, until nothing is left after the end."""
        number = 0
        while True:
            ended = self._ended.is_set()
            start = number
            while self._take(number * RING_FRAME_BYTES):
                number = (number + 1) % self._frames
            if number == start:
                if ended:
                    return
                time.sleep(RING_PAUSE_S)

    def _take(self, frame: int) -> bool:
        """Count the packet in the ring at ``frame`` and give its place back; return False if there is none yet."""
        ring = self._ring
        status, length, kept, _, header = TPACKET2_HEADER.unpack_from(ring, frame)
        if not status & TP_STATUS_USER:
            return False
        ports = _tcp_ports(ring[frame + header : frame + header + kept])
        if ports is not None and self._port in ports:
            sent = ring[frame + TPACKET2_DIRECTION] == PACKET_OUTGOING
            near, far = ports if sent else ports[::-1]
            sizes = self._sizes.setdefault((sent, near, far), [[0, 0] for _ in PACKET_BOUNDS])
            place = sizes[min(bisect.bisect_left(PACKET_BOUNDS, length), len(PACKET_BOUNDS) - 1)]
            place[0] += 1
            place[1] += length
        struct.pack_into("=I", ring, frame, 0)
        return True


def _tcp_ports(packet: bytes) -> tuple[int, int] | None:
    """Return source and destination port of a TCP packet; None for any other."""
    try:
        version = packet[0] >> 4
        if version == 4:
            offset, protocol = (packet[0] & 0xF) * 4, packet[9]
        elif version == 6:
            offset, protocol = 40, packet[6]
            if protocol == HOP_BY_HOP:  # before Linux 7.0 it carries the true length of a large IPv6 packet
                offset, protocol = offset + (packet[41] + 1) * 8, packet[40]
        else:
            return None
        ports = struct.unpack_from("!HH", packet, offset)
    except (IndexError, struct.error):
        return None
    return (ports[0], ports[1]) if protocol == TCP else None


def capture(orders: Json) -> int:
    """Send a stream over each family to a server and print for each a frame: packet sizes at both ends."""
    server = Server(orders["server"], orders["control_port"], orders["token"])
    unreachable = server.wait()
    context = {name: orders[name] for name in ("run_key", "block", "arm")}
    for family in server.addresses:
        document: Json = {}
        error = unreachable.get(family)
        if error is None:
            try:
                document = _captured(server, orders, family)
            except Failed as failure:
                error, document = str(failure), failure.seen
            except OSError as failure:
                error = f"packets cannot be captured: {_reason(failure)}"
        print_frame("capture", {**context, "family": family, "error": error}, document)
        say(f"{family}: {error or 'captured'}")
    return 0


def _captured(server: Server, orders: Json, family: str) -> Json:
    """Return how large the packets of one stream were: ``sender`` and ``receiver``. Raises Failed or OSError."""
    server.ask("iperf3", family)
    server.ask("capture", family)
    near = Capture(_own_address(server, family), orders["iperf_port"])
    try:
        scenario = {"family": family, "traffic": "stream", "streams": 1}
        seen = _run_iperf3(server.addresses[family], {**orders, "omit_s": 0}, scenario)
    finally:
        sender = near.stop()
    receiver = server.ask("end_capture", family)
    port = seen["iperf3"]["start"]["connected"][0]["local_port"]
    found: Json = {"iperf3": seen["iperf3"]}
    for end, ports, sizes in (("sender", "near_port", sender), ("receiver", "far_port", receiver)):
        # iperf3 has a second connection, over which the ends agree on what to do.
        connections = [one for one in sizes.pop("connections") if one[ports] == port]
        if not connections:
            raise Failed(f"no packet of the stream was seen at the {end}", found)
        found[end] = {**sizes, "sent": connections[0]["sent"], "received": connections[0]["received"]}
    return found


# --- Probe ------------------------------------------------------------------------------------------------------

SIOCETHTOOL = 0x8946
ETHTOOL_GSET, ETHTOOL_GDRVINFO = 0x1, 0x3
ETHTOOL_GSTRINGS, ETHTOOL_GSTATS, ETHTOOL_GSSET_INFO = 0x1B, 0x1D, 0x37
ETH_SS_STATS = 1
ETH_GSTRING_LEN = 32
#: How Cilium names a pod's end of its cable.
POD_CABLE = "lxc"
SPEED_UNKNOWN = 0xFFFFFFFF
#: Of the first reading of a load: what load is told by.
EARLIER = ("time_s", "monotonic_s", "user_hz", "devices", "proc_stat")


def probe(orders: Json) -> int:
    """Print one frame that describes this node: devices with drivers, kernel, tools, counters.

    With ``sample_s`` a first reading of what is counted is taken that many seconds before, to tell the load.
    """
    seen = describe()
    if orders.get("sample_s"):
        first = snapshot()
        seen["earlier"] = {name: first[name] for name in EARLIER}
        time.sleep(orders["sample_s"])
    seen["snapshot"] = snapshot()
    for name, device in seen["snapshot"]["devices"].items():
        device.update(_driver(name))
        # A node has hundreds of pods.
        if not name.startswith(POD_CABLE):
            device["ethtool"] = _statistics(name)
    fields = {name: seen[name] for name in ("hostname", "kernel_release", "capabilities")}
    print_frame("probe", fields, seen)
    return 0


def _driver(device: str) -> Json:
    """Return driver, firmware, bus and speed (Mbit/s); None where the device has none.

    Both come by ioctl, which answers for this network namespace: /sys may be another one's.
    """
    drvinfo = _ethtool(device, struct.pack("=I", ETHTOOL_GDRVINFO), 196)
    # struct ethtool_cmd: the low and the high half of the speed are two fields, 12 and 28 bytes in.
    settings = _ethtool(device, struct.pack("=I", ETHTOOL_GSET), 44)
    speed = SPEED_UNKNOWN
    if settings:
        speed = struct.unpack_from("=H", settings, 12)[0] | struct.unpack_from("=H", settings, 28)[0] << 16
    return {
        "driver": _text(drvinfo[4:36]) or None,
        "firmware": _text(drvinfo[68:100]) or None,
        "bus": _text(drvinfo[100:132]) or None,
        "speed_mbps": None if speed in (0, 0xFFFF, SPEED_UNKNOWN) else speed,
    }


def _statistics(device: str) -> dict[str, int]:
    """Return what the driver counts, by its own names (``ethtool -S``); empty if it counts nothing."""
    # struct ethtool_sset_info: command, reserved, mask of sets (64 bits); then the size of each set that there is.
    info = _ethtool(device, struct.pack("=IIQ", ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_STATS), 20)
    if not info or not struct.unpack_from("=Q", info, 8)[0]:
        return {}
    count = struct.unpack_from("=I", info, 16)[0]
    # The kernel writes as many as there are by then, whatever room was announced: twice as much is offered.
    wanted = struct.pack("=III", ETHTOOL_GSTRINGS, ETH_SS_STATS, count)
    names = _ethtool(device, wanted, 12 + 2 * count * ETH_GSTRING_LEN)
    values = _ethtool(device, struct.pack("=II", ETHTOOL_GSTATS, count), 8 + 2 * count * 8)
    if not names or not values:
        return {}
    if {struct.unpack_from("=I", names, 8)[0], struct.unpack_from("=I", values, 4)[0]} != {count}:
        return {}  # queues came or went meanwhile
    found: dict[str, int] = {}
    for at, value in enumerate(struct.unpack_from(f"={count}Q", values, 8)):
        name = _text(names[12 + at * ETH_GSTRING_LEN :][:ETH_GSTRING_LEN])
        # vmxnet3 has the same names for every queue; the counter of a card is the sum of them.
        found[name] = found.get(name, 0) + value
    return found


def _ethtool(device: str, command: bytes, size: int) -> bytes:
    """Return the answer of ``size`` bytes to one ethtool command, empty if the device does not know it."""
    answer = array.array("B", command.ljust(size, b"\0"))
    # struct ifreq: the name, then a pointer to the command's structure; the kernel copies 40 bytes.
    request = struct.pack("16sP", device.encode(), answer.buffer_info()[0]).ljust(40, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as anchor:
        try:
            fcntl.ioctl(anchor, SIOCETHTOOL, request)
        except OSError:
            return b""
    return answer.tobytes()


# --- Start ------------------------------------------------------------------------------------------------------

#: What can be ordered: the function, and the fields its orders must have.
TASKS: dict[str, tuple[Callable[[Json], int], str]] = {
    "serve": (serve, "token addresses iperf_port rr_port control_port families lifetime_s"),
    "measure": (
        measure,
        "token run_key block arm generation server iperf_port rr_port control_port scenarios repetitions "
        "duration_s omit_s rate_bps request_bytes",
    ),
    "capture": (capture, "token run_key block arm server iperf_port control_port duration_s"),
    "reach": (reach, "server control_port"),
    "probe": (probe, ""),
}


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _stop(number: int, _frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # one is enough: the second must not interrupt the cleaning up
    raise Stopped(number)


def main(arguments: list[str]) -> int:
    """Carry out the orders; return the exit status: 0 done, 1 could not start, 143 stopped by SIGTERM."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGALRM, _stop)
    try:
        if len(arguments) != 1:
            raise CannotStart("expected one argument, the orders as JSON")
        try:
            orders = json.loads(arguments[0])
            version, do = orders["version"], orders["do"]
        except (ValueError, TypeError, KeyError) as error:
            raise CannotStart(f"orders are not a JSON object with version and do: {error!r}") from error
        if version != VERSION:
            raise CannotStart(f"orders have version {version!r}; this agent knows {VERSION}")
        if do not in TASKS:
            raise CannotStart(f"orders say do {do!r}; allowed are {', '.join(TASKS)}")
        task, fields = TASKS[do]
        missing = [field for field in fields.split() if field not in orders]
        if missing:
            raise CannotStart(f"orders to {do} lack the field {missing[0]!r}")
        return task(orders)
    except CannotStart as reason:
        sys.stderr.write(f"bigtcp-bench agent: {reason}\n")
        return 1
    except Stopped:
        return 128 + signal.SIGTERM


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
