"""A real Prometheus, with a real node_exporter, is asked about the blocks of a run.

Cilium's counters, which no real Cilium serves here, and a device with traffic come from files in ``exposition/``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bigtcp_bench.monitoring.collect import collect
from bigtcp_bench.monitoring.queries import load_queries
from bigtcp_bench.monitoring.settings import PrometheusSettings
from bigtcp_bench.warehouse.store import Warehouse
from tests.monitoring.servers import (
    SCRAPE_MS,
    growing_counters,
    node_exporter,
    prometheus,
    until,
)
from tests.support.nights import add_night

pytestmark = pytest.mark.prometheus

LENGTH = timedelta(seconds=4)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prometheus that names the node ``node1``, as a relabelling does, and Cilium's agent by its address."""
    folder = tmp_path_factory.mktemp("prometheus")
    with node_exporter(folder) as node, growing_counters() as files:
        node1 = {"instance": "node1"}
        jobs = [
            {"job_name": "node", "static_configs": [{"targets": [node], "labels": node1}]},
            {
                "job_name": "devices",
                "metrics_path": "/devices.prom",
                "static_configs": [{"targets": [files], "labels": node1}],
            },
            {"job_name": "cilium", "metrics_path": "/cilium.prom", "static_configs": [{"targets": [files]}]},
        ]
        with prometheus(folder, jobs) as url:
            yield url


def store_block(warehouse: Warehouse, run: int, block: int, end: datetime) -> None:
    arm = "on" if block == 2 else "off"
    moments = {"started_at": end - LENGTH, "finished_at": end}
    warehouse.store_block(run, {"block": block, "arm": arm, **moments})


def test_the_window_of_a_block_is_asked_for_and_stored(server, warehouse):
    run = add_night(warehouse, 0)
    settings = PrometheusSettings(url=server, scrape_interval_s=SCRAPE_MS / 1000)
    wanted = {query.name for query in load_queries()}

    def complete() -> list[str] | None:
        # The newest seconds, until Prometheus has scraped as long.
        store_block(warehouse, run, 1, datetime.now(UTC))
        lines = collect(warehouse, run, [1, 2], ["node1", "127.0.0.1"], "lab", lambda: settings)
        found = warehouse.prometheus_frame(run)
        return lines if set(found["query"]) == wanted and found["samples"].min() >= 4 else None

    lines = until(complete, "all queries")
    assert lines == ["Prometheus: 7 figures of 7 series stored"]
    found = warehouse.prometheus_frame(run).set_index(["query", "series"])
    assert set(found["block"]) == {1}
    assert set(found["arm"]) == {"off"}
    assert (found["lowest"] <= found["mean"]).all()
    assert (found["mean"] <= found["highest"]).all()
    bytes_of = {
        json.loads(series)["direction"]: row for series, row in found.loc["forwarded_bytes_per_s"].iterrows()
    }
    # As the file says; scrapes of a busy machine come early and late.
    assert bytes_of["EGRESS"]["mean"] == pytest.approx(4e9, rel=0.3)
    assert bytes_of["INGRESS"]["mean"] == pytest.approx(2e9, rel=0.3)
    assert bytes_of["EGRESS"]["unit"] == "B/s"
    node1 = '{"instance": "node1"}'
    assert found.loc[("memory_used_share", node1), "mean"] == pytest.approx(_memory_used_share(), abs=0.2)
    # At most all CPUs, over four gigabytes a second and more where the machine has traffic of its own.
    assert 0 < found.loc[("cpu_s_per_gb", node1), "mean"] < 100
    # Few packets may take less than a tick of the clock by which CPU time is counted.
    assert 0 <= found.loc[("softirq_s_per_packet", node1), "mean"] < 1


def _memory_used_share() -> float:
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available, total = (float(lines[name].split()[0]) for name in ("MemAvailable", "MemTotal"))
    return 1 - available / total


def test_what_prometheus_does_not_know_is_said_and_missing(server, warehouse):
    run = add_night(warehouse, 0)
    store_block(warehouse, run, 1, datetime.now(UTC))
    store_block(warehouse, run, 2, datetime.now(UTC))
    settings = PrometheusSettings(url=server, scrape_interval_s=SCRAPE_MS / 1000)
    lines = collect(warehouse, run, [1, 2], ["node7"], "lab", lambda: settings)
    assert lines[-1] == "Prometheus: 0 figures of 0 series stored"
    assert lines[:-1] == [f"Prometheus has no {query.name} of block 1, 2" for query in load_queries()]
    assert warehouse.prometheus_frame(run).empty


def test_every_query_is_promql_for_any_node_and_cluster(server, warehouse):
    run = add_night(warehouse, 0)
    store_block(warehouse, run, 1, datetime.now(UTC))
    nodes = ["ip-10-0-0-1.eu.compute.internal", "10.0.0.1", "fd00::1", "gke-a_b+c"]
    settings = PrometheusSettings(
        url=server, scrape_interval_s=SCRAPE_MS / 1000, node_label="node", cluster_label="cluster"
    )
    lines = collect(warehouse, run, [1], nodes, 'a "quoted" cluster', lambda: settings)
    # What is no PromQL would be refused instead.
    assert lines[:-1] == [f"Prometheus has no {query.name} of block 1" for query in load_queries()]
