"""What the guard promises: one run at a time, nothing changed without a saved state, everything comes back."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from bigtcp_bench.cluster import bigtcp_switch, pods, requirements, restore, saved_state
from bigtcp_bench.cluster.api import CONFIGMAP, DAEMONSET, NODE, ApiUnreachable, ClusterApi, Conflict
from bigtcp_bench.cluster.bigtcp_switch import node_config, switch
from bigtcp_bench.cluster.cilium import find_cilium, rollout
from bigtcp_bench.cluster.lease import Fence, annotate, holder_of, read_lease
from bigtcp_bench.cluster.nodes import NodePair, choose_pair
from bigtcp_bench.cluster.pods import PodFailed
from bigtcp_bench.cluster.services import close_service, open_service
from bigtcp_bench.cluster.window import open_window
from bigtcp_bench.errors import FenceLost, PreconditionFailed, RestoreFailed, SwitchFailed
from bigtcp_bench.in_cluster import protocol
from bigtcp_bench.in_cluster.objects import Objects
from bigtcp_bench.in_cluster.treatment import KEYS
from bigtcp_bench.measuring.generation import Generation, generations_of, prepare, prepare_end, server_pod
from bigtcp_bench.measuring.packet_sizes import PacketSizes
from bigtcp_bench.planning.plan import Plan, blocks, validate_plan
from bigtcp_bench.readings.orders import new_token
from bigtcp_lab.api.discovery import CILIUMNODECONFIGS, CONFIGMAPS, NODES

from .simulated import ALL_LIMITS, BIG, SMALL, Cluster, Killed, dies_everywhere, run

BIG_TCP_OFF = {"enable-ipv4-big-tcp": "false", "enable-ipv6-big-tcp": "false"}
RUN = "bigtcp_benchmark/manual__2026-11-23"


def plan(**fields: object) -> Plan:
    return validate_plan({"scenarios": "ipv4-stream-1,ipv6-rr", **fields})


def open_and_switch(cluster: Cluster, *arms: str, holder: str = RUN, **fields: object) -> Fence:
    """Do what a run does, through clients of its own, and return its fence."""
    api = cluster.client()
    window = open_window(api, holder, plan(**fields), choose_pair(api, plan(**fields)))
    for arm in arms:
        switch(api, window.fence, arm, choose_pair(api, plan(**fields)), plan(**fields))  # type: ignore[arg-type]
    return window.fence


@functools.cache
def _begun(
    configured: tuple[tuple[str, str], ...], arms: tuple[str, ...], holder: str, **fields: object
) -> tuple[Cluster, str]:
    cluster = Cluster(**dict(configured))
    return cluster, open_and_switch(cluster, *arms, holder=holder, **fields).window


def begun(cluster: Cluster, *arms: str, holder: str = RUN, **fields: object) -> Fence:
    """Let ``cluster`` be as after ``open_and_switch``; what many tests begin with is done once, with another one.

    Not for tests that replace functions.
    """
    if not cluster.untouched:
        return open_and_switch(cluster, *arms, holder=holder, **fields)
    left, window = _begun(tuple(sorted(cluster.configured.items())), arms, holder, **fields)
    cluster.become(left)
    return Fence(cluster.client(), holder, window=window)


def test_a_run_switches_and_everything_comes_back() -> None:
    cluster = Cluster()
    before = cluster.state()
    fence = begun(cluster, "off")
    assert [node.agents_started for node in cluster.nodes.values()] == [1, 1], "off was in force already"
    api = cluster.client()
    report = switch(api, fence, "on", choose_pair(api, plan()), plan())
    assert report.restarted
    assert cluster.nodes["node2"].limits["gro_ipv4_max_size"] == BIG
    assert report.nodes["node1"].max_gso == {"ipv4": BIG, "ipv6": BIG}

    restored = restore.restore(cluster.client(), "test", holder=RUN)
    assert restored.outcome == "restored"
    assert restored.waited_s == 0, "nothing was in flight"
    assert cluster.state() == before
    assert cluster.lease()["holderIdentity"] == ""
    assert restore.restore(cluster.client(), "again", holder=RUN).outcome == "nothing"


def test_a_tunnel_device_beside_native_routing_needs_no_big_tcp_but_is_saved() -> None:
    """Egress gateway and DSR by Geneve make one; Cilium before 1.19 sets no limits on it."""
    cluster = Cluster()
    tunnel = {**dict.fromkeys(ALL_LIMITS, SMALL), "tso_max_size": SMALL}
    cluster.extra_devices = {"cilium_vxlan": {"index": 7, "kind": "vxlan", "mtu": 1450, **tunnel}}
    fence = begun(cluster)
    api = cluster.client()
    report = switch(api, fence, "on", choose_pair(api, plan()), plan())
    assert list(report.nodes["node1"].limits) == ["eth0"]
    assert saved_state.open_state(api, fence).nodes["node1"].limits["cilium_vxlan"]["tso_max_size"] == SMALL
    assert restore.restore(cluster.client(), "test", holder=RUN).outcome == "restored"


def test_a_tunnel_device_that_carries_the_traffic_needs_it() -> None:
    cluster = Cluster()
    tunnel = {**dict.fromkeys(ALL_LIMITS, SMALL), "tso_max_size": SMALL}
    cluster.extra_devices = {"cilium_vxlan": {"index": 7, "kind": "vxlan", "mtu": 1450, **tunnel}}
    cluster.extra_status = {"routing": {"inter-host-routing-mode": "Tunnel", "intra-host-routing-mode": "BPF"}}
    with pytest.raises(
        SwitchFailed, match="device cilium_vxlan has gso_ipv4_max_size 65536 with BIG TCP switched on"
    ):
        begun(cluster, "on")


def test_a_state_in_force_and_proven_restarts_nothing_unless_told_to() -> None:
    cluster = Cluster(enable_ipv4_big_tcp="true", enable_ipv6_big_tcp="true")
    fence = begun(cluster, "on")
    assert [node.agents_started for node in cluster.nodes.values()] == [1, 1]
    api = cluster.client()
    report = switch(api, fence, "on", choose_pair(api, plan()), plan(), force_restart=True)
    assert [node.agents_started for node in cluster.nodes.values()] == [2, 2]
    assert report.restarted


@pytest.mark.parametrize("scope", ["nodes", "cluster"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_every_request_it_comes_back(scope: str, moment: str) -> None:
    """The n-th changing request of a run is its last, for every n; a restore by somebody else puts all back."""
    api = Cluster().client()
    before = api.cluster.state()
    the_plan = plan(scope=scope, scenarios=["ipv4-stream-1@service"], load_gate={"mode": "warn"})
    pair = choose_pair(api, the_plan)

    def task() -> None:
        window = open_window(api, RUN, the_plan, pair)
        for arm in ("on", "off"):
            sizes = PacketSizes(api, the_plan, pair, run_key=RUN, block=blocks(the_plan)[0])
            switch(api, window.fence, arm, pair, the_plan, in_force=sizes.begin)  # type: ignore[arg-type]
            sizes.end()
            open_and_close_a_service(api, the_plan, pair)
            generation = first_generation(the_plan, pair)
            prepare(api, window.fence, generation, the_plan)
            prepare_end(api, window.fence, generation, the_plan, pair.names)

    left = dies_everywhere(api, moment, task)
    assert len(left) > 20, "the run made hardly any changes"
    for number, cluster in enumerate(left, start=1):
        restore.restore(cluster.client(), "test", holder=RUN)
        after = cluster.state()
        # Probe pods end by themselves; whoever was killed could not delete them.
        after["pods"] = [name for name in after["pods"] if "probe" not in name]
        assert after == before, f"killed {moment} change {number}"


def first_generation(the_plan: Plan, pair: NodePair) -> Generation:
    where = {"run": 1, "run_key": RUN, "nodes": pair.names, "scenarios": the_plan.scenarios}
    return generations_of(blocks(the_plan)[0], **where)[0]


def open_and_close_a_service(api: ClusterApi, the_plan: Plan, pair: NodePair) -> None:
    """Do what a generation does that goes through a Service, but for its client."""
    created = pods.create_pod(api, server_pod(first_generation(the_plan, pair), the_plan, new_token()))
    server = pods.wait_ready(api, created["metadata"]["name"])
    assert set(open_service(api, server)) == {"ipv4", "ipv6"}
    close_service(api, server)
    pods.delete_pods(api, run_key=RUN)


def test_a_restore_killed_at_every_request_is_finished_by_the_next() -> None:
    first = Cluster()
    before = first.state()
    begun(first, "on")
    api = first.client()
    *left, finished = dies_everywhere(api, "after", lambda: restore.restore(api, "first", holder=RUN))
    assert len(left) > 12
    for number, cluster in enumerate(left, start=1):
        # The dead restore holds the lease; nobody waits longer than that lasts.
        started = cluster.time
        report = restore.restore(cluster.client(), "second", holder=RUN)
        assert report.changed, "it does not say that there was nothing to put back"
        assert cluster.time - started < protocol.RESTORE_LEASE_S + 30
        assert_put_back(cluster, before, f"killed after change {number}")
    assert_put_back(finished, before, "nobody was killed")


def assert_put_back(cluster: Cluster, before: dict[str, Any], why: str) -> None:
    after = cluster.state()
    after["pods"] = [name for name in after["pods"] if "probe" not in name]
    assert after == before, why
    assert cluster.lease()["holderIdentity"] == ""


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize(("scope", "prior"), [("nodes", False), ("nodes", True), ("cluster", False)])
def test_a_stale_task_that_wakes_up_after_the_restore_changes_nothing(scope: str, prior: bool, dies: bool) -> None:
    """A task is stopped just before its n-th request; the run is restored; the task goes on, or dies after it."""

    def restore_meanwhile(cluster: Cluster, number: int, seen: list[int], when: str, change: int) -> None:
        if (when, change) == ("before", number):
            seen.append(change)
            restore.restore(cluster.client(), "the run was ended", holder=RUN)
        if dies and (when, change) == ("after", number):
            raise Killed

    opened = Cluster()
    if prior:
        put_node_config_of_our_name(opened, "false")
    before = opened.state()
    fence = begun(opened, *[] if prior else ["off"], scope=scope)
    started = [node.agents_started for node in opened.nodes.values()]
    number = 0
    while True:
        number += 1
        cluster = opened.fork()
        stale = cluster.client()
        seen: list[int] = []

        stale.interrupt = partial(restore_meanwhile, cluster, number, seen)
        old_fence = Fence(stale, RUN, window=fence.window)
        # The restore also deletes the probe that the task may be waiting for.
        with contextlib.suppress(FenceLost, PodFailed, Killed):
            switch(stale, old_fence, "on", choose_pair(stale, plan()), plan())
        if not seen:
            assert number > 10
            return
        after = cluster.state()
        after["pods"] = [name for name in after["pods"] if "probe" not in name]
        if dies and scope == "nodes":
            # A label and an object that select nothing, which whoever comes next removes; never another's object.
            after["labels"] = before["labels"]
            after["node configs"] = after["node configs"] if prior else before["node configs"]
        assert after == before, f"stopped before change {number}"
        assert all(
            node.agents_started <= count + 2 for node, count in zip(cluster.nodes.values(), started, strict=True)
        )
        stale.killed = False
        stale.interrupt = lambda moment, number: None
        with pytest.raises(FenceLost, match="hold"):
            switch(stale, old_fence, "on", choose_pair(stale, plan()), plan())


@pytest.mark.parametrize("scope", ["nodes", "cluster"])
def test_a_late_write_that_no_version_stopped_is_taken_back(scope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task itself does so, with what its own window had saved, when it learns that it was too late."""
    monkeypatch.setattr(Objects, "age", lambda *_, **__: None)
    cluster = Cluster()
    put_node_config_of_our_name(cluster, "false")
    before = cluster.state()
    fence = open_and_switch(cluster, scope=scope)
    stale = cluster.client()
    late = []

    def restore_before_the_first_write(when: str, change: int) -> None:
        lease = read_lease(cluster.client())
        if when == "before" and lease and f"write {'C' if scope == 'nodes' else 'c'}ilium" in lease.in_flight:
            late.append(change)
            restore.restore(cluster.client(), "the run was ended", holder=RUN)

    stale.interrupt = restore_before_the_first_write
    with pytest.raises(FenceLost):
        switch(stale, Fence(stale, RUN, window=fence.window), "on", choose_pair(stale, plan()), plan())
    assert late
    assert cluster.state() == before


