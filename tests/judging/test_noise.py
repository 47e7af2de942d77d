import pytest

from bigtcp_bench.analysis.noise import Noise
from bigtcp_bench.judging.noise import advice, shortfall
from bigtcp_bench.planning.plan import Plan, validate_plan

KEY = ("ipv4-stream-1", "throughput_bps")
#: As on a machine of its own: 2 % between pod pairs, a third of that between switches.
NOISES = [
    Noise(*KEY, "repetition", 0.015, 12),
    Noise(*KEY, "generation", 0.02, 9),
    Noise(*KEY, "switch", 0.006, 3),
]


def plan(order: str) -> Plan:
    return validate_plan({"scenarios": [KEY[0]], "order": order, "generations": 1})


@pytest.mark.parametrize(
    ("order", "advised"),
    [
        ("off,on,off", "off,on,off,on,off"),
        ("on,off,on", "on,off,on,off,on"),
        ("off,on,on,off", "off,on,off,on,off"),
        ("off,on,off,on", "off,on,off,on,off"),
        ("off,off", "off,on,off,on,off"),
        ("on,on", "on,off,on,off,on"),
        ("off,on,off,on,off", "off,on,off,on,off"),
        ("off,on,off,on,off,on", "off,on,off,on,off,on"),
    ],
)
def test_more_blocks_are_advised_where_a_bend_cannot_be_told(order, advised):
    (found,) = advice(NOISES, plan(order))
    assert found.order == advised
    assert found.would_detect is not None
    assert found.would_detect <= 0.05
    assert found.generations < 10


def test_three_blocks_are_told_that_they_need_five():
    assert shortfall(NOISES, plan("off,on,off")) == (
        "by the noise of earlier A/A runs this plan sees changes from 16.9% in ipv4-stream-1; suggested are the "
        "order off,on,off,on,off with 2 generations of 1 repetitions (the plan has 1 of 2 in 3 blocks), which "
        "would see changes from 4.2%"
    )
    assert "this plan sees no change at all in ipv4-stream-1" in (shortfall(NOISES, plan("off,on")) or "")
    told = shortfall(NOISES, plan("off,on,off,on,off"))
    assert told is not None
    assert "the order" not in told


def test_a_plan_is_sized_by_the_noisiest_of_its_scenarios():
    quieter = [Noise("ipv4-rr", "transactions_per_s", one.level, 0.9 * one.sd, one.n) for one in NOISES]
    louder = [Noise("ipv6-rr", "transactions_per_s", one.level, 1.4 * one.sd, one.n) for one in NOISES]
    names = ["ipv4-rr", KEY[0], "ipv6-rr"]
    sized = validate_plan({"scenarios": names, "order": "off,on,off,on,off", "generations": 1})
    noises = [*quieter, *NOISES, *louder]
    worst = {one.scenario: one for one in advice(noises, sized)}["ipv6-rr"]
    told = shortfall(noises, sized) or ""
    assert (
        f"sees changes from {worst.detects:.1%} in ipv6-rr; suggested are {worst.generations} generations" in told
    )
    assert told.endswith(f"which would see changes from {worst.would_detect:.1%}")
