"""No stored run, whatever rows it has, ends a page, a command, a chart or a message in a traceback."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bigtcp_bench.commands.main import main
from bigtcp_bench.notify.news import drafts_of_run
from bigtcp_bench.notify.pictures import drawing
from bigtcp_bench.notify.slack.run_messages import failed_checks, run_message
from bigtcp_bench.notify.slack.settings import ClusterSettings
from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.planning.plan import load_plan
from bigtcp_bench.report.charts.of_run import run_charts
from bigtcp_bench.report.detail import RunDetail
from bigtcp_bench.report.html import report_file
from bigtcp_bench.report.summary import headline, run_summary
from bigtcp_bench.report.view import RunView
from bigtcp_bench.warehouse.store import Warehouse

BEGAN = datetime(2026, 3, 1, 2, tzinfo=UTC)
RUN = {"cluster": "lab", "dag_id": "bigtcp_benchmark", "run_id": "scheduled__1"}

#: Of this version, of another one that knew other scenarios, and none.
SCENARIO = st.sampled_from(["ipv4-stream-1", "ipv6-rr", "ipv6-rate", "host-control", "ipv4-stream-1@same-node"])
METRIC = st.sampled_from(list(METRICS))
NUMBER = st.one_of(
    st.sampled_from([0.0, -1.0, 1.0, 1e-320, 1e308, -1e308, 65_536.0, 2.5e10]), st.floats(-1e12, 1e12)
)
MAYBE = st.one_of(st.none(), NUMBER)
ARM = st.sampled_from(["off", "on"])
BLOCK = st.integers(1, 4)
TEXT = st.sampled_from(["", "x", "\x1b[31mred", "<b>", "a\nb", "ü" * 300, "%s {0}"])
NAME = st.sampled_from(["node1", "<b>", "ü", "a b"])

PLAN = load_plan("quick").model_dump(mode="json")
PLANS = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.just("nightly"),
            "scenarios": st.lists(SCENARIO, max_size=3, unique=True),
            "order": st.sampled_from([["off", "on", "off"], ["off", "off"], ["on"], []]),
            "duration_s": st.sampled_from([3, 0, None]),
            "thresholds": st.sampled_from(
                [{}, None, {"margin": 0.05}, {"margin": -4}, {"a_threshold_of_another_version": 1}]
            ),
            "a_field_of_another_version": st.just(1),
        },
    ),
    st.just(PLAN),
)
RESTORE = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {"state": st.sampled_from(["verified", "not_verified", "not_needed"])},
        optional={"detail": TEXT, "nodes": st.sampled_from([{}, {"node1": {}}, {"node1": {"wanted": None}}])},
    ),
)
COLUMNS = st.fixed_dictionaries(
    {"plan": PLANS, "restore_result": RESTORE},
    optional={
        "finished_at": st.just(BEGAN - timedelta(hours=1)),
        "note": TEXT,
        "client_node": TEXT,
        "server_node": TEXT,
        "trigger": st.sampled_from(["manual", "scheduled"]),
        "cilium_version": TEXT,
        "images": st.sampled_from([None, {}, {"cilium": "c:1"}]),
        "cilium_config": st.sampled_from([None, {}, {"a": "b"}]),
        "environment": st.sampled_from([None, {}, {"emulated": True}, {"pair": {"client": {"cpu": 2}}}]),
        "checks": st.sampled_from([None, [], [{"name": "kernel", "node": "", "status": "fail", "found": "x"}]]),
    },
)
PLACE = {"block": BLOCK, "arm": ARM}
REPETITION = PLACE | {"generation": st.integers(1, 2), "scenario": SCENARIO, "repetition": st.integers(1, 2)}
SHARE = st.one_of(st.none(), st.floats(-1, 20))
TABLES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "store_results": REPETITION | {"metric": METRIC, "value": NUMBER},
    "store_failures": REPETITION | {"reason": TEXT},
    "store_counters": PLACE
    | {"node": NAME, "counter": st.sampled_from(["cpu/user_s", "a_errors"]), "value": NUMBER},
    "store_packet_sizes": PLACE
    | {
        "family": st.sampled_from(["ipv4", "ipv6"]),
        "end": st.sampled_from(["sender", "receiver"]),
        "direction": st.sampled_from(["sent", "received"]),
        "upper_bytes": st.sampled_from([64, 1_500, 65_536, 196_608]),
        "packets": st.sampled_from([0, 1, 2**40]),
        "bytes": st.sampled_from([0, 1, 2**50]),
    },
    "store_comparisons": {
        "metric": METRIC,
        "scenario": SCENARIO,
        "verdict": st.sampled_from(["faster", "slower", "equivalent", "inconclusive", "invalid", "evidence"]),
        "off_median": MAYBE,
        "on_median": MAYBE,
        "change": SHARE,
        "ci_low": SHARE,
        "ci_high": SHARE,
        "level": st.sampled_from([None, 0.95]),
        "margin": st.sampled_from([None, 0.05]),
        "n_off": st.sampled_from([None, 0, 4]),
        "n_on": st.sampled_from([None, 4]),
        "smallest_detectable_change": SHARE,
        "reasons": st.lists(TEXT, max_size=2),
    },
    "store_judgements": {
        "metric": METRIC,
        "scenario": SCENARIO,
        "state": st.sampled_from(["learning", "steady", "suspect", "regression", "recovered"]),
        "change": SHARE,
        "since": st.sampled_from([None, "2026-02-01"]),
        "attribution": st.sampled_from([None, "big-tcp", "a cause of another version"]),
        "details": st.sampled_from([None, {}, {"nights": 3, "rerun": {"pairs": [], "reasons": ["x"]}}]),
    },
    "store_diagnosis": {
        "position": st.integers(1, 2),
        "cause": st.sampled_from(["steal", "a cause of another version"]),
        "scenario": st.one_of(st.none(), SCENARIO),
        "arm": st.one_of(st.none(), ARM),
        "node": st.one_of(st.none(), NAME),
        "sentence": TEXT,
        "strength": st.floats(0, 1),
        "figures": st.just({}),
    },
    "store_noise": {
        "metric": METRIC,
        "scenario": SCENARIO,
        "level": st.sampled_from(["repetition", "generation", "switch"]),
        "sd": st.sampled_from([0.0, 0.01, 40.0]),
        "n": st.sampled_from([None, 0, 3]),
    },
}
BLOCKS = st.lists(
    st.fixed_dictionaries(
        {"block": BLOCK, "arm": ARM, "purpose": st.sampled_from(["plan", "rerun"])},
        optional={
            "started_at": st.just(BEGAN),
            "finished_at": st.just(BEGAN),
            "switch_report": st.sampled_from([{}, {"nodes": {}}, {"nodes": {"node1": {}}}, {"restarted": True}]),
        },
    ),
    max_size=4,
)
ATTEMPT = st.fixed_dictionaries(
    {
        "columns": COLUMNS,
        "status": st.sampled_from(["running", "valid", "invalid", "failed"]),
        "reasons": st.lists(TEXT, max_size=2),
        "blocks": BLOCKS,
        "rows": st.fixed_dictionaries(
            {name: st.lists(st.fixed_dictionaries(fields), max_size=4) for name, fields in TABLES.items()}
        ),
    }
)


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("any") / "warehouse.db"
    made = Warehouse(f"sqlite:///{path}")
    made.migrate()
    made.engine.dispose()
    return path


def stored(warehouse: Warehouse, attempt: dict[str, Any], **more: Any) -> int:
    number = warehouse.start_run(RUN | {"started_at": BEGAN} | attempt["columns"] | more)
    for block in attempt["blocks"]:
        warehouse.store_block(number, block)
    for name, rows in attempt["rows"].items():
        getattr(warehouse, name)(number, rows)
    # Whatever there is, the run has ended, so that the next attempt is one.
    warehouse.update_run(number, status=attempt["status"], reasons=attempt["reasons"])
    return number


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(earlier=st.one_of(st.none(), ATTEMPT), attempt=ATTEMPT, before=st.one_of(st.none(), ATTEMPT))
def test_whatever_is_stored_of_a_run_can_be_told(migrated, tmp_path_factory, capsys, earlier, attempt, before):
    folder = tmp_path_factory.mktemp("one")
    path = shutil.copy(migrated, folder / "warehouse.db")
    warehouse = Warehouse(f"sqlite:///{path}")
    try:
        if before is not None:
            stored(warehouse, before, run_id="scheduled__0", started_at=BEGAN - timedelta(days=1))
        if earlier is not None:
            stored(warehouse, earlier)
        number = stored(warehouse, attempt)
        view, detail = RunView.from_warehouse(warehouse, number), RunDetail.from_warehouse(warehouse, number)
        assert headline(view) in " ".join(run_summary(view, 2_000).split("\n"))
        assert "<html" in report_file(view, detail)
        for chart in run_charts(view, detail.results, detail.packet_sizes).values():
            assert chart.draw().to_dict()
        assert run_message(view, "", failed_checks(warehouse.run(number))).text
        for draft in drafts_of_run(warehouse, view, ClusterSettings(), "https://airflow.example"):
            if "chart" in draft.payload:
                drawing(warehouse)("lab", draft.payload["chart"])
        url = warehouse.engine.url.render_as_string(hide_password=False)
        assert main(["show", str(number), "--warehouse", url]) == 0
    finally:
        warehouse.engine.dispose()
        shutil.rmtree(folder)
