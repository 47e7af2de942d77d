from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kubernetes
import pytest

from .api_cluster import ApiCluster, pod
from .helpers import eventually
from .kubectl import SPDY_ONLY, SPDY_REFUSED, Kubectl

pytestmark = pytest.mark.lab


def apply(kubectl: Kubectl, obj: dict[str, Any], *options: str) -> str:
    return kubectl("apply", "-f", "-", *options, stdin=json.dumps(obj)).strip()


def test_apply_creates_changes_and_leaves_alone(kubectl: Kubectl) -> None:
    settings = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "settings"},
        "data": {"a": "1", "b": "2"},
    }
    assert apply(kubectl, settings, "--dry-run=server") == "configmap/settings created (server dry run)"
    assert apply(kubectl, settings) == "configmap/settings created"
    assert apply(kubectl, settings) == "configmap/settings unchanged"
    assert apply(kubectl, {**settings, "data": {"a": "1"}}) == "configmap/settings configured"
    assert json.loads(kubectl("get", "configmap", "settings", "-o", "json"))["data"] == {"a": "1"}
    manager = ("--server-side", "--field-manager=other", "--force-conflicts")
    assert apply(kubectl, {**settings, "data": {"c": "3"}}, *manager) == "configmap/settings serverside-applied"
    diff = kubectl("diff", "-f", "-", stdin=json.dumps({**settings, "data": {"a": "9"}}), exit_code=1)
    assert '+  a: "9"' in diff
    kubectl("delete", "configmap", "settings")


def test_a_custom_resource_and_a_daemonset_are_applied_and_patched(kubectl: Kubectl) -> None:
    spec = {"defaults": {"enable-ipv4-big-tcp": "true"}, "nodeSelector": {"matchLabels": {"bigtcp-bench": "true"}}}
    metadata = {"name": "zz", "namespace": "kube-system"}
    config = {"apiVersion": "cilium.io/v2", "kind": "CiliumNodeConfig", "metadata": metadata, "spec": spec}
    assert apply(kubectl, config) == "ciliumnodeconfig.cilium.io/zz created"
    spec["defaults"] = {"enable-ipv6-big-tcp": "true"}
    assert apply(kubectl, config) == "ciliumnodeconfig.cilium.io/zz configured"
    assert "zz" in kubectl("get", "ciliumnodeconfigs.v2alpha1.cilium.io", "-A")
    kubectl("delete", "ciliumnodeconfig", "zz", "-n", "kube-system")
    test = '[{"op": "test", "path": "/metadata/name", "value": "other"}]'
    refused = kubectl("patch", "ds", "cilium", "-n", "kube-system", "--type=json", "-p", test, exit_code=1)
    assert "The request is invalid" in refused


def test_tables_tell_what_people_look_for(kubectl: Kubectl) -> None:
    header, node1, _ = kubectl("get", "nodes").splitlines()
    assert header.split() == ["NAME", "STATUS", "ROLES", "AGE", "VERSION"]
    assert node1.split()[:2] == ["node1", "Ready"]
    kubectl("cordon", "node1")
    assert "Ready,SchedulingDisabled" in kubectl("get", "nodes", "node1")
    kubectl("uncordon", "node1")
    kubectl("label", "node", "node1", "bigtcp-bench=true")
    assert kubectl("get", "nodes", "-l", "bigtcp-bench", "-o", "name") == "node/node1\n"
    eventually(lambda: "1/1     Running" in kubectl("get", "pods", "-A", "-o", "wide"))
    assert kubectl("get", "daemonsets", "-A").splitlines()[0].split()[:5] == [
        "NAMESPACE",
        "NAME",
        "DESIRED",
        "CURRENT",
        "READY",
    ]
    for kind in ("cm", "ns", "sa", "events", "leases", "jobs", "cronjobs", "crd", "roles", "all"):
        kubectl("get", kind, "-A")


