"""Answers about many nights as tables for people: units, per cents with intervals, words, newest first."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console, Group
from rich.text import Text

from bigtcp_bench.errors import clean
from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.report import units
from bigtcp_bench.report.plain import PLAIN_WIDTH, bare_table, plain
from bigtcp_bench.report.words import CAUSES, VERDICT_WORDS, verdict_word

if TYPE_CHECKING:
    import pandas as pd

#: Nights that a table shows when no period is asked for.
NIGHTS = 14

#: Columns in the row's own ``unit``.
_VALUES = frozenset(
    f"{arm}{end}" for arm in ("off", "on") for end in ("", "_median", "_mean", "_before", "_after")
)
#: Columns of relative changes, 0.1 for 10 % more.
_CHANGES = frozenset(
    [
        "change",
        "sender_change",
        "receiver_change",
        "off_moved",
        "on_moved",
        "benefit",
        "benefit_before",
        "benefit_after",
        "worst_night",
        "best_night",
        "lowest_change",
        "highest_change",
    ]
)
#: Columns of relative sizes that have no sign of their own.
_SHARES = frozenset(
    [
        "on_worse_by",
        "off_worse_by",
        "mean_half_width",
        "widest_half_width",
        "mean_detectable",
        "repetition_sd",
        "generation_sd",
        "switch_sd",
        "detects",
        "would_detect",
    ]
)
_CPU = frozenset(f"{end}_{arm}" for end in ("sender", "receiver") for arm in ("off", "on"))
#: What a row says elsewhere, or a machine only wants.
_LEFT_OUT = frozenset(("unit", "started_at", "is_night", "ci_low", "ci_high", "suspected_on", "acknowledged_at"))
#: Columns whose names would be wider than what is in them.
_NAMES = {
    "repetition_sd": "sd in a pair",
    "generation_sd": "sd of pairs",
    "switch_sd": "sd of blocks",
    "generations": "fresh pairs",
    "repetitions": "each",
    "would_detect": "then detects",
    "changed_on": "since",
    "confirmed_on": "confirmed",
    "closed_on": "until",
    "open_days": "days",
    "acknowledged_by": "known to",
    "acknowledged_note": "note",
}
#: Columns that a narrow terminal does without, the first ones first.
_SPARE = (
    "note",
    "confirmed",
    "cilium version",
    "metrics",
    "off worse by",
    "known to",
    "days",
    "of series",
    "run",
    "highest change",
    "cluster",
    "verdict",
)
#: Columns that are said once below a table in which they are the same everywhere.
_ONCE = frozenset(
    name.replace("_", " ")
    for name in [
        "cluster",
        "cilium_version",
        "version_before",
        "version_after",
        "nights_before",
        "nights_after",
        "node_pair",
        "aa_runs",
        "order",
    ]
)
#: Columns whose cells are lists or sentences: they may be broken, others never are.
_FOLDED = frozenset(("series", "scenarios", "metrics", "note", "attribution", "plan", "event", "state"))

#: What words of the header mean that do not say it themselves.
_MEANINGS = {
    "change": "on against off, with its confidence interval where there is one",
    "benefit": "change, positive where BIG TCP helps",
    "benefit before": "mean gain by BIG TCP on the nights before",
    "on worse by": "against the nights around it, in the metric's own direction",
    "off moved": "after against before",
    "sender change": "on against off; less CPU time is better",
    "mean half width": "of the interval of change, as ± of it",
    "mean detectable": "smallest change that a night could have seen",
    "sd in a pair": "relative standard deviation between repetitions of one pod pair, from A/A runs",
    "sd of pairs": "between fresh pod pairs",
    "sd of blocks": "between blocks of the same arm",
    "detects": "smallest change that the plan sees as it is",
    "fresh pairs": "suggested for an arm, so that the plan sees its margin; each: repetitions in a pair",
    "then detects": "what the suggested size sees",
    "sender off": "CPU seconds per gigabyte, in all columns that end in off and on",
    "lowest change": "of a series against its usual level",
    "attribution": "what is to blame",
    "since": "first night of the state",
    "suspect": "a change that the next nights confirm or not",
    "learning": "too few nights for a usual level",
}


@dataclass(frozen=True)
class _Column:
    name: str
    cells: Sequence[str]
    numeric: bool

    @property
    def folds(self) -> bool:
        """Whether its cells are lists or sentences, which may be broken."""
        return self.name in _FOLDED

    @property
    def width(self) -> int:
        """Return how many characters it needs: the longest cell, or word of its name."""
        cells = (word for cell in self.cells for word in (cell.split() if self.folds else [cell]))
        return max(map(len, (*cells, *self.name.split())), default=0)

    def header(self, folded: bool) -> str:
        """Return its name, ``folded`` as wide as the column is."""
        return "\n".join(textwrap.wrap(self.name, self.width, break_long_words=False)) if folded else self.name


def print_frame(frame: pd.DataFrame, console: Console | None = None) -> None:
    """Print ``frame``, as a trend query returns it, as wide as the terminal (``COLUMNS``), with a legend."""
    console = console or Console(highlight=False)
    console.print(_rendered(frame, console.width), highlight=False)


def frame_text(frame: pd.DataFrame, width: int) -> str:
    """Return ``frame`` as plain text of at most ``width`` columns."""
    return plain(_rendered(frame, width), width) + "\n"


def newest_first(frame: pd.DataFrame, nights: int | None) -> tuple[pd.DataFrame, str]:
    """Return ``frame`` newest first, its newest ``nights`` only (None: all), and a sentence if some are left out.

    Nights are its column ``night``, or months; a frame without either stays as it is.
    """
    name = next((column for column in ("night", "date", "month") if column in frame), None)
    if name is None:
        return frame, ""
    frame = frame.sort_values(name, ascending=False, kind="stable")
    known = list(frame[name].drop_duplicates())
    if nights is None or name == "month" or len(known) <= nights:
        return frame, ""
    return (
        frame[frame[name].isin(known[:nights])],
        f"the newest {nights} of {len(known)} nights; --nights says how many",
    )


def by_night(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the answer of ``nightly_trend`` with both arms beside each other, as ``off`` and ``on``."""
    keys = ["scenario", "run"]
    value = {arm: frame[frame["arm"] == arm].set_index(keys)["value"] for arm in ("off", "on")}
    nights = frame.drop_duplicates(keys).set_index(keys)
    for place, arm in enumerate(("off", "on"), start=list(nights.columns).index("arm")):
        nights.insert(place, arm, value[arm])
    columns = [name for name in frame.columns if name not in ("arm", "value")]
    at = columns.index("unit")
    return nights.reset_index()[[*columns[:at], "off", "on", *columns[at:]]]