def put_node_config_of_our_name(cluster: Cluster, value: str) -> None:
    """Do as an administrator who happens to choose our name; the agents have been told."""
    api = cluster.client()
    config = {
        "kind": "CiliumNodeConfig",
        "metadata": {"name": "zz-bigtcp-bench", "namespace": "kube-system", "labels": {"by": "hand"}},
        "spec": {
            "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "node1"}},
            "defaults": dict.fromkeys(KEYS.values(), value),
        },
    }
    api.create(find_cilium(api).node_config_kind, config, "kube-system")
    api.delete(pods.POD, _agent(api, "node1"), "kube-system")


def test_a_node_config_created_too_late_selects_no_node() -> None:
    """The one request that no precondition can stop: a creation that was already on its way."""
    cluster = Cluster()
    fence = begun(cluster, "on")
    late = node_config(find_cilium(cluster.client()), RUN, fence.window, "on")
    restore.restore(cluster.client(), "test", holder=RUN)
    api = cluster.client()
    api.create(find_cilium(api).node_config_kind, late, "kube-system")
    for pod in api.select(pods.POD, "kube-system", labels="k8s-app=cilium"):
        api.delete(pods.POD, pod["metadata"]["name"], "kube-system")
    assert {node.limits["gso_max_size"] for node in cluster.nodes.values()} == {SMALL}
    # It is found and removed by whoever comes next, without any saved state.
    assert restore.leftovers(api) == ["CiliumNodeConfig kube-system/zz-bigtcp-bench"]
    assert restore.restore(api, "orphan").outcome == "restored"
    assert restore.leftovers(api) == []


