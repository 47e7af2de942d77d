"""docker-compose.yaml without a Docker engine: valid, consistent, and naming only what exists."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from airflow.cli import cli_parser
from airflow.configuration import conf
from airflow.sdk import Connection

from bigtcp_bench.commands import main
from tests.support.compose import (
    COMPOSE,
    EXAMPLE,
    ROOT,
    SECRETS,
    VARIABLE,
    compose_file,
    example_environment,
    interpolated,
)
from tests.support.schemas import schema_errors

DOCKERFILE = (ROOT / "image" / "Dockerfile").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    return example_environment()


@pytest.fixture(scope="module")
def compose(environment) -> dict[str, Any]:
    return compose_file(environment)


@pytest.fixture(scope="module")
def airflow_services(compose) -> dict[str, Any]:
    return {name: service for name, service in compose["services"].items() if name.startswith("airflow-")}


@pytest.fixture(scope="module")
def scripted_commands(airflow_services) -> list[list[str]]:
    """The simple commands of the init script."""
    lines = airflow_services["airflow-init"]["command"][2].splitlines()
    return [shlex.split(line) for line in lines if line.split()[0] in ("airflow", "bigtcp-bench")]


@pytest.fixture(scope="module")
def airflow_says(airflow_services, scripted_commands) -> dict[str, Any]:
    commands = [command[1:] for command in scripted_commands if command[0] == "airflow"]
    for service in airflow_services.values():
        if isinstance(service["command"], str):
            commands.append(shlex.split(service["command"]))
        check = service.get("healthcheck", {}).get("test", [])
        if check[1:2] == ["airflow"]:
            commands.append(check[2:])
    assert len(commands) == 6
    parser = cli_parser.get_parser()
    for command in commands:
        parser.parse_args(command)
    variables = airflow_services["airflow-scheduler"]["environment"]
    options = [name.lower().split("__")[1:] for name in variables if name.startswith("AIRFLOW__")]
    known = conf.configuration_description
    return {
        "unknown": [[part, name] for part, name in options if name not in known.get(part, {}).get("options", {})],
        "connections": {
            name.removeprefix("AIRFLOW_CONN_").lower(): read(text)
            for name, text in variables.items()
            if name.startswith("AIRFLOW_CONN_") and text
        },
    }


def read(text: str) -> dict[str, Any]:
    """Return what Airflow makes of a connection."""
    found = Connection.from_json(text, "x") if text.startswith("{") else Connection.from_uri(text, "x")
    return {
        "type": found.conn_type,
        "host": found.host,
        "login": found.login,
        "password": found.password,
        "schema": found.schema,
        "port": found.port,
        "extra": found.extra_dejson,
    }


def test_the_file_follows_the_compose_specification(tmp_path):
    wrong = tmp_path / "docker-compose.yaml"
    wrong.write_text(COMPOSE.read_text(encoding="utf-8").replace("healthcheck:", "healthchecks:", 1))
    errors = schema_errors("vendor.compose-spec", COMPOSE, wrong)
    assert list(errors) == [wrong]
    assert "healthchecks" in errors[wrong]


def test_every_airflow_command_setting_and_connection_is_known_to_airflow(airflow_says, environment):
    assert airflow_says["unknown"] == []
    connections = airflow_says["connections"]
    assert connections["kubernetes_default"]["type"] == "kubernetes"
    assert connections["kubernetes_default"]["extra"] == {
        "kube_config_path": "/kube/kubeconfig",
        "cluster_name": "lab",
    }
    assert connections["bigtcp_warehouse"] == {
        "type": "postgres",
        "host": "postgres",
        "login": "bigtcp",
        "password": environment["BIGTCP_DB_PASSWORD"],
        "schema": "bigtcp",
        "port": 5432,
        "extra": {},
    }


def test_every_command_of_our_own_is_known_to_the_cli(compose, scripted_commands):
    lab = compose["services"]["lab"]
    ours = [command for command in scripted_commands if command[0] == "bigtcp-bench"]
    ours += [lab["command"], lab["healthcheck"]["test"][1:]]
    assert len(ours) == 3
    for command in ours:
        assert callable(main.command_parser().parse_args(command[1:]).handler)


def test_the_parts_of_airflow_are_all_there_and_checked(airflow_services):
    parts = {service["command"] for service in airflow_services.values() if isinstance(service["command"], str)}
    assert parts == {"api-server", "scheduler", "dag-processor", "triggerer", "celery worker"}
    for name, service in airflow_services.items():
        if name != "airflow-init":
            assert service["depends_on"]["airflow-init"] == {"condition": "service_completed_successfully"}


def test_every_service_that_stays_has_a_health_check(compose):
    for name, service in compose["services"].items():
        assert ("healthcheck" in service) == (name != "airflow-init"), name


def test_profiles_add_services_and_nothing_waits_for_those_that_are_not_there(compose):
    services = compose["services"]
    profiles = {name: service["profiles"] for name, service in services.items() if "profiles" in service}
    assert profiles == {"airflow-worker": ["celery"], "redis": ["celery"], "lab": ["lab"]}
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            if profiles.get(other, profiles.get(name)) != profiles.get(name):
                assert how == {"condition": "service_healthy", "required": False}, f"{name} waits for {other}"
    # Everything of Airflow waits for this one, so with the profile nothing looks for the lab before it is there.
    assert "lab" in services["airflow-init"]["depends_on"]


def test_without_a_cluster_of_ones_own_airflow_reads_the_labs_kubeconfig(compose, environment):
    shared = [mount for mount in compose["services"]["lab"]["volumes"] if mount.startswith("lab:")]
    assert shared == ["lab:/state/lab"]
    assert "lab:/kube:ro" in compose["services"]["airflow-scheduler"]["volumes"]
    own = compose_file({**environment, "BIGTCP_KUBE_DIR": "/home/ada/.kube"})
    assert "/home/ada/.kube:/kube:ro" in own["services"]["airflow-scheduler"]["volumes"]


def test_all_services_share_their_secrets(airflow_services):
    environments = [dict(service["environment"]) for service in airflow_services.values()]
    for variables in environments:
        for own in ("AIRFLOW_ADMIN_PASSWORD", "DUMB_INIT_SETSID"):
            variables.pop(own, None)
    assert all(variables == environments[0] for variables in environments)
    # The provider refuses it beside a connection's kube_config_path.
    assert "KUBECONFIG" not in environments[0]


def test_a_missing_secret_stops_the_start(environment):
    text = COMPOSE.read_text(encoding="utf-8")
    for name in SECRETS:
        with pytest.raises(LookupError, match=r"set it in \.env"):
            interpolated(text, {**environment, name: ""})


def test_env_example_names_exactly_the_settings_of_the_file(airflow_services):
    used = {match["name"] for match in VARIABLE.finditer(COMPOSE.read_text(encoding="utf-8"))}
    named = set(re.findall(r"^(?:# )?([A-Z]\w+)=", EXAMPLE, flags=re.MULTILINE))
    # What stands there without a value is passed on where .env has it.
    passed_on = {
        name for name, value in airflow_services["airflow-scheduler"]["environment"].items() if value is None
    }
    assert "AIRFLOW_CONN_BIGTCP_SLACK" in passed_on
    assert named == used | passed_on
    assert not re.search(rf"^({'|'.join(SECRETS)})=.+", EXAMPLE, flags=re.MULTILINE), (
        "an example must hold no secret"
    )


def test_only_the_lab_is_root_or_privileged(compose):
    for name, service in compose["services"].items():
        is_root = str(service.get("user", "root")).split(":")[0] in ("root", "0")
        assert is_root == (name == "lab"), name
        assert bool(service.get("privileged")) == (name == "lab"), name
    assert compose["services"]["lab"]["profiles"] == ["lab"]


def test_only_this_machine_reaches_the_ports(compose):
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:8080:8080"]


def test_images_are_pinned_and_of_the_locked_airflow(compose):
    stages = set(re.findall(r"^FROM \S+ AS (\w+)", DOCKERFILE, flags=re.MULTILINE))
    for service in compose["services"].values():
        assert re.search(r":\d+\.\d+", service["image"]), service["image"]
        if "build" in service:
            assert service["build"]["target"] in stages
            assert (ROOT / service["build"]["dockerfile"]).is_file()
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    (airflow,) = re.findall(r"^apache-airflow==(\S+)", lock, flags=re.MULTILINE)
    bases = [base for base in re.findall(r"^FROM (\S+)", DOCKERFILE, flags=re.MULTILINE) if base not in stages]
    assert bases == [f"apache/airflow:slim-{airflow}-python3.11"]


def test_everything_mounted_or_copied_exists(compose):
    for service in compose["services"].values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in compose["volumes"], mount
    for line in re.findall(r"^COPY (?:--\S+ )?(.+)$", DOCKERFILE, flags=re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in (ROOT / "image" / "Dockerfile.dockerignore").read_text().splitlines()
