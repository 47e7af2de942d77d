"""The admission policy lets every pod of this package pass, and refuses what it says it refuses.

Its expressions are type-checked and evaluated by Google's own CEL in C++ (cel-expr-python), which the conformance
tests of the language hold to the same results as the CEL in Go of the API server.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from cel_expr_python import cel

from bigtcp_bench.cluster import guardian_objects, pods
from bigtcp_bench.cluster.nodes import choose_pair
from bigtcp_bench.cluster.services import build_service
from bigtcp_bench.measuring import dry_run
from bigtcp_bench.planning.plan import load_plan
from bigtcp_bench.resources import load_manifests
from tests.cluster.simulated import Cluster

POLICY, _, SERVICES, _ = load_manifests("admission-policy.yaml")
ENV = cel.NewEnv(variables={"object": cel.Type.DYN, "request": cel.Type.DYN, "variables": cel.Type.DYN})
VARIABLES = {one["name"]: ENV.compile(one["expression"]) for one in POLICY["spec"]["variables"]}
VALIDATIONS, OF_SERVICES = (
    [(one["message"], ENV.compile(one["expression"])) for one in policy["spec"]["validations"]]
    for policy in (POLICY, SERVICES)
)

WORKER = "system:serviceaccount:bigtcp-bench:bigtcp-bench"
JOBS = "system:serviceaccount:kube-system:job-controller"

Pod = dict[str, Any]


def refusals(pod: Pod, user: str = WORKER, operation: str = "CREATE") -> list[str]:
    """Return the messages with which the API server would refuse ``pod``; an error refuses too (failurePolicy)."""
    known: dict[str, Any] = {
        "object": pod,
        "request": {"operation": operation, "userInfo": {"username": user}},
        "variables": {},
    }
    for name, expression in VARIABLES.items():
        value = expression.eval(data=known)
        assert value.type() != cel.Type.ERROR, f"{name}: {value.value()}"
        known["variables"] = {**known["variables"], name: value.plain_value()}
    return [message for message, expression in VALIDATIONS if expression.eval(data=known).value() is not True]


def completed(pod: Mapping[str, Any]) -> Pod:
    """Return ``pod`` as the API server's own admission leaves it before it asks policies."""
    done = copy.deepcopy(dict(pod))
    spec = done["spec"]
    spec.setdefault("serviceAccountName", "default")
    spec["serviceAccount"] = spec["serviceAccountName"]
    away = {"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
    spec["tolerations"] = [
        *spec.get("tolerations", []),
        *({"key": f"node.kubernetes.io/{why}", **away} for why in ("not-ready", "unreachable")),
    ]
    if spec.get("automountServiceAccountToken", True):
        sources = [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt"}},
            {"downwardAPI": {"items": []}},
        ]
        spec["volumes"] = [
            *spec.get("volumes", []),
            {"name": "kube-api-access", "projected": {"sources": sources}},
        ]
    return done


@functools.cache
def own_pods() -> dict[str, Pod]:
    """Return every kind of pod that a run creates, by name."""
    api, plan = Cluster().client(), load_plan("nightly", {"image_pull_secrets": ["pull"]})
    pair = choose_pair(api, plan)
    told = dry_run.outline(api, plan, pair, "a/b")
    found = {
        f"{number} {body['metadata'].get('generateName')}": body
        for number, act in enumerate(told.acts)
        for body in act.manifests
        if body["kind"] == "Pod"
    }
    job = guardian_objects.cronjob("x/y:1", 0, pair)["spec"]["jobTemplate"]["spec"]["template"]
    return {
        **found,
        "guardian": {"metadata": {"namespace": "bigtcp-bench", **job["metadata"]}, "spec": job["spec"]},
    }


def own(kind: str) -> Pod:
    """Return a copy of the first pod of this kind, to be changed."""
    pods = own_pods().values()
    return copy.deepcopy(next(pod for pod in pods if kind in pod["metadata"].get("generateName", "")))


def test_the_kinds_of_pods_are_all_there() -> None:
    names = " ".join(own_pods())
    for kind in ("probe", "server", "client", "capture", "control", "guardian"):
        assert kind in names, names


def test_every_pod_of_this_package_passes() -> None:
    for name, pod in own_pods().items():
        assert refusals(completed(pod), JOBS if name == "guardian" else WORKER) == [], name
        bound = completed(pod)
        bound["spec"]["nodeName"] = "node1"
        assert refusals(bound, operation="UPDATE") == [], f"whoever marks {name} that runs"


def spoilt(**changes: Any) -> Callable[[Pod], None]:
    return lambda pod: pod["spec"].update(copy.deepcopy(changes))


def context(**changes: Any) -> Callable[[Pod], None]:
    return lambda pod: pod["spec"]["containers"][0]["securityContext"].update(copy.deepcopy(changes))


def of_pod(**changes: Any) -> Callable[[Pod], None]:
    return lambda pod: pod["spec"]["securityContext"].update(copy.deepcopy(changes))


def another(kind: str) -> Callable[[Pod], None]:
    return lambda pod: pod["spec"].update(
        {kind: [{"name": "b", "image": "x", "securityContext": {"privileged": True}}]}
    )


SECRET = {"secretKeyRef": {"name": "pull", "key": "k"}}
HOST_PROCESS = {"windowsOptions": {"hostProcess": True}}
APPARMOR = {"container.apparmor.security.beta.kubernetes.io/base": "unconfined"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (spoilt(hostPID=True), "hostPID"),
        (spoilt(hostIPC=True), "hostPID and hostIPC"),
        (of_pod(**HOST_PROCESS), "hostProcess"),
        (context(**HOST_PROCESS), "hostProcess"),
        (spoilt(serviceAccountName="bigtcp-bench"), "service accounts"),
        (spoilt(serviceAccountName="bigtcp-bench-guardian"), "service accounts"),
        (spoilt(volumes=[{"name": "h", "hostPath": {"path": "/"}}]), "volumes"),
        (spoilt(volumes=[{"name": "s", "secret": {"secretName": "pull"}}]), "volumes"),
        (spoilt(volumes=[{"name": "p", "projected": {"sources": [{"secret": {"name": "pull"}}]}}]), "volumes"),
        (lambda pod: pod["spec"]["containers"][0].update(env=[{"name": "A", "valueFrom": SECRET}]), "no secret"),
        (lambda pod: pod["spec"]["containers"][0].update(envFrom=[{"secretRef": {"name": "pull"}}]), "no secret"),
        (context(privileged=True), "privileged"),
        (context(allowPrivilegeEscalation=True), "privileged"),
        (lambda pod: pod["spec"]["containers"][0].pop("securityContext"), "capabilities"),
        (another("initContainers"), "privileged"),
        (another("ephemeralContainers"), "privileged"),
        (context(capabilities={"drop": ["ALL"], "add": ["NET_ADMIN"]}), "capabilities"),
        (context(capabilities={"add": ["NET_RAW"]}), "capabilities"),
        (context(capabilities={}), "capabilities"),
        (of_pod(seccompProfile={"type": "Unconfined"}), "seccompProfile"),
        (context(seccompProfile={"type": "Unconfined"}), "seccompProfile"),
        (lambda pod: pod["spec"]["securityContext"].pop("seccompProfile"), "seccompProfile"),
        (context(procMount="Unmasked"), "procMount"),
        (of_pod(sysctls=[{"name": "kernel.shm_rmid_forced", "value": "0"}]), "sysctls"),
        (context(seLinuxOptions={"type": "spc_t"}), "SELinux"),
        (context(appArmorProfile={"type": "Unconfined"}), "AppArmor"),
        (lambda pod: pod["metadata"].update(annotations=APPARMOR), "AppArmor"),
        (spoilt(nodeName="control-plane"), "nodeName"),
        (spoilt(tolerations=[{"operator": "Exists"}]), "toleration"),
        (spoilt(tolerations=[{"operator": "Exists", "effect": "NoExecute"}]), "toleration"),
        (
            spoilt(tolerations=[{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}]),
            "toleration",
        ),
        (spoilt(priorityClassName="system-node-critical"), "priority class"),
    ],
)
def test_a_spoilt_pod_is_refused_for_what_is_wrong_with_it(change: Callable[[Pod], None], words: str) -> None:
    pod = own("client")
    change(pod)
    said = refusals(completed(pod))
    assert any(words in one for one in said), said


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (context(capabilities={"drop": ["ALL"], "add": ["NET_RAW"]}), "not with hostNetwork"),
        (of_pod(runAsNonRoot=False, runAsUser=0), "other than root"),
        (context(runAsNonRoot=False, runAsUser=0), "other than root"),
    ],
)
def test_a_pod_in_the_nodes_network_may_less(change: Callable[[Pod], None], words: str) -> None:
    pod = own("probe")
    change(pod)
    (said,) = refusals(completed(pod))
    assert words in said
    pod["spec"]["hostNetwork"] = False
    assert refusals(completed(pod)) == []


