"""What the lab's nodes decide, without any node: limits, merging, statuses, logs, environment, faults."""

from __future__ import annotations

import asyncio
import json
import subprocess
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

import pytest

from bigtcp_bench.errors import InvalidInput
from bigtcp_lab import logs
from bigtcp_lab.api.runtime_protocol import LogOptions
from bigtcp_lab.api.selectors import matches_label_selector
from bigtcp_lab.cilium_agent import big_tcp_limits, contradictions
from bigtcp_lab.containers import INTERPRETER
from bigtcp_lab.faults import FAULTS, FaultState
from bigtcp_lab.fittings import Fittings
from bigtcp_lab.images import full_name, is_known
from bigtcp_lab.logs import ContainerLog, rfc3339_nanoseconds
from bigtcp_lab.netlink import Limits
from bigtcp_lab.pod_status import ContainerState, PodFacts, status_of
from bigtcp_lab.security import capabilities_of
from bigtcp_lab.volumes import expand, field_value, write_file

RECORDED = Path(__file__).parent.parent / "recorded"
ON = {"enable-ipv4-big-tcp": "true", "enable-ipv6-big-tcp": "true"}
VETH = {"gso_ipv4_max_size": 65536, "tso_max_size": 524280}


def recorded(name: str) -> dict[str, Any]:
    return json.loads((RECORDED / name).read_text(encoding="utf-8"))


