"""The DAG as Airflow sees it: its graph, its form, its limits, and nothing heavy when it is parsed."""

from __future__ import annotations

import itertools
import json
from datetime import timedelta

import pytest

from bigtcp_bench.airflow.params import dag_params, plan_of_params
from bigtcp_bench.resources import dags_dir
from tests.support.installed import ROOT


@pytest.fixture(scope="module")
def dags():
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=str(dags_dir()))
    assert bag.import_errors == {}
    return bag.dags


@pytest.fixture(scope="module")
def dag(dags):
    return dags["bigtcp_benchmark"]


def test_every_dag_says_what_it_is_for_and_has_limits(dags):
    assert sorted(dags) == ["bigtcp_benchmark", "bigtcp_restore", "bigtcp_upgrade_watch"]
    for one in dags.values():
        assert one.doc_md
        assert (one.max_active_runs, one.catchup, one.dagrun_timeout) == (1, False, None)
        assert all(task.execution_timeout for task in one.tasks)
        assert all(param.schema.get("description_md") for param in map(one.params.get_param, one.params))


def test_the_graph_reads_like_the_run(dag):
    path = [
        "check_kernel",
        "snapshot_config",
        "disable_big_tcp",
        "baseline_iperf3",
        "enable_big_tcp",
        "test_iperf3",
        "disable_big_tcp_2",
        "baseline_iperf3_2",
        "enable_big_tcp_2",
        "test_iperf3_2",
        "disable_big_tcp_3",
        "baseline_iperf3_3",
        "enable_big_tcp_3",
        "test_iperf3_3",
        "collect_counters",
        "compare",
        "rerun_disable_big_tcp",
        "rerun_baseline_iperf3",
        "rerun_enable_big_tcp",
        "rerun_test_iperf3",
        "rerun_disable_big_tcp_2",
        "rerun_baseline_iperf3_2",
        "compare_rerun",
        "notify",
        "restore_config",
        "close_run",
    ]
    assert sorted(dag.task_ids) == sorted(path)
    for before, after in itertools.pairwise(path):
        assert after in dag.get_task(before).downstream_task_ids, f"{before} is not followed by {after}"
    assert [task.task_id for task in dag.leaves] == ["close_run"]


def test_the_form_is_the_dags_and_no_task_has_a_copy_of_it(dag):
    assert list(dag.params) == list(dag_params())
    assert [task.task_id for task in dag.tasks if task.params] == []


def test_setup_and_teardowns(dag):
    assert dag.get_task("snapshot_config").is_setup
    for name in ("restore_config", "close_run"):
        task = dag.get_task(name)
        assert task.is_teardown
        assert task.on_failure_fail_dagrun
        assert "snapshot_config" in task.upstream_task_ids


def test_a_rerun_neither_runs_unasked_nor_decides_about_the_run(dag):
    group = dag.task_group.children["rerun"]
    tasks = [dag.get_task(name) for name in group.children]
    assert len(tasks) == 6
    # One skip, or failure, ends the whole re-run ...
    assert {task.trigger_rule.value for task in tasks} == {"all_success"}
    # ... and the night is judged all the same, unless it was not valid in the first place: a success is needed.
    judged = dag.get_task("compare_rerun")
    assert judged.trigger_rule.value == "all_done_min_one_success"
    assert judged.upstream_task_ids == {"compare", "rerun_baseline_iperf3_2"}
    assert {"compare", "compare_rerun"} <= dag.get_task("notify").upstream_task_ids


def turns_after_failure(dag, failed):
    """Return after how many of the scheduler's turns a failure of a task has reached each that is no teardown.

    One that waits for all before it, as compare_rerun does, may take a turn more.
    """
    turns = {failed: 0}
    waiting = [failed]
    while waiting:
        for name in (task := dag.get_task(waiting.pop(0))).downstream_task_ids:
            if name not in turns and not dag.get_task(name).is_teardown:
                turns[name] = turns[task.task_id] + 1
                waiting.append(name)
    return turns


