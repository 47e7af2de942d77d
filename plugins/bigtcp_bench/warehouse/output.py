"""Writes the frame of a trend query as a table, CSV, JSON or Parquet."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from bigtcp_bench.errors import InvalidInput

if TYPE_CHECKING:
    import pandas as pd

Format = Literal["table", "csv", "json", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)


def write_frame(frame: pd.DataFrame, form: Format, path: Path | None = None) -> None:
    """Write ``frame`` to ``path``, or to standard output.

    ``json`` is one array of objects with ISO moments; ``table`` is for people, with numbers to four digits.
    Raises InvalidInput for Parquet without a path, or without the optional package that writes it.
    """
    if form == "parquet":
        _write_parquet(frame, path)
        return
    if form == "table":
        text = _table(frame)
    elif form == "csv":
        text = frame.to_csv(index=False, date_format="%Y-%m-%dT%H:%M:%S%z")
    else:
        text = frame.to_json(orient="records", date_format="iso", double_precision=15) + "\n"
    if path is None:
        sys.stdout.write(text)
    else:
        path.write_text(text, encoding="utf-8")


def _write_parquet(frame: pd.DataFrame, path: Path | None) -> None:
    if path is None:
        raise InvalidInput("Parquet is not text: it needs the path of a file to write to")
    try:
        frame.to_parquet(path, index=False)
    except ImportError as error:
        raise InvalidInput(
            "Parquet needs an optional package: install bigtcp-bench[parquet], or choose csv or json"
        ) from error


def _table(frame: pd.DataFrame) -> str:
    import pandas as pd

    if frame.empty:
        return "no rows\n"

    def shown(value: Any) -> str:
        if value is None or (not isinstance(value, str) and pd.isna(value)):
            return ""
        if isinstance(value, float):
            return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
        return f"{value:%Y-%m-%d %H:%M}" if isinstance(value, datetime) else str(value)

    # A cell's text may hold line ends and control characters of a note; a row stays one line.
    cells = [[" ".join(shown(value).split()) for value in row] for row in frame.itertuples(index=False)]
    names = [str(name) for name in frame.columns]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    numeric = [pd.api.types.is_numeric_dtype(kind) for kind in frame.dtypes]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in [names, ["-" * width for width in widths], *cells]
    ]
    return "\n".join(lines) + "\n"
