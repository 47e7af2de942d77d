"""The door of the warehouse: what a row must be, so that nothing unusable is ever stored."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from functools import cache
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import to_jsonable_python

from bigtcp_bench.errors import InvalidInput, validation_sentence
from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.planning.plan import Arm, Family, NetworkPath

RunStatus = Literal["running", "valid", "invalid", "failed"]
Verdict = Literal["faster", "slower", "equivalent", "inconclusive", "invalid", "evidence"]
State = Literal["learning", "steady", "suspect", "regression", "recovered"]
#: What Airflow calls a run that somebody, or something outside of Airflow, has started.
BY_HAND = "manual"
NoiseLevel = Literal["repetition", "generation", "switch"]
IncidentState = Literal["suspect", "regression", "recovered", "dismissed", "new-normal", "unmeasured", "closed"]
MemberEnd = Literal["recovered", "new-normal", "unmeasured"]

#: Deeper JSON is no document of ours, and would end a reader that follows it by recursion.
MAX_DEPTH = 64

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
#: Of the database's columns: PostgreSQL's integer and bigint.
_MAX_INTEGER, _MAX_BIGINT = 2**31 - 1, 2**63 - 1


def _plain(value: Any) -> Any:
    # numpy's scalars come out of every data frame, and pydantic takes its integers for strangers.
    # Whoever has none has not imported it, which costs a task a sixth of a second.
    return value.item() if type(value).__module__ == "numpy" and value.ndim == 0 else value


def storable(text: str) -> str:
    """Return ``text`` without what no database holds: zero bytes, half a surrogate pair."""
    return _UNSTORABLE.sub("\ufffd", text)


def _clean(value: Any) -> Any:
    # Legal in a pod's output or in JSON.
    return storable(value) if isinstance(value, str) else value


def _json(value: Any) -> Any:
    return None if value is None else json_of(value)


def json_of(value: Any, depth: int = 0) -> Any:
    """Return ``value`` as JSON that can be stored. Raises ValueError for what is none, or is nested too deep."""
    if depth > MAX_DEPTH:
        raise ValueError(f"must not be nested deeper than {MAX_DEPTH}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be JSON without NaN and infinity")
    if value is None or isinstance(value, str | int | float):
        return _clean(value)
    if isinstance(value, list | tuple):
        return [json_of(one, depth + 1) for one in value]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {_clean(name): json_of(one, depth + 1) for name, one in value.items()}
    return json_of(to_jsonable_python(value, inf_nan_mode="constants"), depth)


def _object(value: Any) -> Any:
    if value is not None and not isinstance(value, dict):
        raise ValueError("must be a JSON object")
    return value


def _objects(value: Any) -> Any:
    if value is not None and not (isinstance(value, list) and all(isinstance(one, dict) for one in value)):
        raise ValueError("must be a list of JSON objects")
    return value


def _plan(value: Any) -> Any:
    # Of the rest of a plan every version stores what it knows; everything that tells a run reads these.
    for name in ("order", "scenarios"):
        listed = (value or {}).get(name, [])
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise ValueError(f"{name} must be a list of names")
    for name in ("duration_s", "omit_s"):
        if not isinstance((value or {}).get(name, 0), int | float | None):
            raise ValueError(f"{name} must be a number of seconds")
    if not isinstance((value or {}).get("thresholds", {}), dict | None):
        raise ValueError("thresholds must be a JSON object")
    return value


def _restore(value: Any) -> Any:
    if value is not None and not isinstance(value.get("state"), str):
        raise ValueError("state is missing: how the restore ended")
    return value


def _known_metric(value: str) -> str:
    if value not in METRICS:
        raise ValueError(f"unknown metric; known are {', '.join(METRICS)}")
    return value


def _night(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).date().isoformat()
    if isinstance(value, date):
        return value.isoformat()
    try:
        return date.fromisoformat(value).isoformat()
    except (TypeError, ValueError) as error:
        raise ValueError("must be a night such as 2026-01-31") from error


def _labels(value: str) -> str:
    # One series is one row, however its labels are written.
    try:
        labels = json.loads(_clean(value))
    except ValueError:
        labels = None
    if not isinstance(labels, dict) or not all(isinstance(label, str) for label in labels.values()):
        raise ValueError('must be a JSON object of labels such as {"instance": "node1"}')
    return json.dumps({_clean(name): _clean(labels[name]) for name in sorted(labels)}, ensure_ascii=False)


def _to_utc(value: datetime) -> datetime:
    if not 1970 <= value.year <= 9998:
        raise ValueError("must be a moment from 1970 to 9998")
    return value.astimezone(UTC)


Text = Annotated[str, BeforeValidator(_clean)]
Name = Annotated[str, BeforeValidator(_clean), Field(min_length=1, max_length=253)]
MetricName = Annotated[str, AfterValidator(_known_metric)]
Number = Annotated[float, BeforeValidator(_plain)]
Count = Annotated[int, BeforeValidator(_plain), Field(ge=0, le=_MAX_INTEGER)]
BigCount = Annotated[int, BeforeValidator(_plain), Field(ge=0, le=_MAX_BIGINT)]
Ordinal = Annotated[int, BeforeValidator(_plain), Field(ge=1, le=_MAX_INTEGER)]
Night = Annotated[str, BeforeValidator(_night)]
Moment = Annotated[AwareDatetime, AfterValidator(_to_utc)]
JsonValue = Annotated[Any, AfterValidator(_json)]
JsonObject = Annotated[JsonValue, AfterValidator(_object)]
JsonObjects = Annotated[JsonValue, AfterValidator(_objects)]
JsonRestore = Annotated[JsonObject, AfterValidator(_restore)]
JsonPlan = Annotated[JsonObject, AfterValidator(_plan)]
Reasons = list[Text]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class RunFields(_Row):
    """The columns of ``bigtcp_run`` that may change while a run goes on. Only those that were set are written."""

    status: RunStatus = "running"
    is_aa: bool = False
    #: Whether the run is one of the nights that the cluster's history is made of.
    is_night: bool = True
    started_at: Moment = Field(default_factory=lambda: datetime.now(UTC))
    finished_at: Moment | None = None
    trigger: Text | None = None
    note: Text | None = None
    plan_name: Text | None = None
    block_order: Text | None = None
    client_node: Text | None = None
    server_node: Text | None = None
    client_kernel: Text | None = None
    server_kernel: Text | None = None
    nic_driver: Text | None = None
    nic_tso_max_size: Count | None = None
    mtu: Count | None = None
    cilium_version: Text | None = None
    iperf3_version: Text | None = None
    package_version: Text | None = None
    slack_channel: Text | None = None
    slack_ts: Text | None = None
    reasons: Reasons = []
    plan: JsonPlan = None
    cilium_config: JsonObject = None
    images: JsonObject = None
    tool_versions: JsonObject = None
    environment: JsonObject = None
    checks: JsonObjects = None
    restore_result: JsonRestore = None

    @model_validator(mode="after")
    def _facts_of_plan(self) -> Self:
        # What a trend query asks of the plan stands in columns of its own.
        if isinstance(self.plan, dict) and "order" in self.plan:
            facts = {
                "plan_name": self.plan.get("name"),
                "block_order": ",".join(self.plan["order"]),
                "is_aa": len(set(self.plan["order"])) == 1,
            }
            for name, value in facts.items():
                if name not in self.model_fields_set:
                    setattr(self, name, value)
        return self


class RunRecord(RunFields):
    """A run and its identity in Airflow, and which attempt of it; None: the one that goes on, or a new one.

    Runs by hand are no nights unless that is said.
    """

    cluster: Name
    dag_id: Name
    run_id: Name
    attempt: Ordinal | None = None

    @model_validator(mode="after")
    def _night_by_trigger(self) -> Self:
        if "is_night" not in self.model_fields_set:
            self.is_night = self.trigger != BY_HAND
        return self


class BlockRecord(_Row):
    """A block: the arm that was in force, and the report of the switch that put it in force."""

    block: Ordinal
    arm: Arm
    purpose: Literal["plan", "rerun"] = "plan"
    started_at: Moment | None = None
    finished_at: Moment | None = None
    switch_report: JsonObject = None


class _RowOfBlock(_Row):
    block: Ordinal
    arm: Arm


class ResultRow(_RowOfBlock):
    """One metric of one repetition. Generation 0 is the whole block: the control."""

    generation: Count
    scenario: Name
    repetition: Ordinal
    metric: MetricName
    value: Number
    unit: Text = ""

    @model_validator(mode="after")
    def _unit_of_metric(self) -> ResultRow:
        self.unit = _unit(self.unit, self.metric)
        return self


class FailureRow(_RowOfBlock):
    """A repetition without a usable measurement, or a whole generation (no scenario, repetition 0)."""

    generation: Ordinal
    scenario: Text = ""
    repetition: Count = 0
    reason: Text


class CounterRow(_RowOfBlock):
    """How much one counter of one node grew during a block."""

    node: Name
    counter: Name
    value: Number


class PrometheusRow(_RowOfBlock):
    """One series of one query during a block; ``series`` are its labels as a JSON object with sorted names."""

    query: Name
    series: Annotated[str, AfterValidator(_labels)]
    unit: Name
    mean: Number
    lowest: Number
    highest: Number
    samples: Ordinal


class PodCounterRow(_RowOfBlock):
    """How much one counter of one pod grew during a repetition."""

    generation: Ordinal
    scenario: Name
    repetition: Ordinal
    end: Literal["sender", "receiver"]
    counter: Name
    value: Number


class PacketSizeRow(_RowOfBlock):
    """How many packets were at most ``upper_bytes`` long, and longer than the bound before that."""

    family: Family
    path: NetworkPath = "pod"
    node: Text = ""
    end: Literal["sender", "receiver"]
    direction: Literal["sent", "received"]
    upper_bytes: Ordinal
    packets: BigCount
    bytes: BigCount


class RawDocument(_Row):
    """A document of the pods' agent, compressed. ``scenario`` is empty where it concerns the whole generation.

    Generation 0 is the whole block: what both nodes had counted at its begin and end.
    """

    block: Ordinal
    generation: Count
    kind: Name
    scenario: Text = ""
    repetition: Count = 0
    encoding: Name = "zlib+json"
    document: bytes


class _RowOfAnalysis(_Row):
    # The analysis may carry more than the table keeps.
    model_config = ConfigDict(extra="ignore")


class ComparisonRow(_RowOfAnalysis):
    """Both arms of one scenario and metric, and the verdict; fields as in ``analysis.compare.Comparison``."""

    metric: MetricName
    scenario: Name
    unit: Text = ""
    better: Literal["higher", "lower", "neither", ""] = ""
    off_median: Number | None = None
    on_median: Number | None = None
    change: Number | None = None
    ci_low: Number | None = None
    ci_high: Number | None = None
    level: Number | None = None
    margin: Number | None = None
    n_off: Count | None = None
    n_on: Count | None = None
    smallest_detectable_change: Number | None = None
    p_value: Number | None = None
    drift: Number | None = None
    below_margin: bool = False
    verdict: Verdict
    reasons: Reasons = []

    @model_validator(mode="after")
    def _facts_of_metric(self) -> ComparisonRow:
        self.unit = _unit(self.unit, self.metric)
        self.better = METRICS[self.metric].better
        return self


class DiagnosisRow(_RowOfAnalysis):
    """One likely cause of what is wrong with a run: ``analysis.diagnosis.Cause``, and its position."""

    position: Ordinal
    cause: Name
    scenario: Name | None = None
    arm: Arm | None = None
    node: Name | None = None
    sentence: Text
    strength: Annotated[Number, Field(ge=0, le=1)]
    explains: JsonValue = ()
    figures: JsonValue


class NoiseRow(_RowOfAnalysis):
    """Relative standard deviation of one series at one level, from an A/A run."""

    metric: MetricName
    scenario: Name
    level: NoiseLevel
    sd: Annotated[Number, Field(ge=0)]
    n: Count | None = None


class JudgementRow(_RowOfAnalysis):
    """The state of one series after this run."""

    metric: MetricName
    scenario: Name
    state: State
    change: Number | None = None
    since: Night | None = None
    attribution: Text | None = None
    details: JsonValue = None


class MemberRecord(_Row):
    """A series of an incident, with its newest estimated change; nights are ISO dates."""

    scenario: Name
    metric: MetricName
    change: Number | None = None
    first_seen: Night
    last_seen: Night
    confirmed: bool = False
    ended: MemberEnd | None = None
    acknowledged_change: Number | None = None


class _IncidentFields(_Row):
    uid: Name
    cluster: Name
    state: IncidentState
    attribution: Text | None = None
    changed_on: Night
    suspected_on: Night
    confirmed_on: Night | None = None
    worse_on: Night | None = None
    closed_on: Night | None = None


class IncidentRecord(_IncidentFields):
    """What is known of an incident, by whatever decided it; fields as in ``analysis.incidents.Incident``."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    #: False withdraws what somebody has said; None leaves it.
    acknowledged: bool | None = None
    members: list[MemberRecord] = []


