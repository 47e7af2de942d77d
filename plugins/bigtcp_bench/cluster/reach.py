"""Whether a fresh pod on one node reaches a fresh pod on the other, over every IP family of the plan."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from bigtcp_bench.cluster import pods
from bigtcp_bench.cluster.api import ClusterApi
from bigtcp_bench.cluster.bigtcp_switch import families_of
from bigtcp_bench.cluster.nodes import NodePair
from bigtcp_bench.plan import Family, Plan
from bigtcp_bench.pods.orders import ReachOrders, ServeOrders
from bigtcp_bench.pods.results import parse_log

#: Both pods end by themselves long after they are needed, should nobody be left who deletes them.
LIFETIME_S = 300


@contextlib.contextmanager
def reaching(
    api: ClusterApi, plan: Plan, pair: NodePair, run_key: str
) -> Iterator[Callable[[], dict[Family, str]]]:
    """Start a server pod and yield the function that connects to it: it returns family → reason where that failed.

    The pods are those of a measurement, marked with ``run_key``; they are deleted at the end. The function raises
    PodFailed if one of them does not start.
    """
    labels = {pods.RUN_LABEL: pods.run_label(run_key)}
    pods.ensure_namespace(api)
    pods.ensure_agent_configmap(api)

    def create(role: pods.Role, node: str, orders: ServeOrders | ReachOrders) -> str:
        pod = pods.build_pod(
            role,
            image=plan.image,
            node=node,
            orders=orders.to_argument(),
            deadline_s=LIFETIME_S,
            labels=labels,
            pull_secrets=plan.image_pull_secrets,
        )
        pod["metadata"]["generateName"] = f"bigtcp-reach-{role}-"
        return str(pods.create_pod(api, pod)["metadata"]["name"])

    def connect() -> dict[Family, str]:
        found = pods.pod_addresses(pods.wait_ready(api, server))
        addresses: dict[Family, str] = {family: found[family] for family in families if family in found}
        unreachable: dict[Family, str] = {
            family: f"the pod on {pair.server.name} has no {family} address"
            for family in families
            if family not in addresses
        }
        if not addresses:
            return unreachable
        client = create("client", pair.client.name, ReachOrders(server=addresses))
        pods.wait_ended(api, client)
        reach = parse_log(api.logs(pods.BENCH_NAMESPACE, client, pods.CONTAINER)).reach
        if reach is None:
            raise pods.PodFailed(
                f"the pod on {pair.client.name} did not say whether it reached {pair.server.name}"
            )
        return {**unreachable, **reach.unreachable}

    families = families_of(plan)
    try:
        server = create("server", pair.server.name, ServeOrders(lifetime_s=LIFETIME_S))
        yield connect
    finally:
        pods.delete_pods(api, run_key=run_key)
