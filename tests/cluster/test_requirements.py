"""Each requirement, on a simulated cluster changed in one way, and the sentence it gives."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest

from bigtcp_bench.cluster import pods, requirements, restore
from bigtcp_bench.cluster.api import DAEMONSET, SETTLED_S, _problem
from bigtcp_bench.cluster.checks import Check, refuse_failed
from bigtcp_bench.cluster.nodes import choose_pair
from bigtcp_bench.cluster.window import open_window
from bigtcp_bench.errors import PreconditionFailed
from bigtcp_bench.in_cluster import protocol
from bigtcp_bench.planning.plan import validate_plan
from bigtcp_bench.resources import load_manifest
from bigtcp_lab.api.discovery import CILIUMNODECONFIGS, CONFIGMAPS, DAEMONSETS, NETWORKPOLICIES, NODES, PODS

from .simulated import Client, Cluster, dies_everywhere, run

RUN = "bigtcp_benchmark/manual"


def checks(cluster: Cluster, api: Client | None = None, **plan: Any) -> dict[tuple[str, str], Check]:
    api = api or cluster.client()
    the_plan = validate_plan({"scenarios": "ipv4-stream-1,ipv6-rr", **plan})
    pair = choose_pair(api, the_plan)
    return {(item.name, item.node): item for item in requirements.preflight(api, the_plan, pair).checks}


def change(cluster: Cluster, resource: Any, name: str, namespace: str | None, edit: Any) -> None:
    found = run(cluster.store.get(resource, name, namespace))
    edit(found)
    run(cluster.store.update(resource, found))
    cluster.reconcile()


def test_a_good_cluster_passes_and_nothing_is_changed() -> None:
    cluster = Cluster()
    before = cluster.state()
    found = checks(cluster)
    assert {item.status for item in found.values()} == {"pass", "warn"}
    assert {item.name for item in found.values() if item.status == "warn"} == {"device", "nodes alike"}
    refuse_failed(list(found.values()))
    assert cluster.state() == before


def test_agents_that_have_not_followed_their_configuration_are_named_unless_a_restore_comes_first() -> None:
    cluster = Cluster()
    values = {"enable-ipv4-big-tcp": "true", "enable-ipv6-big-tcp": "false"}
    change(cluster, CONFIGMAPS, "cilium-config", "kube-system", lambda found: found["data"].update(values))
    line = checks(cluster)["settings", "node2"]
    assert line.status == "fail"
    assert line.found == (
        "the agent runs with BIG TCP off for ipv4 and off for ipv6, but its configuration now says on for ipv4 "
        "and off for ipv6"
    )
    assert line.advice.startswith("restart Cilium's agents first")
    label = {protocol.WINDOW: "w"}
    change(cluster, NODES, "node1", None, lambda found: found["metadata"]["labels"].update(label))
    assert ("settings", "node2") not in checks(cluster)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--deny-config-keys=x,enable-ipv6-big-tcp"], "fail", "enable-ipv6-big-tcp may not be overridden"),
        (["--allow-config-keys", "enable-ipv4-big-tcp"], "fail", "enable-ipv6-big-tcp is not among"),
        (["--allow-config-keys=enable-ipv4-big-tcp,enable-ipv6-big-tcp"], "pass", "both keys"),
        (["--source=config-map:cilium-config"], "fail", "the sources are config-map:cilium-config"),
        (["--source", "config-map:a,cilium-node-config:kube-system"], "pass", "both keys"),
        (["--source", "config-map:a,cilium-node-config:other"], "fail", "the sources are config-map:a"),
    ],
)
def test_restrictions_of_the_init_container(arguments: list[str], status: str, words: str) -> None:
    cluster = Cluster()

    def edit(found: Any) -> None:
        containers = found["spec"]["template"]["spec"]["initContainers"]
        next(item for item in containers if item["name"] == "config")["args"] = arguments

    change(cluster, DAEMONSETS, "cilium", "kube-system", edit)
    found = checks(cluster)["config overrides", ""]
    assert (found.status, words in found.found) == (status, True)


@pytest.mark.parametrize(
    ("tag", "tunnel", "name", "status"),
    [
        ("v1.19.4", True, "tunnel devices", "fail"),
        ("v1.19.4", False, "tunnel devices", "pass"),
        ("v1.19.6", True, "tunnel devices", "warn"),
        ("v1.12.1", False, "Cilium version", "fail"),
        ("v1.13.4", False, "Cilium version", "fail"),
    ],
)
def test_known_bad_releases(tag: str, tunnel: bool, name: str, status: str) -> None:
    cluster = Cluster()

    def edit(found: Any) -> None:
        for container in found["spec"]["template"]["spec"]["containers"]:
            container["image"] = f"quay.io/cilium/cilium:{tag}"

    change(cluster, DAEMONSETS, "cilium", "kube-system", edit)
    cluster.extra_status = {"cilium": {"msg": f"{tag.removeprefix('v')} ({tag}-abc)"}}
    api = cluster.client()
    if tunnel:
        devices = cluster.extra_devices
        devices["cilium_vxlan"] = {"index": 7, "kind": "vxlan", "gso_max_size": 65536}
    found = checks(cluster, api)
    node = "node1" if name == "tunnel devices" else ""
    assert found[name, node].status == status


@pytest.mark.parametrize(
    ("status", "name", "verdict"),
    [
        (
            {"routing": {"inter-host-routing-mode": "Tunnel", "intra-host-routing-mode": "BPF"}},
            "routing mode",
            "fail",
        ),
        (
            {"routing": {"inter-host-routing-mode": "Native", "intra-host-routing-mode": "Legacy"}},
            "host routing",
            "fail",
        ),
        ({"encryption": {"mode": "Wireguard"}}, "encryption", "fail"),
        ({"datapath-mode": "netkit"}, "datapath mode", "pass"),
        ({"kube-proxy-replacement": {"mode": "False"}}, "kube-proxy replacement", "warn"),
        ({"masquerading": {"enabled": True, "mode": "IPTables"}}, "masquerading", "warn"),
    ],
)
def test_what_the_agent_says(status: dict[str, Any], name: str, verdict: str) -> None:
    cluster = Cluster()
    cluster.extra_status = status
    assert checks(cluster)[name, "node2"].status == verdict


def test_limits_set_by_hand_would_be_lost() -> None:
    cluster = Cluster()
    cluster.nodes["node2"].limits["gro_max_size"] = 32768
    found = checks(cluster)
    assert found["limits", "node2"].status == "fail"
    with pytest.raises(
        PreconditionFailed, match=r"node node2: limits: eth0: gro_max_size is 32768 .* set by hand"
    ):
        refuse_failed(list(found.values()))


def test_a_node_config_that_would_win_over_ours() -> None:
    cluster = Cluster()
    body = {
        "metadata": {"name": "zzz", "namespace": "kube-system"},
        "spec": {"nodeSelector": {}, "defaults": {"enable-ipv4-big-tcp": "false"}},
    }
    run(cluster.store.create(CILIUMNODECONFIGS, body))
    assert checks(cluster)["node config", "node1"].status == "fail"


@pytest.mark.parametrize(("scope", "status"), [("nodes", "warn"), ("cluster", "fail")])
def test_gitops_would_undo_a_change_of_the_config_map(scope: str, status: str) -> None:
    cluster = Cluster()

    def edit(found: Any) -> None:
        found["metadata"]["labels"]["argocd.argoproj.io/instance"] = "cilium"

    change(cluster, CONFIGMAPS, "cilium-config", "kube-system", edit)
    found = checks(cluster, scope=scope)["managed by", ""]
    assert (found.status, "Argo CD" in found.found) == (status, True)


def test_a_cluster_in_use_and_one_left_behind() -> None:
    cluster = Cluster()
    api = cluster.client()
    plan = validate_plan({"scenarios": "ipv4-stream-1"})
    open_window(api, "other/run", plan, choose_pair(api, plan))
    found = checks(cluster)
    assert (found["lease", ""].status, "other/run" in found["lease", ""].found) == ("fail", True)
    cluster.time += protocol.LEASE_S + 1
    found = checks(cluster)
    assert found["lease", ""].status == "pass"
    assert found["leftovers", ""].status == "warn"


@pytest.mark.parametrize("moment", ["before", "after"])
def test_whoever_comes_next_deletes_the_pods_of_a_check_that_died(moment: str) -> None:
    cluster = Cluster()
    plan = validate_plan({"scenarios": "ipv4-stream-1"})
    victim = cluster.client()
    pair = choose_pair(victim, plan)
    checked = functools.partial(requirements.preflight, victim, plan, pair, holder=RUN)
    *left, finished = dies_everywhere(victim, moment, checked)
    ended = 0
    for dead in left:
        api = dead.client()
        assert restore.leftovers(api) == [], "somebody may still be waiting for them"
        dead.time += pods.FORGOTTEN_S + 1
        ended += bool(restore.leftovers(api))
        requirements.put_back_abandoned(api, "next/run", progress=print)
        assert restore.leftovers(api) == []
    assert ended
    assert pods.forgotten(finished.client()) == []


def test_nothing_is_looked_at_while_another_run_measures() -> None:
    cluster = Cluster()
    api = cluster.client()
    plan = validate_plan({"scenarios": "ipv4-rr"})
    pair = choose_pair(api, plan)
    open_window(api, "other/run", plan, pair)
    visitor = cluster.client()
    found = requirements.preflight(visitor, plan, pair, holder="mine/run")
    assert (found.probes, found.complete, visitor.changes) == ({}, False, 0)
    with pytest.raises(
        PreconditionFailed, match=r"the cluster is held by other/run \(renewed .* only one run at a time"
    ):
        requirements.refuse_held(visitor, "mine/run")
    requirements.refuse_held(visitor, "other/run")
    cluster.time += protocol.LEASE_S + 1
    requirements.refuse_held(visitor, "mine/run")


def test_nodes_that_are_not_there_are_named() -> None:
    plan = validate_plan({"scenarios": "ipv4-rr", "client_node": "node9", "server_node": "node1"})
    words = "client_node 'node9' does not exist in this cluster; its nodes are node1, node2"
    with pytest.raises(PreconditionFailed, match=words):
        choose_pair(Cluster().client(), plan)


def test_without_pods_nothing_is_created() -> None:
    cluster = Cluster()
    api = cluster.client()
    plan = validate_plan({"scenarios": "ipv4-rr,ipv6-rr"})
    found = requirements.preflight(api, plan, choose_pair(api, plan), with_pods=False)
    assert api.changes == 0
    names = {check.name for check in found.checks}
    assert {"Cilium version", "rights", "host routing", "choice of nodes"} <= names
    assert not names & {"kernel, ipv4", "device", "memory", "load", "tunnel devices", "pod to pod, ipv4"}
    for word in ("kernels", "devices", "memory", "load", "ipv4 and ipv6"):
        assert word in requirements.unknown_without_pods(plan)


def test_pods_that_do_not_reach_each_other() -> None:
    cluster = Cluster()
    cluster.unreachable = {"ipv6": "cannot reach fd44::9 port 5203 over ipv6: timed out"}
    found = checks(cluster)
    assert found["pod to pod, ipv4", ""].status == "pass"
    assert (found["pod to pod, ipv6", ""].status, "timed out" in found["pod to pod, ipv6", ""].found) == (
        "fail",
        True,
    )
    assert run(cluster.store.list(PODS, "bigtcp-bench")) == []


def test_pods_that_are_made_after_an_outage_are_given_time_to_reach_each_other() -> None:
    cluster = Cluster()
    api, plan = cluster.client(), validate_plan({"scenarios": "ipv4-rr"})
    for away in (False, True):
        if away:
            api._outage_at = cluster.time
        began = cluster.time
        requirements.preflight(api, plan, choose_pair(api, plan))
        assert (cluster.time - began > SETTLED_S - 10) is away


def test_pods_that_a_default_deny_policy_keeps_apart_end_in_one_sentence() -> None:
    cluster = Cluster()
    cluster.unreachable = {"ipv4": "cannot reach 10.244.0.9 port 5203 over ipv4: timed out"}

    class Denying(Client):
        denied = 7

        def exec(self, namespace: str, pod: str, container: str, argv: Any) -> str:
            if list(argv[1:3]) == ["bpf", "metrics"]:
                Denying.denied += 2
                return json.dumps([{"reason": "Policy denied", "direction": "INGRESS", "packets": Denying.denied}])
            return super().exec(namespace, pod, container, argv)

    line = checks(cluster, Denying(cluster))["pod to pod, ipv4", ""]
    assert line.found.endswith("Cilium on node2 dropped 4 packets meanwhile: Policy denied")
    assert "kubectl apply -f include/manifests/networkpolicy.yaml" in line.advice


def test_a_network_policy_that_is_missing_is_only_said() -> None:
    cluster = Cluster()
    run(cluster.store.delete(NETWORKPOLICIES, "bigtcp-bench", "bigtcp-bench"))
    line = checks(cluster)["network policy", ""]
    assert (line.status, "every pod of the cluster" in line.found) == ("warn", True)
    assert "networkpolicy.yaml" in line.advice


def test_the_shipped_policy_lets_benchmark_pods_reach_each_other_and_nobody_else() -> None:
    policy = load_manifest("networkpolicy.yaml")
    labels = load_manifest("server-pod.yaml")["metadata"]["labels"].items()
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    (rule,), (way_out,) = policy["spec"]["ingress"], policy["spec"]["egress"]
    assert rule["from"] == way_out["to"] == [{"podSelector": policy["spec"]["podSelector"]}]
    served = {port["containerPort"] for port in load_manifest("server-pod.yaml")["spec"]["containers"][0]["ports"]}
    assert {port["port"] for port in rule["ports"]} == {port["port"] for port in way_out["ports"]} == served
    assert policy["metadata"]["name"] == pods.POLICY_NAME


def test_an_image_that_cannot_run_is_one_line() -> None:
    cluster = Cluster()
    api = cluster.client()

    def fail(pod: Any) -> None:
        pod["status"] = {"phase": "Failed", "reason": "ErrImagePull", "message": "no such image"}
        run(cluster.store.update(PODS, pod, "status"))

    cluster._run_bench_pod = fail  # type: ignore[method-assign]
    plan = validate_plan({"scenarios": "ipv4-rr"})
    found = requirements.preflight(api, plan, choose_pair(api, plan))
    (line,) = [check for check in found.checks if check.name == "pods"]
    assert (line.status, "no such image" in line.found, found.complete) == ("fail", True, False)
    assert "nicolaka/netshoot:v0.14 must be able to run" in line.advice


def test_a_namespace_that_nobody_may_create_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(api: Client) -> None:
        raise PreconditionFailed("the cluster has no Namespace bigtcp-bench and the account may not create it")

    monkeypatch.setattr(pods, "ensure_namespace", refuse)
    line = checks(Cluster())["pods", ""]
    assert (line.status, "has no Namespace" in line.found) == ("fail", True)
    assert "include/manifests/namespace.yaml" in line.advice


@pytest.mark.parametrize(
    ("scope", "resource", "sentence"),
    [
        ("nodes", "ciliumnodeconfigs", "may not list ciliumnodeconfigs in namespace kube-system (and 4 more)"),
        ("cluster", "daemonsets", "may not get daemonsets cilium in namespace kube-system (and 2 more)"),
        ("nodes", "nodes", "may not get nodes node1 (and 4 more)"),
    ],
)
def test_a_right_that_is_missing_is_named(scope: str, resource: str, sentence: str) -> None:
    cluster = Cluster()
    cluster.forbidden = {resource}
    line = checks(cluster, scope=scope)["rights", ""]
    assert (line.status, sentence in line.found) == ("fail", True), line.found
    assert "kubectl apply -f include/manifests/rbac.yaml" in line.advice


@pytest.mark.parametrize("scenarios", ["ipv4-stream-1", "ipv4-stream-1@same-node"])
def test_one_node_alone_is_refused_before_anything_is_changed(scenarios: str) -> None:
    cluster = Cluster()
    run(cluster.store.delete(NODES, "node2"))
    before = cluster.state()
    with pytest.raises(
        PreconditionFailed,
        match=r"^two usable nodes are needed, but of the nodes in this cluster \(node1\) 1 can run "
        r"benchmark pods; label two nodes with bigtcp-bench=true or name client_node and server_node in the plan$",
    ):
        choose_pair(cluster.client(), validate_plan({"scenarios": scenarios}))
    assert cluster.state() == before


def test_an_account_from_before_services_is_told_so_only_where_a_plan_needs_them() -> None:
    cluster = Cluster()
    cluster.forbidden = {"services", "endpointslices"}
    assert checks(cluster)["rights", ""].status == "pass"
    line = checks(cluster, scenarios="ipv4-rr,ipv4-rr@service")["rights", ""]
    assert line.status == "fail"
    assert line.found == "the account in use may not create services in namespace bigtcp-bench (and 3 more)"
    assert line.advice.endswith("; or leave @service out")
    assert "kubectl apply -f include/manifests/rbac.yaml" in line.advice
    cluster.forbidden = {"services", "leases"}
    assert "@service" not in checks(cluster, scenarios="ipv4-rr@service")["rights", ""].advice


def test_what_is_optional_does_not_stop_a_run() -> None:
    cluster = Cluster()
    cluster.forbidden = {"events", "cronjobs"}
    found = checks(cluster)
    assert (found["rights", ""].status, found["guardian", ""].status) == ("pass", "warn")


def test_a_rollout_is_waited_for_until_both_nodes_are_through_it() -> None:
    cluster = Cluster()
    api = cluster.client()
    plan = validate_plan({"scenarios": "ipv4-stream-1"})
    pair = choose_pair(api, plan)
    found = api.get(DAEMONSET, "cilium", "kube-system")
    found["status"]["updatedNumberScheduled"] = 1
    run(cluster.store.update(DAEMONSETS, found, "status"))

    def line() -> Check:
        result = requirements.preflight(api, plan, pair, with_pods=False).checks
        return next(check for check in result if check.name == "Cilium rollout")

    assert line().status == "warn"
    for pod in run(cluster.store.list(PODS, "kube-system", None, "spec.nodeName=node2")):
        pod["metadata"]["labels"]["pod-template-generation"] = "0"
        run(cluster.store.update(PODS, pod))
    assert (line().status, "an older one on node2" in line().found) == ("fail", True)


def test_nodes_that_are_not_asked_for_are_not_read() -> None:
    cluster = Cluster()
    api = cluster.client()
    asked = []
    select = api.select

    def noted(kind: Any, *args: Any, **options: Any) -> Any:
        asked.append((kind.plural, options.get("labels", "")))
        return select(kind, *args, **options)

    api.select = noted  # type: ignore[method-assign]
    named = validate_plan({"scenarios": "ipv4-rr", "client_node": "node2", "server_node": "node1"})
    requirements.preflight(api, named, choose_pair(api, named), with_pods=False)
    for name in ("node1", "node2"):
        change(
            cluster, NODES, name, None, lambda found: found["metadata"]["labels"].update({"bigtcp-bench": "true"})
        )
    plan = validate_plan({"scenarios": "ipv4-rr"})
    requirements.preflight(api, plan, choose_pair(api, plan), with_pods=False)
    nodes = [labels for plural, labels in asked if plural == "nodes"]
    assert "bigtcp-bench=true" in nodes
    assert "" not in nodes


def test_nodes_are_chosen_by_name_by_label_or_as_they_come() -> None:
    cluster = Cluster()
    api = cluster.client()
    plan = validate_plan({"scenarios": "ipv4-rr"})
    assert choose_pair(api, plan).names == ("node1", "node2")
    named = validate_plan({"scenarios": "ipv4-rr", "client_node": "node2", "server_node": "node1"})
    assert choose_pair(api, named).names == ("node2", "node1")
    unknown = validate_plan({"scenarios": "ipv4-rr", "client_node": "node9", "server_node": "node1"})
    with pytest.raises(
        PreconditionFailed, match=r"client_node 'node9' does not exist .* its nodes are node1, node2"
    ):
        choose_pair(api, unknown)

    def label(found: Any) -> None:
        found["metadata"]["labels"]["bigtcp-bench"] = "true"

    def taint(found: Any) -> None:
        found["spec"]["taints"] = [
            {"key": "gpu", "effect": "NoSchedule"},
            {"key": "bigtcp-bench", "effect": "NoSchedule"},
        ]

    change(cluster, NODES, "node2", None, label)
    with pytest.raises(PreconditionFailed, match=r"of the nodes labelled bigtcp-bench=true .node2. 1 can run"):
        choose_pair(api, plan)
    change(cluster, NODES, "node1", None, label)
    assert choose_pair(api, plan).names == ("node1", "node2")
    change(cluster, NODES, "node1", None, taint)
    with pytest.raises(PreconditionFailed, match="node1 has the taint gpu:NoSchedule"):
        choose_pair(api, plan)


@pytest.mark.parametrize(
    "key",
    [
        "node.cilium.io/agent-not-ready",
        "ignore-taint.cluster-autoscaler.kubernetes.io/cilium-agent-not-ready",
        "node.cloudprovider.kubernetes.io/uninitialized",
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_taint_that_passes_by_itself_is_waited_for(key: str, named: bool) -> None:
    cluster = Cluster()
    api = cluster.client()
    pair = {"client_node": "node1", "server_node": "node2"} if named else {}
    plan = validate_plan({"scenarios": "ipv4-rr", **pair})
    taints = [{"key": key, "effect": "NoSchedule"}]
    change(cluster, NODES, "node1", None, lambda found: found["spec"].update(taints=taints))
    began, sleep = cluster.time, api.sleep

    def passing(seconds: float) -> None:
        sleep(seconds)
        if cluster.time - began > 30:
            change(cluster, NODES, "node1", None, lambda found: found["spec"].pop("taints", None))

    api.sleep = passing  # type: ignore[method-assign]
    assert choose_pair(api, plan).names == ("node1", "node2")
    assert 30 <= cluster.time - began < 40
    change(cluster, NODES, "node1", None, lambda found: found["spec"].update(taints=taints))
    api.sleep = sleep  # type: ignore[method-assign]
    with pytest.raises(PreconditionFailed, match=r"node1 has the taint .*, which has not passed"):
        choose_pair(api, plan)


def test_a_taint_that_does_not_pass_gives_the_place_to_another_node_after_a_while() -> None:
    cluster = Cluster()
    api = cluster.client()
    node = run(cluster.store.get(NODES, "node2"))
    copy = {"metadata": {"name": "node3", "labels": dict(node["metadata"]["labels"])}, "spec": {}}
    run(cluster.store.create(NODES, copy))
    created = run(cluster.store.get(NODES, "node3"))
    created["status"] = node["status"]
    run(cluster.store.update(NODES, created, "status"))
    taints = [{"key": "node.cilium.io/agent-not-ready", "effect": "NoSchedule"}]
    change(cluster, NODES, "node1", None, lambda found: found["spec"].update(taints=taints))
    assert choose_pair(api, validate_plan({"scenarios": "ipv4-rr"})).names == ("node2", "node3")


QUOTA = 'pods "bigtcp-probe-x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0'
SECURITY = 'pods "bigtcp-probe-x" is forbidden: violates PodSecurity "restricted:latest": host namespaces'


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (QUOTA, "a ResourceQuota of the namespace has no room"),
        (SECURITY, "the namespace needs the level privileged"),
    ],
)
def test_what_admission_refuses_is_one_line_with_the_advice_that_fits(
    said: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(api: Client, pod: Any, **_: Any) -> Any:
        raise _problem(403, "POST", "/api/v1/namespaces/bigtcp-bench/pods", json.dumps({"message": said}))

    monkeypatch.setattr(pods, "create_pod", refuse)
    line = checks(Cluster())["pods", ""]
    assert (line.status, line.found) == ("fail", f"not allowed: {said}")
    assert advice in line.advice
    assert "rbac.yaml" not in line.sentence


def test_a_cpu_limit_that_admission_gives_is_seen_on_the_admitted_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    create = pods.create_pod

    def admitted(api: Client, pod: Any, **options: Any) -> Any:
        """Create it as the API server does where a LimitRange of the namespace has a default."""
        container = pod["spec"]["containers"][0]
        container["resources"]["limits"].setdefault("cpu", "200m")
        return create(api, pod, **options)

    monkeypatch.setattr(pods, "create_pod", admitted)
    line = checks(Cluster())["CPU limit", "node1"]
    assert (line.status, line.found) == ("fail", "pods get a CPU limit of 200m, although they ask for none")