def test_a_cleared_run_takes_over_from_its_own_living_attempt() -> None:
    cluster = Cluster()
    before = cluster.state()
    first = begun(cluster, "on")
    api = cluster.client()
    window = open_window(api, RUN, plan(), choose_pair(api, plan()))
    assert window.restored is not None
    assert window.restored.outcome == "restored"
    assert window.state.nodes["node1"].merged == {"ipv4": False, "ipv6": False}
    with pytest.raises(FenceLost, match="older attempt"):
        switch(api, first, "on", choose_pair(api, plan()), plan())
    restore.restore(api, "end", holder=RUN)
    assert cluster.state() == before


def test_only_one_run_holds_the_cluster() -> None:
    cluster = Cluster()
    fence = begun(cluster, "on")
    api = cluster.client()
    with pytest.raises(PreconditionFailed, match=f"held by {RUN}"):
        open_window(api, "other/run", plan(), choose_pair(api, plan()))
    assert restore.restore(api, "end of another run", holder="other/run").outcome == "nothing"
    with pytest.raises(PreconditionFailed, match="force"):
        restore.restore(api, "by hand")
    fence.check()

    cluster.time += protocol.LEASE_S + 1
    with pytest.raises(FenceLost, match="has not renewed"):
        fence.check()
    window = open_window(api, "other/run", plan(), choose_pair(api, plan()))
    assert window.restored is not None
    assert window.restored.owner == RUN
    assert cluster.nodes["node1"].limits["gso_max_size"] == SMALL


