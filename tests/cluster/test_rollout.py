from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from kubernetes.client import AppsV1Api, CoreV1Api

from bigtcp_bench.cluster import guard
from bigtcp_bench.cluster.api import CONFIGMAP, POD, ClusterApi, Forbidden
from bigtcp_bench.cluster.nodes import choose_pair
from bigtcp_bench.cluster.rollout import config_written_at, observe
from bigtcp_bench.lab.api.discovery import CILIUMNODECONFIGS, CONFIGMAPS
from bigtcp_bench.plan import load_plan
from bigtcp_bench.resources import load_manifests
from tests.cluster.simulated import Cluster, run
from tests.lab.api_cluster import ApiCluster
from tests.lab.helpers import eventually

HELM = {"manager": "helm", "operation": "Update", "fieldsV1": {"f:data": {"f:routing-mode": {}, "f:debug": {}}}}


def wrote(cluster: Cluster, time: float, **entry: object) -> None:
    """Let somebody have written ``cilium-config`` at ``time``, as the API server notes it."""
    config = cluster.store._find(CONFIGMAPS, "cilium-config", "kube-system")
    moment = f"{datetime.fromtimestamp(int(time), UTC):%FT%TZ}"
    config["metadata"].setdefault("managedFields", []).append({**HELM, "time": moment, **entry})


def test_a_quiet_cluster_is_at_rest():
    found = observe(Cluster().client())
    assert found.unsettled == ""
    assert found.fingerprint.image == "quay.io/cilium/cilium:v1.18.3"
    assert found.fingerprint.config["routing-mode"] == "native"
    assert found.fingerprint.config["mtu"] is None


def test_a_benchmark_that_holds_the_cluster_is_waited_for():
    cluster = Cluster()
    api = cluster.client()
    plan = load_plan("quick")
    guard.open_window(api, "bigtcp_benchmark/night 1", plan, choose_pair(api, plan))
    assert observe(api).unsettled == "bigtcp_benchmark/night 1 holds the cluster"
    # A run that was killed holds it only until its lease is over.
    cluster.time += 2 * guard.LEASE_S
    assert observe(api).unsettled == ""


def test_a_configuration_that_no_agent_has_read_yet_is_waited_for():
    cluster = Cluster()
    api = cluster.client()
    wrote(cluster, cluster.time - 60)
    assert observe(api).unsettled == ""
    cluster.time += 60
    wrote(cluster, cluster.time - 5)
    assert observe(api).unsettled == "2 of 2 agents were started before cilium-config was changed"
    for pod in api.select(POD, "kube-system"):
        api.delete(POD, pod["metadata"]["name"], "kube-system")
    assert observe(api).unsettled == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"f:data": {"f:debug": {}}},
        {"f:data": {"f:enable-ipv4-big-tcp": {}, "f:enable-ipv6-big-tcp": {}}},
        {"f:metadata": {"f:annotations": {}}},
        {},
    ],
)
def test_what_does_not_concern_the_datapath_needs_no_restart(fields):
    cluster = Cluster()
    wrote(cluster, cluster.time + 60, fieldsV1=fields)
    assert observe(cluster.client()).unsettled == ""


def test_a_node_configuration_is_a_change_once_the_agents_of_its_nodes_have_read_it():
    cluster = Cluster()
    api = cluster.client()
    nodes = ["node1", "node2"]
    before = observe(api, nodes).fingerprint
    assert before == observe(api).fingerprint
    cluster.time += 60
    body = {
        "metadata": {"name": "site", "namespace": "kube-system"},
        "spec": {
            "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "node2"}},
            "defaults": {"enable-bandwidth-manager": "true"},
        },
    }
    run(cluster.store.create(CILIUMNODECONFIGS, body))
    entry = {
        "manager": "kubectl",
        "time": f"{datetime.fromtimestamp(int(cluster.time), UTC):%FT%TZ}",
        "fieldsV1": {"f:spec": {"f:defaults": {"f:enable-bandwidth-manager": {}}}},
    }
    cluster.store._find(CILIUMNODECONFIGS, "site", "kube-system")["metadata"]["managedFields"] = [entry]
    found = observe(api, nodes)
    assert [str(item) for item in before.differences(found.fingerprint)] == [
        "enable-bandwidth-manager not set → not set on node1, true on node2"
    ]
    assert found.unsettled == "the agent on node2 was started before CiliumNodeConfig site was changed"
    cluster.time += 5
    for pod in api.select(POD, "kube-system"):
        api.delete(POD, pod["metadata"]["name"], "kube-system")
    assert observe(api, nodes).unsettled == ""
    assert observe(api, ["node1"]) == observe(api, ["no longer there"]) == observe(api)
    assert observe(api, ["node1"]).fingerprint == before


def test_the_last_writer_counts():
    entries = [{**HELM, "time": "2026-01-02T00:00:00Z"}, {**HELM, "time": "2026-01-01T00:00:00Z"}]
    assert config_written_at({"metadata": {"managedFields": entries}}) == "2026-01-02T00:00:00Z"
    assert config_written_at({"metadata": {}}) == ""


def test_the_rights_of_the_benchmark_are_enough_and_a_rollout_is_seen(tmp_path: Path):
    with ApiCluster(tmp_path, rbac_on=True) as cluster, cluster.client() as administrator:
        for name in ("namespace.yaml", "rbac.yaml"):
            for obj in load_manifests(name):
                cluster.create(obj)
        token = CoreV1Api(administrator).create_namespaced_service_account_token(
            "bigtcp-bench", "bigtcp-bench", {"spec": {"audiences": None}}
        )
        with contextlib.closing(ClusterApi(cluster.client(token.status.token))) as api:
            with pytest.raises(Forbidden):
                api.patch(CONFIGMAP, "cilium-config", {"data": {"debug": "true"}}, "kube-system")
            assert observe(api).unsettled == ""
            container = {"name": "cilium-agent", "image": "quay.io/cilium/cilium:v1.18.4"}
            spec = {"updateStrategy": {"type": "OnDelete"}, "template": {"spec": {"containers": [container]}}}
            AppsV1Api(administrator).patch_namespaced_daemon_set("cilium", "kube-system", {"spec": spec})
            eventually(lambda: "0 of 2 agents are updated" in observe(api).unsettled)
            assert observe(api).fingerprint.image == "quay.io/cilium/cilium:v1.18.4"
            for pod in api.select(POD, "kube-system"):
                api.delete(POD, pod["metadata"]["name"], "kube-system")
            eventually(lambda: observe(api).unsettled == "")
