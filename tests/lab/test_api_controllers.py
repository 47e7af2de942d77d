from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import kubernetes
import pytest

from bigtcp_lab.api.discovery import CRONJOBS, DAEMONSETS, EVENTS, JOBS, NODES, PODS
from bigtcp_lab.api.patch import MERGE_PATCH
from bigtcp_lab.api.pods import set_condition
from bigtcp_lab.api.store import Store, now
from bigtcp_lab.controllers import garbage, run_controllers
from bigtcp_lab.controllers.cronjobs import last_due
from bigtcp_lab.network import LabNode
from bigtcp_lab.objects import cilium_objects, node_object, seed

from .api_cluster import ApiCluster, pod, recorded
from .helpers import eventually


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ApiCluster]:
    with ApiCluster(tmp_path, cilium=False) as running:
        yield running


def run(test: Callable[[Store], Awaitable[None]]) -> None:
    """Run ``test`` on a seeded store with controllers but without kubelets."""

    async def whole() -> None:
        store = Store()
        await seed(store)
        controllers = asyncio.create_task(run_controllers(store, "pem"))
        try:
            async with asyncio.timeout(10):
                await test(store)
        finally:
            controllers.cancel()
            with suppress(asyncio.CancelledError):
                await controllers

    asyncio.run(whole())


async def until(check: Callable[[], Awaitable[Any]]) -> Any:
    while not (result := await check()):
        await asyncio.sleep(0.01)
    return result


async def make_ready(store: Store, obj: dict[str, Any]) -> None:
    present = await store.get(PODS, obj["metadata"]["name"], obj["metadata"]["namespace"])
    present["status"]["phase"] = "Running"
    set_condition(present, "Ready", "True")
    await store.update(PODS, present, "status")


async def cilium_pods(store: Store, **fields: str) -> list[dict[str, Any]]:
    selector = ",".join(f"{key.replace('_', '.')}={value}" for key, value in fields.items())
    return await store.list(PODS, "kube-system", field_selector=selector)


def test_cilium_has_the_recorded_shape() -> None:
    def shape(ours: Any, theirs: Any, path: str = "") -> None:
        """Fail where ``ours`` has something that ``theirs`` has not."""
        if isinstance(ours, dict):
            assert ours.keys() <= theirs.keys(), path
            for key, value in ours.items():
                shape(value, theirs[key], f"{path}.{key}")
        elif isinstance(ours, list) and ours and isinstance(ours[0], dict) and "name" in ours[0]:
            by_name = {item["name"]: item for item in theirs}
            for item in ours:
                shape(item, by_name[item["name"]], f"{path}[{item['name']}]")
        elif not path.endswith("periodSeconds"):  # the lab's agent is asked more often whether it is ready
            assert ours == theirs, path

    objects = {obj["kind"]: obj for obj in cilium_objects()}
    crd, config, daemonset = (objects[k] for k in ("CustomResourceDefinition", "ConfigMap", "DaemonSet"))
    shape(config, recorded("configmap-cilium-config.json"))
    shape(daemonset, recorded("daemonset-cilium.json"))
    assert crd["spec"]["names"] == recorded("crd-ciliumnodeconfigs.json")["spec"]["names"]
    theirs = recorded("nodes.json")["items"][0]
    ours = node_object(LabNode(1))
    assert ours["spec"] == theirs["spec"]
    assert ours["status"]["addresses"] == theirs["status"]["addresses"]
    assert ours["status"].keys() <= theirs["status"].keys()


def test_a_pod_that_fits_nowhere_says_so_as_recorded_and_runs_once_a_node_fits() -> None:
    condition = recorded("pods/unschedulable.json")["status"]["conditions"][0]

    async def test(store: Store) -> None:
        await store.create(PODS, pod("picky", nodeSelector={"color": "red"}), "default")
        found = await until(lambda: store.list(PODS, "default", field_selector="status.phase=Pending"))
        found = await until(lambda: _condition(store))
        assert {**found, "lastTransitionTime": ""} == {**condition, "lastTransitionTime": ""}
        await store.patch(NODES, "node2", None, MERGE_PATCH, {"metadata": {"labels": {"color": "red"}}})
        await until(lambda: store.list(PODS, "default", field_selector="spec.nodeName=node2"))

    async def _condition(store: Store) -> Any:
        picky = await store.get(PODS, "picky", "default")
        return next(iter(picky["status"].get("conditions") or []), None)

    run(test)


