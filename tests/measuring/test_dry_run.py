"""What a dry run tells, against what a run then does to the simulated cluster; and that it does nothing itself."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import pytest
import yaml

from bigtcp_bench.cluster import bigtcp_switch, pods, reach, requirements, restore
from bigtcp_bench.cluster.api import POD
from bigtcp_bench.cluster.bigtcp_switch import switch
from bigtcp_bench.cluster.nodes import choose_pair
from bigtcp_bench.cluster.window import open_window
from bigtcp_bench.in_cluster import protocol
from bigtcp_bench.measuring.dry_run import Act, Outline, outline
from bigtcp_bench.planning.duration import LOOK_S, PODS_S, estimate, estimate_again
from bigtcp_bench.planning.plan import CAPTURE_S, Arm, Plan, blocks, load_plan, rerun_plan, validate_plan
from bigtcp_bench.report.dry_run import manifests_text, outline_object, outline_text
from bigtcp_lab.api import paths
from bigtcp_lab.api.discovery import CILIUMNODECONFIGS
from tests.cluster.simulated import Client, Cluster, run

RUN = "bigtcp_benchmark/run"
VERBS = {"POST": "create", "PUT": "change", "PATCH": "change", "DELETE": "delete"}
KINDS = {
    "configmaps": "ConfigMap",
    "cronjobs": "CronJob",
    "ciliumnodeconfigs": "CiliumNodeConfig",
    "daemonsets": "DaemonSet",
    "leases": "Lease",
    "nodes": "Node",
    "priorityclasses": "PriorityClass",
}


class Watched(Client):
    """Remembers every change that was asked for, but not that of pods."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.done: set[tuple[str, str]] = set()
        self.agents_deleted: list[str] = []

    def _request(self, method: str, path: str, **given: Any) -> Any:  # type: ignore[override]
        target = paths.parse(path) if method in VERBS else None
        result = super()._request(method, path, **given)
        if target is not None and target.resource.plural in KINDS:
            name = target.name or given["body"]["metadata"]["name"]
            where = f"{target.namespace}/" if target.namespace else ""
            self.done.add((VERBS[method], f"{KINDS[target.resource.plural]} {where}{name}"))
        elif method == "DELETE" and target is not None and target.namespace == "kube-system":
            self.agents_deleted.append(target.name)
        return result


def told(acts: list[Act]) -> set[tuple[str, str]]:
    return {(act.verb, act.what) for act in acts if not act.what.startswith(("pods ", "Pod ", "every "))}


def outlined(cluster: Cluster, plan: Plan) -> Outline:
    api = cluster.client()
    before = cluster.state()
    found = outline(api, plan, choose_pair(api, plan), RUN)
    assert (cluster.state(), api.changes) == (before, 0), "a dry run changed something"
    return found


@pytest.mark.parametrize("order", ["off,on,off", "on,off", "off,off"])
@pytest.mark.parametrize("scope", ["nodes", "cluster"])
@pytest.mark.parametrize("usual", ["off", "on"])
def test_a_run_does_what_its_dry_run_told(order: str, scope: str, usual: str) -> None:
    assert_done_as_told(cluster_of(usual), plan_of(scope, order))


def cluster_of(usual: str) -> Cluster:
    value = "true" if usual == "on" else "false"
    return Cluster(enable_ipv4_big_tcp=value, enable_ipv6_big_tcp=value)


def plan_of(scope: str, order: str = "off,on,off") -> Plan:
    return validate_plan({"scenarios": "ipv4-rr,ipv6-rr", "order": order, "scope": scope, "generations": 1})


@functools.cache
def clean_outline(scope: str, usual: str) -> Outline:
    """Return what a dry run tells where no run was before."""
    return outlined(cluster_of(usual), plan_of(scope))


