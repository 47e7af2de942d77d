"""The packet sizes of one block: a short stream between two pods of their own, captured at both ends.

Never during a repetition, for a capture costs CPU. Pods of their own, because a user other than root gets no
CAP_NET_RAW in Kubernetes even where it is asked for, and the pods that measure shall have no rights at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bigtcp_bench.cluster import pods
from bigtcp_bench.cluster.api import ClusterApi, JsonObject
from bigtcp_bench.cluster.nodes import NodePair
from bigtcp_bench.errors import MeasurementFailed
from bigtcp_bench.planning.plan import CAPTURE_S, Arm, Plan, captured_ways
from bigtcp_bench.readings.agent_log import Captured, parse_log
from bigtcp_bench.readings.orders import CaptureOrders, ServeOrders, new_token

#: The image is on both nodes already, since they were probed with it.
_START_S = 60.0
#: In place of addresses that are not known yet: they decide nothing but how long it may take.
_ANY_ADDRESSES = {"ipv4": "127.0.0.1", "ipv6": "::1"}


def measure_packet_sizes(
    api: ClusterApi, plan: Plan, pair: NodePair, *, run_key: str, block: int, arm: Arm
) -> list[Captured]:
    """Return what was captured over each IP family of ``plan`` that the pods have; leaves no pod behind.

    Raises MeasurementFailed or PodFailed, in one sentence, if nothing was captured at all.
    """
    try:
        token = new_token()
        server = pods.create_pod(api, server_pod(plan, pair, run_key, block, arm, token))
        addresses = pods.pod_addresses(pods.wait_ready(api, server["metadata"]["name"], _START_S))
        wanted = {family: address for family, address in addresses.items() if family in families(plan)}
        if not wanted:
            raise MeasurementFailed(f"the pod that receives has no {' or '.join(families(plan))} address")
        client, orders = client_pod(plan, pair, run_key, block, arm, wanted, token)
        name = pods.create_pod(api, client)["metadata"]["name"]
        pods.wait_ended(api, name, orders.time_limit_s + _START_S)
        captured = parse_log(api.logs(pods.BENCH_NAMESPACE, name, pods.CONTAINER), orders).captures
    finally:
        pods.delete_pods(api, run_key=run_key)
    if all(one.error is not None for one in captured):
        raise MeasurementFailed("; ".join(str(one.error) for one in captured) or "the client printed no capture")
    return captured


def families(plan: Plan) -> list[str]:
    """Return the IP families over which ``plan`` captures a stream in every block, sorted."""
    return sorted({way.family for way in captured_ways(plan)})


def server_pod(plan: Plan, pair: NodePair, run_key: str, block: int, arm: Arm, token: str) -> JsonObject:
    """Return the pod that receives, to be created; it answers only to whom has ``token``."""
    lifetime_s = _orders(run_key, block, arm, _ANY_ADDRESSES, token).time_limit_s + int(_START_S)
    orders = ServeOrders(token=token, lifetime_s=lifetime_s)
    return _pod("server", plan, pair.server.name, orders, lifetime_s, run_key)


def client_pod(
    plan: Plan, pair: NodePair, run_key: str, block: int, arm: Arm, addresses: Mapping[Any, str], token: str
) -> tuple[JsonObject, CaptureOrders]:
    """Return the pod that sends, to be created, and what it is told; ``addresses`` are the server's by family."""
    orders = _orders(run_key, block, arm, addresses, token)
    return _pod("client", plan, pair.client.name, orders, orders.time_limit_s, run_key), orders


def rows(captured: Sequence[Captured]) -> Iterator[dict[str, Any]]:
    """Yield what was captured as rows of the warehouse, one for each size that there was."""
    for one in captured:
        for end, sizes in (("sender", one.sender), ("receiver", one.receiver)):
            for direction in ("sent", "received") if sizes is not None else ():
                for bucket in getattr(sizes, direction):
                    place = {"block": one.block, "arm": one.arm, "family": one.family}
                    yield {**place, "end": end, "direction": direction, **bucket.model_dump()}


def losses(captured: Sequence[Captured]) -> Iterator[str]:
    """Yield a sentence for each family that was not captured, and for each end at which packets were missed."""
    for one in captured:
        if one.error is not None:
            yield f"the packets of {one.family} were not captured: {one.error}"
        for end, sizes in (("sender", one.sender), ("receiver", one.receiver)):
            if sizes is not None and sizes.dropped:
                missed = f"{sizes.dropped:,} of {sizes.seen:,} packets"
                yield f"the capture of {one.family} missed {missed} at the {end}"


def _orders(run_key: str, block: int, arm: Arm, addresses: Mapping[Any, str], token: str) -> CaptureOrders:
    context = {"token": token, "run_key": run_key, "block": block, "arm": arm}
    return CaptureOrders.model_validate({**context, "server": dict(addresses), "duration_s": CAPTURE_S})


def _pod(
    role: pods.Role, plan: Plan, node: str, orders: ServeOrders | CaptureOrders, deadline_s: int, run_key: str
) -> JsonObject:
    """Return the pod of ``role`` with the one capability that a capture needs, which only root is given."""
    pod = pods.build_pod(
        role,
        image=plan.image,
        node=node,
        orders=orders.to_argument(),
        deadline_s=deadline_s,
        labels={pods.RUN_LABEL: pods.run_label(run_key)},
        pull_secrets=plan.image_pull_secrets,
    )
    pod["metadata"]["generateName"] = f"bigtcp-capture-{role}-"
    pod["spec"]["securityContext"].update(runAsNonRoot=False, runAsUser=0, runAsGroup=0)
    pod["spec"]["containers"][0]["securityContext"]["capabilities"] = {"drop": ["ALL"], "add": ["NET_RAW"]}
    return pod
