"""A run as it is stored: its row and its larger tables, read once for everything that is said of it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from bigtcp_bench.warehouse.store import Warehouse


class StoredRun:
    """Run ``number``: its row of ``bigtcp_run`` as it is now, and frames as ``Warehouse`` returns them.

    A frame is read when it is first asked for. Raises InvalidInput if the run is unknown.
    """

    def __init__(self, warehouse: Warehouse, number: int) -> None:
        self.warehouse = warehouse
        self.number = number
        self.row = warehouse.run(number)

    @cached_property
    def blocks(self) -> pd.DataFrame:
        """Return its blocks."""
        return self.warehouse.blocks_frame(self.number)

    @cached_property
    def results(self) -> pd.DataFrame:
        """Return every measurement."""
        return self.warehouse.results_frame(self.number)

    @cached_property
    def packet_sizes(self) -> pd.DataFrame:
        """Return the packet sizes of its blocks."""
        return self.warehouse.packet_sizes_frame(self.number)