def test_only_a_job_of_the_cluster_has_the_guardians_account() -> None:
    guardian = completed(own_pods()["guardian"])
    for user in (WORKER, "system:serviceaccount:bigtcp-bench:bigtcp-bench-guardian", "admin"):
        (said,) = refusals(guardian, user)
        assert "service accounts" in said


def test_a_pod_with_next_to_nothing_is_refused_and_no_error() -> None:
    containers: tuple[list[Pod], ...] = ([{}], [])
    for one in containers:
        said = refusals({"metadata": {}, "spec": {"containers": one}})
        assert any("seccompProfile" in one for one in said), said


def test_a_type_that_is_wrong_refuses_too() -> None:
    pod = own("client")
    pod["spec"]["hostPID"] = "no"
    assert any("hostPID" in one for one in refusals(pod))


def test_this_cel_is_strict_as_the_servers_is() -> None:
    """What another implementation lets pass: unknown names, words of Python, numbers as text."""
    for wrong in ("object.spec.all(x, y)", "object and true", "'1' == 1", "object.spec.hostPID.size("):
        with pytest.raises(Exception, match="ERROR"):
            ENV.compile(wrong)
    missing = ENV.compile("object.spec.nothing").eval(data={"object": {"spec": {}}})
    assert missing.type() == cel.Type.ERROR


