"""Attempts of a run, each with a row of its own, and which runs are nights."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

IDENTITY = ("cluster", "dag_id", "run_id")
STATUS = sa.CheckConstraint("status IN ('running', 'valid', 'invalid', 'failed')", name="ck_bigtcp_run_status")
TREND = ("cluster", "started_at", "status", "is_aa")
NODES = ("cilium_version", "client_node", "server_node")

# The UTC day of a moment.
DAYS = {
    "sqlite": "substr({0}, 1, 10)",
    "postgresql": "to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
}

# One row per valid run that compared both arms: A/A runs compare nothing.
RUN = """
CREATE VIEW bigtcp_valid_run AS
SELECT
    cluster,
    id AS run,
    started_at,
    {night} AS night,
    substr({night}, 1, 7) AS month,
    COALESCE(cilium_version, '') AS cilium_version,
    COALESCE(client_node, '?') || ' > ' || COALESCE(server_node, '?') AS node_pair,
    client_kernel,
    server_kernel,
    nic_driver,
    trigger,
    note{is_night}
FROM bigtcp_run
WHERE status = 'valid' AND NOT is_aa{newest}
"""

# One row per such run × metric × scenario, with what a trend is asked by.
NIGHT = """
CREATE VIEW bigtcp_night AS
SELECT
    run.cluster,
    run.run,
    run.started_at,
    run.night,
    run.month,
    comparison.metric,
    comparison.scenario,
    comparison.unit,
    comparison.better,
    comparison.off_median,
    comparison.on_median,
    comparison.change,
    comparison.ci_low,
    comparison.ci_high,
    comparison.smallest_detectable_change,
    comparison.verdict,
    CASE WHEN comparison.better = 'lower' THEN -comparison.change ELSE comparison.change END AS benefit,
    run.cilium_version,
    run.node_pair,
    run.client_kernel,
    run.server_kernel,
    run.nic_driver,
    run.trigger,
    run.note{is_night}
FROM bigtcp_valid_run AS run
JOIN bigtcp_comparison AS comparison ON comparison.run_id = run.run
"""

# One row per A/A run × metric × scenario × level.
NOISE = """
CREATE VIEW bigtcp_noise_of_pair AS
SELECT
    run.cluster,
    run.id AS run,
    run.started_at,
    {night} AS night,
    COALESCE(run.client_node, '?') || ' > ' || COALESCE(run.server_node, '?') AS node_pair,
    COALESCE(run.cilium_version, '') AS cilium_version,
    noise.metric,
    noise.scenario,
    noise.level,
    noise.sd,
    noise.n
FROM bigtcp_run AS run
JOIN bigtcp_noise AS noise ON noise.run_id = run.id
WHERE run.status = 'valid'{newest}
"""

# Runs by hand were nights so far. They stay nights where nothing else measured the cluster: its scheduler is then
# elsewhere, and its history is worth keeping.
BY_HAND = """
UPDATE bigtcp_run SET is_night = {no}
WHERE trigger = 'manual' AND EXISTS (
    SELECT 1 FROM bigtcp_run AS other
    WHERE other.cluster = bigtcp_run.cluster AND COALESCE(other.trigger, '') <> 'manual'
)
"""


def upgrade() -> None:
    """Give every run its attempt, and say whether it is a night; the views leave earlier attempts out."""
    _drop_views()
    op.drop_index("ix_bigtcp_run_trend", "bigtcp_run")
    remade = op.get_bind().dialect.name == "sqlite"
    with op.batch_alter_table("bigtcp_run", table_args=(STATUS,), recreate="always" if remade else "never") as run:
        # Defaults for the rows that are there: rows to come say it themselves.
        for name, kind, default, place in (
            ("attempt", sa.Integer(), "1", "run_id"),
            ("superseded", sa.Boolean(), sa.false(), "attempt"),
            ("is_night", sa.Boolean(), sa.true(), "is_aa"),
        ):
            column = sa.Column(name, kind, nullable=False, server_default=default)
            where: dict[str, Any] = {"insert_after": place} if remade else {}
            run.add_column(column, **where)
        run.drop_constraint("uq_bigtcp_run_cluster_dag_id_run_id", type_="unique")
        run.create_unique_constraint("uq_bigtcp_run_cluster_dag_id_run_id_attempt", [*IDENTITY, "attempt"])
    op.execute(BY_HAND.format(no="false" if op.get_bind().dialect.name == "postgresql" else "0"))
    op.create_index("ix_bigtcp_run_trend", "bigtcp_run", [*TREND, "superseded", "is_night", *NODES])
    _create_views(newest=" AND NOT {0}superseded", is_night=",\n    {0}is_night")


def downgrade() -> None:
    """Make every earlier attempt a run of its own name: nothing that was measured is deleted."""
    _drop_views()
    op.drop_index("ix_bigtcp_run_trend", "bigtcp_run")
    op.execute("UPDATE bigtcp_run SET run_id = run_id || ' (attempt ' || attempt || ')' WHERE superseded")
    with op.batch_alter_table("bigtcp_run", table_args=(STATUS,)) as run:
        run.drop_constraint("uq_bigtcp_run_cluster_dag_id_run_id_attempt", type_="unique")
        run.create_unique_constraint("uq_bigtcp_run_cluster_dag_id_run_id", list(IDENTITY))
        for name in ("is_night", "superseded", "attempt"):
            run.drop_column(name)
    op.create_index("ix_bigtcp_run_trend", "bigtcp_run", [*TREND, *NODES])
    _create_views(newest="", is_night="")


def _drop_views() -> None:
    for name in ("bigtcp_noise_of_pair", "bigtcp_night", "bigtcp_valid_run"):
        op.execute(f"DROP VIEW {name}")


def _create_views(newest: str, is_night: str) -> None:
    day = DAYS[op.get_bind().dialect.name]
    op.execute(RUN.format(night=day.format("started_at"), newest=newest.format(""), is_night=is_night.format("")))
    op.execute(NIGHT.format(is_night=is_night.format("run.")))
    op.execute(NOISE.format(night=day.format("run.started_at"), newest=newest.format("run.")))
