"""The control: small requests and responses between the two nodes themselves, which BIG TCP cannot touch.

Both pods share their node's network namespace, so that neither the pods' datapath nor any limit of a device has a
part in it. What moves the control is the infrastructure: nodes, kernels, cables.
"""

from __future__ import annotations

from bigtcp_bench.cluster import pods
from bigtcp_bench.cluster.api import ClusterApi, JsonObject
from bigtcp_bench.cluster.nodes import NodeInfo, NodePair
from bigtcp_bench.errors import MeasurementFailed
from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.planning.plan import CONTROL_MAX_S, Arm, Family, Plan, control_scenario
from bigtcp_bench.readings.agent_log import parse_log
from bigtcp_bench.readings.measurements import Measurement, measurements, problems
from bigtcp_bench.readings.orders import MeasureOrders, ServeOrders, new_token

#: On the nodes themselves, so not the ports of iperf3 and its like, where something else may listen.
IPERF_PORT, RR_PORT, CONTROL_PORT = 15201, 15202, 15203
_FAMILIES: tuple[Family, Family] = ("ipv4", "ipv6")
_OMIT_S = 1
#: The image is on both nodes already, since they were probed with it.
_START_S = 60.0


def measure_control(
    api: ClusterApi, plan: Plan, pair: NodePair, *, run_key: str, block: int, arm: Arm
) -> list[Measurement]:
    """Return transactions per second and latencies between the nodes of ``pair``; leaves no pod behind.

    Raises MeasurementFailed or PodFailed, in one sentence, if there is no such measurement.
    """
    server, client, orders = control_pods(plan, pair, run_key, block, arm, new_token())
    try:
        # Both start at once: the server's address is its node's, and the client tries until it listens.
        serving, name = (pods.create_pod(api, pod)["metadata"]["name"] for pod in (server, client))
        pods.wait_ready(api, serving, _START_S)
        pods.wait_ended(api, name, orders.time_limit_s + _START_S)
        log = pods.log_of(api, name)
    finally:
        pods.delete_pods(api, run_key=run_key)
    return _measured(log, orders)


def control_pods(
    plan: Plan, pair: NodePair, run_key: str, block: int, arm: Arm, token: str
) -> tuple[JsonObject, JsonObject, MeasureOrders]:
    """Return the pod that answers, the pod that asks, and what the latter is told; both have ``token``.

    Raises MeasurementFailed if the nodes have no address of the same family.
    """
    family, address = _server_address(pair)
    orders = MeasureOrders(
        token=token,
        iperf_port=IPERF_PORT,
        rr_port=RR_PORT,
        control_port=CONTROL_PORT,
        run_key=run_key,
        block=block,
        arm=arm,
        generation=1,
        server={family: address},
        scenarios=(control_scenario(family),),
        repetitions=1,
        duration_s=min(plan.duration_s, CONTROL_MAX_S),
        omit_s=_OMIT_S,
        rate_bps=plan.rate_bps,
        request_bytes=plan.request_bytes,
    )
    lifetime_s = orders.time_limit_s + int(_START_S)
    serve = ServeOrders(
        token=token,
        # Of all that the node has, the one that the client asks.
        addresses=(address,),
        iperf_port=IPERF_PORT,
        rr_port=RR_PORT,
        control_port=CONTROL_PORT,
        families=(family,),
        lifetime_s=lifetime_s,
    )
    server = _node_pod("server", plan, pair.server, serve, lifetime_s, run_key)
    client = _node_pod("client", plan, pair.client, orders, orders.time_limit_s, run_key)
    return server, client, orders


def _server_address(pair: NodePair) -> tuple[Family, str]:
    for family in _FAMILIES:
        found = [[ip for ip in node.internal_ips if (":" in ip) == (family == "ipv6")] for node in pair.nodes]
        if all(found):
            return family, found[1][0]
    raise MeasurementFailed(f"nodes {' and '.join(pair.names)} have no InternalIP of the same family")


def _node_pod(
    role: pods.Role, plan: Plan, node: NodeInfo, orders: ServeOrders | MeasureOrders, deadline_s: int, run_key: str
) -> JsonObject:
    """Return the pod of ``role`` in the network namespace of its node."""
    labels = pods.run_labels(run_key)
    pod = pods.plan_pod(role, plan, node.name, orders, deadline_s=deadline_s, labels=labels)
    pod["metadata"]["generateName"] = f"bigtcp-control-{role}-"
    spec, container = pod["spec"], pod["spec"]["containers"][0]
    spec.update(hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet")
    # Declared ports would be host ports, for which the scheduler waits; a port in use is to be said at once.
    container.pop("ports", None)
    for probe in ("startupProbe", "readinessProbe"):
        if probe in container:
            # The kubelet would ask the node's first address.
            (address,) = orders.addresses if isinstance(orders, ServeOrders) else (None,)
            container[probe]["tcpSocket"] = {"port": CONTROL_PORT, "host": address}
    return pod


def _measured(log: str, orders: MeasureOrders) -> list[Measurement]:
    found = parse_log(log, orders)
    repetitions = found.repetitions
    if not repetitions:
        why = f": {found.damaged[0]}" if found.damaged else ""
        raise MeasurementFailed(f"the client of the control printed no measurement{why}")
    wrong = problems(repetitions[0], orders)
    if wrong:
        raise MeasurementFailed(wrong[0])
    own = orders.scenarios[0].kind.metrics
    # The other metrics are of the whole node, which does more than this.
    return [one for one in measurements(repetitions[0]) if METRICS[one.metric] in own]
