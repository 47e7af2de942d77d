"""Settings: read through one list, shown with their sources and without secrets, and documented row by row."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.sdk.configuration import clear_secrets_backends_cache
from benchmarks import settings_document

from bigtcp_bench import settings
from bigtcp_bench.airflow.connections import cluster_name
from bigtcp_bench.commands import settings_in_force
from bigtcp_bench.commands.main import main
from bigtcp_bench.errors import InvalidInput, PreconditionFailed
from bigtcp_bench.planning.plan import LoadGate, load_plan, validate_plan
from bigtcp_bench.planning.thresholds import Thresholds

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")

CONNECTIONS = {
    "AIRFLOW_CONN_KUBERNETES_DEFAULT": {
        "conn_type": "kubernetes",
        "extra": {"kube_config": "{hush1}", "cluster_name": "prod"},
    },
    "AIRFLOW_CONN_BIGTCP_WAREHOUSE": "postgres://bench:hush2@db:5432/bigtcp",
    "AIRFLOW_CONN_BIGTCP_SLACK": {
        "conn_type": "slack",
        "password": "xoxb-hush3",
        "extra": {"channel": "C0123456789", "proxy": "http://me:hush4@proxy:3128"},
    },
    "AIRFLOW_CONN_BIGTCP_AIRFLOW": {
        "conn_type": "http",
        "host": "https://hush5@airflow.example.org",
        "login": "editor",
        "password": "hush6",
        "extra": {"surprise": "hush7"},
    },
}


@pytest.fixture
def config(tmp_path, monkeypatch, capsys):
    """Run the command with these variables and no others; returns its status and its rows by name."""
    for name in list(os.environ):
        if name.startswith(("AIRFLOW_CONN_", "BIGTCP_BENCH_")):
            monkeypatch.delenv(name)

    def run(*arguments: str, **environment: Any) -> tuple[int, dict[str, dict[str, str]]]:
        for name, value in environment.items():
            monkeypatch.setenv(name, value if isinstance(value, str) else json.dumps(value))
        # The command sets it for Airflow; not for the tests after this one.
        monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
        status = main(["config", "--json", "--folder", str(tmp_path), *arguments])
        return status, {row["name"]: row for row in json.loads(capsys.readouterr().out)}

    return run


def test_without_any_setting_everything_is_a_default(config, tmp_path):
    status, rows = config()
    assert status == 0
    assert {name: rows[name]["value"] for name in ("BIGTCP_BENCH_SCHEDULE", "BIGTCP_BENCH_WAREHOUSE")} == {
        "BIGTCP_BENCH_SCHEDULE": "0 2 * * *",
        "BIGTCP_BENCH_WAREHOUSE": f"sqlite:///{tmp_path}/warehouse.db",
    }
    assert {row["source"] for row in rows.values() if row["section"] != "plan"} == {"default"}
    assert rows["bigtcp_warehouse"]["value"] == "none: no run can start"


def test_each_setting_says_where_it_comes_from(config, tmp_path):
    plan = tmp_path / "mine.yaml"
    plan.write_text("scenarios: [ipv6-rr]\nrepetitions: 3\nthresholds: {margin: 0.03}\n")
    status, rows = config(
        "--plan",
        "mine",
        "--generations",
        "5",
        BIGTCP_BENCH_PLANS=str(tmp_path),
        BIGTCP_BENCH_SCHEDULE="",
        BIGTCP_BENCH_CLUSTERS="prod,stage",
        AIRFLOW_CONN_PROD={"conn_type": "kubernetes", "extra": {"kube_config_path": "/a/b"}},
    )
    file = f"plan file {plan}"
    assert status == 0
    assert {name: (rows[name]["value"], rows[name]["source"]) for name in rows}.items() >= {
        "BIGTCP_BENCH_SCHEDULE": ("empty", "environment"),
        "BIGTCP_BENCH_PLANS": (str(tmp_path), "environment"),
        "prod": ("kubernetes, kube_config_path=/a/b", "environment AIRFLOW_CONN_PROD"),
        "stage": ("none: no run can start", "default"),
        "repetitions": ("3", file),
        "thresholds.margin": ("0.03", file),
        "generations": ("5", "option of this command"),
        "duration_s": ("10", "default"),
        "thresholds.power": ("0.8", "default"),
    }.items()
    assert "kubernetes_default" not in rows


def test_no_secret_is_printed(config, capsys):
    status, rows = config("--warehouse", "postgresql://u:hush8@h/db?sslpassword=hush9", **CONNECTIONS)
    assert "hush" not in json.dumps(rows)
    assert status == 0
    assert rows["BIGTCP_BENCH_WAREHOUSE"]["value"] == "postgresql://u:***@h/db?sslpassword=***"
    assert rows["bigtcp_warehouse"]["value"] == "postgresql+psycopg://bench:***@db:5432/bigtcp"
    assert rows["kubernetes_default"]["value"] == "kubernetes, kube_config=***, cluster_name=prod"
    assert rows["bigtcp_slack"]["value"].endswith("channel=C0123456789, proxy=http://me:***@proxy:3128")
    assert rows["bigtcp_airflow"]["value"].startswith("http, https://***@airflow.example.org, login=editor")
    main(["config"])
    printed = capsys.readouterr().out
    assert "hush" not in printed
    assert "cluster_name=prod  (environment AIRFLOW_CONN_KUBERNETES_DEFAULT)" in printed


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("BIGTCP_BENCH_SCHEDULE", "at night", "'at night': must be a cron expression of five fields in UTC"),
        ("BIGTCP_BENCH_WATCH_SCHEDULE", "0 0 2 * * *", "must be a cron expression of five fields"),
        ("BIGTCP_BENCH_CLUSTERS", "prod,my cluster", "'my cluster' is no connection id; allowed are letters"),
        ("BIGTCP_BENCH_PLANS", "/no/such", "'/no/such': must be a folder that exists"),
        (
            "BIGTCP_BENCH_WAREHOUSE",
            "mysql://me:hush@h/db",
            "'mysql://me:***@h/db': the warehouse cannot be 'mysql'",
        ),
        (
            "AIRFLOW_CONN_BIGTCP_WAREHOUSE",
            "mysql://me:hush@h/db",
            "has type 'mysql'; allowed are sqlite and postgres",
        ),
        ("AIRFLOW_CONN_BIGTCP_SLACK", "slack://:xoxb-hush@", "has no channel"),
        ("AIRFLOW_CONN_BIGTCP_AIRFLOW", "http://airflow", "needs the address of the API server as host, and"),
        ("AIRFLOW_CONN_KUBERNETES_DEFAULT", '{"extra": {"cluster_name": 7}}', "cluster_name = 7: must be a text"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_and_status_1(config, name, text, sentence):
    status, rows = config(**{name: text})
    problem, *others = {row["problem"] for row in rows.values() if row["problem"]}
    assert (status, others) == (1, [])
    assert sentence in problem
    assert "hush" not in json.dumps(rows)
    assert "\n" not in problem


def test_two_clusters_of_one_name_are_noticed(config):
    connection = {"conn_type": "kubernetes", "extra": {"cluster_name": "prod"}}
    status, rows = config(
        BIGTCP_BENCH_CLUSTERS="one,two", AIRFLOW_CONN_ONE=connection, AIRFLOW_CONN_TWO=connection
    )
    assert status == 1
    assert rows["one"]["problem"] == ""
    assert "'two' has the cluster_name of 'one': their nights would be one series" in rows["two"]["problem"]


def test_a_plan_that_cannot_be_used_is_said(config):
    status, rows = config("--generations", "50")
    assert status == 1
    assert "generations = 50: Input should be less than or equal to 20" in rows["plan"]["problem"]


def test_without_airflow_the_rest_is_told(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "airflow.sdk", None)
    status, rows = config()
    assert status == 0
    assert rows["bigtcp_warehouse"]["source"].startswith("Airflow cannot be imported")
    assert rows["generations"]["value"] == str(load_plan("nightly").generations)


def test_where_a_secrets_backend_is_asked_first_it_is_named(tmp_path, monkeypatch):
    backend = "airflow.secrets.local_filesystem.LocalFilesystemBackend"
    file = tmp_path / "connections.json"
    file.write_text(json.dumps({"bigtcp_warehouse": "sqlite:////from/a/file.db"}))
    monkeypatch.setenv("AIRFLOW_CONN_BIGTCP_WAREHOUSE", "sqlite:////from/the/environment.db")
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", backend)
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND_KWARGS", json.dumps({"connections_file_path": str(file)}))
    try:
        rows = {row.name: row for row in settings_in_force.connections()}
    finally:
        # Airflow keeps a backend for the rest of the process.
        clear_secrets_backends_cache()
    assert rows["bigtcp_warehouse"].value == "sqlite:////from/a/file.db"
    assert f"secrets backend {backend}" in rows["bigtcp_warehouse"].source


def test_the_readers_use_what_is_checked(monkeypatch):
    monkeypatch.setenv("BIGTCP_BENCH_SCHEDULE", "none")
    monkeypatch.setenv("BIGTCP_BENCH_WATCH_SCHEDULE", "@daily")
    assert (settings.SCHEDULE.value(), settings.WATCH_SCHEDULE.value()) == (None, "@daily")
    monkeypatch.setenv("BIGTCP_BENCH_PLANS", "/no/such")
    with pytest.raises(InvalidInput, match="must be a folder"):
        settings.PLANS.value()
    monkeypatch.setenv(
        "AIRFLOW_CONN_LONG", json.dumps({"conn_type": "kubernetes", "extra": {"cluster_name": "x" * 201}})
    )
    with pytest.raises(PreconditionFailed, match="at most 200 characters"):
        cluster_name("long")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:p@ss@h/db", "postgresql://u:***@h/db"),
        ("postgresql://token@h/db", "postgresql://***@h/db"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("https://h/?q=1&api_key=x", "https://h/?q=1&api_key=***"),
    ],
)
def test_secrets_of_urls(text, shown):
    assert settings.without_secrets(text) == shown


def test_only_the_list_reads_the_environment():
    """Whatever else reads a variable of ours would be neither checked nor shown."""
    package = ROOT / "plugins" / "bigtcp_bench"
    readers = {
        path.relative_to(ROOT).as_posix()
        for path in [*package.rglob("*.py"), *(ROOT / "dags").glob("*.py")]
        if "BIGTCP_BENCH_" in "".join(line for line in path.read_text().splitlines() if "environ" in line)
    }
    assert readers == set()


def test_the_list_is_light():
    """DAG files are parsed every few seconds."""
    code = "import sys; from bigtcp_bench import settings; settings.CLUSTERS.value(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert not {"airflow", "sqlalchemy", "pandas", "yaml"} & set(done.stdout.split())


# The document


def test_the_example_of_a_plan_is_one():
    (example,) = re.findall(r"^```yaml\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    plan = validate_plan(yaml.safe_load(example))
    assert plan.order == ("off", "on", "off", "on", "off")


def test_the_tables_are_those_that_are_made_of_the_code():
    made = settings_document.document()
    written = (ROOT / "docs" / "generated" / "settings.md").read_text(encoding="utf-8")
    assert written == made, "run: python -m benchmarks.settings_document > docs/generated/settings.md"


def test_every_threshold_and_gate_is_a_field_of_the_plan():
    names = {row.split("`")[1] for row in settings_document.plan_rows()}
    for prefix, model in (("thresholds", Thresholds), ("load_gate", LoadGate)):
        assert {f"{prefix}.{name}" for name in model.model_fields} <= names
