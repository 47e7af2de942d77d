"""The control on the lab: two pods in their nodes' own network namespaces, and nothing of them left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from bigtcp_bench.cluster import pods
from bigtcp_bench.cluster.api import POD, ClusterApi
from bigtcp_bench.cluster.nodes import choose_pair
from bigtcp_bench.errors import MeasurementFailed
from bigtcp_bench.measuring.control import measure_control
from bigtcp_bench.planning.plan import CONTROL, validate_plan
from bigtcp_lab.daemon import LabInfo

pytestmark = pytest.mark.lab

PLAN = validate_plan({"scenarios": "ipv4-stream-1", "duration_s": 1})
WHERE = {"run_key": "test/control", "block": 1, "arm": "off"}


@pytest.fixture
def api(lab: LabInfo) -> Iterator[ClusterApi]:
    api = ClusterApi.from_kubeconfig(lab.kubeconfig, away_s=20)
    pods.ensure_namespace(api)
    pods.ensure_agent_configmap(api)
    yield api
    pods.delete_pods(api)
    api.close()


def test_the_control_is_measured_between_the_nodes_and_leaves_no_pod(
    api: ClusterApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = choose_pair(api, PLAN)
    seen = []
    wait_ready, wait_ended = pods.wait_ready, pods.wait_ended

    def both(api: ClusterApi, name: str, timeout_s: float) -> object:
        assert len(api.select(POD, pods.BENCH_NAMESPACE, labels=pods.selector(pods.TRAFFIC_ROLES))) == 2
        return wait_ready(api, name, timeout_s)

    def look(api: ClusterApi, name: str, timeout_s: float) -> object:
        ended = wait_ended(api, name, timeout_s)
        seen.extend(api.select(POD, pods.BENCH_NAMESPACE, labels=f"{pods.ROLE_LABEL} in (server,client)"))
        return ended

    monkeypatch.setattr(pods, "wait_ready", both)
    monkeypatch.setattr(pods, "wait_ended", look)
    found = measure_control(api, PLAN, pair, **WHERE)
    values = {one.metric: one.value for one in found}
    assert {one.scenario for one in found} == {CONTROL}
    assert set(values) == {"transactions_per_s", "latency_p50_us", "latency_p90_us", "latency_p99_us"}
    assert values["transactions_per_s"] * values["latency_p50_us"] > 1e5
    addresses = {pod["metadata"]["labels"][pods.ROLE_LABEL]: pods.pod_addresses(pod)["ipv4"] for pod in seen}
    assert addresses == {"client": pair.client.internal_ips[0], "server": pair.server.internal_ips[0]}
    assert api.select(POD, pods.BENCH_NAMESPACE, labels=f"{pods.ROLE_LABEL} in (server,client)") == []


def test_nodes_without_a_common_family_have_no_control(api: ClusterApi) -> None:
    pair = choose_pair(api, PLAN)
    apart = replace(
        pair,
        client=replace(pair.client, internal_ips=("172.30.0.11",)),
        server=replace(pair.server, internal_ips=("fd30::12",)),
    )
    with pytest.raises(MeasurementFailed, match="nodes node1 and node2 have no InternalIP of the same family"):
        measure_control(api, PLAN, apart, **WHERE)
