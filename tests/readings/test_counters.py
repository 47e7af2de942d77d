"""Growth of counters: exact where it can be known, absent with a reason where it cannot, never nonsense."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtcp_bench.readings.counters import (
    Counter,
    difference,
    driver_counters,
    gauges,
    growth,
    machine_counters,
    network_counters,
    throttling_counters,
    waiting_counters,
)

WORD = 2**32
_values = st.integers(0, 2**64 - 1)
_steps = st.integers(0, 2**31 - 1)


@given(before=st.integers(0, WORD - 1), step=_steps)
def test_a_counter_of_32_bits_grows_through_its_wrap(before: int, step: int) -> None:
    assert difference(before, (before + step) % WORD, bits=32) == step


@given(before=_values, after=_values, bits=st.sampled_from([32, 64]))
def test_growth_is_never_negative_and_never_more_than_what_could_have_been_counted(
    before: int, after: int, bits: int
) -> None:
    grown = difference(before, after, bits)
    if after >= before:
        assert grown == after - before
    elif grown is not None:
        assert (bits, grown) == (32, after + WORD - before)
        assert 0 < grown < 2**31


@given(before=st.integers(1, 2**64 - 1), data=st.data())
def test_a_wide_counter_that_ran_back_was_reset(before: int, data: st.DataObject) -> None:
    assert difference(before, data.draw(st.integers(0, before - 1))) is None


_parts = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2**40), max_size=4)
_counters = st.dictionaries(
    st.sampled_from(["x", "y", "z"]),
    st.builds(Counter, parts=_parts, bits=st.sampled_from([32, 64]), scale=st.sampled_from([1.0, 0.01])),
)


@given(_counters, _counters)
def test_every_counter_is_told_or_unknown_or_unchanged(
    before: dict[str, Counter], after: dict[str, Counter]
) -> None:
    found = growth(before, after)
    assert not found.grown.keys() & found.unknown.keys()
    assert all(value > 0 for value in found.grown.values())
    for name in before.keys() | after.keys():
        first, last = before.get(name), after.get(name)
        if first is None or last is None:
            assert found.unknown[name] == ("appeared" if first is None else "vanished")
        elif first.parts.keys() != last.parts.keys():
            assert found.unknown[name] == "was replaced"
        elif name not in found.unknown:
            steps = [difference(first.parts[part], last.parts[part], last.bits) for part in last.parts]
            assert found.grown.get(name, 0) == pytest.approx(sum(step or 0 for step in steps) * last.scale)


@given(_parts, st.dictionaries(st.sampled_from("abcd"), _steps, max_size=4))
def test_what_a_sparse_counter_has_not_seen_before_began_at_zero(
    before: dict[str, int], steps: dict[str, int]
) -> None:
    after = {**before, **{part: before.get(part, 0) + step for part, step in steps.items()}}
    found = growth({"x": Counter(before, sparse=True)}, {"x": Counter(after, sparse=True)})
    assert (found.grown.get("x", 0), found.unknown) == (sum(steps.values()), {})
    assert growth({}, {"x": Counter(after, sparse=True)}).grown.get("x", 0) == sum(after.values())


@given(_parts, st.data())
def test_a_sparse_counter_that_forgot_something_is_unknown(before: dict[str, int], data: st.DataObject) -> None:
    forgotten = data.draw(st.sampled_from([*"abcd"]))
    after = {part: value for part, value in before.items() if part != forgotten}
    found = growth({"x": Counter(before, sparse=True)}, {"x": Counter(after, sparse=True)})
    assert found.unknown == ({"x": "was replaced"} if before.get(forgotten) is not None else {})


def _device(index: int, packets: int, **ethtool: int) -> dict[str, Any]:
    return {"devices": {"eth0": {"index": index, "rx_packets": packets, "ethtool": ethtool}}}


def test_a_device_that_was_replaced_has_not_grown() -> None:
    first, same, other = _device(3, 5), _device(3, 8), _device(9, 8)
    assert growth(*(network_counters(one, ["eth0"]) for one in (first, same))).grown == {
        "device/eth0/rx_packets": 3
    }
    replaced = growth(*(network_counters(one, ["eth0"]) for one in (first, other)))
    assert (replaced.grown, replaced.unknown) == ({}, {"device/eth0/rx_packets": "was replaced"})
    gone = growth(network_counters(first, ["eth0"]), network_counters({"devices": {}}, ["eth0"]))
    assert gone.unknown == {"device/eth0/rx_packets": "vanished"}


def test_the_queues_of_a_driver_are_added_up_and_classes_of_traffic_are_not() -> None:
    first = _device(3, 0, rx0_packets=10, rx1_packets=20, rx_prio1_bytes=5, tx_queue_0_drops=0)
    last = _device(3, 0, rx0_packets=11, rx1_packets=22, rx_prio1_bytes=9, tx_queue_0_drops=7)
    assert growth(driver_counters(first), driver_counters(last)).grown == {
        "ethtool/eth0/rx*_packets": 3,
        "ethtool/eth0/rx_prio1_bytes": 4,
        "ethtool/eth0/tx_queue_*_drops": 7,
    }
    fewer = _device(3, 0, rx0_packets=11, rx_prio1_bytes=9, tx_queue_0_drops=7)
    assert "ethtool/eth0/rx*_packets" in growth(driver_counters(first), driver_counters(fewer)).unknown


def _softnet(*rows: tuple[int, int, int], cpus: tuple[int, ...] = ()) -> str:
    words = [[*row, *[0] * 9] for row in rows]
    for row, cpu in zip(words, cpus, strict=False):
        row += [cpu, 0, 0]
    return "".join(" ".join(f"{word:08x}" for word in row) + "\n" for row in words)


def test_softnet_wraps_on_each_cpu_by_itself() -> None:
    first = {"softnet_stat": _softnet((WORD - 5, 1, 0), (7, 0, 0), cpus=(0, 2))}
    last = {"softnet_stat": _softnet((10, 1, 2), (9, 0, 1), cpus=(0, 2))}
    found = growth(machine_counters(first), machine_counters(last))
    assert found.grown == {"softnet/processed": 15 + 2, "softnet/time_squeeze": 3}


@pytest.mark.parametrize("cpus", [((0, 1), (0,)), ((0, 1), (0, 2)), ((), ())])
def test_softnet_of_other_cpus_is_unknown(cpus: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """A CPU that went offline takes its line along; before Linux 5.10 lines do not say whose they are."""
    rows = [[(5, 0, 0)] * max(len(which), count) for which, count in zip(cpus, (2, 1), strict=True)]
    first, last = ({"softnet_stat": _softnet(*lines, cpus=which)} for lines, which in zip(rows, cpus, strict=True))
    assert set(growth(machine_counters(first), machine_counters(last)).unknown) == {
        "softnet/processed",
        "softnet/dropped",
        "softnet/time_squeeze",
    }


SNMP = """Ip: Forwarding DefaultTTL InReceives
Ip: 1 64 {ip}
Tcp: CurrEstab RetransSegs MaxConn
Tcp: {now} {seg} -1
"""


#: Of the drivers in Linux; braces stand for the number of a queue.
QUEUES = {
    "mlx5": ("rx{}_packets", "tx{}_xdp_xmit", "ch{}_events", "ptp_tx{}_packets"),
    "ena": ("queue_{}_rx_cnt",),
    "ice": ("rx_queue_{}_packets",),
    "bnxt": ("[{}]: rx_ucast_packets",),
    "gve": ("rx_bytes[{}]", "tx_posted_desc[{}]"),
    "i40e": ("rx-{}.packets", "tx-{}.bytes"),
    "sfc": ("rx-{}.rx_packets", "tx-xdp-cpu-{}.tx_packets"),
    "mana": ("rx_{}_packets", "rx_{}_bytes", "tx_{}_xdp_xmit"),
    "ionic": ("rx_{}_pkts", "tx_{}_csum", "txq_{}_stop"),
    "be2net": ("rxq{}: rx_bytes", "txq{}: tx_pkts"),
    "hns3": ("rxq{}_packets", "txq{}_pktnum_rcd"),
    "idpf": ("rx_q-{}_pkts",),
    "qede": ("{}: rcv_pkts",),
    "nfp": ("rvec_{}_rx_pkts",),
    "stmmac": ("q{}_rx_pkt_n",),
    "enetc": ("Rx ring {} frames",),
    "hv_netvsc": ("cpu{}_rx_packets", "tx_queue_{}_packets"),
    "atlantic": ("Queue[{}] InPackets",),
}
#: Classes of traffic, sizes of packets, lanes: each says something of its own.
NO_QUEUES = (
    "rx_prio3_bytes",
    "veb.tc_0_tx_packets",
    "port.tx_priority_0_xon",
    "rx_64_byte_packets",
    "rx_65_to_127_byte_packets",
    "rx_64_bytes_phy",
    "rx_8192_to_10239_bytes_phy",
    "port_rx_64",
    "mac_rx_64_oct_pkt_num",
    "rx_size_64.nic",
    "rx_64b_frames",
    "rx_65_127",
    "mmc_rx_1024tomax_octets_gb",
    "rx_err_lane_0_phy",
    "rx_packets",
)


@pytest.mark.parametrize("driver", QUEUES)
def test_the_queues_of_every_driver_are_added_up(driver: str) -> None:
    for form in QUEUES[driver]:
        seen = {form.format(number): 1 for number in (0, 3, 64, 127)}
        found = driver_counters({"devices": {"eth0": {"index": 2, "ethtool": seen}}})
        assert [(name, sum(one.parts.values())) for name, one in found.items()] == [
            (f"ethtool/eth0/{form.format('*')}", 4)
        ]


def test_what_has_a_number_and_is_no_queue_keeps_it() -> None:
    seen = dict.fromkeys(NO_QUEUES, 1)
    found = driver_counters({"devices": {"eth0": {"index": 2, "ethtool": seen}}})
    assert set(found) == {f"ethtool/eth0/{name}" for name in NO_QUEUES}


def test_settings_and_states_of_a_protocol_are_no_counters() -> None:
    texts = (SNMP.format(ip=10, now=1, seg=4), SNMP.format(ip=12, now=7, seg=4))
    first, last = (network_counters({"devices": {}, "snmp": text}, []) for text in texts)
    assert set(first) == {"snmp/IpInReceives", "snmp/TcpRetransSegs"}
    assert growth(first, last).grown == {"snmp/IpInReceives": 2}


def test_a_message_that_was_never_seen_before_was_counted_from_zero() -> None:
    texts = ("Icmp6InMsgs \t4\n", "Icmp6InMsgs \t5\nIcmp6InType2 \t1\nUdp6InNew \t7\n")
    found = growth(*(network_counters({"devices": {}, "snmp6": text}, []) for text in texts))
    assert found.grown == {"snmp6/Icmp6InMsgs": 1, "snmp6/Icmp6InType2": 1}
    assert found.unknown == {"snmp6/Udp6InNew": "appeared"}


@pytest.mark.parametrize(("machine", "grown"), [("armv7l", 11.0), ("i686", 11.0), ("x86_64", None), (None, None)])
def test_protocol_counters_wrap_where_the_kernel_counts_in_32_bits(
    machine: str | None, grown: float | None
) -> None:
    texts = (SNMP.format(ip=WORD - 1, now=0, seg=0), SNMP.format(ip=10, now=0, seg=0))
    first, last = (network_counters({"devices": {}, "snmp": text, "machine": machine}, []) for text in texts)
    found = growth(first, last)
    assert found.grown.get("snmp/IpInReceives") == grown
    assert bool(found.unknown) is (grown is None)


PROC_STAT = """cpu  100 0 50 {idle} 9 1 {softirq} 0 0 0
cpu0 100 0 50 900 9 1 30 0 0 0
intr {intr} 0 9 0
ctxt 5
softirq {total} 0 1 2 {net_rx} 0 0 0 0 0 0
"""


def test_interrupts_and_softirqs_are_counted_by_kind() -> None:
    texts = (
        PROC_STAT.format(idle=900, softirq=30, intr=1000, total=77, net_rx=WORD - 1),
        PROC_STAT.format(idle=899, softirq=45, intr=1600, total=1, net_rx=4),
    )
    first, last = (machine_counters({"proc_stat": text, "user_hz": 100}) for text in texts)
    found = growth(first, last)
    assert found.grown == {"cpu/softirq_s": 0.15, "interrupts/total": 600, "softirqs/NET_RX": 5}
    assert set(found.unknown) == {"cpu/idle_s"}, "idle time may run back by a tick (proc(5))"


def test_throttling_is_the_pods_own() -> None:
    texts = ("usage_usec 5\nnr_periods 10\nnr_throttled 1\nthrottled_usec 1000\n",)
    texts += ("usage_usec 9\nnr_periods 30\nnr_throttled 4\nthrottled_usec 501000\n",)
    found = growth(*(throttling_counters({"cgroup_cpu_stat": text}) for text in texts)).grown
    assert found == {"cgroup/nr_periods": 20, "cgroup/nr_throttled": 3, "cgroup/throttled_s": 0.5}


def test_gauges_have_values_of_their_moment() -> None:
    seen = {
        "conntrack_count": "17\n",
        "conntrack_max": "262144\n",
        "meminfo": "MemTotal:  2048 kB\nMemAvailable:  1024 kB\nSlab:  1 kB\nHugePages_Total: 0\n",
    }
    assert gauges(seen) == {
        "conntrack/count": 17,
        "conntrack/max": 262_144,
        "memory/MemTotal_bytes": 2048 * 1024,
        "memory/MemAvailable_bytes": 1024 * 1024,
        "memory/Slab_bytes": 1024,
    }
    assert gauges({}) == waiting_counters({}) == {}


_text = st.one_of(st.none(), st.text(max_size=80), st.sampled_from([SNMP, PROC_STAT, _softnet((1, 2, 3))]))


_files = ("snmp", "snmp6", "netstat", "softnet_stat", "proc_stat", "cgroup_cpu_stat", "meminfo")


@given(st.fixed_dictionaries(dict.fromkeys(_files, _text)))
def test_files_that_hold_anything_at_all_are_read(seen: dict[str, str | None]) -> None:
    snapshot = {"devices": {}, "user_hz": 100, **seen}
    for read in (machine_counters, throttling_counters, gauges, lambda one: network_counters(one, [])):
        assert isinstance(read(snapshot), dict)
