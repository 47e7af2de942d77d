"""The comparisons of a run, out of the warehouse, as the analysis made them."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
        values = {str(name): _known(value) for name, value in row.items() if name in names}
        values["reasons"] = tuple(values["reasons"] or ())
        values.setdefault("below_margin", _is_below_margin(values))
        found.append(Comparison(**values))
    return found


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _is_below_margin(values: Mapping[str, Any]) -> bool:
    """Return whether a change is real but, on the scale of ratios, smaller than the margin."""
    change, margin = values["change"], values["margin"]
    if values["verdict"] not in ("faster", "slower") or change is None or margin is None or change <= -1:
        return False
    return abs(math.log1p(change)) < math.log1p(margin)
