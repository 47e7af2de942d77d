"""Small requests: what fits into one ordinary packet, whatever the limits are, and so must not get slower."""

from __future__ import annotations

import dataclasses

from bigtcp_bench.in_cluster import exchange
from bigtcp_bench.in_cluster.kind import Metric
from bigtcp_bench.in_cluster.traffic import rr

REQUEST_BYTES = 1_000

P999 = Metric("latency_p999_us", "us", "lower", "latency p99.9")

KIND = dataclasses.replace(
    rr.KIND,
    name="small-rr",
    scenarios={"small-rr": 1},
    metrics={**rr.KIND.metrics, P999: exchange.latency("p999")},
    terms=(),
    request_bytes=REQUEST_BYTES,
    should_gain=False,
)
