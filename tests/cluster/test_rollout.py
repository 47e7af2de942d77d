from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import AppsV1Api, CoreV1Api

from bigtcp_bench.cluster.api import CONFIGMAP, POD, ClusterApi, Forbidden
from bigtcp_bench.cluster.nodes import choose_pair
from bigtcp_bench.cluster.rollout import config_written_at, observe
from bigtcp_bench.cluster.window import open_window
from bigtcp_bench.in_cluster import protocol
from bigtcp_bench.planning.plan import load_plan
from bigtcp_bench.resources import load_manifests
from bigtcp_lab.api.discovery import CILIUMNODECONFIGS, CONFIGMAPS, DAEMONSETS, NODES, PODS
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
    open_window(api, "bigtcp_benchmark/night 1", plan, choose_pair(api, plan))
    assert observe(api).unsettled == "bigtcp_benchmark/night 1 holds the cluster"
    # A run that was killed holds it only until its lease is over.
    cluster.time += 2 * protocol.LEASE_S
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


def report(cluster: Cluster, **numbers: int) -> None:
    """Let the DaemonSet's controller count its agents otherwise."""
    found = run(cluster.store.get(DAEMONSETS, "cilium", "kube-system"))
    found["status"].update(numbers)
    run(cluster.store.update(DAEMONSETS, found, "status"))


def set_ready(cluster: Cluster, node: str, ready: bool) -> None:
    found = run(cluster.store.get(NODES, node))
    next(item for item in found["status"]["conditions"] if item["type"] == "Ready")["status"] = str(ready)
    run(cluster.store.update(NODES, found, "status"))


def the_agent(cluster: Cluster, node: str) -> dict[str, Any]:
    (agent,) = run(cluster.store.list(PODS, "kube-system", None, f"spec.nodeName={node}"))
    return agent


def test_an_agent_on_a_dead_node_is_not_waited_for():
    cluster = Cluster()
    api = cluster.client()
    agent = the_agent(cluster, "node2")
    agent["metadata"]["labels"]["pod-template-generation"] = "0"
    run(cluster.store.update(PODS, agent))
    report(cluster, updatedNumberScheduled=1, numberAvailable=2)
    assert observe(api).unsettled == "1 of 2 agents are updated, 2 available"
    set_ready(cluster, "node2", ready=False)
    assert observe(api).unsettled == ""
    # Of a node that the benchmark measures on, the agent is.
    node = run(cluster.store.get(NODES, "node2"))
    node["metadata"]["labels"]["bigtcp-bench"] = "true"
    run(cluster.store.update(NODES, node))
    assert observe(api).unsettled == "1 of 2 agents are updated, 2 available"


def test_an_agent_that_is_not_available_is_waited_for_unless_its_node_is_dead():
    cluster = Cluster()
    api = cluster.client()
    agent = the_agent(cluster, "node1")
    agent["status"]["conditions"][0]["status"] = "False"
    run(cluster.store.update(PODS, agent, "status"))
    report(cluster, numberAvailable=1)
    assert observe(api).unsettled == "2 of 2 agents are updated, 1 available"
    set_ready(cluster, "node1", ready=False)
    assert observe(api).unsettled == ""


def test_an_agent_that_is_not_there_yet_is_waited_for():
    cluster = Cluster()
    report(cluster, desiredNumberScheduled=3)
    assert observe(cluster.client()).unsettled == "2 of 3 agents are updated, 2 available"


def test_a_spec_that_the_controller_has_not_seen_is_waited_for():
    cluster = Cluster()
    set_ready(cluster, "node2", ready=False)
    report(cluster, observedGeneration=0, updatedNumberScheduled=1)
    assert observe(cluster.client()).unsettled == "1 of 2 agents are updated, 2 available"


def test_an_old_agent_on_a_dead_node_does_not_hold_a_change_of_the_configuration_back():
    cluster = Cluster()
    api = cluster.client()
    set_ready(cluster, "node2", ready=False)
    cluster.time += 60
    wrote(cluster, cluster.time - 5)
    assert observe(api).unsettled == "2 of 2 agents were started before cilium-config was changed"
    api.delete(POD, the_agent(cluster, "node1")["metadata"]["name"], "kube-system")
    assert observe(api).unsettled == ""


def test_a_rollout_on_a_large_cluster_is_told_without_a_list_of_its_agents(monkeypatch: pytest.MonkeyPatch):
    cluster = Cluster()
    api = cluster.client()
    asked = []
    select = api.select

    def noted(kind, *args, **options):
        asked.append((kind.plural, options.get("metadata_only", False)))
        return select(kind, *args, **options)

    monkeypatch.setattr(api, "select", noted)
    report(cluster, desiredNumberScheduled=1000, updatedNumberScheduled=300, numberAvailable=998)
    assert observe(api).unsettled == "300 of 1000 agents are updated, 998 available"
    assert ("pods", False) not in asked
    assert ("pods", True) not in asked
    report(cluster, desiredNumberScheduled=2, updatedNumberScheduled=2, numberAvailable=2)
    assert observe(api).unsettled == ""
    assert [only for plural, only in asked if plural == "pods"] == [True]


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


@pytest.mark.lab
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
            (one, _) = api.select(POD, "kube-system", labels="k8s-app=cilium", metadata_only=True)
            assert one.keys() == {"kind", "apiVersion", "metadata"}
            assert one["metadata"]["labels"]["pod-template-generation"] == "1"
            container = {"name": "cilium-agent", "image": "quay.io/cilium/cilium:v1.18.4"}
            spec = {"updateStrategy": {"type": "OnDelete"}, "template": {"spec": {"containers": [container]}}}
            AppsV1Api(administrator).patch_namespaced_daemon_set("cilium", "kube-system", {"spec": spec})
            eventually(lambda: "0 of 2 agents are updated" in observe(api).unsettled)
            assert observe(api).fingerprint.image == "quay.io/cilium/cilium:v1.18.4"
            for pod in api.select(POD, "kube-system"):
                api.delete(POD, pod["metadata"]["name"], "kube-system")
            eventually(lambda: observe(api).unsettled == "")
            assert all(
                pod["metadata"]["labels"]["pod-template-generation"] == "2"
                for pod in api.select(POD, "kube-system")
            )
