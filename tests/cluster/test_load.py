"""The load gate, on a simulated cluster whose nodes are busy with other work."""

from __future__ import annotations

from typing import Any

import pytest

from bigtcp_bench.cluster.load import PAUSE_S, RESTLESS, await_quiet, busy_cpus, read_at_rest
from bigtcp_bench.cluster.nodes import choose_pair
from bigtcp_bench.cluster.probe import probe_nodes
from bigtcp_bench.errors import InvalidInput, PreconditionFailed
from bigtcp_bench.planning.plan import load_plan, validate_plan
from bigtcp_lab.api.discovery import PODS

from .simulated import Client, Cluster, run

PLAN = validate_plan({"scenarios": "ipv4-rr"})


def gate(cluster: Cluster, api: Client | None = None, **settings: Any) -> list[str]:
    """Pass the gate; return what was said meanwhile."""
    api = api or cluster.client()
    plan = validate_plan({"scenarios": "ipv4-rr", "load_gate": settings})
    said: list[str] = []
    await_quiet(api, plan, choose_pair(api, plan), progress=said.append)
    assert run(cluster.store.list(PODS, "bigtcp-bench")) == []
    return said


def test_quiet_nodes_pass_at_once() -> None:
    cluster = Cluster()
    started = cluster.time
    assert gate(cluster) == []
    assert cluster.time - started < 5


def test_busy_nodes_are_refused_by_name() -> None:
    cluster = Cluster()
    cluster.nodes["node2"].busy_share = 0.75
    started = cluster.time
    with pytest.raises(
        PreconditionFailed, match=r"node node2 is 75% busy with other work, where at most 50% is allowed"
    ):
        gate(cluster, mode="refuse")
    assert cluster.time - started < 5
    assert gate(cluster, mode="refuse", busy_share=0.8) == []


def test_busy_nodes_are_waited_for() -> None:
    cluster = Cluster()
    cluster.nodes["node1"].busy_share = 0.9

    class Patient(Client):
        def _pass(self, seconds: float) -> None:
            super()._pass(seconds)
            if self.cluster.time > started + 3 * PAUSE_S:
                self.cluster.nodes["node1"].busy_share = 0.2

    started = cluster.time
    said = gate(cluster, Patient(cluster))
    assert said == [
        "node node1 is 90% busy with other work, where at most 50% is allowed; waiting up to 600 s for less"
    ]
    assert 3 * PAUSE_S < cluster.time - started < 5 * PAUSE_S


def test_nodes_that_stay_busy_are_refused_in_the_end() -> None:
    cluster = Cluster()
    for node in cluster.nodes.values():
        node.busy_share = 0.6
    started = cluster.time
    with pytest.raises(
        PreconditionFailed, match=r"node1 is 60% busy and node node2 is 60% busy .* so for 120 s; choose"
    ):
        gate(cluster, wait_s=120)
    assert 120 <= cluster.time - started < 150


def test_a_plan_that_only_warns_does_not_look_again() -> None:
    cluster = Cluster()
    cluster.nodes["node1"].busy_share = 1.0
    api = cluster.client()
    assert gate(cluster, api, mode="warn") == []
    assert api.changes == 0


def test_a_first_reading_is_not_taken_twice() -> None:
    cluster = Cluster()
    api = cluster.client()
    plan = validate_plan({"scenarios": "ipv4-rr"})
    pair = choose_pair(api, plan)
    probes = probe_nodes(api, plan, pair.names, sample_s=1)
    before = api.changes
    await_quiet(api, plan, pair, {name: seen.document for name, seen in probes.items()})
    assert api.changes == before


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"mode": "hope"}, "load_gate.mode = 'hope'"),
        ({"busy_share": 0}, "greater than 0"),
        ({"wait_s": 3600}, "less than or equal to 600"),
        ({"wait": 3}, "is not a known field"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        validate_plan({"scenarios": "ipv4-rr", "load_gate": settings})


def test_the_plans_of_the_package() -> None:
    assert {name: load_plan(name).load_gate.mode for name in ("quick", "nightly", "upgrade")} == {
        "quick": "warn",
        "nightly": "wait",
        "upgrade": "wait",
    }


def at_rest(
    cluster: Cluster, usual: dict[str, float], api: Client | None = None, **settings: Any
) -> tuple[Any, ...]:
    """Return what was read of both nodes, what was said meanwhile, and how long it took."""
    api = api or cluster.client()
    plan = validate_plan({"scenarios": "ipv4-rr", "load_gate": settings})
    said: list[str] = []
    started = cluster.time
    found = read_at_rest(api, plan, choose_pair(api, plan), usual, progress=said.append)
    assert run(cluster.store.list(PODS, "bigtcp-bench")) == []
    return found, said, cluster.time - started


def test_nodes_that_use_what_they_used_before_are_at_rest_at_once() -> None:
    cluster = Cluster()
    for node in cluster.nodes.values():
        node.busy_share = 0.5
    usual = await_quiet(cluster.client(), PLAN, choose_pair(cluster.client(), PLAN))
    found, said, took_s = at_rest(cluster, usual)
    assert busy_cpus(found) == usual
    assert (said, [one for one in found.values() if RESTLESS in one]) == ([], [])
    assert took_s < 5


def test_an_agent_that_starts_is_waited_for() -> None:
    cluster = Cluster()
    cluster.nodes["node1"].busy_share = 0.8

    class Patient(Client):
        def _pass(self, seconds: float) -> None:
            super()._pass(seconds)
            if self.cluster.time > started + 20:
                self.cluster.nodes["node1"].busy_share = 0.1

    started = cluster.time
    found, said, took_s = at_rest(cluster, {"node1": 0.05, "node2": 0.05}, Patient(cluster))
    assert len(said) == 1
    assert said[0].startswith("node node1 used ")
    assert said[0].endswith(" before its agent was restarted; waiting up to 60 s for less")
    assert not any(RESTLESS in one for one in found.values())
    assert 20 < took_s < 40


def test_a_node_that_does_not_come_to_rest_is_named_after_a_bounded_wait() -> None:
    cluster = Cluster()
    cluster.nodes["node2"].busy_share = 0.9
    found, said, took_s = at_rest(cluster, {"node1": 0.1, "node2": 0.1}, rest_s=30)
    assert RESTLESS not in found["node1"]
    reason = found["node2"][RESTLESS]
    assert reason.startswith("it had not come to rest within 30 s: node node2 used ")
    assert said[-1] == f"there is no CPU cost of node node2 in this block: {reason}"
    assert 30 <= took_s < 60
    _, said, took_s = at_rest(cluster, {"node2": 0.1}, rest_s=0)
    assert len(said) == 1
    assert took_s < 5


def test_where_nothing_was_restarted_nothing_is_waited_for() -> None:
    cluster = Cluster()
    cluster.nodes["node2"].busy_share = 0.9
    found, said, _ = at_rest(cluster, {})
    assert (said, [one for one in found.values() if RESTLESS in one]) == ([], [])
