from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from typing import Any

import kubernetes
import pytest

from .api_cluster import RECORDED, ApiCluster, pod, recorded
from .helpers import eventually

pytestmark = pytest.mark.lab

ERRORS = sorted(path.stem for path in (RECORDED / "errors").glob("*.json"))


@pytest.fixture(scope="module", autouse=True)
def objects(api_cluster: ApiCluster, core: kubernetes.client.CoreV1Api) -> None:
    """What was in the cluster when the answers were recorded."""
    api_cluster.create(pod("failed"))
    api_cluster.create(pod("imgpull", image="example.invalid/none:1", nodeName="node1"))
    eventually(lambda: core.read_namespaced_pod("imgpull", "default").status.container_statuses)


def ask(cluster: ApiCluster, method: str, path: str, body: Any, content_type: str, token: str) -> tuple[int, Any]:
    request = urllib.request.Request(f"{cluster.url}{path}", method=method)
    request.add_header("Authorization", f"Bearer {token}")
    request.add_header("Content-Type", content_type)
    request.data = None if body is None else json.dumps(body).encode()
    trust = ssl.create_default_context(cadata=cluster.ca_pem)
    try:
        with urllib.request.urlopen(request, context=trust) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def replay(cluster: ApiCluster, name: str) -> tuple[tuple[int, Any], tuple[int, Any]]:
    """Return (status, body) of the recorded answer and of ours to the same request."""
    told = recorded(f"errors/{name}.json")
    request, body = told["request"], told["request"]["body"]
    if isinstance(body, dict):
        body.get("metadata", {}).pop("uid", None)  # that object's life was another one
    token = cluster.tokens.admin
    if name == "forbidden":
        token = cluster.tokens.service_account("default", "nobody")
    ours = ask(cluster, request["method"], request["path"], body, request["content_type"], token)
    return (told["status"], told["response"]), ours


@pytest.mark.parametrize("name", [name for name in ERRORS if not name.startswith(("lease", "unknown"))])
def test_an_error_is_answered_as_recorded(api_cluster: ApiCluster, name: str) -> None:
    theirs, ours = replay(api_cluster, name)
    assert ours == theirs


def test_a_lease_lives_as_recorded(api_cluster: ApiCluster) -> None:
    _, created = replay(api_cluster, "lease-created")
    theirs, ours = replay(api_cluster, "lease-created")
    assert ours[0] == 409, "the second creation must find the first"
    (status, lease), (their_status, their_lease) = created, theirs
    assert (status, lease["spec"]) == (their_status, their_lease["spec"])
    assert lease.keys() == their_lease.keys()
    assert lease["metadata"].keys() == their_lease["metadata"].keys() - {"managedFields"}

    theirs, ours = replay(api_cluster, "lease-already-exists")
    assert ours == theirs

    (code, conflict), (our_code, our_conflict) = replay(api_cluster, "lease-delete-precondition")
    version = lease["metadata"]["resourceVersion"]
    conflict["message"] = conflict["message"].replace("(5202)", f"({version})")
    assert (our_code, our_conflict) == (code, conflict)

    (code, deleted), (our_code, our_deleted) = replay(api_cluster, "lease-deleted")
    deleted["details"]["uid"] = lease["metadata"]["uid"]
    assert (our_code, our_deleted) == (code, deleted)


def test_an_empty_list_of_the_old_version_is_no_error(api_cluster: ApiCluster) -> None:
    theirs, ours = replay(api_cluster, "unknown-resource")
    assert (ours[0], ours[1]["kind"], ours[1]["items"]) == (theirs[0], theirs[1]["kind"], theirs[1]["items"])


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("GET", "/apis/apps/v1/deployments", None, 404),
        ("GET", "/api/v1/namespaces/default/pods?labelSelector=a=b=c", None, 400),
        ("GET", "/api/v1/namespaces/default/pods?fieldSelector=spec.color=red", None, 400),
        ("POST", "/api/v1/namespaces/absent/configmaps", {"metadata": {"name": "x"}}, 404),
        ("POST", "/api/v1/namespaces/default/configmaps", {"metadata": {"name": "x"}, "data": {"a": True}}, 400),
        ("POST", "/api/v1/namespaces/default/configmaps", {"kind": "Pod", "apiVersion": "v1"}, 400),
        ("PUT", "/api/v1/namespaces/default/configmaps/absent", {"metadata": {"name": "absent"}}, 404),
        ("DELETE", "/api/v1/pods", None, 405),
    ],
)
def test_a_wrong_request_gets_a_status_with_its_code(
    api_cluster: ApiCluster, method: str, path: str, body: Any, code: int
) -> None:
    got, status = ask(api_cluster, method, path, body, "application/json", api_cluster.tokens.admin)
    assert (got, status["kind"], status["code"]) == (code, "Status", code)


def test_nobody_comes_in_without_a_token(api_cluster: ApiCluster) -> None:
    code, status = ask(api_cluster, "GET", "/api/v1/pods", None, "application/json", "wrong")
    assert (code, status["reason"]) == (401, "Unauthorized")


def test_version_and_groups_are_the_recorded_ones(api_cluster: ApiCluster) -> None:
    token = api_cluster.tokens.admin
    for path, name in (("/version", "version.json"), ("/apis/cilium.io", "apis-cilium.json")):
        assert ask(api_cluster, "GET", path, None, "application/json", token) == (200, recorded(name))
