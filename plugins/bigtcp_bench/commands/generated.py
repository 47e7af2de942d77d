"""The command that writes a generated history, for demonstrations."""

from __future__ import annotations

import argparse
from typing import Any

from bigtcp_bench.commands.common import add_command


def add(commands: Any) -> None:
    """Add this command to ``commands``."""
    history = add_command(
        commands, "demo-history", "write nights that never were, and say so, into a warehouse", _demo_history
    )
    history.add_argument("--nights", type=int, default=400, help="of each cluster (default: %(default)s)")
    history.add_argument("--clusters", type=int, default=1, help="number of clusters (default: %(default)s)")
    history.add_argument(
        "--warehouse",
        metavar="URL",
        required=True,
        help="SQLAlchemy URL; its tables are created where there are none",
    )


def _demo_history(options: argparse.Namespace) -> int:
    from bigtcp_bench.generated.history import cluster_names, write_history
    from bigtcp_bench.warehouse.store import Warehouse

    warehouse = Warehouse(options.warehouse)
    warehouse.migrate()
    count = write_history(
        warehouse, options.nights, options.clusters, progress=lambda text: print(text, flush=True)
    )
    names = ", ".join(cluster_names(options.clusters))
    print(f"wrote {count:,} generated runs of {names} into {warehouse.url}; nothing in them was measured")
    return 0
