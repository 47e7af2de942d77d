"""What a generated history comes to, night by night, short enough to be kept and compared.

Usage: ``python -m tests.generated.summary`` writes what is kept anew, after figures or verdicts were changed on
purpose.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from bigtcp_bench.generated.history import write_history
from bigtcp_bench.warehouse import schema
from bigtcp_bench.warehouse.frames import frame_of
from bigtcp_bench.warehouse.store import Warehouse

if TYPE_CHECKING:
    import pandas as pd

KEPT = Path(__file__).with_name("sixty_nights.json")
NIGHTS = 60
LAST = date(2026, 11, 23)

_COMPARED = ("off_median", "on_median", "change", "ci_low", "ci_high", "smallest_detectable_change", "p_value")


def history_in(folder: Path) -> Warehouse:
    """Return a new warehouse in ``folder`` with the history that the summary is of."""
    warehouse = Warehouse(f"sqlite:///{folder}/warehouse.db")
    warehouse.migrate()
    write_history(warehouse, NIGHTS, last_night=LAST, scenarios=("ipv4-stream-1", "ipv6-stream-1"))
    return warehouse


def summary_of(warehouse: Warehouse) -> dict[str, dict[str, Any]]:
    """Return each night's outcome, its blocks, how many rows of each kind it has, and sums of their figures."""
    runs = warehouse.runs_frame(limit=500).to_dict("records")
    tables = (schema.block, schema.result, schema.counter, schema.comparison, schema.judgement)
    stored = {table: _by_run(warehouse, table) for table in tables}
    nights = [row for row in reversed(runs) if row["is_night"]]
    return {row["started_at"].date().isoformat(): _of_run(row, stored) for row in nights}


def _by_run(warehouse: Warehouse, table: sa.Table) -> Callable[[int], pd.DataFrame]:
    """Return what returns the rows of a run: all are read at once."""
    frame = warehouse.read(lambda connection: frame_of(connection, sa.select(table)))
    places = frame.groupby("run_id").indices
    return lambda number: frame.take(places.get(number, []))


def _of_run(row: dict[Any, Any], stored: dict[sa.Table, Callable[[int], pd.DataFrame]]) -> dict[str, Any]:
    blocks, results, counters, comparisons, judgements = (rows(row["id"]) for rows in stored.values())
    return {
        "outcome": [row["status"], *row["reasons"]],
        "blocks": Counter(blocks["purpose"]),
        "measured": _sums(results, ("value",)) + _sums(counters, ("value",)),
        "compared": _sums(comparisons, _COMPARED),
        "verdicts": Counter(comparisons["verdict"]),
        "judged": _sums(judgements, ("change",)),
        "states": Counter(
            f"{one['state']} since {one['since']}, {one['attribution']}" for one in judgements.to_dict("records")
        ),
    }


def _sums(frame: pd.DataFrame, names: tuple[str, ...]) -> list[float]:
    # As floats, for a column without any value is of no type.
    return [len(frame), *(float(f"{frame[name].astype(float).sum():.9g}") for name in names)]


def _written(summary: dict[str, dict[str, Any]]) -> str:
    nights = (
        f' "{night}": {{\n'
        + ",\n".join(f"  {json.dumps(name)}: {json.dumps(one)}" for name, one in values.items())
        for night, values in summary.items()
    )
    return "{\n" + "\n },\n".join(nights) + "\n }\n}\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        KEPT.write_text(_written(summary_of(history_in(Path(made)))), encoding="utf-8")
