"""A flat view of every value for other tools; thresholds once per run, in its plan, not beside every verdict."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0007"
down_revision = "0006"

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
RUN = sa.table("bigtcp_run", sa.column("id", sa.Integer), sa.column("plan", JSON))
COMPARISON = sa.table(
    "bigtcp_comparison",
    sa.column("run_id", sa.Integer),
    sa.column("metric", sa.Text),
    sa.column("thresholds", JSON),
)

# The UTC day of a moment.
DAYS = {
    "sqlite": "substr({0}, 1, 10)",
    "postgresql": "to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
}

# One row per value of a newest attempt, with what it is usually asked by.
VIEW = """
CREATE VIEW bigtcp_measurement AS
SELECT
    run.cluster,
    run.id AS run,
    run.started_at,
    {night} AS night,
    run.is_night,
    run.status,
    run.is_aa,
    run.trigger,
    run.plan_name,
    run.cilium_version,
    run.client_node,
    run.server_node,
    run.client_kernel,
    run.server_kernel,
    run.nic_driver,
    result.scenario,
    result.metric,
    result.arm,
    result.block,
    result.generation,
    result.repetition,
    result.value,
    result.unit
FROM bigtcp_run AS run
JOIN bigtcp_result AS result ON result.run_id = run.id
WHERE NOT run.superseded
"""


def upgrade() -> None:
    """Create the view, and drop the copies of thresholds; what only a copy has goes into the run's plan first."""
    connection = op.get_bind()
    for run, plan in connection.execute(sa.select(RUN.c.id, RUN.c.plan)).all():
        if not (plan or {}).get("thresholds"):
            copies = sa.select(COMPARISON.c.thresholds).where(
                COMPARISON.c.run_id == run, COMPARISON.c.thresholds.is_not(None)
            )
            kept = connection.execute(copies.limit(1)).scalar()
            if kept:
                merged = {**(plan or {}), "thresholds": kept}
                connection.execute(RUN.update().where(RUN.c.id == run).values(plan=merged))
    op.drop_column("bigtcp_comparison", "thresholds")
    op.execute(VIEW.format(night=DAYS[connection.dialect.name].format("run.started_at")))


def downgrade() -> None:
    """Drop the view; verdicts get the thresholds of their run's plan back."""
    op.execute("DROP VIEW bigtcp_measurement")
    op.add_column("bigtcp_comparison", sa.Column("thresholds", JSON))
    connection = op.get_bind()
    for run, plan in connection.execute(sa.select(RUN.c.id, RUN.c.plan)).all():
        copy = (
            COMPARISON.update().where(COMPARISON.c.run_id == run).values(thresholds=(plan or {}).get("thresholds"))
        )
        connection.execute(copy)