def test_the_policy_is_asked_of_every_way_in() -> None:
    assert all(pod["metadata"]["namespace"] == pods.BENCH_NAMESPACE for pod in own_pods().values())
    (rule,) = POLICY["spec"]["matchConstraints"]["resourceRules"]
    assert (rule["operations"], rule["resources"]) == (["CREATE", "UPDATE"], ["pods", "pods/ephemeralcontainers"])
    assert POLICY["spec"]["failurePolicy"] == "Fail"


def service(meta: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    made = build_service({"metadata": {**own("client")["metadata"], "name": "bigtcp-server-x", "uid": "u"}})
    return {**made, "metadata": {**made["metadata"], **(meta or {})}, "spec": {**made["spec"], **changes}}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, None),
        ({"externalIPs": []}, None),
        ({"meta": {"annotations": {"example.com/seen": "1"}}}, None),
        ({"meta": {"name": "another"}}, "the only Service in this namespace is bigtcp-bench"),
        ({"meta": {"annotations": {"service.cilium.io/global": "true"}}}, "by annotations"),
        ({"meta": {"annotations": {"io.cilium/global-service": "true"}}}, "by annotations"),
        ({"type": "NodePort"}, "of type ClusterIP"),
        ({"type": "LoadBalancer"}, "of type ClusterIP"),
        ({"type": "ExternalName", "externalName": "db.example"}, "of type ClusterIP"),
        ({"externalIPs": ["203.0.113.7"]}, "externalIPs"),
        ({"selector": {}}, "must select pods of the benchmark"),
        ({"selector": {"app": "database"}}, "must select pods of the benchmark"),
        ({"selector": {"app.kubernetes.io/name": "bigtcp-bench"}}, "must select pods of the benchmark"),
    ],
)
def test_the_service_of_this_package_passes_and_one_that_reaches_further_does_not(
    changes: dict[str, Any], word: str | None
) -> None:
    known = {"object": service(**changes), "request": {"operation": "CREATE"}, "variables": {}}
    said = [message for message, expression in OF_SERVICES if expression.eval(data=known).value() is not True]
    assert (word is None) == (said == [])
    assert all(word is not None and word in one for one in said)
    (rule,) = SERVICES["spec"]["matchConstraints"]["resourceRules"]
    assert (rule["operations"], rule["resources"]) == (["CREATE", "UPDATE"], ["services"])
    assert SERVICES["spec"]["failurePolicy"] == "Fail"
