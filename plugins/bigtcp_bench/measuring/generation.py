"""One generation: what is measured by one fresh pair of pods, and the two pods that it takes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from bigtcp_bench.errors import BenchError
from bigtcp_bench.in_cluster import protocol
from bigtcp_bench.planning.plan import Arm

if TYPE_CHECKING:
    from bigtcp_bench.cluster.api import ClusterApi
    from bigtcp_bench.cluster.lease import Fence
    from bigtcp_bench.planning.plan import Block, Plan
    from bigtcp_bench.readings.orders import MeasureOrders

GENERATION_LABEL = "bigtcp-bench/generation"
#: Of probes that are started before somebody looks: at which end of which block.
LOOK_LABEL = "bigtcp-bench/look"
#: A server that was prepared longer ago is not taken: its end would come too early.
PREPARED_S = 60


class Generation(BaseModel):
    """What one mapped task measures; written by the switch task, as plain data, for the tasks after it."""

    # Not built when DAG files are parsed, which is every few seconds.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    #: The run's number in the warehouse, and its name as holder of the cluster.
    run: int
    run_key: str
    block: int
    arm: Arm
    #: From 1 within the block.
    generation: int
    #: From 0 within all blocks of the arm: which of the shuffled orders of scenarios is used.
    arm_generation: int
    client_node: str
    server_node: str
    #: What it measures; empty, of an older package: all of the plan.
    scenarios: tuple[str, ...] = ()
    #: What tells the plan and the nodes with which the run has begun (``judging.attempts.choice_of``).
    choice: str = ""
    #: That of the same block which is measured next; it knows of no other.
    next: Generation | None = None

    @property
    def label(self) -> str:
        """Return the value of the pods' generation label."""
        return f"{self.block}-{self.generation}"

    @property
    def has_service(self) -> bool:
        """Return whether something of it goes through a Service."""
        from bigtcp_bench.planning.plan import SCENARIOS

        return any(SCENARIOS[name].path == "service" for name in self.scenarios)

    @property
    def labels(self) -> dict[str, str]:
        """Return the labels by which the pods of this generation are found."""
        from bigtcp_bench.cluster.pods import run_labels

        return {**run_labels(self.run_key), GENERATION_LABEL: self.label}

    def __str__(self) -> str:
        return f"block {self.block} ({self.arm}), generation {self.generation}"


def generations_of(
    block: Block,
    *,
    run: int,
    run_key: str,
    nodes: tuple[str, str],
    scenarios: Sequence[str],
    choice: str = "",
) -> list[Generation]:
    """Return the generations of ``block`` that measure ``scenarios``, in order, each with the next.

    ``nodes`` are the names of the sender and the receiver; both pods of a generation on one node are on each of
    them in turn.
    """
    from bigtcp_bench.planning.plan import place_of, shares_node, turns

    found = []
    for number, turn, names in turns(block, scenarios):
        sender, receiver = nodes
        if shares_node(names):
            sender = receiver = nodes[place_of(block, turn)]
        found.append(
            Generation(
                run=run,
                run_key=run_key,
                block=block.number,
                arm=block.arm,
                generation=number,
                arm_generation=block.arm_offset + turn,
                client_node=sender,
                server_node=receiver,
                scenarios=names,
                choice=choice,
            )
        )
    following = [*found[1:], None]
    return [one.model_copy(update={"next": after}) for one, after in zip(found, following, strict=True)]


def orders_of(
    generation: Generation,
    plan: Plan,
    addresses: Mapping[Any, str],
    token: str,
    service: Mapping[Any, str] | None = None,
) -> MeasureOrders:
    """Return what the client pod is told; ``addresses`` are the server pod's by IP family, and its Service's."""
    from bigtcp_bench.planning.plan import scenario_order
    from bigtcp_bench.readings.orders import MeasureOrders

    if generation.scenarios:
        plan = plan.model_copy(update={"scenarios": generation.scenarios})
    return MeasureOrders.model_validate(
        {
            "token": token,
            "run_key": generation.run_key,
            "block": generation.block,
            "arm": generation.arm,
            "generation": generation.generation,
            "server": dict(addresses),
            "service": dict(service or {}),
            "scenarios": scenario_order(plan, plan.seed or generation.run, generation.arm_generation),
            "repetitions": plan.repetitions,
            "duration_s": plan.duration_s,
            "omit_s": plan.omit_s,
            "rate_bps": plan.rate_bps,
            "request_bytes": plan.request_bytes,
        }
    )


