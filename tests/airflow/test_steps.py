"""Steps with everything around them made up: what a block does about its control and its packet sizes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from bigtcp_bench.airflow import connections
from bigtcp_bench.airflow.params import dag_params
from bigtcp_bench.airflow.steps import blocks, telling
from bigtcp_bench.airflow.steps.perform import perform
from bigtcp_bench.airflow.steps.step import DagRunStep
from bigtcp_bench.cluster import bigtcp_switch, environment, load, nodes, pods, restore
from bigtcp_bench.cluster.api import POD, SETTLED_S, ClusterApi
from bigtcp_bench.cluster.nodes import choose_pair
from bigtcp_bench.cluster.pods import PodFailed
from bigtcp_bench.cluster.window import open_window
from bigtcp_bench.errors import PreconditionFailed, SwitchFailed
from bigtcp_bench.in_cluster import protocol
from bigtcp_bench.measuring import control, packet_sizes
from bigtcp_bench.planning.plan import CONTROL, Block, Plan, validate_plan
from bigtcp_bench.readings.agent_log import Captured
from bigtcp_bench.readings.frames import packed, unpacked
from bigtcp_bench.readings.measurements import Measurement
from bigtcp_bench.report.view import RunView
from bigtcp_bench.warehouse import migrate
from bigtcp_bench.warehouse.store import Warehouse
from bigtcp_lab.api.discovery import NAMESPACES, NODES, PODS
from tests.cluster.simulated import Client, Cluster, run
from tests.cluster.test_probe import aged
from tests.cluster.test_restore import RUN, open_and_switch
from tests.judging.test_run import STREAM, measured
from tests.support.nights import add_night

BLOCK = Block(number=2, arm="on", slot=2, generations=2, arm_offset=0)


@pytest.fixture
def step(warehouse: Warehouse) -> DagRunStep:
    """Return the step of a run that is already stored, on no cluster at all."""
    params = {"plan": "nightly"}
    made = DagRunStep("bigtcp_benchmark", "night 0", "enable_big_tcp", "manual", params, dict)
    plan = validate_plan({"scenarios": "ipv4-rr"})
    made.__dict__.update(warehouse=warehouse, number=add_night(warehouse, 0), plan=plan, api=None, pair=Pair())
    return made


def test_the_control_of_a_block_outlives_its_generations_and_is_reported(step, said, monkeypatch):
    measured = [Measurement(CONTROL, 1, "transactions_per_s", 36_123.0, "1/s")]
    monkeypatch.setattr(control, "measure_control", lambda *_, **__: measured)
    blocks._measure_control(step, BLOCK)
    step.warehouse.store_generation(step.number, 2, 1, results=[])
    assert said == ["block 2: the control has 36,123 transactions/s between the nodes themselves"]
    view = RunView.from_warehouse(step.warehouse, step.number)
    assert view.control is not None
    assert (view.control.value, view.control.usual) == (pytest.approx(36_123.0), None)
    assert (view.proofs, view.measuring_time_s) == ((), 0)


def test_a_control_that_fails_is_said_and_missing(step, said, monkeypatch):
    def fail(*_: object, **__: object) -> list[Measurement]:
        raise PodFailed("pod bigtcp-bench/bigtcp-control-server-x ended with Error 1: cannot listen on port 15202")

    monkeypatch.setattr(control, "measure_control", fail)
    blocks._measure_control(step, BLOCK)
    (line,) = said
    assert line.startswith("block 2 has no control: pod bigtcp-bench/bigtcp-control-server-x ended")
    assert step.warehouse.results_frame(step.number).empty


def capture(step: DagRunStep, plan: Plan) -> None:
    sizes = packet_sizes.PacketSizes(step.api, plan, step.pair, run_key="x", block=BLOCK)
    blocks._store_packet_sizes(step, BLOCK, blocks._packet_sizes(BLOCK, sizes))


def test_packet_sizes_of_a_block_are_stored_and_what_was_missed_is_said(step, said, monkeypatch):
    big = {"upper_bytes": 196_608, "packets": 3, "bytes": 500_000}
    ends = {"device": "eth0", "sent": [big], "received": [], "seen": 9}
    raw = {"sender": {**ends, "dropped": 0}, "receiver": {**ends, "dropped": 2, "sent": [], "received": [big]}}
    context = {"run_key": "x", "block": 2, "arm": "on", "error": None}
    captured = [
        Captured.model_validate({**context, **raw, "family": "ipv4", "stored": packed(raw)}),
        Captured.model_validate({**context, "family": "ipv6", "error": "no route"}),
    ]
    monkeypatch.setattr(packet_sizes.PacketSizes, "measure", lambda _: captured)
    for _ in range(2):
        capture(step, step.plan)
    assert said[:2] == [
        "block 2: the capture of ipv4 missed 2 of 9 packets at the receiver",
        "block 2: the packets of ipv6 were not captured: no route",
    ]
    frame = step.warehouse.packet_sizes_frame(step.number)
    assert frame[["family", "end", "direction", "arm", "packets", "bytes"]].to_numpy().tolist() == [
        ["ipv4", "receiver", "received", "on", 3, 500_000],
        ["ipv4", "sender", "sent", "on", 3, 500_000],
    ]
    kinds = [document.kind for document in step.warehouse.raw_documents(step.number, block=2)]
    assert kinds == ["capture:ipv4", "capture:ipv6"]


def test_a_capture_that_fails_is_said_and_missing(step, said, monkeypatch):
    def fail(_: object) -> list[Captured]:
        raise PodFailed("pod bigtcp-bench/bigtcp-capture-server-x did not become ready within 60 s")

    monkeypatch.setattr(packet_sizes.PacketSizes, "measure", fail)
    capture(step, step.plan.model_copy(update={"scenarios": ("ipv4-stream-1",)}))
    assert said == [
        "block 2 has no packet sizes: pod bigtcp-bench/bigtcp-capture-server-x did not become ready within 60 s"
    ]
    assert step.warehouse.packet_sizes_frame(step.number).empty


def test_a_capture_that_is_the_only_proof_is_tried_once_more(step, said, monkeypatch):
    plan = step.plan.model_copy(update={"scenarios": ("ipv4-stream-1", "ipv6-rr")})
    context = {"run_key": "x", "block": 2, "arm": "on"}
    failed = Captured.model_validate({**context, "family": "ipv6", "error": "no route"})
    size = {"device": "eth0", "sent": [], "received": [], "seen": 9, "dropped": 0}
    found = {"sender": size, "receiver": size}
    sound = Captured.model_validate({**context, **found, "family": "ipv6", "error": None, "stored": packed(found)})
    answers = [[failed], [sound], [sound]]
    monkeypatch.setattr(packet_sizes.PacketSizes, "measure", lambda _: answers.pop(0))
    capture(step, plan)
    assert said == ["block 2: the packets of ipv6 were not captured: no route"]
    assert len(answers) == 1
    (document,) = step.warehouse.raw_documents(step.number, block=2)
    assert unpacked(document.document) == found


class Held:
    """A fence that holds, as far as it is asked."""

    def renewing(self):
        return contextlib.nullcontext()

    def check(self):
        return None


def test_packet_sizes_of_an_arm_that_is_not_proven_are_not_stored(step, said, monkeypatch):
    size = {"device": "eth0", "sent": [{"upper_bytes": 65_536, "packets": 3, "bytes": 90_000}], "received": []}
    found = {"sender": {**size, "seen": 3, "dropped": 0}}
    context = {"run_key": "x", "block": 2, "arm": "on", "error": None, "family": "ipv4", "stored": packed(found)}
    before = Captured.model_validate({**context, **found})
    step.__dict__["api"] = Cluster().client()

    def switch(*_: object, meanwhile: Callable[[], None], **__: object) -> None:
        meanwhile()
        assert step.warehouse.packet_sizes_frame(step.number).empty
        raise SwitchFailed("BIG TCP could not be proven to be on", {"arm": "on", "nodes": {}})

    monkeypatch.setattr(DagRunStep, "fence", lambda self: Held())
    monkeypatch.setattr(pods, "delete_pods", lambda *_, **__: [])
    monkeypatch.setattr(load, "await_quiet", lambda *_, **__: {})
    monkeypatch.setattr(packet_sizes.PacketSizes, "measure", lambda _: [before])
    monkeypatch.setattr(bigtcp_switch, "switch", switch)
    with pytest.raises(SwitchFailed):
        blocks._switched(step, BLOCK, "plan")
    assert step.warehouse.packet_sizes_frame(step.number).empty
    assert step.warehouse.raw_documents(step.number, block=2) == []


@pytest.mark.parametrize(
    ("before", "fails", "order"),
    [
        ("off", "nothing", ["restart node2", "server", "restart node1"]),
        ("off", "the first pod", ["restart node2", "refused", "restart node1", "server"]),
        # Its pods were deleted with the first capture.
        ("on", "the proof", ["server", "server", "restart node1"]),
    ],
)
def test_the_pod_that_receives_a_capture_starts_while_the_senders_agent_does(
    step, said, monkeypatch, before, fails, order
):
    cluster = Cluster()
    plan = step.plan
    fence = open_and_switch(cluster, before, scenarios=plan.scenarios)
    api = cluster.client()
    step.__dict__.update(api=api, pair=choose_pair(api, plan))
    done: list[str] = []
    create, restart = pods.create_pod, bigtcp_switch.restart_agent

    def created(api: ClusterApi, pod: dict[str, Any], **options: Any) -> dict[str, Any]:
        if "capture-server" not in pod["metadata"]["generateName"]:
            return create(api, pod, **options)
        if fails == "the first pod" and "refused" not in done:
            done.append("refused")
            raise PodFailed("no more pods")
        done.append("server")
        return create(api, pod, **options)

    def restarted(api: ClusterApi, cilium: Any, node: str, **options: Any) -> dict[str, Any]:
        done.append(f"restart {node}")
        return restart(api, cilium, node, **options)

    def captured(sizes: packet_sizes.PacketSizes, _place: object) -> list[Captured]:
        ((server, _),) = sizes._servers.values()
        assert api.find(POD, server, pods.BENCH_NAMESPACE) is not None
        return [sound]

    size = {"device": "eth0", "sent": [], "received": [], "seen": 9, "dropped": 0}
    context = {"run_key": "x", "block": 2, "arm": "on", "family": "ipv4", "error": None}
    sound = Captured.model_validate({**context, "sender": size, "receiver": size, "stored": packed({})})
    monkeypatch.setattr(pods, "create_pod", created)
    monkeypatch.setattr(bigtcp_switch, "restart_agent", restarted)
    monkeypatch.setattr(packet_sizes.PacketSizes, "_captured_at", captured)
    if fails == "the proof":
        cluster.nodes["node1"].limits["gso_ipv4_max_size"] = 65_536
    sizes = packet_sizes.PacketSizes(api, plan, step.pair, run_key=RUN, block=BLOCK, before=fence.check)
    report, found = blocks._put_in_force(step, fence, BLOCK, "plan", sizes)
    assert (report.arm, report.restarted, found, done) == ("on", True, [sound], order)
    assert api.select(POD, pods.BENCH_NAMESPACE) == []


@pytest.mark.parametrize("has_control", [True, False])
def test_a_switch_prepares_the_server_of_its_first_generation_when_all_else_is_done(
    has_control, step, said, monkeypatch
):
    cluster = Cluster()
    fence = open_and_switch(cluster, "off", scenarios=step.plan.scenarios)
    api = cluster.client()
    plan = step.plan.model_copy(update={"control": has_control})
    step.__dict__.update(api=api, pair=choose_pair(api, plan), plan=plan)
    seen, created = [], []
    at_rest, create_pod = load.read_at_rest, pods.create_pod

    def read_at_rest(api: ClusterApi, *where: Any, **options: Any) -> dict[str, dict[str, Any]]:
        seen.append([pod["metadata"]["name"] for pod in api.select(POD, pods.BENCH_NAMESPACE)])
        created.clear()
        return at_rest(api, *where, **options)

    def note(*arguments: Any, **options: Any) -> dict[str, Any]:
        pod = create_pod(*arguments, **options)
        created.append((pod["metadata"]["name"], pod["metadata"]["labels"][pods.ROLE_LABEL]))
        # The cluster's clock is not this machine's, which the store goes by.
        aged(0)(cluster, cluster.store._find(PODS, pod["metadata"]["name"], pods.BENCH_NAMESPACE))
        return pod

    monkeypatch.setattr(DagRunStep, "fence", lambda _: fence)
    monkeypatch.setattr(packet_sizes.PacketSizes, "measure", lambda sizes: sizes.end() or [])
    monkeypatch.setattr(blocks, "_measure_control", lambda *_: None)
    monkeypatch.setattr(load, "read_at_rest", read_at_rest)
    monkeypatch.setattr(pods, "create_pod", note)
    first, *_ = blocks._switched(step, BLOCK, "plan")
    (server,) = api.select(POD, pods.BENCH_NAMESPACE)
    (there,) = seen
    assert all(name.startswith("bigtcp-probe") for name in there), "no traffic while the nodes are at rest"
    # Where nothing is measured after the captures, the first look has begun before.
    assert len(there) == (0 if has_control else 2)
    assert [role for _, role in created] == [*(["probe", "probe"] if has_control else []), "server"]
    assert (pods.node_of(server), server["metadata"]["labels"]["bigtcp-bench/generation"]) == ("node2", "2-1")
    assert first["generation"] == 1


def test_busy_nodes_end_a_block_before_anything_is_switched(step, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PreconditionFailed("node node1 is 90% busy with other work, where at most 50% is allowed")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the arm was switched on busy nodes")

    monkeypatch.setattr(DagRunStep, "fence", lambda self: Held())
    monkeypatch.setattr(pods, "delete_pods", lambda *_, **__: [])
    monkeypatch.setattr(load, "await_quiet", refuse)
    monkeypatch.setattr(bigtcp_switch, "switch", never)
    with pytest.raises(PreconditionFailed, match="90% busy"):
        blocks._switched(step, BLOCK, "plan")


def test_the_first_of_several_unused_slots_has_the_others_skipped_in_its_turn(step, said):
    step.__dict__["plan"] = validate_plan({"scenarios": "ipv4-rr", "order": "off,on,off"})
    assert perform("switch", step, 4) == []
    assert said == ["the order off,on,off has no block here"]
    assert sorted(step.skipped) == sorted(
        ["test_iperf3_2", "disable_big_tcp_3", "baseline_iperf3_3", "enable_big_tcp_3", "test_iperf3_3"]
    )


@pytest.mark.parametrize("once", ["_packet_sizes", "_measure_control"])
def test_what_is_measured_once_waits_until_pods_reach_each_other_after_an_outage(step, said, monkeypatch, once):
    cluster = Cluster()
    api = cluster.client()
    step.__dict__["api"] = api
    began = cluster.time

    def switch(*_: object, meanwhile: Callable[[], None], **__: object) -> None:
        if once == "_packet_sizes":
            api._outage_at = cluster.time
        meanwhile()
        api._outage_at = cluster.time

    def measured(*_: object) -> None:
        raise TimeoutError(f"after {cluster.time - began:.0f} s")

    monkeypatch.setattr(DagRunStep, "fence", lambda self: Held())
    monkeypatch.setattr(pods, "delete_pods", lambda *_, **__: [])
    monkeypatch.setattr(load, "await_quiet", lambda *_, **__: {})
    monkeypatch.setattr(bigtcp_switch, "switch", switch)
    monkeypatch.setattr(packet_sizes.PacketSizes, "measure", lambda _: [])
    monkeypatch.setattr(blocks, once, measured)
    with pytest.raises(TimeoutError, match=f"after {SETTLED_S:.0f} s"):
        blocks._switched(step, BLOCK, "plan")
    assert "the Kubernetes API was away; waiting 90 s until fresh pods reach each other" in said


class Pair:
    """Two nodes, as far as their names and addresses are asked for."""

    names = ("node1", "node2")
    nodes = (
        SimpleNamespace(name="node1", internal_ips=("10.0.0.1", "fd00::1")),
        SimpleNamespace(name="node2", internal_ips=()),
    )


def test_a_prometheus_that_is_away_is_said_and_the_counters_are_stored(step, said, monkeypatch):
    step.__dict__["pair"] = Pair()
    monkeypatch.setattr(blocks, "store_counters", lambda step, of_blocks: len(of_blocks))
    monkeypatch.setenv("AIRFLOW_CONN_BIGTCP_PROMETHEUS", "http://127.0.0.1:1")
    moments = {"started_at": "2026-03-01T02:00:00Z", "finished_at": "2026-03-01T02:10:00Z"}
    step.warehouse.store_block(step.number, {"block": 1, "arm": "off", **moments})
    assert perform("collect_counters", step) == {"counters": 3}
    missing = "figures from Prometheus are missing: Prometheus at http://127.0.0.1:1 cannot be reached"
    assert said[0].startswith(missing)
    assert said[1:] == ["Prometheus: 0 figures of 0 series stored"]


def test_prometheus_is_asked_about_all_names_of_the_nodes_where_there_is_a_connection(step, said, monkeypatch):
    # Other tests of this process may have one, which names the cluster.
    monkeypatch.delenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", raising=False)
    step.__dict__["pair"] = Pair()
    blocks.store_prometheus(step, [BLOCK])
    assert said == []
    found = []
    monkeypatch.setattr(blocks, "collect", lambda *arguments: found.append(arguments) or ["a line"])
    blocks.store_prometheus(step, [BLOCK])
    (asked,) = found
    assert asked[1:5] == (step.number, [2], ["node1", "10.0.0.1", "fd00::1", "node2"], "kubernetes_default")
    assert said == ["a line"]


@pytest.mark.parametrize(
    ("tables", "sentence"),
    [
        ("none", "are of version none, this package works with version .*: run `bigtcp-bench warehouse migrate`"),
        ("0001", "are of version 0001, this package works with version .*: run `bigtcp-bench warehouse migrate`"),
        ("9999", "are of version 9999, which bigtcp-bench .* does not know: a newer one made them"),
    ],
)
def test_a_run_on_tables_of_another_version_ends_before_the_cluster_is_looked_at(
    tables, sentence, tmp_path, monkeypatch
):
    warehouse = Warehouse(f"sqlite:///{tmp_path}/warehouse.db")
    if tables != "none":
        warehouse.migrate("0001" if tables == "0001" else "head")
    if tables == "9999":
        with warehouse.engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE {migrate.VERSION_TABLE} SET version_num = '{tables}'")
    monkeypatch.setattr(connections, "cluster_name", lambda conn_id: "lab")
    step = DagRunStep("bigtcp_benchmark", "night 0", "check_kernel", "manual", {}, dict)
    # Whatever would ask the cluster finds none.
    step.__dict__.update(warehouse=warehouse, api=None)
    with pytest.raises(AirflowFailException, match=sentence):
        perform("check_kernel", step)


class Excluding(Cluster):
    """A cluster whose agents do not start with BIG TCP, so that their nodes are tainted."""

    def reconcile(self) -> None:
        super().reconcile()
        for name, node in self.nodes.items():
            on = "true" in node.merged.values()
            found = run(self.store.get(NODES, name))
            found["spec"]["taints"] = [{"key": "node.cilium.io/agent-not-ready", "effect": "NoSchedule"}] * on
            run(self.store.update(NODES, found))


def test_what_a_dead_run_has_left_is_put_back_before_nodes_are_chosen(tmp_path, said, monkeypatch, new_warehouse):
    cluster = Excluding()
    before = cluster.state()
    api = cluster.client()
    plan = validate_plan({"scenarios": "ipv4-rr"})
    pair = nodes.choose_pair(api, plan)
    dead = open_window(api, "bigtcp_benchmark/night 0", plan, pair)
    bigtcp_switch.switch(api, dead.fence, "on", pair, plan)
    warehouse = new_warehouse(tmp_path / "warehouse.db")
    monkeypatch.setattr(connections, "cluster_name", lambda conn_id: "lab")
    params = {**{name: param.value for name, param in dag_params().items()}, "scenarios": ["ipv4-rr"]}

    def check(night: str) -> dict[str, object]:
        step = DagRunStep("bigtcp_benchmark", night, "check_kernel", "manual", params, dict)
        step.__dict__.update(warehouse=warehouse, api=cluster.client())
        return perform("check_kernel", step)

    monkeypatch.setattr(telling, "tell_slack", lambda *_, **__: [])
    with pytest.raises(AirflowFailException, match="the cluster is held by bigtcp_benchmark/night 0"):
        check("night 1")
    assert restore.leftovers(api) != [], "a living run is left alone"
    cluster.time += protocol.LEASE_S + 1
    found = check("night 2")
    assert (found["client_node"], found["server_node"]) == ("node1", "node2")
    assert restore.leftovers(api) == []
    assert cluster.state() == before
    assert any("restored what bigtcp_benchmark/night 0 had changed" in line for line in said)


def test_what_a_switch_found_that_is_not_proven_is_kept_for_the_diagnosis(step, said, monkeypatch):
    limits = {"eth0": {"gso_ipv4_max_size": 65_536, "gro_ipv4_max_size": 65_536, "tso_max_size": 524_280}}
    proof = {"merged": {"ipv4": True, "ipv6": True}, "max_gso": {"ipv4": 196_608}, "limits": limits}

    def fail(*_: object, **__: object) -> None:
        raise SwitchFailed("BIG TCP could not be proven to be on", {"arm": "on", "nodes": {"node1": proof}})

    monkeypatch.setattr(DagRunStep, "fence", lambda self: Held())
    monkeypatch.setattr(pods, "delete_pods", lambda *_, **__: [])
    monkeypatch.setattr(load, "await_quiet", lambda *_, **__: {})
    monkeypatch.setattr(bigtcp_switch, "switch", fail)
    with pytest.raises(SwitchFailed):
        blocks._switched(step, BLOCK, "plan")
    step.warehouse.update_run(step.number, status="failed", reasons=["not proven"])
    said.clear()
    telling.diagnose(step)
    (line,) = said
    assert line.startswith(
        "likely cause setting-not-effective: gso_ipv4_max_size of eth0 on node node1 is 65,536 B"
    )
    (cause,) = RunView.from_warehouse(step.warehouse, step.number).causes
    assert (cause.name, cause.arm, cause.node) == ("setting-not-effective", "on", "node1")


def test_a_document_that_cannot_be_read_costs_the_diagnosis_and_not_the_run(step, said):
    raw = {"block": 1, "generation": 1, "kind": "hello", "document": b"not compressed"}
    step.warehouse.store_block(step.number, {"block": 1, "arm": "off"})
    step.warehouse.store_raw(step.number, [raw])
    step.warehouse.update_run(step.number, status="invalid", reasons=["drift"])
    telling.diagnose(step)
    (line,) = said
    assert line.startswith(
        "the run could not be diagnosed: its document cannot be unpacked: error: Error -3 while"
    )


def test_a_run_stores_its_cluster_and_refuses_another_one_of_the_same_name(step, said, monkeypatch):
    # The simulated cluster is the lab's, every one of which is made anew.
    monkeypatch.setattr(environment, "LAB_RUNTIME", "nothing://")
    monkeypatch.setattr(connections, "airflow_api", lambda: None)
    monkeypatch.setattr(connections, "cluster_name", lambda _: "prod")
    first, second = Cluster().client(), Cluster().client()
    second.cluster.store._find(NAMESPACES, "kube-system", "")["metadata"]["uid"] = "of another"
    first_uid = environment.cluster_uid(first)

    def check(night: int, api: Client) -> DagRunStep:
        params = {name: param.value for name, param in dag_params().items()}
        made = DagRunStep("bigtcp_benchmark", f"check {night}", "check_kernel", "manual", params, dict)
        made.__dict__.update(warehouse=step.warehouse, api=api)
        perform("check_kernel", made)
        return made

    assert step.warehouse.run(check(1, first).number)["environment"]["cluster_uid"] == first_uid
    assert step.warehouse.run(check(2, second).number)["environment"]["cluster_uid"] == "of another"
    assert any("warn cluster name: run 2 was on another cluster, also called prod" in line for line in said)
    with pytest.raises(AirflowFailException, match="cluster name: run 3 was on another cluster, also called prod"):
        check(3, first)
    row = step.warehouse.run(4)
    assert (row["status"], row["environment"]["cluster_uid"]) == ("failed", first_uid)


def test_a_rerun_that_fails_leaves_a_valid_night(warehouse, monkeypatch):
    """What is far off is due again; the failed switch is the reason why the first measurement counts."""
    fields = {"scenarios": [STREAM], "order": "off,on,off,on,off", "generations": 2, "packet_sizes": False}
    usual = validate_plan(fields).model_dump(mode="json")
    for night in range(20):
        add_night(warehouse, night, on={STREAM: 10.0}, scenarios=[STREAM], plan=usual)
    judged, plan = measured(warehouse, noise=0.002, scenarios=[STREAM])
    step = DagRunStep("bigtcp_benchmark", "night", "rerun_disable_big_tcp", "manual", {"night": True}, dict)
    step.__dict__.update(warehouse=warehouse, number=judged.number, plan=plan, api=None, pair=Pair())

    def fail(*_: object, **__: object) -> None:
        raise SwitchFailed("the agent on node1 did not become ready")

    monkeypatch.setattr(connections, "cluster_name", lambda _: "lab")
    monkeypatch.setattr(DagRunStep, "fence", lambda self: Held())
    monkeypatch.setattr(blocks, "store_counters", lambda step, of_blocks: len(of_blocks))
    monkeypatch.setattr(pods, "delete_pods", lambda *_, **__: [])
    monkeypatch.setattr(load, "await_quiet", lambda *_, **__: {})
    monkeypatch.setattr(bigtcp_switch, "switch", fail)
    with pytest.raises(AirflowFailException, match="did not become ready"):
        perform("rerun_switch", step, 1)
    found = perform("compare_rerun", step)
    assert (found["rerun"], found["counted"]) == ([STREAM], False)
    row = warehouse.run(judged.number)
    assert (row["status"], row["reasons"]) == ("valid", [])
    judgements = warehouse.judgements_frame(judged.number)
    assert set(judgements[judgements["metric"] == "throughput_bps"]["state"]) == {"suspect"}
    lines = RunView.from_warehouse(warehouse, judged.number).history.lines()
    assert any("its re-run does not count: block 6 (re-run): the agent on node1" in line for line in lines)
    assert warehouse.comparisons_frame(judged.number)["n_off"].max() == 8, "the run's own blocks"
