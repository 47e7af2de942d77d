"""The documents' shell blocks, run line by line as they stand, on a warehouse with some nights in it.

What needs Docker, a cluster or somebody's Airflow is marked so, and not run.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bigtcp_bench.commands import settings_in_force
from bigtcp_bench.commands.main import main
from bigtcp_bench.judging.night import Nightly
from bigtcp_bench.planning.thresholds import Thresholds
from bigtcp_bench.warehouse.store import Warehouse
from tests.postgres import binaries, create_database, running_server
from tests.support.nights import add_night
from tests.support.slack_server import SlackServer
from tests.test_docs import MARK, SHELLS, TEXTS, fences

pytestmark = pytest.mark.postgres

ROOT = Path(__file__).parent.parent
#: The number of a run that a document names is at most this.
NIGHTS = 45
#: In documents: a server that somebody has.
EXAMPLE_URL = "postgresql://bigtcp@db.example.org/bigtcp"
#: Targets of make, and the test that runs what they run.
MADE_BY = {
    "demo": "tests/e2e/test_demo.py",
    "up": "tests/e2e/test_up.py",
    "down": "tests/e2e/test_up.py",
}
#: These run the tests, or are part of that.
TESTING = {"install", "lint", "fast", "test"}


def _blocks() -> Iterator[tuple[str, list[str]]]:
    for name, text in TEXTS.items():
        for language, body in fences(text):
            if language in SHELLS and not MARK.search(body):
                lines = [line.strip() for line in body.replace("\\\n", " ").splitlines()]
                yield name, [line for line in lines if line and not line.startswith("#")]


BLOCKS = list(_blocks())


@dataclass
class Place:
    """Where the lines are run: a folder with a filled warehouse, a Slack, and a PostgreSQL."""

    folder: Path
    slack: SlackServer
    postgres: str


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("place")
    (folder / ".bigtcp").mkdir()
    (folder / "include").symlink_to(ROOT / "include")
    warehouse = Warehouse(f"sqlite:///{folder}/.bigtcp/warehouse.db")
    warehouse.migrate()
    for number in range(NIGHTS - 1):
        add_night(warehouse, number, cilium_version="1.18.3" if number < 30 else "1.18.4")
    last = add_night(warehouse, NIGHTS - 1, cilium_version="1.18.4", on={"ipv6-stream-1": 0.7})
    Nightly(warehouse, last, Thresholds.model_validate({})).judge()
    warehouse.engine.dispose()
    with running_server() as server, SlackServer() as slack:
        url = create_database(server, "documents")
        Warehouse(url).migrate()
        yield Place(folder, slack, url)


@pytest.fixture
def run(place: Place, monkeypatch, capfd):
    monkeypatch.chdir(place.folder)
    # The command sets it for Airflow; not for the tests after this one.
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")

    def one(line: str) -> None:
        words = shlex.split(line.replace(EXAMPLE_URL, place.postgres), comments=True)
        if words[0] == "make":
            assert words[1] in TESTING or (ROOT / MADE_BY[words[1]]).exists()
        elif len(words) == 1 and "=" in words[0]:
            _connect(words[0])
        elif words[0] == "bigtcp-bench":
            assert main(words[1:]) == 0, f"{line}: {capfd.readouterr().err}"
        else:
            environment = {
                **os.environ,
                "BIGTCP_BENCH_WAREHOUSE": place.postgres,
                "PATH": f"{binaries()}{os.pathsep}{os.environ['PATH']}",
            }
            done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False, env=environment)
            assert (done.returncode, done.stderr) == (0, ""), line

    def _connect(assignment: str) -> None:
        """Set a variable as the document says; a connection must be one that can be used."""
        name, _, value = assignment.partition("=")
        monkeypatch.setenv(name, value)
        if name.startswith("AIRFLOW_CONN_"):
            conn_id = name.removeprefix("AIRFLOW_CONN_").lower()
            (found,) = [one for one in settings_in_force.connections() if one.name == conn_id]
            assert (found.problem, found.source) == ("", f"environment {name}")
        else:
            assert isinstance(json.loads(value), list), "the only other one is the list of bundles"
        if name == "AIRFLOW_CONN_BIGTCP_SLACK":
            _use_slack()

    def _use_slack() -> None:
        settings = {"channel": "C0BENCH", "base_url": place.slack.base_url}
        connection = {"conn_type": "slack", "password": place.slack.token, "extra": settings}
        monkeypatch.setenv("AIRFLOW_CONN_BIGTCP_SLACK", json.dumps(connection))

    _use_slack()
    return one


@pytest.mark.parametrize(("document", "lines"), BLOCKS, ids=[f"{name}: {lines[0][:50]}" for name, lines in BLOCKS])
def test_every_line_of_the_documents_runs(document, lines, run):
    for line in lines:
        run(line)


def test_what_the_lines_wrote_is_what_they_promise(place, run):
    """The backups can be read, the other database has the nights, and Slack has been told; twice is no harm."""
    for document, lines in BLOCKS:
        if document in {"docs/operations.md", "docs/warehouse.md", "docs/slack.md"}:
            for line in lines:
                run(line)
    assert len(Warehouse(f"sqlite:///{place.folder}/warehouse-backup.db").runs_frame(limit=100)) == NIGHTS
    listed = subprocess.run(
        [str(binaries() / "pg_restore"), "--list", "warehouse.dump"],
        cwd=place.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "TABLE DATA public bigtcp_run" in listed.stdout
    assert len(Warehouse(place.postgres).runs_frame(limit=100)) == NIGHTS
    assert (place.folder / "benefit.csv").read_text().startswith("scenario,")
    assert place.slack.messages


def test_make_lint_is_part_of_make_test():
    def commands(target: str) -> set[str]:
        told = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True)
        return {line for line in told.stdout.splitlines() if line.startswith(".venv/bin/")}

    assert commands("lint") <= commands("test")
    assert commands("lint")
