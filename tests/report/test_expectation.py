import pytest

from bigtcp_bench.planning.plan import SCENARIOS
from bigtcp_bench.report.expectation import unexpected
from bigtcp_bench.report.run_object import run_object
from bigtcp_bench.report.summary import run_summary
from tests.report.views import comparison, run_view


def view(expected, verdict, scenario="ipv6-rr", metric="transactions_per_s", **fields):
    found = comparison(scenario, metric, 12_000, 11_000, verdict=verdict, **fields)
    return run_view(comparisons=(found,), expectations={scenario: expected})


@pytest.mark.parametrize(
    ("expected", "verdict", "words"),
    [
        ("gain", "faster", []),
        ("gain", "inconclusive", []),
        ("gain", "equivalent", ["ipv6-rr should gain; transactions unchanged (−8.3 %)"]),
        ("gain", "slower", ["ipv6-rr should gain; transactions worse (−8.3 %)"]),
        ("no change", "faster", []),
        ("no change", "equivalent", []),
        ("no change", "inconclusive", []),
        ("no change", "slower", ["ipv6-rr should not change; transactions worse (−8.3 %)"]),
    ],
)
def test_what_is_not_as_expected_is_told(expected, verdict, words):
    told = view(expected, verdict)
    assert unexpected(told) == words == run_object(told)["unexpected"]
    assert [f"not as expected: {line}" in " ".join(run_summary(told).split()) for line in words] == [True] * len(
        words
    )


def test_one_metric_stands_for_what_should_gain_and_every_one_for_what_should_not_change():
    assert unexpected(view("gain", "slower", metric="latency_p99_us")) == []
    (line,) = unexpected(view("no change", "slower", metric="latency_p99_us"))
    assert "latency p99 worse" in line
    assert unexpected(view("no change", "slower", below_margin=True)) == []


def test_one_arm_twice_has_nothing_to_expect():
    told = view("gain", "slower")
    aa = run_view(comparisons=told.comparisons, expectations=told.expectations, order=("off", "off"))
    assert unexpected(aa) == []
    assert "should gain" not in run_summary(aa)


def test_small_requests_should_not_change_and_large_ones_gain():
    assert SCENARIOS["ipv4-rr"].expectation(80_000) == "gain"
    assert SCENARIOS["ipv4-rr"].expectation(1_000) == "no change"
    assert {SCENARIOS[name].expectation(1_000) for name in ("ipv4-stream-1", "ipv6-rate")} == {"gain"}
