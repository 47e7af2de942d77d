"""include/helm without a cluster: known to the chart and to Airflow, and its scripts do what they say."""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from bigtcp_bench.commands import main
from bigtcp_bench.resources import load_manifests
from tests.support.compose import ROOT

HELM = ROOT / "include" / "helm"
SCHEMA = json.loads((ROOT / "tests" / "recorded" / "airflow-chart-values.schema.json").read_text(encoding="utf-8"))
GUIDE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


@pytest.fixture
def values() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((HELM / "values.yaml").read_text(encoding="utf-8"))
    return found


@pytest.fixture
def bindings() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((HELM / "rbac.yaml").read_text(encoding="utf-8")))


def test_the_chart_of_that_version_knows_every_value(values):
    jsonschema.validate(values, SCHEMA)
    values["triggerer"]["serviceaccount"] = values["triggerer"].pop("serviceAccount")
    with pytest.raises(jsonschema.ValidationError, match="serviceaccount"):
        jsonschema.validate(values, SCHEMA)


def test_the_chart_knows_the_guides_other_values_and_they_name_one_file():
    (snippet,) = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    other = yaml.safe_load(snippet)
    jsonschema.validate(other, SCHEMA)
    (mount,) = other["volumeMounts"]
    assert [volume["name"] for volume in other["volumes"]] == [mount["name"]]
    kubeconfig = json.loads(other["env"][0]["value"])["extra"]["kube_config_path"]
    assert Path(kubeconfig).parent == Path(mount["mountPath"])


def test_the_guide_installs_the_version_that_the_values_were_held_against():
    (version,) = re.findall(r"chart (\d+\.\d+\.\d+)", SCHEMA["title"])
    assert f"--version {version} " in GUIDE
    assert f"version {version}:" in (HELM / "values.yaml").read_text(encoding="utf-8")


def test_image_and_airflow_are_of_this_project_and_its_lock(values):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert values["defaultAirflowTag"] == project["version"]
    image = f"{values['defaultAirflowRepository']}:{values['defaultAirflowTag']}"
    assert f"--target airflow --tag {image} " in GUIDE
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert f"\napache-airflow=={values['airflowVersion']} " in lock


def test_airflow_knows_every_setting(values):
    from airflow.configuration import conf

    for section, options in values["config"].items():
        assert options.keys() <= conf.configuration_description[section]["options"].keys()
    module, _, name = values["config"]["core"]["auth_manager"].rpartition(".")
    assert name in dir(__import__(module, fromlist=[name]))


def test_the_connection_is_that_of_the_pods_own_account(values):
    from airflow.sdk import Connection

    (variable,) = values["env"]
    assert variable["name"] == "AIRFLOW_CONN_KUBERNETES_DEFAULT"
    connection = Connection.from_json(variable["value"], "kubernetes_default")
    assert connection.conn_type == "kubernetes"
    assert connection.extra_dejson == {"in_cluster": True, "cluster_name": "prod"}


def test_every_secret_that_is_read_is_made_by_the_guide(values):
    made = {
        secret: set(re.findall(r"--from-literal=([\w-]+)=", options))
        for secret, options in re.findall(r"secret generic ([\w-]+) \\\n((?:.*\\\n)*.*)", GUIDE)
    }
    # The keys' names are the chart's.
    needed = {
        values["data"]["metadataSecretName"]: {"connection"},
        values["fernetKeySecretName"]: {"fernet-key"},
        values["apiSecretKeySecretName"]: {"api-secret-key"},
        values["jwtSecretName"]: {"jwt-secret"},
    }
    assert len(needed) == 1
    needed = {"bigtcp-airflow": {"connection", "fernet-key", "api-secret-key", "jwt-secret"}}
    for variable in values["apiServer"]["env"]:
        key = variable["valueFrom"]["secretKeyRef"]
        needed[key["name"]].add(key["key"])
    (source,) = yaml.safe_load(values["extraEnvFrom"])
    needed[source["secretRef"]["name"]] = {"AIRFLOW_CONN_BIGTCP_WAREHOUSE", "BIGTCP_BENCH_WAREHOUSE"}
    assert made == needed


