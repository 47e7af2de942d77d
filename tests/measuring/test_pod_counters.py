"""The counters of both pods of one repetition, from recordings."""

from __future__ import annotations

import pytest

from bigtcp_bench.measuring.pod_counters import CHOSEN, pod_counters
from bigtcp_bench.readings.counters import BUSY, USED_CPUS, WATCHED, WINDOW_LIMITED
from tests.readings.documents import recorded_document, repetition


def found(document: dict) -> dict[tuple[str, str], float]:
    return {(one.end, one.counter): one.value for one in pod_counters(repetition(document))}


def test_a_recorded_stream_is_told_by_the_counters_of_both_ends() -> None:
    counters = found(recorded_document("on"))
    assert counters["sender", "device/eth0/tx_bytes"] == 17722768816 - 486
    assert counters["receiver", "device/eth0/rx_bytes"] == pytest.approx(
        counters["sender", "device/eth0/tx_bytes"], rel=1e-6
    )
    # Segments, of which a large packet that is sent again has many: iperf3 counted 270 retransmits.
    assert counters["sender", "snmp/TcpRetransSegs"] == 1888
    packets = counters["sender", "snmp/IpOutRequests"]
    assert counters["sender", "netstat/IpExtOutOctets"] / packets > 65_536
    assert all(value > 0 for value in counters.values())
    assert {name for _, name in counters if not name.startswith("device/")} <= {
        *CHOSEN,
        WATCHED,
        USED_CPUS,
        BUSY,
        WINDOW_LIMITED,
    }


def test_throttling_and_steal_are_among_them() -> None:
    document = recorded_document("on")
    for moment, (throttled, usec) in {"before": (2, 10_000), "after": (7, 260_000)}.items():
        text = f"nr_periods {throttled * 2}\nnr_throttled {throttled}\nthrottled_usec {usec}\n"
        document["server"][moment]["cgroup_cpu_stat"] = text
    counters = found(document)
    assert counters["receiver", "cgroup/nr_throttled"] == 5
    assert counters["receiver", "cgroup/throttled_s"] == 0.25
    assert counters["sender", "cpu/steal_s"] == (1075 - 1074) / 100


def test_an_end_without_a_snapshot_has_none_and_a_replaced_device_has_none_of_its_own() -> None:
    document = recorded_document("on")
    del document["server"]["after"]
    document["client"]["after"]["devices"]["eth0"]["index"] = 99
    counters = found(document)
    assert {end for end, _ in counters} == {"sender"}
    assert not any(name.startswith("device/") for _, name in counters)
    document["client"]["before"]["device"] = None
    assert ("sender", "snmp/TcpRetransSegs") in found(document)
    assert found({}) == {}


SOCKETS = (
    "0 3000000 10.244.0.2:1 10.244.1.2:5201 cubic wscale:7,7 bytes_sent:9 busy:800ms rwnd_limited:600ms(75.0%) "
    "sndbuf_limited:4ms(0.5%) minrtt:0.01\n"
)


@pytest.mark.parametrize(
    ("sockets", "times"),
    [
        (SOCKETS, (0.8, 0.6)),
        (SOCKETS + SOCKETS.replace("rwnd_limited:600ms(75.0%) ", ""), (1.6, 0.6)),
        ("0 0 a b cubic busy:20ms minrtt:1", (0.02, None)),
        ("0 0 a b cubic minrtt:1", (None, None)),
        (None, (None, None)),
    ],
)
def test_how_long_senders_waited_is_read_from_ss(sockets, times) -> None:
    counters = found(recorded_document("on") | {"sockets": sockets})
    assert (counters.get(("sender", BUSY)), counters.get(("sender", WINDOW_LIMITED))) == times
    assert ("receiver", BUSY) not in counters


@pytest.mark.parametrize("said", [None, {}, {"end": 1}, {"end": {"cpu_utilization_percent": {"host_total": "x"}}}])
def test_what_iperf3_does_not_say_of_itself_is_absent(said) -> None:
    assert ("sender", USED_CPUS) not in found(recorded_document("on") | {"iperf3": said})
    used = found(recorded_document("on"))
    assert 0 < used["sender", USED_CPUS] < 1.1
    assert 0 < used["receiver", USED_CPUS] < 1.1
