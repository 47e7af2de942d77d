"""A whole lab through its API: pods, logs, commands, Cilium switched on and off, real traffic, faults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import kubernetes
import pytest
import urllib3
import yaml

from bigtcp_lab import daemon
from bigtcp_lab.hardship import LOWEST_PRIORITY

from .helpers import eventually
from .kubectl import SPDY_REFUSED, Kubectl
from .net_cluster import BIG, SMALL, RunningLab, is_ready
from .test_net_units import recorded, shape

pytestmark = pytest.mark.lab
SLEEP = ["sleep", "infinity"]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLab]:
    directory = tmp_path_factory.mktemp("lab")
    yield RunningLab(directory)
    daemon.down(directory)


@pytest.fixture
def kubectl(lab: RunningLab, tmp_path: Path) -> Kubectl:
    return Kubectl(lab.info.kubeconfig, tmp_path)


# Pods


def test_apply_wait_follow_execute_delete(lab: RunningLab, kubectl: Kubectl) -> None:
    until = "until [ -e /shared/asked ]; do sleep 0.1; done"
    script = f"cat /files/greeting; echo $NODE; echo problem >&2; {until}; echo last"
    manifest = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "files", "namespace": "default"},
            "data": {"greeting": "hello\n"},
        },
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "talker", "namespace": "default"},
            "spec": {
                "nodeName": "node1",
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "containers": [
                    {
                        "name": "base",
                        "image": "nicolaka/netshoot:v0.14",
                        "command": ["sh", "-c", script],
                        "env": [{"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                        "volumeMounts": [
                            {"name": "files", "mountPath": "/files"},
                            {"name": "shared", "mountPath": "/shared"},
                        ],
                    }
                ],
                "volumes": [
                    {"name": "files", "configMap": {"name": "files"}},
                    {"name": "shared", "emptyDir": {}},
                ],
            },
        },
    ]
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(manifest))
    kubectl("wait", "--for=condition=Ready", "pod/talker", "--timeout=30s")
    if kubectl.has_websockets:
        assert kubectl("exec", "talker", "--", "cat", "/files/greeting") == "hello\n"
        assert kubectl("exec", "-i", "talker", "--", "cat", stdin="echo") == "echo"
    else:
        assert SPDY_REFUSED in kubectl("exec", "talker", "--", "true", exit_code=1)
        assert lab.exec("talker", "cat", "/files/greeting") == "hello\n"
    with ThreadPoolExecutor() as pool:
        following = pool.submit(kubectl, "logs", "-f", "talker", "--timestamps")
        lab.exec("talker", "touch", "/shared/asked")
        followed = following.result()
    assert [line.split(" ", 1)[1] for line in followed.splitlines()] == ["hello", "node1", "problem", "last"]
    assert kubectl("logs", "talker", "--tail=1") == "last\n"
    assert "Created" in kubectl("describe", "pod", "talker")
    kubectl("delete", "pod", "talker", "--timeout=30s")


def test_pods_end_as_recorded(lab: RunningLab, kubectl: Kubectl) -> None:
    """Failure, start error, deadline, missing image, success: the same fields with the same kinds of values."""
    told = {
        name: recorded(f"pods/{name}.json") for name in ("deadline", "failed", "starterr", "succeeded", "imgpull")
    }
    for name, pod in told.items():
        container = {key: value for key, value in pod["spec"]["containers"][0].items() if key != "volumeMounts"}
        deadline = {"activeDeadlineSeconds": 1} if name == "deadline" else {}
        policy = pod["spec"]["restartPolicy"]
        lab.create(
            name,
            "node1",
            container.pop("command"),
            container,
            restartPolicy=policy,
            terminationGracePeriodSeconds=1,
            **deadline,
        )
    for name, pod in told.items():
        theirs = pod["status"]
        kind = next(iter(theirs["containerStatuses"][0]["state"]))

        def has_come(found: Any, phase: str = theirs["phase"], kind: str = kind) -> bool:
            states = found.status.container_statuses or []
            return found.status.phase == phase and any(getattr(each.state, kind) for each in states)

        lab.wait_for(name, has_come)
        ours = json.loads(kubectl("get", "pod", name, "-o", "json"))["status"]
        ours.pop("resources"), theirs.pop("resources")  # the recording's runtime reported a memory limit of 2^63
        if name == "imgpull":  # the lab alternates between the two reasons faster
            assert ours["containerStatuses"][0]["state"]["waiting"]["reason"] in (
                "ErrImagePull",
                "ImagePullBackOff",
            )
        else:
            ended, told_end = (each["containerStatuses"][0]["state"]["terminated"] for each in (ours, theirs))
            for field in ("exitCode", "reason", "message"):
                assert ended.get(field) == told_end.get(field), name
        assert shape(ours) == shape(theirs), name
    lab.delete(*told)


def test_restart_termination_message_and_readiness(lab: RunningLab) -> None:
    script = (
        "test -e /shared/once && exec sleep infinity; touch /shared/once; echo why >/dev/termination-log; exit 7"
    )
    container = {
        "readinessProbe": {"exec": {"command": ["test", "-e", "/shared/ready"]}, "periodSeconds": 1},
        "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
    }
    volumes = [{"name": "shared", "emptyDir": {}}]
    lab.create("again", "node2", ["sh", "-c", script], container, restartPolicy="OnFailure", volumes=volumes)

    def restarted(pod: Any) -> bool:
        return any(each.restart_count == 1 and each.started for each in pod.status.container_statuses or [])

    pod = lab.wait_for("again", restarted)
    last = pod.status.container_statuses[0].last_state.terminated
    assert (last.exit_code, last.message) == (7, "why\n")
    assert not is_ready(pod)
    lab.exec("again", "touch", "/shared/ready")
    lab.wait_for("again", is_ready)
    lab.delete("again")


def test_a_pod_is_confined_and_reaches_the_api(lab: RunningLab, kubectl: Kubectl) -> None:
    script = """