def test_two_airflows_with_the_same_dag_and_schedule_do_not_take_the_cluster_from_each_other() -> None:
    """Their runs have the same id; the second one ends before it has touched anything."""
    cluster = Cluster()
    before = cluster.state()
    one, two = (holder_of("bigtcp_benchmark", "scheduled__2026-11-24", name) for name in ("a", "b"))
    fence = begun(cluster, "off", "on", holder=one)
    api = cluster.client()
    during = cluster.state()
    with pytest.raises(PreconditionFailed, match=f"held by {one}"):
        requirements.refuse_held(api, two)
    requirements.put_back_abandoned(api, two, progress=lambda text: None)
    found = requirements.preflight(api, plan(), choose_pair(api, plan()), holder=two)
    (held,) = [check for check in found.checks if check.name == "lease"]
    assert (held.status, found.probes) == ("fail", {})
    with pytest.raises(PreconditionFailed, match=f"held by {one}"):
        open_window(api, two, plan(), choose_pair(api, plan()))
    assert restore.restore(api, "its teardown", holder=two).outcome == "nothing"
    fence.check()
    assert (cluster.state(), api.changes) == (during, 0)
    restore.restore(api, "the other one's teardown", holder=one)
    assert cluster.state() == before


def test_a_forced_restore_ends_a_living_run() -> None:
    cluster = Cluster()
    before = cluster.state()
    fence = begun(cluster, "on")
    restore.restore(cluster.client(), "by hand", force=True)
    assert cluster.state() == before
    with pytest.raises(FenceLost, match="nobody does"):
        fence.renew()


