"""What of a plan makes the figures of a scenario comparable, or not."""

from __future__ import annotations

import pytest

from bigtcp_bench.planning.plan import SCENARIOS, load_plan
from bigtcp_bench.planning.terms import changed_terms, same_terms, terms_of

PLAN = load_plan("nightly").model_dump(mode="json")


@pytest.mark.parametrize(
    ("scenario", "other", "changed"),
    [
        ("ipv4-stream-1", {}, {}),
        ("ipv4-stream-1", {"generations": 9, "order": ["off", "on"], "rate_bps": 5, "request_bytes": 7}, {}),
        ("ipv4-stream-1", {"scenarios": ["ipv4-stream-1", "ipv4-stream-1@service"]}, {}),
        ("ipv4-stream-1", {"duration_s": 5}, {"duration_s": (str(PLAN["duration_s"]), "5")}),
        ("ipv4-rate", {"rate_bps": 5}, {"rate_bps": ("1000000000", "5")}),
        ("ipv4-rr", {"request_bytes": 5}, {"request_bytes": ("80000", "5")}),
        ("ipv4-rr", {"image": "mine:1"}, {"image": (PLAN["image"], "mine:1")}),
    ],
)
def test_figures_compare_only_on_the_same_terms(scenario, other, changed):
    now = PLAN | other
    assert changed_terms(terms_of(PLAN, scenario), terms_of(now, scenario)) == changed
    assert same_terms(scenario, PLAN, now) is (changed == {})


def test_what_a_stored_plan_does_not_say_is_the_default():
    assert terms_of({}, "ipv4-rr") == terms_of({"request_bytes": 80_000}, "ipv4-rr")
    assert not same_terms("ipv4-rr", PLAN, {**PLAN, "scenarios": ["ipv4-rate"]})
    assert not same_terms("ipv4-rr", PLAN, {})


def test_a_path_is_a_term_and_the_path_of_before_is_no_other():
    """What was stored when there was one path goes on; the same traffic on another path is a series of its own."""
    terms = terms_of(PLAN, "ipv4-rr")
    without = {name: value for name, value in terms.items() if name != "path"}
    assert terms["path"] == "pod"
    assert changed_terms(without, terms) == {}
    assert changed_terms(terms, terms_of(PLAN, "ipv4-rr@service")) == {"path": ("pod", "service")}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_scenario_itself_is_part_of_its_terms(scenario):
    """Whatever else a scenario will say of itself, such as its path, is a term without further ado."""
    known = SCENARIOS[scenario].model_dump(exclude={"name", "request_bytes"})
    if SCENARIOS[scenario].request_bytes:
        known["request_bytes"] = SCENARIOS[scenario].request_bytes
    assert terms_of(PLAN, scenario).items() >= {name: str(value) for name, value in known.items()}.items()


def test_a_scenario_that_is_no_longer_known_has_the_terms_of_all():
    assert set(terms_of(PLAN, "ipv9-stream-1")) == {"duration_s", "omit_s", "image"}