import json, os, ssl, urllib.request
where = "/var/run/secrets/kubernetes.io/serviceaccount/"
url = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}/api/v1/nodes"
token = {"Authorization": "Bearer " + open(where + "token").read()}
trusted = ssl.create_default_context(cafile=where + "ca.crt")
answer = json.load(urllib.request.urlopen(urllib.request.Request(url, headers=token), context=trusted))
print(json.dumps({
    "nodes": [node["metadata"]["name"] for node in answer["items"]],
    "pid": os.getpid(),
    "devices": sorted(os.listdir("/sys/class/net")),
    "read_only": not any(os.access(path, os.W_OK) for path in ("/", "/usr", "/etc", "/proc/sys/kernel/hostname")),
    "host": os.uname().nodename,
}))
"""
    container = {"securityContext": {"readOnlyRootFilesystem": True}}
    lab.create("inside", "node2", ["python3", "-c", script], container)
    lab.wait_for("inside", lambda pod: pod.status.phase == "Succeeded")
    assert json.loads(kubectl("logs", "inside")) == {
        "nodes": ["node1", "node2"],
        "pid": 1,
        "devices": ["eth0", "lo"],
        "read_only": True,
        "host": "inside",
    }
    lab.delete("inside")


def test_missing_configmap_is_awaited(lab: RunningLab) -> None:
    volumes = [{"name": "late", "configMap": {"name": "late"}}]
    lab.create("waiting", "node1", SLEEP, volumes=volumes)

    def complaint() -> bool:
        return any(event.reason == "FailedMount" for event in lab.core.list_namespaced_event("default").items)

    eventually(complaint, "an event")
    lab.core.create_namespaced_config_map("default", {"metadata": {"name": "late"}})
    lab.wait_for("waiting", is_ready)
    lab.delete("waiting")


# Cilium


def test_cilium_dbg_answers_as_recorded(lab: RunningLab, kubectl: Kubectl) -> None:
    agent = lab.agent("node1").metadata.name

    def ask(*command: str) -> str:
        return lab.exec(agent, "cilium-dbg", *command, namespace="kube-system")

    told = recorded("cilium-status-off.json")
    status = json.loads(ask("status", "-o", "json"))
    assert status.keys() == told.keys()
    for key in ("ipv4-big-tcp", "ipv6-big-tcp", "routing", "masquerading", "datapath-mode", "cilium"):
        assert status[key] == told[key]  # off: no "enabled"
    assert "IPv4 BIG TCP:            Disabled\n" in ask("status")
    entries = json.loads(ask("bpf", "metrics", "list", "-o", "json"))
    assert shape(entries[0]) == shape(recorded("cilium-bpf-metrics-off.json")[0])
    assert ask("config", "get", "enable-ipv4-big-tcp") == "false\n"
    log = kubectl("logs", "-n", "kube-system", agent, "-c", "config")
    assert 'msg="Got configuration source" subsys=cilium-dbg module=build-config' in log


def bytes_per_packet(lab: RunningLab, sender: str, receiver: Any, address: str) -> tuple[float, float]:
    """Send a hundred megabytes and return the mean packet at the sender's and at the receiver's device."""

    def counters(pod: str, direction: str) -> list[int]:
        files = [f"/sys/class/net/eth0/statistics/{direction}_{what}" for what in ("bytes", "packets")]
        return [int(text) for text in lab.exec(pod, "cat", *files).split()]

    ends = ((sender, "tx"), (receiver.metadata.name, "rx"))
    before = [counters(*end) for end in ends]
    lab.exec(sender, "iperf3", "-c", address, "-l", "1M", "-n", "100M", "-J")
    after = [counters(*end) for end in ends]
    sent, received = ((b[0] - a[0]) / (b[1] - a[1]) for a, b in zip(before, after, strict=True))
    return sent, received


def test_switching_reaches_the_nodes_and_new_pods_only(lab: RunningLab) -> None:
    assert [lab.node_limits(node) for node in ("node1", "node2")] == [{SMALL}, {SMALL}]
    server, _ = lab.run("server-off", "node2", ["iperf3", "-s"]), lab.run("client-off", "node1", SLEEP)
    for address in server.status.pod_ips:
        assert max(bytes_per_packet(lab, "client-off", server, address.ip)) <= SMALL
    lab.switch(True)
    assert [lab.node_limits(node) for node in ("node1", "node2")] == [{BIG}, {BIG}]
    assert set(lab.limits("client-off").values()) == {SMALL}
    server, _ = lab.run("server-on", "node2", ["iperf3", "-s"]), lab.run("client-on", "node1", SLEEP)
    assert set(lab.limits("client-on").values()) == {BIG}
    for address in server.status.pod_ips:
        assert min(bytes_per_packet(lab, "client-on", server, address.ip)) > SMALL
    agent = lab.agent("node2").metadata.name
    status = json.loads(lab.exec(agent, "cilium-dbg", "status", "-o", "json", namespace="kube-system"))
    assert status["ipv4-big-tcp"] == recorded("cilium-status-on.json")["ipv4-big-tcp"]
    lab.delete("server-off", "client-off")

    # Faults of the path, with big pods
    daemon.set_fault(lab.directory, "outer-veth-64k", True)
    sent, received = bytes_per_packet(lab, "client-on", server, server.status.pod_ip)
    daemon.set_fault(lab.directory, "outer-veth-64k", False)
    assert sent > SMALL
    assert received < 2000
    lab.delete("server-on", "client-on")

    # An agent that says it did, but did not: neither lowering its NIC nor the pods' limits it would offer
    daemon.set_fault(lab.directory, "setting-ignored:node1", True)
    lab.switch(False)
    assert (lab.node_limits("node1"), lab.node_limits("node2")) == ({BIG}, {SMALL})
    daemon.set_fault(lab.directory, "setting-ignored:node1", False)
    lab.restart_agent("node1")
    assert lab.node_limits("node1") == {SMALL}


# Faults


def test_agent_that_never_gets_ready_holds_up_pods_of_its_node(lab: RunningLab) -> None:
    daemon.set_fault(lab.directory, "agent-never-ready:node2", True)
    eventually(lambda: not is_ready(lab.agent("node2")), "unready agent")
    assert daemon.status(lab.directory).agents == {"node1": True, "node2": False}
    lab.create("stuck", "node2", SLEEP)

    def refused() -> bool:
        return any(
            each.reason == "FailedCreatePodSandBox" for each in lab.core.list_namespaced_event("default").items
        )

    eventually(refused, "an event")
    daemon.set_fault(lab.directory, "agent-never-ready:node2", False)
    lab.wait_for("stuck", is_ready)
    lab.delete("stuck")


def test_old_kernel_and_weak_nic_are_what_pods_see(lab: RunningLab) -> None:
    for fault in ("old-kernel", "nic-65536"):
        daemon.set_fault(lab.directory, fault, True)
    lab.run("old", "node1", SLEEP, hostNetwork=True)
    for fault in ("old-kernel", "nic-65536"):
        daemon.set_fault(lab.directory, fault, False)
    seen = lab.all_limits("old")
    assert set(seen["lo"]) == {"gso_max_size", "gro_max_size", "tso_max_size"}
    assert seen["eth0"]["tso_max_size"] == 65536
    lab.delete("old")


def test_pods_that_suffer(lab: RunningLab) -> None:
    """A pod that is held back, one that shares its CPU, and one whose time is stolen, each as its faults say."""
    worker = ["sh", "-c", "python3 -c 'while True: pass' & wait"]
    states = "for each in /proc/[0-9]*; do cat $each/stat 2>/dev/null; done"

    def processes(pod: str) -> list[list[str]]:
        """Return what stat(5) has after the name of each process: its state first, its nice value as the 17th."""
        return [line.rpartition(") ")[2].split() for line in lab.exec(pod, "sh", "-c", states).splitlines()]

    daemon.set_fault(lab.directory, "cpu-limit:node1", True)
    lab.run("held", "node1", worker)
    daemon.set_fault(lab.directory, "cpu-limit:node1", False)
    eventually(lambda: any(process[0] == "T" for process in processes("held")), "a stopped process")
    counted = eventually(lambda: lab.exec("held", "cat", "/sys/fs/cgroup/cpu.stat"), "its cpu.stat")
    numbers = dict(line.split() for line in counted.splitlines())
    assert int(numbers["nr_throttled"]) == int(numbers["nr_periods"]) > 0

    daemon.set_fault(lab.directory, "crowded-cpu", True)
    lab.run("crowded", "node1", SLEEP)
    lab.run("of-the-node", "node1", SLEEP, hostNetwork=True)
    daemon.set_fault(lab.directory, "crowded-cpu", False)
    status = lab.exec("crowded", "cat", "/proc/1/status").splitlines()
    (allowed,) = [line.split()[1] for line in status if line.startswith("Cpus_allowed_list")]
    assert allowed.isdigit(), "one CPU"
    own, beside = (int(process[16]) for process in processes("crowded")[:2])
    assert (own, own > beside) == (LOWEST_PRIORITY, True)
    assert str(LOWEST_PRIORITY) not in {process[16] for process in processes("of-the-node")}

    daemon.set_fault(lab.directory, "stolen-cpu:node2", True)
    lab.run("robbed", "node2", SLEEP)
    daemon.set_fault(lab.directory, "stolen-cpu:node2", False)
    read = "print(open('/proc/stat').read())"
    ticks = [int(word) for word in lab.exec("robbed", "python3", "-c", read).splitlines()[0].split()[1:9]]
    assert 0.19 < ticks[7] / sum(ticks) < 0.35
    lab.delete("held", "crowded", "of-the-node", "robbed")


def test_a_node_that_dies_and_comes_back(lab: RunningLab) -> None:
    lab.run("victim", "node2", SLEEP)
    daemon.set_fault(lab.directory, "node-dies:node2", True)

    def unknown() -> bool:
        conditions = lab.core.read_node("node2").status.conditions
        return any(each.type == "Ready" and each.status == "Unknown" for each in conditions)

    eventually(unknown, "node Unknown")
    eventually(lambda: not is_ready(lab.core.read_namespaced_pod("victim", "default")), "pod not ready")
    daemon.set_fault(lab.directory, "node-dies:node2", False)
    eventually(lambda: is_ready(lab.agent("node2")), "agent ready again")
    lab.wait_for("victim", lambda pod: pod.status.phase == "Failed")
    lab.delete("victim")


def test_an_api_that_is_down_can_be_brought_back(lab: RunningLab) -> None:
    watch = kubernetes.watch.Watch().stream(lab.core.list_node, timeout_seconds=60)
    assert next(watch)["object"].metadata.name == "node1"
    daemon.set_fault(lab.directory, "api-down", True)
    with pytest.raises(urllib3.exceptions.ProtocolError):
        list(watch)
    with pytest.raises(kubernetes.client.ApiException, match="currently unable to handle the request"):
        lab.core.list_node()
    assert daemon.status(lab.directory).faults == ["api-down"]
    assert daemon.set_fault(lab.directory, "api-down", False) == []
    assert lab.core.list_node().items
