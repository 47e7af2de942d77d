"""The end that receives: an echo for requests, and a control server that answers and starts iperf3."""

from __future__ import annotations

import collections
import contextlib
import errno
import hmac
import json
import os
import signal
import socket
import socketserver
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

from bigtcp_bench.in_cluster import children
from bigtcp_bench.in_cluster.capture import Capture
from bigtcp_bench.in_cluster.exchange import MAX_REQUEST_BYTES, receive_exactly
from bigtcp_bench.in_cluster.output import CannotStart, Json, Stopped, print_frame, reason, say
from bigtcp_bench.in_cluster.partner import CONNECT_TIMEOUT_S
from bigtcp_bench.in_cluster.snapshot import describe, read_file, snapshot

#: No request to the control server is longer.
MAX_LINE_BYTES = 4096
#: A connection that has not said the token by then is closed, and earlier where so many others have not either.
TOKEN_TIMEOUT_S = 5
MAX_STRANGERS = 32
#: How long the thread that accepts connections waits for a first request, and for the end of its connection.
AT_ONCE_S = 0.002
#: A request that is longer, with the token before it, does not come in one packet.
MAX_AT_ONCE_BYTES = 1_400
#: iperf3 listens a few milliseconds after its start; less than CONNECT_TIMEOUT_S, for which a client waits.
IPERF3_START_S = 3
#: How a client names the size of its requests: network order.
_SIZE = struct.Struct("!Q")


def serve(orders: Json) -> int:
    """Serve request/response, snapshots and iperf3, one test at a time, until SIGTERM or ``lifetime_s`` is over.

    On the pod's own addresses, and only to whom begins a connection with the token of the orders.
    """
    addresses = _own_addresses(orders)
    iperf3 = Iperf3Server(orders["iperf_port"])
    ports: list[tuple[type[Listener], int, Callable[[socket.socket], None]]] = [
        (EchoListener, orders["rr_port"], _echo),
        (Listener, orders["control_port"], lambda connection: Control(iperf3, addresses).answer_all(connection)),
    ]
    token = orders["token"].encode()
    servers = [
        _listen(kind, address, port, token, answer) for kind, port, answer in ports for address in addresses
    ]
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
            children.end(process)


def _is_listening(port: int) -> bool:
    """Return whether something listens on ``port``, without connecting: iperf3 would take that for a client."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in (read_file(table) or "").splitlines()[1:]:
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


class EchoListener(Listener):
    """Answers the first request of a connection at once, if it is small and has come with the token.

    A thread of its own costs a connection more than its exchange does.
    """

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle a new connection, in a thread where it has more to say."""
        size = 0
        request.settimeout(AT_ONCE_S)
        try:
            size = self._first_request(request)
            if size and not request.recv(1, socket.MSG_PEEK):
                self.shutdown_request(request)
                return
        except OSError:  # nothing, or nothing more, has come yet; what is wrong with it shows again
            pass
        if size:
            threading.Thread(target=self._go_on, args=(request, size), daemon=True).start()
        else:
            super().process_request(request, client_address)

    def _first_request(self, connection: socket.socket) -> int:
        """Answer the request that has come, whole and with the token; return its size, 0 if there is none."""
        said = connection.recv(MAX_AT_ONCE_BYTES, socket.MSG_PEEK)
        start = len(self._token) + _SIZE.size
        if len(said) <= start or not hmac.compare_digest(said[: len(self._token)], self._token):
            return 0
        (size,) = _SIZE.unpack_from(said, len(self._token))
        if size != len(said) - start:
            return 0
        connection.recv(len(said))
        connection.sendall(said[start:])
        return int(size)

    def _go_on(self, connection: socket.socket, size: int) -> None:
        try:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.settimeout(None)
                _echo_all(connection, size)
        finally:
            self.shutdown_request(connection)


def _listen(
    kind: type[Listener], address: str, port: int, token: bytes, answer: Callable[[socket.socket], None]
) -> Listener:
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    while True:
        try:
            return kind(address, port, token, answer)
        except OSError as error:
            # A fresh IPv6 address is not usable until the kernel has looked for a second owner.
            if error.errno == errno.EADDRNOTAVAIL and time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            raise CannotStart(f"cannot listen on port {port} of {address}: {reason(error)}") from error


def _echo(connection: socket.socket) -> None:
    """Answer requests with responses of the same size, which the client names first (8 bytes, network order)."""
    size = _SIZE.unpack(receive_exactly(connection, memoryview(bytearray(_SIZE.size))))[0]
    if 0 < size <= MAX_REQUEST_BYTES:
        _echo_all(connection, size)


def _echo_all(connection: socket.socket, size: int) -> None:
    view = memoryview(bytearray(size))
    while True:
        receive_exactly(connection, view)
        connection.sendall(view)


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
            return {"error": f"no {wanted} for address {address!r}: {reason(error)}"}
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