def test_the_job_migrates_both_databases(values):
    shell, option, script = values["migrateDatabaseJob"]["args"]
    assert (shell, option) == ("bash", "-c")
    airflows, ours = (shlex.split(command) for command in script.split(" && exec "))
    assert airflows == ["airflow", "db", "migrate"]
    assert callable(main.command_parser().parse_args(ours[1:]).handler)


def test_the_api_server_has_its_password_before_it_starts(values, tmp_path):
    """Its script is run as it is, with an `airflow` that only says how it was called."""
    file = values["config"]["core"]["simple_auth_manager_passwords_file"]
    shell, option, script = values["apiServer"]["args"]
    assert file in script
    (tmp_path / "airflow").write_text('#!/bin/sh\necho "airflow $*"\n')
    (tmp_path / "airflow").chmod(0o755)
    done = subprocess.run(
        [shell, option, script.replace(file, str(tmp_path / "passwords.json"))],
        env={
            "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "AIRFLOW_ADMIN_PASSWORD": 'a "quoted" one',
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "airflow api-server\n"
    assert json.loads((tmp_path / "passwords.json").read_text()) == {"admin": 'a "quoted" one'}
    assert stat.S_IMODE((tmp_path / "passwords.json").stat().st_mode) == 0o600
    # The folder is one that the image has, and that its user may write to.
    assert f"mkdir -m 2775 {Path(file).parent.name}" in (ROOT / "image" / "Dockerfile").read_text(encoding="utf-8")


def test_the_rights_reach_the_accounts_that_pods_run_as(values, bindings):
    worker = values["workers"]["kubernetes"]["serviceAccount"]["name"]
    triggerer = values["triggerer"]["serviceAccount"]["name"]
    own = {(body["kind"], body["metadata"]["name"], body["metadata"].get("namespace")) for body in bindings}
    roles = {
        (body["kind"], body["metadata"]["name"], body["metadata"].get("namespace"))
        for body in load_manifests("rbac.yaml")
        if body["kind"].endswith("Role")
    }
    bound: dict[str, set[Any]] = {worker: set(), triggerer: set()}
    for body in bindings:
        if body["kind"].endswith("Binding"):
            (subject,) = body["subjects"]
            assert (subject["kind"], subject["namespace"]) == ("ServiceAccount", "airflow")
            role = (body["roleRef"]["kind"], body["roleRef"]["name"], body["metadata"].get("namespace"))
            assert role in own | roles
            bound[subject["name"]].add(role)
    # All that the benchmark's own account has, and for the triggerer nothing of it.
    assert bound[worker] == {role for role in roles if role[1] == "bigtcp-bench"}
    assert bound[triggerer] == {role for role in own if role[0].endswith("Role")}


def test_a_worker_may_have_what_scope_cluster_needs(values):
    (body,) = yaml.safe_load_all((HELM / "rbac-scope-cluster.yaml").read_text(encoding="utf-8"))
    role, binding = load_manifests("rbac-scope-cluster.yaml")
    assert body["roleRef"] == binding["roleRef"]
    assert body["metadata"]["namespace"] == role["metadata"]["namespace"]
    assert body["metadata"]["name"] != binding["metadata"]["name"], (
        "it would take the place of the other accounts'"
    )
    worker = values["workers"]["kubernetes"]["serviceAccount"]["name"]
    assert body["subjects"] == [{"kind": "ServiceAccount", "name": worker, "namespace": "airflow"}]


def test_no_pod_of_airflows_runs_on_a_node_that_is_measured(values):
    (term,) = values["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert term == {"matchExpressions": [{"key": "bigtcp-bench", "operator": "NotIn", "values": ["true"]}]}