def test_a_pod_is_waited_for_described_read_and_entered(kubectl: Kubectl, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    script = f"echo one; until [ -e {go_on} ]; do sleep 0.05; done; echo two"
    assert apply(kubectl, pod("visitor", "sh", "-c", script)) == "pod/visitor created"
    kubectl("wait", "--for=condition=Ready", "pod/visitor", "--timeout=60s")
    described = kubectl("describe", "pod", "visitor")
    assert "Successfully assigned default/visitor to node" in described
    kubectl("describe", "node", "node1")
    assert SPDY_REFUSED in kubectl("exec", "visitor", "--", "true", exit_code=1, environment=SPDY_ONLY)
    if kubectl.has_websockets:
        assert kubectl("exec", "visitor", "--", "echo", "inside") == "inside\n"
        assert kubectl("exec", "-i", "visitor", "--", "cat", stdin="through\n") == "through\n"
        failed = kubectl("exec", "visitor", "--", "sh", "-c", "exit 5", exit_code=5)
        assert "command terminated with exit code 5" in failed
    following = kubectl.popen("logs", "-f", "visitor")
    assert following.stdout is not None
    assert following.stdout.readline() == "one\n"
    go_on.touch()
    assert following.communicate(timeout=60)[0] == "two\n"
    assert kubectl("logs", "visitor", "--tail=1") == "two\n"
    eventually(lambda: kubectl("get", "pod", "visitor", "-o", "jsonpath={.status.phase}") == "Succeeded")
    refused = kubectl("exec", "visitor", "--", "true", exit_code=1)
    assert "cannot exec into a container in a completed pod; current phase is Succeeded" in refused
    assert kubectl("delete", "pod", "visitor") == 'pod "visitor" deleted\n'
    assert 'pods "visitor" not found' in kubectl("exec", "visitor", "--", "true", exit_code=1)


def test_deleting_waits_for_the_pod_to_be_gone(
    kubectl: Kubectl, core: kubernetes.client.CoreV1Api, api_cluster: ApiCluster
) -> None:
    apply(kubectl, pod("sleeper"))
    kubectl("wait", "--for=condition=Ready", "pod/sleeper", "--timeout=60s")
    asked = len(api_cluster.calls)
    watching = kubectl.popen("wait", "--for=delete", "pod/sleeper", "--timeout=60s")
    eventually(lambda: any("watch=true" in call for call in api_cluster.calls[asked:]))
    kubectl("delete", "pod", "sleeper")
    assert "sleeper" not in [item.metadata.name for item in core.list_namespaced_pod("default").items]
    watching.communicate(timeout=60)
    assert watching.returncode == 0


def test_restarting_a_daemonset_replaces_its_pods(kubectl: Kubectl) -> None:
    def uids() -> set[str]:
        return set(kubectl("get", "pods", "-n", "kube-system", "-o", "jsonpath={.items[*].metadata.uid}").split())

    kubectl("rollout", "status", "ds/cilium", "-n", "kube-system", "--timeout=60s")
    before = uids()
    kubectl("rollout", "restart", "ds/cilium", "-n", "kube-system")
    assert "successfully rolled out" in kubectl(
        "rollout", "status", "ds/cilium", "-n", "kube-system", "--timeout=60s"
    )
    after = uids()
    assert len(before) == len(after) == 2
    assert not before & after


def test_a_job_is_made_from_a_cronjob_and_keeps_all_of_it(kubectl: Kubectl) -> None:
    container = {
        "name": "main",
        "image": "busybox:1",
        "command": ["sh", "-c", "echo guarded"],
        "env": [
            {"name": "A", "value": "guarded"},
            {"name": "N", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nodeName"}}},
            {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}},
        ],
        "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "10m"}},
        "volumeMounts": [{"name": "script", "mountPath": "/script", "readOnly": True}],
        "securityContext": {"runAsUser": 0, "capabilities": {"drop": ["ALL"]}, "privileged": False},
    }
    pod_spec = {
        "restartPolicy": "Never",
        "hostNetwork": True,
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0}],
        "securityContext": {"runAsNonRoot": False, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [
            {"name": "script", "configMap": {"name": "cm", "items": [{"key": "a", "path": "b", "mode": 420}]}},
            {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ],
    }
    job_spec = {"backoffLimit": 0, "activeDeadlineSeconds": 60, "template": {"spec": pod_spec}}
    cronjob = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": "guardian"},
        "spec": {"schedule": "*/2 * * * *", "suspend": True, "jobTemplate": {"spec": job_spec}},
    }
    assert apply(kubectl, cronjob) == "cronjob.batch/guardian created"
    if kubectl.minor >= 21:
        assert kubectl("create", "job", "now", "--from=cronjob/guardian") == "job.batch/now created\n"
    else:  # it knows CronJobs of v1beta1 only
        refused = kubectl("create", "job", "now", "--from=cronjob/guardian", exit_code=1)
        assert 'no kind "CronJob" is registered for version "batch/v1"' in refused
        stored = json.loads(kubectl("get", "cronjob", "guardian", "-o", "json"))
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "now"}}
        assert apply(kubectl, {**job, **stored["spec"]["jobTemplate"]}) == "job.batch/now created"
    kubectl("wait", "--for=condition=Complete", "job/now", "--timeout=60s")
    assert kubectl("logs", "job/now") == "guarded\n"

    def missing(wanted: Any, found: Any, path: str) -> list[str]:
        if isinstance(wanted, dict) and isinstance(found, dict):
            return [
                line for key, value in wanted.items() for line in missing(value, found.get(key), f"{path}.{key}")
            ]
        if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
            pairs = enumerate(zip(wanted, found, strict=True))
            return [line for number, pair in pairs for line in missing(*pair, f"{path}[{number}]")]
        return [] if wanted == found else [f"{path}: {wanted!r} became {found!r}"]

    job = json.loads(kubectl("get", "job", "now", "-o", "json"))
    assert missing(job_spec, job["spec"], "spec") == []
    kubectl("delete", "cronjob", "guardian")
    if kubectl.minor < 21:  # made by hand, it is nobody's
        kubectl("delete", "job", "now")
    eventually(lambda: not kubectl("get", "jobs", "-o", "name"))


