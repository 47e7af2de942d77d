"""The recipes of docs/architecture.md, followed to the letter in a copy: what they add is in form and report."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.support.installed import ROOT

DOCUMENT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
RECIPES = re.findall(r"^\*\*(A [\w ]+)\.\*\*.*?^```diff\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)

#: What a developer would try out by hand; runs on the copy, with the address of a webhook and one where none is.
LOOK = """
import json, os, socket, subprocess, sys
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import bigtcp_bench
from bigtcp_bench.airflow import connections
from bigtcp_bench.analysis.verdicts import judge_run
from bigtcp_bench.cluster import requirements
from bigtcp_bench.cluster.nodes import choose_pair
from bigtcp_bench.generated.history import write_history
from bigtcp_bench.airflow.params import dag_params
from bigtcp_bench.notify.delivery import deliver
from bigtcp_bench.notify.message import Line, Message, payload
from bigtcp_bench.in_cluster.traffic import KINDS
from bigtcp_bench.planning.plan import SCENARIOS, validate_plan
from bigtcp_bench.readings.measurements import measurements
from bigtcp_bench.report.preflight import checks_text
from bigtcp_bench.report.detail import RunDetail
from bigtcp_bench.report.html import report_file
from bigtcp_bench.report.charts.of_run import run_charts
from bigtcp_bench.report.summary import run_summary
from bigtcp_bench.report.stored import StoredRun
from bigtcp_bench.report.view import RunView
from bigtcp_bench.warehouse import outbox
from bigtcp_bench.warehouse.store import Warehouse
from tests.analysis.runs import USUAL, make_frame
from tests.cluster.simulated import Cluster
from tests.readings.documents import recorded_document, repetition

warehouse = Warehouse(f"sqlite:///{Path.cwd()}/warehouse.db")
warehouse.migrate()
write_history(warehouse, 2, last_night=date(2026, 11, 23))
view, detail = RunView.from_warehouse(warehouse, 2), RunDetail.of(StoredRun(warehouse, 2))

USUAL["packets_per_gb"] = 17_000.0
plan = validate_plan({"scenarios": "ipv4-stream-16"})
run = warehouse.start_run({"cluster": "lab", "dag_id": "bigtcp_benchmark", "run_id": "new"})
warehouse.update_run(run, plan=plan.model_dump(mode="json"))
verdict = judge_run(make_frame(plan, effect={"throughput_bps": 0.2, "packets_per_gb": -0.6}), plan)
warehouse.store_comparisons(run, verdict.comparisons)

api = Cluster().client()
small = validate_plan({"scenarios": "ipv4-stream-1"})
checks = requirements.preflight(api, small, choose_pair(api, small)).checks