def test_a_change_in_flight_is_waited_for_and_an_unknown_outcome_counts_as_in_flight() -> None:
    cluster = Cluster()
    fence = begun(cluster, "off")
    with pytest.raises(ApiUnreachable), fence.mutating("something"):
        raise ApiUnreachable("no answer", 0)
    assert restore.restore(cluster.client(), "test", holder=RUN).waited_s == protocol.SETTLE_S


@pytest.mark.parametrize(
    ("error", "stays"), [(ValueError, False), (SwitchFailed, False), (ApiUnreachable, True), (Killed, True)]
)
def test_only_a_request_with_an_answer_is_no_longer_in_flight(error: type[BaseException], stays: bool) -> None:
    """A task's time-out strikes in the middle of a request, and is no Exception."""
    cluster = Cluster()
    fence = begun(cluster)
    with pytest.raises(error), fence.mutating("something"):
        raise error("no answer", 0)
    lease = read_lease(cluster.client())
    assert lease is not None
    assert bool(lease.in_flight) is stays


def test_a_restore_that_dies_while_it_waits_leaves_the_waiting_to_the_next() -> None:
    cluster = Cluster()
    fence = begun(cluster, "off")
    fence.update(lambda body: annotate(body, {protocol.IN_FLIGHT: "something"}))
    api = cluster.client()

    def die(seconds: float) -> None:
        if seconds == protocol.SETTLE_S:
            raise Killed
        cluster.time += seconds

    api.sleep = die
    with pytest.raises(Killed):
        restore.restore(api, "first", holder=RUN)
    assert restore.restore(cluster.client(), "second", holder=RUN).waited_s == protocol.SETTLE_S


def test_settings_that_no_restart_would_bring_back_are_not_saved() -> None:
    """As after a ``helm upgrade`` that restarted no agent."""
    cluster = Cluster()
    api = cluster.client()
    values = {"enable-ipv4-big-tcp": "true", "enable-ipv6-big-tcp": "true"}
    api.patch(CONFIGMAP, "cilium-config", {"data": values}, "kube-system")
    sentence = "runs with BIG TCP off for ipv4 and off for ipv6, but its configuration now says on for ipv4 and"
    with pytest.raises(PreconditionFailed, match=f"node node1: .*{sentence}.*restart Cilium's agents first"):
        begun(cluster)
    assert saved_state.read_state(api) is None
    assert cluster.lease()["holderIdentity"] == ""


@pytest.mark.parametrize("lost", ["state", "state and record"])
def test_a_changed_cilium_config_is_put_back_without_a_saved_state_or_said_not_to_be(lost: str) -> None:
    cluster = Cluster()
    before = cluster.state()
    fence = begun(cluster, "on", "off", "on", scope="cluster")
    fence.release()
    api = cluster.client()
    cluster.lose_state()
    if lost == "state":
        assert restore.restore(api, "test").outcome == "restored"
        assert cluster.state() == before
        return
    api.patch(CONFIGMAP, "cilium-config", {"metadata": {"annotations": {protocol.PRIOR: None}}}, "kube-system")
    with pytest.raises(RestoreFailed, match="nothing tells what it said before; give enable-ipv4-big-tcp and"):
        restore.restore(api, "test")
    with pytest.raises(RestoreFailed, match="nothing tells"):
        open_window(api, "next/run", plan(), choose_pair(api, plan()))
    state = saved_state.read_state(api)
    assert state is not None
    assert state.config_map is None, "what the run had set must not become what is put back"
    by_hand = {"metadata": {"annotations": {protocol.ARM: None}}, "data": dict.fromkeys(KEYS.values(), "false")}
    api.patch(CONFIGMAP, "cilium-config", by_hand, "kube-system")
    assert restore.restore(api, "test").actions[0] == "restarted all agents of DaemonSet cilium"
    assert cluster.state()["limits"] == before["limits"]


def test_a_restart_of_all_agents_is_undone_without_a_saved_state() -> None:
    cluster = Cluster()
    before = cluster.state()
    api = cluster.client()
    cilium = find_cilium(api)
    rollout(api, cilium, api.get(DAEMONSET, "cilium", "kube-system"), "w-on-1")
    assert restore.leftovers(api) == ["annotation bigtcp-bench/restarted on DaemonSet kube-system/cilium"]
    assert restore.restore(api, "orphan").outcome == "restored"
    assert cluster.state()["template"] == before["template"]


