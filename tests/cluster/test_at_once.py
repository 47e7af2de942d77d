"""Asking about both nodes at once."""

from __future__ import annotations

import threading

import pytest

from bigtcp_bench.cluster import agent_settings, at_once, bigtcp_switch
from bigtcp_bench.cluster.agents import read_agent
from bigtcp_bench.cluster.api import ClusterApi
from bigtcp_bench.cluster.cilium import Cilium
from bigtcp_bench.cluster.nodes import choose_pair
from tests.cluster.simulated import Cluster
from tests.cluster.test_restore import open_and_switch, plan

LIMIT_S = 30


def test_nobody_waits_for_the_other() -> None:
    both = threading.Barrier(2)
    found = at_once.of_each(("a", "b"), lambda name: f"{name} {both.wait(LIMIT_S) >= 0}")
    assert list(found.items()) == [("a", "a True"), ("b", "b True")]


def test_what_was_raised_is_raised() -> None:
    def ask(name: str) -> str:
        raise ValueError(name)

    with pytest.raises(ValueError, match=r"^a$"):
        at_once.of_each(("a", "b"), ask)


def test_agents_are_read_while_packets_are_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    fence = open_and_switch(cluster)
    api = cluster.client()
    # Both agents and the capture.
    together = threading.Barrier(3)

    def read(*arguments: object) -> object:
        together.wait(LIMIT_S)
        return read_agent(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(bigtcp_switch, "read_agent", read)
    report = bigtcp_switch.switch(
        api, fence, "on", choose_pair(api, plan()), plan(), meanwhile=lambda: together.wait(LIMIT_S)
    )
    assert report.nodes.keys() == {"node1", "node2"}


def test_a_switch_asks_an_agent_once_what_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster()
    fence = open_and_switch(cluster, "off")
    api = cluster.client()
    asked: list[str] = []
    told = agent_settings.told

    def ask(api: ClusterApi, cilium: Cilium, pod: str) -> dict[str, str] | None:
        asked.append(pod)
        return told(api, cilium, pod)

    monkeypatch.setattr(agent_settings, "told", ask)
    report = bigtcp_switch.switch(api, fence, "on", choose_pair(api, plan()), plan())
    assert report.restarted
    # Those that were there, and their successors.
    assert len(asked) == len(set(asked)) == 4
