from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

from .api_cluster import RECORDED, ApiCluster

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parent.parent.parent


def recorded_calls(title: str) -> list[str]:
    """Return the calls of one section of the recording."""
    sections = re.split(r"^== (.*)\n", (RECORDED / "kpo-calls.txt").read_text(), flags=re.MULTILINE)
    return sections[sections.index(title) + 1].splitlines()


def in_the_large(calls: list[str]) -> list[str]:
    """Return the calls without the polls, whose number depends on how fast the pod goes through its phases."""
    named = [re.sub(r"/pods/[^/? ]+", "/pods/POD", unquote(call)) for call in calls]
    return [call for call in named if not re.match(r"GET \S+/(pods/POD|events\S*) ", call)]


@pytest.fixture(scope="module")
def runs(
    api_cluster: ApiCluster, tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[dict[str, object], list[str]]]:
    """What came of two operators, and the calls of each."""
    extra = {"kube_config_path": str(api_cluster.kubeconfig), "namespace": "default"}
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")),
        "AIRFLOW_CONN_KUBERNETES_DEFAULT": json.dumps({"conn_type": "kubernetes", "extra": extra}),
    }
    script = "echo one; sleep 0.5; echo two"
    done = subprocess.run(
        [sys.executable, "-m", "tests.lab.run_operator", script, f"{script}; exit 3"],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    results = [
        json.loads(line.removeprefix("RESULT ")) for line in done.stdout.splitlines() if line[:7] == "RESULT "
    ]
    assert len(results) == 2, done.stdout + done.stderr
    first = next(number for number, call in enumerate(api_cluster.calls) if call.startswith("DELETE")) + 1
    return list(zip(results, [api_cluster.calls[:first], api_cluster.calls[first:]], strict=True))


def test_an_operator_whose_pod_succeeds_makes_the_recorded_calls(
    runs: list[tuple[dict[str, object], list[str]]],
) -> None:
    result, calls = runs[0]
    assert result == {"error": "", "logs": ["one\ntwo\n"]}
    assert in_the_large(calls) == in_the_large(recorded_calls("sync, success, 4 s of output"))


def test_an_operator_whose_pod_fails_makes_the_recorded_calls(
    runs: list[tuple[dict[str, object], list[str]]],
) -> None:
    result, calls = runs[1]
    assert re.match(r"Pod rec-\w+ returned a failure", str(result["error"]))
    assert "'exit_code': 3" in str(result["error"])
    assert result["logs"] == ["one\ntwo\n"]
    assert in_the_large(calls) == in_the_large(recorded_calls("sync, container exits 3"))
    assert any("/events" in call for call in calls), "a failure is explained by events"
