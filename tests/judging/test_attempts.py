"""What a clear asks for, told from what is stored and what Airflow is still to run."""

from __future__ import annotations

import pytest

from bigtcp_bench.judging.attempts import measured_anew, pending
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