def test_objects_are_created_by_their_own_commands(kubectl: Kubectl) -> None:
    kubectl("create", "namespace", "made")
    kubectl("create", "configmap", "made", "-n", "made", "--from-literal=a=b")
    kubectl("create", "secret", "generic", "made", "-n", "made", "--from-literal=a=b")
    assert kubectl("get", "secret", "made", "-n", "made", "-o", "jsonpath={.data.a}") == "Yg=="
    kubectl("create", "serviceaccount", "made", "-n", "made")
    kubectl("create", "role", "made", "-n", "made", "--verb=get", "--resource=pods")
    kubectl("create", "rolebinding", "made", "-n", "made", "--role=made", "--serviceaccount=made:made")
    if kubectl.minor >= 24:
        token = kubectl("create", "token", "made", "-n", "made").strip()
    else:
        path = "/api/v1/namespaces/made/serviceaccounts/made/token"
        token = json.loads(kubectl("create", "--raw", path, "-f", "-", stdin="{}"))["status"]["token"]
    assert kubectl("--token", token, "auth", "can-i", "get", "pods", "-n", "made") == "yes\n"
    assert kubectl("--token", token, "auth", "can-i", "delete", "pods", "-n", "made", exit_code=1) == "no\n"
    unknown = kubectl("create", "quota", "made", "-n", "made", exit_code=1)
    assert "the server could not find the requested resource" in unknown
    kubectl("delete", "namespace", "made")


def test_what_is_refused_is_said_in_the_words_of_kubernetes(kubectl: Kubectl, api_cluster: ApiCluster) -> None:
    broken = pod("Bad_Name")
    broken["spec"]["containers"] = []
    refused = kubectl("apply", "-f", "-", stdin=json.dumps(broken), exit_code=1)
    assert 'The Pod "Bad_Name" is invalid:' in refused
    assert 'pods "absent" not found' in kubectl("get", "pod", "absent", exit_code=1)


@pytest.mark.parametrize("arguments", [("api-resources",), ("api-versions",), ("version",), ("cluster-info",)])
def test_discovery_satisfies_kubectl(kubectl: Kubectl, arguments: tuple[str, ...]) -> None:
    kubectl(*arguments)
