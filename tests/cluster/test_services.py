"""The Service that leads to one server pod, on the lab: really, over both families, and gone with its pod."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigtcp_bench.cluster import pods, restore, services
from bigtcp_bench.cluster.api import CONFIGMAP, ENDPOINTSLICE, POD, SERVICE, ClusterApi
from bigtcp_bench.cluster.nodes import NodePair, choose_pair
from bigtcp_bench.cluster.reach import unreachable_ways
from bigtcp_bench.cluster.services import close_service, open_service
from bigtcp_bench.measuring.generation import Generation, client_pod, generations_of, orders_of, server_pod
from bigtcp_bench.planning.plan import Plan, Way, blocks, validate_plan
from bigtcp_bench.readings.agent_log import Repetition, parse_log
from bigtcp_bench.readings.frames import unpacked
from bigtcp_bench.readings.orders import new_token
from bigtcp_bench.resources import load_manifest
from bigtcp_lab import daemon
from bigtcp_lab.daemon import LabInfo
from tests.lab.helpers import eventually
from tests.lab.kubectl import Kubectl

pytestmark = pytest.mark.lab

PLAN = validate_plan(
    {
        "scenarios": "ipv4-stream-1,ipv6-stream-1@service,ipv4-rr@service,ipv4-stream-1@same-node",
        **{"order": "off,on", "generations": 2, "repetitions": 1, "duration_s": 1, "omit_s": 0},
    }
)
RUN = "test/paths"


@pytest.fixture
def api(lab: LabInfo, lab_dir: Path) -> Iterator[ClusterApi]:
    """Return an administrator's connection; afterwards no fault is on, and nothing of the benchmark is left."""
    api = ClusterApi.from_kubeconfig(lab.kubeconfig, away_s=20)
    pods.ensure_namespace(api)
    pods.ensure_agent_configmap(api)
    yield api
    for fault in daemon.status(lab_dir).faults:
        daemon.set_fault(lab_dir, fault, False)
    pods.delete_pods(api, pods.ALL_ROLES)
    restore.restore(api, "end of a test", force=True)
    api.close()


@pytest.fixture
def pair(api: ClusterApi) -> NodePair:
    return choose_pair(api, PLAN)


def generations(pair: NodePair, plan: Plan = PLAN) -> list[Generation]:
    return generations_of(blocks(plan)[0], run=1, run_key=RUN, nodes=pair.names, scenarios=plan.scenarios)


def started(api: ClusterApi, generation: Generation) -> pods.JsonObject:
    created = pods.create_pod(api, server_pod(generation, PLAN, new_token()))
    return pods.wait_ready(api, created["metadata"]["name"])


def left(api: ClusterApi) -> list[str]:
    kinds = (SERVICE, ENDPOINTSLICE, POD)
    return [one["metadata"]["name"] for kind in kinds for one in api.select(kind, pods.BENCH_NAMESPACE)]


def measured(api: ClusterApi, generation: Generation) -> list[Repetition]:
    """Return what a generation measures, as its operator lets it be measured."""
    server = started(api, generation)
    service = open_service(api, server) if generation.has_service else None
    orders = orders_of(generation, PLAN, pods.pod_addresses(server), pods.orders_in(server)["token"], service)
    client = pods.create_pod(api, client_pod(generation, PLAN, orders))["metadata"]["name"]
    pods.wait_ended(api, client)
    found = parse_log(api.logs(pods.BENCH_NAMESPACE, client, pods.CONTAINER), orders)
    assert found.damaged == []
    return found.repetitions


