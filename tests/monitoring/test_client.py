"""A Prometheus that is away, slow, guarded or broken, against what is said of it."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs

import pytest

from bigtcp_bench.monitoring import client
from bigtcp_bench.monitoring.client import Prometheus, PrometheusAway, QueryRefused
from bigtcp_bench.monitoring.settings import prometheus_settings
from bigtcp_lab.api.certificates import issue
from tests.monitoring.servers import free_port, http_server

END = datetime(2026, 3, 1, 3, tzinfo=UTC)
Answer = Callable[[BaseHTTPRequestHandler], None]


def matrix(*series: tuple[dict[str, str], list[str]]) -> dict[str, Any]:
    result = [
        {"metric": labels, "values": [[1772330400.5 + index, value] for index, value in enumerate(values)]}
        for labels, values in series
    ]
    return {"status": "success", "data": {"resultType": "matrix", "result": result}}


def send(handler: BaseHTTPRequestHandler, status: int, body: Any, **headers: str) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(data)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)


@contextlib.contextmanager
def answering(*answers: Answer, tls: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Serve one of ``answers`` after the other, the last one again and again; yields URL and requests."""
    requests: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            requests.append({"path": self.path, "form": form, "headers": dict(self.headers)})
            # Whoever asked may be gone.
            with contextlib.suppress(OSError):
                answers[min(len(requests), len(answers)) - 1](self)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with http_server(Handler, tls) as address:
        yield f"{'http' if tls is None else 'https'}://{address}", requests


def ask(url: str, *, login: str | None = None, password: str | None = None, budget_s: float = 30, **extra: Any):
    settings = prometheus_settings(url, login, password, extra, "the connection")
    with Prometheus(settings, budget_s=budget_s) as prometheus:
        return prometheus.range("up{}", END - timedelta(minutes=5), END, 30)


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch):
    monkeypatch.setattr(client, "wait_random_exponential", lambda **_: lambda _state: 0.01)


def test_a_range_is_asked_for_and_what_is_no_number_left_out():
    answer = matrix(({"instance": "a"}, ["1.5", "NaN", "2.5"]), ({"instance": "b"}, ["+Inf", "NaN"]))
    with answering(lambda handler: send(handler, 200, answer)) as (url, requests):
        (found,) = ask(f"{url}/prefix/")
    assert (found.labels, found.values) == ({"instance": "a"}, (1.5, 2.5))
    (request,) = requests
    assert request["path"] == "/prefix/api/v1/query_range"
    assert request["form"] == {
        "query": ["up{}"],
        "start": ["1772333700.000"],
        "end": ["1772334000.000"],
        "step": ["30"],
    }
    assert "Authorization" not in request["headers"]


def test_login_and_token_are_sent_and_never_said():
    with answering(lambda handler: send(handler, 401, b"no")) as (url, requests):
        for login in ("ann", None):
            with pytest.raises(PrometheusAway, match="answered 401") as caught:
                ask(url, login=login, password="s3cret")
            assert "s3cret" not in str(caught.value)
    basic = f"Basic {base64.b64encode(b'ann:s3cret').decode()}"
    assert [request["headers"]["Authorization"] for request in requests] == [basic, "Bearer s3cret"]


def test_a_token_does_not_follow_to_another_address():
    def elsewhere(handler: BaseHTTPRequestHandler) -> None:
        send(handler, 302, b"", Location=f"{other}/login")

    with (
        answering(lambda handler: send(handler, 200, matrix())) as (other, others),
        answering(elsewhere) as (url, _),
        pytest.raises(PrometheusAway, match="answered 302"),
    ):
        ask(url, password="s3cret")
    assert others == []


def test_what_passes_is_tried_again():
    answer = matrix(({}, ["1"]))
    with answering(
        lambda handler: send(handler, 503, b"starting"),
        lambda handler: send(handler, 429, b"busy"),
        lambda handler: send(handler, 200, answer),
    ) as (url, requests):
        assert [one.values for one in ask(url)] == [(1.0,)]
    assert len(requests) == 3


def test_what_does_not_pass_is_tried_three_times():
    with answering(lambda handler: send(handler, 502, b"")) as (url, requests):
        with pytest.raises(PrometheusAway, match="answered 502"):
            ask(url)
        assert len(requests) == 3


def test_a_query_that_is_refused_is_refused_once_with_its_reason():
    refusal = {"status": "error", "errorType": "bad_data", "error": "parse error: unexpected end"}
    with answering(lambda handler: send(handler, 400, refusal)) as (url, requests):
        with pytest.raises(QueryRefused, match="refuses the query: parse error: unexpected end"):
            ask(url)
        assert len(requests) == 1


def test_nobody_there():
    with pytest.raises(PrometheusAway, match=r"cannot be reached: .*[Rr]efused"):
        ask(f"http://127.0.0.1:{free_port()}")


def test_one_that_never_answers():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(PrometheusAway, match="timed out"):
            ask(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.1)
        assert time.monotonic() - began < 10


def test_one_that_answers_byte_by_byte_has_no_more_than_the_budget():
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)

    with answering(drip) as (url, _):
        began = time.monotonic()
        with pytest.raises(PrometheusAway, match=r"took longer than the 0.5 s that a run waits for it"):
            ask(url, budget_s=0.5)
        assert time.monotonic() - began < 20


def test_an_answer_without_end(monkeypatch):
    monkeypatch.setattr(client, "MAX_BYTES", 1 << 20)
    with (
        answering(lambda handler: send(handler, 200, b" " * (2 << 20))) as (url, _),
        pytest.raises(QueryRefused, match="more than 1 MB"),
    ):
        ask(url)


@pytest.mark.parametrize(
    "body",
    [b"<html>login</html>", {"status": "success", "data": {"resultType": "vector", "result": []}}, {}, b"\xff"],
)
def test_something_else_than_prometheus(body):
    with (
        answering(lambda handler: send(handler, 200, body)) as (url, _),
        pytest.raises(PrometheusAway, match="does not answer as Prometheus does"),
    ):
        ask(url)


def test_a_certificate_must_be_trusted_unless_that_is_not_wanted(tmp_path):
    issued = issue(["127.0.0.1"])
    for name, text in (("ca", issued.ca_pem), ("cert", issued.certificate_pem), ("key", issued.key_pem)):
        (tmp_path / f"{name}.pem").write_text(text)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with answering(lambda handler: send(handler, 200, matrix()), tls=tls) as (url, requests):
        with pytest.raises(PrometheusAway, match=r"cannot be reached: .*CERTIFICATE_VERIFY_FAILED"):
            ask(url, password="s3cret")
        assert requests == []
        assert ask(url, ca_file=str(tmp_path / "ca.pem")) == []
        assert ask(url, verify=False) == []
        own = {"cert_file": str(tmp_path / "cert.pem"), "key_file": str(tmp_path / "key.pem")}
        assert ask(url, verify=False, **own) == []


def test_certificates_that_cannot_be_used(tmp_path):
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    with pytest.raises(PrometheusAway, match="the certificates for Prometheus cannot be used"):
        ask("https://127.0.0.1:1", ca_file=str(file))