def test_the_teardown_waits_for_few_turns_after_a_failure(dag):
    """A failure goes through the graph by one task in a turn, and the teardown waits for each that it reaches."""
    assert max(turns_after_failure(dag, "enable_big_tcp").values()) == 5
    assert max(turns_after_failure(dag, "compare").values()) == 1
    before = {"check_kernel", "snapshot_config", "compare_rerun", "notify", "restore_config", "close_run"}
    measuring = {task for task in dag.task_ids if task not in before and not task.startswith("rerun_")}
    assert len(measuring) == 14
    assert measuring <= dag.get_task("notify").upstream_task_ids
    assert dag.get_task("restore_config").upstream_task_ids == {"notify", "snapshot_config"}


def test_the_watch_triggers_a_change_only_once(dags):
    watch = dags["bigtcp_upgrade_watch"]
    noticed, triggered = watch.get_task("watch_cilium"), watch.get_task("trigger_benchmark")
    assert triggered.upstream_task_ids == {"watch_cilium"}
    # A run that exists is neither started again nor a failure; one that is not needed skips the trigger.
    assert (triggered.skip_when_already_exists, triggered.reset_dag_run) == (True, False)
    assert triggered.trigger_rule.value == "all_success"
    assert triggered.trigger_dag_id in dags
    assert "operator_triggered" in {kind.value for kind in dags[triggered.trigger_dag_id].allowed_run_types}
    assert noticed.patience_s < 3600
    assert watch.timetable.expression == "*/15 * * * *"


def test_limits(dag):
    assert dag.dagrun_timeout is None, "a DAG run timeout would skip the teardown that restores the cluster"
    assert (dag.max_active_runs, dag.catchup) == (1, False)
    assert dag.timetable.expression == "0 2 * * *"
    for task in dag.tasks:
        assert task.execution_timeout is not None, task.task_id
        assert task.owner == "bigtcp-bench"
        if task.is_mapped:
            assert task.max_active_tis_per_dagrun == 1, f"{task.task_id} would measure two generations at once"


def test_every_param_has_a_title_a_description_and_limits():
    for name, param in dag_params().items():
        schema = param.schema
        assert schema.get("title"), name
        assert schema.get("description_md"), name
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if kinds == ["boolean"]:
            continue
        if "integer" in kinds:
            assert {"minimum", "maximum"} <= set(schema), name
        elif "string" in kinds:
            assert {"enum", "pattern", "maxLength"} & set(schema), name
        else:
            assert "items" in schema, name


def test_the_form_as_it_comes_gives_the_nightly_plan():
    params = {name: param.value for name, param in dag_params().items()}
    plan = plan_of_params(params)
    assert (plan.name, plan.scope, plan.order) == ("nightly", "nodes", ("off", "on", "off", "on", "off"))


def test_the_form_overrides_the_plan():
    params = {name: param.value for name, param in dag_params().items()}
    params |= {"plan": "quick", "scenarios": ["ipv6-rr"], "order": "off,off", "repetitions": 4}
    plan = plan_of_params(params)
    assert (plan.scenarios, plan.is_aa, plan.repetitions, plan.duration_s) == (("ipv6-rr",), True, 4, 3)


