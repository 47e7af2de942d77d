"""What every restore does, whoever does it: what others changed stays, what is ours goes, labels prove nothing."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from bigtcp_bench.cluster import guardian_objects, restore, window
from bigtcp_bench.cluster.api import CONFIGMAP, LEASE, NODE, POD, CommandFailed
from bigtcp_bench.cluster.bigtcp_switch import switch
from bigtcp_bench.cluster.cilium import find_cilium
from bigtcp_bench.cluster.nodes import choose_pair
from bigtcp_bench.cluster.requirements import put_back_abandoned
from bigtcp_bench.cluster.saved_state import read_state
from bigtcp_bench.errors import FenceLost, PreconditionFailed, RestoreFailed, SwitchFailed
from bigtcp_bench.in_cluster.protocol import (
    ARM,
    FINALIZER,
    LEASE_NAME,
    LEASE_S,
    MAX_RESTARTS,
    NAMESPACE,
    NODE_CONFIG_NAME,
    RESTORE_LEASE_S,
    STATE_KEY,
    STATE_NAME,
    WINDOW,
)
from bigtcp_bench.in_cluster.treatment import KEYS
from bigtcp_lab.api.discovery import (
    CILIUMNODECONFIGS,
    CONFIGMAPS,
    DAEMONSETS,
    LEASES,
    NAMESPACES,
    NODES,
    PODS,
    stored_resources,
)
from tests.cluster.simulated import BIG, SMALL, Cluster, Node, dies_everywhere, run
from tests.cluster.test_guardian import started, wake
from tests.cluster.test_restore import RUN, begun, open_and_switch, plan, put_node_config_of_our_name

Restorer = Callable[[Cluster], str]
IPV4, IPV6 = KEYS.values()


def switched(*arms: str) -> Cluster:
    """Return a cluster as a run leaves it that dies after these switches."""
    cluster = Cluster()
    begun(cluster, *arms)
    return cluster


def told(report: restore.RestoreReport) -> str:
    return "; ".join([str(report), *report.notes])


def teardown(cluster: Cluster) -> str:
    """Restore as the run's own teardown does; return what was said."""
    try:
        return told(restore.restore(cluster.client(), "the run ended", holder=RUN))
    except RestoreFailed as error:
        return f"RESTORE NOT VERIFIED: {error}"


def command(cluster: Cluster) -> str:
    try:
        return told(restore.restore(cluster.client(), "by hand", force=True, afresh=True))
    except RestoreFailed as error:
        return f"RESTORE NOT VERIFIED: {error}"


def next_run(cluster: Cluster) -> str:
    said: list[str] = []
    cluster.time += LEASE_S + 1
    try:
        put_back_abandoned(cluster.client(), "next/run", progress=said.append)
    except RestoreFailed as error:
        return f"RESTORE NOT VERIFIED: {error}"
    return "; ".join(said)


def guardian(cluster: Cluster) -> str:
    cluster.time += LEASE_S + 1
    return "restored" if wake(cluster) == 0 else "NOT RESTORED"


RESTORERS = [teardown, command, next_run, guardian]


@pytest.fixture(params=RESTORERS, ids=lambda one: one.__name__)
def restorer(request: pytest.FixtureRequest) -> Restorer:
    return request.param


def config(cluster: Cluster) -> dict[str, Any]:
    found: dict[str, Any] = run(cluster.store.get(CONFIGMAPS, "cilium-config", "kube-system"))
    return found


def patch_config(cluster: Cluster, body: dict[str, Any]) -> None:
    cluster.client().patch(CONFIGMAP, "cilium-config", body, "kube-system")


def without_pods(state: dict[str, Any]) -> dict[str, Any]:
    return {**state, "pods": []}


