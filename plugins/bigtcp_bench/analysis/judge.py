"""Judge anyone's own nightly series from a CSV file, night by night as it would have been judged then.

Columns: ``date`` and ``value``, or ``date``, ``off`` and ``on``; optional ``version`` (a change of it begins an
epoch) and ``series`` (several series in one file). Other columns are ignored. Rows may be in any order: each
series is sorted by date. An empty cell (or NaN, NA, null) is a missing night.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from bigtcp_bench.analysis.detector import Attribution, Detector, Event, Judgement, State
from bigtcp_bench.analysis.history import ArmsDetector, EpochLog
from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.in_cluster.kind import Better
from bigtcp_bench.planning.thresholds import Thresholds

_MISSING = frozenset(("", "nan", "na", "n/a", "null", "none"))

#: What spreadsheets of some countries write instead of a comma.
_SEPARATORS = {";": "semicolons", "\t": "tabs"}
_DECIMAL_COMMA = "; if that is a decimal comma: allowed is a decimal point"


@dataclass(frozen=True)
class JudgedNight:
    """One night of one series: dates as in the file, ``change_pct`` in per cent of the usual level.

    ``since`` is the night on which the state began, for a regression as estimated (once it got worse, that of the
    newest change); None for learning and steady. ``event`` is as in ``Judgement``.
    """

    series: str
    date: str
    state: State
    change_pct: float | None
    since: str | None
    attribution: Attribution | None = None
    event: Event | None = None

    def to_json_line(self) -> str:
        """Return the night as one line of JSON Lines: series, date, state, change_pct, since; event, if any."""
        names = ("series", "date", "state", "change_pct", "since", *(["event"] if self.event else []))
        return json.dumps({name: getattr(self, name) for name in names}, allow_nan=False)


@dataclass(frozen=True)
class _Row:
    line: int
    when: datetime
    night: str
    values: tuple[float | None, ...]
    version: str | None


def judge_file(
    path: str | Path, better: Better = "higher", thresholds: Thresholds | None = None
) -> Iterator[JudgedNight]:
    """Yield the judgement of every night in the CSV file ``path``: series in the order of the file, then by date.

    The whole file is read and checked before the first night is judged. Raises InvalidInput, in one sentence with
    line and column, for whatever is wrong with it.
    """
    path = Path(path)
    if better not in ("higher", "lower"):
        raise InvalidInput(f"better is {better!r}; allowed are higher and lower")
    try:
        # utf-8-sig: spreadsheets put a byte order mark at the beginning.
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not a text file in UTF-8 (byte {error.start + 1})") from error
    return judge_lines(text.splitlines(keepends=True), str(path), path.stem, better, thresholds)


def judge_lines(
    lines: Iterable[str],
    where: str,
    default_series: str = "series",
    better: Better = "higher",
    thresholds: Thresholds | None = None,
) -> Iterator[JudgedNight]:
    """Yield the judgements of the CSV text ``lines``; like ``judge_file``, with ``where`` named in errors."""
    columns, series = _read(lines, where, default_series)
    for name, rows in series.items():
        rows.sort(key=lambda row: row.when)
        judged = (
            _judge_pairs(rows, better, thresholds) if "off" in columns else _judge_values(rows, better, thresholds)
        )
        for judgement in judged:
            change = None if judgement.change is None else round(100 * judgement.change, 3)
            yield JudgedNight(
                name,
                judgement.night,
                judgement.state,
                change,
                judgement.since,
                judgement.attribution,
                judgement.event,
            )


def _judge_values(rows: Iterable[_Row], better: Better, thresholds: Thresholds | None) -> Iterator[Judgement]:
    detector, epochs = Detector(thresholds, better, scale=None), EpochLog()
    for row in rows:
        yield epochs.mark(detector.judge(row.night, row.values[0]), {"version": row.version})


def _judge_pairs(rows: Iterable[_Row], better: Better, thresholds: Thresholds | None) -> Iterator[Judgement]:
    detector = ArmsDetector(thresholds, better, "log")
    for row in rows:
        yield detector.judge(row.night, row.values[0], row.values[1], environment={"version": row.version})


def _read(lines: Iterable[str], where: str, default_series: str) -> tuple[tuple[str, ...], dict[str, list[_Row]]]:
    """Return the names of the value columns, and the rows of each series."""
    reader = csv.reader(lines, strict=True)
    series: dict[str, list[_Row]] = {}
    seen: dict[tuple[str, datetime], int] = {}
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        columns = _value_columns(header, where)
        date_at = header.index("date")
        value_at = [header.index(name) for name in columns]
        series_at = header.index("series") if "series" in header else None
        version_at = header.index("version") if "version" in header else None
        for cells in reader:
            line = reader.line_num
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                raise InvalidInput(
                    f"{where}, line {line}: there are {len(cells)} cells, but the header has {len(header)} columns"
                    f"{_DECIMAL_COMMA if len(cells) > len(header) else ''}"
                )
            name = cells[series_at].strip() if series_at is not None else default_series
            if not name:
                raise InvalidInput(f"{where}, line {line}, column series: the name of the series is empty")
            night = cells[date_at].strip()
            when = _date(night, where, line)
            if (name, when) in seen:
                raise InvalidInput(
                    f"{where}, line {line}, column date: {night} was already given for series {name!r} in line "
                    f"{seen[name, when]}; a series has one value per night"
                )
            seen[name, when] = line
            values = tuple(
                _number(cells[at], where, line, column, "off" in columns)
                for at, column in zip(value_at, columns, strict=True)
            )
            version = cells[version_at].strip() if version_at is not None else ""
            series.setdefault(name, []).append(_Row(line, when, night, values, version or None))
    except csv.Error as error:
        raise InvalidInput(f"{where}, line {reader.line_num}: not CSV: {error}") from error
    if not series:
        raise InvalidInput(f"{where} has a header but no nights, in line 2 or later")
    return columns, series


def _value_columns(header: list[str], where: str) -> tuple[str, ...]:
    """Return ("value",) or ("off", "on"), or raise InvalidInput if the header has neither."""
    wanted = "allowed are date,value or date,off,on, each optionally with version and series"
    if not any(header):
        raise InvalidInput(f"{where}, line 1: the header is missing; {wanted}")
    for name in ("date", "value", "off", "on", "version", "series"):
        if header.count(name) > 1:
            raise InvalidInput(f"{where}, line 1, column {name}: the column is there {header.count(name)} times")
    text = ",".join(header)
    for separator, word in _SEPARATORS.items():
        if separator in text and "date" in map(str.strip, text.split(separator)):
            raise InvalidInput(
                f"{where}, line 1: the columns are separated by {word}; allowed are commas between columns, and a "
                "decimal point in numbers"
            )
    if "date" not in header:
        raise InvalidInput(f"{where}, line 1: column date is missing; {wanted}")
    arms = [name for name in ("off", "on") if name in header]
    if "value" in header and arms:
        raise InvalidInput(f"{where}, line 1: there are columns value and {arms[0]}; {wanted}")
    if "value" in header:
        return ("value",)
    if len(arms) == 2:
        return ("off", "on")
    missing = "value" if not arms else ("on" if arms == ["off"] else "off")
    raise InvalidInput(f"{where}, line 1: column {missing} is missing; {wanted}")


def _date(text: str, where: str, line: int) -> datetime:
    try:
        when = (
            datetime.fromisoformat(text)
            if len(text) > 10
            else datetime.combine(date.fromisoformat(text), datetime.min.time())
        )
    except ValueError as error:
        raise InvalidInput(
            f"{where}, line {line}, column date: {text!r} is not a date; allowed is the form 2026-01-31"
        ) from error
    # Only the order matters here: a time without a zone is taken as UTC, like one with its zone converted.
    offset = when.utcoffset()
    return (when - offset if offset else when).replace(tzinfo=None)


def _number(text: str, where: str, line: int, column: str, positive: bool) -> float | None:
    if text.strip().lower() in _MISSING:
        return None
    try:
        value = float(text)
    except ValueError as error:
        comma = _DECIMAL_COMMA if "," in text else ""
        raise InvalidInput(
            f"{where}, line {line}, column {column}: {text.strip()!r} is not a number{comma}"
        ) from error
    if not math.isfinite(value):
        raise InvalidInput(f"{where}, line {line}, column {column}: {text.strip()!r} is not a finite number")
    if positive and value < 0:
        raise InvalidInput(
            f"{where}, line {line}, column {column}: {text.strip()} is negative, but off and on are compared as "
            "a ratio"
        )
    return value