def test_pods_keep_off_cordoned_tainted_and_dead_nodes() -> None:
    async def test(store: Store) -> None:
        await store.patch(NODES, "node1", None, MERGE_PATCH, {"spec": {"unschedulable": True}})
        await store.create(PODS, pod("one"), "default")
        await until(lambda: store.list(PODS, "default", field_selector="metadata.name=one,spec.nodeName=node2"))
        dead = await store.get(NODES, "node2")
        for condition in dead["status"]["conditions"]:
            if condition["type"] == "Ready":
                condition["status"] = "Unknown"
        await store.update(NODES, dead, "status")
        await until(lambda: _tainted(store))
        await store.create(PODS, pod("two"), "default")
        await store.patch(NODES, "node1", None, MERGE_PATCH, {"spec": {"unschedulable": None}})
        await until(lambda: store.list(PODS, "default", field_selector="metadata.name=two,spec.nodeName=node1"))

    async def _tainted(store: Store) -> bool:
        taints = (await store.get(NODES, "node2"))["spec"].get("taints") or []
        return {taint["effect"] for taint in taints} == {"NoSchedule", "NoExecute"}

    run(test)


def test_a_pod_goes_where_it_would_rather_be_but_also_elsewhere() -> None:
    term = {"matchExpressions": [{"key": "busy", "operator": "DoesNotExist"}]}
    kind = "preferredDuringSchedulingIgnoredDuringExecution"
    affinity = {"nodeAffinity": {kind: [{"weight": 100, "preference": term}]}}

    async def test(store: Store) -> None:
        # Rather not on the busy node; where all are busy, on the one with the fewest pods.
        for name, busy, chosen in (("one", "node1", "node2"), ("two", "node2", "node1")):
            await store.patch(NODES, busy, None, MERGE_PATCH, {"metadata": {"labels": {"busy": "yes"}}})
            await store.create(PODS, pod(name, affinity=affinity), "default")
            await until(partial(store.list, PODS, "default", None, f"metadata.name={name},spec.nodeName={chosen}"))

    run(test)


def test_a_daemonset_counts_replaces_and_rolls_its_pods_one_at_a_time() -> None:
    async def test(store: Store) -> None:
        first = await until(lambda: _scheduled(store, 2))
        assert {p["spec"]["nodeName"] for p in first} == {"node1", "node2"}
        assert first[0]["spec"]["priority"] == 2_000_001_000
        for obj in first:
            await make_ready(store, obj)
        await until(lambda: _ready(store, 2))
        await store.delete(PODS, first[0]["metadata"]["name"], "kube-system", grace_period_seconds=0)
        second = await until(lambda: _scheduled(store, 2))
        assert first[0]["metadata"]["uid"] not in {p["metadata"]["uid"] for p in second}
        for obj in second:
            await make_ready(store, obj)
        await until(lambda: _ready(store, 2))
        annotation = {"kubectl.kubernetes.io/restartedAt": "now"}
        strategy = {"rollingUpdate": {"maxUnavailable": 1}}
        change = {"spec": {"template": {"metadata": {"annotations": annotation}}, "updateStrategy": strategy}}
        await store.patch(DAEMONSETS, "cilium", "kube-system", MERGE_PATCH, change)
        for _ in range(2):
            going = await until(lambda: _marked(store))
            assert len(going) == 1, "never two at a time"
            await store.delete(PODS, going[0]["metadata"]["name"], "kube-system", grace_period_seconds=0)
            for obj in await until(lambda: _scheduled(store, 2)):
                await make_ready(store, obj)
        daemonset = await until(lambda: _ready(store, 2))
        status = daemonset["status"]
        assert status.keys() == recorded("daemonset-cilium.json")["status"].keys()
        assert (status["observedGeneration"], status["updatedNumberScheduled"]) == (2, 2)

    async def _scheduled(store: Store, number: int) -> list[dict[str, Any]]:
        pods = [p for p in await cilium_pods(store) if p["spec"].get("nodeName")]
        return pods if len(pods) == number else []

    async def _marked(store: Store) -> list[dict[str, Any]]:
        return [p for p in await cilium_pods(store) if "deletionTimestamp" in p["metadata"]]

    async def _ready(store: Store, number: int) -> dict[str, Any] | None:
        daemonset = await store.get(DAEMONSETS, "cilium", "kube-system")
        status = daemonset.get("status") or {}
        current = status.get("observedGeneration") == daemonset["metadata"]["generation"]
        return (
            daemonset if current and status["numberReady"] == status["updatedNumberScheduled"] == number else None
        )

    run(test)


def test_old_events_are_cleared_away() -> None:
    async def test(store: Store) -> None:
        for name, time in (("old", "2026-01-01T00:00:00Z"), ("new", now())):
            event = {"metadata": {"name": name}, "involvedObject": {}, "lastTimestamp": time}
            await store.create(EVENTS, event, "default")
        await garbage.reconcile(store)
        left = await store.list(EVENTS, "default", field_selector="involvedObject.name=")
        assert [event["metadata"]["name"] for event in left] == ["new"]

    run(test)


def job_template(*command: str) -> dict[str, Any]:
    return {"spec": {**pod("x", *command)["spec"]}}


