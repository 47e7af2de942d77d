"""No stored run, whatever rows it has, ends a command, a report, a chart or a message in a traceback."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from bigtcp_bench.commands.main import main
from bigtcp_bench.notify.news import drafts_of_run
from bigtcp_bench.notify.pictures import drawing
from bigtcp_bench.notify.run_messages import failed_checks, run_message
from bigtcp_bench.notify.slack.settings import ClusterSettings
from bigtcp_bench.report.charts.all import latency_chart
from bigtcp_bench.report.charts.of_run import run_charts
from bigtcp_bench.report.detail import RunDetail
from bigtcp_bench.report.stored import StoredRun
from bigtcp_bench.report.summary import headline, run_summary
from bigtcp_bench.report.view import RunView
from tests.any_run import HISTORIES, SEARCH, filled


@SEARCH
@given(history=HISTORIES)
def test_whatever_is_stored_of_a_run_can_be_told(migrated_file, tmp_path_factory, history):
    folder = tmp_path_factory.mktemp("one")
    with filled(migrated_file, folder, history) as (warehouse, numbers):
        number = numbers[-1]
        view, detail = RunView.from_warehouse(warehouse, number), RunDetail.of(StoredRun(warehouse, number))
        assert headline(view) in " ".join(run_summary(view, 2_000).split("\n"))
        for chart in run_charts(view, detail.results, detail.packet_sizes).values():
            assert chart.draw().to_dict()
        assert run_message(view, failed_checks(warehouse.run(number))).lines
        for draft in drafts_of_run(warehouse, view, ClusterSettings(), "https://airflow.example"):
            if "chart" in draft.payload:
                drawing(warehouse)("lab", draft.payload["chart"])
        url = warehouse.engine.url.render_as_string(hide_password=False)
        assert main(["show", str(number), "--warehouse", url]) == 0
        report = folder / "report.html"
        assert main(["report", str(number), "--output", str(report), "--warehouse", url]) == 0
        assert "</html>" in report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "medians",
    [
        (0.0, 0.0),
        (0.0, None),
        (None, None),
        (-1.0, 0.0),
        (0.0, 180.0),
        (1e-320, 1e308),
        (1e-320, 2e11),
        (1.0, 1.79e308),
    ],
)
def test_latencies_of_nothing_have_no_place_on_a_logarithmic_axis(migrated_file, tmp_path, medians):
    off, on = medians
    row = {"metric": "latency_p50_us", "scenario": "ipv6-rr", "off_median": off, "on_median": on}
    attempt = {
        "columns": {},
        "status": "valid",
        "reasons": [],
        "blocks": [],
        "rows": {"store_comparisons": [row | {"verdict": "inconclusive"}]},
        "written_over": {},
    }
    with filled(migrated_file, tmp_path, [attempt]) as (warehouse, numbers):
        drawn = latency_chart(RunView.from_warehouse(warehouse, numbers[-1])).to_dict()
    assert json.dumps(drawn, allow_nan=False)
    assert ("This run measured no latency." in drawn["description"]) == (not on)
