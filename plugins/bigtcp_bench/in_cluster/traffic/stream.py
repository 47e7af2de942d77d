"""Bulk streams: as much as goes through, over some connections at once."""

from __future__ import annotations

from bigtcp_bench.in_cluster import iperf3
from bigtcp_bench.in_cluster.kind import Kind
from bigtcp_bench.in_cluster.output import Json


def _run(address: str, orders: Json, scenario: Json) -> Json:
    return iperf3.Client(address, orders, scenario).finish()


KIND = Kind(
    name="stream",
    scenarios={
        "stream-1": 1,
        "stream-8": 8,
        "stream-32": 32,
    },
    run=_run,
    problems=iperf3.problems,
    metrics={
        iperf3.THROUGHPUT: iperf3.throughput_bps,
        iperf3.RETRANSMITS: iperf3.retransmits_per_gb,
    },
    headline=iperf3.THROUGHPUT.name,
    needs_iperf3=True,
    fills_packets=True,
    should_gain=True,
)
