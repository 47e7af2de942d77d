"""Requests and responses over TCP: the client, and what it counts."""

from __future__ import annotations

import array
import collections
import math
import socket
import struct
import time
from collections.abc import Callable, Iterator

from bigtcp_bench.in_cluster.children import output_of
from bigtcp_bench.in_cluster.kind import Metric, Unreadable, number_at
from bigtcp_bench.in_cluster.output import Failed, Json, reason

#: A request without its whole response for this long ends the repetition.
RESPONSE_TIMEOUT_S = 10
_LIMIT = struct.pack("@ll", RESPONSE_TIMEOUT_S, 0)
#: Sanity bound of the echo server, which allocates what a client asks for.
MAX_REQUEST_BYTES = 100_000_000


def receive_exactly(connection: socket.socket, view: memoryview) -> memoryview:
    """Fill ``view``. Raises ConnectionResetError when the other end closes before."""
    missing = len(view)
    count = connection.recv_into(view)
    while count < missing:
        if not count:
            raise ConnectionResetError("the connection was closed")
        missing -= count
        count = connection.recv_into(view[-missing:])
    return view


def connect(address: str, orders: Json) -> socket.socket:
    """Return a connection to the request port. Raises OSError.

    The timeouts are the kernel's own: Python's would make every call poll first.
    """
    connection = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _LIMIT)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _LIMIT)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.connect((address, orders["rr_port"]))
    except BaseException:
        connection.close()
        raise
    return connection


def greeting(orders: Json, size: int) -> bytes:
    """Return what a connection to the request port begins with: the token, and the size of its requests."""
    return orders["token"].encode() + struct.pack("!Q", size)


def exchange(address: str, orders: Json, scenario: Json) -> Json:
    """Exchange requests and responses over one connection, one at a time. Raises Failed.

    Their size is the scenario's ``request_bytes``, or else that of the orders.

    iperf3 has no such test. One buffer serves both directions and every exchange; the warm-up is not counted.
    """
    size = size_of(orders, scenario)
    view = memoryview(bytearray(size))
    clock = time.perf_counter_ns
    latencies_ns = array.array("Q")
    per_second: list[int] = []
    try:
        with connect(address, orders) as connection:
            connection.sendall(greeting(orders, size))
            warm = clock() + orders["omit_s"] * 1_000_000_000
            while clock() < warm:
                connection.sendall(view)
                receive_exactly(connection, view)
            begin = now = clock()
            for second in range(1, orders["duration_s"] + 1):
                counted = len(latencies_ns)
                end = begin + second * 1_000_000_000
                while now < end:
                    sent = now
                    connection.sendall(view)
                    receive_exactly(connection, view)
                    now = clock()
                    latencies_ns.append(now - sent)
                per_second.append(len(latencies_ns) - counted)
            sockets = output_of("ss", "-tinOH", "dport", "=", f":{orders['rr_port']}")
    except OSError as error:
        raise Failed(broken(address, orders, error, f"{len(latencies_ns)} counted transactions")) from error
    return {"rr": summary(latencies_ns, (now - begin) / 1e9, size, per_second), "sockets": sockets}


def size_of(orders: Json, scenario: Json) -> int:
    """Return the bytes of a request, and of its response."""
    size: int = scenario.get("request_bytes") or orders["request_bytes"]
    return size


def broken(address: str, orders: Json, error: OSError, done: str) -> str:
    """Return the sentence for an exchange that ended early, after what was ``done``."""
    if isinstance(error, BlockingIOError):
        return f"no response within {RESPONSE_TIMEOUT_S} s, after {done}"
    return f"request/response to {address} port {orders['rr_port']} broke after {done}: {reason(error)}"


def summary(latencies_ns: array.array[int], seconds: float, size: int, per_second: list[int]) -> Json:
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
            "p999": _percentile(counts, total, 0.999),
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


# --- How it is read ---------------------------------------------------------------------------------------------

TRANSACTIONS = Metric("transactions_per_s", "1/s", "higher", "transactions per second", short="transactions")
P50 = Metric("latency_p50_us", "us", "lower", "latency p50")
P90 = Metric("latency_p90_us", "us", "lower", "latency p90")
P99 = Metric("latency_p99_us", "us", "lower", "latency p99")


def result_at(document: Json, path: str) -> float:
    """Return a number of what `exchange` counted, in a repetition's document. Raises Unreadable."""
    return number_at(document.get("rr"), path, "the request/response result")


def per_second(document: Json) -> float:
    """Return the transactions per second. Raises Unreadable."""
    transactions, seconds = result_at(document, "transactions"), result_at(document, "seconds")
    if not transactions or not seconds:
        raise Unreadable("no transaction was counted")
    return transactions / seconds


def latency(quantile: str) -> Callable[[Json], float]:
    """Return what reads a quantile (``p99``, in microseconds) of all counted transactions."""

    def read(document: Json) -> float:
        found = result_at(document, f"latency_us.{quantile}")
        if not found:
            raise Unreadable(f"the request/response result: latency_us.{quantile} is 0")
        return found

    return read


def problems(document: Json, orders: Json, scenario: Json) -> Iterator[str]:
    """Yield why no sound requests and responses were counted. May raise Unreadable."""
    if document.get("rr") is None:
        raise Unreadable("the document has no request/response result")
    if not result_at(document, "transactions"):
        yield "no transaction was counted"
    got, size = result_at(document, "request_bytes"), size_of(orders, scenario)
    if got != size:
        yield f"requests had {got:g} bytes instead of {size}"
