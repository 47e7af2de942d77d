"""Each cause is named from evidence that points to it, and none from evidence that does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from bigtcp_bench.analysis.diagnosis import (
    CAUSES,
    CapturedStream,
    Evidence,
    Measured,
    NodeCounters,
    NodeSetting,
    PodLimits,
    Throttled,
    diagnose,
)
from bigtcp_bench.analysis.verdicts import NodePressure

RECORDED = Path(__file__).parent.parent / "recorded" / "diagnosis"
BIG, SMALL = 196_608, 65_536
ALL_LIMITS = ("gso_max_size", "gro_max_size", "gso_ipv4_max_size", "gro_ipv4_max_size")


def limits(size: int) -> dict[str, int]:
    return dict.fromkeys(ALL_LIMITS, size)


def measured(arm: str, **seen: float | int | str | None) -> Measured:
    """Return a repetition of a clean run of the lab, with ``seen`` in the place of what it saw."""
    size = 185_000.0 if arm == "on" else 64_700.0
    fields = {
        "block": 2 if arm == "on" else 1,
        "arm": arm,
        "generation": 1,
        "scenario": "ipv4-stream-1",
        "repetition": 1,
        "sender_b": size,
        "receiver_b": size,
        "retransmits_per_gb": 2.0,
        "window_limited_share": 0.02,
        "sender_cpus": 0.6,
        "receiver_cpus": 0.6,
        "cpu_wait_share": 0.2,
        "zero_windows": 0,
        "too_big_messages": 0,
    }
    return Measured(**{**fields, **seen})  # type: ignore[arg-type]


def counted(node: str = "node2", **grown: float) -> NodeCounters:
    usual = {"cilium/Success/ingress/packets": 90_000.0, "cilium/Interface/ingress/packets": 90_000.0}
    return NodeCounters(2, "on", node, usual | {name.replace("__", "/"): value for name, value in grown.items()})


CLEAN = Evidence(
    families=("ipv4", "ipv6"),
    ceilings={"node1": {"eth0": 524_280}, "node2": {"eth0": 524_280}},
    settings=[
        NodeSetting(
            block,
            arm,  # type: ignore[arg-type]
            node,
            dict.fromkeys(("ipv4", "ipv6"), arm == "on"),
            dict.fromkeys(("ipv4", "ipv6"), size),
            {"eth0": limits(size)},
        )
        for block, arm, size in ((1, "off", SMALL), (2, "on", BIG))
        for node in ("node1", "node2")
    ],
    pods=[PodLimits(1, "off", 1, "client", limits(SMALL)), PodLimits(2, "on", 1, "client", limits(BIG))],
    measured=[measured("off"), measured("on")],
    counters=[counted("node1"), counted("node2")],
    pressure=[NodePressure(1, "node1", 0.001, 0.05), NodePressure(2, "node2", 0.002, 0.1)],
    throttled=[Throttled(1, 1, "server", 0.0)],
)


def names(evidence: Evidence) -> list[str]:
    return [cause.name for cause in diagnose(evidence)]


def test_clean_evidence_has_no_cause():
    assert diagnose(CLEAN) == []
    assert diagnose(Evidence()) == []


def both(**seen: float | int | str | None) -> list[Measured]:
    return [measured("off", **seen), measured("on", **seen)]


def setting(**changes: object) -> list[NodeSetting]:
    return [*CLEAN.settings[:3], replace(CLEAN.settings[3], **changes)]


CASES = {
    "a card of 64 KiB": (
        {"ceilings": {"node1": {"eth0": 524_280}, "node2": {"ens5": 65_536}}},
        "nic-limit",
        {"node": "node2"},
        ["device ens5 of node node2", "65,536 B"],
    ),
    "devices stay as they are": (
        {"settings": setting(limits={"eth0": limits(SMALL)})},
        "setting-not-effective",
        {"node": "node2", "arm": "on"},
        ["gso_ipv4_max_size of eth0 on node node2 is 65,536 B in arm on", "agent says 196,608 B", "3 more"],
    ),
    "an agent is told otherwise": (
        {"settings": setting(told={"ipv4": False, "ipv6": True})},
        "setting-not-effective",
        {"node": "node2", "arm": "on"},
        ["agent of node node2 was told off for ipv4"],
    ),
    "a kernel without the attribute": (
        {"settings": setting(limits={"eth0": {"gso_max_size": BIG, "gro_max_size": BIG}})},
        "setting-not-effective",
        {"node": "node2", "arm": "on"},
        ["gso_ipv4_max_size of eth0"],
    ),
    "still on in arm off": (
        {"pods": [PodLimits(1, "off", 1, "server", limits(BIG))]},
        "setting-not-effective",
        {"arm": "off"},
        ["of the server pod is 196,608 B in arm off (block 1)"],
    ),
    "small at the sender": (
        {"measured": [measured("off"), measured("on", sender_b=60_000.0, receiver_b=60_000.0)]},
        "setting-not-effective",
        {"arm": "on", "scenario": "ipv4-stream-1"},
        ["60,000 B on average in arm on"],
    ),
    "large at the sender, small at the receiver": (
        {"measured": [measured("off"), measured("on", receiver_b=1_516.0, window_limited_share=0.9)]},
        "segmented-on-the-way",
        {"arm": "on", "scenario": "ipv4-stream-1"},
        ["packets of 185,000 B left the sender", "with 1,516 B"],
    ),
    "a captured stream, small at the receiver": (
        {
            "captured": [
                CapturedStream(1, "off", "ipv4", 64_000.0, 64_000.0),
                CapturedStream(2, "on", "ipv4", 180_000.0, 1_470.0),
            ]
        },
        "segmented-on-the-way",
        {"arm": "on", "scenario": None},
        ["packets of 180,000 B left the sender", "with 1,470 B"],
    ),
    "one of two nodes, each of which has its turn": (
        {
            "measured": [
                measured("on", scenario="ipv4-stream-1@same-node", generation=turn, receiver_b=size)
                for turn, size in enumerate([170_000.0, 60_000.0] * 3)
            ]
        },
        "segmented-on-the-way",
        {"arm": "on", "scenario": "ipv4-stream-1@same-node"},
        ["reached the receiver with 60,000 B"],
    ),
    "a captured stream through a Service, segmented in one block": (
        {
            "captured": [
                CapturedStream(2, "on", "ipv4 (service)", 180_000.0, size) for size in (180_000.0, 1_470.0)
            ]
        },
        "segmented-on-the-way",
        {"arm": "on", "scenario": None},
        ["ipv4 (service): packets of 180,000 B left the sender", "with 1,470 B"],
    ),
    "a captured stream, large in arm off": (
        {"captured": [CapturedStream(1, "off", "ipv6", 180_000.0, 180_000.0)]},
        "setting-not-effective",
        {"arm": "off", "scenario": None},
        ["packets left the sender with 180,000 B on average in arm off"],
    ),
    "a node that forwards refuses": (
        {"counters": [counted("node1", snmp6__Ip6InTooBigErrors=4_000), counted("node2")]},
        "too-big-at-a-hop",
        {"node": "node1", "arm": "on"},
        ["refused 4,000 IPv6 packets as too big in block 2 (Ip6InTooBigErrors)"],
    ),
    "a hop further on refuses": (
        {
            "measured": [
                *both(),
                measured(
                    "on",
                    scenario="ipv6-stream-1",
                    too_big_messages=300,
                    sender_b=1_500.0,
                    receiver_b=1_500.0,
                    retransmits_per_gb=200_000.0,
                ),
            ]
        },
        "too-big-at-a-hop",
        {"arm": "on", "scenario": "ipv6-stream-1"},
        ["told the sender 300 times", "Icmp6InPktTooBigs"],
    ),
    "the receiver does not come to the CPU": (
        {"measured": both(zero_windows=5, receiver_cpus=0.06)},
        "receiver-cpu",
        {"scenario": "ipv4-stream-1"},
        ["closed its window 5.0 times", "6.0% of a CPU where the sender's used 60.0%", "1 more such stream"],
    ),
    "the receiver waits for a CPU": (
        {"measured": both(cpu_wait_share=0.97, receiver_cpus=0.06)},
        "receiver-cpu",
        {"scenario": "ipv4-stream-1"},
        ["had work waiting for a CPU in 97% of the time", "6.0% of a CPU where the sender's used 60.0%"],
    ),
    "the receiver needs a whole CPU": (
        {"measured": both(receiver_cpus=0.99)},
        "receiver-cpu",
        {},
        ["used 99% of a CPU for each stream"],
    ),
    "the sender waits for the window": (
        {"measured": both(window_limited_share=0.9)},
        "receiver-cpu",
        {},
        ["waited for the receiver's window in 90% of its time"],
    ),
    "a lossy path": (
        {"measured": both(retransmits_per_gb=28_000.0)},
        "retransmits",
        {"scenario": "ipv4-stream-1"},
        ["28,000 segments per gigabyte"],
    ),
    "Cilium drops, so the sender retransmits": (
        {
            "counters": [counted("node1"), counted(**{"cilium/CT: Map insertion failed/ingress/packets": 3_000})],
            "measured": both(retransmits_per_gb=28_000.0),
        },
        "cilium-drops",
        {"node": "node2"},
        ["3,000 packets (ingress)", '"CT: Map insertion failed"'],
    ),
    "others keep a node busy": (
        {"pressure": [NodePressure(1, "node1", 0.0, 0.97), NodePressure(2, "node1", 0.0, 0.6)]},
        "noisy-neighbour",
        {"node": "node1"},
        ["97% busy with other work before block 1", "1 more"],
    ),
    "a CPU limit, so the receiver is slow": (
        {
            "throttled": [Throttled(1, 1, "client", 0.0), Throttled(2, 1, "server", 0.97)],
            "measured": both(window_limited_share=0.8),
        },
        "throttled",
        {},
        ["held the server pod back in 97% of the scheduler's periods (block 2, generation 1)"],
    ),
    "the hypervisor takes time": (
        {"pressure": [NodePressure(3, "node2", 0.2, 0.1)]},
        "steal",
        {"node": "node2"},
        ["20.0% of the CPU time of node2 in block 3"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_cause_is_named_and_no_other(case):
    changes, name, scope, words = CASES[case]
    (cause,) = diagnose(replace(CLEAN, **changes))
    assert cause.name == name
    for field in ("scenario", "arm", "node"):
        assert field not in scope or getattr(cause, field) == scope[field]
    for word in words:
        assert word in cause.sentence
    assert cause.figures
    assert 0 < cause.strength <= 1


def test_every_cause_has_a_case():
    assert {name for _, name, _, _ in CASES.values()} == set(CAUSES)


def test_what_a_cause_explains_is_said_with_it():
    changes, *_ = CASES["Cilium drops, so the sender retransmits"]
    (cause,) = diagnose(replace(CLEAN, **changes))
    assert cause.explains == ("retransmits",)


def test_causes_that_do_not_explain_each_other_are_all_named_the_strongest_first():
    evidence = replace(
        CLEAN,
        pressure=[NodePressure(1, "node1", 0.06, 0.9)],
        measured=both(retransmits_per_gb=200_000.0),
    )
    causes = diagnose(evidence)
    assert [cause.name for cause in causes] == ["retransmits", "noisy-neighbour", "steal"]
    assert [cause.strength for cause in causes] == sorted((cause.strength for cause in causes), reverse=True)


def test_one_bad_repetition_of_many_is_no_cause():
    rows = [measured("on", repetition=number) for number in range(1, 6)]
    worst = replace(rows[0], retransmits_per_gb=90_000.0, window_limited_share=1.0, too_big_messages=900)
    assert diagnose(replace(CLEAN, measured=[measured("off"), *rows[1:], worst])) == []


def test_a_receiver_that_keeps_up_is_no_cause():
    """Nor is a window that is closed often, a queue for the CPUs, one that needs little, three CPUs for eight."""
    assert diagnose(replace(CLEAN, measured=both(zero_windows=50))) == []
    assert diagnose(replace(CLEAN, measured=both(cpu_wait_share=1.0))) == []
    assert diagnose(replace(CLEAN, measured=both(receiver_cpus=0.06, zero_windows=0))) == []
    assert diagnose(replace(CLEAN, measured=both(scenario="ipv4-stream-8", receiver_cpus=3.0))) == []


def test_drops_of_a_handful_of_packets_are_no_cause():
    dropped = {"cilium/Unknown L3 target address/egress/packets": 3.0}
    assert diagnose(replace(CLEAN, counters=[counted(**dropped)])) == []


def test_what_cilium_forwarded_is_no_drop():
    forwarded = dict.fromkeys(
        (
            f"cilium/{reason}/ingress/packets"
            for reason in ("Interface Decrypted", "LB, sock cgroup: Reverse entry stale", "Fragmented packet")
        ),
        50_000.0,
    )
    assert diagnose(replace(CLEAN, counters=[counted(**forwarded)])) == []


def test_only_streams_are_judged_by_the_size_of_their_packets():
    row = measured("on", scenario="ipv4-rr", sender_b=40_060.0, receiver_b=40_060.0, retransmits_per_gb=9e5)
    assert diagnose(replace(CLEAN, measured=[row])) == []


# Scaling what was measured creates no cause


FACTORS = st.floats(0.75, 1.25)


@given(st.lists(FACTORS, min_size=8, max_size=8))
def test_noise_of_a_quarter_on_clean_evidence_creates_no_cause(factors):
    sizes, losses, waits, cpus, drops, busy, stolen, held = factors

    def scaled(row: Measured) -> Measured:
        # A packet is never larger than its arm allows: the noise is of how full it is.
        size = min(row.sender_b * sizes, BIG if row.arm == "on" else SMALL)
        return replace(
            row,
            sender_b=size,
            receiver_b=size,
            retransmits_per_gb=row.retransmits_per_gb * losses * 100,
            window_limited_share=row.window_limited_share * waits * 10,
            receiver_cpus=row.receiver_cpus * cpus,
        )

    noisy = replace(
        CLEAN,
        measured=[scaled(row) for row in CLEAN.measured],
        counters=[counted(**{"cilium/Policy denied/ingress/packets": 100 * drops})],
        pressure=[NodePressure(1, "node1", 0.03 * stolen, 0.35 * busy)],
        throttled=[Throttled(1, 1, "server", 0.03 * held)],
    )
    assert diagnose(noisy) == []


@given(st.floats(1.0, 1e6), st.sampled_from(["measured", "counters"]))
def test_how_much_was_transferred_is_no_cause(factor, what):
    """Ten times the traffic has ten times the packets, and neither more nor fewer causes."""
    grown = {name: value * factor for name, value in counted().grown.items()}
    evidence = replace(CLEAN, counters=[NodeCounters(2, "on", "node2", grown)])
    if what == "measured":
        evidence = replace(evidence, measured=[*CLEAN.measured] * min(50, round(factor)))
    assert diagnose(evidence) == []


# From runs of the lab


FAULTS = {
    "no-fault": None,
    "nic-65536": "nic-limit",
    "setting-ignored": "setting-not-effective",
    "ip-forwarding-hop": "too-big-at-a-hop",
    "outer-veth-64k": "segmented-on-the-way",
    "cilium-drops": "cilium-drops",
    "cpu-limit": "throttled",
    "stolen-cpu": "steal",
    "noisy-neighbour": "noisy-neighbour",
    "crowded-cpu": "receiver-cpu",
    "lossy-path": "retransmits",
}


def recorded(fault: str) -> Evidence:
    return TypeAdapter(Evidence).validate_json((RECORDED / f"{fault}.json").read_bytes())


@pytest.mark.parametrize("fault", FAULTS)
def test_recorded_evidence_of_a_fault_names_its_cause_and_no_other(fault):
    """What the recording machine had without any fault, the work of others, is not the fault's."""
    others = set(names(recorded("no-fault"))) - {FAULTS[fault]}
    assert others <= {"noisy-neighbour"}
    assert [name for name in names(recorded(fault)) if name not in others] == [FAULTS[fault]] * (
        fault != "no-fault"
    )


def test_every_cause_was_recorded():
    assert set(FAULTS.values()) - {None} == set(CAUSES)
    assert {path.stem for path in RECORDED.glob("*.json")} == set(FAULTS)
