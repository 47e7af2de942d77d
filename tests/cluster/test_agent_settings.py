"""What agents were told, as files that real commands read, and what their next start would be told."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigtcp_bench.cluster import agent_settings
from bigtcp_bench.cluster.agent_settings import Merging, differences, merged, merging_of, of_next_start, pending
from bigtcp_bench.cluster.api import CONFIGMAP, CommandFailed, Forbidden
from bigtcp_bench.cluster.bigtcp_switch import switch
from bigtcp_bench.cluster.checks import refuse_failed
from bigtcp_bench.cluster.cilium import find_cilium
from bigtcp_bench.cluster.hands import ClusterHands
from bigtcp_bench.cluster.nodes import choose_pair
from bigtcp_bench.cluster.requirements import preflight
from bigtcp_bench.cluster.restore import leftovers, restore
from bigtcp_bench.cluster.window import open_window
from bigtcp_bench.errors import PreconditionFailed, SwitchFailed
from bigtcp_bench.in_cluster import protocol
from bigtcp_bench.in_cluster.hold import Refused
from bigtcp_bench.planning.plan import validate_plan
from bigtcp_lab.api.discovery import CILIUMNODECONFIGS, CONFIGMAPS, DAEMONSETS, NODES, PODS

from .simulated import Client, Cluster, Node, run

RECORDED = Path(__file__).parents[1] / "recorded"
#: What the init container writes beside the keys: a list in words until 1.16, JSON from 1.17 on.
GENERATED = [
    {},
    {"config-sources": "cilium-node-config:kube-system/a,config-map:kube-system/cilium-config"},
    {
        "config-sources": '[{"kind":"config-map","namespace":"kube-system","name":"cilium-config"}]',
        "config-sources-overrides": '{"allowConfigKeys":[],"denyConfigKeys":[]}',
    },
]
CLUSTER = Cluster()
Values = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9-]{0,12}", fullmatch=True), st.text("ab\n é:\r\u2028", max_size=6)
)


class FromFiles(Client):
    """A client whose agents keep their configuration in real files, read by the real command."""

    def __init__(self, cluster: Cluster, folder: Path, settings: dict[str, str]) -> None:
        super().__init__(cluster)
        self._folder = folder
        data = folder / "..data_1"
        data.mkdir()
        (folder / "..data").symlink_to(data.name)
        for key, value in settings.items():
            (data / key).write_text(value, encoding="utf-8")
            (folder / key).symlink_to(f"..data/{key}")

    def exec(self, namespace: str, pod: str, container: str, argv: Sequence[str]) -> str:
        words = [word.replace("/tmp/cilium/config-map", str(self._folder)) for word in argv]
        # As in a container: without a locale whatever is not ASCII is binary to grep.
        done = subprocess.run(words, capture_output=True, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"})
        if done.returncode:
            raise CommandFailed(done.stderr.decode())
        return done.stdout.decode()


def seen(api: Client, node: str = "node1") -> Any:
    cilium = find_cilium(api)
    daemonset = run(api.cluster.store.get(DAEMONSETS, "cilium", "kube-system"))
    return pending(api, cilium, daemonset, node, agent_settings.told(api, cilium, _agent(api, node)))


def _agent(api: Client, node: str) -> str:
    from bigtcp_bench.cluster.cilium import agent_pod

    pod = agent_pod(api, find_cilium(api), node)
    assert pod is not None
    return str(pod["metadata"]["name"])


def change(cluster: Cluster, **values: str | None) -> None:
    config = run(cluster.store.get(CONFIGMAPS, "cilium-config", "kube-system"))
    for key, value in values.items():
        name = key.replace("_", "-")
        if value is None:
            config["data"].pop(name)
        else:
            config["data"][name] = value
    run(cluster.store.update(CONFIGMAPS, config))


@pytest.mark.parametrize("generated", GENERATED)
@pytest.mark.parametrize("recorded", ["configmap-cilium-config.json", "cilium-1.19/configmap-cilium-config.json"])
def test_nothing_is_pending_on_a_healthy_cluster(recorded: str, generated: dict[str, str], tmp_path: Path) -> None:
    data = json.loads((RECORDED / recorded).read_text(encoding="utf-8"))["data"]
    data["a-line-and-another"] = "one: 1\ntwo: é\n"
    cluster = Cluster()
    config = run(cluster.store.get(CONFIGMAPS, "cilium-config", "kube-system"))
    config["data"] = data
    run(cluster.store.update(CONFIGMAPS, config))
    assert "" in data.values(), "the recorded configuration has an empty value, of which grep prints no line"
    assert seen(FromFiles(cluster, tmp_path, {**data, **generated})) == []


# Each example starts a process.
@settings(max_examples=40)
@given(Values)
def test_an_agent_that_was_told_what_it_would_be_told_has_nothing_pending(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, str]
) -> None:
    api = FromFiles(CLUSTER, tmp_path_factory.mktemp("told"), {**values, "at-least": "one"})
    found = agent_settings.told(api, find_cilium(api), _agent(api, "node1"))
    assert found is not None
    assert differences(found, {**values, "at-least": "one"}) == []


def test_every_key_that_changed_without_a_restart_is_named_and_refuses_the_run() -> None:
    cluster = Cluster()
    change(cluster, enable_host_legacy_routing="true", operator_api_serve_addr="127.0.0.1:1", routing_mode=None)
    api = cluster.client()
    plan = validate_plan({"scenarios": "ipv4-stream-1,ipv6-rr"})
    checks = preflight(api, plan, choose_pair(api, plan)).checks
    lines = [check for check in checks if check.name == "pending settings"]
    assert [line.node for line in lines] == ["node1", "node2"]
    assert lines[0].found == (
        "the agent has not been restarted since its configuration changed: "
        "enable-host-legacy-routing not set → true, operator-api-serve-addr, routing-mode native → not set"
    )
    with pytest.raises(PreconditionFailed, match=r"pending settings: .*enable-host-legacy-routing"):
        refuse_failed(checks)


def test_what_changed_after_the_check_stops_the_run_before_its_first_change() -> None:
    cluster = Cluster()
    change(cluster, enable_host_legacy_routing="true")
    api = cluster.client()
    plan = validate_plan({"scenarios": "ipv4-stream-1,ipv6-rr"})
    started = cluster.nodes["node1"].agents_started
    with pytest.raises(PreconditionFailed, match=r"node node1: the agent has not been restarted .*legacy-routing"):
        open_window(api, "dag/run", plan, choose_pair(api, plan))
    assert leftovers(api) == []
    assert cluster.nodes["node1"].agents_started == started


def restarted(cluster: Cluster, *nodes: str) -> None:
    for node in nodes:
        for pod in cluster.agents(node):
            run(cluster.store.delete(PODS, pod["metadata"]["name"], "kube-system", grace_period_seconds=0))
    cluster.reconcile()


def with_a_third_node() -> Cluster:
    cluster = Cluster()
    third = run(cluster.store.get(NODES, "node2"))
    third["metadata"] = {"name": "node3", "labels": {"third": ""}}
    run(cluster.store.create(NODES, third))
    cluster.nodes["node3"] = Node()
    cluster.reconcile()
    return cluster


@pytest.mark.parametrize("key", ["enable_host_legacy_routing", "enable_ipv4_big_tcp"])
def test_a_run_that_restarts_every_agent_asks_every_agent(key: str) -> None:
    cluster = with_a_third_node()
    change(cluster, **{key: "true"})
    restarted(cluster, "node1", "node2")
    api = cluster.client()
    plans = {scope: validate_plan({"scenarios": "ipv4-rr", "scope": scope}) for scope in ("nodes", "cluster")}
    pair = choose_pair(api, plans["cluster"])
    assert pair.names == ("node1", "node2")

    def refused(scope: str) -> list[str]:
        checks = preflight(api, plans[scope], pair).checks
        return [check.found for check in checks if check.name == "pending settings"]

    assert refused("nodes") == []
    (found,) = refused("cluster")
    assert found.startswith("on node node3 the agent has not been restarted since its configuration changed: ")
    assert found.endswith("→ true")
    with pytest.raises(PreconditionFailed, match="on node node3 the agent has not been restarted"):
        open_window(api, "dag/run", plans["cluster"], pair)
    restarted(cluster, "node3")
    assert [
        check for check in preflight(api, plans["cluster"], pair).checks if check.name == "pending settings"
    ] == []


def test_what_is_changed_during_a_run_is_not_put_in_force_by_its_next_switch() -> None:
    cluster = Cluster()
    api = cluster.client()
    plan = validate_plan({"scenarios": "ipv4-stream-1,ipv6-rr"})
    pair = choose_pair(api, plan)
    fence = open_window(api, "dag/run", plan, pair).fence
    switch(api, fence, "off", pair, plan)
    change(cluster, enable_host_legacy_routing="true")
    with pytest.raises(SwitchFailed, match=r"node node1: the agent has not been restarted .*legacy-routing"):
        switch(api, fence, "on", pair, plan)
    assert "enable-host-legacy-routing" not in cluster.nodes["node1"].told


@pytest.mark.parametrize("scope", ["nodes", "cluster"])
def test_what_is_changed_for_another_node_stops_a_switch_that_would_restart_its_agent(
    scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = with_a_third_node()
    api = cluster.client()
    plan = validate_plan({"scenarios": "ipv4-stream-1,ipv6-rr", "scope": scope})
    pair = choose_pair(api, plan)
    fence = open_window(api, "dag/run", plan, pair).fence
    switch(api, fence, "on", pair, plan)
    spec = {"nodeSelector": {"matchLabels": {"third": ""}}, "defaults": {"mtu": "1450"}}
    run(cluster.store.create(CILIUMNODECONFIGS, {"metadata": {"name": "a"}, "spec": spec}, "kube-system"))
    if scope == "nodes":
        switch(api, fence, "off", pair, plan)
    else:
        with pytest.raises(SwitchFailed, match=r"^on node node3 the agent has not been restarted .*mtu not set"):
            switch(api, fence, "off", pair, plan)
    assert "mtu" not in cluster.nodes["node3"].told
    config = run(cluster.store.get(CONFIGMAPS, "cilium-config", "kube-system"))
    assert config["data"]["enable-ipv4-big-tcp"] == ("true" if scope == "cluster" else "false")
    asked = api.exec

    def slowly(*request: Any) -> str:
        cluster.time += 90
        return asked(*request)

    # All agents together take longer to ask than a restore holds the cluster without a word.
    monkeypatch.setattr(api, "exec", slowly)
    notes = restore(api, "test", holder="dag/run").notes
    told = "the restart of the agent on node node3 put in force what had waited for one: mtu"
    assert (told in notes) == (scope == "cluster"), notes


def test_a_restore_that_may_not_list_all_agents_only_tells_less(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = with_a_third_node()
    api = cluster.client()
    before = cluster.state()
    plan = validate_plan({"scenarios": "ipv4-stream-1,ipv6-rr", "scope": "cluster"})
    pair = choose_pair(api, plan)
    switch(api, open_window(api, "dag/run", plan, pair).fence, "off", pair, plan)
    select, refused = ClusterHands.select, []

    def pairs_only(hands: ClusterHands, path: str, labels: str = "", fields: str = "") -> list[Any]:
        if labels == protocol.AGENT_LABELS and not fields:
            refused.append(path)
            raise Refused("pods is forbidden", 403)
        return select(hands, path, labels, fields)

    monkeypatch.setattr(ClusterHands, "select", pairs_only)
    assert restore(api, "test", holder="dag/run").outcome == "restored"
    assert refused
    assert cluster.state() == before


def test_the_two_keys_of_big_tcp_are_the_runs_own() -> None:
    cluster = Cluster()
    change(cluster, enable_ipv4_big_tcp="true")
    assert seen(cluster.client()) == []


def test_a_node_configuration_that_was_not_read_yet_is_pending_on_the_nodes_that_it_selects() -> None:
    cluster = Cluster()
    selector = {"matchLabels": {"kubernetes.io/hostname": "node2"}}
    for name, value in (("b", "1450"), ("a", "1400")):
        body = {"metadata": {"name": name}, "spec": {"nodeSelector": selector, "defaults": {"mtu": value}}}
        run(cluster.store.create(CILIUMNODECONFIGS, body, "kube-system"))
    api = cluster.client()
    assert seen(api, "node1") == []
    assert [str(one) for one in seen(api, "node2")] == ["mtu not set → 1450"]


def test_sources_and_lists_of_keys_count_as_they_do_for_cilium() -> None:
    cluster = Cluster()
    daemonset = run(cluster.store.get(DAEMONSETS, "cilium", "kube-system"))
    (container,) = (
        one for one in daemonset["spec"]["template"]["spec"]["initContainers"] if one["name"] == "config"
    )
    container["args"] = ["--source=config-map:cilium-config,cilium-node-config,node", "--deny-config-keys", "mtu"]
    node = run(cluster.store.get(NODES, "node1"))
    node["metadata"]["annotations"] = {"config.cilium.io/mtu": "9000", "config.cilium.io/debug": "true"}
    run(cluster.store.update(NODES, node))
    api = cluster.client()
    found = of_next_start(api, find_cilium(api), daemonset, "node1")
    assert found is not None
    assert (found["debug"], found.get("mtu")) == ("true", None)


def test_what_cannot_be_known_is_a_warning_and_no_refusal() -> None:
    cluster = Cluster()
    daemonset = run(cluster.store.get(DAEMONSETS, "cilium", "kube-system"))
    (container,) = (
        one for one in daemonset["spec"]["template"]["spec"]["initContainers"] if one["name"] == "config"
    )
    container["args"] = ["--source=config-map:site,cilium-node-config"]

    class MayNot(Client):
        def find(self, kind: Any, name: str, namespace: str | None = None) -> Any:
            if kind is CONFIGMAP and name == "site":
                raise Forbidden("get configmaps site", "ask")
            return super().find(kind, name, namespace)

    api = MayNot(cluster)
    assert of_next_start(api, find_cilium(api), daemonset, "node1") is None
    container["name"] = "other"
    assert merging_of(daemonset) is None
    run(cluster.store.update(DAEMONSETS, daemonset))
    plan = validate_plan({"scenarios": "ipv4-stream-1"})
    checks = preflight(cluster.client(), plan, choose_pair(cluster.client(), plan)).checks
    assert {check.status for check in checks if check.name == "pending settings"} == {"warn"}


Few = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.sampled_from(["", "x", "y"]))


@settings(max_examples=40)
@given(Few, Few, st.sets(st.sampled_from(["a", "b"])), st.sets(st.sampled_from(["a", "b"])))
def test_only_the_first_source_may_set_everything(
    first: dict[str, str], later: dict[str, str], allowed: set[str], denied: set[str]
) -> None:
    merging = Merging("kube-system", ("config-map", "node"), tuple(allowed), tuple(denied))
    found = merged([first, later], merging)
    for key, value in found.items():
        overridden = key in later and (key in allowed if allowed else key not in denied)
        assert value == (later if overridden else first)[key]
    assert first.keys() <= found.keys()
