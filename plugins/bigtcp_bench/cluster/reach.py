"""Whether fresh pods reach each other on every way of the plan: between the nodes, on each, through a Service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bigtcp_bench.cluster import pods
from bigtcp_bench.cluster.api import ClusterApi, JsonObject
from bigtcp_bench.cluster.cilium import agent_pod, find_cilium
from bigtcp_bench.cluster.node_counters import bpf_metrics
from bigtcp_bench.cluster.nodes import NodePair, Place
from bigtcp_bench.cluster.services import SERVICE_NAME, close_service, open_service
from bigtcp_bench.planning.plan import SCENARIOS, Plan, Way
from bigtcp_bench.readings.agent_log import parse_log
from bigtcp_bench.readings.orders import ReachOrders, ServeOrders, new_token

#: Both pods end by themselves long after they are needed, should nobody be left who deletes them.
LIFETIME_S = 300
#: How Cilium calls what a policy dropped (pkg/monitor/api/drop.go).
POLICY_DENIED = "Policy denied"


def places(plan: Plan, pair: NodePair) -> list[Place]:
    """Return the pairs of pods that try every way of ``plan``: between the nodes, and on each of them alone."""
    ways = dict.fromkeys(SCENARIOS[name].way for name in plan.scenarios)
    # Through a Service as well the client asks the pod itself first.
    between = [Way(way.family) for way in ways if way.path != "same-node"]
    between += [way for way in ways if way.path == "service"]
    alone = tuple(way for way in ways if way.path == "same-node")
    found = [Place(*pair.names, tuple(dict.fromkeys(between)))] if between else []
    return found + [Place(name, name, alone) for name in pair.names if alone]


def unreachable_ways(api: ClusterApi, plan: Plan, pair: NodePair, run_key: str) -> dict[Way, str]:
    """Return way → reason for each way of ``plan`` on which the pods did not reach each other.

    The pods are those of a measurement, marked with ``run_key``, and deleted at the end. Raises PodFailed if one
    of them does not start.
    """
    denied = _denied(api, pair)
    found: dict[Way, str] = {}
    now: dict[str, int] = {}
    try:
        for place in places(plan, pair):
            lacking, unreachable = _tried(api, plan, place, run_key)
            found = {**unreachable, **lacking, **found}
            now = _denied(api, pair) if unreachable else now
    finally:
        pods.delete_pods(api, run_key=run_key)
    dropped = {name: now[name] - denied[name] for name in now if now[name] > denied.get(name, now[name])}
    why = "".join(
        f"; Cilium on {name} dropped {count} packets meanwhile: {POLICY_DENIED}" for name, count in dropped.items()
    )
    return {way: f"{reason}{why}" for way, reason in found.items()}


def _tried(api: ClusterApi, plan: Plan, place: Place, run_key: str) -> tuple[dict[Way, str], dict[Way, str]]:
    """Return the ways of ``place`` that have no address, and those on which it was not reached, with reasons."""
    created = pods.create_pod(api, server_pod(plan, place, run_key, new_token()))
    server = pods.wait_addressed(api, created["metadata"]["name"], in_service=place.has_service)
    own = pods.pod_addresses(server)
    lacking = {
        way: f"the pod on {place.receiver} has no {way.family} address"
        for way in place.ways
        if way.family not in own
    }
    service: dict[str, str] = {}
    if place.has_service:
        try:
            service = open_service(api, server)
        except pods.PodFailed as error:
            lacking |= {way: str(error) for way in place.ways if way.path == "service"}
        lacking |= {
            way: f"Service {SERVICE_NAME} has no {way.family} address, so the cluster gives Services none"
            for way in place.ways
            if way.path == "service" and way not in lacking and way.family not in service
        }
    wanted: dict[Any, str] = {way.family: own[way.family] for way in place.ways if way.family in own}
    if not wanted:
        return lacking, {}
    client = pods.create_pod(api, client_pod(plan, place, run_key, wanted, service))["metadata"]["name"]
    pods.wait_ready(api, created["metadata"]["name"])
    pods.wait_ended(api, client)
    reach = parse_log(pods.log_of(api, client)).reach
    if reach is None:
        raise pods.PodFailed(f"the pod on {place.sender} did not say whether it reached {place.receiver}")
    if service:
        close_service(api, server)
    reasons = {"service": reach.service}
    unreachable = {
        way: reasons.get(way.path, reach.unreachable)[way.family]
        for way in place.ways
        if way not in lacking and way.family in reasons.get(way.path, reach.unreachable)
    }
    return lacking, unreachable


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


def server_pod(plan: Plan, place: Place, run_key: str, token: str) -> JsonObject:
    """Return the pod that is connected to; nobody needs its ``token``, since nothing is asked."""
    return _pod("server", plan, place.receiver, ServeOrders(token=token, lifetime_s=LIFETIME_S), run_key)


def client_pod(
    plan: Plan, place: Place, run_key: str, addresses: Mapping[Any, str], service: Mapping[Any, str]
) -> JsonObject:
    """Return the pod that connects to ``addresses``, by family, and to those of the Service."""
    orders = ReachOrders.model_validate({"server": dict(addresses), "service": dict(service)})
    return _pod("client", plan, place.sender, orders, run_key)


def _pod(role: pods.Role, plan: Plan, node: str, orders: ServeOrders | ReachOrders, run_key: str) -> JsonObject:
    pod = pods.plan_pod(role, plan, node, orders, deadline_s=LIFETIME_S, labels=pods.run_labels(run_key))
    pod["metadata"]["generateName"] = f"bigtcp-reach-{role}-"
    return pod
