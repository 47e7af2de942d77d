"""Measures block by block: puts an arm in force and proves it, and reads both nodes at the block's ends."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from bigtcp_bench.airflow import connections
from bigtcp_bench.airflow.steps.step import DagRunStep, Result
from bigtcp_bench.cluster import bigtcp_switch, load, node_counters, pods
from bigtcp_bench.errors import BenchError, SwitchFailed, first_line
from bigtcp_bench.judging.attempts import has_ended, refuse_ended
from bigtcp_bench.measuring import control, packet_sizes
from bigtcp_bench.measuring.generation import generations_of, look_labels, prepare
from bigtcp_bench.monitoring.collect import collect
from bigtcp_bench.planning.plan import (
    Block,
    Way,
    blocks,
    rerun_plan,
    unproven_ways,
    unused_tasks,
)
from bigtcp_bench.progress import say
from bigtcp_bench.readings.agent_log import Captured
from bigtcp_bench.readings.frames import packed

if TYPE_CHECKING:
    from bigtcp_bench.cluster.bigtcp_switch import SwitchReport
    from bigtcp_bench.cluster.lease import Fence


def switch(step: DagRunStep, slot: int) -> list[Result]:
    """Put the arm of this slot's block in force and prove it; return its generations, for the mapped task.

    A slot that no block takes has its other task skipped, and those after it up to the next block.
    """
    refuse_ended(step.warehouse, step.number)
    for block in blocks(step.plan):
        if block.slot == slot:
            return _switched(step, block, "plan")
    say(f"the order {','.join(step.plan.order)} has no block here")
    step.skip(unused_tasks(step.plan, slot)[1:])
    return []


def rerun_switch(step: DagRunStep, slot: int) -> list[Result]:
    """Do what ``switch`` does for a block of the re-run; skips unless there are scenarios to measure again."""
    due = step.run.due()
    if not due:
        raise AirflowSkipException("no scenario is to be measured again")
    if has_ended(step.warehouse.run(step.number)):
        raise AirflowSkipException("the run has ended: what it measured twice, or did not, stays as it is")
    block = step.run.rerun_blocks(due)[slot - 1]
    try:
        return _switched(step, block, "rerun", due)
    except Exception as error:
        reason = f"block {block.number} (re-run): {first_line(error)}"
        row = {"block": block.number, "arm": block.arm, "generation": 1, "reason": reason}
        step.warehouse.store_failures(step.number, [row])
        raise


def collect_counters(step: DagRunStep) -> Result:
    """End the last block; store how much both nodes' counters grew during each, and what Prometheus knows."""
    found = {"counters": store_counters(step, step.planned())}
    store_prometheus(step, step.planned())
    return found


def _switched(step: DagRunStep, block: Block, purpose: str, scenarios: Sequence[str] = ()) -> list[Result]:
    """Put the arm of ``block`` in force and prove it; return its generations."""
    fence = step.fence()
    with fence.renewing():
        fence.check()
        pods.delete_pods(step.api, before=fence.check)
        # Where nodes must be quiet, the look that ends a block tells that, too.
        sample_s = 0.0 if step.plan.load_gate.mode == "warn" else load.LOAD_SAMPLE_S
        seen = _end_block_before(step, block.number, sample_s)
        # What nodes use at rest is known from just before the switch, or else from before the run.
        usual = (step.warehouse.run(step.number)["environment"] or {}).get("busy_cpus") or {}
        usual = usual | load.await_quiet(step.api, step.plan, step.pair, seen, progress=say)
        measured = rerun_plan(step.plan, scenarios) if purpose == "rerun" else step.plan

        sizes = packet_sizes.PacketSizes(
            step.api, measured, step.pair, run_key=step.run_key, block=block, before=fence.check
        )
        # No figure of a capture depends on what else the nodes do; those of the control and of the rest do.
        report, captured = _put_in_force(step, fence, block, purpose, sizes)
        has_control = step.plan.control and purpose == "plan"
        look = look_labels(step.run_key, "begin", block.number)
        if not has_control:
            load.prepare_rest(step.api, step.plan, step.pair, look, before=fence.check)
        _store_packet_sizes(step, block, captured)
        pods.delete_pods(step.api, before=fence.check)
        if has_control:
            step.api.settle(say)
            _measure_control(step, block)
        documents = load.read_at_rest(
            step.api, step.plan, step.pair, usual if report.restarted else {}, prepared=look, progress=say
        )
        _store_nodes(step, block.number, "begin", documents)
        step.warehouse.store_block(
            step.number,
            {
                "block": block.number,
                "arm": block.arm,
                "purpose": purpose,
                "started_at": datetime.now(UTC),
                "finished_at": None,
                "switch_report": report.to_dict(),
            },
        )
        generations = generations_of(
            block,
            run=step.number,
            run_key=step.run_key,
            nodes=step.pair.names,
            scenarios=measured.scenarios,
            choice=step.choice,
        )
        prepare(step.api, fence, generations[0], step.plan)
    return [one.model_dump(mode="json") for one in generations]