def test_no_window_is_opened_on_what_the_restore_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    fence = open_and_switch(cluster, "on")
    fence.release()
    monkeypatch.setattr(restore, "restore", lambda *_, **__: restore.RestoreReport("nothing", RUN, "test"))
    api = cluster.client()
    with pytest.raises(PreconditionFailed, match="the restore has not removed it: label bigtcp-bench/window on"):
        open_window(api, "next/run", plan(), choose_pair(api, plan()))


def test_a_retried_task_leaves_the_window_alone_that_another_run_opened_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster()
    open_and_switch(cluster, "on")
    cluster.time += protocol.LEASE_S + 1
    leftovers, other = restore.leftovers, []

    def slow(api: ClusterApi) -> list[str]:
        found = leftovers(api)
        if not other:
            other.append(None)
            other[0] = open_and_switch(cluster, "on", holder="other/run")
        return found

    monkeypatch.setattr(restore, "leftovers", slow)
    api = cluster.client()
    with pytest.raises(PreconditionFailed, match="held by other/run"):
        open_window(api, RUN, plan(), choose_pair(api, plan()))
    assert saved_state.open_state(other[0].api, other[0]).holder == "other/run"


def test_a_setting_that_is_ignored_is_named_with_device_and_value() -> None:
    cluster = Cluster()
    cluster.faults.add("setting-ignored")
    with pytest.raises(
        SwitchFailed, match=r"node node1: Cilium reports maxGSO 65536 for ipv4 .* wanted more than 65536"
    ):
        begun(cluster, "on")


@pytest.mark.parametrize(
    ("scope", "resource", "undo", "words"),
    [
        (
            "nodes",
            NODES,
            lambda item: item["metadata"]["labels"].pop(protocol.WINDOW, None),
            "somebody else has removed the label bigtcp-bench/window from the node",
        ),
        (
            "nodes",
            CILIUMNODECONFIGS,
            lambda item: item["spec"].update(defaults={"enable-ipv6-big-tcp": "false"}),
            "somebody else has removed or changed CiliumNodeConfig zz-bigtcp-bench",
        ),
        (
            "cluster",
            CONFIGMAPS,
            lambda item: item["metadata"]["name"] == "cilium-config" and item["data"].update(BIG_TCP_OFF),
            "somebody else, such as Argo CD or Flux, has put cilium-config back",
        ),
    ],
)
def test_whoever_undoes_the_benchmarks_settings_is_told_from_who_overrules_them(
    scope: str, resource: Any, undo: Callable[[Any], object], words: str
) -> None:
    class Corrected(Cluster):
        """A cluster with somebody who puts objects back as soon as they are changed."""

        def reconcile(self) -> None:
            for item in run(self.store.list(resource)):
                before = copy.deepcopy(item)
                undo(item)
                if item != before:
                    run(self.store.update(resource, item))
            super().reconcile()

    with pytest.raises(SwitchFailed, match=f"enable-ipv4-big-tcp=false, wanted true; {words}"):
        open_and_switch(Corrected(**{key.replace("-", "_"): "false" for key in BIG_TCP_OFF}), "on", scope=scope)


def test_another_node_config_that_overrules_ours_is_said_to() -> None:
    cluster = Cluster()
    api = cluster.client()
    other = {
        "metadata": {"name": "zzz", "namespace": "kube-system"},
        "spec": {"nodeSelector": {}, "defaults": BIG_TCP_OFF},
    }
    api.create(find_cilium(api).node_config_kind, other, "kube-system")
    with pytest.raises(SwitchFailed, match=r"wanted true; another CiliumNodeConfig .* overrules the benchmark's"):
        begun(cluster, "on")


def test_a_node_that_starts_no_pod_does_not_hide_what_the_other_one_has() -> None:
    cluster = Cluster()
    begun(cluster, "off")
    cluster.full.add("node1")
    cluster.nodes["node2"].limits["gro_max_size"] = BIG
    with pytest.raises(RestoreFailed, match="the devices of node node1 could not be read back: ") as failed:
        restore.restore(cluster.client(), "test", holder=RUN)
    assert "node2" not in str(failed.value)
    assert cluster.nodes["node2"].limits["gro_max_size"] == SMALL, "it was restarted once more"


