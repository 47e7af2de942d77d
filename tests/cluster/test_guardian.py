"""The guardian in the cluster: what it leaves alone, what it restores as the guard would, when it gives up."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import re
from datetime import UTC, datetime
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
import yaml

from bigtcp_bench.cluster import guardian_objects, pods, requirements, restore, saved_state
from bigtcp_bench.cluster.api import ApiProblem
from bigtcp_bench.cluster.bigtcp_switch import switch
from bigtcp_bench.cluster.cilium import AGENT_READY_MAX_S
from bigtcp_bench.cluster.lease import Fence, annotate
from bigtcp_bench.cluster.nodes import NodePair, choose_pair
from bigtcp_bench.cluster.window import open_window
from bigtcp_bench.errors import FenceLost, PreconditionFailed
from bigtcp_bench.in_cluster import guardian as script
from bigtcp_bench.in_cluster import output, protocol
from bigtcp_bench.in_cluster import restore as core
from bigtcp_bench.in_cluster.hold import Means
from bigtcp_bench.resources import load_manifest, load_manifests
from bigtcp_lab.api.discovery import CONFIGMAPS, CRONJOBS, DAEMONSETS, PODS, SERVICEACCOUNTS

from .simulated import Client, Cluster, Killed, dies_everywhere, run
from .test_restore import RUN, begun, plan, put_node_config_of_our_name


class Account(script.Api):
    """The guardian's own client, on the simulated cluster instead of the network."""

    def __init__(self, cluster: Cluster, away_s: float) -> None:
        super().__init__(away_s, output.MARKER)
        self.client: Client = cluster.client()
        self.clock = self.monotonic = lambda: cluster.time  # type: ignore[method-assign]
        self.sleep = self.client._pass  # type: ignore[method-assign]

    def send(self, method: str, path: str, headers: Any, data: bytes | None) -> tuple[int, str, str]:
        place, _, query = path.partition("?")
        # Whole seconds, and not those of this machine.
        date = formatdate(self.client.cluster.time, usegmt=True)
        try:
            body = json.loads(data) if data else None
            answer = self.client._request(method, place, query=parse_qsl(query), body=body, headers=headers)
        except ApiProblem as error:
            return error.status, date, json.dumps({"message": str(error)})
        return 200, date, answer if isinstance(answer, str) else json.dumps(answer)


def wake(cluster: Cluster, account: Account | None = None) -> int:
    """Do what one Job of the CronJob does; return its exit status."""
    account = account or Account(cluster, guardian_objects.AWAY_S)
    return script.Guardian(account, Means(**json.loads(_orders())["means"])).run()


@functools.cache
def _orders() -> str:
    """Return what a guardian is told, as it is in the ConfigMap."""
    found: str = guardian_objects.config_map(plan().image)["data"][guardian_objects.ORDERS_FILE]
    return found


def abandon(cluster: Cluster, *arms: str, **fields: object) -> None:
    """Let a run switch, die, and not be heard of for as long as its lease lasts."""
    begun(cluster, *arms, **fields)
    cluster.time += protocol.LEASE_S + 1


def started(cluster: Cluster) -> list[int]:
    return [node.agents_started for node in cluster.nodes.values()]


def test_a_living_run_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Cluster()
    fence = begun(cluster, "on")
    cluster.time += protocol.LEASE_S - 10
    before = cluster.state(), cluster.lease()
    assert wake(cluster) == 0
    assert (cluster.state(), cluster.lease()) == before
    assert re.search(
        rf"{RUN} holds the cluster and renewed its hold 59\d s ago; nothing to do", capsys.readouterr().out
    )
    fence.check()


def die_before_saving(cluster: Cluster) -> None:
    """Let a run take the cluster and die while it looks at the nodes, long ago."""
    api = cluster.client()

    def kill(when: str, _change: int) -> None:
        if when == "after" and any("probe" in name for name in cluster.state()["pods"]):
            raise Killed

    api.interrupt = kill
    with pytest.raises(Killed):
        open_window(api, RUN, plan(), choose_pair(cluster.client(), plan()))
    assert cluster.find(CONFIGMAPS, "bigtcp-bench-saved-state") == []
    cluster.time += protocol.LEASE_S + 1


