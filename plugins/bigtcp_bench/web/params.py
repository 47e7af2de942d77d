"""What may stand behind the question mark of a page's address, validated once, before anything is asked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

from fastapi import Query
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, StringConstraints, model_validator

from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.warehouse.queries import DEFAULT_PERIOD

#: Rows of a list on one page.
ROWS = 50


def _none_if_empty(value: Any) -> Any:
    # An empty field of a form is sent, and means that nothing was chosen.
    return None if isinstance(value, str) and not value.strip() else value


def _without_control_characters(value: str) -> str:
    # A zero byte would be an error of PostgreSQL's, and none of them is in any name.
    if not value.isprintable():
        raise ValueError("must not hold control characters")
    return value


def _one_of(allowed: Collection[str]) -> AfterValidator:
    """Return what refuses a value that is neither None nor one of ``allowed``, and names these."""

    def checked(value: str | None) -> str | None:
        if value is not None and value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return value

    return AfterValidator(checked)


#: Names and texts out of the warehouse; which of them exist is asked there.
Name = Annotated[str, StringConstraints(min_length=1, max_length=253), AfterValidator(_without_control_characters)]
Day = Annotated[date, Field(ge=date(2000, 1, 1), le=date(2100, 1, 1))]
Number = Annotated[int, Field(ge=1, le=2**31 - 1)]
OptionalText = Annotated[str | None, BeforeValidator(_none_if_empty)]
OptionalName = Annotated[Name | None, BeforeValidator(_none_if_empty)]
OptionalNumber = Annotated[Number | None, BeforeValidator(_none_if_empty)]
OptionalDate = Annotated[Day | None, BeforeValidator(_none_if_empty)]


class _Choice(BaseModel):
    """Parameters of one page. Unknown ones are ignored: an address may pass through hands that add some."""


class RunOfDag(_Choice):
    """A run as Airflow names it."""

    dag_id: Name
    run_id: Name
    cluster: OptionalName = None


class DagChoice(_Choice):
    """A DAG as Airflow names it."""

    dag_id: Name


class RunsChoice(_Choice):
    """Which runs are listed; ``before`` is the last one of the page before."""

    cluster: OptionalName = None
    status: Annotated[OptionalText, _one_of(("running", "valid", "invalid", "failed"))] = None
    before: OptionalNumber = None


class IncidentsChoice(_Choice):
    """Which incidents are listed; ``before`` is the last one of the page before."""

    cluster: OptionalName = None
    state: Annotated[OptionalText, _one_of(("open", "closed"))] = None
    before: OptionalNumber = None


class TrendChoice(_Choice):
    """What a trend shows. ``until`` is the last day, in UTC; without dates it is the last year."""

    cluster: OptionalName = None
    scenario: OptionalName = None
    metric: Annotated[OptionalName, _one_of(METRICS)] = None
    since: OptionalDate = None
    until: OptionalDate = None
    version: OptionalName = None

    @model_validator(mode="after")
    def _dates_in_order(self) -> TrendChoice:
        if self.since and self.until and self.since > self.until:
            raise ValueError(f"since ({self.since}) must not be after until ({self.until})")
        return self

    def period(self) -> tuple[datetime, datetime]:
        """Return the first moment and the moment after the last one."""
        last = self.until or datetime.now(UTC).date()
        first = self.since or last - DEFAULT_PERIOD
        start = datetime(first.year, first.month, first.day, tzinfo=UTC)
        return start, datetime(last.year, last.month, last.day, tzinfo=UTC) + timedelta(days=1)


class CompareChoice(_Choice):
    """Two runs by their numbers, or two Cilium versions of one cluster."""

    a: OptionalNumber = None
    b: OptionalNumber = None
    cluster: OptionalName = None
    before: OptionalName = None
    after: OptionalName = None


class DocumentChoice(_Choice):
    """The place of a raw document within its run."""

    block: Annotated[int, Field(ge=1, le=1000)]
    generation: Annotated[int, Field(ge=0, le=1000)]
    kind: Name
    scenario: Annotated[str, StringConstraints(max_length=253), AfterValidator(_without_control_characters)] = ""
    repetition: Annotated[int, Field(ge=0, le=1000)] = 0


RunOfDagQuery = Annotated[RunOfDag, Query()]
DagQuery = Annotated[DagChoice, Query()]
RunsQuery = Annotated[RunsChoice, Query()]
IncidentsQuery = Annotated[IncidentsChoice, Query()]
TrendQuery = Annotated[TrendChoice, Query()]
CompareQuery = Annotated[CompareChoice, Query()]
DocumentQuery = Annotated[DocumentChoice, Query()]


def sentence_of(errors: Sequence[Any]) -> str:
    """Return one sentence for the first of a request's problems, naming field, value and what is allowed."""
    first = errors[0]
    # The first part says where the parameter stands: query, path or form.
    field = ".".join(str(part) for part in first["loc"][1:])
    text = first["msg"].removeprefix("Value error, ")
    text = text[:1].lower() + text[1:]
    shown = first.get("input")
    if first["type"] == "missing":
        return f"{field} is missing; this page cannot do without it"
    if isinstance(shown, str | int | float) and field:
        value = repr(shown)
        value = value if len(value) <= 80 else f"{value[:77]}..."
        return f"{field} = {value}: {text}"
    return text
