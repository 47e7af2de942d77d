"""Connections: connect, one exchange, close, and again.

A closed connection is waited for (TIME_WAIT) for a minute at the end that closed it first, here the client, where
it holds a port; netfilter remembers it for two minutes on both nodes, Cilium for ten seconds. So a pod makes only
so many in its life, and every repetition has an equal share of them: it ends when its share is used up, and says
so. The next pod follows within seconds: so a share is no more than the repetition's time allows, and what is left
of that time is waited for. They are closed in both directions: after a reset by one side alone Cilium would keep
its entry for hours.
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
#: For each second of a repetition, its warm-up included: whatever follows it, in the two minutes in which they are
#: remembered they are fewer than six tenths of these.
MAX_PER_S = 600
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
    most = limit()
    if most // repetitions < MIN_CONNECTIONS:
        raise Failed(
            f"no connection was made: this pod may make {most:,}, and {repetitions} repetitions share them, of "
            f"which each needs {MIN_CONNECTIONS}; order fewer repetitions"
        )
    allowed = min(most // repetitions, MAX_PER_S * (orders["omit_s"] + orders["duration_s"]))
    warm_up = int(allowed * WARM_UP_SHARE)
    size = exchange.size_of(orders, scenario)
    view = memoryview(bytearray(size))
    request = exchange.greeting(orders, size) + view
    clock = time.perf_counter_ns
    latencies_ns, used_up = array.array("Q"), False
    begin = end = now = 0
    # Where connections take long, the warm-up does not.
    warm = clock() + max(orders["omit_s"], 1) * 1_000_000_000
    try:
        for made in range(allowed):
            sent = clock()
            if not end and (made == warm_up or sent >= warm):
                begin, end = sent, sent + orders["duration_s"] * 1_000_000_000
            if end and sent >= end:
                break
            with exchange.connect(address, orders) as connection:
                connection.sendall(request)
                exchange.receive_exactly(connection, view)
            now = clock()
            if end:
                latencies_ns.append(now - sent)
        else:
            used_up = True
    except OSError as error:
        done = f"{len(latencies_ns)} counted connections"
        raise Failed(exchange.broken(address, orders, error, done)) from error
    if used_up:
        say(
            f"{scenario['name']}: ends after {allowed:,} connections, its share of the {most:,} that this pod may "
            f"make, {MAX_PER_S} a second at most, so that neither ports nor connection tracking run out"
        )
    rr = exchange.summary(latencies_ns, (now - begin) / 1e9, size, [len(latencies_ns)])
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
    keeps_time=True,
)
