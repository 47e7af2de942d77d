"""What is recorded of the environment beside BIG TCP: of the agents as they run, and of what they will be told."""

from __future__ import annotations

from typing import Any

import pytest

from bigtcp_bench.analysis.verdicts import environment_problems
from bigtcp_bench.cluster import requirements, restore, rights
from bigtcp_bench.cluster.api import NAMESPACE, Forbidden, JsonObject, Kind
from bigtcp_bench.cluster.bigtcp_switch import switch
from bigtcp_bench.cluster.cilium import find_cilium, restart_agent
from bigtcp_bench.cluster.environment import cluster_uid, describe, merged_config
from bigtcp_bench.cluster.nodes import choose_pair
from bigtcp_bench.cluster.window import open_window
from bigtcp_bench.in_cluster import protocol
from bigtcp_bench.judging.facts import facts_of
from bigtcp_bench.planning.plan import blocks, validate_plan
from bigtcp_lab.api.discovery import CILIUMNODECONFIGS, CONFIGMAPS

from .simulated import Client, Cluster, run

OURS = protocol.NODE_CONFIG_NAME
NODE2 = {"kubernetes.io/hostname": "node2"}
PLAN = validate_plan({"scenarios": "ipv4-rr"})


def set_config(cluster: Cluster, key: str, value: str) -> None:
    """Do what Helm does without rollOutCiliumPods: write the configuration and restart nothing."""
    config = run(cluster.store.get(CONFIGMAPS, "cilium-config", "kube-system"))
    config["data"][key] = value
    run(cluster.store.update(CONFIGMAPS, config))


def measured(cluster: Cluster, helm_before_block: int) -> list[str]:
    """Return what was not the same in every block of a run before one of whose blocks Helm rolls Cilium out."""
    api = cluster.client()
    pair = choose_pair(api, PLAN)
    window = open_window(api, "bigtcp_benchmark/night", PLAN, pair)
    reports = {}
    for block in blocks(PLAN):
        if block.number == helm_before_block:
            set_config(cluster, "enable-bandwidth-manager", "true")
            for node in pair.names:
                restart_agent(api, find_cilium(api), node, before=lambda: None)
        reports[block.number] = switch(api, window.fence, block.arm, pair, PLAN).to_dict()
    restore.restore(api, "test", holder="bigtcp_benchmark/night")
    return environment_problems(facts_of([], reports).environments)


def test_a_setting_that_agents_read_during_the_run_makes_it_invalid() -> None:
    found = [
        f"Cilium's enable-bandwidth-manager on node{number} changed during the run: "
        "'not set' in block 1, 'true' in block 2"
        for number in (1, 2)
    ]
    assert measured(Cluster(), 2) == found
    assert measured(Cluster(), 1) == [], "every block had it"


def test_big_tcp_itself_and_an_agent_that_does_not_say_change_nothing() -> None:
    assert measured(Cluster(), 9) == []
    report = {"nodes": {"n1": {"cilium": "1.18.3", "limits": {}, "config": {"mtu": "9000"}}}}
    silent = {"nodes": {"n1": {"cilium": "1.18.3", "limits": {}, "config": None}}}
    assert environment_problems(facts_of([], {1: report, 2: silent, 3: report}).environments) == []


def node_config(name: str, labels: dict[str, str], **settings: str) -> dict[str, Any]:
    defaults = {key.replace("_", "-"): value for key, value in settings.items()}
    return {
        "metadata": {"name": name, "namespace": "kube-system"},
        "spec": {"nodeSelector": {"matchLabels": labels}, "defaults": defaults},
    }


@pytest.mark.parametrize(
    ("configs", "mtu", "bbr"),
    [
        ([], None, None),
        ([node_config("a", {}, mtu="9000", enable_ipv4_big_tcp="true")], "9000", None),
        ([node_config("b", {}, mtu="1400"), node_config("a", {}, mtu="9000", enable_bbr="true")], "1400", "true"),
        ([node_config("a", {"rack": "7"}, mtu="9000")], None, None),
        ([node_config("a", NODE2, mtu="9000")], "not set on node1, 9000 on node2", None),
        # Another's object of our name, which a run replaces while it is under way.
        ([node_config(OURS, {}, mtu="9000")], None, None),
    ],
)
def test_what_node_configurations_set_is_recorded_too(
    configs: list[dict[str, Any]], mtu: str | None, bbr: str | None
) -> None:
    cluster = Cluster()
    for body in configs:
        run(cluster.store.create(CILIUMNODECONFIGS, body))
    api = cluster.client()
    pair = choose_pair(api, PLAN)
    row = describe(api, pair, requirements.preflight(api, PLAN, pair), [])
    assert (row["cilium_config"]["mtu"], row["cilium_config"]["enable-bbr"]) == (mtu, bbr)
    assert row["cilium_config"]["routing-mode"] == "native"


def test_a_setting_that_a_node_takes_away_is_another_value() -> None:
    configs = [node_config("a", {}, devices="eth1"), node_config("b", {}, devices="")]
    assert merged_config({"devices": "eth0"}, {"n1": configs, "n2": configs})["devices"] == ""
    assert merged_config({"devices": "eth0"}, {})["devices"] == "eth0"


def test_a_run_goes_on_without_the_right_to_read_what_tells_clusters_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Narrow(Client):
        def get(self, kind: Kind, name: str, namespace: str | None = None) -> JsonObject:
            if (kind, name) == (NAMESPACE, "kube-system"):
                raise Forbidden("get namespaces kube-system", "ask")
            return super().get(kind, name, namespace)

    api = Narrow(Cluster())
    assert cluster_uid(api.cluster.client())
    assert cluster_uid(api) is None
    asked = rights.needed("nodes", find_cilium(api), ["node1", "node2"])
    assert "get namespaces kube-system" in map(str, asked)
    monkeypatch.setattr(rights, "missing", lambda _, wanted: [one for one in wanted if one.name == "kube-system"])
    (check,) = [
        one for one in requirements.preflight(api, PLAN, choose_pair(api, PLAN)).checks if one.name == "rights"
    ]
    assert check.status == "pass"
