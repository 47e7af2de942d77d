"""What a clear asks for, told from what is stored and what Airflow is still to run."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bigtcp_bench.errors import PreconditionFailed
from bigtcp_bench.judging.attempts import (
    choice_of,
    has_ended,
    measured_anew,
    pending,
    planned_blocks,
    refuse_changed,
    refuse_ended,
)
from bigtcp_bench.planning.plan import blocks, validate_plan

PLANNED = blocks(validate_plan({"scenarios": "ipv4-rr", "order": "off,on,off"}))
SWITCHES = ("disable_big_tcp", "enable_big_tcp", "disable_big_tcp_2")
DONE = dict.fromkeys(SWITCHES, "success")


def test_a_switch_is_still_to_run_unless_airflow_is_done_with_it():
    assert pending(PLANNED, {}) == {1, 2, 3}
    states = {"disable_big_tcp": "success", "enable_big_tcp": "up_for_retry", "disable_big_tcp_2": "failed"}
    assert pending(PLANNED, states) == {2}
    assert pending(PLANNED, DONE | {"compare": None}) == set()


@pytest.mark.parametrize(
    ("stored", "due", "ended", "anew"),
    [
        pytest.param((), (1, 2, 3), False, "no", id="the first try"),
        pytest.param((), (1, 2, 3), True, "no", id="an attempt that measured nothing is begun by its check"),
        pytest.param((1,), (2, 3), False, "no", id="a block's task was cleared while the run goes on"),
        pytest.param((1, 2, 3), (), True, "no", id="only judging or telling was cleared"),
        pytest.param((1, 2, 3), (1, 2, 3), True, "whole", id="cleared from the setup or the first switch on"),
        pytest.param((1, 2), (1, 2, 3), False, "whole", id="the same while the run goes on"),
        pytest.param((1, 2, 3), (2, 3), True, "partly", id="cleared from the second switch on"),
        pytest.param((1, 2), (2, 3), False, "partly", id="the same while the run goes on"),
        pytest.param((1, 2), (3,), True, "partly", id="a run that died is gone on with days later"),
        pytest.param((1, 2, 3, 4, 5, 6), (1, 2, 3), True, "whole", id="with blocks of a re-run"),
    ],
)
def test_what_a_clear_asks_for(stored, due, ended, anew):
    assert measured_anew(PLANNED, set(stored), set(due), ended) == anew


@pytest.mark.parametrize(
    ("known", "ended"),
    [
        ({}, False),
        ({"superseded": True}, True),
        ({"finished_at": datetime(2026, 3, 1, tzinfo=UTC)}, True),
        ({"restore_result": "restored"}, True),
    ],
)
def test_an_attempt_has_ended_when_the_cluster_is_no_longer_its_own(known, ended):
    assert has_ended({"superseded": False, "finished_at": None, "restore_result": None} | known) is ended


PLAN = {"scenarios": ["ipv4-rr"], "order": ["off", "on"]}
RUN = {
    "cluster": "lab",
    "dag_id": "dag",
    "run_id": "night",
    "plan": PLAN,
    "environment": {"pair": {"a": {"zone": "z"}}},
}


def test_what_was_changed_in_the_warehouse_is_measured_no_more(warehouse):
    number = warehouse.start_run(RUN)
    choice = choice_of(warehouse.run(number))
    warehouse.update_run(
        number, plan=dict(reversed(PLAN.items())), environment={**RUN["environment"], "emulated": True}
    )
    refuse_changed(warehouse, number, choice)
    for changed in ({"plan": PLAN | {"seed": 1}}, {"environment": {"pair": {"b": {}}}}, {"environment": None}):
        warehouse.update_run(number, **{"plan": PLAN, "environment": RUN["environment"], **changed})
        with pytest.raises(PreconditionFailed, match=f"the plan or the nodes of run {number} were changed"):
            refuse_changed(warehouse, number, choice)
        refuse_changed(warehouse, number, "")


def test_what_has_ended_is_refused_by_a_next_attempt_that_says_so(warehouse):
    number = warehouse.start_run({**RUN, "note": "kept"})
    refuse_ended(warehouse, number)
    warehouse.finish_run(number, "valid")
    with pytest.raises(PreconditionFailed, match="attempt 1 of it has ended; a run is measured whole") as refused:
        refuse_ended(warehouse, number)
    first, second = warehouse.attempts(number)
    row = warehouse.run(second)
    assert (first, row["note"], row["plan"], row["reasons"]) == (number, "kept", None, [str(refused.value)])
    assert (len(planned_blocks(warehouse, number)), planned_blocks(warehouse, second)) == (2, [])
