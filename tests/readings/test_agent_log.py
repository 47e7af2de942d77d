"""Recorded iperf3 documents and counters in, measurements and sentences out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from bigtcp_bench.in_cluster.treatment import CLASSIC_MAX_PACKET_BYTES
from bigtcp_bench.planning.metrics import metrics_of
from bigtcp_bench.planning.plan import SCENARIOS
from bigtcp_bench.readings.agent_log import parse_log
from bigtcp_bench.readings.measurements import absences, measurements, problems, proof
from bigtcp_bench.readings.orders import CaptureOrders
from tests.readings.documents import (
    TOKEN,
    frame,
    orders,
    recorded_document,
    recorded_iperf3,
    recorded_snapshot,
    repetition,
    repetition_frame,
)


def values(document: dict[str, Any], scenario: str = "ipv4-stream-1") -> dict[str, float]:
    return {found.metric: found.value for found in measurements(repetition(document, scenario))}


def test_a_recorded_run_yields_every_metric_of_its_traffic() -> None:
    sound = repetition(recorded_document("on"))
    assert problems(sound, orders()) == []
    assert absences(sound) == []
    found = {measurement.metric: measurement for measurement in measurements(sound)}
    assert list(found) == [metric.name for metric in metrics_of("stream")]
    assert found["throughput_bps"].value == 23708039643.470375
    assert found["throughput_bps"].unit == "bit/s"
    # By hand from the recording: user+system+irq+softirq+steal ticks of 10 ms, over the bytes on eth0.
    busy_ticks = (316387 - 316208) + (170113 - 169436) + (21025 - 20796) + (1075 - 1074)
    moved = (17722768816 - 486) + (3783503 - 306)
    assert found["cpu_s_per_gb_sender"].value == pytest.approx(busy_ticks / 100 / (moved / 1e9))
    assert found["user_s_per_gb_sender"].value == pytest.approx((316387 - 316208) / 100 / (moved / 1e9))
    assert found["system_s_per_gb_sender"].value == pytest.approx((170113 - 169436) / 100 / (moved / 1e9))
    assert found["softirq_s_per_gb_sender"].value == pytest.approx((21025 - 20796) / 100 / (moved / 1e9))
    assert found["softirq_share_sender"].value == pytest.approx((21025 - 20796) / busy_ticks)
    assert found["retransmits_per_gb"].value == pytest.approx(270 / 14.817334168)
    assert found["bytes_per_packet_sender"].value == pytest.approx((17722768816 - 486) / (95768 - 5))


@pytest.mark.parametrize(("arm", "limit"), [("off", 65_536), ("on", 196_608)])
def test_the_proof_tells_the_recorded_arms_apart(arm: str, limit: int) -> None:
    shown = proof(repetition(recorded_document(arm)))
    assert shown.gso_limit_sender == limit
    assert shown.gro_limit_receiver == limit
    assert shown.bytes_per_packet_sender is not None
    assert shown.bytes_per_packet_receiver is not None
    assert (shown.bytes_per_packet_sender > CLASSIC_MAX_PACKET_BYTES) == (arm == "on")
    assert (shown.bytes_per_packet_receiver > CLASSIC_MAX_PACKET_BYTES) == (arm == "on")


def _set(document: dict[str, Any], path: str, value: Any) -> None:
    *way, last = path.split(".")
    here: Any = document
    for step in way:
        here = here[int(step)] if isinstance(here, list) else here[step]
    if value is ...:
        del here[last]
    else:
        here[last] = value


@pytest.mark.parametrize(
    ("scenario", "recording", "change", "sentence"),
    [
        ("ipv4-stream-1", "error-refused", {}, "unable to connect to server: Connection timed out"),
        ("ipv4-stream-1", "terminated", {}, "interrupt - the client has terminated"),
        ("ipv4-stream-1", "terminated", {"error": ...}, "measured for 1.99 s instead of 5 s"),
        ("ipv4-stream-1", "ipv4-p1-on", {"end": {}}, "end.streams"),
        ("ipv4-stream-1", "ipv4-p1-on", {"end.sum_received.bytes": 0}, "the receiver got no bytes"),
        ("ipv4-stream-1", "ipv4-p1-on", {"end.sum_received.bits_per_second": float("nan")}, "not finite"),
        ("ipv4-stream-8", "ipv4-p1-on", {}, "ran 1 streams instead of 8"),
        ("ipv6-stream-8", "ipv6-p8-on", {"end.streams.3.receiver.bytes": 0}, "1 of 8 streams brought no bytes"),
        (
            "ipv4-rate",
            "ipv4-rate1g-on",
            {"end.sum_received.bits_per_second": 5e8},
            "reached 500 of the ordered 1,000",
        ),
        ("ipv4-stream-1", None, {}, "no iperf3 result"),
        ("ipv4-rr", None, {}, "no request/response result"),
    ],
)
def test_a_failed_repetition_is_named_whatever_the_exit_code(
    scenario: str, recording: str | None, change: dict[str, Any], sentence: str
) -> None:
    document: dict[str, Any] = {"exit_code": 0}
    if recording:
        document["iperf3"] = recorded_iperf3(recording)
        for path, value in change.items():
            _set(document["iperf3"], path, value)
    duration_s = 5 if (recording and "p1" in recording) or recording == "terminated" else 3
    found = problems(repetition(document, scenario), orders(duration_s=duration_s))
    assert len(found) >= 1
    assert sentence in found[0]
    assert found[0].startswith(f"{scenario} repetition 1 (block 1, generation 1): ")


@pytest.mark.parametrize(
    ("scenario", "recording"), [("ipv6-stream-8", "ipv6-p8-on"), ("ipv4-rate", "ipv4-rate1g-on")]
)
def test_sound_recordings_have_no_problems(scenario: str, recording: str) -> None:
    assert problems(repetition({"iperf3": recorded_iperf3(recording)}, scenario), orders(duration_s=3)) == []


def test_fields_that_newer_iperf3_adds_or_omits_are_tolerated() -> None:
    document = recorded_document("on")
    iperf3 = document["iperf3"]
    iperf3["start"]["version"] = "iperf 3.20"
    iperf3["start"]["timestamp"]["timemillisecs"] = 1761095127061
    iperf3["start"]["fq_rate"] = 0
    iperf3["start"]["test_start"].update(bidir=0, fqrate=0, interval=1)
    iperf3["end"]["streams"][0]["sender"]["reorder_seen"] = 0
    iperf3["server_output_text"] = "not JSON"
    del iperf3["server_output_json"], iperf3["end"]["sum_sent"]["retransmits"]
    newer = repetition(document)
    assert problems(newer, orders()) == []
    assert [sentence.split(": ", 1)[1] for sentence in absences(newer)] == [
        "no retransmitted segments per gigabyte: iperf3 did not count retransmits"
    ]


def _forget(path: str) -> Callable[[dict[str, Any]], None]:
    return lambda document: _set(document, path, ...)


def _replace(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: _set(document, path, value)


def _cpu_cost(end: str) -> set[str]:
    return {f"{part}_s_per_gb_{end}" for part in ("cpu", "user", "system", "softirq")}


_SENDER = _cpu_cost("sender") | {"bytes_per_packet_sender"}
_RECEIVER = _cpu_cost("receiver") | {"bytes_per_packet_receiver"}


@pytest.mark.parametrize(
    ("damage", "lost", "sentence"),
    [
        (_replace("client.after.devices.eth0.tx_bytes", 12), _SENDER, "went back from 486 to 12: it was reset"),
        (_forget("client.after.devices.eth0"), _SENDER, "device eth0 of the sender went away or was replaced"),
        (_replace("server.after.devices.eth0.index", 99), _RECEIVER, "device eth0 of the receiver went away"),
        (_replace("client.before.device", None), _SENDER, "no device of the sender has the address"),
        (
            _forget("server.after.devices.eth0.rx_packets"),
            {"bytes_per_packet_receiver"},
            "has no counter rx_packets",
        ),
        (_forget("server.after"), _RECEIVER | {"softirq_share_receiver"}, "the receiver has no snapshot after"),
        (
            _replace("client.after.proc_stat", "cpu  1 2 3 4 5 6 7 8 0 0\n"),
            _cpu_cost("sender") | {"softirq_share_sender"},
            "the user time of the sender's node went back from 316208 to 1 ticks",
        ),
        (
            lambda document: document["client"].update(after=document["client"]["before"]),
            _SENDER | {"softirq_share_sender"},
            "the sender's ",
        ),
        (
            _replace("client.after.proc_stat", None),
            _cpu_cost("sender") | {"softirq_share_sender"},
            "the sender's /proc/stat does not begin with",
        ),
    ],
)
def test_a_broken_counter_costs_its_metrics_and_no_others(
    damage: Callable[[dict[str, Any]], None], lost: set[str], sentence: str
) -> None:
    document = copy.deepcopy(recorded_document("on"))
    damage(document)
    found = set(values(document))
    assert {metric.name for metric in metrics_of("stream")} - found == lost
    reasons = absences(repetition(document))
    assert len(reasons) == len(lost)
    assert all(sentence in reason for reason in reasons)


def test_request_response_is_measured_by_transactions_and_percentiles() -> None:
    document = recorded_document("on")
    del document["iperf3"]
    latency = {"p50": 87.5, "p90": 101.0, "p99": 173.2, "max": 900.0}
    document["rr"] = {"request_bytes": 80_000, "transactions": 50_000, "seconds": 5.0, "latency_us": latency}
    found = values(document, "ipv4-rr")
    assert set(found) == {metric.name for metric in metrics_of("rr")}
    assert found["transactions_per_s"] == 10_000
    assert (found["latency_p50_us"], found["latency_p99_us"]) == (87.5, 173.2)
    assert problems(repetition(document, "ipv4-rr"), orders()) == []
    assert "instead of 10 s" in problems(repetition(document, "ipv4-rr"), orders(duration_s=10))[0]


def test_a_frame_with_a_damaged_document_is_a_failed_repetition_not_a_lost_one() -> None:
    line = repetition_frame({"iperf3": {}}).replace('"doc": "', '"doc": "AAAA')
    (found,) = parse_log(line).repetitions
    assert "its document is damaged" in problems(found, orders())[0]
    assert measurements(found) == []


def test_a_log_read_twice_counts_each_repetition_once_and_says_what_is_missing() -> None:
    first = repetition_frame(recorded_document("on"))
    log = parse_log(f"{first}\nnoise\n{first}\n")
    assert len(log.repetitions) == 1
    assert log.done is None
    wanted = orders(scenarios=[SCENARIOS["ipv4-stream-1"], SCENARIOS["ipv6-rr"]])
    assert log.missing(wanted) == [("ipv6-rr", 1)]


def test_frames_of_another_version_or_kind_are_named() -> None:
    log = parse_log(frame("sonnet") + "\n" + frame("done").replace('"v": 1', '"v": 2'))
    assert log.damaged == [
        "log line 1, frame 'sonnet': is of no kind that this package knows",
        "log line 2, frame 'done': has version 2; this package reads 1",
    ]


def test_captures_are_taken_once_for_each_way_that_was_ordered() -> None:
    told = {
        "token": TOKEN,
        "run_key": "k",
        "block": 1,
        "arm": "on",
        "server": {"ipv4": "10.0.0.2"},
        "duration_s": 1,
    }
    wanted = CaptureOrders.model_validate({**told, "ways": [("ipv4", "pod"), ("ipv4", "service")]})
    sizes = {"device": "eth0", "sent": [], "received": [], "seen": 9, "dropped": 0}

    def captured(path: str, family: str = "ipv4", **fields: Any) -> str:
        key = {"run_key": "k", "block": 1, "arm": "on", "family": family, "path": path, "error": None, **fields}
        return frame("capture", {"sender": sizes, "receiver": sizes}, **key)

    lines = [captured("pod"), captured("service"), captured("pod", error="again")]
    lines += [captured("pod", "ipv6"), captured("same-node"), captured("pod", block=2)]
    log = parse_log("\n".join(lines), wanted)
    assert [(one.kind, one.error) for one in log.captures] == [
        ("capture:ipv4", None),
        ("capture:ipv4@service", None),
    ]
    assert [sentence.partition(": ")[2] for sentence in log.damaged] == [
        "is of family 'ipv6' and path 'pod', not ordered",
        "is of family 'ipv4' and path 'same-node', not ordered",
        "is of block 2, where 1 was ordered",
    ]


def test_hello_and_probe_carry_hosts_with_their_devices() -> None:
    host = {
        "hostname": "cli",
        "kernel_release": "6.18.44",
        "boot_id": "x",
        "cpu_count": 2,
        "tools": {"iperf3": "iperf 3.12", "ethtool": None},
        "capabilities": {"ipv4_big_tcp": True, "ipv6_big_tcp": False},
        "snapshot": recorded_snapshot("client-before-on", 196_608) | {"loadavg": "0.80 0.32 0.15 1/93 6662\n"},
    }
    log = parse_log(
        frame("probe", host)
        + "\n"
        + frame("hello", {"client": host, "server": host}, run_key="k", block=1, arm="on", generation=1)
    )
    assert log.damaged == []
    assert log.probe is not None
    assert log.probe.load_average == (0.8, 0.32, 0.15)
    assert not log.probe.capabilities.ipv6_big_tcp
    assert log.hello is not None
    assert log.hello.server.snapshot.devices["eth0"].limits["gro_ipv4_max_size"] == 196_608


def test_what_a_node_used_before_the_block_is_subtracted_for_as_long_as_the_snapshots_are_apart() -> None:
    document = recorded_document("on")
    for end in ("client", "server"):
        document[end]["after"]["monotonic_s"] += 6.0
    plain = values(document)
    load = {"busy": 0.5, "user": 0.3, "system": 0.15, "softirq": 0.05}
    found = {one.metric: one.value for one in measurements(repetition(document), {"sender": load})}
    gigabytes = (17722768816 - 486 + 3783503 - 306) / 1e9
    for part, cpus in load.items():
        name = f"{'cpu' if part == 'busy' else part}_s_per_gb_sender"
        assert found[name] == pytest.approx(plain[name] - cpus * 6.0 / gigabytes)
    untouched = [name for name in plain if name not in _cpu_cost("sender")]
    assert {name: found[name] for name in untouched} == {name: plain[name] for name in untouched}


def test_a_node_that_was_busier_before_the_block_has_no_cpu_cost() -> None:
    document = recorded_document("on")
    document["server"]["after"]["monotonic_s"] += 6.0
    load = {"busy": 1.8, "user": 1.4, "system": 0.3, "softirq": 0.1}
    one = repetition(document)
    assert {found.metric for found in measurements(one)} - {
        found.metric for found in measurements(one, {"receiver": load})
    } == _cpu_cost("receiver")
    for reason in absences(one, {"receiver": load}):
        assert reason.endswith("hardly more CPU time than before the block, when 1.80 of its CPUs were busy")
    restless = absences(one, {"receiver": "node2 had not come to rest"})
    assert [reason.partition(": no ")[2].rpartition(": ")[2] for reason in restless] == [
        "node2 had not come to rest"
    ] * len(_cpu_cost("receiver"))
