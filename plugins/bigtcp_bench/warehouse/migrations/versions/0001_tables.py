"""The tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

# Written out, not imported from the model: a migration stays as it was when the model goes on.
MOMENT = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "bigtcp_incident",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attribution", sa.Text()),
        sa.Column("changed_on", sa.Text(), nullable=False),
        sa.Column("suspected_on", sa.Text(), nullable=False),
        sa.Column("confirmed_on", sa.Text()),
        sa.Column("closed_on", sa.Text()),
        sa.Column("acknowledged_at", MOMENT),
        sa.Column("acknowledged_by", sa.Text()),
        sa.Column("acknowledged_note", sa.Text()),
        sa.Column("slack_channel", sa.Text()),
        sa.Column("slack_ts", sa.Text()),
        sa.CheckConstraint(
            "state IN ('suspect', 'regression', 'recovered', 'dismissed')", name="ck_bigtcp_incident_state"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_bigtcp_incident"),
        sa.UniqueConstraint("uid", name="uq_bigtcp_incident_uid"),
    )
    op.create_index("ix_bigtcp_incident_cluster_suspected_on", "bigtcp_incident", ["cluster", "suspected_on"])
    op.create_table(
        "bigtcp_run",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("dag_id", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("is_aa", sa.Boolean(), nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("finished_at", MOMENT),
        sa.Column("trigger", sa.Text()),
        sa.Column("note", sa.Text()),
        sa.Column("plan_name", sa.Text()),
        sa.Column("block_order", sa.Text()),
        sa.Column("client_node", sa.Text()),
        sa.Column("server_node", sa.Text()),
        sa.Column("client_kernel", sa.Text()),
        sa.Column("server_kernel", sa.Text()),
        sa.Column("nic_driver", sa.Text()),
        sa.Column("nic_tso_max_size", sa.Integer()),
        sa.Column("mtu", sa.Integer()),
        sa.Column("cilium_version", sa.Text()),
        sa.Column("iperf3_version", sa.Text()),
        sa.Column("package_version", sa.Text()),
        sa.Column("slack_channel", sa.Text()),
        sa.Column("slack_ts", sa.Text()),
        sa.Column("reasons", JSON, nullable=False),
        sa.Column("plan", JSON),
        sa.Column("cilium_config", JSON),
        sa.Column("images", JSON),
        sa.Column("tool_versions", JSON),
        sa.Column("environment", JSON),
        sa.Column("checks", JSON),
        sa.Column("restore_result", JSON),
        sa.CheckConstraint("status IN ('running', 'valid', 'invalid', 'failed')", name="ck_bigtcp_run_status"),
        sa.PrimaryKeyConstraint("id", name="pk_bigtcp_run"),
        sa.UniqueConstraint("cluster", "dag_id", "run_id", name="uq_bigtcp_run_cluster_dag_id_run_id"),
    )
    op.create_index(
        "ix_bigtcp_run_trend",
        "bigtcp_run",
        ["cluster", "started_at", "status", "is_aa", "cilium_version", "client_node", "server_node"],
    )
    op.create_index(
        "ix_bigtcp_run_cluster_cilium_version_started_at",
        "bigtcp_run",
        ["cluster", "cilium_version", "started_at"],
    )
    op.create_table(
        "bigtcp_block",
        sa.Column("run_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("block", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("arm", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("started_at", MOMENT),
        sa.Column("finished_at", MOMENT),
        sa.Column("switch_report", JSON),
        sa.ForeignKeyConstraint(["run_id"], ["bigtcp_run.id"], name="fk_bigtcp_block_run_id"),
        sa.PrimaryKeyConstraint("run_id", "block", name="pk_bigtcp_block"),
    )
    op.create_table(
        "bigtcp_comparison",
        sa.Column("run_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("metric", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("scenario", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("better", sa.Text(), nullable=False),
        sa.Column("off_median", sa.Double()),
        sa.Column("on_median", sa.Double()),
        sa.Column("change", sa.Double()),
        sa.Column("ci_low", sa.Double()),
        sa.Column("ci_high", sa.Double()),
        sa.Column("level", sa.Double()),
        sa.Column("margin", sa.Double()),
        sa.Column("n_off", sa.Integer()),
        sa.Column("n_on", sa.Integer()),
        sa.Column("smallest_detectable_change", sa.Double()),
        sa.Column("p_value", sa.Double()),
        sa.Column("drift", sa.Double()),
        sa.Column("below_margin", sa.Boolean(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("reasons", JSON, nullable=False),
        sa.Column("thresholds", JSON),
        sa.ForeignKeyConstraint(["run_id"], ["bigtcp_run.id"], name="fk_bigtcp_comparison_run_id"),
        sa.PrimaryKeyConstraint("run_id", "metric", "scenario", name="pk_bigtcp_comparison"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_bigtcp_comparison_trend",
        "bigtcp_comparison",
        [
            "metric",
            "run_id",
            "scenario",
            "off_median",
            "on_median",
            "change",
            "ci_low",
            "ci_high",
            "smallest_detectable_change",
            "verdict",
            "unit",
            "better",
        ],
    )
    op.create_table(
        "bigtcp_counter",
        sa.Column("run_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("block", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("node", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("counter", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("arm", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["bigtcp_run.id"], name="fk_bigtcp_counter_run_id"),
        sa.PrimaryKeyConstraint("run_id", "block", "node", "counter", name="pk_bigtcp_counter"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "bigtcp_failure",
        sa.Column("run_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("block", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("scenario", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("repetition", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("arm", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["bigtcp_run.id"], name="fk_bigtcp_failure_run_id"),
        sa.PrimaryKeyConstraint(
            "run_id", "block", "generation", "scenario", "repetition", name="pk_bigtcp_failure"
        ),
    )
    op.create_table(
        "bigtcp_incident_member",
        sa.Column("incident_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("scenario", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("metric", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("change", sa.Double()),
        sa.Column("first_seen", sa.Text(), nullable=False),
        sa.Column("last_seen", sa.Text(), nullable=False),
        sa.Column("confirmed", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["incident_id"], ["bigtcp_incident.id"], name="fk_bigtcp_incident_member_incident_id"
        ),
        sa.PrimaryKeyConstraint("incident_id", "scenario", "metric", name="pk_bigtcp_incident_member"),
    )
    op.create_table(
        "bigtcp_judgement",
        sa.Column("run_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("metric", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("scenario", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("change", sa.Double()),
        sa.Column("since", sa.Text()),
        sa.Column("attribution", sa.Text()),
        sa.Column("details", JSON),
        sa.ForeignKeyConstraint(["run_id"], ["bigtcp_run.id"], name="fk_bigtcp_judgement_run_id"),
        sa.PrimaryKeyConstraint("run_id", "metric", "scenario", name="pk_bigtcp_judgement"),
    )
    op.create_table(
        "bigtcp_noise",
        sa.Column("run_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("metric", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("scenario", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("level", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("sd", sa.Double(), nullable=False),
        sa.Column("n", sa.Integer()),
        sa.ForeignKeyConstraint(["run_id"], ["bigtcp_run.id"], name="fk_bigtcp_noise_run_id"),
        sa.PrimaryKeyConstraint("run_id", "metric", "scenario", "level", name="pk_bigtcp_noise"),
    )
    op.create_table(
        "bigtcp_raw",
        sa.Column("run_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("block", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("scenario", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("repetition", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("encoding", sa.Text(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["bigtcp_run.id"], name="fk_bigtcp_raw_run_id"),
        sa.PrimaryKeyConstraint(
            "run_id", "block", "generation", "kind", "scenario", "repetition", name="pk_bigtcp_raw"
        ),
    )
    op.create_table(
        "bigtcp_result",
        sa.Column("run_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("block", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("scenario", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("repetition", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("metric", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("arm", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["bigtcp_run.id"], name="fk_bigtcp_result_run_id"),
        sa.PrimaryKeyConstraint(
            "run_id", "block", "generation", "scenario", "repetition", "metric", name="pk_bigtcp_result"
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "bigtcp_outbox",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("cluster", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Integer()),
        sa.Column("incident_id", sa.Integer()),
        sa.Column("payload", JSON, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("claimed_until", MOMENT),
        sa.Column("attempted_at", MOMENT),
        sa.Column("sent_at", MOMENT),
        sa.Column("channel", sa.Text()),
        sa.Column("ts", sa.Text()),
        sa.Column("last_error", sa.Text()),
        sa.ForeignKeyConstraint(["incident_id"], ["bigtcp_incident.id"], name="fk_bigtcp_outbox_incident_id"),
        sa.ForeignKeyConstraint(["run_id"], ["bigtcp_run.id"], name="fk_bigtcp_outbox_run_id"),
        sa.PrimaryKeyConstraint("id", name="pk_bigtcp_outbox"),
        sa.UniqueConstraint("key", name="uq_bigtcp_outbox_key"),
    )


def downgrade() -> None:
    """Drop every table, with its data."""
    op.drop_table("bigtcp_outbox")
    op.drop_table("bigtcp_result")
    op.drop_table("bigtcp_raw")
    op.drop_table("bigtcp_noise")
    op.drop_table("bigtcp_judgement")
    op.drop_table("bigtcp_incident_member")
    op.drop_table("bigtcp_failure")
    op.drop_table("bigtcp_counter")
    op.drop_table("bigtcp_comparison")
    op.drop_table("bigtcp_block")
    op.drop_table("bigtcp_run")
    op.drop_table("bigtcp_incident")
