"""The API client against a server that answers as recorded, or not at all."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client as k8s

from bigtcp_bench.cluster.api import (
    COMING_BACK_S,
    CONFIGMAP,
    FRESH_S,
    LEASE,
    POD,
    SETTLED_S,
    ApiProblem,
    ApiUnreachable,
    ClusterApi,
    Conflict,
    Forbidden,
    NotFound,
)

ERRORS = Path(__file__).parents[1] / "recorded" / "errors"
Answer = tuple[int, Any]


class Server(ThreadingHTTPServer):
    """Answers with what ``answers`` holds, one after the other, the last one for ever; 0 cuts the connection."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [(200, {})]
        self.seen: list[tuple[str, str]] = []
        super().__init__(("127.0.0.1", 0), Handler)

    def next(self) -> Answer:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    date = "Mon, 23 Nov 2026 00:40:31 GMT"

    def answer(self) -> None:
        assert isinstance(self.server, Server)
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.command, self.path))
        status, body = self.server.next()
        self.close_connection = True
        if status == 0:
            return
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response_only(status)
        self.send_header("Date", self.date)
        self.send_header("Content-Length", str(len(data)))
        # Said, so that the client does not try a kept connection first: every attempt arrives and is counted.
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = answer


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def api(server: Server) -> Iterator[ClusterApi]:
    configuration = k8s.Configuration(host=f"http://127.0.0.1:{server.server_port}")
    api = ClusterApi(k8s.ApiClient(configuration), away_s=2, clock=lambda: 1000.0, sleep=lambda seconds: None)
    api._let_in = True
    yield api
    api.close()


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("forbidden", Forbidden, 'cannot get resource "configmaps" .* in the namespace "kube-system"; the rights'),
        ("pod-not-found", NotFound, 'pods "absent" not found'),
        ("lease-already-exists", Conflict, "already exists"),
        ("replace-conflict", Conflict, "the object has been modified"),
        ("pod-invalid", ApiProblem, "refused .* with 422: .*metadata.name: Invalid value"),
    ],
)
def test_what_the_api_refuses_is_one_sentence(
    server: Server, api: ClusterApi, name: str, kind: type[ApiProblem], words: str
) -> None:
    recorded = json.loads((ERRORS / f"{name}.json").read_text(encoding="utf-8"))
    server.answers = [(recorded["status"], recorded["response"])]
    with pytest.raises(kind, match=words) as caught:
        api.get(CONFIGMAP, "anything", "kube-system")
    assert caught.value.status == recorded["status"]
    assert "\n" not in str(caught.value)
    assert len(server.seen) == 1, "a refusal is not asked for again"


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (
            'pods "x" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: pods=2',
            "no room for",
        ),
        ('pods "x" is forbidden: failed quota: q: must specify limits.cpu for: base', "take that out of it"),
        ('pods "x" is forbidden: failed quota: q: must specify requests.storage for: base', "take that out of it"),
        ('services "bigtcp-bench" is forbidden: exceeded quota: q, requested: services=1', "or for their Service"),
        (
            'pods "x" is forbidden: violates PodSecurity "restricted:latest": host namespaces (hostNetwork=true)',
            "the namespace needs the level privileged",
        ),
        (
            'pods "x" is forbidden: maximum memory usage per Container is 256Mi, but limit is 512Mi',
            "a LimitRange of the namespace",
        ),
        (
            'pods "x" is forbidden: memory max limit to request ratio per Container is 2, but provided ratio is 4',
            "a LimitRange of the namespace",
        ),
        (
            'admission webhook "validate.kyverno.svc-fail" denied the request: no',
            "an admission rule of the cluster",
        ),
    ],
)
def test_what_admission_refuses_is_not_a_missing_right(
    server: Server, api: ClusterApi, said: str, advice: str
) -> None:
    server.answers = [(403, {"kind": "Status", "message": said})]
    with pytest.raises(Forbidden) as caught:
        api.create(POD, {}, "bigtcp-bench")
    assert caught.value.said == said
    assert advice in caught.value.advice
    assert str(caught.value) == f"not allowed: {said}; {caught.value.advice}"
    assert "rbac.yaml" not in str(caught.value)


NOBODY_YET = (403, {"message": 'leases is forbidden: User "x" cannot get resource "leases" in API group "y"'})


@pytest.mark.parametrize("away", [(0, None), (503, {})])
@pytest.mark.parametrize("refusal", [NOBODY_YET, (401, {"message": "Unauthorized"})])
def test_a_server_that_has_just_come_back_refuses_for_a_while(
    server: Server, api: ClusterApi, away: Answer, refusal: Answer
) -> None:
    server.answers = [away, refusal, refusal, (200, {"metadata": {"name": "x"}})]
    assert api.unsettled_s() == 0
    assert api.get(LEASE, "x", "n") == {"metadata": {"name": "x"}}
    assert len(server.seen) == 4
    assert 0 < api.unsettled_s() <= SETTLED_S


def test_a_refusal_long_after_an_outage_is_final_and_one_that_stays_ends_as_well(
    server: Server, api: ClusterApi
) -> None:
    now = [0.0]
    api.monotonic = lambda: now[0]
    server.answers = [(503, {}), (200, {}), NOBODY_YET]
    api.get(LEASE, "x", "n")
    now[0] = COMING_BACK_S + 1
    with pytest.raises(Forbidden, match="the rights that are needed"):
        api.get(LEASE, "x", "n")
    assert len(server.seen) == 3


