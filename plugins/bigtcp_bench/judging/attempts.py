"""Attempts of a run: what a clear in Airflow asks for, and why a run is measured whole or not at all.

A run is what its newest attempt measured. A task that is tried again goes on with its attempt; a run that is
cleared begins a new one. Blocks of two attempts lie hours or days apart, so none is put together with another's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from bigtcp_bench.errors import PreconditionFailed
from bigtcp_bench.planning.plan import SLOT_ARMS, blocks, task_ids

if TYPE_CHECKING:
    from bigtcp_bench.planning.plan import Block
    from bigtcp_bench.warehouse.store import Warehouse

#: ``no``: the attempt goes on, or is only judged or told again. ``whole``: every block is to be measured again.
#: ``partly``: only some of them.
Anew = Literal["no", "whole", "partly"]

#: States of tasks that Airflow will not run again.
_FINAL = {"success", "failed", "upstream_failed", "skipped", "removed"}

#: What of a run its next attempt begins with.
_KEPT = ("cluster", "dag_id", "run_id", "trigger", "note", "is_night", "package_version")

_ADVICE = "a run is measured whole: clear it from check_kernel on, with all that follows"


def choice_of(row: Mapping[str, Any]) -> str:
    """Return what tells the plan and the pair of nodes in ``row`` from all others."""
    chosen = [row["plan"], (row["environment"] or {}).get("pair")]
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()


def refuse_changed(warehouse: Warehouse, number: int, choice: str) -> None:
    """Raise PreconditionFailed unless run ``number`` has the plan and the nodes of ``choice``.

    A run obeys what is stored of it, such as the image of its pods, and more people may write the warehouse than
    the cluster. An empty ``choice`` is that of an older package, and is not looked at.
    """
    if choice and choice_of(warehouse.run(number)) != choice:
        raise PreconditionFailed(
            f"the plan or the nodes of run {number} were changed in the warehouse after the run had begun; "
            "nothing more is measured by it"
        )


def planned_blocks(warehouse: Warehouse, number: int) -> list[Block]:
    """Return the blocks of the plan of run ``number``; none when it ended before it had one."""
    return blocks(warehouse.plan_of(number)) if warehouse.run(number)["plan"] is not None else []


def pending(planned: Sequence[Block], states: Mapping[str, str]) -> set[int]:
    """Return the numbers of the blocks of ``planned`` whose switch is still to run, by the ``states`` of tasks."""
    return {block.number for block in planned if states.get(task_ids(SLOT_ARMS, block.slot)[0]) not in _FINAL}


def measured_anew(planned: Sequence[Block], stored: Collection[int], due: Collection[int], ended: bool) -> Anew:
    """Return whether an attempt with the ``stored`` blocks is to be measured again.

    ``due`` are the blocks whose switch is still to run. They are the next ones of an attempt that goes on, unless
    one of them is stored or the attempt has ``ended``: then the run was cleared.
    """
    if not stored or not due or not (ended or set(due) & set(stored)):
        return "no"
    return "whole" if len(due) == len(planned) else "partly"


def has_ended(row: Mapping[str, Any]) -> bool:
    """Return whether nothing more may be measured for the attempt of ``row``: the cluster is no longer its own."""
    return bool(row["superseded"]) or row["finished_at"] is not None or row["restore_result"] is not None


def refuse_parts(warehouse: Warehouse, number: int) -> None:
    """Begin the next attempt of run ``number``, and refuse it: of the earlier one nothing may be said any more.

    Raises PreconditionFailed, with what to do instead.
    """
    row = warehouse.run(number)
    reason = f"only a part of the run was cleared, and attempt {row['attempt']} of it has ended; {_ADVICE}"
    begun = warehouse.start_run({name: row[name] for name in _KEPT})
    warehouse.update_run(begun, reasons=[reason])
    raise PreconditionFailed(reason)


def refuse_ended(warehouse: Warehouse, number: int) -> None:
    """Raise PreconditionFailed, as ``refuse_parts`` does, if the attempt ``number`` has ended."""
    if has_ended(warehouse.run(number)):
        refuse_parts(warehouse, number)
