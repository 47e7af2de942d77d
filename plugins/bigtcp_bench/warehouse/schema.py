"""The tables of the warehouse, once, as SQLAlchemy Core; the migrations must lead to exactly these."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

from bigtcp_bench.warehouse.shapes import fitting

metadata = sa.MetaData(
    naming_convention={
        # Named constraints can be dropped by a later migration on every database.
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)


class UtcDateTime(sa.TypeDecorator[datetime]):
    """A moment in UTC. SQLite keeps no time zone, so what it returns is given UTC again."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Return ``value`` in UTC; a naive moment is refused because its zone would be a guess."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"the moment {value.isoformat()} has no time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Return ``value`` with the zone UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Json(sa.TypeDecorator[Any]):
    """JSON of a column whose readers rely on a shape (``shapes``): what has another one is not read.

    In PostgreSQL jsonb, which can be indexed and asked. An absent value is SQL's NULL, not JSON's null.
    """

    impl = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
    cache_ok = True

    def __init__(self, column: str) -> None:
        super().__init__()
        self.column = column

    def coerce_compared_value(self, op: Any, value: Any) -> Any:
        """Return the type of what a part is compared with, as JSON itself has it."""
        return self.impl_instance.coerce_compared_value(op, value)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        """Return the parts of ``value`` that fit."""
        return fitting(self.column, value)


def is_true(column: sa.Column[Any], name: str) -> sa.ColumnElement[bool]:
    """Return whether ``name`` is true in the JSON object of ``column``, whatever else the object may be."""
    # SQLite says 1, PostgreSQL true; a cast to a truth value would fail on any other word.
    return sa.cast(column[name].as_string(), sa.Text).in_(("true", "1"))


Column = sa.Column[Any]


def _run_id() -> Column:
    return sa.Column("run_id", sa.ForeignKey("bigtcp_run.id"), primary_key=True, autoincrement=False)


def _key(name: str, kind: type[sa.types.TypeEngine[Any]]) -> Column:
    return sa.Column(name, kind, primary_key=True, autoincrement=False)


#: Further columns that are in an index so that trend queries need nothing but the index.
TREND_OF_RUN = (
    *("status", "is_aa", "superseded", "is_night"),
    *("cilium_version", "client_node", "server_node"),
)
TREND_OF_COMPARISON = (
    "off_median",
    "on_median",
    "change",
    "ci_low",
    "ci_high",
    "smallest_detectable_change",
    "verdict",
    "unit",
    "better",
)