def test_a_right_that_stays_missing_after_an_outage_is_said(server: Server, api: ClusterApi) -> None:
    now = [0.0]

    def passing(seconds: float) -> None:
        now[0] += max(seconds, 1.0)

    api.monotonic, api.sleep = lambda: now[0], passing
    server.answers = [(503, {}), NOBODY_YET]
    with pytest.raises(Forbidden, match="the rights that are needed"):
        api.get(LEASE, "x", "n")
    assert COMING_BACK_S <= now[0] < COMING_BACK_S + 10


@pytest.fixture
def fresh(server: Server) -> Iterator[tuple[ClusterApi, list[float]]]:
    """Return a connection that has made no request yet, and its clock, which sleeping moves."""
    now = [0.0]

    def passing(seconds: float) -> None:
        now[0] += max(seconds, 1.0)

    configuration = k8s.Configuration(host=f"http://127.0.0.1:{server.server_port}")
    api = ClusterApi(k8s.ApiClient(configuration), monotonic=lambda: now[0], sleep=passing)
    yield api, now
    api.close()


@pytest.mark.parametrize("refusal", [NOBODY_YET, (401, {"message": "Unauthorized"})])
def test_a_process_that_knows_of_no_outage_asks_again_where_its_first_requests_are_refused(
    server: Server, fresh: tuple[ClusterApi, list[float]], refusal: Answer
) -> None:
    api, _ = fresh
    server.answers = [refusal, refusal, refusal, (200, {"metadata": {"name": "x"}})]
    assert api.get(LEASE, "x", "n") == {"metadata": {"name": "x"}}
    assert len(server.seen) == 4


def test_a_process_that_is_refused_from_its_first_request_on_says_so_soon(
    server: Server, fresh: tuple[ClusterApi, list[float]]
) -> None:
    api, now = fresh
    server.answers = [NOBODY_YET]
    with pytest.raises(Forbidden, match="the rights that are needed"):
        api.get(LEASE, "x", "n")
    assert FRESH_S <= now[0] < 2 * FRESH_S
    seen = len(server.seen)
    with pytest.raises(Forbidden, match="the rights that are needed"):
        api.get(LEASE, "x", "n")
    assert len(server.seen) == seen + 1


@pytest.mark.parametrize("let_in", [(200, {}), (404, {"message": "not found"})])
def test_whoever_was_let_in_once_takes_a_refusal_as_final(
    server: Server, fresh: tuple[ClusterApi, list[float]], let_in: Answer
) -> None:
    api, now = fresh
    server.answers = [let_in, NOBODY_YET]
    api.find(LEASE, "x", "n")
    with pytest.raises(Forbidden):
        api.get(LEASE, "x", "n")
    assert now[0] == 0


def test_throttling_is_no_outage(server: Server, api: ClusterApi) -> None:
    server.answers = [(429, {}), NOBODY_YET]
    with pytest.raises(Forbidden):
        api.get(LEASE, "x", "n")


def test_an_api_that_comes_back_is_waited_for_and_the_fence_is_asked_each_time(
    server: Server, api: ClusterApi
) -> None:
    server.answers = [(503, {}), (0, None), (429, {}), (200, {"metadata": {"name": "x"}})]
    asked: list[int] = []
    api.delete(POD, "x", "n", uid="u", before=lambda: asked.append(1))
    assert len(asked) == len(server.seen) == 4


def test_a_fence_that_is_lost_between_two_attempts_stops_the_second(server: Server, api: ClusterApi) -> None:
    server.answers = [(503, {})]

    class Lost(Exception):
        pass

    def once(asked: list[int] = []) -> None:  # noqa: B006 - counts its calls
        asked.append(1)
        if len(asked) > 1:
            raise Lost

    with pytest.raises(Lost):
        api.create(LEASE, {"metadata": {"name": "x"}}, "n", before=once)
    assert len(server.seen) == 1


def test_an_api_that_stays_away_is_one_sentence(server: Server, api: ClusterApi) -> None:
    server.answers = [(0, None)]
    # Nothing here sleeps, so that all of this time is spent on asking again.
    api._away_s = 0.1
    with pytest.raises(ApiUnreachable, match=r"no usable answer to GET /api/v1/pods for 0\.1 s \(last: "):
        api.select(POD)


def test_a_login_page_in_place_of_an_answer_is_one_sentence(server: Server, api: ClusterApi) -> None:
    server.answers = [(200, b"<html>\n<title>Sign in</title>")]
    api._away_s = 0.1
    words = r"no usable answer to PUT .* \(last: an answer that is not JSON: <html> <title>Sign in</title>\)"
    # Nobody knows whether a change took effect, so this must not be the error of one that was refused.
    with pytest.raises(ApiUnreachable, match=words):
        api.replace(LEASE, {"metadata": {"name": "x"}}, "n")


def test_times_are_those_of_the_api_server(server: Server, api: ClusterApi) -> None:
    assert api.now() == 1000.0
    api.find(LEASE, "x", "n")
    assert api.now() == pytest.approx(1795394431.5)


def test_a_log_that_looks_like_json_is_left_alone(server: Server, api: ClusterApi) -> None:
    server.answers = [(200, {"a": True})]
    assert api.logs("n", "p", "base") == '{"a": true}'


def test_a_kubeconfig_that_does_not_exist_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ApiProblem, match=r"kubeconfig .*absent cannot be used"):
        ClusterApi.from_kubeconfig(tmp_path / "absent")
