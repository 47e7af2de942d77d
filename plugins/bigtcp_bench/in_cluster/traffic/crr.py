"""Connections: connect, one exchange, close, and again.

A closed connection is waited for (TIME_WAIT) for a minute at the end that closed it first, here the client, where
it holds a port; netfilter remembers it for two minutes on both nodes, Cilium for ten seconds. So a pod makes only
so many in its life, and every repetition has an equal share of them: it ends when its share is used up, and says
so. They are closed in both directions: after a reset by one side alone Cilium would keep its entry for hours.
"""

from __future__ import annotations

import array
import time
from collections.abc import Iterator

from bigtcp_bench.in_cluster import exchange
from bigtcp_bench.in_cluster.kind import Kind, Metric, number_at, too_short
from bigtcp_bench.in_cluster.output import Failed, Json, say
from bigtcp_bench.in_cluster.snapshot import read_file

#: All that one pod makes: fewer than a tenth of the 131,072 that netfilter remembers at least, by default.
MAX_CONNECTIONS = 12_000
#: Of a pod's ports, and of the closed connections that its kernel waits for: the share that may be taken.
MAX_SHARE = 0.4
#: A share of fewer connections tells nothing.
MIN_CONNECTIONS = 50
#: Of the connections of a repetition: those that come before what is counted.
WARM_UP_SHARE = 0.1
#: As of ``small-rr``: one ordinary packet.
REQUEST_BYTES = 1_000

CONNECTIONS = Metric("connections_per_s", "1/s", "higher", "connections per second", short="connections")


def limit() -> int:
    """Return how many connections this pod may make in its life."""
    low, high = (int(text) for text in (read_file("/proc/sys/net/ipv4/ip_local_port_range") or "0 0").split())
    found = [MAX_CONNECTIONS, int((high - low) * MAX_SHARE)]
    if waiting := read_file("/proc/sys/net/ipv4/tcp_max_tw_buckets"):
        found.append(int(int(waiting) * MAX_SHARE))
    return min(found)


def _run(address: str, orders: Json, scenario: Json) -> Json:
    repetitions = orders["repetitions"] * sum(one["traffic"] == KIND.name for one in orders["scenarios"])
    most, allowed = limit(), limit() // repetitions
    if allowed < MIN_CONNECTIONS:
        raise Failed(
            f"no connection was made: this pod may make {most:,}, and {repetitions} repetitions share them, of "
            f"which each needs {MIN_CONNECTIONS}; order fewer repetitions"
        )
    warm_up = int(allowed * WARM_UP_SHARE)
    size = exchange.size_of(orders, scenario)
    view = memoryview(bytearray(size))
    request = exchange.greeting(orders, size) + view
    clock = time.perf_counter_ns
    latencies_ns = array.array("Q")
    begin = end = now = 0
    try:
        for made in range(allowed):
            sent = clock()
            if made == warm_up:
                begin, end = sent, sent + orders["duration_s"] * 1_000_000_000
            if made > warm_up and sent >= end:
                break
            with exchange.connect(address, orders) as connection:
                connection.sendall(request)
                exchange.receive_exactly(connection, view)
            now = clock()
            if made >= warm_up:
                latencies_ns.append(now - sent)
    except OSError as error:
        done = f"{len(latencies_ns)} counted connections"
        raise Failed(exchange.broken(address, orders, error, done)) from error
    counted = len(latencies_ns)
    if used_up := counted == allowed - warm_up:
        say(
            f"{scenario['name']}: ends after {allowed:,} connections, its share of the {most:,} that this pod may "
            "make so that neither ports nor connection tracking run out"
        )
    rr = exchange.summary(latencies_ns, (now - begin) / 1e9, size, [counted])
    return {"rr": rr, "crr": {"allowed": allowed, "used_up": used_up}}


def _problems(document: Json, orders: Json, scenario: Json) -> Iterator[str]:
    yield from exchange.problems(document, orders, scenario)
    counted = exchange.result_at(document, "transactions")
    if counted < int(number_at(document.get("crr"), "allowed", "the connections' result") * (1 - WARM_UP_SHARE)):
        yield from too_short(exchange.result_at(document, "seconds"), orders)


KIND = Kind(
    name="crr",
    scenarios={"crr": 1},
    run=_run,
    problems=_problems,
    metrics={CONNECTIONS: exchange.per_second, exchange.P99: exchange.latency("p99")},
    headline=CONNECTIONS.name,
    request_bytes=REQUEST_BYTES,
)
