from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import kubernetes
import kubernetes_asyncio
import pytest
from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes_asyncio.stream import WsApiClient

from bigtcp_lab.listening import listen

from .api_cluster import ApiCluster, pod
from .helpers import eventually, running_command

pytestmark = pytest.mark.lab

Core = kubernetes.client.CoreV1Api


def phase(core: Core, name: str) -> str:
    return core.read_namespaced_pod(name, "default").status.phase


def log(core: Core, name: str, **options: Any) -> str:
    """Return a pod's log, undecoded by the client: it makes ``b'…'`` of text."""
    return core.read_namespaced_pod_log(name, "default", _preload_content=False, **options).read().decode()


def test_a_pod_lives_and_its_log_can_be_followed_and_cut(core: Core) -> None:
    core.create_namespaced_pod("default", pod("teller", "sh", "-c", "echo one; sleep 0.3; echo two; exit 3"))
    eventually(lambda: phase(core, "teller") == "Running")
    assert log(core, "teller", follow=True) == "one\ntwo\n"
    eventually(lambda: phase(core, "teller") == "Failed")
    state = core.read_namespaced_pod("teller", "default").status.container_statuses[0].state.terminated
    assert (state.exit_code, state.reason) == (3, "Error")
    assert log(core, "teller", tail_lines=1) == "two\n"
    assert log(core, "teller", container="base", timestamps=True).splitlines()[0].endswith("Z one")
    with pytest.raises(ApiException, match="the lab lost it"):
        core.read_namespaced_pod_log("teller", "default", tail_lines=999)
    with pytest.raises(ApiException, match="container other is not valid for pod teller"):
        core.read_namespaced_pod_log("teller", "default", container="other")
    core.delete_namespaced_pod("teller", "default")
    with pytest.raises(ApiException, match='pods \\\\"teller\\\\" not found'):
        core.read_namespaced_pod("teller", "default")


def test_a_watch_goes_on_from_a_list(core: Core) -> None:
    version = core.list_namespaced_pod("default").metadata.resource_version
    core.create_namespaced_pod("default", pod("watched", "true"))
    seen: list[str] = []
    watch = kubernetes.watch.Watch()
    selector = "metadata.name=watched"
    events = watch.stream(
        core.list_namespaced_pod,
        "default",
        resource_version=version,
        field_selector=selector,
        timeout_seconds=10,
        allow_watch_bookmarks=True,
    )
    for event in events:
        seen.append(f"{event['type']} {event['object'].status.phase}")
        if seen[-1] == "MODIFIED Succeeded":
            core.delete_namespaced_pod("watched", "default")
        if seen[-1].startswith("DELETED"):
            watch.stop()
    assert seen[0] == "ADDED Pending"
    assert [entry for entry in dict.fromkeys(seen) if entry != "MODIFIED Pending"] == [
        "ADDED Pending",
        "MODIFIED Running",
        "MODIFIED Succeeded",
        "DELETED Succeeded",
    ]


def test_a_watch_from_a_forgotten_version_is_gone_and_a_short_one_ends(
    core: Core, api_cluster: ApiCluster
) -> None:
    api_cluster.store._forgotten["", "configmaps"] = 10
    watch = kubernetes.watch.Watch()
    with pytest.raises(ApiException) as caught:
        list(watch.stream(core.list_namespaced_config_map, "default", resource_version="5", timeout_seconds=5))
    assert caught.value.status == 410
    api_cluster.store._forgotten["", "configmaps"] = 0
    start = time.monotonic()
    list(kubernetes.watch.Watch().stream(core.list_namespaced_secret, "default", timeout_seconds=1))
    assert 0.9 < time.monotonic() - start < 4.5


def test_a_collection_comes_in_pages_and_goes_by_selector(core: Core) -> None:
    for number in range(5):
        body = {"metadata": {"generateName": "page-", "labels": {"page": "yes", "odd": str(number % 2)}}}
        assert core.create_namespaced_config_map("default", body).metadata.name.startswith("page-")
    names, token = [], None
    while token != "":
        page = core.list_namespaced_config_map(
            "default", label_selector="page=yes", limit=2, _continue=token or ""
        )
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue or ""
    assert len(names) == len(set(names)) == 5
    core.delete_collection_namespaced_config_map("default", label_selector="page,odd!=0")
    assert len(core.list_namespaced_config_map("default", label_selector="page=yes").items) == 3


def test_a_json_patch_is_a_compare_and_set(core: Core) -> None:
    core.create_namespaced_config_map("default", {"metadata": {"name": "cas"}, "data": {"a": "1"}})

    def swap(old: str, new: str) -> Any:
        test = {"op": "test", "path": "/data/a", "value": old}
        return core.patch_namespaced_config_map(
            "cas", "default", [test, {"op": "replace", "path": "/data/a", "value": new}]
        )

    assert swap("1", "2").data == {"a": "2"}
    with pytest.raises(ApiException) as caught:
        swap("1", "3")
    assert caught.value.status == 422
    assert core.patch_namespaced_config_map("cas", "default", {"data": {"a": None, "b": "x"}}).data == {"b": "x"}