def test_a_run_that_died_before_it_had_saved_anything_leaves_no_pod_and_no_hold() -> None:
    cluster = Cluster()
    before = cluster.state()
    die_before_saving(cluster)
    assert cluster.state()["pods"] != before["pods"]
    assert wake(cluster) == 0
    assert cluster.state() == before
    assert cluster.lease()["holderIdentity"] == ""
    # Nothing had been changed, so nobody may be told that something was put back.
    assert not restore.restore(cluster.client(), "test", holder=RUN).changed


@pytest.mark.parametrize("scope", ["nodes", "cluster"])
@pytest.mark.parametrize("arms", [(), ("on",), ("on", "off")])
def test_a_dead_run_is_undone_as_the_guard_would(scope: str, arms: tuple[str, ...]) -> None:
    """Both ways of restoring end in the same state: the one before the run, with nobody holding the cluster."""
    ends, restarts = [], []
    for put_back in (lambda cluster: restore.restore(cluster.client(), "by hand"), wake):
        cluster = Cluster()
        before = cluster.state()
        abandon(cluster, *arms, scope=scope)
        switched = started(cluster)
        put_back(cluster)
        assert cluster.state() == before
        ends.append({**cluster.lease(), "acquireTime": None, "renewTime": None})
        restarts.append([now - then for now, then in zip(started(cluster), switched, strict=True)])
    assert ends[0] == ends[1]
    # The guardian cannot ask an agent what it has been told: one that the run has restarted it restarts once more.
    assert restarts[1] == ([1, 1] if arms else [0, 0])
    assert restarts[0] <= restarts[1]


def test_the_run_is_told_who_restored_it_and_may_change_nothing_any_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster = Cluster()
    fence = begun(cluster, "on")
    cluster.time += protocol.LEASE_S + 1
    assert wake(cluster) == 0
    said = capsys.readouterr().out
    for line in (
        f"{RUN} is gone and has left its changes; restoring what was saved at",
        "deleted CiliumNodeConfig zz-bigtcp-bench",
        "removed label bigtcp-bench/window from node node1",
        "restarted the Cilium agent on node node2",
        "node node1: the device limits are those saved",
        f"restored what {RUN} had changed, and verified it",
    ):
        assert line in said
    with pytest.raises(FenceLost, match="nobody does"):
        fence.renew()
    report = restore.restore(cluster.client(), "the run ended", holder=RUN)
    assert report.outcome == "nothing"
    assert f"put back already: {RUN} by the guardian at 2027-" in str(report)
    # The next window knows nothing of that.
    begun(cluster, holder="next/run")
    assert "put back already" not in str(restore.restore(cluster.client(), "end", force=True))
    assert restore.restore(cluster.client(), "again").already.startswith("next/run by a restore (end) at 2027-")


@pytest.mark.parametrize("scope", ["nodes", "cluster"])
def test_killed_after_every_request_its_next_round_finishes(scope: str) -> None:
    abandoned = Cluster()
    before = abandoned.state()
    abandon(abandoned, "on", scope=scope)
    restarts = started(abandoned)
    account = Account(abandoned, guardian_objects.AWAY_S)
    *left, finished = dies_everywhere(account.client, "after", lambda: wake(abandoned, account))
    assert len(left) > 9, "the guardian made hardly any changes"
    for number, cluster in enumerate(left, start=1):
        cluster.time += guardian_objects.EVERY_MIN * 60
        assert wake(cluster) == 0
        assert_put_back_once(cluster, before, restarts, f"killed after change {number}")
    assert_put_back_once(finished, before, restarts, "nobody was killed")


def assert_put_back_once(cluster: Cluster, before: dict[str, Any], restarts: list[int], why: str) -> None:
    assert cluster.state() == before, why
    assert cluster.lease()["holderIdentity"] == ""
    # What an earlier round has restarted already is not restarted again.
    assert [now - then for now, then in zip(started(cluster), restarts, strict=True)] == [1, 1], why


def test_a_restore_by_hand_goes_on_where_the_guardian_was_killed() -> None:
    cluster = Cluster()
    before = cluster.state()
    abandon(cluster, "on")
    account = Account(cluster, guardian_objects.AWAY_S)

    def kill(when: str, change: int) -> None:
        if change == 6:
            raise Killed

    account.client.interrupt = kill
    with pytest.raises(Killed):
        wake(cluster, account)
    assert restore.restore(cluster.client(), "by hand").outcome == "restored"
    assert cluster.state() == before


