"""Reading Cilium: its status with all that may be missing from it, versions, and why a pod is not ready."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtcp_bench.cluster.api import POD, CommandFailed
from bigtcp_bench.cluster.cilium import (
    AGENT_READY_MAX_S,
    AGENT_READY_S,
    STATUS_S,
    Cilium,
    await_rollout,
    configured_routing,
    find_cilium,
    judge_limits,
    judge_status,
    parse_status,
    read_merged,
    ready_agent,
    version_of_image,
    waiting_reason,
)
from bigtcp_bench.errors import SwitchFailed
from bigtcp_bench.in_cluster.protocol import selects
from bigtcp_lab.api.discovery import DAEMONSETS, PODS

from .simulated import Client, Cluster, run, status_before_1_16

RECORDED = Path(__file__).parents[1] / "recorded"


def recorded(name: str) -> Any:
    return json.loads((RECORDED / name).read_text(encoding="utf-8"))


def test_a_disabled_agent_omits_what_is_false() -> None:
    status = parse_status(recorded("cilium-status-off.json"))
    assert status.enabled == {"ipv4": False, "ipv6": False}
    assert status.max_gso == {"ipv4": 65536, "ipv6": 65536}
    assert (status.routing, status.host_routing, status.datapath_mode) == ("Native", "BPF", "veth")
    assert (status.kube_proxy_replacement, status.masquerading, status.encryption) == ("True", "BPF", "Disabled")
    assert status.devices == ("eth0",)
    assert judge_status("n", "off", status, ("ipv4", "ipv6")) == []


def test_an_agent_before_1_16_tells_less() -> None:
    status = parse_status(status_before_1_16(recorded("cilium-status-off.json")))
    assert (status.routing, status.host_routing, status.datapath_mode) == ("", "BPF", "")
    legacy = parse_status({"host-routing": {"mode": "Legacy"}})
    assert legacy.host_routing == "Legacy"


@pytest.mark.parametrize(
    ("config", "mode"),
    [
        ({"routing-mode": "native"}, "Native"),
        ({"routing-mode": "tunnel"}, "Tunnel"),
        ({"tunnel": "disabled"}, "Native"),
        ({"tunnel": "geneve"}, "Tunnel"),
        ({"routing-mode": "tunnel", "tunnel": "disabled"}, "Tunnel"),
        ({}, "Tunnel"),
    ],
)
def test_the_routing_mode_that_is_configured(config: dict[str, str], mode: str) -> None:
    assert configured_routing(config) == mode


def test_enabled_alone_is_no_proof() -> None:
    document = recorded("cilium-status-on.json")
    assert judge_status("n", "on", parse_status(document), ("ipv4", "ipv6")) == []
    document["ipv4-big-tcp"] = {"enabled": True, "maxGSO": 65536, "maxGRO": 196608}
    status = parse_status(document)
    assert status.enabled["ipv4"]
    (problem,) = judge_status("node7", "on", status, ("ipv4", "ipv6"))
    assert "node7" in problem
    assert "maxGSO 65536" in problem
    assert judge_status("node7", "on", status, ("ipv6",)) == []
    assert len(judge_status("node7", "off", status, ("ipv6",))) == 3


@settings(max_examples=30)
@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.dictionaries(st.text(), x))
)
def test_a_status_with_anything_missing_never_proves_on(rest: Any) -> None:
    document = {"cilium": {"msg": "1.16.0"}, "unknown": rest}
    assert len(judge_status("n", "on", parse_status(document), ("ipv4", "ipv6"))) == 4


def test_devices_of_old_versions_carry_addresses() -> None:
    old = {"kube-proxy-replacement": {"devices": ["eth0 172.18.0.2 (Direct Routing)", "eth1 10.0.0.1"]}}
    assert parse_status(old).devices == ("eth0", "eth1")


def test_limits_are_judged_per_family_and_an_absent_one_cannot_be_on() -> None:
    small = {"gso_max_size": 65536, "gro_max_size": 65536, "tso_max_size": 65536}
    assert judge_limits("n", "off", {"eth0": small}, ("ipv4",)) == []
    problems = judge_limits("n", "on", {"eth0": small}, ("ipv6",))
    assert "gso_max_size 65536" in problems[0]
    assert "tso_max_size of the device: 65536" in problems[0]
    assert "gso_ipv4_max_size none" in judge_limits("n", "on", {"eth0": small}, ("ipv4",))[0]
    assert judge_limits("n", "on", {}, ("ipv4",)) != []


@pytest.mark.parametrize(
    ("image", "version"),
    [
        ("quay.io/cilium/cilium:v1.18.3", (1, 18, 3)),
        ("registry:5000/cilium:v1.14.0@sha256:0a", (1, 14, 0)),
        ("quay.io/cilium/cilium:v1.20.0-rc.1", (1, 20, 0)),
        ("quay.io/cilium/cilium@sha256:1234.5.6", None),
        ("registry:5000/cilium/cilium", None),
    ],
)
def test_version_of_image(image: str, version: tuple[int, int, int] | None) -> None:
    assert version_of_image(image) == version


def test_the_tool_was_renamed_in_1_15() -> None:
    assert Cilium("n", "d", "i", (1, 14, 9), None).binaries[0] == "cilium"
    assert Cilium("n", "d", "i", (1, 15, 0), None).binaries[0] == "cilium-dbg"
    assert Cilium("n", "d", "i", None, None).binaries[0] == "cilium-dbg"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("imgpull", "container base waits: ErrImagePull"),
        ("unschedulable", "cannot be scheduled: 0/2 nodes are available"),
        ("oom", "container base ended: OOMKilled"),
    ],
)
def test_why_a_pod_is_not_ready(name: str, words: str) -> None:
    document = json.loads((RECORDED / "pods" / f"{name}.json").read_text(encoding="utf-8"))
    assert waiting_reason(document.get("pod", document)).startswith(words)


REFUSED = 'level=fatal msg="failed to start: BIG TCP is not supported with legacy host routing"\n'


@pytest.mark.parametrize(
    ("state", "words"),
    [
        # A kubelet always fills its own message.
        (
            {
                "waiting": {
                    "reason": "CrashLoopBackOff",
                    "message": "back-off 40s restarting failed container=cilium-agent",
                }
            },
            "waits: CrashLoopBackOff, after it ended with Error 1 (level=fatal msg=",
        ),
        ({"running": {}}, "was started again after it ended with Error 1 (level=fatal msg="),
    ],
)
def test_why_a_container_ended_before_is_what_counts(state: dict[str, Any], words: str) -> None:
    last = {"terminated": {"reason": "Error", "exitCode": 1, "message": REFUSED}}
    item = {"name": "cilium-agent", "state": state, "lastState": last, "restartCount": 3, "ready": False}
    said = waiting_reason({"status": {"phase": "Running", "containerStatuses": [item]}})
    assert said.startswith(f"container cilium-agent {words}")
    assert said.endswith('BIG TCP is not supported with legacy host routing")')
    assert "back-off" not in said


@pytest.mark.parametrize(
    ("log", "told"),
    [
        (
            'level=error msg="Start hook failed"\nlevel=fatal msg="no kernel for that" subsys=daemon\n'
            + 'level=info msg="Stop hook executed" duration=9.6µs function="*cell.reporterHooks.Stop"\n' * 5,
            'level=fatal msg="no kernel for that" subsys=daemon',
        ),
        (
            "panic: no kernel for that\n\ngoroutine 1 [running]:\n" + "main.main()\n\t/go/main.go:7 +0x1d\n" * 20,
            "panic: no kernel for that",
        ),
        (
            '{"level":"fatal","msg":"no kernel"}\n{"level":"info","msg":"bye"}\n',
            '{"level":"fatal","msg":"no kernel"}',
        ),
        ("killed\nby hand\n", "killed by hand"),
    ],
)
def test_of_a_log_that_goes_on_the_line_that_says_why_counts(log: str, told: str) -> None:
    last = {"terminated": {"reason": "Error", "exitCode": 1, "message": log}}
    item = {"name": "cilium-agent", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": last}
    assert waiting_reason({"status": {"containerStatuses": [item]}}).endswith(f" ended with Error 1 ({told})")


def test_a_container_that_ended_without_a_word_says_how() -> None:
    last = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    state = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}}
    item = {"name": "cilium-agent", "state": state, "lastState": last}
    said = waiting_reason({"status": {"containerStatuses": [item]}})
    assert said == "container cilium-agent waits: CrashLoopBackOff, after it ended with OOMKilled 137"


def test_selectors_as_cilium_reads_them() -> None:
    labels = {"a": "1"}
    assert selects({}, labels)
    assert not selects(None, labels)
    assert selects({"matchLabels": {"a": "1"}}, labels)
    assert not selects({"matchLabels": {"a": "1", "b": "2"}}, labels)
    for operator, matched in (("In", True), ("NotIn", False), ("Exists", True), ("DoesNotExist", False)):
        assert (
            selects({"matchExpressions": [{"key": "a", "operator": operator, "values": ["1"]}]}, labels) is matched
        )


def with_startup_probe(cluster: Cluster, probe: dict[str, int] | None) -> None:
    """Give the agents of a cluster this startup probe."""
    found = run(cluster.store.get(DAEMONSETS, "cilium", "kube-system"))
    for item in found["spec"]["template"]["spec"]["containers"]:
        if item["name"] == "cilium-agent" and probe is not None:
            item["startupProbe"] = probe
    run(cluster.store.update(DAEMONSETS, found))


@pytest.mark.parametrize(
    ("probe", "allowed_s"),
    [
        (None, AGENT_READY_S),
        ({"failureThreshold": 105, "periodSeconds": 2}, 240),
        ({"failureThreshold": 300, "periodSeconds": 2, "initialDelaySeconds": 5}, 635),
        ({}, AGENT_READY_S),
        ({"failureThreshold": 3000, "periodSeconds": 2}, AGENT_READY_MAX_S),
    ],
)
def test_an_agent_may_take_as_long_as_its_startup_probe_allows(
    probe: dict[str, int] | None, allowed_s: float
) -> None:
    cluster = Cluster()
    with_startup_probe(cluster, probe)
    api = cluster.client()
    cilium = find_cilium(api)
    assert cilium.agent_ready_s == allowed_s
    cluster.faults.add("never-ready")
    api.delete(POD, agent_of(cluster, "node1")["metadata"]["name"], "kube-system")
    began = cluster.time
    with pytest.raises(SwitchFailed, match=f"not Ready within {allowed_s:g} s"):
        ready_agent(api, cilium, "node1")
    assert allowed_s <= cluster.time - began < allowed_s + 30


def agent_of(cluster: Cluster, node: str) -> dict[str, Any]:
    (pod,) = run(cluster.store.list(PODS, "kube-system", None, f"spec.nodeName={node}"))
    return dict(pod)


def rolled(cluster: Cluster, updated: int) -> None:
    """Let a rollout be so far."""
    found = run(cluster.store.get(DAEMONSETS, "cilium", "kube-system"))
    found["status"].update(updatedNumberScheduled=updated, numberAvailable=1)
    run(cluster.store.update(DAEMONSETS, found, "status"))


def test_a_rollout_that_stops_names_the_agent_that_crashes() -> None:
    cluster = Cluster()
    found = run(cluster.store.get(DAEMONSETS, "cilium", "kube-system"))
    found["status"]["desiredNumberScheduled"] = 100
    run(cluster.store.update(DAEMONSETS, found, "status"))
    rolled(cluster, 1)
    pod = agent_of(cluster, "node2")
    state = {"waiting": {"reason": "CrashLoopBackOff"}}
    last = {"terminated": {"message": "BIG TCP is not supported in tunneling mode"}}
    pod["status"] = {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [{"name": "cilium-agent", "state": state, "lastState": last, "restartCount": 4}],
    }
    run(cluster.store.update(PODS, pod, "status"))
    api = cluster.client()
    began = cluster.time
    with pytest.raises(SwitchFailed) as failure:
        await_rollout(api, find_cilium(api))
    assert cluster.time - began < AGENT_READY_S + 10
    for words in ("1 of 100", pod["metadata"]["name"], "node2", "not supported in tunneling mode"):
        assert words in str(failure.value)


def test_a_rollout_that_goes_on_is_waited_for() -> None:
    cluster = Cluster()
    rolled(cluster, 0)
    api = cluster.client()
    began = cluster.time
    moments = [(AGENT_READY_S * 0.9, lambda: rolled(cluster, 1)), (AGENT_READY_S * 1.8, cluster.reconcile)]
    sleep = api.sleep

    def passing(seconds: float) -> None:
        sleep(seconds)
        if moments and cluster.time - began >= moments[0][0]:
            moments.pop(0)[1]()

    api.sleep = passing  # type: ignore[method-assign]
    await_rollout(api, find_cilium(api))
    assert cluster.time - began > AGENT_READY_S * 1.7


class Answering(Client):
    """A client whose commands in agents end like this, one after the other; then they succeed."""

    def __init__(self, cluster: Cluster, *failures: str) -> None:
        super().__init__(cluster)
        self.failures = list(failures)

    def exec(self, namespace: str, pod: str, container: str, argv: Any) -> str:
        if self.failures:
            raise CommandFailed(self.failures.pop(0))
        return super().exec(namespace, pod, container, argv)


HUNG = "cat /tmp/cilium/config-map/enable-ipv4-big-tcp in pod kube-system/cilium-x did not end within 30 s"
ABSENT = "cat x failed: cat: /tmp/cilium/config-map/enable-ipv4-big-tcp: No such file or directory"


def test_only_a_key_without_a_file_is_not_set() -> None:
    cluster = Cluster(enable_ipv4_big_tcp="true", enable_ipv6_big_tcp="true")
    cilium = find_cilium(cluster.client())
    pod = agent_of(cluster, "node1")["metadata"]["name"]
    assert read_merged(Answering(cluster, ABSENT), cilium, pod) == {"ipv4": False, "ipv6": True}
    assert read_merged(Answering(cluster, HUNG), cilium, pod) == {"ipv4": True, "ipv6": True}


def test_an_agent_that_does_not_answer_is_not_one_that_says_false() -> None:
    cluster = Cluster(enable_ipv4_big_tcp="true", enable_ipv6_big_tcp="true")
    pod = agent_of(cluster, "node1")["metadata"]["name"]
    api = Answering(cluster, *[HUNG] * 100)
    began = cluster.time
    with pytest.raises(SwitchFailed, match=f"agent {pod} does not say what it was told: cat .* did not end"):
        read_merged(api, find_cilium(api), pod)
    assert cluster.time - began < 2 * STATUS_S
