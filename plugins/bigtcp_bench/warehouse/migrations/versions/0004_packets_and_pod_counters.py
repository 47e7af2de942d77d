"""Packet sizes of each block, and the pods' counters of each repetition."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "bigtcp_packet_size",
        sa.Column("run_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("block", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("family", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("end", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("direction", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("upper_bytes", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("arm", sa.Text(), nullable=False),
        sa.Column("packets", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["bigtcp_run.id"], name="fk_bigtcp_packet_size_run_id"),
        sa.PrimaryKeyConstraint(
            "run_id", "block", "family", "end", "direction", "upper_bytes", name="pk_bigtcp_packet_size"
        ),
    )
    op.create_table(
        "bigtcp_pod_counter",
        sa.Column("run_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("block", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("scenario", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("repetition", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("end", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("counter", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("arm", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["bigtcp_run.id"], name="fk_bigtcp_pod_counter_run_id"),
        sa.PrimaryKeyConstraint(
            "run_id",
            "block",
            "generation",
            "scenario",
            "repetition",
            "end",
            "counter",
            name="pk_bigtcp_pod_counter",
        ),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Drop both tables."""
    op.drop_table("bigtcp_pod_counter")
    op.drop_table("bigtcp_packet_size")