def shape(value: Any) -> Any:
    """Names and kinds of values, without the values."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in sorted(value.items())}
    if isinstance(value, list):
        return [shape(each) for each in value]
    return type(value).__name__


# The status of pods, against the recorded ones


def restated(pod: dict[str, Any]) -> dict[str, Any]:
    """The status that the kubelet writes for the same container states."""
    told = pod["status"]
    states = []
    for spec, status in zip(pod["spec"]["containers"], told["containerStatuses"], strict=True):
        states.append(
            ContainerState(
                spec,
                state=status["state"],
                container_id=status.get("containerID", "").removeprefix("containerd://"),
                ready=status["ready"],
                started=status["started"],
            )
        )
    verdict = (told["reason"], told["message"]) if "reason" in told else None
    facts = PodFacts(
        [each["ip"] for each in told["hostIPs"]],
        [each["ip"] for each in told.get("podIPs", [])],
        told["startTime"],
        sandbox_ready=True,
        verdict=verdict,
        ended=told["phase"] == "Failed",
    )
    return status_of(pod, facts, [], states)


@pytest.mark.parametrize(
    "name",
    [
        "pod-running-off.json",
        "pods/deadline.json",
        "pods/failed.json",
        "pods/imgpull.json",
        "pods/starterr.json",
        "pods/succeeded.json",
    ],
)
def test_statuses_are_worded_as_recorded(name: str) -> None:
    pod = recorded(name)
    ours, told = restated(pod), pod["status"]
    told["resources"] = ours["resources"]  # the recording's runtime reported a memory limit of 2^63 here
    for status in (ours, told):
        for container in status["containerStatuses"]:
            container.pop("image"), container.pop("imageID")  # named after a tag the recording had moved
    assert ours == told


def test_agent_pod_has_the_shape_of_the_recorded_one() -> None:
    pod = recorded("pod-cilium-agent.json")
    container = pod["spec"]["containers"][0]
    told = pod["status"]["containerStatuses"][0]
    state = ContainerState(container, told["state"], container_id="0" * 64, ready=True, started=True)
    assert shape(state.status()) == shape(told)


# Cilium


def test_both_families_are_raised_to_what_the_nic_takes() -> None:
    assert big_tcp_limits(ON, {"lo": VETH, "eth0": VETH}) == (Limits.all_at(196608), [])
    ice = {"lo": VETH, "eth0": {**VETH, "tso_max_size": 131072}}
    assert big_tcp_limits(ON, ice) == (Limits.all_at(131072), [])


def test_only_the_enabled_family_is_raised() -> None:
    limits, _ = big_tcp_limits({"enable-ipv4-big-tcp": "true"}, {"lo": VETH, "eth0": VETH})
    assert (limits.gso_max_size, limits.gso_ipv4_max_size) == (65536, 196608)


def test_weak_nic_and_old_kernel_warn_and_leave_the_limits() -> None:
    limits, warnings = big_tcp_limits(ON, {"lo": VETH, "eth0": {**VETH, "tso_max_size": 65536}})
    assert limits == Limits()
    assert len(warnings) == 2
    limits, warnings = big_tcp_limits(ON, {"lo": {"tso_max_size": 524280}, "eth0": VETH})
    assert (limits.gso_max_size, limits.gso_ipv4_max_size) == (196608, 65536)
    assert "needs kernel 6.3" in warnings[0]


def test_contradicting_settings_are_named() -> None:
    assert "tunneling" in contradictions({**ON, "routing-mode": "tunnel"})
    assert contradictions({**ON, "routing-mode": "native"}) == ""


@pytest.mark.parametrize(
    ("spec", "selected"),
    [
        ({}, False),
        ({"nodeSelector": {}}, True),
        ({"nodeSelector": {"matchLabels": {"role": "bench"}}}, True),
        ({"nodeSelector": {"matchLabels": {"role": "other"}}}, False),
        ({"nodeSelector": {"matchExpressions": [{"key": "role", "operator": "NotIn", "values": ["a"]}]}}, True),
        ({"nodeSelector": {"matchExpressions": [{"key": "role", "operator": "DoesNotExist"}]}}, False),
    ],
)
def test_node_selection(spec: dict[str, Any], selected: bool) -> None:
    assert matches_label_selector(spec.get("nodeSelector"), {"role": "bench"}) is selected


# Logs


def test_log_gives_whole_lines_tails_and_follows() -> None:
    async def scenario() -> list[bytes]:
        log = ContainerLog()
        stream = asyncio.StreamReader()
        collecting = asyncio.create_task(log.collect(stream))
        stream.feed_data(b"one\ntwo\nthr")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        found = [b"".join([chunk async for chunk in log.read(LogOptions(tail_lines=1))])]
        following = asyncio.create_task(_all(log))
        await asyncio.sleep(0)
        stream.feed_data(b"ee\nno newline")
        stream.feed_eof()
        await collecting
        found.append(await following)
        found.append(b"".join([chunk async for chunk in log.read(LogOptions(limit_bytes=5))]))
        stamped = b"".join([chunk async for chunk in log.read(LogOptions(timestamps=True, tail_lines=1))])
        assert stamped.split(b" ", 1)[1] == b"no newline"
        return found

    async def _all(log: ContainerLog) -> bytes:
        return b"".join([chunk async for chunk in log.read(LogOptions(follow=True))])

    assert asyncio.run(scenario()) == [b"two\n", b"one\ntwo\nthree\nno newline", b"one\nt"]


def test_a_log_is_read_from_its_newest_file_and_followed_across_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 10)

    async def read(log: ContainerLog, **options: Any) -> bytes:
        return b"".join([chunk async for chunk in log.read(LogOptions(**options))])

    async def scenario() -> list[bytes]:
        log = ContainerLog()
        stream = asyncio.StreamReader()
        collecting = asyncio.create_task(log.collect(stream))
        following = asyncio.create_task(read(log, follow=True))
        found = []
        for text in (b"one\n", b"two\n", b"three\nfour\n", b"a line of more than that\n", b"five\n"):
            stream.feed_data(text)
            await asyncio.sleep(0.01)
            found.append(await read(log))
        found.append(await read(log, tail_lines=4))
        stream.feed_eof()
        await collecting
        return [*found, await following]

    everything = b"one\ntwo\nthree\nfour\na line of more than that\nfive\n"
    long = b"a line of more than that\n"
    newest = [b"one\n", b"one\ntwo\n", b"four\n", long, b"five\n", b"five\n"]
    assert asyncio.run(scenario()) == [*newest, everything]


def test_time_stamps_have_nine_digits() -> None:
    assert rfc3339_nanoseconds(1_700_000_000_000_000_007) == "2023-11-14T22:13:20.000000007Z"


# Environment and security


def test_variables_and_fields() -> None:
    assert expand("$(A)-$$(A)-$(B)", {"A": "1"}) == "1-$(A)-$(B)"
    pod = {"metadata": {"name": "p", "labels": {"a/b": "x"}}, "spec": {}, "status": {"podIPs": [{"ip": "::1"}]}}
    assert field_value(pod, "metadata.labels['a/b']") == "x"
    assert field_value(pod, "status.podIPs") == "::1"
    assert field_value(pod, "spec.nodeName") == ""


def test_the_interpreter_of_a_container_has_no_packages_of_this_machine(tmp_path: Path) -> None:
    Fittings(tmp_path, FaultState(["node1"]))
    command = [str(tmp_path / "bin" / "python3"), "-c", "import json, sys; print(*sys.path, sep='\\n')"]
    found = subprocess.run(command, env={}, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    assert found
    assert [path for path in found if path.endswith("-packages")] == []


def test_modules_in_volumes_are_compiled_once_for_all_pods(tmp_path: Path) -> None:
    module = tmp_path / "module.py"

    def imported() -> str:
        command = [INTERPRETER, "-B", "-v", "-c", "import module; print(module.VALUE)"]
        environment = {"PYTHONPATH": str(tmp_path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
        taken = f"code object from '{cache_from_source(str(module))}'" in done.stderr
        return f"{done.stdout.strip()}{' from bytecode' * taken}"

    write_file(module, b"VALUE = 1\n")
    assert imported() == "1 from bytecode"
    module.write_text("VALUE = 2\n")
    assert imported() == "2"
    write_file(tmp_path / "broken.py", b"def")
    assert (tmp_path / "broken.py").read_bytes() == b"def"
    assert not Path(cache_from_source(str(tmp_path / "broken.py"))).exists()


def test_dropping_all_capabilities_leaves_none() -> None:
    assert capabilities_of({"securityContext": {"capabilities": {"drop": ["ALL"]}}}) == []
    assert capabilities_of({"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]}}}) == [12]
    assert 12 not in capabilities_of({})


def test_image_names() -> None:
    assert full_name("alpine") == "docker.io/library/alpine:latest"
    assert full_name("nicolaka/netshoot:v0.14") == "docker.io/nicolaka/netshoot:v0.14"
    assert full_name("localhost:5000/x") == "localhost:5000/x:latest"
    assert not is_known("example.invalid/none:1")
    assert not is_known("nicolaka/does-not-exist:1")


# Faults


def test_faults_of_one_node_do_not_concern_the_other() -> None:
    changes: list[tuple[str, str, bool]] = []
    faults = FaultState(["node1", "node2"], ["slow-path:node2"])
    faults.listen(lambda *change: changes.append(change))
    assert not faults.is_on("slow-path", "node1")
    faults.switch("slow-path", True)
    faults.switch("slow-path", False)
    assert changes == [
        ("slow-path", "", True),
        ("slow-path", "node1", True),
        ("slow-path", "", False),
        ("slow-path", "node1", False),
        ("slow-path", "node2", False),
    ]
    assert faults.active() == []


@pytest.mark.parametrize(
    ("text", "allowed"),
    [("no-such", sorted(FAULTS)[0]), ("slow-path:node9", "node1, node2"), ("api-slow:node1", "whole cluster")],
)
def test_unknown_faults_name_what_is_allowed(text: str, allowed: str) -> None:
    with pytest.raises(InvalidInput, match=allowed):
        FaultState(["node1", "node2"]).switch(text, True)


def test_a_fault_of_the_start_cannot_be_switched() -> None:
    with pytest.raises(InvalidInput, match="when the lab starts"):
        FaultState(["node1"]).switch("no-cilium", True)
