"""Numbers as people read them: 24.1 Gbit/s, 187 µs, 63,012 B, +74.2 % [+70.1, +78.5]."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

#: What stands where there is no number.
MISSING = "–"

_NEGATIVE = re.compile(r"(?<![\w.-])-(?=\d)")
_PER_CENT = re.compile(r"(?<=\d)%")
#: Before the units of metrics.py and what people are told besides; also between a time and its UTC.
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:%|[kMGT]?bit/s|[kMG]?B|s/GB|/GB|/s|[µm]?s|min|h|UTC)(?![\w/]))")

_PREFIXES = ("", "k", "M", "G", "T", "P")


def known(value: Any) -> Any:
    """Return ``value`` out of a frame, and None for the NaN that stands there for a missing text or number."""
    return None if isinstance(value, float) and math.isnan(value) else value


def value_text(value: float | None, unit: str) -> str:
    """Return ``value`` of a ``unit`` of metrics.py for people, with three significant digits (bytes: all).

    None and values that are not finite become a dash. An unknown unit is written out behind the number.
    """
    if value is None or not math.isfinite(value):
        return MISSING
    renderer = _RENDERERS.get(unit)
    return renderer(value) if renderer else f"{significant(value)} {unit}"


def bit_rate(value: float) -> str:
    """Return bits per second with the decimal prefix that suits it: ``24.1 Gbit/s``."""
    return _prefixed(value, "bit/s")


def microseconds(value: float) -> str:
    """Return a time given in microseconds as µs, from 10,000 µs as ms, from 10 s as s."""
    for limit, divisor, unit in ((10_000.0, 1, "µs"), (10_000_000.0, 1_000, "ms")):
        if abs(value) < limit:
            return f"{significant(value / divisor)} {unit}"
    return f"{significant(value / 1_000_000)} s"


def byte_count(value: float) -> str:
    """Return bytes in full, with separators, for packet sizes are compared to the byte: ``63,012 B``."""
    return f"{value:,.0f} B"


def share(value: float) -> str:
    """Return a share between 0 and 1 in per cent: ``12.3 %``."""
    return f"{value * 100:.1f} %"


def change_text(change: float | None) -> str:
    """Return a relative change (0.742 is 74.2 % more) with its sign: ``+74.2 %``."""
    if change is None or not math.isfinite(change):
        return MISSING
    return f"{_signed(change)} %"


def change_with_interval(change: float | None, low: float | None, high: float | None) -> str:
    """Return a relative change with its confidence interval: ``+74.2 % [+70.1, +78.5]``.

    Without an interval (too few generations) just the change.
    """
    text = change_text(change)
    if text == MISSING or low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return text
    return f"{text} [{_signed(low)}, {_signed(high)}]"


def duration(seconds: float | None) -> str:
    """Return a duration with its two largest units that are not zero: ``3 min 48 s``, ``1 h 5 min``, ``2 h``."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return MISSING
    if seconds < 60:
        return f"{significant(seconds)} s"
    total = timedelta(seconds=round(seconds))
    hours, rest = divmod(int(total.total_seconds()), 3600)
    minutes, left = divmod(rest, 60)
    parts = ((hours, "h"), (minutes, "min")) if hours else ((minutes, "min"), (left, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number)


def significant(value: float, digits: int = 3) -> str:
    """Return ``value`` rounded to ``digits`` significant digits, never in exponent notation.

    Digits before the decimal point are kept and separated by commas: 63,012.4 becomes ``63,012``.
    """
    if value == 0:
        return "0"
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    rounded = round(value, decimals)
    if decimals and rounded and math.floor(math.log10(abs(rounded))) > math.floor(math.log10(abs(value))):
        decimals -= 1  # 9.996 is 10.0, not 10.00
    return minus(f"{value:,.{decimals}f}")


def minus(text: str) -> str:
    """Return ``text`` of a number with the sign that charts draw, too: a minus instead of a hyphen."""
    return text.replace("-", "\N{MINUS SIGN}")


def capital(text: str) -> str:
    """Return ``text`` as a sentence begins; what else is a capital letter stays one."""
    return text[:1].upper() + text[1:]


def signs(sentence: str) -> str:
    """Return ``sentence`` with that sign before its negative numbers, and a space before ``%``.

    Names and dates keep their hyphens.
    """
    return _PER_CENT.sub(" %", _NEGATIVE.sub("\N{MINUS SIGN}", sentence))


def unbroken(value: Any) -> Any:
    """Return a text, or markup, in which no line ends between a number and its unit; anything else as it is."""
    return type(value)(_BEFORE_UNIT.sub("\N{NO-BREAK SPACE}", value)) if isinstance(value, str) else value


def axis(unit: str, largest: float) -> tuple[float, str]:
    """Return what values of a ``unit`` of metrics.py are divided by on an axis up to ``largest``, and its unit.

    ``(1e9, "Gbit/s")`` for bit rates of some 10^10.
    """
    if unit == "bit/s":
        index = 0
        while abs(largest) >= 1000 and index < len(_PREFIXES) - 1:
            largest, index = largest / 1000, index + 1
        return 1000.0**index, f"{_PREFIXES[index]}bit/s"
    if unit == "us":
        return (1.0, "µs") if abs(largest) < 10_000 else (1e3, "ms") if abs(largest) < 10_000_000 else (1e6, "s")
    return _AXES.get(unit, (1.0, unit))


def _prefixed(value: float, unit: str) -> str:
    index = 0
    # 999.6 would be shown as 1,000, which is one of the next prefix.
    while abs(value) >= 999.5 and index < len(_PREFIXES) - 1:
        value, index = value / 1000, index + 1
    return f"{significant(value)} {_PREFIXES[index]}{unit}"


def _signed(change: float) -> str:
    return minus(f"{change * 100:+z,.1f}")


_AXES = {"1": (0.01, "%"), "1/s": (1.0, "per second"), "1/GB": (1.0, "per GB")}

_RENDERERS: dict[str, Callable[[float], str]] = {
    "bit/s": bit_rate,
    "us": microseconds,
    "B": byte_count,
    "1": share,
    "1/s": lambda value: f"{significant(value)} /s",
    "s/GB": lambda value: f"{significant(value)} s/GB",
    "1/GB": lambda value: f"{significant(value)} /GB",
}