def test_exec_returns_both_streams_the_exit_code_and_takes_input(core: Core) -> None:
    core.create_namespaced_pod("default", pod("worker"))
    eventually(lambda: phase(core, "worker") == "Running")
    with running_command(core, "worker", "sh", "-c", "echo out; echo err >&2; exit 7") as session:
        session.run_forever(timeout=60)
        assert (session.read_stdout(), session.read_stderr(), session.returncode) == ("out\n", "err\n", 7)
    with running_command(core, "worker", "sh", "-c", "read line; echo got $line", stdin=True) as session:
        session.write_stdin("this\n")
        session.run_forever(timeout=60)
        assert (session.read_stdout(), session.returncode) == ("got this\n", 0)
    with running_command(core, "worker", "sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x") as session:
        session.run_forever(timeout=60)
        assert len(session.read_stdout()) == 1_000_000


def test_a_command_ends_when_its_client_goes(core: Core) -> None:
    core.create_namespaced_pod("default", pod("left"))
    eventually(lambda: phase(core, "left") == "Running")
    with running_command(core, "left", "sh", "-c", "echo $$; exec sleep 1000") as session:
        process = Path("/proc", session.readline_stdout(timeout=60))
        assert process.exists()
    eventually(lambda: not process.exists())


def test_the_dynamic_client_applies(api_cluster: ApiCluster) -> None:
    with api_cluster.client() as client:
        leases = DynamicClient(client).resources.get(api_version="coordination.k8s.io/v1", kind="Lease")
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": "applied", "namespace": "default"},
            "spec": {"holderIdentity": "one"},
        }
        for _ in range(2):
            applied = leases.server_side_apply(body=body, field_manager="bigtcp-bench", namespace="default")
        assert (applied.spec.holderIdentity, applied.metadata.managedFields[0].manager) == ("one", "bigtcp-bench")


def test_the_asyncio_client_lists_watches_and_runs_commands(core: Core, api_cluster: ApiCluster) -> None:
    core.create_namespaced_pod("default", pod("async"))
    eventually(lambda: phase(core, "async") == "Running")

    async def whole() -> tuple[int, list[str], str]:
        configuration = kubernetes_asyncio.client.Configuration()
        await kubernetes_asyncio.config.load_kube_config(
            str(api_cluster.kubeconfig), client_configuration=configuration
        )
        async with kubernetes_asyncio.client.ApiClient(configuration) as client:
            core_async = kubernetes_asyncio.client.CoreV1Api(client)
            nodes = await core_async.list_node()
            kinds: list[str] = []
            watch = kubernetes_asyncio.watch.Watch()
            async with watch.stream(core_async.list_namespaced_pod, "default", timeout_seconds=1) as events:
                async for event in events:
                    kinds.append(event["type"])
                    break
        async with WsApiClient(configuration) as sockets:
            output = await kubernetes_asyncio.client.CoreV1Api(sockets).connect_get_namespaced_pod_exec(
                "async", "default", command=["echo", "hello"], stdout=True, stderr=True, stdin=False, tty=False
            )
        return len(nodes.items), kinds, output

    assert asyncio.run(whole()) == (2, ["ADDED"], "hello\n")


def test_service_accounts_may_do_what_their_roles_say(core: Core, api_cluster: ApiCluster) -> None:
    rules = [
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["mine"], "verbs": ["get", "patch"]},
        {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]},
    ]
    subjects = [{"kind": "ServiceAccount", "name": "limited", "namespace": "default"}]
    role = {"kind": "Role", "name": "limited", "apiGroup": "rbac.authorization.k8s.io"}
    with api_cluster.client() as admin:
        rbac = kubernetes.client.RbacAuthorizationV1Api(admin)
        rbac.create_namespaced_role("default", {"metadata": {"name": "limited"}, "rules": rules})
        binding = {"metadata": {"name": "limited"}, "subjects": subjects, "roleRef": role}
        rbac.create_namespaced_role_binding("default", binding)
    core.create_namespaced_config_map("default", {"metadata": {"name": "mine"}})
    core.create_namespaced_service_account("default", {"metadata": {"name": "limited"}})
    token = core.create_namespaced_service_account_token("limited", "default", {"spec": {"audiences": []}})
    with api_cluster.client(token.status.token) as client:
        limited = Core(client)
        limited.patch_namespaced_config_map("mine", "default", {"data": {"a": "b"}})
        limited.list_namespaced_pod("default")
        forbidden = [
            lambda: limited.read_namespaced_config_map("other", "default"),
            lambda: limited.delete_namespaced_config_map("mine", "default"),
            lambda: limited.list_namespaced_pod("kube-system"),
            lambda: limited.create_namespaced_pod("default", pod("x")),
        ]
        for request in forbidden:
            with pytest.raises(ApiException, match=r"cannot (get|delete|list|create) resource"):
                request()


def test_answers_are_not_held_back_by_nagles_algorithm() -> None:
    with listen("127.0.0.1") as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_faults_are_seen_by_clients_and_end_when_switched_off(core: Core, api_cluster: ApiCluster) -> None:
    api_cluster.faults.on.add("api-errors")
    failures: set[Any] = set()
    try:
        for _ in range(400):
            try:
                core.list_namespaced_secret("default")
            except ApiException as error:
                failures.add(error.status)
            except Exception as error:  # whatever urllib3 makes of a cut connection
                failures.add(type(error).__name__)
            if {500, 503} <= failures:
                break
    finally:
        api_cluster.faults.on.clear()
    assert {500, 503} <= failures
    for _ in range(20):
        core.list_namespaced_secret("default")