class TestScopeCluster:
    """The two keys of ``cilium-config``, each by itself."""

    def test_the_key_that_somebody_changed_stays_and_the_other_one_goes_back(self, restorer: Restorer) -> None:
        cluster = Cluster()
        before = config(cluster)["data"]
        assert IPV4 not in before or before[IPV4] == "false"
        begun(cluster, "on", "off", scope="cluster")
        patch_config(cluster, {"data": {IPV6: "true"}})
        restorer(cluster)
        after = config(cluster)
        assert after["data"] == {**before, IPV6: "true"}
        assert ARM not in (after["metadata"].get("annotations") or {})
        assert [node.merged[IPV6] for node in cluster.nodes.values()] == ["true", "true"]
        assert restore.leftovers(cluster.client()) == []

    @pytest.mark.parametrize("arms", [("on",), ("off", "on")])
    def test_one_family_turned_off_by_hand_leaves_the_other_one_off_too(
        self, restorer: Restorer, arms: tuple[str, ...]
    ) -> None:
        cluster = Cluster(enable_ipv4_big_tcp="false", enable_ipv6_big_tcp="false")
        before = cluster.state()
        begun(cluster, *arms, scope="cluster")
        patch_config(cluster, {"data": {IPV6: "false"}})
        restorer(cluster)
        assert cluster.state() == before

    @pytest.mark.parametrize("keys_too", [False, True])
    def test_without_its_annotation_the_saved_state_says_what_it_was(
        self, restorer: Restorer, keys_too: bool
    ) -> None:
        cluster = Cluster(enable_ipv4_big_tcp="false", enable_ipv6_big_tcp="false")
        before = cluster.state()
        begun(cluster, "off", "on", scope="cluster")
        body: dict[str, Any] = {"metadata": {"annotations": {ARM: None}}}
        if keys_too:
            body["data"] = dict.fromkeys((IPV4, IPV6), "false")
        patch_config(cluster, body)
        restorer(cluster)
        assert cluster.state() == before

    def test_what_somebody_changed_before_the_run_wrote_anything_stays(self, restorer: Restorer) -> None:
        cluster = Cluster(enable_ipv4_big_tcp="false", enable_ipv6_big_tcp="false")
        begun(cluster, scope="cluster")
        patch_config(cluster, {"data": {IPV6: "true"}})
        restorer(cluster)
        assert {key: config(cluster)["data"][key] for key in (IPV4, IPV6)} == {IPV4: "false", IPV6: "true"}


