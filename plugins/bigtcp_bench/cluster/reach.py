"""Whether a fresh pod on one node reaches a fresh pod on the other, over every IP family of the plan."""

from __future__ import annotations

from collections.abc import Mapping

from bigtcp_bench.cluster import pods
from bigtcp_bench.cluster.api import ClusterApi, JsonObject
from bigtcp_bench.cluster.bigtcp_switch import families_of
from bigtcp_bench.cluster.cilium import agent_pod, find_cilium
from bigtcp_bench.cluster.node_counters import bpf_metrics
from bigtcp_bench.cluster.nodes import NodePair
from bigtcp_bench.planning.plan import Family, Plan
from bigtcp_bench.readings.agent_log import parse_log
from bigtcp_bench.readings.orders import ReachOrders, ServeOrders, new_token

#: Both pods end by themselves long after they are needed, should nobody be left who deletes them.
LIFETIME_S = 300
#: How Cilium calls what a policy dropped (pkg/monitor/api/drop.go).
POLICY_DENIED = "Policy denied"


def unreachable_families(api: ClusterApi, plan: Plan, pair: NodePair, run_key: str) -> dict[Family, str]:
    """Return family → reason for each family of ``plan`` over which the pods did not reach each other.

    The pods are those of a measurement, marked with ``run_key``, and deleted at the end. Raises PodFailed if one
    of them does not start.
    """
    families = families_of(plan)
    denied = _denied(api, pair)
    try:
        server = pods.create_pod(api, server_pod(plan, pair, run_key, new_token()))["metadata"]["name"]
        found = pods.pod_addresses(pods.wait_ready(api, server))
        addresses: dict[Family, str] = {family: found[family] for family in families if family in found}
        lacking: dict[Family, str] = {
            family: f"the pod on {pair.server.name} has no {family} address"
            for family in families
            if family not in addresses
        }
        if not addresses:
            return lacking
        client = pods.create_pod(api, client_pod(plan, pair, run_key, addresses))["metadata"]["name"]
        pods.wait_ended(api, client)
        reach = parse_log(api.logs(pods.BENCH_NAMESPACE, client, pods.CONTAINER)).reach
    finally:
        pods.delete_pods(api, run_key=run_key)
    if reach is None:
        raise pods.PodFailed(f"the pod on {pair.client.name} did not say whether it reached {pair.server.name}")
    if not reach.unreachable:
        return lacking
    now = _denied(api, pair)
    dropped = {name: now[name] - denied[name] for name in now if now[name] > denied.get(name, now[name])}
    why = "".join(
        f"; Cilium on {name} dropped {count} packets meanwhile: {POLICY_DENIED}" for name, count in dropped.items()
    )
    return {**lacking, **{family: f"{reason}{why}" for family, reason in reach.unreachable.items()}}


def _denied(api: ClusterApi, pair: NodePair) -> dict[str, int]:
    """Return node → how many packets its Cilium has dropped for a policy; without those that do not say."""
    cilium = find_cilium(api)
    found = {}
    for name in pair.names:
        agent = agent_pod(api, cilium, name)
        entries = bpf_metrics(api, cilium, agent["metadata"]["name"]) if agent is not None else None
        if entries is not None:
            reasons = [entry for entry in entries if str(entry.get("reason", "")).startswith(POLICY_DENIED)]
            found[name] = sum(int(entry.get("packets") or 0) for entry in reasons)
    return found


def server_pod(plan: Plan, pair: NodePair, run_key: str, token: str) -> JsonObject:
    """Return the pod that is connected to; nobody needs its ``token``, since nothing is asked."""
    return _pod("server", plan, pair.server.name, ServeOrders(token=token, lifetime_s=LIFETIME_S), run_key)


def client_pod(plan: Plan, pair: NodePair, run_key: str, addresses: Mapping[Family, str]) -> JsonObject:
    """Return the pod that connects to ``addresses``, by family."""
    return _pod("client", plan, pair.client.name, ReachOrders(server=dict(addresses)), run_key)


def _pod(role: pods.Role, plan: Plan, node: str, orders: ServeOrders | ReachOrders, run_key: str) -> JsonObject:
    pod = pods.build_pod(
        role,
        image=plan.image,
        node=node,
        orders=orders.to_argument(),
        deadline_s=LIFETIME_S,
        labels={pods.RUN_LABEL: pods.run_label(run_key)},
        pull_secrets=plan.image_pull_secrets,
    )
    pod["metadata"]["generateName"] = f"bigtcp-reach-{role}-"
    return pod