def assert_done_as_told(cluster: Cluster, plan: Plan) -> Outline:
    """Do what the tasks of a run do, and compare it with what a dry run has told before."""
    found = outlined(cluster, plan)
    there = [pod["metadata"]["name"] for name in cluster.nodes for pod in cluster.agents(name)]
    api = Watched(cluster)
    requirements.put_back_abandoned(api, RUN, progress=lambda text: None)
    pair = choose_pair(api, plan)
    assert requirements.preflight(api, plan, pair, holder=RUN).complete
    window = open_window(api, RUN, plan, pair)
    for block in blocks(plan):
        switch(api, window.fence, block.arm, pair, plan, force_restart=plan.is_aa)
    restore.restore(api, "test", holder=RUN)
    # The Lease is renewed all the time, by creating it at first or not.
    lease = "Lease bigtcp-bench/bigtcp-bench"
    assert told(found.acts) - {("create", lease)} == api.done - {("create", lease)}
    if plan.scope == "nodes":
        deleted = [
            act
            for act in found.acts
            if act.verb == "delete" and act.what.startswith(("Pod of", "Pod kube-system/"))
        ]
        assert len(deleted) == len(api.agents_deleted)
        # An agent that is there when the run begins has its own name, one that a restart makes has none yet.
        named = [act.what.partition("/")[2] for act in deleted if act.what.startswith("Pod kube-system/")]
        assert named == [name for name in api.agents_deleted if name in there]
    return found


def leave_behind(cluster: Cluster, plan: Plan, *arms: Arm) -> None:
    """Let a run switch and then be gone for good, without a restore."""
    api = cluster.client()
    pair = choose_pair(api, plan)
    window = open_window(api, "bigtcp_benchmark/gone", plan, pair)
    for arm in arms:
        switch(api, window.fence, arm, pair, plan)
    cluster.time += protocol.LEASE_S + 1


@pytest.mark.parametrize("scope", ["nodes", "cluster"])
@pytest.mark.parametrize("arms", [("on",), ("off", "on"), ("off",), ()])
@pytest.mark.parametrize("usual", ["off", "on"])
def test_what_an_earlier_run_has_left_is_told_to_be_put_back_first(
    scope: str, arms: tuple[Arm, ...], usual: str
) -> None:
    cluster, plan = cluster_of(usual), plan_of(scope)
    clean = clean_outline(scope, usual)
    leave_behind(cluster, plan, *arms)
    found = assert_done_as_told(cluster, plan)
    assert found.blocks == clean.blocks, "the blocks begin with what was there before the earlier run"
    first = [act for act in found.acts if "left behind by bigtcp_benchmark/gone" in act.note]
    assert ("delete", "ConfigMap bigtcp-bench/bigtcp-bench-saved-state") in told(first)
    assert found.acts[: len(first)] == first
    if scope == "nodes":
        restarted = [act for act in first if act.what.startswith(("Pod of", "Pod kube-system/"))]
        assert len(restarted) == 2 * (bool(arms) and arms[-1] != usual)
        assert found.duration.slow_s > clean.duration.slow_s or not restarted


def test_a_node_configuration_that_was_there_before_the_earlier_run_is_put_back_first() -> None:
    cluster = Cluster()
    body = {
        "metadata": {"name": protocol.NODE_CONFIG_NAME, "namespace": "kube-system"},
        "spec": {"nodeSelector": {}, "defaults": bigtcp_switch.settings("on")},
    }
    run(cluster.store.create(CILIUMNODECONFIGS, body))
    api = cluster.client()
    for pod in api.select(POD, "kube-system"):
        api.delete(POD, pod["metadata"]["name"], "kube-system")
    plan = validate_plan({"scenarios": "ipv4-rr,ipv6-rr"})
    leave_behind(cluster, plan, "off")
    found = assert_done_as_told(cluster, plan)
    written = [act.verb for act in found.acts if act.what.endswith(protocol.NODE_CONFIG_NAME)]
    assert written[0] == "change"
    assert found.blocks[0].restarts == ("node2", "node1"), "BIG TCP is on again when the first block begins"


def test_leftovers_without_a_saved_state_are_told_too() -> None:
    cluster = Cluster()
    plan = validate_plan({"scenarios": "ipv4-rr,ipv6-rr"})
    leave_behind(cluster, plan, "on")
    api = cluster.client()
    cluster.lose_state()
    (place,) = reach.places(plan, choose_pair(api, plan))
    server = reach.server_pod(plan, place, "bigtcp_benchmark/gone", "0" * 32)
    name = pods.create_pod(api, server)["metadata"]["name"]
    found = assert_done_as_told(cluster, plan)
    texts = [f"{act.verb} {act.what}: {act.note}" for act in found.acts]
    assert (
        f"delete Pod bigtcp-bench/{name}: left behind by bigtcp_benchmark/gone; deleted benchmark pods {name}"
        in texts
    )
    assert (
        "delete CiliumNodeConfig kube-system/zz-bigtcp-bench: left behind by bigtcp_benchmark/gone; "
        "deleted CiliumNodeConfig zz-bigtcp-bench" in texts
    )


