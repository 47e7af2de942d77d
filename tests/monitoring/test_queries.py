"""The file of queries: what may stand in it, and what a query is for given nodes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.monitoring.queries import Query, filled_in, load_queries
from bigtcp_bench.monitoring.settings import PrometheusSettings

GOOD = {"name": "a", "unit": "s", "promql": "sum by ($node) (rate(x_total{$nodes}[$window]))", "says": "x"}
#: What exists: in Cilium 1.16 and newer, and in node_exporter with its default collectors.
CILIUM = {"cilium_forward_bytes_total", "cilium_forward_count_total"}
NODE = {
    "node_cpu_seconds_total",
    "node_network_receive_bytes_total",
    "node_network_transmit_bytes_total",
    "node_softnet_processed_total",
    "node_memory_MemAvailable_bytes",
    "node_memory_MemTotal_bytes",
}


def written(folder: Path, text: str) -> Path:
    path = folder / "queries.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_queries_of_the_package_name_metrics_that_exist():
    queries = load_queries()
    assert [query.name for query in queries] == [
        "forwarded_bytes_per_s",
        "forwarded_packets_per_s",
        "cpu_s_per_gb",
        "softirq_s_per_packet",
        "memory_used_share",
    ]
    named = {name for query in queries for name in re.findall(r"\b((?:cilium|node)_\w+)(?=\{)", query.promql)}
    assert named == CILIUM | NODE


def test_no_rate_reaches_over_more_than_the_window():
    for query in load_queries():
        assert set(re.findall(r"\[([^\]]+)\]", query.promql)) <= {"$window"}


def test_nodes_are_found_by_name_and_address_with_any_port():
    query = Query.model_validate(GOOD)
    promql = filled_in(query, ["node1.example", "10.0.0.1", "fd00::1"], "lab", PrometheusSettings(url="http://p"))
    matched = re.fullmatch(r'sum by \(instance\) \(rate\(x_total\{instance=~"(.*)"\}\[120s\]\)\)', promql)
    assert matched
    # Prometheus anchors its patterns; those of a string have their backslashes twice.
    pattern = re.compile(matched[1].replace("\\\\", "\\"))
    for instance in ("node1.example", "node1.example:9100", "10.0.0.1:9962", "[fd00::1]:9100", "fd00::1"):
        assert pattern.fullmatch(instance), instance
    for instance in ("node1xexample", "node10.example", "10.0.0.11:9100", "node1.example:http", "110.0.0.1"):
        assert not pattern.fullmatch(instance), instance


def test_other_labels_and_clusters():
    query = Query.model_validate(GOOD | {"promql": "x{$nodes}"})
    settings = PrometheusSettings(url="http://p", node_label="node", cluster_label="cluster")
    promql = filled_in(query, ["n"], 'a"b\\', settings)
    assert promql.endswith(r', cluster="a\"b\\"}')
    assert promql.startswith('x{node=~"')


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"promql": "rate(x[5m])"}, "must have $nodes in it"),
        ({"promql": "x{$nodes} / $other"}, "no placeholder but $nodes, $node, $window"),
        ({"promql": "x{$nodes} $"}, "no placeholder but"),
        ({"name": "Näme"}, "0.name"),
        ({"unit": "furlong"}, "0.unit = 'furlong'"),
        ({"colour": "red"}, "0.colour = 'red': is not a known field"),
    ],
)
def test_what_is_wrong_in_the_file_is_one_sentence(tmp_path, change, words):
    path = written(tmp_path, yaml.safe_dump([GOOD | change]))
    with pytest.raises(InvalidInput) as caught:
        load_queries(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_are_unique_and_files_are_yaml(tmp_path):
    with pytest.raises(InvalidInput, match="name = 'a': a query may be there only once"):
        load_queries(written(tmp_path, yaml.safe_dump([GOOD, GOOD])))
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_queries(written(tmp_path, "a: [b"))
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_queries(tmp_path / "none.yaml")
