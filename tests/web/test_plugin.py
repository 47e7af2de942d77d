"""What Airflow is told: views, the link of a task, and that loading it is cheap."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

from bigtcp_bench.web.plugin import BigTcpBenchPlugin
from bigtcp_bench.web.task_link import OPERATORS, RunPageLink


def test_the_views_are_in_the_navigation_and_on_dag_and_run():
    found = {view["destination"]: view["href"] for view in BigTcpBenchPlugin.external_views}
    assert found == {
        "nav": "/bigtcp-bench/overview",
        "dag": "/bigtcp-bench/dag?dag_id={DAG_ID}",
        "dag_run": "/bigtcp-bench/run?dag_id={DAG_ID}&run_id={RUN_ID}",
    }


def test_the_link_of_a_task_leads_to_the_page_of_its_run(monkeypatch):
    from airflow.models.taskinstancekey import TaskInstanceKey

    key = TaskInstanceKey(dag_id="bigtcp_benchmark", task_id="compare", run_id="manual__1+2", map_index=-1)
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/x")
    wanted = "https://airflow.example/x/dags/bigtcp_benchmark/runs/manual__1%2B2/plugin/bigtcp-run"
    assert RunPageLink().get_link(None, ti_key=key) == wanted


@pytest.mark.parametrize(("module", "name"), OPERATORS)
def test_the_operators_of_the_link_exist(module, name):
    operator = getattr(importlib.import_module(module), name)
    assert (operator.__module__, operator.__name__) == (module, name)


def test_only_a_starting_api_server_loads_what_pages_need():
    """Every Airflow process loads the plugin, workers and DAG processor included.

    The server itself stays what it was, and a warehouse that cannot be used is no reason not to start.
    """
    code = (
        "import atexit, gc, sys, threading; gc.disable(); atexit.register(gc.freeze); "
        "from bigtcp_bench.web.plugin import BigTcpBenchPlugin as plugin; "
        "names = ('pandas', 'scipy', 'altair', 'bigtcp_bench.web.app'); "
        "early = [name for name in (*names, 'kubernetes') if name in sys.modules]; "
        "(one,) = plugin.fastapi_root_middlewares; server = object(); "
        "assert one['middleware'](server) is server; "
        "[each.join() for each in threading.enumerate() if each.name == one['name']]; "
        "print(early, [name for name in names if name not in sys.modules])"
    )
    broken = os.environ | {"AIRFLOW_CONN_BIGTCP_WAREHOUSE": "mysql://nowhere"}
    done = subprocess.run([sys.executable, "-c", code], env=broken, capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[] []"
    assert "Traceback" not in done.stderr
