"""Rows into pandas frames whose column types are the same on every database, also when they are empty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

from bigtcp_bench.warehouse.schema import UtcDateTime

#: Not pyarrow's, whether it is installed or not: to make such a column, and to group by it, takes longer.
TEXT = pd.StringDtype("python", na_value=np.nan)


def frame_of(connection: sa.Connection, statement: sa.Select[Any]) -> pd.DataFrame:
    """Return the rows of ``statement`` with the types of its columns.

    Moments are in UTC; integers are int64, or Int64 where one may be missing; a missing number is NaN.
    """
    kinds = {str(column.key): column.type for column in statement.selected_columns}
    rows = connection.execute(statement).all()
    values = list(zip(*rows, strict=True)) if rows else [()] * len(kinds)
    return pd.DataFrame(
        {name: _column(column, kind) for (name, kind), column in zip(kinds.items(), values, strict=True)}
    )


def _column(column: Sequence[Any], kind: sa.types.TypeEngine[Any]) -> Any:
    # Arrays, for of Series pandas would compare the indices, which takes longer than all the rest.
    values = list(column)
    if isinstance(kind, UtcDateTime):
        return pd.to_datetime(values, utc=True).as_unit("us")
    if isinstance(kind, sa.Boolean):
        return np.array(values, dtype="bool")
    if isinstance(kind, sa.Integer):
        return pd.array(values, dtype="Int64") if None in values else np.array(values, dtype="int64")
    if isinstance(kind, sa.Float):
        return np.array(values, dtype="float64")
    if isinstance(kind, sa.Text):
        return pd.array(values, dtype=TEXT)
    objects = np.empty(len(values), dtype="object")
    for place, value in enumerate(values):
        objects[place] = value
    return objects