def test_traffic_over_a_service_is_sent_to_its_address_and_arrives_at_the_pod(
    api: ClusterApi, pair: NodePair
) -> None:
    between, _ = generations(pair)[:2]
    by_name = {one.scenario: one for one in measured(api, between)}
    assert set(by_name) == {"ipv4-stream-1", "ipv6-stream-1@service", "ipv4-rr@service"}
    assert [one.error for one in by_name.values()] == [None] * 3
    service = api.get(SERVICE, "bigtcp-bench", pods.BENCH_NAMESPACE)
    start = unpacked(by_name["ipv6-stream-1@service"].stored)["iperf3"]["start"]
    assert start["connecting_to"]["host"] in service["spec"]["clusterIPs"]
    document = by_name["ipv6-stream-1@service"].document
    for end, counter in ((document.client, "tx_bytes"), (document.server, "rx_bytes")):
        assert end.before is not None
        assert end.after is not None
        devices = [getattr(one.devices["eth0"], counter) for one in (end.before, end.after)]
        assert devices[1] - devices[0] > 10_000_000
    pods.delete_pods(api)
    eventually(lambda: left(api) == [], "the Service and its endpoints gone with the pod that owned them")


def test_traffic_on_one_node_never_leaves_it_and_each_node_has_its_turn(api: ClusterApi, pair: NodePair) -> None:
    alone = [one for one in generations(pair) if one.client_node == one.server_node]
    assert [one.client_node for one in alone] == list(pair.names)
    for generation in alone:
        (found,) = measured(api, generation)
        assert (found.scenario, found.error) == ("ipv4-stream-1@same-node", None)
        sent = unpacked(found.stored)["iperf3"]["end"]["sum_sent"]["bytes"]
        nodes = [pod["spec"]["nodeName"] for pod in api.select(POD, pods.BENCH_NAMESPACE)]
        assert nodes == [generation.client_node] * 2
        assert sent > 10_000_000
        pods.delete_pods(api)


