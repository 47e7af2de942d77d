"""A captured stream has a path, and a node that sent it: there may be one on each of the two nodes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

TABLE = "bigtcp_packet_size"
KEY = ("run_id", "block", "family", "end", "direction", "upper_bytes")
REST = ("arm", "packets", "bytes")
ADDED = ("path", "node")


def upgrade() -> None:
    """Add both to the key; what was stored before was between pods on two nodes."""
    _make_anew((*KEY, *ADDED), "'pod', ''")


def downgrade() -> None:
    """Take both out of the key, with the streams that only they tell apart."""
    op.execute(f"DELETE FROM {TABLE} WHERE path <> 'pod'")
    _make_anew(KEY, "")


def _make_anew(key: tuple[str, ...], values: str) -> None:
    """Make the table anew with this key, and with the rows that it had; ``values`` are those of new columns."""
    op.execute(f"CREATE TABLE packet_sizes_aside AS SELECT * FROM {TABLE}")
    op.drop_table(TABLE)
    texts = ("family", "path", "node", "end", "direction")
    op.create_table(
        TABLE,
        *(
            sa.Column(name, sa.Text() if name in texts else sa.Integer(), autoincrement=False, nullable=False)
            for name in ("run_id", "block", *texts, "upper_bytes")
            if name in key
        ),
        sa.Column("arm", sa.Text(), nullable=False),
        sa.Column("packets", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["bigtcp_run.id"], name=f"fk_{TABLE}_run_id"),
        sa.PrimaryKeyConstraint(*key, name=f"pk_{TABLE}"),
    )
    kept = ", ".join(f'"{name}"' for name in (*KEY, *REST))
    added = "".join(f', "{name}"' for name in ADDED if name in key)
    op.execute(
        f"INSERT INTO {TABLE} ({kept}{added}) "
        f"SELECT {kept}{', ' + values if values else ''} FROM packet_sizes_aside"
    )
    op.drop_table("packet_sizes_aside")
