"""The Grafana dashboard: its form, and that every query in it is PromQL over series that exist."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from string import Template
from typing import Any

import pytest
import yaml

from bigtcp_bench.monitoring.exposition import Families
from bigtcp_bench.monitoring.queries import load_queries
from bigtcp_bench.resources import include_dir
from tests.monitoring.servers import promtool

FOLDER = include_dir() / "monitoring"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
#: Grafana's own: https://grafana.com/docs/grafana/latest/dashboards/variables/add-template-variables/
BUILT_IN = {"__rate_interval": "2m"}


def names_in(text: str) -> set[str]:
    """Return the metrics that an expression names."""
    return set(re.findall(r"\b(?:bigtcp_bench[_:][\w:]+|cilium_\w+|node_\w+)(?=[{,\[]|\s|$)", text))


def known_names() -> set[str]:
    """Return what the plugin exposes, what the rules record, and what the queries of the package name."""
    exposed = {f"{family.name}{'_info' * (family.type == 'info')}" for family in Families([]).collect()}
    groups = yaml.safe_load((FOLDER / "rules.yaml").read_text(encoding="utf-8"))["groups"]
    recorded = {rule["record"] for group in groups for rule in group["rules"] if "record" in rule}
    return exposed | recorded | {name for query in load_queries() for name in names_in(query.promql)}


def test_the_frame_of_the_dashboard():
    assert DASHBOARD["schemaVersion"] == 39
    assert DASHBOARD["title"]
    assert "id" not in DASHBOARD, "the id is the importing Grafana's"
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert {"datasource", "cluster", "scenario", "instance"} == set(VARIABLES)
    assert VARIABLES["datasource"]["type"] == "datasource"
    assert VARIABLES["datasource"]["query"] == "prometheus"


def test_panels_have_a_unit_a_title_and_the_chosen_data_source_and_do_not_overlap():
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = set(
            itertools.product(
                range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
            )
        )
        assert not own & cells, panel["title"]
        cells |= own
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
            assert source == {"type": "prometheus", "uid": "${datasource}"}


def test_queries_name_variables_and_series_that_exist():
    known = known_names()
    asked = [
        *EXPRESSIONS,
        *(variable["definition"] for variable in VARIABLES.values() if "definition" in variable),
    ]
    for expression in asked:
        variables = set(Template(expression).get_identifiers())
        assert variables <= set(VARIABLES) | set(BUILT_IN), expression
        assert names_in(expression), expression
        assert names_in(expression) <= known, expression


def test_what_does_not_exist_is_noticed():
    invented = 'rate(cilium_forward_packets_total[5m]) / bigtcp_bench_nothing{cluster="a"}'
    assert names_in(invented) - known_names() == {"cilium_forward_packets_total", "bigtcp_bench_nothing"}


def test_the_queries_of_the_package_are_shown_as_they_are():
    for query in load_queries():
        shown = Template(query.promql).substitute(
            nodes='instance=~"$instance"', node="instance", window="$__rate_interval"
        )
        assert shown in EXPRESSIONS, query.name


@pytest.mark.prometheus
def test_every_query_is_promql(tmp_path: Path):
    values = dict.fromkeys(VARIABLES, "any") | BUILT_IN
    rules = [
        {"record": f"dashboard:query{number}", "expr": Template(expression).substitute(values)}
        for number, expression in enumerate(EXPRESSIONS)
    ]
    file = tmp_path / "dashboard.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    promtool("check", "rules", str(file))