class StoredIncident(_IncidentFields):
    """An incident as it stands in another warehouse, with what people and Slack added."""

    closed_by: Text | None = None
    closed_note: Text | None = None
    acknowledged_at: Moment | None = None
    acknowledged_by: Text | None = None
    acknowledged_note: Text | None = None
    slack_channel: Text | None = None
    slack_ts: Text | None = None


Row = TypeVar("Row", bound=BaseModel)


def rows_of(model: type[Row], rows: Iterable[Any], where: str) -> list[Row]:
    """Return ``rows`` (mappings, or objects with these attributes) as ``model``.

    Raises InvalidInput, in one sentence that counts rows from 0, for the first row that may not be stored.
    """
    try:
        return _rows_adapter(model).validate_python(list(rows), from_attributes=True)
    except ValidationError as error:
        raise InvalidInput(validation_sentence(error, where)) from error


# Making one takes as long as validating a hundred rows.
@cache
def _rows_adapter(model: type[Row]) -> TypeAdapter[list[Row]]:
    return TypeAdapter(list[model])  # type: ignore[valid-type]


def row_of(model: type[Row], row: Row | Mapping[str, Any], where: str) -> Row:
    """Return ``row`` as ``model``. Raises InvalidInput, in one sentence, if it may not be stored."""
    try:
        return model.model_validate(row, from_attributes=True)
    except ValidationError as error:
        raise InvalidInput(validation_sentence(error, where)) from error


def _unit(unit: str, metric: str) -> str:
    expected = METRICS[metric].unit
    if unit not in {"", expected}:
        raise ValueError(f"unit {unit!r} is not that of {metric}, which is {expected!r}")
    return expected