@pytest.mark.parametrize("scope", ["nodes", "cluster"])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("killed", [command, next_run], ids=lambda one: one.__name__)
def test_whoever_is_killed_at_any_request_another_one_finishes(
    killed: Restorer, moment: str, scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the teardown and the guardian in tests/cluster; the next one is of another kind each time."""
    abandoned = Cluster()
    before = abandoned.state()
    open_and_switch(abandoned, "off", "on", scope=scope)
    victim = abandoned.client()
    said: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(Cluster, "client", lambda _cluster: victim)
        *left, finished = dies_everywhere(victim, moment, lambda: said.append(killed(abandoned)))
    assert "NOT VERIFIED" not in said[0]
    assert len(left) > 12
    for number, cluster in enumerate(left, start=1):
        text = RESTORERS[number % len(RESTORERS)](cluster)
        assert "NOT" not in text, f"killed {moment} change {number}: {text}"
        assert cluster.state() == before, f"killed {moment} change {number}"
        assert cluster.lease()["holderIdentity"] == "", f"killed {moment} change {number}: {text}"
    assert finished.state() == before
    assert finished.lease()["holderIdentity"] == ""


class TestWithoutASavedState:
    """Somebody has deleted it, although it has a finalizer."""

    @pytest.mark.parametrize("scope", ["nodes", "cluster"])
    def test_killed_after_any_change_and_tried_again_all_is_as_it_was(self, scope: str) -> None:
        before, left, finished = self.killed_restores(scope)
        assert len(left) > 7
        for number, cluster in enumerate(left, start=1):
            cluster.time += RESTORE_LEASE_S + 1
            report = restore.restore(cluster.client(), "second")
            assert report.changed, f"killed after change {number}, it says that nothing was to be put back"
            assert cluster.state() == before, f"killed after change {number}"
        assert finished.state() == before

    @pytest.mark.parametrize("scope", ["nodes", "cluster"])
    def test_the_guardian_finishes_what_a_killed_restore_has_begun(self, scope: str) -> None:
        """But for the very first steps, before what is there was noted."""
        before, left, _ = self.killed_restores(scope)
        for number, cluster in enumerate(left[2:], start=3):
            assert guardian(cluster) == "restored"
            assert cluster.state() == before, f"killed after change {number}"

    @staticmethod
    def killed_restores(scope: str) -> tuple[dict[str, Any], list[Cluster], Cluster]:
        """Return the state before a run, what killed restores of it leave, and what one that lives leaves."""
        cluster = Cluster()
        before = cluster.state()
        begun(cluster, "off", "on", scope=scope)
        cluster.time += LEASE_S + 1
        cluster.lose_state()
        victim = cluster.client()
        *left, finished = dies_everywhere(victim, "after", lambda: restore.restore(victim, "first"))
        return before, left, finished

    def test_a_node_that_could_not_be_asked_is_asked_again(self) -> None:
        cluster = Cluster()
        before = cluster.state()
        begun(cluster, "off", "on")
        cluster.lose_state()
        first = cluster.client()
        real = first.exec

        def failing(namespace: str, pod: str, container: str, argv: Any) -> str:
            if run(cluster.store.get(PODS, pod, namespace))["spec"]["nodeName"] == "node2":
                raise CommandFailed("the kubelet of node2 does not answer")
            return real(namespace, pod, container, argv)

        first.exec = failing  # type: ignore[method-assign]
        with pytest.raises(RestoreFailed, match="the kubelet of node2 does not answer"):
            restore.restore(first, "teardown, try 1", holder=RUN)
        assert cluster.nodes["node2"].limits["gso_max_size"] == BIG
        cluster.time += 30
        assert restore.restore(cluster.client(), "teardown, try 2", holder=RUN).changed
        assert cluster.state() == before

    def test_without_labels_the_lease_tells_the_nodes(self) -> None:
        cluster = Cluster()
        before = cluster.state()
        begun(cluster, "off", "on")
        cluster.time += LEASE_S + 1
        cluster.lose_state()
        for name in cluster.nodes:
            cluster.client().patch(NODE, name, {"metadata": {"labels": {WINDOW: None}}})
        assert restore.restore(cluster.client(), "by hand").outcome == "restored"
        assert cluster.state() == before


def test_what_somebody_else_changed_meanwhile_stays(
    restorer: Restorer, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = switched("off")
    patch_config(cluster, {"data": {IPV4: "true", IPV6: "true"}})
    said = restorer(cluster) + capsys.readouterr().out
    assert {node.limits["gso_max_size"] for node in cluster.nodes.values()} == {BIG}
    assert "somebody else changed the configuration of node node1" in said


def test_a_node_config_of_our_name_that_was_there_before_is_put_back(restorer: Restorer) -> None:
    cluster = Cluster()
    put_node_config_of_our_name(cluster, "true")
    before = cluster.state()
    assert before["limits"]["node1"]["gso_max_size"] == BIG
    begun(cluster, "off", "on")
    assert "NOT" not in restorer(cluster)
    assert cluster.state() == before


@pytest.mark.parametrize("scope", ["nodes", "cluster"])
def test_an_agent_that_cannot_start_with_big_tcp_gets_its_old_settings_in_a_new_pod(
    restorer: Restorer, scope: str
) -> None:
    cluster = Cluster()
    before = cluster.state()
    cluster.faults.add("crashes-when-on")
    with pytest.raises(SwitchFailed, match=r"node node[12] does not start: .* CrashLoopBackOff"):
        begun(cluster, "on", scope=scope)
    assert "NOT" not in restorer(cluster)
    assert cluster.state() == before


def test_an_agent_that_stays_unready_keeps_the_state_and_is_not_restarted_again(
    restorer: Restorer, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = switched("on")
    before = Cluster().state()
    cluster.faults.add("never-ready")
    said = restorer(cluster)
    assert "NOT" in said
    why = r"on node node1 was not Ready within 180 s: pod cilium-.* container cilium-agent runs but"
    assert re.search(why, said + capsys.readouterr().out)
    assert read_state(cluster.client()) is not None
    counts = started(cluster)
    assert "NOT" in restorer(cluster)
    assert started(cluster) == counts, "a pod that does not become ready is not helped by being deleted again"
    cluster.faults.clear()
    api = cluster.client()
    for pod in api.select(POD, "kube-system"):
        api.delete(POD, pod["metadata"]["name"], "kube-system")
    assert "NOT" not in restorer(cluster)
    assert cluster.state() == before


def test_limits_left_by_a_broken_agent_are_mended_by_another_restart(restorer: Restorer) -> None:
    cluster = Cluster()
    before = cluster.state()
    begun(cluster, "off")
    cluster.nodes["node2"].limits["gro_max_size"] = BIG
    assert "NOT" not in restorer(cluster)
    assert started(cluster) == [1, 2]
    assert cluster.state() == before


def test_a_node_that_has_gone_does_not_stop_the_others(
    restorer: Restorer, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = switched("on")
    api = cluster.client()
    del cluster.nodes["node2"]
    for pod in api.select(POD, "kube-system", fields="spec.nodeName=node2"):
        api.delete(POD, pod["metadata"]["name"], "kube-system")
    api.delete(NODE, "node2")
    said = restorer(cluster)
    assert "NOT" not in said
    assert set(cluster.nodes["node1"].limits.values()) - {524280} == {SMALL}
    assert "node node2 no longer exists" in said + capsys.readouterr().out


class TestMachines:
    """Other hardware under an old name, and agents that are not restarted for ever."""

    @staticmethod
    def replace_machine(cluster: Cluster, name: str = "node2") -> None:
        """Do as an autoscaler: the node goes, and another machine comes under its name, with other devices."""
        api = cluster.client()
        old = api.get(NODE, name)
        api.delete(NODE, name)
        labels = {key: value for key, value in old["metadata"]["labels"].items() if key != WINDOW}
        status = copy.deepcopy(old["status"])
        status["nodeInfo"] |= {"systemUUID": "another", "machineID": "another", "bootID": "another"}
        cluster.nodes[name] = Node()
        cluster.nodes[name].limits["tso_max_size"] = 65536
        cluster.nodes[name].limits["gso_max_size"] = 32768
        body = {"metadata": {"name": name, "labels": labels}, "spec": old["spec"], "status": status}
        run(cluster.store.create(NODES, body))
        for pod in api.select(POD, "kube-system", fields=f"spec.nodeName={name}"):
            api.delete(POD, pod["metadata"]["name"], "kube-system")

    @pytest.mark.parametrize("scope", ["nodes", "cluster"])
    def test_another_machine_needs_nothing_put_back(self, restorer: Restorer, scope: str) -> None:
        cluster = Cluster()
        before = cluster.state()
        begun(cluster, "off", "on", scope=scope)
        self.replace_machine(cluster)
        said = restorer(cluster)
        assert "NOT" not in said
        after = cluster.state()
        assert after["merged"] == before["merged"]
        assert after["limits"]["node1"] == before["limits"]["node1"]
        assert after["saved"] == []

    def test_only_what_cilium_sets_is_compared(self, restorer: Restorer) -> None:
        """What a card can do changes with its driver."""
        cluster = Cluster()
        begun(cluster, "on")
        cluster.nodes["node1"].limits["tso_max_size"] = 262144
        assert "NOT" not in restorer(cluster)
        assert cluster.nodes["node1"].limits["gso_max_size"] == SMALL

    def test_nobody_restarts_an_agent_for_ever(self) -> None:
        """Six hours of looks, teardowns and nights; then somebody mends the node and says so."""
        cluster = Cluster()
        before = cluster.state()
        begun(cluster, "on")
        counts = started(cluster)
        cluster.faults.add("setting-ignored")
        for _ in range(72):
            assert guardian(cluster) == "NOT RESTORED"
            cluster.time += guardian_objects.EVERY_MIN * 60
        assert "NOT VERIFIED" in teardown(cluster)
        assert "NOT VERIFIED" in next_run(cluster)
        assert [now - then for now, then in zip(started(cluster), counts, strict=True)] == [MAX_RESTARTS] * 2
        cluster.faults.clear()
        assert "NOT" not in command(cluster)
        assert cluster.state() == before

    def test_an_agent_that_was_restarted_in_vain_is_named(self) -> None:
        """One that was told the run's settings again and again."""
        cluster = Cluster()
        begun(cluster, "on")
        body = {"metadata": {"annotations": {"bigtcp-bench/restarts": json.dumps({"node1": MAX_RESTARTS})}}}
        cluster.client().patch(LEASE, LEASE_NAME, body, NAMESPACE)
        said = teardown(cluster)
        assert "the Cilium agent on node node1 was restarted 3 times to put it back, and is not" in said
        assert "node2" not in said
        assert "NOT" not in command(cluster)

    @pytest.mark.parametrize("scope", ["nodes", "cluster"])
    def test_what_a_restart_put_in_force_besides_is_said(self, scope: str) -> None:
        cluster = Cluster()
        begun(cluster, "on", scope=scope)
        patch_config(cluster, {"data": {"enable-host-legacy-routing": "true"}})
        report = restore.restore(cluster.client(), "test", holder=RUN)
        (note,) = [note for note in report.notes if "node1 put in force" in note]
        assert note.endswith("what had waited for one: enable-host-legacy-routing")


class TestDecoys:
    """Labels and names are no proof."""

    @staticmethod
    def decoy(cluster: Cluster, namespace: str) -> None:
        """Let somebody have a DaemonSet with Cilium's label, and pods of it that are younger than the agents."""
        body = copy.deepcopy(run(cluster.store.list(DAEMONSETS, "kube-system"))[0])
        body["metadata"] = {"name": "a", "namespace": namespace, "labels": {"k8s-app": "cilium"}}
        del body["spec"]["template"]["spec"]["hostNetwork"]
        if namespace != "kube-system":
            run(cluster.store.create(NAMESPACES, {"metadata": {"name": namespace}}))
        made = run(cluster.store.create(DAEMONSETS, body, namespace))
        owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "a", "uid": made["metadata"]["uid"]}
        for node in cluster.nodes:
            pod = {
                "metadata": {
                    "generateName": "zz-",
                    "namespace": namespace,
                    "labels": {"k8s-app": "cilium"},
                    "ownerReferences": [owner],
                    "annotations": {"template": cluster._template(cluster.daemonset())},
                },
                "spec": {"nodeName": node, "containers": [{"name": "cilium-agent", "image": "x"}]},
            }
            run(cluster.store.create(PODS, pod))

    @pytest.mark.parametrize("namespace", ["kube-system", "aaa"])
    def test_a_daemonset_that_came_during_the_run_is_not_taken_for_cilium(
        self, restorer: Restorer, namespace: str
    ) -> None:
        cluster = Cluster()
        before = cluster.state()
        begun(cluster, "off", "on")
        self.decoy(cluster, namespace)
        assert "NOT" not in restorer(cluster)
        assert without_pods(cluster.state()) == without_pods(before)

    def test_nor_is_one_of_a_tenant_before_a_run(self) -> None:
        cluster = Cluster()
        real = run(cluster.store.list(DAEMONSETS, "kube-system"))[0]
        elsewhere = copy.deepcopy(real)
        elsewhere["metadata"] |= {"namespace": "cilium", "name": "agent"}
        tenant = copy.deepcopy(real)
        tenant["metadata"] |= {"namespace": "aaa", "name": "a"}
        api = cluster.client()
        api.select = lambda *_, **__: [elsewhere, tenant]  # type: ignore[method-assign]
        with pytest.raises(PreconditionFailed, match="DaemonSets cilium/agent, aaa/a are all labelled k8s-app=c"):
            find_cilium(api)
        del tenant["spec"]["template"]["spec"]["hostNetwork"]
        assert find_cilium(api).namespace == "cilium"

    @pytest.mark.parametrize("saved", [True, False])
    @pytest.mark.parametrize("what", ["spec", "gone", "annotations"])
    def test_a_node_configuration_that_was_touched_is_recognised(self, what: str, saved: bool) -> None:
        for restorer in RESTORERS:
            if not saved and restorer is guardian:
                continue
            before = Cluster().state()
            cluster = switched("off", "on")
            api = cluster.client()
            kind = find_cilium(api).node_config_kind
            found = api.get(kind, NODE_CONFIG_NAME, "kube-system")
            if what == "gone":
                api.delete(kind, NODE_CONFIG_NAME, "kube-system")
            else:
                if what == "spec":
                    found["spec"]["defaults"]["enable-bbr"] = "true"
                else:
                    found["metadata"]["annotations"] = {}
                api.replace(kind, found, "kube-system")
            if not saved:
                cluster.lose_state()
            assert "NOT" not in restorer(cluster)
            assert cluster.state() == before
            assert restore.leftovers(api) == []

    def test_one_of_our_name_that_somebody_made_during_the_run_stays(self, restorer: Restorer) -> None:
        cluster = Cluster()
        begun(cluster, "off")
        api = cluster.client()
        kind = find_cilium(api).node_config_kind
        theirs = {"nodeSelector": {"matchLabels": {"a": "b"}}, "defaults": {"enable-bbr": "true"}}
        if (found := api.find(kind, NODE_CONFIG_NAME, "kube-system")) is not None:
            api.delete(kind, NODE_CONFIG_NAME, "kube-system", uid=found["metadata"]["uid"])
        body = {"kind": "CiliumNodeConfig", "metadata": {"name": NODE_CONFIG_NAME}, "spec": theirs}
        api.create(kind, body, "kube-system")
        assert "NOT" not in restorer(cluster)
        assert [item["spec"] for item in run(cluster.store.list(CILIUMNODECONFIGS))] == [theirs]


