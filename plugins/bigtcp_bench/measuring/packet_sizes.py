"""The packet sizes of one block: a short stream between two pods of their own, captured at both ends.

Never during a repetition, for a capture costs CPU. Pods of their own, because a user other than root gets no
CAP_NET_RAW in Kubernetes even where it is asked for, and the pods that measure shall have no rights at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bigtcp_bench.cluster import pods
from bigtcp_bench.cluster.api import Before, ClusterApi, JsonObject
from bigtcp_bench.cluster.cilium import AGENT_READY_MAX_S
from bigtcp_bench.cluster.nodes import NodePair, Place
from bigtcp_bench.cluster.services import close_service, open_service
from bigtcp_bench.errors import MeasurementFailed
from bigtcp_bench.measuring.generation import GENERATION_LABEL
from bigtcp_bench.planning.plan import CAPTURE_S, Block, Plan, captured_places, captured_ways
from bigtcp_bench.readings.agent_log import Captured, parse_log
from bigtcp_bench.readings.orders import CaptureOrders, Orders, ServeOrders, new_token

#: The image is on both nodes already, since they were probed with it.
_START_S = 60.0
#: In place of addresses that are not known yet: they decide nothing but how long it may take.
_ANY_ADDRESSES = {"ipv4": "127.0.0.1", "ipv6": "::1"}


def places(plan: Plan, pair: NodePair, block: Block) -> list[Place]:
    """Return the pairs of pods that capture in ``block``; on each single node on which its generations are."""
    sender, receiver = pair.names
    ways = captured_ways(plan)
    alone = tuple(way for way in ways if way.path == "same-node")
    between = tuple(way for way in ways if way.path != "same-node")
    found = [Place(sender, receiver, between)] if between else []
    if alone:
        nodes = [pair.names[node] for node in captured_places(alone[0], block)]
        found += [Place(node, node, alone) for node in nodes]
    return found


class PacketSizes:
    """The captures of one block. Pods that receive may start before the arm is in force on all nodes."""

    def __init__(
        self,
        api: ClusterApi,
        plan: Plan,
        pair: NodePair,
        *,
        run_key: str,
        block: Block,
        before: Before | None = None,
    ) -> None:
        """Keep what is to be captured; ``before`` is that of ClusterApi.create."""
        self._api, self._before = api, before
        self._pods = CapturePods(plan, run_key, block)
        self.ways = captured_ways(plan)
        self.scenarios = plan.scenarios
        self._places = places(plan, pair, block)
        #: Place → the pod that receives there and its token, once it was created.
        self._servers: dict[Place, tuple[str, str]] = {}

    def begin(self, node: str | None = None) -> None:
        """Create the pods that receive on ``node``, on which the arm must be in force; on all without it."""
        for number, place in enumerate(self._places):
            if place not in self._servers and node in (None, place.receiver):
                token = new_token()
                pod = self._pods.server(place, token)
                # A Service leads to one of them.
                pod["metadata"]["labels"][GENERATION_LABEL] = f"capture-{number}"
                created = pods.create_pod(self._api, pod, before=self._before)
                self._servers[place] = created["metadata"]["name"], token

    def measure(self) -> list[Captured]:
        """Return what was captured on each way that the plan wants captured; its pods may still be ending then.

        May be called again. Raises MeasurementFailed or PodFailed, in one sentence, if nothing was captured.
        """
        captured: list[Captured] = []
        try:
            self.begin()
            for place in self._places:
                captured += self._captured_at(place)
        finally:
            self.end()
        if all(one.error is not None for one in captured):
            raise MeasurementFailed(
                "; ".join(str(one.error) for one in captured) or "the client printed no capture"
            )
        return captured

    def end(self) -> None:
        """Delete all pods of the run, and do not wait for that."""
        self._servers.clear()
        pods.delete_pods(self._api, run_key=self._pods.run_key, wait=False)

    def _captured_at(self, place: Place) -> list[Captured]:
        api = self._api
        receiver, token = self._servers[place]
        server = pods.wait_addressed(api, receiver, _START_S, in_service=place.has_service)
        found = pods.pod_addresses(server)
        wanted = {family: found[family] for family in place.families if family in found}
        if not wanted:
            raise MeasurementFailed(f"the pod that receives has no {' or '.join(place.families)} address")
        service = open_service(api, server) if place.has_service else {}
        client, orders = self._pods.client(place, wanted, token, service)
        name = pods.create_pod(api, client, before=self._before)["metadata"]["name"]
        pods.wait_ready(api, receiver, _START_S)
        # That is no load to speak of: no figure of a capture depends on what else the nodes do.
        pods.wait_ended(api, name, orders.time_limit_s + _START_S, pods.START_POLL_S)
        captures = parse_log(pods.log_of(api, name), orders).captures
        if service:
            close_service(api, server)
        return [one.model_copy(update={"node": place.sender}) for one in captures]


@dataclass(frozen=True)
class CapturePods:
    """The pods that capture in one block of a run, to be created."""

    plan: Plan
    run_key: str
    block: Block

    def server(self, place: Place, token: str) -> JsonObject:
        """Return the pod that receives; it answers only to whom has ``token``."""
        limit_s = self._orders(place, _ANY_ADDRESSES, token, _ANY_ADDRESSES).time_limit_s
        # Meanwhile another agent may restart, and up to two other places come first.
        lifetime_s = int(AGENT_READY_MAX_S + _START_S) + 3 * limit_s
        return self._pod("server", place.receiver, ServeOrders(token=token, lifetime_s=lifetime_s), lifetime_s)

    def client(
        self, place: Place, addresses: Mapping[Any, str], token: str, service: Mapping[Any, str]
    ) -> tuple[JsonObject, CaptureOrders]:
        """Return the pod that sends, and what it is told; ``addresses`` are the server's by family."""
        orders = self._orders(place, addresses, token, service)
        return self._pod("client", place.sender, orders, orders.time_limit_s), orders

    def _orders(
        self, place: Place, addresses: Mapping[Any, str], token: str, service: Mapping[Any, str]
    ) -> CaptureOrders:
        return CaptureOrders.model_validate(
            {
                "token": token,
                "run_key": self.run_key,
                "block": self.block.number,
                "arm": self.block.arm,
                "server": dict(addresses),
                "service": dict(service),
                "ways": [way for way in place.ways if way.family in addresses],
                "duration_s": CAPTURE_S,
            }
        )

    def _pod(self, role: pods.Role, node: str, orders: Orders, deadline_s: int) -> JsonObject:
        """Return the pod of ``role`` with the one capability that a capture needs, which only root is given."""
        labels = pods.run_labels(self.run_key)
        pod = pods.plan_pod(role, self.plan, node, orders, deadline_s=deadline_s, labels=labels)
        pod["metadata"]["generateName"] = f"bigtcp-capture-{role}-"
        pod["spec"]["securityContext"].update(runAsNonRoot=False, runAsUser=0, runAsGroup=0)
        pod["spec"]["containers"][0]["securityContext"]["capabilities"] = {"drop": ["ALL"], "add": ["NET_RAW"]}
        return pod


def rows(captured: Sequence[Captured]) -> Iterator[dict[str, Any]]:
    """Yield what was captured as rows of the warehouse, one for each size that there was."""
    for one in captured:
        for end, sizes in (("sender", one.sender), ("receiver", one.receiver)):
            for direction in ("sent", "received") if sizes is not None else ():
                for bucket in getattr(sizes, direction):
                    way = {"family": one.family, "path": one.path, "node": one.node}
                    place = {"block": one.block, "arm": one.arm, **way}
                    yield {**place, "end": end, "direction": direction, **bucket.model_dump()}


def losses(captured: Sequence[Captured]) -> Iterator[str]:
    """Yield a sentence for each way that was not captured, and for each end at which packets were missed."""
    for one in captured:
        if one.error is not None:
            yield f"the packets of {one.way} were not captured: {one.error}"
        for end, sizes in (("sender", one.sender), ("receiver", one.receiver)):
            if sizes is not None and sizes.dropped:
                missed = f"{sizes.dropped:,} of {sizes.seen:,} packets"
                yield f"the capture of {one.way} missed {missed} at the {end}"
