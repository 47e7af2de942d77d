"""Every error a user can meet: one sentence that names what, where and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError


class BenchError(Exception):
    """Base of all errors whose text is written for the person who runs the benchmark."""


class InvalidInput(BenchError):
    """Something from outside (a param, plan file, agent document, CSV) is not what it must be."""


class PreconditionFailed(BenchError):
    """The cluster cannot be benchmarked as it is; nothing was changed because of this."""


class SwitchFailed(BenchError):
    """An arm could not be put in force, or not be proven to be; ``report`` is what was found, if anything."""

    def __init__(self, sentence: str, report: Mapping[str, Any] | None = None) -> None:
        super().__init__(sentence)
        self.report = report


class FenceLost(BenchError):
    """This run no longer owns the cluster, so it must not change it."""


class RestoreFailed(BenchError):
    """The cluster's state could not be put back, or differs from the saved one after the attempt."""


class MeasurementFailed(BenchError):
    """A repetition produced no usable measurement."""


class WarehouseError(BenchError):
    """The warehouse cannot be reached, or its tables are of another version than this package."""


class WrongVersion(WarehouseError):
    """The tables are of another version than this package: nothing may be read from them, or written."""


def validation_sentence(error: ValidationError, where: str) -> str:
    """Return one sentence for the first problem of a pydantic ``error`` in ``where`` (a file, a param set)."""
    problems = error.errors()
    first = problems[0]
    field = ".".join(str(part) for part in first["loc"]) or "the document"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "is not a known field"
    shown = repr(first.get("input"))
    if len(shown) > 80:
        shown = shown[:77] + "..."
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if not first["loc"] and first["type"] == "value_error":
        # Of several fields, which it names itself.
        return f"{where}: {message}{more}"
    return f"{where}: {field} = {shown}: {message}{more}"


def clean(text: str) -> str:
    """Return ``text`` on one line without control characters: it may come from a pod's log, or from a stranger."""
    line = " ".join(text.split())
    return line if line.isprintable() else "".join(char for char in line if char.isprintable())


def first_line(error: BaseException) -> str:
    """Return the first line of what ``error`` says, or its class where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
