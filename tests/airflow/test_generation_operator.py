"""The pod that Airflow's operator really asks for: nothing of the manifest may get lost on the way."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowFailException
from kubernetes.client import ApiClient, ApiException

from bigtcp_bench.airflow import connections, generation_operator
from bigtcp_bench.airflow.generation_operator import IperfGenerationOperator
from bigtcp_bench.cluster import pods
from bigtcp_bench.cluster.api import SETTLED_S
from bigtcp_bench.cluster.load import RESTLESS
from bigtcp_bench.errors import BenchError
from bigtcp_bench.in_cluster.protocol import LEASE_S
from bigtcp_bench.measuring.generation import (
    PREPARED_S,
    Generation,
    client_pod,
    generations_of,
    look_labels,
    orders_of,
    prepare,
)
from bigtcp_bench.planning.plan import blocks, load_plan
from bigtcp_bench.readings.frames import packed
from bigtcp_bench.warehouse.store import Warehouse
from bigtcp_lab.api.discovery import PODS
from tests.cluster.simulated import Cluster, run
from tests.cluster.test_restore import RUN, open_and_switch
from tests.readings.documents import TOKEN, frame, orders, recorded_document, repetition_frame

GENERATION = Generation(
    run=1,
    run_key="dag/run",
    block=1,
    arm="on",
    generation=1,
    arm_generation=0,
    client_node="node1",
    server_node="node2",
    scenarios=tuple(load_plan("quick").scenarios),
)

FIRST_TRY: Any = {"ti": SimpleNamespace(try_number=1)}
DONE = {"block": 1, "generation": 1, "repetitions": 4, "failed": 0, "elapsed_s": 30.0}


def begun(warehouse: Warehouse) -> tuple[Cluster, int]:
    """Return a cluster with BIG TCP on, and the number of the run that has switched it."""
    cluster = Cluster()
    open_and_switch(cluster, "on")
    plan = load_plan("quick").model_dump(mode="json")
    return cluster, warehouse.start_run({"cluster": "lab", "dag_id": "d", "run_id": "r", "plan": plan})


def test_the_client_pod_keeps_everything_of_its_manifest() -> None:
    plan = load_plan("quick", {"image": "registry.example/netshoot:v1", "image_pull_secrets": ["pull-me"]})
    generation = GENERATION.model_copy(update={"arm": "off"})
    wanted = client_pod(generation, plan, orders_of(generation, plan, {"ipv4": "10.0.0.1"}, TOKEN))
    operator = IperfGenerationOperator(task_id="baseline_iperf3", generation=generation.model_dump(mode="json"))
    operator.pod_template_dict = wanted
    # It only says in a label where Airflow runs.
    operator.__dict__["hook"] = SimpleNamespace(is_in_cluster=False)
    asked = ApiClient().sanitize_for_serialization(operator.build_pod_request_obj(None))
    for name, value in wanted["spec"].items():
        if name != "containers":
            assert asked["spec"][name] == value, name
    (container,), (wanted_container,) = asked["spec"]["containers"], wanted["spec"]["containers"]
    for name, value in wanted_container.items():
        assert container[name] == value, name
    assert asked["spec"]["imagePullSecrets"] == [{"name": "pull-me"}]
    assert wanted["metadata"]["labels"].items() <= asked["metadata"]["labels"].items()
    assert asked["metadata"]["namespace"] == "bigtcp-bench"


def test_what_is_stored_has_both_pods_counters_and_less_than_the_nodes_did_before(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(generation_operator, "say", said.append)
    assert warehouse.start_run({"cluster": "lab", "dag_id": "d", "run_id": "r"}) == 1
    document = recorded_document("on")
    for end in ("client", "server"):
        document[end]["after"]["monotonic_s"] += 6.0

    def stored() -> dict[tuple[str, str], float]:
        keeper = generation_operator._Stored(None, warehouse, GENERATION, orders())
        keeper.take(repetition_frame(document))
        keeper.store()
        frame = warehouse.results_frame(1)
        assert set(warehouse.pod_counters_frame(1)["end"]) == {"sender", "receiver"}
        return dict(zip(frame["metric"], frame["value"], strict=True))

    plain = stored()
    assert said == [
        f"block 1 (on), generation 1: the idle load of {node} is unknown, "
        "so nothing is subtracted from its CPU time"
        for node in ("node1", "node2")
    ]
    seen = {"monotonic_s": 8.0, "user_hz": 100, "proc_stat": "cpu  0 0 0 0 0 0 0 0 0 0\n"}
    later = {"monotonic_s": 10.0, "user_hz": 100, "proc_stat": "cpu  10 0 20 300 0 0 10 0 0 0\n"}
    begin = packed({"earlier": seen, "snapshot": later})
    warehouse.store_raw(1, [{"block": 1, "generation": 0, "kind": "node-begin:node1", "document": begin}])
    subtracted = stored()
    moved = (17722768816 - 486 + 3783503 - 306) / 1e9
    # 0.2 CPUs for 6 seconds.
    assert subtracted["cpu_s_per_gb_sender"] == pytest.approx(plain["cpu_s_per_gb_sender"] - 0.2 * 6 / moved)
    assert subtracted["cpu_s_per_gb_receiver"] == plain["cpu_s_per_gb_receiver"]
    assert len(said) == 3
    later["proc_stat"] = "cpu  100 0 200 0 0 0 100 0 0 0\n"
    begin = packed({"earlier": seen, "snapshot": later})
    warehouse.store_raw(1, [{"block": 1, "generation": 0, "kind": "node-begin:node1", "document": begin}])
    assert plain.keys() - stored().keys() == {
        f"{part}_s_per_gb_sender" for part in ("cpu", "user", "system", "softirq")
    }
    assert said[4:] == [
        "block 1 (on), generation 1: no CPU seconds per gigabyte, sending node and 3 other metrics of "
        "ipv4-stream-1: the sender's node used hardly more CPU time than before the block, when 2.00 of its CPUs "
        "were busy"
    ]


def test_a_node_that_had_not_come_to_rest_has_no_cpu_cost_and_says_so(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(generation_operator, "say", said.append)
    warehouse.start_run({"cluster": "lab", "dag_id": "d", "run_id": "r"})
    document = recorded_document("on")
    for end in ("client", "server"):
        document[end]["after"]["monotonic_s"] += 6.0
    seen = {"monotonic_s": 8.0, "user_hz": 100, "proc_stat": "cpu  0 0 0 0 0 0 0 0 0 0\n"}
    later = {"monotonic_s": 10.0, "user_hz": 100, "proc_stat": "cpu  1 0 2 30 0 0 1 0 0 0\n"}
    begin = {"earlier": seen, "snapshot": later}
    restless = {**begin, RESTLESS: "it had not come to rest within 60 s: node node2 used 1.40 CPUs"}
    for node, content in (("node1", begin), ("node2", restless)):
        row = {"block": 1, "generation": 0, "kind": f"node-begin:{node}", "document": packed(content)}
        warehouse.store_raw(1, [row])
    keeper = generation_operator._Stored(None, warehouse, GENERATION, orders())  # type: ignore[arg-type]
    keeper.take(repetition_frame(document))
    keeper.store()
    metrics = set(warehouse.results_frame(1)["metric"])
    assert {"cpu_s_per_gb_sender", "throughput_bps", "softirq_share_receiver"} < metrics
    assert not {name for name in metrics if name.endswith("_s_per_gb_receiver")}
    assert said == [
        "block 1 (on), generation 1: no CPU seconds per gigabyte, receiving node and 3 other metrics of "
        "ipv4-stream-1: it had not come to rest within 60 s: node node2 used 1.40 CPUs"
    ]


@pytest.mark.parametrize("log", ["the newest file", "nothing"])
def test_lines_that_were_followed_count_when_the_log_has_lost_them(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, log: str
) -> None:
    monkeypatch.setattr(generation_operator, "say", lambda text: None)
    warehouse.start_run({"cluster": "lab", "dag_id": "d", "run_id": "r"})
    frames = [repetition_frame(recorded_document("on"), repetition=number) for number in (1, 2, 3)]

    def logs(*_: Any) -> str:
        if log == "nothing":
            raise BenchError("the pod is gone")
        # A kubelet gives back what was written since it last began a new file.
        return "\n".join([frames[2], frame("done", run_key="dag/run", **DONE)])

    operator = IperfGenerationOperator(
        task_id="baseline_iperf3", generation=GENERATION.model_dump(mode="json"), kubernetes_conn_id="k8s"
    )
    api: Any = SimpleNamespace(logs=logs)
    operator._stored = generation_operator._Stored(api, warehouse, GENERATION, orders(repetitions=4))
    for line in ("not marked", frames[0], frames[1], frames[1], frames[2]):
        operator._readable("base", line)
    pod: Any = SimpleNamespace(metadata=SimpleNamespace(name="client", namespace="bigtcp-bench"))
    operator._keep(pod)
    assert operator._stored.summary() == {"measured": 3, "failed": 1}
    (why,) = operator._stored._reasons
    # An agent that was done has measured all; who reads the log came too late.
    lost = "its line had gone from the pod's log" if log != "nothing" else "the pod ended before it was measured"
    assert why == f"ipv4-stream-1 repetition 4 (block 1 (on), generation 1): {lost}"


def test_without_log_and_followed_lines_nothing_is_stored(warehouse: Warehouse) -> None:
    def logs(*_: Any) -> str:
        raise BenchError("the pod is gone")

    operator = IperfGenerationOperator(
        task_id="baseline_iperf3", generation=GENERATION.model_dump(mode="json"), kubernetes_conn_id="k8s"
    )
    api: Any = SimpleNamespace(logs=logs)
    operator._stored = generation_operator._Stored(api, warehouse, GENERATION, orders())
    operator._keep(SimpleNamespace(metadata=SimpleNamespace(name="client", namespace="bigtcp-bench")))  # type: ignore[arg-type]
    with pytest.raises(BenchError, match="nothing usable was measured: the pod's log could not be read"):
        operator._stored.summary()


@pytest.mark.parametrize("moment", ["before the server", "while the server starts"])
def test_a_run_whose_hold_is_over_starts_no_pod_that_loads_the_nodes(
    moment: str, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, number = begun(warehouse)
    created: list[str] = []

    def lose(name: str, wanted: str) -> None:
        created.append(name)
        if moment == wanted:
            cluster.time += LEASE_S + 1

    delete, start = pods.delete_pods, pods.wait_addressed

    def deleted(api: object, **options: object) -> list[str]:
        if "run_key" not in options:
            lose("deleted", "before the server")
        return delete(api, **options)  # type: ignore[arg-type]

    def ready(api: object, name: str, **options: object) -> dict:
        lose("server", "while the server starts")
        return start(api, name, **options)  # type: ignore[arg-type]

    def never(*_: object) -> None:
        raise AssertionError("the client pod was started")

    monkeypatch.setattr(pods, "delete_pods", deleted)
    monkeypatch.setattr(pods, "wait_addressed", ready)
    monkeypatch.setattr(connections, "cluster_api", lambda _conn_id: cluster.client())
    monkeypatch.setattr(connections, "warehouse", lambda: warehouse)
    monkeypatch.setattr(KubernetesPodOperator, "execute", never)
    generation = GENERATION.model_copy(update={"run": number, "run_key": RUN}).model_dump(mode="json")
    operator = IperfGenerationOperator(task_id="test_iperf3", generation=generation, kubernetes_conn_id="k8s")
    monkeypatch.setattr(operator, "_client_runs", lambda _context: False)
    with pytest.raises(AirflowFailException, match="has not renewed its hold on the cluster"):
        operator.execute(FIRST_TRY)
    assert created == (["deleted"] if moment == "before the server" else ["deleted", "server"])
    assert run(cluster.store.list(PODS, "bigtcp-bench", f"{pods.ROLE_LABEL}=server")) == []


def test_a_server_that_ends_while_its_client_starts_is_why_the_generation_fails(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, number = begun(warehouse)

    def created(operator: IperfGenerationOperator, pod: Any, _context: object) -> object:
        client = pods.create_pod(operator._stored.api, operator.pod_template_dict)  # type: ignore[union-attr,arg-type]
        (server,) = run(cluster.store.list(PODS, "bigtcp-bench", f"{pods.ROLE_LABEL}=server"))
        server["status"] = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}
        run(cluster.store.update(PODS, server, "status"))
        return SimpleNamespace(metadata=SimpleNamespace(**client["metadata"]))

    monkeypatch.setattr(connections, "cluster_api", lambda _conn_id: cluster.client())
    monkeypatch.setattr(connections, "warehouse", lambda: warehouse)
    monkeypatch.setattr(KubernetesPodOperator, "get_or_create_pod", created)
    monkeypatch.setattr(KubernetesPodOperator, "execute", lambda one, context: one.execute_sync(context))
    generation = GENERATION.model_copy(update={"run": number, "run_key": RUN}).model_dump(mode="json")
    operator = IperfGenerationOperator(task_id="test_iperf3", generation=generation, kubernetes_conn_id="k8s")
    monkeypatch.setattr(operator, "_client_runs", lambda _context: False)
    monkeypatch.setattr(operator, "build_pod_request_obj", lambda _context: None)
    with pytest.raises(pods.PodFailed, match="failed: Evicted: The node was low on memory"):
        operator.execute(FIRST_TRY)
    assert operator.pod is not None, "who kills the task then deletes the pod"
    assert run(cluster.store.list(PODS, "bigtcp-bench")) == []
    (failure,) = warehouse.failures_frame(number).to_dict("records")
    assert "Evicted" in failure["reason"]


@pytest.mark.parametrize("told_after", [3, None])
def test_the_end_of_a_log_is_no_pause_while_the_cluster_does_not_know_of_the_containers_end(
    told_after: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, slept = [], []
    running = SimpleNamespace(name="base", state=SimpleNamespace(running=object()))
    ended = SimpleNamespace(name="base", state=SimpleNamespace(running=None))

    def read(_name: str, _namespace: str) -> object:
        asked.append(1)
        status = ended if told_after is not None and len(asked) >= told_after else running
        return SimpleNamespace(status=SimpleNamespace(container_statuses=[status], init_container_statuses=None))

    def pause(seconds: float) -> None:
        slept.append(seconds)

    passed = iter(range(1000))
    clock = SimpleNamespace(sleep=pause, monotonic=lambda: next(passed) * generation_operator.END_POLL_S)
    monkeypatch.setattr(generation_operator, "time", clock)
    operator = IperfGenerationOperator(task_id="test_iperf3", generation={})
    operator.__dict__["client"] = SimpleNamespace(read_namespaced_pod=read)
    follower = operator.pod_manager
    pod: Any = SimpleNamespace(metadata=SimpleNamespace(name="client", namespace="bigtcp-bench"))
    assert follower.container_is_running(pod, "base") is (told_after is None)
    assert sum(slept) < 1 if told_after else 1 < sum(slept) <= generation_operator.END_KNOWN_S


@pytest.mark.parametrize(
    ("try_number", "age_s", "phase", "taken"),
    [
        (1, 5, "Running", True),
        (1, 5, "Pending", True),
        # A first try may have measured with it, and was killed.
        (2, 5, "Running", False),
        (1, PREPARED_S, "Running", False),
        (1, 5, "Failed", False),
    ],
)
def test_a_server_that_was_prepared_is_taken_by_its_own_generation_once(
    try_number: int, age_s: int, phase: str, taken: bool, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster()
    fence = open_and_switch(cluster, "on")
    plan = load_plan("quick")
    stored = plan.model_dump(mode="json")
    number = warehouse.start_run({"cluster": "lab", "dag_id": "d", "run_id": "r", "plan": stored})
    generation = GENERATION.model_copy(update={"run": number, "run_key": RUN})
    for one in (generation, generation.model_copy(update={"generation": 2})):
        prepare(cluster.client(), fence, one, plan)
    there = run(cluster.store.list(PODS, "bigtcp-bench"))
    (made,) = (pod for pod in there if pod["metadata"]["labels"].items() >= generation.labels.items())
    assert len(there) == 2
    for pod in there:
        kept = cluster.store._find(PODS, pod["metadata"]["name"], "bigtcp-bench")
        kept["metadata"]["creationTimestamp"] = f"{datetime.fromtimestamp(int(cluster.time) - age_s, UTC):%FT%TZ}"
        kept["status"]["phase"] = phase
    seen: list[str] = []

    def asked(operator: IperfGenerationOperator, _context: object) -> None:
        (server,) = run(cluster.store.list(PODS, "bigtcp-bench"))
        assert pods.orders_in(server)["token"] == pods.orders_in(operator.pod_template_dict or {})["token"]
        seen.append(server["metadata"]["name"])
        raise ApiException(500, "enough")

    monkeypatch.setattr(connections, "cluster_api", lambda _conn_id: cluster.client())
    monkeypatch.setattr(connections, "warehouse", lambda: warehouse)
    monkeypatch.setattr(KubernetesPodOperator, "execute", asked)
    operator = IperfGenerationOperator(
        task_id="test_iperf3", generation=generation.model_dump(mode="json"), kubernetes_conn_id="k8s"
    )
    monkeypatch.setattr(operator, "_client_runs", lambda _context: False)
    with pytest.raises(ApiException, match="enough"):
        operator.execute({"ti": SimpleNamespace(try_number=try_number)})  # type: ignore[typeddict-item]
    assert (seen == [made["metadata"]["name"]]) is taken
    assert run(cluster.store.list(PODS, "bigtcp-bench")) == []


@pytest.mark.parametrize("ends", ["measured", "failed", "lost"])
def test_what_is_measured_prepares_the_next_server_and_after_the_last_the_end_of_the_block(
    ends: str, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster()
    open_and_switch(cluster, "on")
    plan = load_plan("quick")
    nodes, scenarios = ("node1", "node2"), tuple(plan.scenarios)
    stored = {"plan": plan.model_dump(mode="json"), "client_node": nodes[0], "server_node": nodes[1]}
    number = warehouse.start_run({"cluster": "lab", "dag_id": "d", "run_id": "r", **stored})
    first, *_, last = generations_of(blocks(plan)[1], run=number, run_key=RUN, nodes=nodes, scenarios=scenarios)
    assert first.next is not None
    assert first.next.next is None
    assert last.next is None
    during, there = [], []

    def found() -> list[dict[str, Any]]:
        return list(run(cluster.store.list(PODS, "bigtcp-bench")))

    def measured(*_: object) -> None:
        during.append([pod["metadata"]["labels"]["bigtcp-bench/role"] for pod in found()])
        if ends == "failed":
            raise ApiException(500, "enough")
        if ends == "lost":
            cluster.time += LEASE_S + 1

    monkeypatch.setattr(connections, "cluster_api", lambda _conn_id: cluster.client())
    monkeypatch.setattr(connections, "warehouse", lambda: warehouse)
    monkeypatch.setattr(KubernetesPodOperator, "execute", measured)
    monkeypatch.setattr(generation_operator._Stored, "summary", lambda _: {"measured": 4, "failed": 0})
    # One that failed may be tried again after the last.
    for one in (first, last, first):
        operator = IperfGenerationOperator(
            task_id="test_iperf3", generation=one.model_dump(mode="json"), kubernetes_conn_id="k8s"
        )
        monkeypatch.setattr(operator, "_client_runs", lambda _context: False)
        with contextlib.suppress(ApiException, AirflowFailException):
            operator.execute(FIRST_TRY)
        there.append(found())
    assert during == [["server"]] * (1 if ends == "lost" else 3)
    if ends != "measured":
        assert there == [[], [], []]
        return
    assert [one["metadata"]["labels"]["bigtcp-bench/generation"] for one in there[0]] == ["2-2"]
    looks = {pods.node_of(one): one["metadata"]["labels"] for one in there[1]}
    assert looks.keys() == {"node1", "node2"}
    assert all(labels.items() >= look_labels(RUN, "end", 2).items() for labels in looks.values())
    assert [one["metadata"]["labels"]["bigtcp-bench/role"] for one in there[2]] == ["server"]


@pytest.mark.parametrize("away", [True, False])
def test_a_generation_that_failed_after_an_outage_waits_before_its_next_try(
    away: bool, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, number = begun(warehouse)
    client, said = cluster.client(), []

    def lost(*_: object) -> None:
        if away:
            client._outage_at = cluster.time
        raise ApiException(403, "pods did not reach each other")

    monkeypatch.setattr(generation_operator, "say", said.append)
    monkeypatch.setattr(connections, "cluster_api", lambda _conn_id: client)
    monkeypatch.setattr(connections, "warehouse", lambda: warehouse)
    monkeypatch.setattr(KubernetesPodOperator, "execute", lost)
    generation = GENERATION.model_copy(update={"run": number, "run_key": RUN}).model_dump(mode="json")
    operator = IperfGenerationOperator(task_id="test_iperf3", generation=generation, kubernetes_conn_id="k8s")
    monkeypatch.setattr(operator, "_client_runs", lambda _context: False)
    began = cluster.time
    with pytest.raises(ApiException, match="did not reach"):
        operator.execute(FIRST_TRY)
    assert (cluster.time - began > SETTLED_S - 10) is away
    assert any("the Kubernetes API was away" in text for text in said) is away


def test_the_client_has_the_token_of_its_server_and_airflow_masks_it(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, number = begun(warehouse)
    masked: list[str] = []
    told: list[dict[str, Any]] = []

    def asked(operator: IperfGenerationOperator, _context: object) -> None:
        (server,) = run(cluster.store.list(PODS, "bigtcp-bench", f"{pods.ROLE_LABEL}=server"))
        told.extend([pods.orders_in(server), pods.orders_in(operator.pod_template_dict)])
        raise ApiException(500, "enough")

    monkeypatch.setattr(generation_operator, "mask_secret", masked.append)
    monkeypatch.setattr(connections, "cluster_api", lambda _conn_id: cluster.client())
    monkeypatch.setattr(connections, "warehouse", lambda: warehouse)
    monkeypatch.setattr(KubernetesPodOperator, "execute", asked)
    generation = GENERATION.model_copy(update={"run": number, "run_key": RUN}).model_dump(mode="json")
    operator = IperfGenerationOperator(task_id="test_iperf3", generation=generation, kubernetes_conn_id="k8s")
    monkeypatch.setattr(operator, "_client_runs", lambda _context: False)
    for _ in range(2):
        with pytest.raises(ApiException):
            operator.execute(FIRST_TRY)
    tokens = [one["token"] for one in told]
    assert tokens[0] == tokens[1] != tokens[2] == tokens[3], "one for each pair of pods"
    assert masked == [tokens[0], tokens[2]]
    assert not [row for row in warehouse.failures_frame(number)["reason"] if any(one in row for one in tokens)]
