"""The agent without a network: that any image can run it, how it refuses."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from bigtcp_bench.cluster import pods
from tests.in_cluster.mounted import agent_command, mounted


def run_agent(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(agent_command(*arguments), capture_output=True, text=True, timeout=60)


def test_it_fits_a_config_map_and_old_images() -> None:
    assert sum(len(text.encode()) for text in pods.agent_configmap()["data"].values()) < 100 * 1024
    files = {path.relative_to(mounted()).with_suffix("") for path in mounted().rglob("*.py")}
    modules = {".".join(path.parts).removesuffix(".__init__") for path in files}
    for path in mounted().rglob("*.py"):
        tree = ast.parse(path.read_text(), feature_version=(3, 9))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names]
                for name in names if isinstance(node, ast.Import) else [f"{node.module}.{one}" for one in names]:
                    mounted_too = name in modules or name.rpartition(".")[0] in modules
                    assert mounted_too or name.split(".")[0] in sys.stdlib_module_names, f"{path}: {name}"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "expected one argument, the orders as JSON"),
        (["{"], "orders are not a JSON object"),
        (["[1]"], "orders are not a JSON object"),
        (['{"version":2,"do":"probe"}'], "orders have version 2; this agent knows 1"),
        (['{"version":1,"do":"dance"}'], "allowed are serve, measure, capture, reach, probe"),
        (['{"version":1,"do":"serve","iperf_port":1}'], "orders to serve lack the field 'token'"),
    ],
)
def test_orders_it_cannot_carry_out_end_in_one_sentence(arguments: list[str], sentence: str) -> None:
    done = run_agent(*arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1
