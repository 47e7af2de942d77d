"""Rows into pandas frames whose column types are the same on every database, also when they are empty."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd
import sqlalchemy as sa

from bigtcp_bench.warehouse.schema import UtcDateTime


def frame_of(result: sa.CursorResult[Any], columns: Iterable[sa.ColumnElement[Any]]) -> pd.DataFrame:
    """Return the rows of ``result`` with the types of ``columns``.

    Moments are in UTC; integers are int64, or Int64 where one may be missing; a missing number is NaN.
    """
    names = list(result.keys())
    data = list(zip(*result.all(), strict=True)) or [()] * len(names)
    kinds = {name: column.type for name, column in zip(names, columns, strict=True)}
    return pd.DataFrame({name: _series(values, kinds[name]) for name, values in zip(names, data, strict=True)})


def _series(values: Iterable[Any], kind: sa.types.TypeEngine[Any]) -> pd.Series[Any]:
    values = list(values)
    if isinstance(kind, UtcDateTime):
        return pd.Series(pd.to_datetime(values, utc=True)).astype("datetime64[us, UTC]")
    if isinstance(kind, sa.Boolean):
        return pd.Series(values, dtype="bool")
    if isinstance(kind, sa.Integer):
        return pd.Series(values, dtype="Int64" if None in values else "int64")
    if isinstance(kind, sa.Float):
        return pd.Series(values, dtype="float64")
    if isinstance(kind, sa.Text):
        return pd.Series(values, dtype="str")
    return pd.Series(values, dtype="object")