def test_a_second_run_finds_things_in_place() -> None:
    cluster = Cluster()
    plan = validate_plan({"scenarios": "ipv4-rr"})
    api = cluster.client()
    requirements.preflight(api, plan, choose_pair(api, plan))
    open_window(api, RUN, plan, choose_pair(api, plan))
    restore.restore(api, "test", holder=RUN)
    acts = told(outlined(cluster, plan).acts)
    assert ("change", "Lease bigtcp-bench/bigtcp-bench") in acts
    assert not {act for act in acts if act[1].endswith(("-agent", "PriorityClass bigtcp-bench"))}


def test_a_program_gets_what_people_are_told() -> None:
    found = outlined(Cluster(), load_plan("nightly"))
    told = json.loads(json.dumps(outline_object(found), allow_nan=False))
    assert (told["plan"]["name"], told["client_node"], told["server_node"]) == ("nightly", "node1", "node2")
    assert [one["block"]["arm"] for one in told["blocks"]] == list(found.plan.order)
    assert [(act["task"], act["verb"], act["what"]) for act in told["acts"]] == [
        (act.task, act.verb, act.what) for act in found.acts
    ]
    sent = [manifest for act in told["acts"] for manifest in act["manifests"]]
    assert {"Pod", "CiliumNodeConfig"} <= {manifest["kind"] for manifest in sent}
    assert 0 < told["duration"]["quick_s"] < told["duration"]["slow_s"]
    assert len(told["rights"]) == len(found.rights)
    assert "manifests" not in outline_object(found, manifests=False)["acts"][0]


def test_the_text_has_everything_that_is_sent() -> None:
    plan = load_plan("nightly", {"image": "registry.example/x:1", "image_pull_secrets": "pull-me"})
    found = outlined(Cluster(), plan)
    text = outline_text(found)
    for words in (
        "2. on: enable_big_tcp, test_iperf3; 12 fresh pod pairs",
        "6 × Service bigtcp-bench/bigtcp-bench",
        *("6 × pods bigtcp-server and test-iperf3 on node2 and node1", "on node1 and node1"),
        "rights",
    ):
        assert words in text
    documents = list(yaml.load_all(manifests_text(found), yaml.CSafeLoader))
    pods = [one for one in documents if one["kind"] == "Pod"]
    # Probes with and without anything special, reach; per block control, capture and generation pods.
    assert {one["metadata"]["generateName"] for one in pods} == {
        f"bigtcp-{name}-"
        for name in (
            "probe",
            "reach-server",
            "reach-client",
            "control-server",
            "control-client",
            "capture-server",
            "capture-client",
            "server",
        )
    } | {
        f"{task}-"
        for task in ("baseline-iperf3", "test-iperf3", "baseline-iperf3-2", "test-iperf3-2", "baseline-iperf3-3")
    }
    for one in pods:
        assert one["spec"]["imagePullSecrets"] == [{"name": "pull-me"}]
        assert one["spec"]["containers"][0]["image"] == "registry.example/x:1"
    configs = [one["spec"]["defaults"] for one in documents if one["kind"] == "CiliumNodeConfig"]
    assert configs == [
        {"enable-ipv4-big-tcp": "false", "enable-ipv6-big-tcp": "false"},
        {"enable-ipv4-big-tcp": "true", "enable-ipv6-big-tcp": "true"},
    ]


def test_every_pod_of_a_run_is_a_good_neighbour() -> None:
    found = outlined(Cluster(), load_plan("nightly"))
    objects = [body for act in found.acts for body in act.manifests]
    pods = [(body["metadata"]["generateName"], body["spec"]) for body in objects if body["kind"] == "Pod"]
    jobs = [body["spec"]["jobTemplate"]["spec"] for body in objects if body["kind"] == "CronJob"]
    assert {name for name, _ in pods} == {
        f"bigtcp-{name}-"
        for name in (
            "probe",
            "reach-server",
            "reach-client",
            "control-server",
            "control-client",
            "capture-server",
            "capture-client",
            "server",
        )
    } | {
        f"{task}-"
        for task in ("baseline-iperf3", "test-iperf3", "baseline-iperf3-2", "test-iperf3-2", "baseline-iperf3-3")
    }
    assert len(jobs) == 1
    for name, spec in pods:
        assert spec["priorityClassName"] == "bigtcp-bench", name
        assert 0 < spec["activeDeadlineSeconds"] < 3600 * 4, name
        assert spec["automountServiceAccountToken"] is False, name
        assert bool(spec.get("hostNetwork")) is name.startswith(("bigtcp-probe", "bigtcp-control")), name
    assert jobs[0]["activeDeadlineSeconds"] <= 3600
    for name, spec in [*pods, ("guardian", jobs[0]["template"]["spec"])]:
        assert {"key": "bigtcp-bench", "operator": "Exists"} in spec["tolerations"], name
        assert "nodeName" not in spec, name
        # Only root is given the capability to capture, and it is given no other.
        captures = name.startswith("bigtcp-capture")
        assert spec["securityContext"]["runAsNonRoot"] is not captures, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in spec["containers"]:
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}, name
            assert set(container["resources"]["limits"]) == {"memory"}, f"{name}: CPU throttling would be measured"
            granted = {"add": ["NET_RAW"]} if captures else {}
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], **granted}, name
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert container["image"] == "nicolaka/netshoot:v0.14", name
            assert not any(volume.get("hostPath") for volume in spec["volumes"]), name
    (priority,) = [body for body in objects if body["kind"] == "PriorityClass"]
    assert (priority["value"], priority["preemptionPolicy"]) == (-10, "Never")


