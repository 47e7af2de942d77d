"""A stream at a fixed rate: what it costs is compared at equal load."""

from __future__ import annotations

from collections.abc import Iterator

from bigtcp_bench.in_cluster import iperf3
from bigtcp_bench.in_cluster.kind import Kind
from bigtcp_bench.in_cluster.output import Json

#: A fixed-rate stream below this share of its rate did not run at equal load.
MIN_RATE_SHARE = 0.9


def _run(address: str, orders: Json, scenario: Json) -> Json:
    each_bps = orders["rate_bps"] // scenario["streams"]
    return iperf3.Client(address, orders, scenario, "-b", str(each_bps)).finish()


def _problems(document: Json, orders: Json, scenario: Json) -> Iterator[str]:
    yield from iperf3.problems(document, orders, scenario)
    reached_bps, rate_bps = iperf3.throughput_bps(document), orders["rate_bps"]
    if reached_bps < MIN_RATE_SHARE * rate_bps:
        yield (
            f"the stream reached {reached_bps / 1e6:,.0f} of the ordered {rate_bps / 1e6:,.0f} Mbit/s, so its CPU "
            "cost is not at equal load; order a lower rate_bps"
        )


KIND = Kind(
    name="rate",
    scenarios={"rate": 1},
    run=_run,
    problems=_problems,
    metrics={iperf3.RETRANSMITS: iperf3.retransmits_per_gb},
    headline="cpu_s_per_gb_sender",
    terms=("rate_bps",),
    needs_iperf3=True,
    should_gain=True,
)