def test_a_restore_that_was_overtaken_deletes_no_pod_of_the_next_run() -> None:
    """It is stopped before its n-th request, the cluster is restored and taken, the restore goes on."""

    def take_over(cluster: Cluster, number: int, seen: list[Any], when: str, change: int) -> None:
        if (when, change) == ("before", number) and not seen:
            restore.restore(cluster.client(), "by hand", force=True)
            begun(cluster, "on", holder="next/run")
            seen.append(pods.create_pod(cluster.client(), pods.build_pod("server", image="x", node="node1")))

    switched = Cluster()
    begun(switched, "on")
    pods.create_pod(switched.client(), pods.build_pod("client", image="x", node="node1"))
    number = 0
    while True:
        number += 1
        cluster = switched.fork()
        api = cluster.client()
        seen: list[Any] = []
        api.interrupt = partial(take_over, cluster, number, seen)
        with contextlib.suppress(FenceLost, RestoreFailed, Conflict):
            restore.restore(api, "test", holder=RUN)
        if not seen:
            assert number > 10
            return
        assert seen[0]["metadata"]["name"] in cluster.state()["pods"], f"stopped before change {number}"
        assert cluster.lease()["holderIdentity"] == "next/run"


def test_a_switch_of_all_nodes_that_was_killed_before_the_restart_is_finished_by_the_next_try() -> None:
    cluster = Cluster()
    fence = begun(cluster, "on", scope="cluster")
    api = cluster.client()
    pair = choose_pair(api, plan())

    def kill(when: str, change: int) -> None:
        if when == "after" and cluster.state()["cilium-config"]["enable-ipv4-big-tcp"] == "false":
            raise Killed

    api.interrupt = kill
    with pytest.raises(Killed):
        switch(api, Fence(api, RUN, window=fence.window), "off", pair, plan())
    counts = [node.agents_started for node in cluster.nodes.values()]
    report = switch(cluster.client(), fence, "off", pair, plan())
    assert report.changed == ["DaemonSet kube-system/cilium"]
    assert cluster.state()["template"]["metadata"]["annotations"][protocol.RESTARTED].startswith(
        f"{fence.window}-off-"
    )
    # Another try finds that done as well.
    assert switch(cluster.client(), fence, "off", pair, plan()).changed == []
    assert [node.agents_started for node in cluster.nodes.values()] == [count + 1 for count in counts]


def test_a_daemonset_that_is_always_changed_by_somebody_else_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def conflict(*_: object, **__: object) -> None:
        raise Conflict("met another change", 409)

    cluster = Cluster()
    with monkeypatch.context() as patched:
        patched.setattr(bigtcp_switch, "rollout", conflict)
        with pytest.raises(SwitchFailed, match="DaemonSet cilium is being changed by somebody else all the time"):
            open_and_switch(cluster, "on", scope="cluster")
    api = cluster.client()
    switch(api, Fence(api, RUN), "on", choose_pair(api, plan()), plan())
    client = cluster.client()
    request = client._request

    def busy(method: str, path: str, **given: Any) -> Any:
        if method == "PATCH" and path.endswith("/daemonsets/cilium"):
            conflict()
        return request(method, path, **given)

    client._request = busy  # type: ignore[method-assign]
    words = (
        "the agents of DaemonSet cilium could not be restarted: it is being changed by somebody else all the time"
    )
    with pytest.raises(RestoreFailed, match=words):
        restore.restore(client, "test", holder=RUN)


def test_nothing_is_changed_without_a_saved_state() -> None:
    cluster = Cluster()
    fence = begun(cluster)
    api = cluster.client()
    cluster.lose_state()
    before = cluster.state()
    with pytest.raises(FenceLost, match="saved no state"):
        switch(api, fence, "on", choose_pair(api, plan()), plan())
    assert cluster.state() == before
    assert protocol.WINDOW not in api.get(NODE, "node1")["metadata"]["labels"]


def _agent(api: object, node: str) -> str:
    from bigtcp_bench.cluster.cilium import agent_pod

    found = agent_pod(api, find_cilium(api), node)  # type: ignore[arg-type]
    assert found is not None
    return str(found["metadata"]["name"])
