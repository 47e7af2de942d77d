"""Small requests beside a bulk stream between the same two pods: whether large packets cost others their time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from bigtcp_bench.in_cluster import exchange, iperf3
from bigtcp_bench.in_cluster.output import Failed, Json
from bigtcp_bench.in_cluster.traffic import small_rr


def _run(address: str, orders: Json, scenario: Json) -> Json:
    """Run both at once: the requests begin first to be counted and end first, so that all have company."""
    stream = iperf3.Client(address, orders, scenario)
    try:
        seen = exchange.exchange(address, orders, scenario)
    except BaseException:
        stream.stop()
        raise
    try:
        return {**stream.finish(look=False), **seen}
    except Failed as failure:
        raise Failed(f"the stream beside the requests: {failure}", {**failure.seen, **seen}) from failure


def _problems(document: Json, orders: Json, scenario: Json) -> Iterator[str]:
    yield from small_rr.KIND.problems(document, orders, scenario)
    yield from iperf3.problems(document, orders, scenario)


KIND = dataclasses.replace(
    small_rr.KIND,
    name="loaded-rr",
    scenarios={"loaded-rr": 1},
    run=_run,
    problems=_problems,
    metrics={**small_rr.KIND.metrics, iperf3.THROUGHPUT: iperf3.throughput_bps},
    headline=exchange.P99.name,
    needs_iperf3=True,
)