def _put_in_force(
    step: DagRunStep, fence: Fence, block: Block, purpose: str, sizes: packet_sizes.PacketSizes
) -> tuple[SwitchReport, list[Captured]]:
    """Switch to the arm of ``block`` and capture packets; what was found of an arm not proven is kept.

    The diagnosis reads it.
    """
    captured: list[Captured] = []

    def begin(node: str) -> None:
        # Why it cannot be created is told when it is missed.
        with contextlib.suppress(BenchError):
            sizes.begin(node)

    def capture() -> None:
        # Neither captures nor the control are tried again later.
        step.api.settle(say)
        captured[:] = _packet_sizes(block, sizes)

    say(f"block {block.number}: switching BIG TCP {block.arm}")
    try:
        report = bigtcp_switch.switch(
            step.api,
            fence,
            block.arm,
            step.pair,
            step.plan,
            force_restart=step.plan.is_aa,
            in_force=begin,
            meanwhile=capture if sizes.ways else lambda: None,
            progress=say,
        )
    except SwitchFailed as error:
        if error.report and purpose == "plan":
            row = {"block": block.number, "arm": block.arm, "switch_report": error.report}
            step.warehouse.store_block(step.number, row)
        raise
    return report, captured


def _measure_control(step: DagRunStep, block: Block) -> None:
    """Store the control of ``block``; one that fails is said and missing, and the block goes on."""
    try:
        measured = control.measure_control(
            step.api, step.plan, step.pair, run_key=step.run_key, block=block.number, arm=block.arm
        )
    except BenchError as error:
        say(f"block {block.number} has no control: {first_line(error)}")
        return
    key = {"block": block.number, "arm": block.arm, "generation": 0}
    step.warehouse.store_results(step.number, [{**key, **asdict(one)} for one in measured])
    value = next((one.value for one in measured if one.metric == "transactions_per_s"), None)
    if value is not None:
        say(f"block {block.number}: the control has {value:,.0f} transactions/s between the nodes themselves")


def _packet_sizes(block: Block, sizes: packet_sizes.PacketSizes) -> list[Captured]:
    """Return what was captured in ``block``; a capture that fails is said and missing, and the block goes on.

    Where nothing else proves what BIG TCP does, it is tried once more.
    """
    needed = set(unproven_ways(sizes.scenarios))
    found: dict[tuple[Way, str], Captured] = {}
    for _ in range(2 if needed else 1):
        try:
            captured = sizes.measure()
        except BenchError as error:
            say(f"block {block.number} has no packet sizes: {first_line(error)}")
            continue
        for loss in packet_sizes.losses(captured):
            say(f"block {block.number}: {loss}")
        for one in captured:
            if one.error is None or (one.way, one.node) not in found:
                found[one.way, one.node] = one
        failed = {one.way for one in found.values() if one.error is not None}
        if needed <= {way for way, _ in found} - failed:
            break
    return list(found.values())


def _store_packet_sizes(step: DagRunStep, block: Block, captured: Sequence[Captured]) -> None:
    """Store what was captured in ``block``, once its arm is proven."""
    step.warehouse.store_packet_sizes(step.number, packet_sizes.rows(captured))
    key = {"block": block.number, "generation": 0}
    step.warehouse.store_raw(step.number, [{**key, "kind": one.kind, "document": one.stored} for one in captured])


def store_counters(step: DagRunStep, of_blocks: Sequence[Block]) -> int:
    """End the last of ``of_blocks``, and store the growth of both nodes' counters during each."""
    fence = step.fence()
    with fence.renewing():
        _end_block_before(step, of_blocks[-1].number + 1)
    documents = {
        (document.block, document.kind): document
        for document in step.warehouse.raw_documents(step.number)
        if document.kind.startswith("node-")
    }
    rows, gaps = node_counters.deltas(documents, {block.number: block.arm for block in of_blocks})
    for gap in gaps:
        say(gap)
    step.warehouse.store_counters(step.number, rows)
    return len(rows)


def store_prometheus(step: DagRunStep, of_blocks: Sequence[Block]) -> None:
    """Store what Prometheus knows of ``of_blocks``, where there is a connection to it."""
    names = [name for node in step.pair.nodes for name in (node.name, *node.internal_ips)]
    numbers = [block.number for block in of_blocks]
    settings = connections.prometheus_settings
    for line in collect(step.warehouse, step.number, numbers, names, step.cluster, settings):
        say(line)


def _end_block_before(step: DagRunStep, number: int, sample_s: float = 0) -> dict[str, dict[str, Any]] | None:
    """Note the end of the block before ``number``, once, with both nodes' counters.

    Returns their documents, which tell the load over ``sample_s`` seconds if that is not 0; None without a block.
    """
    before = number - 1
    arm = step.warehouse.open_blocks(step.number).get(before)
    if arm is None:
        return None
    documents = node_counters.read_nodes(
        step.api,
        step.plan,
        step.pair,
        sample_s=sample_s,
        agents=True,
        # A sample of the load is taken now, not before.
        prepared=None if sample_s else look_labels(step.run_key, "end", before),
    )
    _store_nodes(step, before, "end", documents)
    step.warehouse.store_block(step.number, {"block": before, "arm": arm, "finished_at": datetime.now(UTC)})
    return documents


def _store_nodes(step: DagRunStep, block: int, moment: str, documents: Mapping[str, Mapping[str, Any]]) -> None:
    """Store what was read of both nodes at the beginning or the end of a block."""
    step.warehouse.store_raw(
        step.number,
        [
            {
                "block": block,
                "generation": 0,
                "kind": f"node-{moment}:{name}",
                "document": packed(dict(document)),
            }
            for name, document in documents.items()
        ],
    )
