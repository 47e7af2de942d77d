"""The control of each run: what its two nodes themselves reached, without BIG TCP and the pods' network."""

from __future__ import annotations

import statistics
from collections.abc import Collection

import sqlalchemy as sa

from bigtcp_bench.planning.plan import CONTROL
from bigtcp_bench.warehouse.schema import NEWEST_FIRST, result, run
from bigtcp_bench.warehouse.store import Warehouse

#: The metric that stands for the control.
METRIC = "transactions_per_s"

#: The machines of a run: what was measured on others is not comparable.
MACHINES = ("client_node", "server_node", "client_kernel", "server_kernel", "nic_driver", "mtu")

#: Runs among which the newest with a control are looked for, as a multiple of those that are wanted.
_LOOKED_AT = 3


def control_values(warehouse: Warehouse, runs: Collection[int]) -> dict[int, float]:
    """Return run → transactions per second of its control, the geometric mean over its blocks.

    Runs without a control are left out.
    """
    statement = sa.select(result.c.run_id, result.c.value).where(
        result.c.run_id.in_(list(runs)),
        result.c.generation == 0,
        result.c.scenario == CONTROL,
        result.c.metric == METRIC,
        result.c.value > 0,
    )
    values: dict[int, list[float]] = {}
    for number, value in warehouse.read(lambda connection: connection.execute(statement).all()):
        values.setdefault(number, []).append(value)
    return {number: statistics.geometric_mean(of_blocks) for number, of_blocks in values.items()}


def control_history(warehouse: Warehouse, run_id: int, nights: int) -> list[float]:
    """Return the controls of the newest ``nights`` runs before ``run_id`` on the same machines, oldest first.

    Invalid runs are among them: a control that has changed for good makes runs invalid, until it is the usual one.
    """
    this = sa.select(run.c.cluster, run.c.started_at, *(run.c[name] for name in MACHINES))
    this_run = this.where(run.c.id == run_id).subquery()
    before = (
        sa.select(run.c.id)
        .join(this_run, run.c.cluster == this_run.c.cluster)
        .where(
            run.c.started_at < this_run.c.started_at,
            run.c.status.in_(("valid", "invalid")),
            ~run.c.superseded,
            *(run.c[name].is_not_distinct_from(this_run.c[name]) for name in MACHINES),
        )
        .order_by(*NEWEST_FIRST)
        .limit(_LOOKED_AT * nights)
    )
    numbers = warehouse.read(lambda connection: list(connection.execute(before).scalars()))
    found = control_values(warehouse, numbers)
    return [found[number] for number in numbers if number in found][:nights][::-1]
