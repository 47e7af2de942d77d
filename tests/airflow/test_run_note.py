"""The note of a run, against an HTTP server that answers as Airflow's API does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from bigtcp_bench.airflow import connections
from bigtcp_bench.airflow.run_note import NOTE_CHARS, AirflowApi, NoteFailed
from bigtcp_bench.cluster.checks import Check
from bigtcp_bench.errors import PreconditionFailed
from bigtcp_bench.report.preflight import checks_note

PATH = "/api/v2/dags/bigtcp_benchmark/dagRuns/manual__2026%2B1"


class Server(ThreadingHTTPServer):
    """Knows one user and the note of one run."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.note: str | None = None
        self.status = 200


class Handler(BaseHTTPRequestHandler):
    server: Server

    def _answer(self, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _run(self) -> None:
        path, _, query = self.path.partition("?")
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
        if path == "/auth/token":
            good = body == {"username": "bench", "password": "secret"}
            self._answer(201 if good else 401, {"access_token": "token"} if good else {"detail": "no"})
        elif path != PATH or self.headers.get("Authorization") != "Bearer token":
            self._answer(404, {"detail": "no such run"})
        elif self.command == "PATCH":
            assert query == "update_mask=note"
            assert len(body["note"]) <= NOTE_CHARS
            self.server.note = body["note"]
            self._answer(self.server.status, {"note": self.server.note})
        else:
            self._answer(200, {"note": self.server.note})

    do_GET = do_POST = do_PATCH = _run

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def api(server: Server, password: str = "secret") -> AirflowApi:
    return AirflowApi(f"http://127.0.0.1:{server.server_port}/", "bench", password)


def test_a_note_is_added_once_and_below_what_a_person_wrote(server: Server) -> None:
    server.note = "after the upgrade"
    for _ in range(2):
        api(server).add_note("bigtcp_benchmark", "manual__2026+1", "**Preflight**: 3 of 3 checks passed")
    assert server.note == "after the upgrade\n\n**Preflight**: 3 of 3 checks passed"


def test_the_news_of_a_run_stands_first(server: Server) -> None:
    server.note = "**Preflight**: 3 of 3 checks passed"
    for _ in range(2):
        api(server).add_note("bigtcp_benchmark", "manual__2026+1", "**lab: VALID · helps 3, worse 0**", first=True)
    assert server.note == "**lab: VALID · helps 3, worse 0**\n\n**Preflight**: 3 of 3 checks passed"


def test_a_long_note_is_cut(server: Server) -> None:
    api(server).add_note("bigtcp_benchmark", "manual__2026+1", "x" * 2000)
    assert server.note is not None
    assert (len(server.note), server.note[-1]) == (NOTE_CHARS, "…")


def test_what_goes_wrong_is_one_sentence_without_the_password(server: Server) -> None:
    with pytest.raises(NoteFailed, match=r"answered 401 to POST auth/token"):
        api(server, "wrong").add_note("bigtcp_benchmark", "manual__2026+1", "x")
    with pytest.raises(NoteFailed, match="answered 404 to GET"):
        api(server).add_note("bigtcp_benchmark", "another", "x")
    with pytest.raises(NoteFailed, match="cannot be used"):
        AirflowApi("http://127.0.0.1:9", "bench", "secret").add_note("d", "r", "x")
    assert "secret" not in repr(api(server))


@pytest.mark.parametrize(
    ("connection", "url"),
    [
        ("http://bench:secret@airflow.example:8080", "http://airflow.example:8080"),
        ("https://bench:secret@airflow.example", "https://airflow.example"),
        (
            '{"conn_type":"http","host":"https://a.example/x","login":"bench","password":"s"}',
            "https://a.example/x",
        ),
    ],
)
def test_the_connection(connection: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_BIGTCP_AIRFLOW", connection)
    found = connections.airflow_api()
    assert found is not None
    assert (found.url, found.login) == (url, "bench")


def test_a_connection_that_lacks_something(monkeypatch: pytest.MonkeyPatch) -> None:
    assert connections.airflow_api() is None
    monkeypatch.setenv("AIRFLOW_CONN_BIGTCP_AIRFLOW", "http://airflow.example")
    with pytest.raises(PreconditionFailed, match="'bigtcp_airflow' needs the address"):
        connections.airflow_api()


def test_the_verdict_as_a_note_says_what_did_not_pass() -> None:
    checks = [
        Check("a", "", "pass", "fine"),
        Check("load", "node1", "warn", "80% used", "wait"),
        Check("load", "node2", "warn", "80% used", "wait"),
        Check("device", "node2", "fail", "eth0: 65536", "another card"),
    ]
    assert checks_note(checks).splitlines() == [
        "**Preflight**: 1 of 4 checks passed, 2 warn, 1 failed",
        "- **fail** node2: device: eth0: 65536; another card",
        "- **warn** node1, node2: load: 80% used; wait",
    ]