#: One row per attempt of a run of the DAG, with everything that its figures depend on: a run that is cleared and
#: measured anew has a row, and a number, for each time. ``superseded`` are all of them but the newest, and nothing
#: that speaks of results reads those unless it is asked for one. The wide JSON columns come last: SQLite reads a
#: row from its beginning, and trend queries need only the narrow columns.
run = sa.Table(
    "bigtcp_run",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("cluster", sa.Text, nullable=False),
    sa.Column("dag_id", sa.Text, nullable=False),
    sa.Column("run_id", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("superseded", sa.Boolean, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("is_aa", sa.Boolean, nullable=False),
    sa.Column("is_night", sa.Boolean, nullable=False),
    sa.Column("started_at", UtcDateTime, nullable=False),
    sa.Column("finished_at", UtcDateTime),
    sa.Column("trigger", sa.Text),
    sa.Column("note", sa.Text),
    sa.Column("plan_name", sa.Text),
    sa.Column("block_order", sa.Text),
    sa.Column("client_node", sa.Text),
    sa.Column("server_node", sa.Text),
    sa.Column("client_kernel", sa.Text),
    sa.Column("server_kernel", sa.Text),
    sa.Column("nic_driver", sa.Text),
    sa.Column("nic_tso_max_size", sa.Integer),
    sa.Column("mtu", sa.Integer),
    sa.Column("cilium_version", sa.Text),
    sa.Column("iperf3_version", sa.Text),
    sa.Column("package_version", sa.Text),
    sa.Column("slack_channel", sa.Text),
    sa.Column("slack_ts", sa.Text),
    sa.Column("reasons", Json("run.reasons"), nullable=False),
    sa.Column("plan", Json("run.plan")),
    sa.Column("cilium_config", Json("run.cilium_config")),
    sa.Column("images", Json("run.images")),
    sa.Column("tool_versions", Json("run.tool_versions")),
    sa.Column("environment", Json("run.environment")),
    sa.Column("checks", Json("run.checks")),
    sa.Column("restore_result", Json("run.restore_result")),
    sa.UniqueConstraint("cluster", "dag_id", "run_id", "attempt"),
    # All that a trend query asks of a run: the wide rows themselves are not read.
    sa.Index("ix_bigtcp_run_trend", "cluster", "started_at", *TREND_OF_RUN),
    sa.Index(None, "cluster", "cilium_version", "started_at"),
    sa.CheckConstraint("status IN ('running', 'valid', 'invalid', 'failed')", name="ck_bigtcp_run_status"),
)

#: Runs that count: what a cleared one measured is told by its newest attempt.
VALID = (run.c.status == "valid") & ~run.c.superseded
#: Those of them that compared both arms, and not one with itself.
COMPARED = VALID & ~run.c.is_aa
NEWEST_FIRST = (run.c.started_at.desc(), run.c.id.desc())

#: One row per block of a run: which arm was in force, from when to when, and what proved it.
block = sa.Table(
    "bigtcp_block",
    metadata,
    _run_id(),
    _key("block", sa.Integer),
    sa.Column("arm", sa.Text, nullable=False),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("started_at", UtcDateTime),
    sa.Column("finished_at", UtcDateTime),
    sa.Column("switch_report", Json("block.switch_report")),
)

#: The results table. Names are written out: a table that reads well in any SQL client is worth its bytes.
#: Its primary key is its only index and begins with the run, so a new night is appended at the end.
result = sa.Table(
    "bigtcp_result",
    metadata,
    _run_id(),
    _key("block", sa.Integer),
    _key("generation", sa.Integer),
    _key("scenario", sa.Text),
    _key("repetition", sa.Integer),
    _key("metric", sa.Text),
    sa.Column("arm", sa.Text, nullable=False),
    sa.Column("value", sa.Double, nullable=False),
    sa.Column("unit", sa.Text, nullable=False),
    sqlite_with_rowid=False,
)

#: One row per repetition that produced no usable measurement, with the reason.
failure = sa.Table(
    "bigtcp_failure",
    metadata,
    _run_id(),
    _key("block", sa.Integer),
    _key("generation", sa.Integer),
    _key("scenario", sa.Text),
    _key("repetition", sa.Integer),
    sa.Column("arm", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)

#: How much each counter of a node grew during a block; gauges, whose names end with a moment, as they were then.
counter = sa.Table(
    "bigtcp_counter",
    metadata,
    _run_id(),
    _key("block", sa.Integer),
    _key("node", sa.Text),
    _key("counter", sa.Text),
    sa.Column("arm", sa.Text, nullable=False),
    sa.Column("value", sa.Double, nullable=False),
    sqlite_with_rowid=False,
)

#: What Prometheus knew of a block: one series of one query. ``series`` are its labels as a JSON object.
prometheus = sa.Table(
    "bigtcp_prometheus",
    metadata,
    _run_id(),
    _key("block", sa.Integer),
    _key("query", sa.Text),
    _key("series", sa.Text),
    sa.Column("arm", sa.Text, nullable=False),
    sa.Column("unit", sa.Text, nullable=False),
    sa.Column("mean", sa.Double, nullable=False),
    sa.Column("lowest", sa.Double, nullable=False),
    sa.Column("highest", sa.Double, nullable=False),
    sa.Column("samples", sa.Integer, nullable=False),
    sqlite_with_rowid=False,
)

#: How much the counters of both pods grew during a repetition.
pod_counter = sa.Table(
    "bigtcp_pod_counter",
    metadata,
    _run_id(),
    _key("block", sa.Integer),
    _key("generation", sa.Integer),
    _key("scenario", sa.Text),
    _key("repetition", sa.Integer),
    _key("end", sa.Text),
    _key("counter", sa.Text),
    sa.Column("arm", sa.Text, nullable=False),
    sa.Column("value", sa.Double, nullable=False),
    sqlite_with_rowid=False,
)

#: How many packets of which size a short stream in each block had, at both ends and in both directions.
packet_size = sa.Table(
    "bigtcp_packet_size",
    metadata,
    _run_id(),
    _key("block", sa.Integer),
    _key("family", sa.Text),
    _key("path", sa.Text),
    _key("node", sa.Text),
    _key("end", sa.Text),
    _key("direction", sa.Text),
    _key("upper_bytes", sa.Integer),
    sa.Column("arm", sa.Text, nullable=False),
    sa.Column("packets", sa.BigInteger, nullable=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
)

#: One row per run × metric × scenario: both arms and the verdict. All trend queries read this table. The metric
#: comes before the scenario in the key because a question names one metric and one, several or all scenarios.
comparison = sa.Table(
    "bigtcp_comparison",
    metadata,
    _run_id(),
    _key("metric", sa.Text),
    _key("scenario", sa.Text),
    sa.Column("unit", sa.Text, nullable=False),
    sa.Column("better", sa.Text, nullable=False),
    sa.Column("off_median", sa.Double),
    sa.Column("on_median", sa.Double),
    sa.Column("change", sa.Double),
    sa.Column("ci_low", sa.Double),
    sa.Column("ci_high", sa.Double),
    sa.Column("level", sa.Double),
    sa.Column("margin", sa.Double),
    sa.Column("n_off", sa.Integer),
    sa.Column("n_on", sa.Integer),
    sa.Column("smallest_detectable_change", sa.Double),
    sa.Column("p_value", sa.Double),
    sa.Column("drift", sa.Double),
    sa.Column("below_margin", sa.Boolean, nullable=False),
    sa.Column("verdict", sa.Text, nullable=False),
    sa.Column("reasons", Json("comparison.reasons"), nullable=False),
    # One metric of all runs in one place and a fifth as wide: all that a trend query asks of these rows.
    sa.Index("ix_bigtcp_comparison_trend", "metric", "run_id", "scenario", *TREND_OF_COMPARISON),
    sqlite_with_rowid=False,
)

#: The likely causes of what is wrong with a run, the likeliest first.
diagnosis = sa.Table(
    "bigtcp_diagnosis",
    metadata,
    _run_id(),
    _key("position", sa.Integer),
    sa.Column("cause", sa.Text, nullable=False),
    sa.Column("scenario", sa.Text),
    sa.Column("arm", sa.Text),
    sa.Column("node", sa.Text),
    sa.Column("sentence", sa.Text, nullable=False),
    sa.Column("strength", sa.Double, nullable=False),
    sa.Column("explains", Json("diagnosis.explains"), nullable=False),
    sa.Column("figures", Json("diagnosis.figures"), nullable=False),
)

#: The cluster's own noise, from an A/A run: relative standard deviation at one of the three levels.
noise = sa.Table(
    "bigtcp_noise",
    metadata,
    _run_id(),
    _key("metric", sa.Text),
    _key("scenario", sa.Text),
    _key("level", sa.Text),
    sa.Column("sd", sa.Double, nullable=False),
    sa.Column("n", sa.Integer),
)

#: What the nights so far say about a series after this run.
judgement = sa.Table(
    "bigtcp_judgement",
    metadata,
    _run_id(),
    _key("metric", sa.Text),
    _key("scenario", sa.Text),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("change", sa.Double),
    sa.Column("since", sa.Text),
    sa.Column("attribution", sa.Text),
    sa.Column("details", Json("judgement.details")),
)

#: One cause from first suspicion to recovery. ``uid`` names it in every warehouse it is imported into. Nights are
#: ISO dates (2026-01-31), which sort as text and read the same in every client.
incident = sa.Table(
    "bigtcp_incident",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("uid", sa.Text, nullable=False),
    sa.Column("cluster", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("attribution", sa.Text),
    sa.Column("changed_on", sa.Text, nullable=False),
    sa.Column("suspected_on", sa.Text, nullable=False),
    sa.Column("confirmed_on", sa.Text),
    sa.Column("closed_on", sa.Text),
    sa.Column("acknowledged_at", UtcDateTime),
    sa.Column("acknowledged_by", sa.Text),
    sa.Column("acknowledged_note", sa.Text),
    sa.Column("slack_channel", sa.Text),
    sa.Column("slack_ts", sa.Text),
    sa.Column("worse_on", sa.Text),
    sa.Column("closed_by", sa.Text),
    sa.Column("closed_note", sa.Text),
    sa.UniqueConstraint("uid"),
    sa.Index(None, "cluster", "suspected_on"),
    sa.CheckConstraint(
        "state IN ('suspect', 'regression', 'recovered', 'dismissed', 'new-normal', 'unmeasured', 'closed')",
        name="ck_bigtcp_incident_state",
    ),
)

#: The series that an incident covers, with the newest estimate of each one's change.
incident_member = sa.Table(
    "bigtcp_incident_member",
    metadata,
    sa.Column("incident_id", sa.ForeignKey("bigtcp_incident.id"), primary_key=True, autoincrement=False),
    _key("scenario", sa.Text),
    _key("metric", sa.Text),
    sa.Column("change", sa.Double),
    sa.Column("first_seen", sa.Text, nullable=False),
    sa.Column("last_seen", sa.Text, nullable=False),
    sa.Column("confirmed", sa.Boolean, nullable=False),
    sa.Column("ended", sa.Text),
    sa.Column("acknowledged_change", sa.Double),
)

#: What the pods' agents said, compressed as they sent it. The only table that is ever pruned.
raw = sa.Table(
    "bigtcp_raw",
    metadata,
    _run_id(),
    _key("block", sa.Integer),
    _key("generation", sa.Integer),
    _key("kind", sa.Text),
    _key("scenario", sa.Text),
    _key("repetition", sa.Integer),
    sa.Column("encoding", sa.Text, nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),
)

#: Slack messages, kept before they are sent. ``key`` makes the same message one row however often it is queued;
#: those of a cluster are sent in the order of ``id``.
outbox = sa.Table(
    "bigtcp_outbox",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("cluster", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("run_id", sa.ForeignKey("bigtcp_run.id")),
    sa.Column("incident_id", sa.ForeignKey("bigtcp_incident.id")),
    sa.Column("payload", Json("outbox.payload"), nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("refusals", sa.Integer, nullable=False),
    sa.Column("claimed_until", UtcDateTime),
    sa.Column("attempted_at", UtcDateTime),
    sa.Column("sent_at", UtcDateTime),
    sa.Column("channel", sa.Text),
    sa.Column("ts", sa.Text),
    sa.Column("last_error", sa.Text),
    sa.UniqueConstraint("key"),
)