def test_a_service_that_is_there_is_taken_and_that_of_another_pod_is_not(
    api: ClusterApi, pair: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = generations(pair)[:2]
    server = started(api, first)
    addresses = open_service(api, server)
    assert sorted(addresses) == ["ipv4", "ipv6"]
    uid = api.get(SERVICE, "bigtcp-bench", pods.BENCH_NAMESPACE)["metadata"]["uid"]
    assert open_service(api, server) == addresses
    assert api.get(SERVICE, "bigtcp-bench", pods.BENCH_NAMESPACE)["metadata"]["uid"] == uid
    other = started(api, first.model_copy(update={"generation": 9}))
    monkeypatch.setattr(services, "OTHERS_S", 2.0)
    began = time.monotonic()
    open_service(api, other)
    assert time.monotonic() - began > 2, "a pod that is alive has it for a while"
    service = api.get(SERVICE, "bigtcp-bench", pods.BENCH_NAMESPACE)
    assert service["metadata"]["ownerReferences"][0]["uid"] == other["metadata"]["uid"]
    close_service(api, server)
    assert api.find(SERVICE, "bigtcp-bench", pods.BENCH_NAMESPACE) is not None, "it is another pod's by now"
    close_service(api, other)
    assert api.find(SERVICE, "bigtcp-bench", pods.BENCH_NAMESPACE) is None


def test_one_of_our_name_that_is_somebody_elses_stays_and_is_said(api: ClusterApi, pair: NodePair) -> None:
    theirs = load_manifest("service.yaml")
    theirs["metadata"]["labels"] = {"app.kubernetes.io/name": "billing"}
    theirs["spec"] |= {"selector": {"app.kubernetes.io/name": "billing"}, "ports": [{"port": 80}]}
    uid = api.create(SERVICE, theirs, pods.BENCH_NAMESPACE)["metadata"]["uid"]
    try:
        server = started(api, generations(pair)[0])
        with pytest.raises(pods.PodFailed, match="Service bigtcp-bench/bigtcp-bench is somebody else's"):
            open_service(api, server)
        close_service(api, server)
        pods.delete_pods(api)
        found = unreachable_ways(api, PLAN, pair, RUN)
        assert set(found) == {Way("ipv4", "service"), Way("ipv6", "service")}
        assert api.get(SERVICE, "bigtcp-bench", pods.BENCH_NAMESPACE)["metadata"]["uid"] == uid
    finally:
        api.delete(SERVICE, "bigtcp-bench", pods.BENCH_NAMESPACE, uid=uid)


def test_one_that_cannot_go_says_what_it_waits_for(
    api: ClusterApi, pair: NodePair, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = load_manifest("service.yaml")
    older["metadata"]["finalizers"] = ["example.com/slow"]
    api.create(SERVICE, older, pods.BENCH_NAMESPACE)
    monkeypatch.setattr(services, "READY_S", 2.0)
    server = started(api, generations(pair)[0])
    with pytest.raises(pods.PodFailed, match=r"older one was being deleted, and waited for example.com/slow"):
        open_service(api, server)
    api.patch(SERVICE, "bigtcp-bench", {"metadata": {"finalizers": None}}, pods.BENCH_NAMESPACE)
    assert sorted(open_service(api, server)) == ["ipv4", "ipv6"]


def test_kubectl_shows_where_a_service_leads(
    api: ClusterApi, lab: LabInfo, pair: NodePair, tmp_path: Path
) -> None:
    server = started(api, generations(pair)[0])
    addresses, own = open_service(api, server), pods.pod_addresses(server)
    kubectl = Kubectl(lab.kubeconfig, tmp_path)
    lines = kubectl("get", "services", "-n", pods.BENCH_NAMESPACE).splitlines()
    assert lines[0].split() == ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]
    assert lines[1].split()[:5] == [
        *("bigtcp-bench", "ClusterIP", addresses["ipv4"], "<none>"),
        "5201/TCP,5202/TCP,5203/TCP",
    ]
    slices = kubectl("get", "endpointslices", "-n", pods.BENCH_NAMESPACE).splitlines()
    assert slices[0].split() == ["NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS", "AGE"]
    assert sorted(line.split()[1:4] for line in slices[1:]) == [
        ["IPv4", "5201,5202,5203", own["ipv4"]],
        ["IPv6", "5201,5202,5203", own["ipv6"]],
    ]
    (line,) = kubectl("get", "endpoints", "-n", pods.BENCH_NAMESPACE).splitlines()[1:]
    assert line.split()[1] == ",".join(f"{own['ipv4']}:{port}" for port in (5201, 5202, 5203))


def test_every_path_that_is_closed_is_found_before_anything_is_changed(
    api: ClusterApi, lab_dir: Path, pair: NodePair
) -> None:
    agent = api.get(CONFIGMAP, pods.AGENT_CONFIGMAP, pods.BENCH_NAMESPACE)
    for wait in ("CONNECT_DEADLINE_S = 75", "SERVICE_DEADLINE_S = 15"):
        # Nobody waits here for what cannot come.
        (file,) = [file for file, text in agent["data"].items() if f"\n{wait}\n" in text]
        agent["data"][file] = agent["data"][file].replace(wait, f"{wait.partition(' ')[0]} = 4")
    api.replace(CONFIGMAP, agent, pods.BENCH_NAMESPACE)
    assert unreachable_ways(api, PLAN, pair, RUN) == {}
    daemon.set_fault(lab_dir, "no-service-route", True)
    found = unreachable_ways(api, PLAN, pair, RUN)
    assert set(found) == {Way("ipv4", "service"), Way("ipv6", "service")}
    assert "port 5203 over ipv6: Network is unreachable" in found[Way("ipv6", "service")]
    daemon.set_fault(lab_dir, "no-service-route", False)
    daemon.set_fault(lab_dir, "policy-within-node:node2", True)
    (denied,) = unreachable_ways(api, PLAN, pair, RUN).items()
    assert denied[0] == Way("ipv4", "same-node")
    assert "Cilium on node2 dropped" in denied[1]
    assert denied[1].endswith("packets meanwhile: Policy denied")
    eventually(lambda: left(api) == [], "nothing left of what was tried")
