"""What the guard promises: one run at a time, nothing changed without a saved state, everything comes back."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from bigtcp_bench.cluster import guard, pods
from bigtcp_bench.cluster.api import CONFIGMAP, NODE, ApiUnreachable
from bigtcp_bench.cluster.bigtcp_switch import node_config, switch
from bigtcp_bench.cluster.cilium import find_cilium
from bigtcp_bench.cluster.nodes import choose_pair
from bigtcp_bench.cluster.pods import PodFailed
from bigtcp_bench.errors import FenceLost, PreconditionFailed, RestoreFailed, SwitchFailed
from bigtcp_bench.lab.api.discovery import CILIUMNODECONFIGS, CONFIGMAPS, NODES
from bigtcp_bench.plan import Plan, validate_plan

from .simulated import ALL_LIMITS, BIG, SMALL, Cluster, Killed, run

BIG_TCP_OFF = {"enable-ipv4-big-tcp": "false", "enable-ipv6-big-tcp": "false"}
RUN = "bigtcp_benchmark/manual__2026-11-23"


def plan(**fields: object) -> Plan:
    return validate_plan({"scenarios": "ipv4-stream-1,ipv6-rr", **fields})


def open_and_switch(cluster: Cluster, *arms: str, holder: str = RUN, **fields: object) -> guard.Fence:
    """Do what a run does, through clients of its own, and return its fence."""
    api = cluster.client()
    window = guard.open_window(api, holder, plan(**fields), choose_pair(api, plan(**fields)))
    for arm in arms:
        switch(api, window.fence, arm, choose_pair(api, plan(**fields)), plan(**fields))  # type: ignore[arg-type]
    return window.fence


def test_a_run_switches_and_everything_comes_back() -> None:
    cluster = Cluster()
    before = cluster.state()
    fence = open_and_switch(cluster, "off")
    assert [node.agents_started for node in cluster.nodes.values()] == [1, 1], "off was in force already"
    api = cluster.client()
    report = switch(api, fence, "on", choose_pair(api, plan()), plan())
    assert report.restarted
    assert cluster.nodes["node2"].limits["gro_ipv4_max_size"] == BIG
    assert report.nodes["node1"].max_gso == {"ipv4": BIG, "ipv6": BIG}

    restored = guard.restore(cluster.client(), "test", holder=RUN)
    assert restored.outcome == "restored"
    assert restored.waited_s == 0, "nothing was in flight"
    assert cluster.state() == before
    assert cluster.lease()["holderIdentity"] == ""
    assert guard.restore(cluster.client(), "again", holder=RUN).outcome == "nothing"


def test_a_tunnel_device_beside_native_routing_needs_no_big_tcp_but_is_saved() -> None:
    """Egress gateway and DSR by Geneve make one; Cilium before 1.19 sets no limits on it."""
    cluster = Cluster()
    tunnel = {**dict.fromkeys(ALL_LIMITS, SMALL), "tso_max_size": SMALL}
    cluster.extra_devices = {"cilium_vxlan": {"index": 7, "kind": "vxlan", "mtu": 1450, **tunnel}}
    fence = open_and_switch(cluster)
    api = cluster.client()
    report = switch(api, fence, "on", choose_pair(api, plan()), plan())
    assert list(report.nodes["node1"].limits) == ["eth0"]
    assert guard.open_state(api, fence).nodes["node1"].limits["cilium_vxlan"]["tso_max_size"] == SMALL
    assert guard.restore(cluster.client(), "test", holder=RUN).outcome == "restored"


def test_a_tunnel_device_that_carries_the_traffic_needs_it() -> None:
    cluster = Cluster()
    tunnel = {**dict.fromkeys(ALL_LIMITS, SMALL), "tso_max_size": SMALL}
    cluster.extra_devices = {"cilium_vxlan": {"index": 7, "kind": "vxlan", "mtu": 1450, **tunnel}}
    cluster.extra_status = {"routing": {"inter-host-routing-mode": "Tunnel", "intra-host-routing-mode": "BPF"}}
    with pytest.raises(
        SwitchFailed, match="device cilium_vxlan has gso_ipv4_max_size 65536 with BIG TCP switched on"
    ):
        open_and_switch(cluster, "on")


def test_a_state_in_force_and_proven_restarts_nothing_unless_told_to() -> None:
    cluster = Cluster(enable_ipv4_big_tcp="true", enable_ipv6_big_tcp="true")
    fence = open_and_switch(cluster, "on")
    assert [node.agents_started for node in cluster.nodes.values()] == [1, 1]
    api = cluster.client()
    report = switch(api, fence, "on", choose_pair(api, plan()), plan(), force_restart=True)
    assert [node.agents_started for node in cluster.nodes.values()] == [2, 2]
    assert report.restarted


@pytest.mark.parametrize("scope", ["nodes", "cluster"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_at_every_request_it_comes_back(scope: str, moment: str) -> None:
    """The n-th changing request of a run is its last, for every n; a restore by somebody else puts all back."""
    number = 0
    while True:
        number += 1
        cluster = Cluster()
        before = cluster.state()
        api = cluster.client()

        def kill(when: str, change: int, number: int = number) -> None:
            if (when, change) == (moment, number):
                raise Killed

        api.interrupt = kill
        finished = False
        try:
            the_plan = plan(scope=scope)
            pair = choose_pair(api, the_plan)
            window = guard.open_window(api, RUN, the_plan, pair)
            for arm in ("on", "off"):
                switch(api, window.fence, arm, pair, the_plan)  # type: ignore[arg-type]
            finished = True
        except Killed:
            pass
        api.interrupt = lambda moment, number: None
        guard.restore(cluster.client(), "test", holder=RUN)
        after = cluster.state()
        # Probe pods end by themselves; whoever was killed could not delete them.
        after["pods"] = [name for name in after["pods"] if "probe" not in name]
        assert after == before, f"killed {moment} change {number}"
        if finished:
            assert number > 20, "the run made hardly any changes"
            return


def test_a_restore_killed_at_every_request_is_finished_by_the_next() -> None:
    number = 0
    while True:
        number += 1
        cluster = Cluster()
        before = cluster.state()
        open_and_switch(cluster, "on")
        api = cluster.client()

        def kill(when: str, change: int, number: int = number) -> None:
            if (when, change) == ("after", number):
                raise Killed

        api.interrupt = kill
        finished = False
        try:
            guard.restore(api, "first", holder=RUN)
            finished = True
        except Killed:
            # The dead restore holds the lease; nobody waits longer than that lasts.
            started = cluster.time
            guard.restore(cluster.client(), "second", holder=RUN)
            assert cluster.time - started < guard.RESTORE_LEASE_S + 30
        after = cluster.state()
        after["pods"] = [name for name in after["pods"] if "probe" not in name]
        assert after == before, f"killed after change {number}"
        assert cluster.lease()["holderIdentity"] == ""
        if finished:
            return


def test_a_stale_task_that_wakes_up_after_the_restore_changes_nothing() -> None:
    """A task is stopped just before its n-th request; the run is restored; then the task goes on."""

    def restore_meanwhile(cluster: Cluster, number: int, seen: list[int], when: str, change: int) -> None:
        if (when, change) == ("before", number):
            seen.append(change)
            guard.restore(cluster.client(), "the run was ended", holder=RUN)

    number = 0
    while True:
        number += 1
        cluster = Cluster()
        before = cluster.state()
        fence = open_and_switch(cluster, "off")
        started = [node.agents_started for node in cluster.nodes.values()]
        stale = cluster.client()
        seen: list[int] = []

        stale.interrupt = partial(restore_meanwhile, cluster, number, seen)
        old_fence = guard.Fence(stale, RUN, window=fence.window)
        # The restore also deletes the probe that the task may be waiting for.
        with contextlib.suppress(FenceLost, PodFailed):
            switch(stale, old_fence, "on", choose_pair(stale, plan()), plan())
        if not seen:
            assert number > 10
            return
        after = cluster.state()
        after["pods"] = [name for name in after["pods"] if "probe" not in name]
        assert after == before, f"stopped before change {number}"
        assert all(
            node.agents_started <= count + 2 for node, count in zip(cluster.nodes.values(), started, strict=True)
        )
        with pytest.raises(FenceLost, match="hold"):
            switch(stale, old_fence, "on", choose_pair(stale, plan()), plan())


def test_a_node_config_created_too_late_selects_no_node() -> None:
    """The one request that no precondition can stop: a creation that was already on its way."""
    cluster = Cluster()
    fence = open_and_switch(cluster, "on")
    late = node_config(find_cilium(cluster.client()), RUN, fence.window, "on")
    guard.restore(cluster.client(), "test", holder=RUN)
    api = cluster.client()
    api.create(find_cilium(api).node_config_kind, late, "kube-system")
    for pod in api.select(guard.pods.POD, "kube-system", labels="k8s-app=cilium"):
        api.delete(guard.pods.POD, pod["metadata"]["name"], "kube-system")
    assert {node.limits["gso_max_size"] for node in cluster.nodes.values()} == {SMALL}
    # It is found and removed by whoever comes next, without any saved state.
    assert guard.leftovers(api) == ["CiliumNodeConfig kube-system/zz-bigtcp-bench"]
    assert guard.restore(api, "orphan").outcome == "restored"
    assert guard.leftovers(api) == []


def test_a_cleared_run_takes_over_from_its_own_living_attempt() -> None:
    cluster = Cluster()
    before = cluster.state()
    first = open_and_switch(cluster, "on")
    api = cluster.client()
    window = guard.open_window(api, RUN, plan(), choose_pair(api, plan()))
    assert window.restored is not None
    assert window.restored.outcome == "restored"
    assert window.state.nodes["node1"].merged == {"ipv4": False, "ipv6": False}
    with pytest.raises(FenceLost, match="older attempt"):
        switch(api, first, "on", choose_pair(api, plan()), plan())
    guard.restore(api, "end", holder=RUN)
    assert cluster.state() == before


def test_only_one_run_holds_the_cluster() -> None:
    cluster = Cluster()
    fence = open_and_switch(cluster, "on")
    api = cluster.client()
    with pytest.raises(PreconditionFailed, match=f"held by {RUN}"):
        guard.open_window(api, "other/run", plan(), choose_pair(api, plan()))
    assert guard.restore(api, "end of another run", holder="other/run").outcome == "nothing"
    with pytest.raises(PreconditionFailed, match="force"):
        guard.restore(api, "by hand")
    fence.check()

    cluster.time += guard.LEASE_S + 1
    with pytest.raises(FenceLost, match="has not renewed"):
        fence.check()
    window = guard.open_window(api, "other/run", plan(), choose_pair(api, plan()))
    assert window.restored is not None
    assert window.restored.owner == RUN
    assert cluster.nodes["node1"].limits["gso_max_size"] == SMALL


def test_a_forced_restore_ends_a_living_run() -> None:
    cluster = Cluster()
    before = cluster.state()
    fence = open_and_switch(cluster, "on")
    guard.restore(cluster.client(), "by hand", force=True)
    assert cluster.state() == before
    with pytest.raises(FenceLost, match="nobody does"):
        fence.renew()


def test_a_change_in_flight_is_waited_for_and_an_unknown_outcome_counts_as_in_flight() -> None:
    cluster = Cluster()
    fence = open_and_switch(cluster, "off")
    with pytest.raises(ApiUnreachable), fence.mutating("something"):
        raise ApiUnreachable("no answer", 0)
    assert guard.restore(cluster.client(), "test", holder=RUN).waited_s == guard.SETTLE_S


def test_what_somebody_else_changed_meanwhile_stays() -> None:
    cluster = Cluster()
    open_and_switch(cluster, "off")
    api = cluster.client()
    values = {"enable-ipv4-big-tcp": "true", "enable-ipv6-big-tcp": "true"}
    api.patch(CONFIGMAP, "cilium-config", {"data": values}, "kube-system")
    report = guard.restore(api, "test", holder=RUN)
    assert {node.limits["gso_max_size"] for node in cluster.nodes.values()} == {BIG}
    assert any("somebody else" in note for note in report.notes)


def test_a_node_config_of_our_name_that_was_there_before_is_put_back() -> None:
    cluster = Cluster()
    api = cluster.client()
    prior = {
        "kind": "CiliumNodeConfig",
        "metadata": {"name": "zz-bigtcp-bench", "namespace": "kube-system", "labels": {"by": "hand"}},
        "spec": {
            "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "node1"}},
            "defaults": {"enable-ipv4-big-tcp": "true", "enable-ipv6-big-tcp": "true"},
        },
    }
    api.create(find_cilium(api).node_config_kind, prior, "kube-system")
    api.delete(guard.pods.POD, _agent(api, "node1"), "kube-system")
    before = cluster.state()
    assert before["limits"]["node1"]["gso_max_size"] == BIG
    open_and_switch(cluster, "off", "on")
    guard.restore(api, "test", holder=RUN)
    assert cluster.state() == before


def test_an_agent_that_stays_unready_fails_the_restore_and_keeps_the_state() -> None:
    cluster = Cluster()
    before = cluster.state()
    open_and_switch(cluster, "on")
    cluster.faults.add("never-ready")
    with pytest.raises(
        RestoreFailed, match=r"not Ready within 40 s: pod cilium-.* container cilium-agent runs but"
    ):
        guard.restore(cluster.client(), "test", holder=RUN, agent_ready_s=40)
    assert guard.read_state(cluster.client()) is not None
    cluster.faults.clear()
    for name in cluster.nodes:
        cluster.client().delete(guard.pods.POD, _agent(cluster.client(), name), "kube-system")
    guard.restore(cluster.client(), "again", holder=RUN)
    assert cluster.state() == before


def test_a_setting_that_is_ignored_is_named_with_device_and_value() -> None:
    cluster = Cluster()
    cluster.faults.add("setting-ignored")
    with pytest.raises(
        SwitchFailed, match=r"node node1: Cilium reports maxGSO 65536 for ipv4 .* wanted more than 65536"
    ):
        open_and_switch(cluster, "on")


@pytest.mark.parametrize(
    ("scope", "resource", "undo", "words"),
    [
        (
            "nodes",
            NODES,
            lambda item: item["metadata"]["labels"].pop(guard.WINDOW, None),
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
        open_and_switch(cluster, "on")


def test_limits_left_by_a_broken_agent_are_mended_by_another_restart() -> None:
    cluster = Cluster()
    before = cluster.state()
    open_and_switch(cluster, "off")
    cluster.nodes["node2"].limits["gro_max_size"] = BIG
    report = guard.restore(cluster.client(), "test", holder=RUN)
    assert report.nodes["node2"]["restarted"]
    assert not report.nodes["node1"]["restarted"]
    assert cluster.state() == before


def test_nothing_is_changed_without_a_saved_state() -> None:
    cluster = Cluster()
    fence = open_and_switch(cluster)
    api = cluster.client()
    api.delete(CONFIGMAP, guard.STATE_NAME, pods.BENCH_NAMESPACE)
    before = cluster.state()
    with pytest.raises(FenceLost, match="saved no state"):
        switch(api, fence, "on", choose_pair(api, plan()), plan())
    assert cluster.state() == before
    assert guard.WINDOW not in api.get(NODE, "node1")["metadata"]["labels"]


def test_a_saved_state_that_cannot_be_read_says_what_to_do_by_hand() -> None:
    cluster = Cluster()
    api = cluster.client()
    pods.ensure_namespace(api)
    body = {"metadata": {"name": guard.STATE_NAME}, "data": {guard.STATE_KEY: "{}"}}
    api.create(CONFIGMAP, body, pods.BENCH_NAMESPACE)
    with pytest.raises(RestoreFailed, match="put back by hand"):
        guard.restore(api, "test")


def _agent(api: object, node: str) -> str:
    from bigtcp_bench.cluster.cilium import agent_pod

    found = agent_pod(api, find_cilium(api), node)  # type: ignore[arg-type]
    assert found is not None
    return str(found["metadata"]["name"])
