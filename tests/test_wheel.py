"""The wheel alone, in an environment of its own: library, command, plugin, DAG files by copy or as a bundle."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
import zipfile
from pathlib import Path

from tests.support.installed import ROOT

DAGS = ["bigtcp_benchmark", "bigtcp_restore", "bigtcp_upgrade_watch"]


def test_the_wheel_has_all_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, inside in (("include", "_include"), ("dags", "_dags")):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        assert {f"bigtcp_bench/{inside}/{path.relative_to(ROOT / folder)}" for path in files} <= names
    assert {name.split("/")[0] for name in names} == {"bigtcp_bench", f"{wheel.name.split('-py3')[0]}.dist-info"}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"dist/bigtcp_bench-{version}-py3-none-any.whl" in (ROOT / "README.md").read_text()
    assert wheel.name == f"bigtcp_bench-{version}-py3-none-any.whl"


def test_airflow_finds_dags_and_plugin_of_the_wheel(programs, forked, tmp_path):
    dags = tmp_path / "dags"
    command = [str(programs / "bigtcp-bench"), "install-dags", str(dags)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=clean, cwd=tmp_path)
    assert done.stdout.count(": written") == len(DAGS)
    (setting,) = re.findall(
        r"AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST='(.*)'", (ROOT / "docs" / "operations.md").read_text()
    )
    code = """
import json, sys
import bigtcp_bench
from airflow import plugins_manager
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import DagBag

def parsed(folder):
    bag = DagBag(dag_folder=str(folder))
    return [sorted(bag.dags), bag.import_errors]

bundles = {bundle.name: bundle for bundle in DagBundlesManager().get_all_dag_bundles()}
plugins = [plugin.name for plugin in plugins_manager._get_plugins()[0]]
print(json.dumps({
    "library": bigtcp_bench.__file__,
    "folder": parsed(sys.argv[1]),
    "bundles": sorted(bundles),
    "bundle": [str(bundles["bigtcp-bench"].path), parsed(bundles["bigtcp-bench"].path)],
    "plugins": plugins,
    "errors": plugins_manager.get_import_errors(),
}))
"""
    environment = {
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": setting,
    }
    found = json.loads(forked.ask(code, str(dags), environment=environment)[-1])
    package = Path(found["library"]).parent
    assert programs.parent in package.parents, "the checkout was used, not the wheel"
    assert found["folder"] == [DAGS, {}]
    assert found["bundles"] == ["bigtcp-bench", "dags-folder"]
    assert found["bundle"] == [str(package / "_dags"), [DAGS, {}]]
    assert "bigtcp_bench" in found["plugins"]
    assert found["errors"] == {}
