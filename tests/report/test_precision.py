import pytest

from bigtcp_bench.planning.plan import validate_plan
from bigtcp_bench.report.precision import unknown_line
from tests.report.views import comparison

PLAN = validate_plan(
    {"scenarios": ["ipv4-stream-1", "ipv6-rr"], "order": "off,on,off,on,off", "duration_s": 10, "omit_s": 2}
).model_dump(mode="json")


def interval(scenario, metric, half, **fields):
    ends = {"ci_low": 1.5 / (1 + half) - 1, "ci_high": 1.5 * (1 + half) - 1}
    return comparison(scenario, metric, 10.0, 15.0, **ends, **fields)


def test_what_is_not_known_comes_with_what_it_would_take():
    found = [
        interval("ipv4-stream-1", "throughput_bps", 0.029),
        interval("ipv6-rr", "transactions_per_s", 0.06),
        interval("ipv6-rr", "latency_p99_us", 0.2),
    ]
    assert unknown_line(found, PLAN) == (
        "not known to ±3 %: ipv6-rr ±6.0 % (36 more pairs of pods, 14 min 24 s of traffic)"
    )


def test_what_is_far_from_known_is_told_in_figures_that_can_be_read():
    line = unknown_line([interval("ipv6-rr", "transactions_per_s", 0.6)], PLAN)
    assert "(4,788 more pairs of pods, 31 h 55 min of traffic)" in line


@pytest.mark.parametrize(
    ("half", "fields", "plan"),
    [
        (0.02, {}, {}),
        (0.06, {"verdict": "invalid"}, {}),
        (0.06, {}, {"precision": None}),
        (0.06, {}, {"precision": 0.07}),
        (0.06, {}, {"order": ["off", "off"]}),
        (0.06, {}, {"scenarios": ["of another version"]}),
    ],
)
def test_nothing_is_said_where_nothing_is_missing_or_known(half, fields, plan):
    assert unknown_line([interval("ipv6-rr", "transactions_per_s", half, **fields)], PLAN | plan) == ""
    assert unknown_line([interval("ipv6-rr", "transactions_per_s", half)], {}) == ""
