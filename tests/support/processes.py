"""Processes that use one database at once."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext


def side_by_side() -> ForkServerContext:
    """Return what starts processes that share nothing with this one; all begin with the warehouse imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "bigtcp_bench.warehouse.store", "bigtcp_bench.warehouse.incidents"])
    return context
