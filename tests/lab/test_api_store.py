from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtcp_lab.api import store as store_module
from bigtcp_lab.api.discovery import (
    CILIUMNODECONFIGS,
    CILIUMNODECONFIGS_ALPHA,
    CONFIGMAPS,
    DAEMONSETS,
    NAMESPACES,
    PODS,
)
from bigtcp_lab.api.patch import JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH, merge_patch, strategic_merge
from bigtcp_lab.api.selectors import label_matcher
from bigtcp_lab.api.store import ApiError, Store

from .api_cluster import pod, recorded


def run(test: Callable[[Store], Awaitable[None]]) -> None:
    """Run ``test`` on a store with the namespace ``default``."""

    async def whole() -> None:
        store = Store()
        await store.create(NAMESPACES, {"metadata": {"name": "default"}})
        await test(store)

    asyncio.run(whole())


def config_map(name: str = "c", **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default"}, "data": data}


def test_what_comes_out_is_a_copy() -> None:
    async def test(store: Store) -> None:
        created = await store.create(CONFIGMAPS, config_map(a="1"))
        created["data"]["a"] = "2"
        assert (await store.get(CONFIGMAPS, "c", "default"))["data"] == {"a": "1"}

    run(test)


def test_a_stale_write_is_refused_and_a_write_that_changes_nothing_makes_no_version() -> None:
    async def test(store: Store) -> None:
        first = await store.create(CONFIGMAPS, config_map(a="1"))
        second = await store.update(CONFIGMAPS, {**first, "data": {"a": "2"}})
        with pytest.raises(ApiError, match="the object has been modified"):
            await store.update(CONFIGMAPS, {**first, "data": {"a": "3"}})
        same = await store.update(CONFIGMAPS, second)
        assert same["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]

    run(test)


def test_the_store_alone_numbers_the_pod_templates_of_a_daemonset() -> None:
    async def test(store: Store) -> None:
        recorded_one = recorded("daemonset-cilium.json")
        name = "deprecated.daemonset.template.generation"
        assert name in recorded_one["metadata"]["annotations"]
        spec = recorded_one["spec"]
        body = {"metadata": {"name": "d", "namespace": "default", "annotations": {name: "7"}}, "spec": spec}
        created = await store.create(DAEMONSETS, body)

        async def patched(change: dict[str, Any]) -> tuple[str, int]:
            found = await store.patch(DAEMONSETS, "d", "default", MERGE_PATCH, change)
            return found["metadata"]["annotations"][name], found["metadata"]["generation"]

        assert created["metadata"]["annotations"][name] == "1"
        assert await patched({"metadata": {"annotations": {name: "7"}}}) == ("1", 1)
        assert await patched({"spec": {"minReadySeconds": 5}}) == ("1", 2)
        template = {"metadata": {"annotations": {"restarted": "now"}}}
        assert await patched({"spec": {"template": template}}) == ("2", 3)
        assert await patched({"metadata": {"annotations": {name: None}}}) == ("2", 3)

    run(test)


def test_a_dry_run_leaves_no_trace() -> None:
    async def test(store: Store) -> None:
        await store.create(CONFIGMAPS, config_map(a="1"))
        before = store.version
        patched = await store.patch(CONFIGMAPS, "c", "default", MERGE_PATCH, {"data": {"a": "2"}}, dry_run=True)
        assert patched["data"] == {"a": "2"}
        await store.delete(CONFIGMAPS, "c", "default", dry_run=True)
        assert (store.version, (await store.get(CONFIGMAPS, "c", "default"))["data"]) == (before, {"a": "1"})

    run(test)


def test_status_and_specification_are_written_apart_and_only_the_latter_makes_a_generation() -> None:
    async def test(store: Store) -> None:
        created = await store.create(PODS, pod("p"), "default")
        created["status"] = {"phase": "Running"}
        created["metadata"]["labels"] = {"a": "b"}
        plain = await store.update(PODS, created)
        assert plain["status"]["phase"] == "Pending"
        assert plain["metadata"]["labels"] == {"a": "b"}
        created["metadata"].pop("resourceVersion")
        status = await store.update(PODS, {**created, "spec": {}}, "status")
        assert status["status"] == {"phase": "Running"}
        assert status["spec"]["containers"]
        assert status["metadata"]["generation"] == 1

    run(test)


def test_a_watch_sees_objects_enter_and_leave_its_selection() -> None:
    async def test(store: Store) -> None:
        with store.watch(CONFIGMAPS, store.version, label_selector="on=yes") as watch:
            obj = await store.create(CONFIGMAPS, config_map())
            obj["metadata"]["labels"] = {"on": "yes"}
            obj = await store.update(CONFIGMAPS, obj)
            obj = await store.update(CONFIGMAPS, {**obj, "data": {"a": "b"}})
            obj["metadata"]["labels"] = {"on": "no"}
            await store.update(CONFIGMAPS, obj)
            await store.delete(CONFIGMAPS, "c", "default")
            seen = [await watch.next(1), await watch.next(1), await watch.next(1)]
            assert [kind for kind, _ in filter(None, seen)] == ["ADDED", "MODIFIED", "DELETED"]
            assert await watch.next(0.01) is None

    run(test)


def test_a_watch_repeats_history_until_it_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "HISTORY_LENGTH", 3)

    async def test(store: Store) -> None:
        start = store.version
        for number in range(3):
            await store.create(CONFIGMAPS, config_map(f"c{number}"))
        with store.watch(CONFIGMAPS, start) as watch:
            assert watch.pending_count == 3
        await store.create(CONFIGMAPS, config_map("c3"))
        with pytest.raises(ApiError) as caught:
            store.watch(CONFIGMAPS, start)
        assert (caught.value.code, caught.value.reason) == (410, "Expired")

    run(test)


def test_a_running_pod_is_deleted_in_two_steps_and_the_grace_can_only_shrink() -> None:
    async def test(store: Store) -> None:
        created = await store.create(PODS, pod("p", nodeName="node1", terminationGracePeriodSeconds=30), "default")
        marked = await store.delete(PODS, "p", "default")
        assert (marked["metadata"]["deletionGracePeriodSeconds"], marked["metadata"]["generation"]) == (30, 2)
        again = await store.delete(PODS, "p", "default", grace_period_seconds=60)
        assert again["metadata"]["resourceVersion"] == marked["metadata"]["resourceVersion"]
        sooner = await store.delete(PODS, "p", "default", grace_period_seconds=5)
        assert sooner["metadata"]["deletionGracePeriodSeconds"] == 5
        with pytest.raises(ApiError, match="UID in the precondition"):
            await store.delete(PODS, "p", "default", grace_period_seconds=0, uid="other")
        await store.delete(PODS, "p", "default", grace_period_seconds=0, uid=created["metadata"]["uid"])
        assert await store.find(PODS, "p", "default") is None

    run(test)


def test_a_finalizer_holds_an_object_until_it_is_removed() -> None:
    async def test(store: Store) -> None:
        held = config_map()
        held["metadata"]["finalizers"] = ["example.com/hold"]
        await store.create(CONFIGMAPS, held)
        await store.delete(CONFIGMAPS, "c", "default")
        marked = await store.get(CONFIGMAPS, "c", "default")
        assert "deletionTimestamp" in marked["metadata"]
        await store.patch(CONFIGMAPS, "c", "default", MERGE_PATCH, {"metadata": {"finalizers": None}})
        assert await store.find(CONFIGMAPS, "c", "default") is None

    run(test)


def test_apply_removes_what_its_manager_no_longer_names_and_refuses_to_take_from_another() -> None:
    def body(**data: str) -> dict[str, Any]:
        return {"apiVersion": "v1", "kind": "ConfigMap", "data": data}

    async def test(store: Store) -> None:
        apply = store.apply
        await store.create(CONFIGMAPS, config_map(untouched="1"))
        await apply(CONFIGMAPS, "c", "default", body(a="1", b="1"), field_manager="one")
        after, created = await apply(CONFIGMAPS, "c", "default", body(a="1"), field_manager="one")
        assert (after["data"], created) == ({"untouched": "1", "a": "1"}, False)
        again, _ = await apply(CONFIGMAPS, "c", "default", body(a="1"), field_manager="one")
        assert again["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]
        with pytest.raises(ApiError, match=r'Apply failed with 1 conflict: conflicts with "one":\n- \.data\.a'):
            await apply(CONFIGMAPS, "c", "default", body(a="2"), field_manager="two")
        forced, _ = await apply(CONFIGMAPS, "c", "default", body(a="2"), field_manager="two", force=True)
        assert forced["data"]["a"] == "2"
        left, _ = await apply(CONFIGMAPS, "c", "default", body(), field_manager="one")
        assert left["data"]["a"] == "2"

    run(test)


def test_both_versions_of_a_custom_resource_are_the_same_object() -> None:
    async def test(store: Store) -> None:
        spec = {"defaults": {"enable-ipv4-big-tcp": "true"}, "nodeSelector": {}}
        created = {"apiVersion": "cilium.io/v2alpha1", "metadata": {"name": "n"}, "spec": spec}
        await store.create(CILIUMNODECONFIGS_ALPHA, created, "default")
        found = await store.get(CILIUMNODECONFIGS, "n", "default")
        assert (found["apiVersion"], found["spec"]) == ("cilium.io/v2", spec)
        with pytest.raises(ApiError) as caught:
            await store.patch(CILIUMNODECONFIGS, "n", "default", STRATEGIC_MERGE_PATCH, {})
        assert caught.value.code == 415
        wrong = {**spec, "defaults": {"enable-ipv4-big-tcp": True}}
        with pytest.raises(ApiError, match="must be of type string"):
            await store.patch(CILIUMNODECONFIGS, "n", "default", MERGE_PATCH, {"spec": wrong})

    run(test)


def test_a_new_pod_gets_the_defaults_of_a_real_one() -> None:
    real = recorded("pod-running-off.json")
    given_spec = {
        "containers": [{"command": ["iperf3", "-s", "-J"], "image": "nicolaka/netshoot:v0.14", "name": "base"}],
        "nodeName": "node2",
        "terminationGracePeriodSeconds": 1,
    }

    async def test(store: Store) -> None:
        obj = {"metadata": {"name": "srv"}, "spec": copy.deepcopy(given_spec)}
        created = await store.create(PODS, obj, "default")
        ours, theirs = created["spec"], real["spec"]
        # the recorded cluster's distribution mounts a certificate more
        theirs["volumes"][0]["projected"]["sources"].pop()
        name = theirs["volumes"][0]["name"]
        ours["volumes"][0]["name"] = ours["containers"][0]["volumeMounts"][0]["name"] = name
        assert ours == theirs
        assert created["status"] == {"phase": "Pending", "qosClass": "BestEffort"}

    run(test)


def test_the_specification_of_a_pod_is_fixed() -> None:
    async def test(store: Store) -> None:
        await store.create(PODS, pod("p"), "default")
        change = {"spec": {"containers": [{"name": "base", "command": ["other"]}]}}
        with pytest.raises(ApiError, match="pod updates may not change fields other than"):
            await store.patch(PODS, "p", "default", STRATEGIC_MERGE_PATCH, change)
        await store.patch(
            PODS, "p", "default", JSON_PATCH, [{"op": "add", "path": "/metadata/labels", "value": {}}]
        )

    run(test)


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        (
            {"containers": [{"name": "a", "image": "1"}, {"name": "b"}]},
            {"containers": [{"name": "b", "$patch": "delete"}, {"name": "a", "image": "2"}, {"name": "c"}]},
            {"containers": [{"name": "a", "image": "2"}, {"name": "c"}]},
        ),
        ({"args": ["1", "2"]}, {"args": ["3"]}, {"args": ["3"]}),
        ({"finalizers": ["a"]}, {"finalizers": ["b"]}, {"finalizers": ["a", "b"]}),
        ({"finalizers": ["a", "b"]}, {"$deleteFromPrimitiveList/finalizers": ["a"]}, {"finalizers": ["b"]}),
        (
            {"env": [{"name": "x"}, {"name": "y"}]},
            {"$setElementOrder/env": [{"name": "z"}, {"name": "y"}, {"name": "x"}], "env": [{"name": "z"}]},
            {"env": [{"name": "z"}, {"name": "y"}, {"name": "x"}]},
        ),
        (
            {"emptyDir": {}, "name": "v"},
            {"$retainKeys": ["name", "hostPath"], "hostPath": {}},
            {"name": "v", "hostPath": {}},
        ),
        ({"data": {"a": "1"}}, {"data": {"$patch": "replace", "b": "2"}}, {"data": {"b": "2"}}),
    ],
)
def test_strategic_merge(target: Any, patch: Any, result: Any) -> None:
    assert strategic_merge(target, patch) == result


