"""Writes the frame of a trend query as CSV, JSON or Parquet, for programs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from bigtcp_bench.errors import InvalidInput

if TYPE_CHECKING:
    import pandas as pd

Format = Literal["csv", "json", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)

#: Significant digits of numbers in JSON: more than any measurement here has.
DIGITS = 6


def rounded(value: float) -> float:
    """Return ``value`` with DIGITS significant digits."""
    return float(f"{value:.{DIGITS}g}")


def write_frame(frame: pd.DataFrame, form: Format, path: Path | None = None) -> None:
    """Write ``frame`` to ``path``, or to standard output.

    ``json`` is one array of objects with ISO moments, and numbers of at most DIGITS digits.
    Raises InvalidInput for Parquet without a path, or without the optional package that writes it.
    """
    if form == "parquet":
        _write_parquet(frame, path)
        return
    if form == "csv":
        text = frame.to_csv(index=False, date_format="%Y-%m-%dT%H:%M:%S%z")
    else:
        text = _rounded(frame).to_json(orient="records", date_format="iso", double_precision=15) + "\n"
    if path is None:
        sys.stdout.write(text)
    else:
        path.write_text(text, encoding="utf-8")


def _rounded(frame: pd.DataFrame) -> pd.DataFrame:
    floats = frame.select_dtypes("float").columns
    return frame.assign(**{name: frame[name].map(rounded, na_action="ignore") for name in floats})


def _write_parquet(frame: pd.DataFrame, path: Path | None) -> None:
    if path is None:
        raise InvalidInput("Parquet is not text: it needs the path of a file to write to")
    try:
        frame.to_parquet(path, index=False)
    except ImportError as error:
        raise InvalidInput(
            "Parquet needs an optional package: install bigtcp-bench[parquet], or choose csv or json"
        ) from error
