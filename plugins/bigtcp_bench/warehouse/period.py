"""What the runs of a few days were: how they ended, and what arm on gained in each scenario's main metric."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from bigtcp_bench.planning.plan import SCENARIOS
from bigtcp_bench.warehouse.schema import COMPARED, comparison, is_true, run
from bigtcp_bench.warehouse.store import Warehouse


@dataclass(frozen=True)
class Gain:
    """One scenario of one valid run that compared both arms, in the metric that stands for it.

    ``benefit`` is the relative change, positive when arm on is better; ``detects`` is the smallest change that the
    run could have seen.
    """

    scenario: str
    metric: str
    benefit: float | None
    detects: float | None


@dataclass(frozen=True)
class Period:
    """How many runs ended in which status, and what the valid ones gained; ``is_first`` if none was before it.

    ``emulated`` and ``generated`` tell whether some of them were of the lab, or made up.
    """

    statuses: dict[str, int]
    gains: tuple[Gain, ...]
    is_first: bool
    emulated: bool = False
    generated: bool = False


def period(warehouse: Warehouse, cluster: str, since: datetime, until: datetime) -> Period:
    """Return what the runs of ``cluster`` were that started from ``since`` on and before ``until``."""
    columns, compared = run.c, comparison.c
    of_cluster = (columns.cluster == cluster) & ~columns.superseded
    within = of_cluster & (columns.started_at >= since) & (columns.started_at < until)
    statuses = sa.select(columns.status, sa.func.count()).where(within).group_by(columns.status)
    main = sa.or_(
        *(
            (compared.scenario == name) & (compared.metric == scenario.kind.headline)
            for name, scenario in SCENARIOS.items()
        )
    )
    gains = (
        sa.select(
            compared.scenario,
            compared.metric,
            sa.case((compared.better == "lower", -compared.change), else_=compared.change),
            compared.smallest_detectable_change,
        )
        .join(run, columns.id == compared.run_id)
        .where(within, COMPARED, main, compared.verdict != "invalid")
        .order_by(columns.started_at)
    )
    origins = sa.select(*(is_true(columns.environment, name) for name in ("emulated", "generated"))).where(within)
    before = sa.select(sa.literal(1)).where(columns.cluster == cluster, columns.started_at < since).limit(1)

    def work(connection: sa.Connection) -> Period:
        found = [tuple(row) for row in connection.execute(origins)]
        return Period(
            statuses={str(status): int(count) for status, count in connection.execute(statuses)},
            gains=tuple(Gain(*row) for row in connection.execute(gains)),
            is_first=connection.execute(before).scalar() is None,
            emulated=any(one[0] for one in found),
            generated=any(one[1] for one in found),
        )

    return warehouse.read(work)