@pytest.mark.parametrize("saved", [True, False])
def test_one_that_is_overtaken_stops(saved: bool) -> None:
    """The guardian is stopped before its n-th request, the cluster is restored and taken, the guardian goes on."""

    def take_over(cluster: Cluster, number: int, seen: list[dict[str, Any]], when: str, change: int) -> None:
        if (when, change) == ("before", number) and not seen:
            restore.restore(cluster.client(), "by hand", force=True)
            begun(cluster, "on", holder="next/run")
            pod = pods.create_pod(cluster.client(), pods.build_pod("server", image="x", node="node1"))
            seen.append({**cluster.state(), "pod": pod["metadata"]["name"]})

    abandoned = Cluster()
    if saved:
        abandon(abandoned, "on")
    else:
        die_before_saving(abandoned)
    pods.create_pod(abandoned.client(), pods.build_pod("client", image="x", node="node1"))
    number = 0
    while True:
        number += 1
        cluster = abandoned.fork()
        account = Account(cluster, guardian_objects.AWAY_S)
        seen: list[dict[str, Any]] = []
        account.client.interrupt = partial(take_over, cluster, number, seen)
        wake(cluster, account)
        if not seen:
            assert number > (15 if saved else 4)
            return
        after = cluster.state()
        ours = seen[0].pop("pod")
        others = [name for name in after["pods"] if name != ours]
        assert len(others) < len(after["pods"]), f"stopped before change {number}, it deleted the next run's pod"
        assert all("probe" in name for name in others), "the one thing that no fence keeps from being late"
        assert {**after, "pods": []} == {**seen[0], "pods": []}, f"stopped before change {number}"
        assert cluster.lease()["holderIdentity"] == "next/run"


@pytest.mark.parametrize("dies", [False, True])
@pytest.mark.parametrize(("scope", "prior"), [("nodes", True), ("cluster", False)])
def test_a_first_write_that_was_on_its_way_when_it_began_changes_nothing(
    scope: str, prior: bool, dies: bool
) -> None:
    """The task is stopped just before its n-th request and wakes up after the guardian, or dies after that one."""

    def restore_meanwhile(cluster: Cluster, number: int, seen: list[int], when: str, change: int) -> None:
        if (when, change) == ("before", number):
            seen.append(change)
            cluster.time += protocol.LEASE_S + 1
            assert wake(cluster) == 0
        if dies and (when, change) == ("after", number):
            raise Killed

    opened = Cluster()
    if prior:
        put_node_config_of_our_name(opened, "false")
    before = opened.state()
    fence = begun(opened, scope=scope)
    number = 0
    while True:
        number += 1
        cluster = opened.fork()
        stale = cluster.client()
        seen: list[int] = []
        stale.interrupt = partial(restore_meanwhile, cluster, number, seen)
        pair = choose_pair(stale, plan())
        with contextlib.suppress(FenceLost, pods.PodFailed, Killed):
            switch(stale, Fence(stale, RUN, window=fence.window), "on", pair, plan())
        if not seen:
            assert number > 10
            return
        after = cluster.state()
        # A label that no object selects is found by whoever comes next.
        after = {**after, "pods": [], "labels": before["labels"] if dies else after["labels"]}
        assert after == before, f"stopped before change {number}"


def test_a_guardian_that_dies_while_it_waits_leaves_the_waiting_to_the_next() -> None:
    cluster = Cluster()
    fence = begun(cluster, "off")
    fence.update(lambda body: annotate(body, {protocol.IN_FLIGHT: "label node node1"}))
    cluster.time += protocol.LEASE_S + 1
    account = Account(cluster, guardian_objects.AWAY_S)

    def die(seconds: float) -> None:
        raise Killed

    account.sleep = die  # type: ignore[method-assign]
    with pytest.raises(Killed):
        wake(cluster, account)
    assert restore.restore(cluster.client(), "next", force=True).waited_s == protocol.SETTLE_S


def test_why_an_agent_does_not_start_is_said_and_not_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Cluster()
    abandon(cluster, "on")
    cluster.faults.add("crashes")
    began = cluster.time
    assert wake(cluster) == 1
    assert re.search(
        r"NOT RESTORED, .* the Cilium agent on node node1 does not start: pod cilium-\S+ container cilium-agent "
        r"waits: CrashLoopBackOff, after it ended with Error 1 \(no kernel for that\)",
        capsys.readouterr().out,
    )
    assert cluster.time - began < 60, "no agent that ends again and again is waited for"