def _rendered(frame: pd.DataFrame, width: int) -> Group | Text:
    if frame.empty:
        return Text("no rows")
    all_of = [_column(frame, str(name)) for name in frame.columns if str(name) not in _LEFT_OUT]
    same = [one for one in all_of if one.name in _ONCE and len(one.cells) > 1 and len(set(one.cells)) == 1]
    gap = 1 if width < PLAIN_WIDTH else 2
    # What nobody has written needs no column.
    columns, spared = _fitting([one for one in all_of if one not in same and any(one.cells)], width, gap)
    folded = sum(max(column.width, len(column.name)) + gap for column in columns) > width
    table = bare_table(gap)
    for column, own in zip(columns, _widths(columns, width, gap, folded), strict=True):
        justify: Literal["left", "right"] = "right" if column.numeric else "left"
        header = column.header(folded)
        table.add_column(header, justify=justify, no_wrap=not column.folds, width=own, overflow="fold")
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(Text, row))
    said = {column.name for column in columns}
    said |= {cell for column in columns if column.name == "state" for cell in column.cells}
    legend = [f"{word}: {meaning}" for word, meaning in _MEANINGS.items() if word in said]
    once = ", ".join(f"{column.name} {column.cells[0]}" for column in same if column.cells[0])
    below = [f"In all rows: {once}"] if once else []
    below += [f"Left out in this width: {', '.join(spared)}"] if spared else []
    text = ". ".join([*below, *legend])
    return Group(table, Text(), Text(f"{text}.", style="dim")) if text else Group(table)


def _widths(columns: Sequence[_Column], width: int, gap: int, folded: bool) -> list[int]:
    """Return how wide each column is: those that may be broken have what the others leave."""
    least = [column.width if folded else max(column.width, len(column.name)) for column in columns]
    # rich counts the gap behind the last one, too.
    room = width - sum(least) - gap * len(columns)
    found = []
    for column, own in zip(columns, least, strict=True):
        more = min(max(0, max(map(len, column.cells), default=0) - own), max(0, room)) if column.folds else 0
        room -= more
        found.append(own + more)
    return found


def _fitting(columns: list[_Column], width: int, gap: int) -> tuple[list[_Column], list[str]]:
    """Return the columns that fit into ``width`` with ``gap`` between them, and the names of those left out."""
    spared: list[str] = []
    for name in _SPARE:
        if sum(column.width + gap for column in columns) <= width:
            break
        kept = [column for column in columns if column.name != name]
        spared += [name] * (len(kept) < len(columns))
        columns = kept
    return columns, spared


def _column(frame: pd.DataFrame, name: str) -> _Column:
    import pandas as pd

    values = [_plain(value) for value in frame[name]]
    of_unit = [str(unit) for unit in frame["unit"]] if "unit" in frame else [""] * len(frame)
    numeric = pd.api.types.is_numeric_dtype(frame[name].dtype)
    if name in _VALUES:
        cells = [units.value_text(value, unit) for value, unit in zip(values, of_unit, strict=True)]
    elif name in _CPU:
        cells = [units.MISSING if value is None else units.significant(value) for value in values]
    elif name == "change" and "ci_low" in frame:
        ends = ([_plain(value) for value in frame[end]] for end in ("ci_low", "ci_high"))
        cells = [units.change_with_interval(*row) for row in zip(values, *ends, strict=True)]
    elif name == "change_pct":
        cells = [units.change_text(None if value is None else value / 100) for value in values]
        return _Column("against usual", cells, True)
    elif name in _CHANGES:
        cells = list(map(units.change_text, values))
    elif name in _SHARES:
        cells = [units.MISSING if value is None else units.share(value) for value in values]
    else:
        cells = [_words(name, value) for value in values]
        if name == "series" and numeric:
            name = "of_series"
        return _Column(VERDICT_WORDS.get(name, _name(name)), cells, numeric)
    return _Column(_name(name), cells, True)


def _name(column: str) -> str:
    return _NAMES.get(column, column.replace("_", " "))


def _plain(value: Any) -> Any:
    import pandas as pd

    return None if value is None or (not isinstance(value, str) and pd.isna(value)) else value


def _words(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name in ("verdict", "state"):
        return verdict_word(str(value))
    if name == "attribution":
        return CAUSES.get(str(value), str(value))
    if name in ("metric", "metrics"):
        return ", ".join(METRICS[one].short_label if one in METRICS else one for one in str(value).split(","))
    if name == "scenarios":
        return ", ".join(str(value).split(","))
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    # What came from outside may hold line ends and control characters; a row stays one row.
    return clean(str(value))
