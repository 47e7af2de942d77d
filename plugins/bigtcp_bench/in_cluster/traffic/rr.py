"""Request/response: one connection, one request at a time, each answered by as many bytes."""

from __future__ import annotations

from collections.abc import Iterator

from bigtcp_bench.in_cluster import exchange
from bigtcp_bench.in_cluster.kind import Kind, too_short
from bigtcp_bench.in_cluster.output import Json


def problems(document: Json, orders: Json, scenario: Json) -> Iterator[str]:
    """Yield why no sound requests and responses were counted for as long as ordered. May raise Unreadable."""
    yield from exchange.problems(document, orders, scenario)
    yield from too_short(exchange.result_at(document, "seconds"), orders)


KIND = Kind(
    name="rr",
    scenarios={"rr": 1},
    run=exchange.exchange,
    problems=problems,
    metrics={
        exchange.TRANSACTIONS: exchange.per_second,
        exchange.P50: exchange.latency("p50"),
        exchange.P90: exchange.latency("p90"),
        exchange.P99: exchange.latency("p99"),
    },
    headline=exchange.TRANSACTIONS.name,
    terms=("request_bytes",),
    should_gain=True,
)
