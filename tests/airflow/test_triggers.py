"""The trigger of the upgrade watch: when it fires, and what it does when the API is away."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import AppsV1Api

from bigtcp_bench.airflow import triggers
from bigtcp_bench.airflow.triggers import CiliumRolloutTrigger
from bigtcp_bench.cluster.api import ApiUnreachable, ClusterApi, Forbidden
from bigtcp_bench.cluster.fingerprint import Fingerprint
from bigtcp_bench.cluster.rollout import Observation
from bigtcp_bench.errors import BenchError, PreconditionFailed
from tests.lab.api_cluster import ApiCluster

OLD, NEW = Fingerprint("cilium:1", {"mtu": None}), Fingerprint("cilium:2", {"mtu": None})
AWAY = ApiUnreachable("the Kubernetes API gave no usable answer", 0)


async def first_event(trigger: CiliumRolloutTrigger) -> dict[str, Any]:
    events = [event.payload async for event in trigger.run()]
    assert len(events) == 1
    return events[0]


@pytest.fixture
def fires(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[dict[str, Any], list[float]]]:
    """Return the event and the pauses of a trigger that sees what a script says, by a clock that only it moves."""

    def run(*script: Observation | BenchError, **arguments: float) -> tuple[dict[str, Any], list[float]]:
        clock, pauses, seen = [1000.0], [], iter(script)
        last: list[Observation | BenchError] = []

        def observe(_api: object, _nodes: object) -> Observation:
            last[:] = [next(seen, *last)]
            if isinstance(last[0], BenchError):
                raise last[0]
            return last[0]

        async def sleep(seconds: float) -> None:
            pauses.append(seconds)
            clock[0] += seconds

        monkeypatch.setattr(triggers, "observe", observe)
        monkeypatch.setattr(triggers.connections, "cluster_api", lambda *_, **__: io.BytesIO())
        monkeypatch.setattr(triggers.asyncio, "sleep", sleep)
        monkeypatch.setattr(triggers.time, "monotonic", lambda: clock[0])
        monkeypatch.setattr(triggers.time, "time", lambda: clock[0])
        settings = {"settle_s": 60.0, "deadline": 1e9, **arguments}
        return asyncio.run(first_event(CiliumRolloutTrigger("k8s", 7, **settings))), pauses

    return run


def test_it_can_be_made_again_in_another_process():
    from airflow.sdk.module_loading import import_string

    name, arguments = CiliumRolloutTrigger("k8s", 7, 300.0, 99.0, 5.0, ("a", "b")).serialize()
    again = import_string(name)(**arguments)
    assert isinstance(again, CiliumRolloutTrigger)
    assert again.serialize() == (name, arguments)


def test_it_fires_after_the_time_at_rest(fires):
    event, pauses = fires(Observation(NEW))
    assert event == {"settled": True, "image": "cilium:2", "config": {"mtu": None}, "noticed": 7}
    assert pauses == [20.0, 20.0, 20.0]


@pytest.mark.parametrize(
    "interruption",
    [
        Observation(NEW, "1 of 2 agents are updated, 1 available"),
        Observation(OLD),
        AWAY,
        PreconditionFailed("no Cilium on the cluster"),
    ],
)
def test_whatever_happens_meanwhile_starts_the_time_anew(fires, interruption):
    event, pauses = fires(Observation(NEW), Observation(NEW), interruption, Observation(NEW))
    assert event["image"] == "cilium:2"
    # Two looks before it, and then the whole time again.
    assert len(pauses) == 2 + 1 + 3


def test_an_api_that_is_away_is_asked_less_and_less_often(fires):
    event, pauses = fires(*[AWAY] * 8, Observation(NEW))
    assert event["settled"]
    assert pauses == [40.0, 80.0, 160.0, *[300.0] * 5, 20.0, 20.0, 20.0]


def test_missing_rights_end_the_waiting_at_once(fires):
    event, pauses = fires(Forbidden("list pods in kube-system", "ask"))
    assert event == {"error": "not allowed: list pods in kube-system; ask", "noticed": 7}
    assert pauses == []


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        (Observation(NEW, "1 of 9 agents are updated, 8 available"), "1 of 9 agents are updated, 8 available"),
        (AWAY, str(AWAY)),
        (Observation(NEW), "it changed only a moment ago"),
    ],
)
def test_at_the_deadline_it_says_what_is_still_going_on(fires, seen, state):
    event, _ = fires(seen, deadline=1500.0, settle_s=3600.0)
    assert event == {"settled": False, "state": state, "noticed": 7}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiCluster]:
    with ApiCluster(tmp_path) as made:
        monkeypatch.setenv(
            "AIRFLOW_CONN_K8S",
            f'{{"conn_type": "kubernetes", "extra": {{"kube_config_path": "{made.kubeconfig}"}}}}',
        )
        yield made


@pytest.mark.lab
def test_a_rollout_on_an_api_server_is_waited_for(cluster):
    trigger = CiliumRolloutTrigger("k8s", 7, settle_s=0.3, deadline=1e12, poll_s=0.1)

    async def roll() -> dict[str, Any]:
        with cluster.client() as administrator:
            apps = AppsV1Api(administrator)
            container = {"name": "cilium-agent", "image": "quay.io/cilium/cilium:v1.18.4"}
            spec = {"updateStrategy": {"type": "OnDelete"}, "template": {"spec": {"containers": [container]}}}
            apps.patch_namespaced_daemon_set("cilium", "kube-system", {"spec": spec})
            waiting = asyncio.create_task(first_event(trigger))
            # Nobody deletes the agents, so nothing happens, and an API that is away changes nothing about that.
            cluster.faults.on.add("api-down")
            await asyncio.sleep(0.5)
            cluster.faults.on.clear()
            await asyncio.sleep(1.0)
            assert not waiting.done()
            apps.patch_namespaced_daemon_set(
                "cilium", "kube-system", {"spec": {"updateStrategy": {"type": "RollingUpdate"}}}
            )
            return await asyncio.wait_for(waiting, 20)

    event = asyncio.run(roll())
    assert (event["settled"], event["image"]) == (True, "quay.io/cilium/cilium:v1.18.4")
    with contextlib.closing(ClusterApi.from_kubeconfig(cluster.kubeconfig)) as api:
        assert Fingerprint(event["image"], event["config"]) == triggers.observe(api).fingerprint
