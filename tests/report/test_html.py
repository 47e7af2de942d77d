"""A run as HTML says everything, escapes everything, and asks for nothing from anywhere else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from markupsafe import Markup
from playwright.sync_api import Page, expect

from bigtcp_bench.commands.main import main
from bigtcp_bench.generated.history import write_history
from bigtcp_bench.report.charts import vega
from bigtcp_bench.report.charts.of_run import run_charts
from bigtcp_bench.report.detail import RunDetail
from bigtcp_bench.report.history import HistoryView, IncidentView
from bigtcp_bench.report.html import report_file, run_body
from bigtcp_bench.report.stored import StoredRun
from bigtcp_bench.report.view import RestoreView, RunView
from bigtcp_bench.warehouse.store import Warehouse
from tests.report.views import CAUSES, run_view
from tests.web.browsing import DRAWN_ANEW, chromium

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def warehouse(tmp_path_factory: pytest.TempPathFactory, new_warehouse: Callable[[Path], Warehouse]) -> Warehouse:
    """Two generated nights, the second of which is valid, and a run that has only begun."""
    found = new_warehouse(tmp_path_factory.mktemp("report") / "warehouse.db")
    write_history(found, 2, last_night=date(2026, 11, 23))
    found.start_run({"cluster": "lab", "dag_id": "bigtcp_benchmark", "run_id": "begun"})
    return found


@pytest.fixture(scope="module")
def view(warehouse: Warehouse) -> RunView:
    return RunView.from_warehouse(warehouse, 2)


@pytest.fixture(scope="module")
def detail(warehouse: Warehouse) -> RunDetail:
    return RunDetail.of(StoredRun(warehouse, 2))


@pytest.fixture
def page() -> Iterator[Page]:
    with chromium() as browser:
        yield browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="dark")


def names_only(chart: Any) -> Markup:
    return Markup("<i>{}</i>").format(chart.name)


def body(view: RunView, detail: RunDetail) -> str:
    return str(run_body(view, detail, names_only))


def test_the_body_has_every_section(view, detail):
    text = body(view, detail)
    headings = re.findall(r'<h2 id="([a-z]+)"', text)
    assert headings == [
        "change",
        "comparison",
        "history",
        "effect",
        "validity",
        "repetitions",
        "cost",
        "restore",
        "conditions",
        "counters",
    ]
    assert re.findall(r"<i>(.*?)</i>", text) == list(run_charts(view, detail.results, detail.packet_sizes))
    assert "proven" in text
    assert "196,608\N{NO-BREAK SPACE}B" in text
    assert "block 2, on" in text


def test_generated_figures_say_so_first(view, detail):
    text = body(view, detail)
    assert text.index("Generated, not measured.") < text.index("<h2")
    # Once is enough.
    assert text.lower().count("not measured.") == 1
    assert "Generated, not measured" not in body(run_view(generated=False), detail)


def test_an_emulated_cluster_says_so(detail):
    assert "Emulated cluster." in body(run_view(emulated=True), detail)


def test_a_restore_that_was_not_verified_is_loud(detail):
    view = run_view(restore=RestoreView("not_verified", "the agent is away"))
    text = str(run_body(view, detail, names_only, restore_url="/dags/bigtcp_restore"))
    head = text[: text.index("<nav")]
    assert '<span class="status-word restore not verified">RESTORE NOT VERIFIED</span> · <strong' in head
    assert "the agent is away" in head
    assert '<a data-airflow href="/dags/bigtcp_restore">' in head
    assert "<code>bigtcp-bench restore</code>" in head
    assert "`" not in text
    # What happened and what to do are said once.
    assert text.count("the agent is away") == text.count("bigtcp-bench restore<") == 1


def test_what_to_do_next_stands_below_the_headline(detail):
    failed = body(run_view(status="failed", reasons=("test_iperf3: a node is gone",)), detail)
    assert "<strong>Do next:</strong> Look in Airflow at the task that failed first" in failed
    # One reason is the headline.
    assert failed.count("a node is gone") == 1
    assert "Do next" not in body(run_view(), detail)


def test_other_pages_are_linked_where_their_addresses_are_known(warehouse, view, detail):
    incident = IncidentView(3, "regression", "2026-03-23", "big-tcp", frozenset())
    told = replace(view, history=HistoryView(incidents=(incident,)))
    text = str(run_body(told, detail, names_only, page_url=lambda path: f"/pages/{path}"))
    assert '<a href="/pages/incidents/3">incident 3</a>: regression since 2026-03-23' in text
    assert f'<a href="/pages/run/{view.compared.before}">' in text
    assert "incident 3: regression" in body(told, detail)


def test_reasons_stand_before_the_figures(detail):
    text = body(run_view(status="invalid", reasons=("too much drift", "the control is off")), detail)
    assert text.index("too much drift") < text.index('id="comparison"')
    assert "may not be judged for the reasons above" in text


def test_likely_causes_stand_before_the_figures_and_have_their_own(detail):
    text = body(run_view(status="invalid", reasons=("too slow", "too odd"), causes=CAUSES), detail)
    assert text.index('id="reasons"') < text.index('id="causes"') < text.index('id="comparison"')
    assert "dropped 3,000 packets" in text
    assert "packets 3000" in text
    assert "&#34;Policy denied&#34;; explains retransmits too" in text
    assert 'id="causes"' not in body(run_view(), detail)


def test_a_run_that_has_only_begun_has_a_body(warehouse):
    text = body(RunView.from_warehouse(warehouse, 3), RunDetail.of(StoredRun(warehouse, 3)))
    assert "the run has not ended" in text
    assert re.findall(r'<h2 id="([a-z]+)"', text) == ["validity", "restore", "conditions"]


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_whatever_the_warehouse_holds_is_escaped(view, detail):
    hostile = run_view(
        cluster=HOSTILE,
        run_id=HOSTILE,
        note=HOSTILE,
        status="failed",
        reasons=(HOSTILE, HOSTILE + "2"),
        restore=RestoreView("not_verified", HOSTILE),
        plan_name=HOSTILE,
    )
    tags = _Tags()
    tags.feed(report_file(hostile, replace(detail, results=detail.results.iloc[:0])))
    assert "img" not in {tag for tag, _ in tags.found}
    assert not [attrs for _, attrs in tags.found if any(name.startswith("on") for name in attrs)]
    own = [attrs for tag, attrs in tags.found if tag == "script" and attrs.get("type") != "application/json"]
    assert len(own) == 2


def test_a_chart_cannot_end_its_element(view):
    class Hostile:
        def to_dict(self, *, validate: bool) -> dict[str, Any]:
            return {"title": {"text": HOSTILE}, "description": "</script>" + HOSTILE}

    element = str(vega.figure(Hostile()))  # type: ignore[arg-type]
    assert element.count("</script") == 1
    assert "<img" not in element


def test_the_file_asks_for_nothing_else(view, detail):
    text = report_file(view, detail)
    tags = _Tags()
    tags.feed(text)
    assert not [attrs for _, attrs in tags.found if attrs.get("src")]
    assert not [attrs for tag, attrs in tags.found if tag == "link"]
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text


def test_the_script_is_bundled_at_the_installation_and_can_stand_inline():
    assert vega.BUNDLE.is_file()
    script = vega.javascript()
    assert script.startswith(vega.BUNDLE.read_text(encoding="utf-8"))
    assert "</script" not in script
    assert "drawCharts" in script


@pytest.mark.parametrize(
    "there", ["", "/* Vega, Vega-Lite, vega-embed and what they use, bundled by vl-convert 1.0 */\n"]
)
def test_without_a_bundle_of_this_vl_convert_a_process_makes_its_own(there, tmp_path, monkeypatch):
    monkeypatch.setattr(vega, "BUNDLE", tmp_path / "vega.js")
    if there:
        vega.BUNDLE.write_text(there, encoding="utf-8")
    monkeypatch.setattr(vega, "bundled", lambda: "made now;")
    assert vega.javascript.__wrapped__().startswith("made now;")


def test_captured_packets_take_the_place_of_mean_sizes(view, detail):
    place = {"block": 2, "arm": "on", "family": "ipv4", "path": "pod", "node": "server"}
    place |= {"end": "receiver", "direction": "received"}
    sizes = pd.DataFrame([place | {"upper_bytes": 196_608, "packets": 2, "bytes": 360_000}])
    means, captured = (run_charts(view, detail.results, one)["packets"] for one in (sizes.iloc[:0], sizes))
    assert (means.section, captured.section) == ("effect", "effect")
    assert "mean bytes per packet" in means.draw().to_dict()["description"]
    assert "ipv4, receiver on: mean 180,000 B" in captured.draw().to_dict()["description"]


@pytest.mark.browser
def test_a_browser_shows_the_file(page, view, detail, tmp_path):
    path = tmp_path / "run.html"
    path.write_text(report_file(view, detail), encoding="utf-8")
    troubles: list[str] = []
    page.on("console", lambda said: troubles.append(said.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on(
        "request", lambda request: troubles.append(request.url) if not request.url.startswith("file:") else None
    )
    page.goto(path.as_uri())
    charts = run_charts(view, detail.results, detail.packet_sizes)
    drawn = page.locator("figure.chart svg.marks")
    folded = page.locator("details figure.chart").count()
    expect(drawn).to_have_count(len(charts) - folded)
    # What is folded is drawn when it is opened, as wide as its place is then.
    page.locator("#repetitions + details > summary").click()
    expect(drawn).to_have_count(len(charts))
    assert folded > 0
    # A screen reader is told what the chart shows.
    assert "throughput: +" in page.locator("figure.chart >> nth=0").locator("[aria-label]").first.get_attribute(
        "aria-label"
    )
    for width, scheme in ((1280, "dark"), (400, "light")):
        page.set_viewport_size({"width": width, "height": 800})
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(DRAWN_ANEW)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        ink = page.evaluate("getComputedStyle(document.querySelector('figure.chart svg text')).fill")
        red = int(re.findall(r"\d+", ink)[0])
        assert red > 200 if scheme == "dark" else red < 60
        page.locator("figure.chart >> nth=0").locator("g.mark-symbol path").nth(1).hover()
        tooltip = page.locator("#vg-tooltip-element.visible")
        tooltip.wait_for()
        assert "on against off" in tooltip.inner_text()
        page.mouse.move(0, 0)
    assert troubles == []


def test_the_command_writes_the_file(warehouse, tmp_path, capsys):
    path = tmp_path / "run.html"
    assert main(["report", "2", "--output", str(path), "--warehouse", warehouse.url]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert "run 2 of demo-1" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["99"], "run 99 is not in the warehouse"),
        (["2", "--output", "/nowhere/run.html"], "/nowhere/run.html cannot be written: No such file or directory"),
    ],
)
def test_what_cannot_be_written_is_one_sentence(warehouse, capsys, arguments, sentence):
    assert main(["report", *arguments, "--warehouse", warehouse.url]) == 1
    assert sentence in capsys.readouterr().err


def test_without_a_number_it_is_the_newest_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warehouse: Warehouse
):
    monkeypatch.chdir(tmp_path)
    assert main(["report", "--warehouse", warehouse.url]) == 0
    assert (tmp_path / "bigtcp-run-3.html").is_file()
