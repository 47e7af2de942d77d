"""What the request/response client makes of latencies."""

from __future__ import annotations

import array
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtcp_bench.in_cluster import exchange


@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=300))
def test_percentiles_are_those_of_the_sorted_list(latencies_ns: list[int]) -> None:
    summary = exchange.summary(array.array("Q", latencies_ns), 2.0, 80_000, [len(latencies_ns)])
    ordered = sorted(latencies_ns)
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)):
        exact_us = ordered[math.ceil(share * len(ordered)) - 1] / 1000
        assert summary["latency_us"][name] == pytest.approx(exact_us, abs=0.1)
    assert sum(count for _, count in summary["histogram"]) == len(latencies_ns)
    assert summary["transactions"] == len(latencies_ns)
    json.dumps(summary)


def test_a_summary_is_what_is_read() -> None:
    document = {"rr": exchange.summary(array.array("Q", range(1000, 90_000, 7)), 2.0, 80_000, [1])}
    assert exchange.latency("p99")(document) > exchange.latency("p50")(document) > 0
    assert exchange.per_second(document) == document["rr"]["transactions"] / 2