class TestSavedStates:
    """What one of those who restore reads, all read; what one refuses, all refuse."""

    @staticmethod
    def rewrite(cluster: Cluster, change: Callable[[dict[str, Any]], object]) -> None:
        api = cluster.client()
        found = api.get(CONFIGMAP, STATE_NAME, NAMESPACE)
        document = json.loads(found["data"][STATE_KEY])
        change(document)
        cluster.lose_state()
        meta = {key: found["metadata"][key] for key in ("name", "labels", "annotations", "finalizers")}
        api.create(CONFIGMAP, {"metadata": meta, "data": {STATE_KEY: json.dumps(document)}}, NAMESPACE)

    @pytest.mark.parametrize(
        "change",
        [
            lambda document: document.clear(),
            lambda document: document.update(new_field=1),
            lambda document: document["nodes"]["node1"].update(new_field=1),
            lambda document: document.update(version=3),
            lambda document: document.pop("scope"),
            lambda document: document.update(scope="some"),
            lambda document: document["nodes"]["node1"].update(limits={"eth0": {"gso_max_size": "65536"}}),
            lambda document: document["nodes"]["node1"].update(merged={"ipv4": False}),
        ],
    )
    def test_one_that_is_not_known_is_left_to_people_and_nothing_is_touched(
        self,
        restorer: Restorer,
        change: Callable[[dict[str, Any]], object],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        cluster = switched("on")
        self.rewrite(cluster, change)
        before = cluster.state()
        said = restorer(cluster)
        assert "NOT" in said
        assert "the cluster must be put back by hand" in said + capsys.readouterr().out
        assert cluster.state() == before

    def test_one_of_version_1_is_read(self, restorer: Restorer) -> None:
        """A package that is upgraded while a window is open finds what the older one has saved."""

        def older(document: dict[str, Any]) -> None:
            document["version"] = 1
            for node in document["nodes"].values():
                node["expected"] = node["merged"]
                del node["machine"], node["boot"]

        before = Cluster().state()
        cluster = switched("on")
        self.rewrite(cluster, older)
        assert "NOT" not in restorer(cluster)
        assert cluster.state() == before


class TestNamespaceDeleted:
    """``kubectl delete namespace bigtcp-bench`` in the middle of a run."""

    @staticmethod
    def delete(cluster: Cluster) -> None:
        """Do what the API server and the namespace controller do; objects with a finalizer stay."""
        run(cluster.store.delete(NAMESPACES, NAMESPACE))
        for resource in stored_resources():
            for item in run(cluster.store.list(resource, NAMESPACE)) if resource.namespaced else []:
                if "deletionTimestamp" not in item["metadata"]:
                    run(cluster.store.delete(resource, item["metadata"]["name"], NAMESPACE))
        cluster.reconcile()

    @staticmethod
    def left(cluster: Cluster) -> list[str]:
        return [
            f"{resource.plural}/{item['metadata']['name']}"
            for resource in stored_resources()
            if resource.namespaced
            for item in run(cluster.store.list(resource, NAMESPACE))
        ]

    @pytest.mark.parametrize("scope", ["nodes", "cluster"])
    @pytest.mark.parametrize("restorer", [teardown, command, next_run], ids=lambda one: one.__name__)
    def test_it_waits_for_the_restore(self, restorer: Restorer, scope: str) -> None:
        cluster = Cluster()
        before = cluster.state()
        begun(cluster, "off", "on", scope=scope)
        self.delete(cluster)
        assert sorted(self.left(cluster)) == [f"configmaps/{STATE_NAME}", f"leases/{LEASE_NAME}"]
        said = restorer(cluster)
        assert "verified it by what the agents were told (the namespace bigtcp-bench is being deleted" in said
        assert cluster.state() == before
        assert self.left(cluster) == [], "now the namespace can go"

    def test_a_restore_that_is_killed_at_any_request_leaves_it_waiting(self) -> None:
        deleted = Cluster()
        before = deleted.state()
        begun(deleted, "off", "on")
        self.delete(deleted)
        victim = deleted.client()
        *left, finished = dies_everywhere(victim, "after", lambda: restore.restore(victim, "first", holder=RUN))
        assert len(left) > 9
        for number, cluster in enumerate(left, start=1):
            restore.restore(cluster.client(), "second", holder=RUN)
            assert cluster.state() == before, f"killed after change {number}"
            assert self.left(cluster) == []
        assert finished.state() == before
        assert self.left(finished) == []

    def test_the_run_changes_nothing_any_more(self) -> None:
        cluster = Cluster()
        fence = begun(cluster, "off")
        self.delete(cluster)
        before = cluster.state()
        api = cluster.client()
        with pytest.raises(FenceLost, match="the Lease bigtcp-bench/bigtcp-bench is being deleted"):
            switch(api, fence, "on", choose_pair(api, plan()), plan())
        assert cluster.state() == before
        with pytest.raises(PreconditionFailed, match="the Namespace bigtcp-bench is being deleted"):
            window.open_window(api, "next/run", plan(), choose_pair(api, plan()))

    def test_a_saved_state_that_is_deleted_alone_ends_the_run_not_the_way_back(self, restorer: Restorer) -> None:
        cluster = Cluster()
        before = cluster.state()
        fence = begun(cluster, "on")
        api = cluster.client()
        api.delete(CONFIGMAP, STATE_NAME, NAMESPACE)
        with pytest.raises(FenceLost, match=r"the saved state .* is being deleted"):
            switch(api, fence, "off", choose_pair(api, plan()), plan())
        assert "NOT" not in restorer(cluster)
        assert cluster.state() == before
        assert read_state(api) is None

    def test_between_two_runs_nothing_holds_it(self) -> None:
        cluster = Cluster()
        begun(cluster, "on")
        teardown(cluster)
        self.delete(cluster)
        assert self.left(cluster) == []

    def test_the_documented_command_lets_it_go(self) -> None:
        cluster = Cluster()
        begun(cluster, "on")
        self.delete(cluster)
        for resource, name in ((CONFIGMAPS, STATE_NAME), (LEASES, LEASE_NAME)):
            found = run(cluster.store.get(resource, name, NAMESPACE))
            assert found["metadata"]["finalizers"] == [FINALIZER]
            body = {"metadata": {"finalizers": None}}
            run(cluster.store.patch(resource, name, NAMESPACE, "application/merge-patch+json", body))
        assert self.left(cluster) == []
