"""Frames as CSV for download."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fastapi import Response

if TYPE_CHECKING:
    import pandas as pd

#: What a spreadsheet takes for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_response(frame: pd.DataFrame, name: str) -> Response:
    """Return ``frame`` as a CSV file called ``name``, with moments in ISO format."""
    text = frame.copy()
    for column in text.select_dtypes(["object", "str"]):
        text[column] = text[column].map(_harmless)
    return Response(
        text.to_csv(index=False, date_format="%Y-%m-%dT%H:%M:%S%z"),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": attachment(name)},
    )


def attachment(name: str) -> str:
    """Return the header that makes a browser store an answer in a file called ``name``, plain characters only."""
    return f'attachment; filename="{re.sub(r"[^A-Za-z0-9._-]+", "_", name)}"'


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
