"""The rights in ``include/manifests`` against the requests of a run: none is missing, and none is for nothing."""

from __future__ import annotations

from typing import Any

from bigtcp_bench.cluster import environment, pods, requirements, restore
from bigtcp_bench.cluster.api import CONFIGMAP, LEASE
from bigtcp_bench.cluster.bigtcp_switch import switch
from bigtcp_bench.cluster.cilium import find_cilium
from bigtcp_bench.cluster.nodes import choose_pair
from bigtcp_bench.cluster.rights import Right, _rights, needed
from bigtcp_bench.cluster.window import open_window
from bigtcp_bench.in_cluster import protocol
from bigtcp_bench.planning.plan import Scope
from bigtcp_bench.resources import load_manifest, load_manifests
from bigtcp_lab.api import paths

from .simulated import Client, Cluster
from .test_guardian import Account as GuardianAccount
from .test_guardian import wake
from .test_restore import RUN, open_and_switch, plan, put_node_config_of_our_name

Used = set[tuple[str, str, str, str]]
VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
#: Of Airflow's operator (its ``pod_manager.py`` lists events of a pod, follows its log, watches nothing), and of
#: commands in the agents' pods, which the simulated cluster does not take as requests.
NOT_SIMULATED = {
    ("patch", "pods", "bigtcp-bench", ""),
    ("list", "events", "bigtcp-bench", ""),
    ("get", "pods/exec", "kube-system", ""),
    ("create", "pods/exec", "kube-system", ""),
}


class Account(Client):
    """A client that notes which rights its requests need."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster)
        self.used: Used = set()

    def _request(self, method: str, path: str, **options: Any) -> Any:  # type: ignore[override]
        if path.startswith("/api/v1/") or path.count("/") > 3:
            target = paths.parse(path)
            verb = VERBS.get(method) or ("get" if target.name else "list")
            resource = target.resource.plural + (f"/{target.subresource}" if target.subresource else "")
            self.used.add((verb, resource, target.namespace or "", target.name or ""))
        return super()._request(method, path, **options)


def covers(right: Right, used: tuple[str, str, str, str]) -> bool:
    """Return whether ``right`` allows the request; a right without a namespace or name is one on all of them."""
    verb, resource, namespace, name = used
    where = right.namespace == namespace if right.namespace or resource == "namespaces" else not namespace
    return (right.verb, right.resource) == (verb, resource) and where and right.name in ("", name)


def used_by_runs(scope: Scope) -> Used:
    """Return what two runs of ``scope`` ask for; the second finds what somebody else has left under our names."""
    cluster = Cluster()
    # Something of a run goes through a Service, too.
    the_plan = plan(scope=scope, scenarios=["ipv4-stream-1", "ipv4-stream-1@service"])
    administrator, api = cluster.client(), Account(cluster)
    cilium = find_cilium(administrator)
    assert cilium.node_config is not None
    pods.ensure_namespace(administrator)
    for again in (False, True):
        if again:
            agent = administrator.get(CONFIGMAP, pods.AGENT_CONFIGMAP, pods.BENCH_NAMESPACE)
            administrator.replace(CONFIGMAP, {**agent, "data": {}}, pods.BENCH_NAMESPACE)
            theirs = load_manifest("ciliumnodeconfig.yaml") | {"apiVersion": cilium.node_config.api_version}
            theirs["metadata"]["namespace"] = cilium.namespace
            administrator.create(cilium.node_config, theirs, cilium.namespace)
        pair = choose_pair(api, the_plan)
        requirements.preflight(api, the_plan, pair)
        environment.cluster_uid(api)
        window = open_window(api, RUN, the_plan, pair)
        for arm in ("on", "off"):
            switch(api, window.fence, arm, pair, the_plan)  # type: ignore[arg-type]
        restore.restore(api, "test", holder=RUN)
    # Everybody may ask what they may do.
    return {used for used in api.used if not used[1].startswith("selfsubject")}


def test_a_run_needs_every_right_and_no_other() -> None:
    cilium = find_cilium(Cluster().client())
    used: Used = set(NOT_SIMULATED)
    scopes: tuple[Scope, ...] = ("nodes", "cluster")
    for scope in scopes:
        granted = needed(scope, cilium, ["node1", "node2"])
        asked = used_by_runs(scope)
        assert [one for one in sorted(asked) if not any(covers(right, one) for right in granted)] == []
        used |= asked
    assert [str(right) for right in granted if not any(covers(right, one) for one in used)] == []


def granted_to_the_guardian() -> list[Right]:
    cilium = find_cilium(Cluster().client())
    return [
        right
        for file in ("rbac.yaml", "rbac-scope-cluster.yaml")
        for body in load_manifests(file)
        if body["metadata"]["name"] in ("bigtcp-bench-guardian", "bigtcp-bench-scope-cluster") and "rules" in body
        for rule in body["rules"]
        for right in _rights(rule, body["metadata"].get("namespace", ""), cilium, ["node1", "node2"])
    ]


def test_the_guardian_needs_every_right_and_no_other() -> None:
    """One restores each scope; in the second the objects of our name that are to come back have gone."""
    used: Used = set()
    for scope, gone in (("nodes", False), ("cluster", False), ("nodes", True)):
        cluster = Cluster()
        if scope == "nodes":
            put_node_config_of_our_name(cluster, "false")
        open_and_switch(cluster, "on", scope=scope)
        api = cluster.client()
        if gone:
            kind = find_cilium(api).node_config_kind
            api.delete(kind, protocol.NODE_CONFIG_NAME, "kube-system")
            body = {"metadata": {"finalizers": None}}
            api.patch(LEASE, protocol.LEASE_NAME, body, pods.BENCH_NAMESPACE)
            api.delete(LEASE, protocol.LEASE_NAME, pods.BENCH_NAMESPACE)
        cluster.time += protocol.LEASE_S + 1
        hands = GuardianAccount(cluster, 60)
        hands.client = Account(cluster)
        assert wake(cluster, hands) == 0
        used |= hands.client.used
    # Without a configuration of our name before the run, it is deleted.
    cluster = Cluster()
    open_and_switch(cluster, "on")
    cluster.time += protocol.LEASE_S + 1
    hands = GuardianAccount(cluster, 60)
    hands.client = Account(cluster)
    assert wake(cluster, hands) == 0
    used |= hands.client.used
    granted = granted_to_the_guardian()
    assert [one for one in sorted(used) if not any(covers(right, one) for right in granted)] == []
    assert [str(right) for right in granted if not any(covers(right, one) for one in used)] == []