def server_pod(generation: Generation, plan: Plan, token: str) -> dict[str, Any]:
    """Return the pod that receives, to be created; it answers only to whom has ``token``."""
    from bigtcp_bench.cluster import pods
    from bigtcp_bench.readings.orders import ServeOrders

    # No address is known yet; the time limit does not depend on them, only on their number.
    addresses = {"ipv4": "127.0.0.1", "ipv6": "::1"}
    told = orders_of(generation, plan, addresses, token, addresses if generation.has_service else None)
    lifetime_s = told.time_limit_s + int(pods.POD_START_S) + PREPARED_S
    orders = ServeOrders(token=token, lifetime_s=lifetime_s)
    where = generation.server_node
    return pods.plan_pod("server", plan, where, orders, deadline_s=lifetime_s, labels=generation.labels)


def create_server(api: ClusterApi, fence: Fence, generation: Generation, plan: Plan) -> dict[str, Any]:
    """Create the pod that receives, and return it as stored. Raises FenceLost, and what the API says."""
    from bigtcp_bench.cluster import pods
    from bigtcp_bench.readings.orders import new_token

    return pods.create_pod(api, server_pod(generation, plan, new_token()), before=fence.check)


def prepare(api: ClusterApi, fence: Fence, generation: Generation, plan: Plan) -> None:
    """Create the pod that receives before the generation's own task: it starts while Airflow starts that.

    Where that fails the task makes it. Nothing of the run may be measured any more by then.
    """
    with contextlib.suppress(BenchError):
        create_server(api, fence, generation, plan)


def prepare_end(api: ClusterApi, fence: Fence, generation: Generation, plan: Plan, nodes: Sequence[str]) -> None:
    """Begin to look at both nodes after the last generation of a block, while Airflow starts the next task.

    Not where that samples their load as well: Airflow itself may be on them.
    """
    from bigtcp_bench.cluster import probe

    if plan.load_gate.mode == "warn":
        labels = look_labels(generation.run_key, "end", generation.block)
        with contextlib.suppress(BenchError):
            probe.prepare(api, plan, nodes, labels, before=fence.check)


def discard_end(api: ClusterApi, generation: Generation) -> None:
    """Delete the probes of ``prepare_end``: the block has not ended yet."""
    from bigtcp_bench.cluster import probe

    probe.discard(api, look_labels(generation.run_key, "end", generation.block))


def look_labels(run_key: str, moment: Literal["begin", "end"], block: int) -> dict[str, str]:
    """Return the labels of the probes that look at both nodes at one end of a block."""
    from bigtcp_bench.cluster.pods import run_labels

    return {**run_labels(run_key), LOOK_LABEL: f"{moment}-{block}"}


def prepared_server(api: ClusterApi, generation: Generation) -> dict[str, Any] | None:
    """Return the server that was prepared for a generation, if it is not older than PREPARED_S."""
    for pod in servers(api, generation):
        age_s = api.now() - protocol.epoch(pod["metadata"].get("creationTimestamp"))
        if age_s < PREPARED_S and (pod.get("status") or {}).get("phase", "Pending") in ("Pending", "Running"):
            return pod
    return None


def servers(api: ClusterApi, generation: Generation) -> list[dict[str, Any]]:
    """Return the server pods of a generation that are not being deleted."""
    from bigtcp_bench.cluster import pods
    from bigtcp_bench.cluster.api import POD

    wanted = f"{pods.selecting(generation.labels)},{pods.ROLE_LABEL}=server"
    found = api.select(POD, pods.BENCH_NAMESPACE, labels=wanted)
    return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]


def client_pod(generation: Generation, plan: Plan, orders: MeasureOrders) -> dict[str, Any]:
    """Return the pod that sends, to be created."""
    from bigtcp_bench.cluster import pods

    where, limit_s = generation.client_node, orders.time_limit_s
    return pods.plan_pod("client", plan, where, orders, deadline_s=limit_s, labels=generation.labels)
