"""The same promises on the lab: real devices, real processes, the API over the wire."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client as k8s
from kubernetes import config as k8s_config

from bigtcp_bench.analysis.verdicts import pressure_problems
from bigtcp_bench.cluster import agent_settings, pods, requirements, restore, rights, saved_state
from bigtcp_bench.cluster.api import DAEMONSET, LEASE, NODE, POD, ClusterApi, Forbidden, Kind
from bigtcp_bench.cluster.bigtcp_switch import switch
from bigtcp_bench.cluster.checks import refuse_failed
from bigtcp_bench.cluster.cilium import config_values, find_cilium
from bigtcp_bench.cluster.guardian_objects import CRONJOB
from bigtcp_bench.cluster.lease import Fence, LeaseState, read_lease
from bigtcp_bench.cluster.node_counters import CILIUM_METRICS, counters_of, node_growth, read_nodes
from bigtcp_bench.cluster.nodes import choose_pair
from bigtcp_bench.cluster.rollout import observe
from bigtcp_bench.cluster.window import open_window
from bigtcp_bench.commands import main
from bigtcp_bench.errors import PreconditionFailed, SwitchFailed
from bigtcp_bench.in_cluster import protocol
from bigtcp_bench.judging.facts import facts_of
from bigtcp_bench.measuring.dry_run import outline
from bigtcp_bench.measuring.packet_sizes import PacketSizes, rows
from bigtcp_bench.planning.plan import Plan, blocks, validate_plan
from bigtcp_bench.readings.frames import packed
from bigtcp_bench.resources import include_dir, load_manifests
from bigtcp_bench.warehouse.records import RawDocument
from bigtcp_lab import daemon
from bigtcp_lab.daemon import LabInfo
from tests.lab.helpers import eventually
from tests.lab.kubectl import Kubectl
from tests.support.cluster_state import device_limits as limits

pytestmark = pytest.mark.lab

PLAN = validate_plan({"scenarios": "ipv4-stream-1,ipv6-stream-1"})
RBAC = "rbac.authorization.k8s.io"


@pytest.fixture
def api(lab: LabInfo, lab_dir: Path) -> Iterator[ClusterApi]:
    """Return an administrator's connection; afterwards no fault is on and nothing is left of the test."""
    api = ClusterApi.from_kubeconfig(lab.kubeconfig, away_s=20)
    yield api
    for fault in daemon.status(lab_dir).faults:
        daemon.set_fault(lab_dir, fault, False)
    restore.restore(api, "end of a test", force=True)
    api.close()


def settings(api: ClusterApi) -> object:
    cilium = find_cilium(api)
    daemonset = api.select(DAEMONSET, cilium.namespace)[0]
    return (
        [item["spec"] for item in api.select(cilium.node_config_kind, cilium.namespace)],
        config_values(api, cilium),
        {node: agent_settings.of_next_start(api, cilium, daemonset, node) for node in ("node1", "node2")},
        {node["metadata"]["name"]: node["metadata"]["labels"] for node in api.select(NODE)},
        daemonset["spec"]["template"],
    )


@pytest.mark.parametrize("killed_after_s", [0.3, 1.5, 2.5])
def test_a_process_killed_in_the_middle_of_a_switch_leaves_nothing(
    api: ClusterApi, lab: LabInfo, killed_after_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "SETTLE_S", 2)
    before = settings(api), limits(api)
    pair = choose_pair(api, PLAN)
    open_window(api, "test/killed", PLAN, pair)

    def change(begun: Event) -> None:
        own = ClusterApi.from_kubeconfig(lab.kubeconfig)
        begun.set()
        switch(own, Fence(own, "test/killed"), "on", choose_pair(own, PLAN), PLAN)

    with _beside(change):
        time.sleep(killed_after_s)
    restore.restore(api, "test", holder="test/killed")
    assert (settings(api), limits(api)) == before