# What the new kind makes of a real iperf3.
def measured_by_the_kind():
    kind, scenario = KINDS["sendfile"], SCENARIOS["ipv4-sendfile"].model_dump(mode="json")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # Both ends on one CPU take a second of it, and not two.
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    command = ["iperf3", "-s", "-1", "-p", str(port), "--forceflush"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert any("listening" in line for line in server.stdout)
            orders = {"iperf_port": port, "duration_s": 1, "omit_s": 0}
            found = kind.run("127.0.0.1", orders, scenario)
        finally:
            server.kill()
            os.sched_setaffinity(0, cpus)
    figures = {metric.name: read(found) for metric, read in kind.metrics.items()}
    return list(kind.problems(found, orders, scenario)), figures

def told(cluster, address):
    given = SimpleNamespace(password=address, extra_dejson={"min_severity": "regression"})
    connections._connection = lambda conn_id: given if conn_id == "bigtcp_webhook" else None
    settings = connections.channel_settings()
    message = Message((Line("it fell"), Line("by half")), "regression", f"Regression on {cluster}")
    outbox.keep(warehouse, cluster, [outbox.Draft(cluster, "run", payload(message))])
    done = deliver(warehouse, cluster, settings)
    return [settings.of(cluster).min_severity, done.sent, done.waiting]

print(json.dumps({
    "told": [told(cluster, address) for cluster, address in zip(("there", "gone"), sys.argv[1:], strict=True)],
    "package": bigtcp_bench.__file__,
    "measured by the kind": measured_by_the_kind(),
    "form": dag_params()["scenarios"].schema["items"]["enum"],
    "orders": [SCENARIOS[name].model_dump(mode="json") for name in ("ipv6-stream-16", "ipv4-sendfile")],
    "measured": {one.metric: one.value for one in measurements(repetition(recorded_document("on")))},
    "summary": run_summary(RunView.from_warehouse(warehouse, run)),
    "generated": run_summary(view),
    "checks": checks_text(checks),
    "page": report_file(view, detail),
    "chart": run_charts(view, detail.results, detail.packet_sizes)["lost"].draw().to_dict()["description"],
}))
"""


def apply(recipe: str, root: Path) -> None:
    """Make the changes of a recipe: each must find the lines that it stands beside exactly once."""
    for part in re.split(r"^--- ", recipe, flags=re.MULTILINE)[1:]:
        name, _, body = part.partition("\n")
        lines = body.splitlines()
        if name == "/dev/null":
            name = lines.pop(0).removeprefix("+++ ")
            (root / name).write_text("".join(f"{line[1:]}\n" for line in lines), encoding="utf-8")
            continue
        assert all(line[:1] in {" ", "+", ""} for line in lines), f"{name}: recipes only add"
        before = "".join(f"{line[1:]}\n" for line in lines if line.startswith(" "))
        after = "".join(f"{line[1:]}\n" for line in lines)
        file = root / name
        text = file.read_text(encoding="utf-8")
        assert before.strip(), f"{name}: a change stands beside no line"
        times = text.count(before)
        assert times == 1, (
            f"docs/architecture.md: the recipe looks in {name} for what is there {times} times:\n{before}"
        )
        file.write_text(text.replace(before, after), encoding="utf-8")


class Webhook(BaseHTTPRequestHandler):
    """Takes what is posted to /hook, and nothing else."""

    got: ClassVar[list[dict[str, str]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/hook":
            self.got.append(json.loads(body))
        self.send_response(200 if self.path == "/hook" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("copy")
    for folder in ("plugins", "tests", "include", "dags", "docs"):
        shutil.copytree(ROOT / folder, root / folder)
    shutil.copy(ROOT / "pyproject.toml", root)
    for _, recipe in RECIPES:
        apply(recipe, root)
    return root


def test_there_is_a_recipe_for_each_and_it_is_short():
    names = ["A scenario", "A kind of traffic", "A metric", "A check", "A chart", "A channel"]
    assert [name for name, _ in RECIPES] == names
    assert len(re.findall("^---", dict(RECIPES)["A metric"], re.MULTILINE)) == 3, "a metric takes three places"
    for name, recipe in RECIPES:
        added = [line for line in recipe.splitlines() if line.startswith("+") and line != "+"]
        most = 36 if name == "A channel" else 12
        assert len(added) <= most, f"{name} takes {len(added)} lines"


@pytest.fixture(scope="module")
def seen(copy, forked) -> dict[str, Any]:
    """Return what is to be seen of the copy, all in one process, which takes long to start."""
    with HTTPServer(("127.0.0.1", 0), Webhook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        addresses = [f"http://127.0.0.1:{server.server_port}/{name}" for name in ("hook", "gone")]
        said = forked.ask(LOOK, *addresses, path=[copy / "plugins", copy, ROOT / "lab"])
        server.shutdown()
    found: dict[str, Any] = json.loads(said[-1])
    return found


def test_what_the_recipes_add_is_in_form_results_and_report(copy, seen):
    assert Path(seen["package"]).is_relative_to(copy)
    # A scenario
    assert {"ipv4-stream-16", "ipv6-stream-16", "ipv4-sendfile", "ipv6-sendfile"} <= set(seen["form"])
    assert seen["orders"][0]["streams"] == 16
    # A kind of traffic
    assert [seen["orders"][1][name] for name in ("name", "traffic")] == ["ipv4-sendfile", "sendfile"]
    problems, figures = seen["measured by the kind"]
    assert problems == []
    assert figures["throughput_bps"] > 0
    assert set(figures) == {"throughput_bps", "retransmits_per_gb"}
    assert re.search(r"ipv4-stream-16 .*\n throughput .* \+\S+ % .* better", seen["summary"])
    # A metric
    assert seen["measured"]["packets_per_gb"] == pytest.approx(1e9 / seen["measured"]["bytes_per_packet_sender"])
    for text in (seen["summary"], seen["generated"]):
        assert re.search(r"\n packets per GB .* −\S+ % .* better", text)
    # A check
    assert re.search(r"(pass|warn) +CPUs +", seen["checks"])
    # A chart
    assert "Retransmits" in seen["page"]
    assert re.fullmatch(r"Dots: retransmitted segments per gigabyte in \d+ repetitions\.", seen["chart"])


def test_a_channel_of_a_recipe_sends_what_waits(seen):
    assert seen["told"] == [["regression", 1, 0], ["regression", 0, 1]]
    assert Webhook.got == [{"text": "Regression on there\nit fell\nby half"}]


def test_the_recipes_keep_the_rules_of_the_code(copy):
    for arguments in (["check"], ["format", "--check"]):
        command = [str(Path(sys.executable).with_name("ruff")), *arguments, "--no-cache", str(copy / "plugins")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=copy)
        assert done.returncode == 0, done.stdout
