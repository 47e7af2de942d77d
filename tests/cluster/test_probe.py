"""Looks at both nodes that were begun before anybody asks for them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from bigtcp_bench.cluster import pods, probe
from bigtcp_bench.planning.plan import load_plan
from bigtcp_lab.api.discovery import PODS
from tests.cluster.simulated import Cluster, run

PLAN = load_plan("quick")
NODES = ("node1", "node2")
LABELS = {"bigtcp-bench/run": "a", "bigtcp-bench/look": "end-2"}


def aged(seconds: float) -> Callable[[Cluster, dict[str, Any]], None]:
    def change(cluster: Cluster, pod: dict[str, Any]) -> None:
        made = datetime.fromtimestamp(int(cluster.time) - seconds, UTC)
        pod["metadata"]["creationTimestamp"] = f"{made:%FT%TZ}"

    return change


def failed(_cluster: Cluster, pod: dict[str, Any]) -> None:
    pod["status"]["phase"] = "Failed"


def of_another_block(_cluster: Cluster, pod: dict[str, Any]) -> None:
    pod["metadata"]["labels"]["bigtcp-bench/look"] = "end-1"


@pytest.mark.parametrize(
    ("change", "taken"),
    [(aged(5), True), (aged(probe.PREPARED_S), False), (failed, False), (of_another_block, False)],
)
def test_a_look_that_was_begun_before_is_taken_while_it_is_of_use(
    change: Callable[[Cluster, dict[str, Any]], None], taken: bool
) -> None:
    cluster = Cluster()
    api = cluster.client()
    pods.ensure_namespace(api)
    pods.ensure_agent_configmap(api)
    probe.prepare(api, PLAN, NODES, LABELS)
    names = set()
    for pod in run(cluster.store.list(PODS, "bigtcp-bench")):
        names.add(pod["metadata"]["name"])
        kept = cluster.store._find(PODS, pod["metadata"]["name"], "bigtcp-bench")
        aged(0)(cluster, kept)
        if pods.node_of(pod) == "node2":
            change(cluster, kept)
    made = api.changes
    with probe.probing(api, PLAN, NODES, prepared=LABELS) as collect:
        assert collect().keys() == set(NODES)
        assert api.changes == made + (not taken), "only what is missing is made"
    left = {pod["metadata"]["name"] for pod in run(cluster.store.list(PODS, "bigtcp-bench"))}
    assert len(left) == (not taken), "what was not taken ends by itself"
    assert left <= names


def test_nobody_takes_a_look_that_was_not_meant_for_it() -> None:
    cluster = Cluster()
    api = cluster.client()
    pods.ensure_namespace(api)
    pods.ensure_agent_configmap(api)
    probe.prepare(api, PLAN, NODES, LABELS)
    made = api.changes
    probe.probe_nodes(api, PLAN, NODES)
    assert api.changes == made + 4
    assert len(run(cluster.store.list(PODS, "bigtcp-bench"))) == 2
    probe.discard(api, LABELS)
    assert run(cluster.store.list(PODS, "bigtcp-bench")) == []