def test_what_a_restore_has_restarted_the_guardian_does_not_restart_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    before = cluster.state()
    abandon(cluster, "on")
    api = cluster.client()

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(core.Restoration, "_verify_limits", die)
        with pytest.raises(Killed):
            restore.restore(api, "by hand")
    counts = started(cluster)
    cluster.time += protocol.RESTORE_LEASE_S + 1
    assert wake(cluster) == 0
    assert started(cluster) == counts
    assert cluster.state() == before


def test_a_change_in_flight_is_waited_for() -> None:
    cluster = Cluster()
    fence = begun(cluster, "on")
    fence.update(lambda body: annotate(body, {protocol.IN_FLIGHT: "label node node1"}))
    cluster.time += protocol.LEASE_S + 1
    since = cluster.time
    assert wake(cluster) == 0
    assert cluster.time - since >= protocol.SETTLE_S


def test_limits_that_stay_wrong_keep_the_state_and_restart_no_agent_over_and_over(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster = Cluster()
    before = cluster.state()
    abandon(cluster, "on")
    restarts = started(cluster)
    cluster.faults.add("setting-ignored")
    counts = []
    for _ in range(12):
        assert wake(cluster) == 1
        said = capsys.readouterr().out
        assert "NOT RESTORED, the saved state stays: node node1: device eth0 has g" in said
        assert saved_state.read_state(cluster.client()) is not None
        assert cluster.lease()["holderIdentity"] == f"revoked:{RUN}"
        counts.append([now - then for now, then in zip(started(cluster), restarts, strict=True)])
        cluster.time += guardian_objects.EVERY_MIN * 60
    assert counts[:2] == [[1, 1], [2, 2]]
    assert counts[-1] == [3, 3]
    assert counts.count([2, 2]) >= protocol.LAST_RESTART_S / (guardian_objects.EVERY_MIN * 60) - 1
    cluster.faults.clear()
    # Nobody sets them but an agent that starts.
    assert wake(cluster) == 1
    assert restore.restore(cluster.client(), "mended", afresh=True).changed
    assert cluster.state() == before


def test_it_waits_for_agents_as_long_as_cilium_does() -> None:
    cluster = Cluster()
    found = run(cluster.store.get(DAEMONSETS, "cilium", "kube-system"))
    for item in found["spec"]["template"]["spec"]["containers"]:
        item["startupProbe"] = {"failureThreshold": 300, "periodSeconds": 2, "initialDelaySeconds": 5}
    run(cluster.store.update(DAEMONSETS, found))
    begun(cluster)
    (told,) = cluster.find(CONFIGMAPS, guardian_objects.protocol.GUARDIAN_NAME)
    assert json.loads(told["data"][guardian_objects.ORDERS_FILE])["means"]["agent_ready_s"] == 635


def test_the_guardian_has_time_for_slow_agents() -> None:
    """Two of them, one after the other, as slow as they may be, and 20 minutes for all else that it does."""
    job = load_manifest("guardian.yaml")["spec"]["jobTemplate"]["spec"]
    assert job["activeDeadlineSeconds"] >= 2 * AGENT_READY_MAX_S + 1200


def test_without_a_state_it_removes_itself_but_not_under_a_living_run() -> None:
    cluster = Cluster()
    fence = begun(cluster)
    cluster.lose_state()
    assert wake(cluster) == 0
    assert len(cluster.state()["guardian"]) == 2
    fence.release()
    assert wake(cluster) == 0
    assert cluster.state()["guardian"] == []


def test_what_cannot_be_undone_restarts_no_agent(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Cluster()
    abandon(cluster, "on")
    restarts = started(cluster)
    account = Account(cluster, guardian_objects.AWAY_S)
    send = account.send

    def refuse(method: str, path: str, headers: Any, data: bytes | None) -> tuple[int, str, str]:
        if method == "PATCH":
            return 403, "", json.dumps({"message": "nodes is forbidden"})
        return send(method, path, headers, data)

    account.send = refuse  # type: ignore[method-assign]
    assert wake(cluster, account) == 1
    assert "NOT RESTORED, the saved state stays: the label bigtcp-bench/window could" in capsys.readouterr().out
    assert started(cluster) == restarts


def test_why_a_probe_failed_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Cluster()
    abandon(cluster, "on")

    def evict(pod: Any) -> None:
        pod["status"] = {"phase": "Failed", "reason": "Evicted", "message": "the node was low on memory"}
        run(cluster.store.update(PODS, pod, "status"))

    cluster._run_bench_pod = evict  # type: ignore[method-assign]
    assert wake(cluster) == 1
    assert "the probe pod is Failed after up to 180 s: Evicted: the node was low" in capsys.readouterr().out


def test_an_api_that_is_away_is_waited_for_but_not_for_ever(capsys: pytest.CaptureFixture[str]) -> None:
    cluster = Cluster()
    before = cluster.state()
    abandon(cluster, "on")
    account = Account(cluster, guardian_objects.AWAY_S)
    send = account.send
    away_until = cluster.time + guardian_objects.AWAY_S / 2

    def refuse(method: str, path: str, headers: Any, data: bytes | None) -> tuple[int, str, str]:
        if cluster.time < away_until:
            raise ConnectionRefusedError("nobody listens")
        if cluster.time < away_until + 10:
            # It is back, and has not yet read who may do what.
            return 403, "", '{"message": "leases is forbidden"}'
        return send(method, path, headers, data)

    account.send = refuse  # type: ignore[method-assign]
    assert wake(cluster, account) == 0
    assert cluster.state() == before
    away_until = float("inf")
    with pytest.raises(script.Refused, match=r"no usable answer for 60 s \(last: nobody listens\)"):
        wake(cluster, account)


class TestInstalling:
    """What the guard does about its guardian."""

    def test_it_is_there_before_the_first_change_and_gone_after_the_restore(self) -> None:
        cluster = Cluster()
        said: list[str] = []
        api = cluster.client()
        open_window(api, RUN, plan(), choose_pair(api, plan()), progress=said.append)
        job, files = cluster.state()["guardian"]
        assert job["spec"]["schedule"] == "0-59/5 * * * *", "the window was opened at a minute divisible by five"
        told = json.loads(files["data"]["orders.json"])
        Means(**told["means"])
        assert files["data"]["guardian.py"] == Path(script.__file__).read_text()
        assert "a guardian in the cluster puts it back if this run is not heard of for 600 s" in said[0]
        report = restore.restore(cluster.client(), "test", holder=RUN)
        assert report.actions == ["removed the guardian"]
        assert cluster.state()["guardian"] == []

    def test_a_plan_can_do_without(self) -> None:
        cluster = Cluster()
        begun(cluster, guardian=False)
        assert cluster.state()["guardian"] == []

    @pytest.mark.parametrize("lacking", ["account", "right"])
    def test_without_account_or_right_the_run_goes_on_and_says_so(self, lacking: str) -> None:
        cluster = Cluster()
        if lacking == "account":
            run(
                cluster.store.delete(
                    SERVICEACCOUNTS, guardian_objects.protocol.GUARDIAN_NAME, pods.BENCH_NAMESPACE
                )
            )
            reason = "namespace bigtcp-bench has no ServiceAccount bigtcp-bench-guardian"
        else:
            cluster.forbidden.add("cronjobs")
            reason = "the account in use may not create cronjobs in namespace bigtcp-bench"
        said: list[str] = []
        api = cluster.client()
        pair = choose_pair(api, plan())
        found = requirements.preflight(api, plan(), pair, with_pods=False).checks
        (check,) = [check for check in found if check.name == "guardian"]
        assert (check.status, check.found, check.advice) == ("warn", f"none: {reason}", guardian_objects.REMEDY)
        window = open_window(api, RUN, plan(), pair, progress=said.append)
        assert cluster.state()["guardian"] == []
        assert said[0].startswith(
            f"no guardian in the cluster, so it stays as it is if Airflow never comes back: {reason}"
        )
        switch(api, window.fence, "on", pair, plan())

    @pytest.mark.parametrize("looked", [False, True])
    def test_a_switch_says_so_where_the_guardian_never_looked(self, looked: bool) -> None:
        cluster = Cluster()
        fence = begun(cluster)
        api = cluster.client()
        name = guardian_objects.protocol.GUARDIAN_NAME
        stored = cluster.store._find(CRONJOBS, name, pods.BENCH_NAMESPACE)
        # The store's clock is the real one.
        stored["metadata"]["creationTimestamp"] = f"{datetime.fromtimestamp(int(cluster.time), UTC):%FT%TZ}"
        if looked:
            stored["status"] = {"lastSuccessfulTime": "2027-01-15T08:05:00Z"}
        said: list[str] = []
        switch(api, fence, "off", choose_pair(api, plan()), plan(), progress=said.append)
        assert "guardian" not in " ".join(said), "it has its first look before it"
        said.clear()
        cluster.time += 500
        switch(api, fence, "off", choose_pair(api, plan()), plan(), progress=said.append)
        assert [text[:76] for text in said] == [
            "the guardian bigtcp-bench/bigtcp-bench-guardian has not looked in 8 minutes,"
        ] * (not looked)

    def test_the_next_window_has_a_guardian_of_its_own(self) -> None:
        """A guardian that looks at the very moment a run begins must not take the new run's CronJob with it."""
        cluster = Cluster()
        begun(cluster).release()
        api = cluster.client()
        cluster.lose_state()
        (first, _) = cluster.state()["guardian"]
        account = Account(cluster, guardian_objects.AWAY_S)

        def begin(when: str, change: int) -> None:
            if (when, change) == ("before", 1):
                open_window(api, "next/run", plan(), choose_pair(api, plan()))

        account.client.interrupt = begin
        assert wake(cluster, account) == 0
        (second, _) = cluster.state()["guardian"]
        assert first["metadata"]["uid"] != second["metadata"]["uid"]

    def test_a_window_that_cannot_be_opened_leaves_none_behind(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = Cluster()
        before = cluster.state()
        api = cluster.client()

        def fail(*_: object) -> None:
            raise PreconditionFailed("no")

        monkeypatch.setattr(saved_state, "save", fail)
        with pytest.raises(PreconditionFailed):
            open_window(api, RUN, plan(), choose_pair(api, plan()))
        assert cluster.state() == before


def test_manifest_and_rights_fit_the_names() -> None:
    """The CronJob, its account and every rule by name speak of the objects that script and guard speak of."""
    pair = choose_pair(Cluster().client(), plan())
    body = guardian_objects.cronjob("registry.example.org/tools:1", 1_800_000_000 + 7 * 60, pair, ["secret"])
    pod = body["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert body["spec"]["schedule"] == "2-59/5 * * * *"
    assert pod["containers"][0]["image"] == "registry.example.org/tools:1"
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux", "kubernetes.io/arch": pair.client.architecture}
    mixed = NodePair(pair.client, dataclasses.replace(pair.server, architecture="other"))
    body_of_mixed = guardian_objects.cronjob("registry.example.org/tools:1", 0, mixed)
    selector = body_of_mixed["spec"]["jobTemplate"]["spec"]["template"]["spec"]["nodeSelector"]
    assert selector == {"kubernetes.io/os": "linux"}
    files = guardian_objects.config_map("registry.example.org/tools:1", ["secret"])["data"]
    probe = json.loads(files[guardian_objects.ORDERS_FILE])["means"]["probe_pod"]
    assert pod["imagePullSecrets"] == probe["spec"]["imagePullSecrets"] == [{"name": "secret"}]
    name = guardian_objects.protocol.GUARDIAN_NAME
    assert {body["metadata"]["name"], pod["serviceAccountName"], pod["volumes"][0]["configMap"]["name"]} == {name}
    assert pod["containers"][0]["command"] == ["python3", "-m", script.__name__]
    mounted = {item["key"]: item["path"] for item in pod["volumes"][0]["configMap"]["items"]}
    assert set(mounted) == set(files)
    for file in guardian_objects.FILES:
        assert mounted[file.name] == f"bigtcp_bench/in_cluster/{file.name}"
    assert pod["containers"][0]["args"] == [f"/bigtcp/{guardian_objects.ORDERS_FILE}"]
    term = pod["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"][0]
    assert term["preference"]["matchExpressions"] == [{"key": protocol.WINDOW, "operator": "DoesNotExist"}]
    assert load_manifest("guardian.yaml")["metadata"]["labels"][pods.ROLE_LABEL] not in pods.ALL_ROLES

    named = {
        resource_name
        for item in load_manifests("rbac.yaml")
        if item["metadata"]["name"] == name
        for rule in item.get("rules") or []
        for resource_name in rule.get("resourceNames") or []
    }
    assert named == {protocol.LEASE_NAME, protocol.STATE_NAME, protocol.NODE_CONFIG_NAME, name, "cilium-config"}
    assert "exec" not in yaml.safe_dump([i for i in load_manifests("rbac.yaml") if i["metadata"]["name"] == name])