@pytest.fixture
def parsed(monkeypatch):
    """Return what Airflow sees of the DAGs in an environment of their own: the parsed ones, and the errors."""
    from airflow.dag_processing.dagbag import DagBag

    def parse(**environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        bag = DagBag(dag_folder=str(dags_dir()))
        dags = {
            name: [getattr(dag.timetable, "expression", dag.schedule), sorted(dag.params), dag.max_active_runs]
            for name, dag in bag.dags.items()
        }
        return dags, list(bag.import_errors.values())

    return parse


def test_schedules_and_clusters_are_configurable(parsed):
    dags, errors = parsed(
        BIGTCP_BENCH_SCHEDULE="30 4 * * 1",
        BIGTCP_BENCH_WATCH_SCHEDULE="none",
        BIGTCP_BENCH_CLUSTERS="prod, stage-2",
    )
    assert errors == []
    for suffix in ("", "_stage-2"):
        schedule, params, runs = dags[f"bigtcp_benchmark{suffix}"]
        assert (schedule, runs) == ("30 4 * * 1", 1)
        assert not {"kubernetes_conn_id", "image", "scope", "guardian"} & set(params)
        assert dags[f"bigtcp_restore{suffix}"] == [None, ["force"], 1]
        assert dags[f"bigtcp_upgrade_watch{suffix}"][0] is None


def test_a_wrong_setting_is_one_sentence(parsed):
    dags, errors = parsed(
        BIGTCP_BENCH_SCHEDULE="none",
        BIGTCP_BENCH_WATCH_SCHEDULE="at night",
        BIGTCP_BENCH_CLUSTERS="prod,my cluster",
    )
    assert sorted(dags) == ["bigtcp_restore"], "putting a cluster back depends on none of them"
    assert any("'my cluster' is no connection id; allowed are letters" in error for error in errors)
    assert any("BIGTCP_BENCH_WATCH_SCHEDULE = 'at night': must be a cron expression" in error for error in errors)


def test_what_is_heavy_is_imported_before_the_fork_or_not_at_all(forked):
    """Airflow's DAG processor imports what a DAG file names of Airflow once; the rest at every parse."""
    files = sorted(dags_dir().glob("*.py"))
    assert len(files) == 3
    code = """
import importlib, json, sys
from airflow.dag_processing.dagbag import DagBag
from airflow.utils.file import iter_airflow_imports
for module in iter_airflow_imports(sys.argv[1]): importlib.import_module(module)
before = set(sys.modules)
assert DagBag(dag_folder=sys.argv[1]).dags
print(json.dumps([sorted(before), sorted(set(sys.modules) - before)]))
"""
    heavy = {"pandas", "numpy", "scipy", "slack_sdk", "alembic", "fastapi"}
    # A process that has imported what the processor has, and, as there, one more for each file.
    for file in files:
        before, new = json.loads(forked.ask(code, str(file), path=[ROOT / "plugins"])[-1])
        assert not heavy & {*before, *new}, f"Airflow imports none of them, nor may {file}"
        assert "rich.console" not in new
        ours = ("bigtcp_bench", "unusual_prefix", "airflow.sdk.")
        others = [module for module in new if not module.startswith(ours)]
        assert len(others) <= 5, f"these are imported at every parse of {file}: {others}"
        assert "bigtcp_bench.settings" in new


def test_every_task_has_the_link_to_the_page_of_its_run(dag):
    """The plugin names operators; the API server compares names after the DAG has been through its database."""
    from airflow.serialization.serialized_objects import DagSerialization

    from bigtcp_bench.web.task_link import RunPageLink

    stored = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    assert set(stored.task_ids) == set(dag.task_ids)
    for task in stored.tasks:
        assert task.extra_links == [RunPageLink.name], task.task_id


def test_what_may_restart_every_agent_has_time_for_it(dags):
    tasks = [task for one in dags.values() for task in one.tasks]
    slow = [
        task
        for task in tasks
        if task.task_id in ("snapshot_config", "restore_config") or "able_big_tcp" in task.task_id
    ]
    # The six switches of a run, three of its re-run, both ends of the window, and the restore by hand.
    assert len(slow) == 12
    assert {task.execution_timeout for task in slow} == {timedelta(hours=3)}


def test_a_restore_outlasts_an_api_server_that_is_away(dag):
    restore = dag.get_task("restore_config")
    pauses = [restore.retry_delay * restore.retry_exponential_backoff**n for n in range(restore.retries)]
    assert sum(pauses, timedelta()) >= timedelta(minutes=15)
