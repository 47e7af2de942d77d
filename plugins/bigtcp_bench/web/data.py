"""The warehouse as the pages read it: one engine per address, kept open between requests."""

from __future__ import annotations

import functools

from bigtcp_bench.airflow import connections
from bigtcp_bench.warehouse.engine import engine_of
from bigtcp_bench.warehouse.store import Warehouse


def open_warehouse() -> Warehouse:
    """Return the warehouse of the connection. Raises BenchError if there is none of this package's version."""
    return _opened(connections.warehouse_url())


@functools.lru_cache(maxsize=4)
def _opened(url: str) -> Warehouse:
    warehouse = Warehouse(engine_of(url, pooled=True))
    warehouse.check_version()
    return warehouse
