"""The rules: what promtool says to them and to their unit tests, and whether they know every scenario."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from bigtcp_bench.monitoring.exposition import PREFIX, STATUSES, VERDICTS
from bigtcp_bench.planning.plan import SCENARIOS
from bigtcp_bench.resources import include_dir
from tests.monitoring.servers import promtool

RULES = include_dir() / "monitoring" / "rules.yaml"
UNIT_TESTS = ("rules_test.yaml", "benefit_test.yaml")


def rules() -> list[dict[str, str]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.prometheus
def test_promtool_checks_the_rules():
    promtool("check", "rules", str(RULES))


@pytest.mark.prometheus
@pytest.mark.parametrize("name", UNIT_TESTS)
def test_promtool_runs_their_unit_tests(name):
    promtool("test", "rules", str(Path(__file__).parent / name))


def test_every_alert_has_a_unit_test_in_which_it_is_raised():
    raised = set()
    for name in UNIT_TESTS:
        for group in yaml.safe_load((Path(__file__).parent / name).read_text(encoding="utf-8"))["tests"]:
            raised |= {test["alertname"] for test in group["alert_rule_test"] if test["exp_alerts"]}
    assert raised == {rule["alert"] for rule in rules() if "alert" in rule}


def test_every_scenario_has_its_headline():
    (expression,) = [rule["expr"] for rule in rules() if rule.get("record") == "bigtcp_bench:headline_verdict"]
    parts = re.findall(r'scenario=~"([^"]+)", metric="([^"]+)"', expression)
    for scenario in SCENARIOS.values():
        metrics = [metric for pattern, metric in parts if re.fullmatch(pattern, scenario.name)]
        assert metrics == [scenario.kind.headline]


def test_states_that_the_rules_name_exist():
    text = RULES.read_text(encoding="utf-8")
    for label, known in (("verdict", VERDICTS), ("last_run_status", STATUSES)):
        named = re.findall(rf'{PREFIX}{label}=~?"([^"]+)"', text)
        assert named
        assert {state for one in named for state in one.split("|")} <= set(known)
