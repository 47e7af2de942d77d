"""From stored documents to the gates: what trips on a node that was busy, or not left alone by its hypervisor."""

from __future__ import annotations

from typing import Any

import pytest

from bigtcp_bench.analysis.verdicts import judge_run
from bigtcp_bench.evidence import facts_of
from bigtcp_bench.plan import load_plan
from bigtcp_bench.pods.results import packed
from bigtcp_bench.warehouse.records import RawDocument
from tests.analysis.runs import make_frame, make_plan

PLAN = make_plan(scenarios=["ipv4-stream-1"])


def stat(busy: int, idle: int, steal: int = 0) -> dict[str, Any]:
    return {"proc_stat": f"cpu  {busy} 0 0 {idle} 0 0 0 {steal} 0 0\ncpu0 1 0 0 1 0 0 0 0 0 0\n"}


def document(moment: str, snapshot: dict[str, Any], block: int = 1, **fields: Any) -> RawDocument:
    content = {"boot_id": "b", "kernel_release": "6.18", "snapshot": snapshot} | fields
    return RawDocument(block=block, generation=0, kind=f"node-{moment}:n1", document=packed(content))


def verdict(documents: list[RawDocument], plan=PLAN) -> tuple[str, tuple[str, ...]]:
    judged = judge_run(make_frame(plan), plan, facts_of(documents, {}))
    return judged.status, judged.reasons


def test_a_node_that_was_busy_before_a_block_makes_the_run_invalid():
    idle = document("begin", stat(110, 190), earlier=stat(100, 0))
    busy = document("begin", stat(240, 60), block=2, earlier=stat(100, 0))
    assert verdict([idle]) == ("valid", ())
    assert verdict([idle, busy]) == (
        "invalid",
        ("block 2: node n1 was 70% busy with other work before the block; at most 50% is allowed",),
    )


def test_the_plan_of_the_demo_lets_a_busy_machine_pass():
    thresholds = load_plan("quick").thresholds
    everything = document("begin", stat(300, 0), earlier=stat(100, 0))
    assert verdict([everything])[0] == "invalid"
    assert verdict([everything], PLAN.model_copy(update={"thresholds": thresholds}))[0] == "valid"


def test_time_that_the_hypervisor_took_makes_the_run_invalid():
    documents = [document("begin", stat(0, 0)), document("end", stat(50, 40, 10))]
    status, (reason,) = verdict(documents)
    assert status == "invalid"
    assert reason.startswith("block 1: the hypervisor took 10.0% of the CPU time of node n1")


@pytest.mark.parametrize(
    "documents",
    [
        [document("begin", stat(0, 0))],
        [document("begin", {"proc_stat": None}, earlier={"proc_stat": None})],
        [document("begin", stat(0, 0)), document("end", stat(0, 40, 60), boot_id="another")],
    ],
    ids=["no second reading", "nothing could be read", "restarted in between"],
)
def test_what_is_not_known_trips_nothing(documents):
    (item,) = facts_of(documents, {}).pressure
    assert (item.steal_share, item.busy_before_share) == (None, None)
    assert verdict(documents) == ("valid", ())