def test_rights_that_are_lacking_are_named() -> None:
    cluster = Cluster()
    cluster.forbidden = {"ciliumnodeconfigs"}
    text = " ".join(outline_text(outlined(cluster, validate_plan({"scenarios": "ipv4-rr"}))).split())
    assert "The account in use lacks: list ciliumnodeconfigs in namespace kube-system, create" in text


def test_measuring_again_is_told_with_its_time_where_the_plan_allows_it() -> None:
    nightly = validate_plan({"scenarios": "ipv4-rr,ipv4-stream-1", "order": "off,on,off,on,off", "generations": 2})
    again = estimate_again(nightly)
    # Eight generations more; one switch less than blocks, for the first arm is in force already.
    assert again.quick_s > rerun_plan(nightly, nightly.scenarios).measuring_time_s == 8 * 2 * 2 * 12
    restarts = next(part for part in again.parts if "restarts" in part.name)
    assert restarts.name.startswith("4 restarts")
    text = " ".join(outline_text(outlined(Cluster(), nightly)).split())
    assert "far off what is usual or not known to ±3 %: rerun_disable_big_tcp, rerun_baseline_iperf3" in text
    assert re.search(r"up to \d+ min \d+ s to \d+ min \d+ s more where scenarios are measured again", text)
    for fields, words in (({"precision": None}, "far off what is usual: rerun_"), ({"again": 0}, None)):
        told = " ".join(outline_text(outlined(Cluster(), nightly.model_copy(update=fields))).split())
        assert (words in told) if words else ("rerun_" not in told and "measured again" not in told)


def test_an_estimate_is_the_traffic_and_what_comes_on_top() -> None:
    nightly = load_plan("nightly")
    found = estimate(nightly, restarts=4)
    assert nightly.measuring_time_s < found.quick_s < found.slow_s < 1.5 * nightly.measuring_time_s
    assert sum(part.quick_s for part in found.parts) == found.quick_s
    assert estimate(nightly, restarts=5).slow_s - found.slow_s == 30
    without = estimate(nightly.model_copy(update={"control": False}), restarts=4)
    assert found.quick_s - without.quick_s > 5 * 10
    uncaptured = estimate(nightly.model_copy(update={"packet_sizes": False}), restarts=4)
    # Without a capture nothing else is done while the arm is proven.
    assert found.quick_s - uncaptured.quick_s == 5 * (2 * CAPTURE_S + PODS_S[0] - LOOK_S[0])


def test_pods_that_capture_are_told_only_where_the_plan_asks_for_them() -> None:
    plan = validate_plan({"scenarios": "ipv4-stream-1,ipv6-stream-1", "packet_sizes": False})
    names = [act.what for act in outlined(Cluster(), plan).acts]
    assert not any("capture" in what for what in names)
    # A family that no stream proves is captured in any case.
    unproven = validate_plan({"scenarios": "ipv4-stream-1,ipv6-rr", "packet_sizes": False})
    for asked in (plan.model_copy(update={"packet_sizes": True}), unproven):
        acts = outlined(Cluster(), asked).acts
        found = [act for act in acts if "capture" in act.what]
        assert [act.task for act in found] == ["disable_big_tcp", "enable_big_tcp", "disable_big_tcp_2"]
    (orders,) = found[0].manifests[1]["spec"]["containers"][0]["args"]
    assert json.loads(orders)["server"] == {"ipv6": "2001:db8::1"}
