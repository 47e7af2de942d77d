"""The likely causes of what is wrong with a run."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005"
down_revision = "0004"

JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "bigtcp_diagnosis",
        sa.Column("run_id", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("position", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("cause", sa.Text, nullable=False),
        sa.Column("scenario", sa.Text),
        sa.Column("arm", sa.Text),
        sa.Column("node", sa.Text),
        sa.Column("sentence", sa.Text, nullable=False),
        sa.Column("strength", sa.Double, nullable=False),
        sa.Column("explains", JSON, nullable=False),
        sa.Column("figures", JSON, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "position", name="pk_bigtcp_diagnosis"),
        sa.ForeignKeyConstraint(["run_id"], ["bigtcp_run.id"], name="fk_bigtcp_diagnosis_run_id"),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("bigtcp_diagnosis")
