"""The comparisons of a run, out of the warehouse, as the analysis made them."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from bigtcp_bench.analysis.compare import Comparison

if TYPE_CHECKING:
    import pandas as pd


def stored_comparisons(frame: pd.DataFrame) -> list[Comparison]:
    """Return a Comparison for each row of ``frame``, as ``Warehouse.comparisons_frame`` returns it."""
    names = {item.name for item in fields(Comparison)}
    found = []
    for row in frame.to_dict("records"):
        values = {str(name): known(value) for name, value in row.items() if name in names}
        values["reasons"] = tuple(values["reasons"] or ())
        found.append(Comparison(**values))
    return found


def known(value: Any) -> Any:
    """Return a value out of a frame, where what is not known may be NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value
