"""How an incident went on and ended: got worse, new usual level, no longer measured, closed by hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

CONSTRAINT = "ck_bigtcp_incident_state"
BEFORE = "state IN ('suspect', 'regression', 'recovered', 'dismissed')"
AFTER = "state IN ('suspect', 'regression', 'recovered', 'dismissed', 'new-normal', 'unmeasured', 'closed')"

COLUMNS: dict[str, list[tuple[str, type[sa.types.TypeEngine[Any]]]]] = {
    "bigtcp_incident": [("worse_on", sa.Text), ("closed_by", sa.Text), ("closed_note", sa.Text)],
    "bigtcp_incident_member": [("ended", sa.Text), ("acknowledged_change", sa.Double)],
}


def upgrade() -> None:
    """Allow the new states and add the columns."""
    for table, columns in COLUMNS.items():
        for name, kind in columns:
            op.add_column(table, sa.Column(name, kind))
    _constrain(AFTER)


def downgrade() -> None:
    """Tell the new ends as the old one that they were told as, and drop the columns."""
    op.execute(
        "UPDATE bigtcp_incident SET state = 'recovered' WHERE state IN ('new-normal', 'unmeasured', 'closed')"
    )
    _constrain(BEFORE)
    for table, columns in COLUMNS.items():
        for name, _ in reversed(columns):
            op.drop_column(table, name)


def _constrain(states: str) -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint(CONSTRAINT, "bigtcp_incident", type_="check")
        op.create_check_constraint(CONSTRAINT, "bigtcp_incident", states)
        return
    # SQLite cannot change a constraint: the table is made anew, while nothing refers to it.
    with _nothing_refers(), op.batch_alter_table("bigtcp_incident", recreate="always") as batch:
        batch.create_check_constraint(CONSTRAINT, states)


@contextmanager
def _nothing_refers() -> Iterator[None]:
    """Put aside, until the end, the view of the table and the rows that refer to it."""
    view = op.get_bind().scalar(
        sa.text("SELECT sql FROM sqlite_master WHERE name = 'bigtcp_incident_history' AND type = 'view'")
    )
    op.execute("DROP VIEW bigtcp_incident_history")
    op.execute("CREATE TEMPORARY TABLE members_aside AS SELECT * FROM bigtcp_incident_member")
    op.execute("CREATE TEMPORARY TABLE messages_aside AS SELECT id, incident_id FROM bigtcp_outbox")
    op.execute("DELETE FROM bigtcp_incident_member")
    op.execute("UPDATE bigtcp_outbox SET incident_id = NULL")
    yield
    op.execute("INSERT INTO bigtcp_incident_member SELECT * FROM members_aside")
    op.execute(
        "UPDATE bigtcp_outbox SET incident_id = "
        "(SELECT incident_id FROM messages_aside WHERE messages_aside.id = bigtcp_outbox.id)"
    )
    op.execute("DROP TABLE members_aside")
    op.execute("DROP TABLE messages_aside")
    op.execute(sa.text(view))