def test_what_goes_wrong_on_a_node_is_named(
    api: ClusterApi, lab_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = choose_pair(api, PLAN)
    window = open_window(api, "test/faults", PLAN, pair)
    daemon.set_fault(lab_dir, "setting-ignored:node2", True)
    with pytest.raises(SwitchFailed, match=r"node node2: .* 65536 .* wanted more than 65536") as failed:
        switch(api, window.fence, "on", pair, PLAN)
    config = failed.value.report["nodes"]["node1"]["config"]
    assert (config["routing-mode"], "enable-ipv4-big-tcp" in config) == ("native", False)
    daemon.set_fault(lab_dir, "setting-ignored:node2", False)
    daemon.set_fault(lab_dir, "agent-never-ready:node1", True)
    monkeypatch.setattr("bigtcp_bench.cluster.cilium.AGENT_READY_S", 4)
    with pytest.raises(
        SwitchFailed, match=r"agent on node node1 was not Ready within 4 s: pod cilium-.* container"
    ):
        switch(api, window.fence, "off", pair, PLAN)


def test_the_check_names_a_node_that_cannot_take_big_packets(
    api: ClusterApi, lab: LabInfo, lab_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command on the whole lab: without a fault only warnings, with two faults a line for each."""

    def check() -> tuple[int, dict[tuple[str, str], dict[str, str]]]:
        status = main.main(["check", "--plan", "quick", "--json", "--kubeconfig", str(lab.kubeconfig)])
        document = json.loads(capsys.readouterr().out)
        return status, {(line["name"], line["node"]): line for line in document["checks"]}

    status, lines = check()
    assert (status, lines["pod to pod, ipv6", ""]["status"], lines["rights", ""]["status"]) == (1, "pass", "pass")
    assert {line["status"] for line in lines.values()} == {"pass", "warn"}
    for fault in ("old-kernel:node2", "nic-65536:node1"):
        daemon.set_fault(lab_dir, fault, True)
    status, lines = check()
    assert (status, lines["kernel, ipv4", "node2"]["status"], lines["device", "node1"]["status"]) == (
        2,
        "fail",
        "fail",
    )
    assert "does not know BIG TCP for ipv4" in lines["kernel, ipv4", "node2"]["found"]
    assert "tso_max_size 65536" in lines["device", "node1"]["found"]
    assert [name for (name, _), line in lines.items() if line["status"] == "fail"] == ["device", "kernel, ipv4"]
    assert api.select(POD, pods.BENCH_NAMESPACE) == []


def test_a_window_opens_and_closes_through_an_api_that_fails_now_and_then(
    api: ClusterApi, lab_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request in five fails, some of them after they took effect."""
    monkeypatch.setattr(protocol, "SETTLE_S", 1)
    before = settings(api), limits(api)
    pair = choose_pair(api, PLAN)
    daemon.set_fault(lab_dir, "api-errors", True)
    window = open_window(api, "test/errors", PLAN, pair)
    for number in range(5):
        with window.fence.mutating(f"change {number}"):
            window.fence.check()
    restore.restore(api, "test", holder="test/errors")
    daemon.set_fault(lab_dir, "api-errors", False)
    assert (settings(api), limits(api)) == before
    assert restore.leftovers(api) == []


def test_a_cluster_without_cilium_is_one_sentence(tmp_path: Path) -> None:
    lab = daemon.up(tmp_path, faults=["no-cilium"])
    try:
        with pytest.raises(PreconditionFailed, match="no Cilium on the cluster at https://127"):
            find_cilium(ClusterApi.from_kubeconfig(lab.kubeconfig))
    finally:
        daemon.down(tmp_path)


def test_counters_of_a_node_grow_with_its_traffic_and_its_load_is_told(api: ClusterApi) -> None:
    pair = choose_pair(api, PLAN)
    first = read_nodes(api, PLAN, pair)["node1"]
    # The nodes of the lab share this machine's CPUs.
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        documents = read_nodes(api, PLAN, pair, sample_s=0.5)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    found = node_growth(first, documents["node1"])
    assert found.grown["softnet/processed"] > 0
    assert found.grown["interrupts/total"] > 0
    assert "device/eth0/tx_packets" in counters_of(first)
    assert {"Success", "Interface"} == {entry["reason"] for entry in first[CILIUM_METRICS]}
    # The NIC of a node of the lab is a veth, whose driver names its peer.
    assert first["snapshot"]["devices"]["eth0"]["ethtool"]["peer_ifindex"] > 0

    stored = [
        RawDocument(block=1, generation=0, kind=f"node-begin:{node}", document=packed(document))
        for node, document in documents.items()
    ]
    problems = pressure_problems(facts_of(stored, {}).pressure, PLAN.thresholds)
    assert [problem[: problem.index(" was ")] for problem in problems] == [
        "block 1: node node1",
        "block 1: node node2",
    ]


class TestRights:
    """The account of ``include/manifests/rbac.yaml``, while the API enforces exactly these rules."""

    @pytest.fixture
    def account(self, api: ClusterApi, lab: LabInfo) -> Iterator[ClusterApi]:
        pods.ensure_namespace(api)
        created = []
        for body in [*load_manifests("rbac.yaml"), *load_manifests("rbac-scope-cluster.yaml")]:
            kind = _kind(body)
            namespace = body["metadata"].get("namespace")
            api.create(kind, body, namespace)
            created.append((kind, body["metadata"]["name"], namespace))
        yield ClusterApi(k8s.ApiClient(_as_account(lab, _token(api))), away_s=5)
        restore.restore(api, "end of a test", force=True)
        for kind, name, namespace in created:
            api.delete(kind, name, namespace)

    @pytest.mark.parametrize("scope", ["nodes", "cluster"])
    def test_they_suffice_for_a_whole_run(self, account: ClusterApi, api: ClusterApi, scope: str) -> None:
        """A switch raises the devices, a second one does nothing, and a restore puts everything back."""
        plan = validate_plan({"scenarios": "ipv4-stream-1", "scope": scope})
        before = settings(api), limits(api)
        pair = choose_pair(account, plan)
        refuse_failed(requirements.preflight(account, plan, pair).checks)
        assert outline(account, plan, pair, "test/rights").lacking == []
        window = open_window(account, "test/rights", plan, pair)
        server = pods.create_pod(account, _server(plan))
        assert set(pods.pod_addresses(pods.wait_ready(account, server["metadata"]["name"]))) == {"ipv4", "ipv6"}
        with window.fence.renewing(interval_s=0.5):
            report = switch(account, window.fence, "on", pair, plan)
            assert report.restarted
            assert account.select(POD, pods.BENCH_NAMESPACE) == []
            assert not switch(account, window.fence, "on", pair, plan).restarted
            block = blocks(plan)[1]
            (captured,) = PacketSizes(account, plan, pair, run_key="test/rights", block=block).measure()
            assert captured.error is None
            assert all("deletionTimestamp" in pod["metadata"] for pod in account.select(POD, pods.BENCH_NAMESPACE))
        found = [row for row in rows([captured]) if row["upper_bytes"] == 196_608]
        assert {(row["end"], row["direction"]) for row in found} == {("sender", "sent"), ("receiver", "received")}
        assert limits(api)["node2"]["gro_ipv4_max_size"] > 65536
        restored = restore.restore(account, "test", holder="test/rights")
        assert (restored.outcome, restored.waited_s) == ("restored", 0)
        assert (settings(api), limits(api)) == before
        assert restore.restore(account, "again").outcome == "nothing"

    def test_the_accounts_of_airflows_chart_have_what_they_need_and_no_more(
        self, account: ClusterApi, api: ClusterApi, lab: LabInfo
    ) -> None:
        """Task pods may do a whole run; the triggerer may see whether Cilium is at rest, and not touch it."""
        accounts = Kind("", "v1", "serviceaccounts")
        api.create(Kind("", "v1", "namespaces", namespaced=False), _named("Namespace", "airflow"))
        for name in ("bigtcp-bench-worker", "bigtcp-bench-triggerer"):
            api.create(accounts, _named("ServiceAccount", name), "airflow")
        bindings = list(yaml.safe_load_all((include_dir() / "helm" / "rbac.yaml").read_text(encoding="utf-8")))
        for body in bindings:
            api.create(_kind(body), body, body["metadata"].get("namespace"))
        try:
            worker, triggerer = (
                ClusterApi(k8s.ApiClient(_as_account(lab, _token(api, "airflow", name))), away_s=5)
                for name in ("bigtcp-bench-worker", "bigtcp-bench-triggerer")
            )
            wanted = rights.needed("nodes", find_cilium(api), ["node1", "node2"])
            assert rights.missing(worker, wanted) == []
            kind, nodes = find_cilium(api).node_config_kind, ["node1", "node2"]
            site = {**_named("CiliumNodeConfig", "site"), "apiVersion": kind.api_version}
            site["spec"] = {"nodeSelector": {}, "defaults": {"mtu": "9000"}}
            api.create(kind, site, "kube-system")
            assert observe(triggerer, nodes).fingerprint.config["mtu"] == "9000"
            api.delete(kind, "site", "kube-system")
            assert observe(triggerer, nodes) == observe(api)
            allowed = set(wanted) - set(rights.missing(triggerer, wanted))
            assert {right.verb for right in allowed} == {"get", "list"}
            assert not any(right.resource == "pods/exec" for right in allowed)
        finally:
            for body in bindings:
                api.delete(_kind(body), body["metadata"]["name"], body["metadata"].get("namespace"))
            api.delete(Kind("", "v1", "namespaces", namespaced=False), "airflow", None)

    def test_they_suffice_for_the_guardian(
        self, account: ClusterApi, api: ClusterApi, lab: LabInfo, tmp_path: Path
    ) -> None:
        """A run is killed and never heard of again. One look of its guardian cannot verify, the next one does."""
        before = settings(api), limits(api)
        config = yaml.safe_load(lab.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": _token(api)}
        (tmp_path / "account").write_text(yaml.safe_dump(config))

        def run(switched: Event) -> None:
            own = ClusterApi.from_kubeconfig(tmp_path / "account")
            pair = choose_pair(own, PLAN)
            window = open_window(own, "test/gone", PLAN, pair)
            with window.fence.renewing(0.5):
                switch(own, window.fence, "on", pair, PLAN)
                switched.set()
                time.sleep(600)

        with _beside(run):
            assert limits(api)["node2"]["gro_ipv4_max_size"] > 65536
        _end_lease(api)
        role = Kind(RBAC, "v1", "roles")
        whole = api.get(role, protocol.GUARDIAN_NAME, pods.BENCH_NAMESPACE)
        rules = [
            {**rule, "verbs": [verb for verb in rule["verbs"] if verb != "create"]} for rule in whole["rules"]
        ]
        narrowed = api.replace(role, {**whole, "rules": rules}, pods.BENCH_NAMESPACE)

        kubectl = Kubectl(lab.kubeconfig, tmp_path)
        ours = ("--namespace", pods.BENCH_NAMESPACE)
        kubectl("create", "job", "by-hand", f"--from=cronjob/{protocol.GUARDIAN_NAME}", *ours)
        job = _until(lambda: _ended(api, "by-hand"))
        said = kubectl("logs", "job/by-hand", *ours)
        assert (job["status"]["failed"], settings(api)) == (1, before[0])
        assert "NOT RESTORED, the saved state stays: the devices of node node1 could not be read back" in said
        assert 'cannot create resource "pods"' in said
        assert saved_state.read_state(api) is not None
        agents = _agents(api)

        api.replace(role, {**narrowed, "rules": whole["rules"]}, pods.BENCH_NAMESPACE)
        # The look that failed had a hold of its own, which the next one waits for.
        _end_lease(api)
        # Due every minute, and for the first time since long ago: the controller starts it at once.
        for subresource, change in (
            ("", {"spec": {"schedule": "* * * * *"}}),
            ("/status", {"status": {"lastScheduleTime": "2026-01-01T00:00:00Z"}}),
        ):
            api.patch(CRONJOB, f"{protocol.GUARDIAN_NAME}{subresource}", change, pods.BENCH_NAMESPACE)
        (name,) = _until(lambda: [name for name in _jobs(api) if name.startswith(protocol.GUARDIAN_NAME)])
        # One look is enough, however long it takes on a busy machine.
        api.patch(CRONJOB, protocol.GUARDIAN_NAME, {"spec": {"suspend": True}}, pods.BENCH_NAMESPACE)
        _until(lambda: not restore.leftovers(api))
        job = _until(lambda: _ended(api, name))
        assert "restored what test/gone had changed, and verified it" in kubectl("logs", f"job/{name}", *ours)
        assert job["status"]["succeeded"] == 1
        assert (settings(api), limits(api)) == before
        assert _agents(api) == agents, "the first look had restarted them already"
        assert _lease(api).holder == ""
        assert "put back already: test/gone by the guardian" in str(
            restore.restore(account, "", holder="test/gone")
        )
        kubectl("delete", "jobs", "--all", *ours)

    def test_a_missing_right_is_named(self, account: ClusterApi, api: ClusterApi) -> None:
        pair = choose_pair(account, PLAN)
        window = open_window(account, "test/rights", PLAN, pair)
        role = Kind(RBAC, "v1", "roles")
        body = api.get(role, "bigtcp-bench", "kube-system")
        body["rules"] = [rule for rule in body["rules"] if rule["resources"] != ["pods"]]
        api.replace(role, body, "kube-system")
        with pytest.raises(
            Forbidden, match=r'cannot list resource "pods" .* in the namespace "kube-system"; the rights'
        ):
            switch(account, window.fence, "on", pair, PLAN)
        with pytest.raises(Forbidden, match=r'cannot get resource "secrets" .* in the namespace "kube-system"'):
            account.get(Kind("", "v1", "secrets"), "anything", "kube-system")


@contextmanager
def _beside(work: Callable[[Event], None]) -> Iterator[None]:
    """Do ``work`` in a process forked from this one, from when it has set its event until it is killed."""
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    process = context.Process(target=work, args=(begun,), daemon=True)
    process.start()
    try:
        while not begun.wait(0.2):
            assert process.is_alive()
        yield
    finally:
        process.kill()
        process.join()


def _end_lease(api: ClusterApi) -> None:
    """Have the hold of whoever is gone be over, as it is after a while."""
    long_ago = protocol.micro_time(api.now() - 3600)
    api.patch(LEASE, protocol.LEASE_NAME, {"spec": {"renewTime": long_ago}}, pods.BENCH_NAMESPACE)
    assert not _lease(api).live(api.now())


def _lease(api: ClusterApi) -> LeaseState:
    lease = read_lease(api)
    assert lease is not None
    return lease


def _jobs(api: ClusterApi) -> dict[str, Any]:
    return {job["metadata"]["name"]: job for job in api.select(Kind("batch", "v1", "jobs"), pods.BENCH_NAMESPACE)}


def _ended(api: ClusterApi, name: str) -> Any:
    job = _jobs(api)[name]
    return job if job.get("status", {}).get("conditions") else None


def _agents(api: ClusterApi) -> set[str]:
    return {pod["metadata"]["uid"] for pod in api.select(POD, "kube-system", labels="k8s-app=cilium")}


def _until(check: Callable[[], Any]) -> Any:
    return eventually(check)


def _named(kind: str, name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}


def _kind(body: dict[str, str]) -> Kind:
    group, _, version = body["apiVersion"].rpartition("/")
    plural = f"{body['kind'].lower()}s"
    return Kind(group, version, plural, namespaced=not body["kind"].startswith("Cluster"))


def _token(api: ClusterApi, namespace: str = "bigtcp-bench", name: str = "bigtcp-bench") -> str:
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    return str(api.request("POST", path, body=body)["status"]["token"])


def _as_account(lab: LabInfo, token: str) -> k8s.Configuration:
    configuration = k8s.Configuration()
    k8s_config.load_kube_config(str(lab.kubeconfig), client_configuration=configuration)
    # Else the loader puts the administrator's token back before every request.
    configuration.refresh_api_key_hook = None
    configuration.api_key = {"authorization": f"Bearer {token}"}
    return configuration


def _server(plan: Plan) -> dict[str, object]:
    from bigtcp_bench.readings.orders import ServeOrders

    return pods.plan_pod("server", plan, "node2", ServeOrders(lifetime_s=60))