names = st.text("abc", min_size=1, max_size=2)
plain = st.recursive(st.integers() | names, lambda inner: st.dictionaries(names, inner, max_size=3), max_leaves=8)
objects = st.dictionaries(names, plain, max_size=4)


@given(objects, objects)
def test_a_merge_patch_is_idempotent_and_leaves_its_arguments_alone(target: Any, patch: Any) -> None:
    before = copy.deepcopy((target, patch))
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once
    assert (target, patch) == before
    assert strategic_merge(target, patch) == once  # they differ only on lists and directives


@given(st.dictionaries(names, names, max_size=3), names, names)
def test_a_label_selector_and_its_negation_never_agree(labels: dict[str, str], key: str, value: str) -> None:
    pairs = [
        (f"{key}={value}", f"{key}!={value}"),
        (key, f"!{key}"),
        (f"{key} in ({value})", f"{key} notin ({value})"),
    ]
    for selector, negation in pairs:
        assert label_matcher(selector)(labels) != label_matcher(negation)(labels)


@pytest.mark.parametrize("selector", ["a=b=c", "a in b", "=x", "a in (b"])
def test_what_is_no_selector_is_refused(selector: str) -> None:
    with pytest.raises(ApiError, match="unable to parse requirement"):
        label_matcher(selector)
