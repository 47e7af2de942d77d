"""The workflows of .github without a forge: valid, pinned, with few rights, and calling only what exists."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bigtcp_bench.demo.local_airflow import LocalAirflow
from tests.support.schemas import schema_errors

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def workflow(path: Path) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in workflow(path)["jobs"].values() for step in job["steps"]]


def test_they_follow_the_forges_schema(tmp_path):
    assert {path.name for path in FILES} == {"test.yml", "kind.yml"}
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(FILES[0].read_text(encoding="utf-8").replace("runs-on:", "run-on:", 1))
    assert list(schema_errors("vendor.github-workflows", *FILES, wrong)) == [wrong]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_actions_and_images_are_pinned_and_rights_are_few(path):
    assert workflow(path)["permissions"] == {"contents": "read"}
    for step in steps(path):
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+\.\d+\.\d+", step["uses"]), step["uses"]
            if step["uses"].startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False
    for job in workflow(path)["jobs"].values():
        assert "permissions" not in job
        assert re.fullmatch(r"ubuntu-\d+\.\d+", job["runs-on"])
        assert job["timeout-minutes"] <= 60
        if "container" in job:
            assert re.search(r":\d+\.\d+\.\d+", job["container"]["image"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_they_call_only_what_exists(path):
    called = "\n".join(step["run"] for step in steps(path) if "run" in step)
    targets = re.findall(r"\bmake ([a-z-]+)", called)
    scripts = re.findall(r"\bscripts/[\w-]+", called)
    assert targets
    assert set(targets) <= TARGETS
    for name in scripts:
        assert (ROOT / name).is_file(), name
    # Nothing that others write, such as a branch's name, becomes part of a command.
    assert "${{" not in called
    for trigger in (workflow(path)[True] or {}).values():
        for pattern in (trigger or {}).get("paths", []) if isinstance(trigger, dict) else []:
            assert (ROOT / pattern.removesuffix("/**")).exists(), pattern


def test_the_demo_runs_on_the_oldest_the_recorded_and_the_newest_cilium():
    job = workflow(ROOT / ".github" / "workflows" / "kind.yml")["jobs"]["demo"]
    versions = job["strategy"]["matrix"]["cilium"]
    assert [version.rpartition(".")[0] for version in versions] == ["1.16", "1.18", "1.20"]
    (demo,) = [step for step in job["steps"] if step.get("run") == "make kind-demo"]
    assert demo["env"] == {"CILIUM_VERSION": "${{ matrix.cilium }}"}
    # What Airflow said is what a failure is understood by.
    (upload,) = [step for step in job["steps"] if step.get("if") == "failure()"]
    airflow = LocalAirflow(Path(".bigtcp/demo"), Path("kubeconfig"), Path("warehouse.db"))
    assert upload["with"]["path"] == f"{airflow.home}/demo.log"
    assert upload["with"]["include-hidden-files"] is True
    script = (ROOT / "scripts" / "kind-demo").read_text(encoding="utf-8")
    assert "CILIUM_VERSION=${CILIUM_VERSION:-1.18.3}" in script
    assert "1.18.3" in versions
