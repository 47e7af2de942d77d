"""What Alembic runs for every migration command; the connection comes from warehouse/migrate.py."""

from __future__ import annotations

from alembic import context

from bigtcp_bench.warehouse.migrate import VERSION_TABLE
from bigtcp_bench.warehouse.schema import metadata

# The transaction was begun, and its lock taken, by the caller: a failed migration leaves nothing behind,
# on SQLite too.
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
context.run_migrations()