@pytest.mark.lab
def test_jobs_end_complete_or_failed_and_their_pods_go_with_them(cluster: ApiCluster) -> None:
    with cluster.client() as client:
        batch, core = kubernetes.client.BatchV1Api(client), kubernetes.client.CoreV1Api(client)
        for name, command, limit in (("good", "true", 6), ("bad", "false", 1)):
            spec = {"backoffLimit": limit, "template": job_template(command)}
            batch.create_namespaced_job("default", {"metadata": {"name": name}, "spec": spec})

        def conditions(name: str) -> dict[str, str]:
            status = batch.read_namespaced_job_status(name, "default").status
            return {condition.type: condition.reason for condition in status.conditions or []}

        eventually(lambda: conditions("good").get("Complete") == "CompletionsReached")
        eventually(lambda: conditions("bad").get("Failed") == "BackoffLimitExceeded")
        assert batch.read_namespaced_job("bad", "default").status.failed == 2
        assert len(core.list_namespaced_pod("default", label_selector="job-name=bad").items) == 2
        batch.delete_namespaced_job("bad", "default", propagation_policy="Orphan")
        eventually(lambda: not _exists(lambda: batch.read_namespaced_job("bad", "default")))
        batch.delete_namespaced_job("good", "default", propagation_policy="Foreground")
        eventually(lambda: not _exists(lambda: batch.read_namespaced_job("good", "default")))
        left = core.list_namespaced_pod("default").items
        assert [item.metadata.labels["job-name"] for item in left] == ["bad", "bad"], "orphans stay"


def _exists(read: Callable[[], Any]) -> bool:
    try:
        read()
    except kubernetes.client.ApiException as error:
        return error.status != 404
    return True


@pytest.mark.lab
def test_a_namespace_has_an_account_and_goes_with_all_that_is_in_it(cluster: ApiCluster) -> None:
    with cluster.client() as client:
        core = kubernetes.client.CoreV1Api(client)
        core.create_namespace({"metadata": {"name": "short"}})
        eventually(lambda: core.list_namespaced_service_account("short").items)
        assert core.read_namespaced_config_map("kube-root-ca.crt", "short").data["ca.crt"] == cluster.ca_pem
        core.create_namespaced_pod("short", pod("inside"))
        eventually(lambda: core.read_namespaced_pod("inside", "short").status.phase == "Running")
        core.delete_namespace("short")
        eventually(lambda: not _exists(lambda: core.read_namespace("short")))
        assert not _exists(lambda: core.read_namespaced_pod("inside", "short"))


@pytest.mark.parametrize(
    ("schedule", "extra", "time", "due"),
    [
        ("*/5 * * * *", {}, "10:07:00", "10:05:00"),
        ("*/5 * * * *", {}, "10:05:00", "10:05:00"),
        ("*/5 * * * *", {}, "10:04:59", None),
        ("0 * * * *", {"startingDeadlineSeconds": 60}, "11:02:00", None),
        ("0 3 * * *", {"timeZone": "America/New_York"}, "11:00:00", None),
        ("0 6 * * *", {"timeZone": "America/New_York"}, "11:00:00", "11:00:00"),
    ],
)
def test_when_a_cronjob_is_due(schedule: str, extra: dict[str, Any], time: str, due: str | None) -> None:
    metadata = {"creationTimestamp": "2026-01-15T10:01:00Z"}
    found = last_due(
        {"metadata": metadata, "spec": {"schedule": schedule, **extra}},
        datetime.fromisoformat(f"2026-01-15T{time}Z"),
    )
    assert found == (due and datetime.fromisoformat(f"2026-01-15T{due}Z").astimezone(UTC))


def test_a_cronjob_starts_one_job_at_a_time_and_forgets_old_ones() -> None:
    async def test(store: Store) -> None:
        spec = {
            "schedule": "* * * * *",
            "concurrencyPolicy": "Forbid",
            "suspend": True,
            "successfulJobsHistoryLimit": 1,
            "jobTemplate": {"spec": {"template": job_template("true")}},
        }
        await store.create(CRONJOBS, {"metadata": {"name": "guard"}, "spec": spec}, "default")
        await _due(store)
        await asyncio.sleep(0.05)
        assert await store.list(JOBS) == [], "suspended"
        await store.patch(CRONJOBS, "guard", "default", MERGE_PATCH, {"spec": {"suspend": False}})
        (job,) = await until(lambda: store.list(JOBS))
        assert job["metadata"]["name"].startswith("guard-")
        await _due(store)
        await asyncio.sleep(0.05)
        assert len(await store.list(JOBS)) == 1, "the first one has not ended"

    async def _due(store: Store) -> None:
        """Pretend that the last job was started long ago."""
        cronjob = await store.get(CRONJOBS, "guard", "default")
        cronjob["status"] = {**(cronjob.get("status") or {}), "lastScheduleTime": "2026-01-01T00:00:00Z"}
        await store.update(CRONJOBS, cronjob, "status")

    run(test)
