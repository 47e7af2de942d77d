"""Messages that Slack refuses for what is in them: how often, in place of an unread count of attempts."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Count from now on: attempts failed for other reasons, too."""
    op.alter_column("bigtcp_outbox", "attempts", new_column_name="refusals")
    op.execute("UPDATE bigtcp_outbox SET refusals = 0")


def downgrade() -> None:
    """Call it an attempt again."""
    op.alter_column("bigtcp_outbox", "refusals", new_column_name="attempts")
