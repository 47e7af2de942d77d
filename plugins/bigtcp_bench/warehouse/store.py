"""The warehouse itself: every write and read of a run's rows, each in one transaction, each repeatable."""

from __future__ import annotations

from bigtcp_bench.warehouse.measurements import Measurements
from bigtcp_bench.warehouse.runs import Runs
from bigtcp_bench.warehouse.verdicts import Verdicts


class Warehouse(Runs, Measurements, Verdicts):
    """All runs of all clusters in one database, SQLite or PostgreSQL.

    Every method is one transaction, repeated when another writer was in the way, and writing the same rows twice
    equals writing them once. Rows are mappings or objects with the fields of the models in ``records``.
    Raises InvalidInput for rows that may not be stored, and WarehouseError when the database cannot be used.
    """
