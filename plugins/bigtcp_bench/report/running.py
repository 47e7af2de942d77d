"""How far a run has come that goes on: which block of how many, and when it should end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.planning.duration import estimate, estimate_again
from bigtcp_bench.planning.plan import blocks as planned_blocks
from bigtcp_bench.planning.plan import validate_plan

if TYPE_CHECKING:
    import pandas as pd


def progress_line(row: Mapping[str, Any], blocks: pd.DataFrame) -> str:
    """Return how far the run of ``row`` (of ``bigtcp_run``) has come; empty where its plan is none of ours."""
    try:
        plan = validate_plan(row["plan"] or {})
    except InvalidInput:
        return ""
    planned = planned_blocks(plan)
    expected = estimate(plan, restarts=2 * len(planned))
    took = [expected.quick_s, expected.slow_s]
    if blocks.empty:
        before = f"before the first of {len(planned)} blocks: checks, and the state to be put back"
        return f"{before}; {_end(row, took)}"
    last = blocks.iloc[-1]
    number = int(last["block"])
    ended = "measured, the next one follows" if last["finished_at"] == last["finished_at"] else "is being measured"
    if last["purpose"] == "rerun":
        again = estimate_again(plan)
        took = [took[0] + again.quick_s, took[1] + again.slow_s]
        which = f"re-run, block {number - len(planned)}"
    else:
        which = f"block {number} of {len(planned)}"
    return f"{which} (BIG TCP {last['arm']}) {ended}; {_end(row, took)}"


def _end(row: Mapping[str, Any], took: Iterable[float]) -> str:
    ends = " and ".join(f"{row['started_at'] + timedelta(seconds=one):%H:%M}" for one in took)
    return f"the end is expected between {ends} UTC"
