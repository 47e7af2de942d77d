"""What whoever triggers a run may choose, and what no conf can smuggle in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import AirflowFailException
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtcp_bench.airflow.params import PLAN_FIELDS, dag_params, plan_of_params
from bigtcp_bench.airflow.restore_by_hand import restore_by_hand
from bigtcp_bench.airflow.steps.step import DagRunStep
from bigtcp_bench.cluster import guardian_objects
from bigtcp_bench.cluster.api import CONFIGMAP
from bigtcp_bench.cluster.nodes import choose_pair
from bigtcp_bench.cluster.pods import BENCH_NAMESPACE
from bigtcp_bench.cluster.window import open_window
from bigtcp_bench.errors import InvalidInput, PreconditionFailed
from bigtcp_bench.in_cluster.protocol import GUARDIAN_NAME
from bigtcp_bench.measuring.dry_run import outline
from bigtcp_bench.planning.plan import Plan, load_plan
from tests.cluster.simulated import Cluster

FORM = {name: param.value for name, param in dag_params().items()}

#: What decides who may do what in the cluster, or how its state is put back.
ADMINISTRATORS = sorted(set(Plan.model_fields) - set(PLAN_FIELDS) - {"name", "description"})


def as_airflow_merges(conf: dict[str, Any]) -> dict[str, Any]:
    """Return the params that a run gets whose trigger had ``conf``: declared or not, Airflow takes every name."""
    params = ParamsDict(dag_params())
    params.update(conf)
    params.validate()
    return params.dump()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image", "attacker.example/own:1"),
        ("image_pull_secrets", ["other-secret"]),
        ("scope", "cluster"),
        ("guardian", False),
        ("kubernetes_conn_id", "any_other_connection"),
        ("thresholds", {"margin": 0.5}),
        ("request_bytes", 10_000_000),
        ("no such\nthing" * 50, 1),
    ],
)
def test_a_trigger_chooses_only_what_is_measured(name: str, value: Any) -> None:
    with pytest.raises(
        InvalidInput, match="is no field of this DAG's form; allowed are plan, scenarios"
    ) as refusal:
        plan_of_params(as_airflow_merges({name: value}))
    assert len(str(refusal.value)) < 350


def test_whatever_the_form_offers_is_taken() -> None:
    """Every run has all of it, as it comes; a field that only the form knew would refuse them all."""
    assert plan_of_params(as_airflow_merges({})) == load_plan("nightly")
    assert plan_of_params(as_airflow_merges({"night": True, "dry_run": True, "note": "why"})) == load_plan(
        "nightly"
    )


def test_every_field_that_the_form_lacks_is_the_administrators() -> None:
    assert {"image", "image_pull_secrets", "scope", "guardian", "control", "load_gate"} <= set(ADMINISTRATORS)
    for name in ADMINISTRATORS:
        with pytest.raises(InvalidInput, match=name):
            plan_of_params({**FORM, name: None})


@pytest.mark.parametrize(
    "plan", ["../evil", "/tmp/evil.yaml", "nightly.yaml", "nightly.edge", "", None, 7, ["nightly"]]
)
def test_a_plan_is_a_name_and_no_path(plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIGTCP_BENCH_PLANS", str(tmp_path / "plans"))
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "nightly.edge.yaml").write_text("scenarios: [ipv4-rr]\n")
    (tmp_path / "evil.yaml").write_text("scenarios: [ipv4-rr]\nimage: attacker.example/own:1\n")
    with pytest.raises(InvalidInput, match="must be the name of a plan, one of nightly, quick, upgrade"):
        plan_of_params({**FORM, "plan": plan})


Anything = st.sampled_from(["cluster", "attacker.example/own:1", True, False, None, 7]) | st.text()


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(["x", *ADMINISTRATORS]), Anything, min_size=1, max_size=2))
def test_whatever_a_conf_holds_image_scope_and_guardian_are_the_plans(conf: dict[str, Any]) -> None:
    written = load_plan("nightly")
    try:
        found = plan_of_params({**FORM, **conf})
    except InvalidInput:
        return
    assert {name: getattr(found, name) for name in ADMINISTRATORS if name != "name"} == {
        name: getattr(written, name) for name in ADMINISTRATORS if name != "name"
    }


def test_a_dag_runs_on_its_own_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIGTCP_BENCH_CLUSTERS", "prod,staging")

    def step(dag_id: str) -> DagRunStep:
        params = {**FORM, "kubernetes_conn_id": "prod"}
        return DagRunStep(dag_id, "r", "check_kernel", "manual", params, dict)

    assert (step("bigtcp_benchmark").conn_id, step("bigtcp_benchmark_staging").conn_id) == ("prod", "staging")
    with pytest.raises(PreconditionFailed, match="the DAG 'bigtcp_benchmark_other' measures no cluster here"):
        _ = step("bigtcp_benchmark_other").conn_id


def test_a_restore_by_hand_names_no_cluster() -> None:
    with pytest.raises(AirflowFailException, match="'kubernetes_conn_id': is no field of this DAG's form"):
        restore_by_hand("staging", {"force": True, "kubernetes_conn_id": "prod"})


def test_the_guardian_has_an_image_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIGTCP_BENCH_GUARDIAN_IMAGE", "registry.example/guardian:v7")
    api, plan = Cluster().client(), load_plan("quick", {"image": "registry.example/benchmark:v1"})
    pair = choose_pair(api, plan)
    open_window(api, "a/b", plan, pair)
    job: Any = api.find(guardian_objects.CRONJOB, GUARDIAN_NAME, BENCH_NAMESPACE)
    script: Any = api.find(CONFIGMAP, GUARDIAN_NAME, BENCH_NAMESPACE)
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/guardian:v7"
    told = json.loads(script["data"][guardian_objects.ORDERS_FILE])
    assert told["means"]["probe_pod"]["spec"]["containers"][0]["image"] == "registry.example/guardian:v7"
    (outlined,) = [
        one
        for act in outline(Cluster().client(), plan, pair, "a/b").acts
        for one in act.manifests
        if one["kind"] == "CronJob"
    ]
    assert outlined["spec"]["jobTemplate"] == job["spec"]["jobTemplate"]
    monkeypatch.setenv("BIGTCP_BENCH_GUARDIAN_IMAGE", "registry.example/guardian")
    with pytest.raises(InvalidInput, match=r"BIGTCP_BENCH_GUARDIAN_IMAGE = .*must name a tag other than latest"):
        open_window(Cluster().client(), "a/b", plan, pair)
