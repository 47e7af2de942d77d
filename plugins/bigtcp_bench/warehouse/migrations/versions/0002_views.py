"""The views that every trend query reads."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

# Where the two databases differ: the UTC day of a moment, days between two nights, names in one text.
DIALECTS = {
    "sqlite": {
        "day": "substr({0}, 1, 10)",
        "days": "CAST(julianday({1}) - julianday({0}) AS INTEGER)",
        "names": "group_concat(DISTINCT {0})",
        "today": "date('now')",
    },
    "postgresql": {
        "day": "to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
        "days": "CAST({1} AS date) - CAST({0} AS date)",
        "names": "string_agg(DISTINCT {0}, ',')",
        "today": "to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    },
}

# One row per valid run that compared both arms: A/A runs compare nothing.
RUN = """
CREATE VIEW bigtcp_valid_run AS
SELECT
    cluster,
    id AS run,
    started_at,
    {night} AS night,
    substr({night}, 1, 7) AS month,
    COALESCE(cilium_version, '') AS cilium_version,
    COALESCE(client_node, '?') || ' > ' || COALESCE(server_node, '?') AS node_pair,
    client_kernel,
    server_kernel,
    nic_driver,
    trigger,
    note
FROM bigtcp_run
WHERE status = 'valid' AND NOT is_aa
"""

# One row per such run × metric × scenario, with what a trend is asked by.
NIGHT = """
CREATE VIEW bigtcp_night AS
SELECT
    run.cluster,
    run.run,
    run.started_at,
    run.night,
    run.month,
    comparison.metric,
    comparison.scenario,
    comparison.unit,
    comparison.better,
    comparison.off_median,
    comparison.on_median,
    comparison.change,
    comparison.ci_low,
    comparison.ci_high,
    comparison.smallest_detectable_change,
    comparison.verdict,
    CASE WHEN comparison.better = 'lower' THEN -comparison.change ELSE comparison.change END AS benefit,
    run.cilium_version,
    run.node_pair,
    run.client_kernel,
    run.server_kernel,
    run.nic_driver,
    run.trigger,
    run.note
FROM bigtcp_valid_run AS run
JOIN bigtcp_comparison AS comparison ON comparison.run_id = run.run
"""

# One row per A/A run × metric × scenario × level.
NOISE = """
CREATE VIEW bigtcp_noise_of_pair AS
SELECT
    run.cluster,
    run.id AS run,
    run.started_at,
    {night} AS night,
    COALESCE(run.client_node, '?') || ' > ' || COALESCE(run.server_node, '?') AS node_pair,
    COALESCE(run.cilium_version, '') AS cilium_version,
    noise.metric,
    noise.scenario,
    noise.level,
    noise.sd,
    noise.n
FROM bigtcp_run AS run
JOIN bigtcp_noise AS noise ON noise.run_id = run.id
WHERE run.status = 'valid'
"""

# One row per incident, its series counted and named.
INCIDENT = """
CREATE VIEW bigtcp_incident_history AS
SELECT
    incident.cluster,
    incident.id AS incident,
    incident.state,
    incident.attribution,
    incident.changed_on,
    incident.suspected_on,
    incident.confirmed_on,
    incident.closed_on,
    incident.acknowledged_at,
    incident.acknowledged_by,
    incident.acknowledged_note,
    {open_days} AS open_days,
    members.series,
    members.scenarios,
    members.metrics,
    members.lowest_change,
    members.highest_change
FROM bigtcp_incident AS incident
LEFT JOIN (
    SELECT
        incident_id,
        COUNT(*) AS series,
        {scenarios} AS scenarios,
        {metrics} AS metrics,
        MIN(change) AS lowest_change,
        MAX(change) AS highest_change
    FROM bigtcp_incident_member
    GROUP BY incident_id
) AS members ON members.incident_id = incident.id
"""


def upgrade() -> None:
    """Create every view."""
    dialect = DIALECTS[op.get_bind().dialect.name]
    op.execute(RUN.format(night=dialect["day"].format("started_at")))
    op.execute(NIGHT)
    op.execute(NOISE.format(night=dialect["day"].format("run.started_at")))
    op.execute(
        INCIDENT.format(
            open_days=dialect["days"].format(
                "incident.suspected_on", f"COALESCE(incident.closed_on, {dialect['today']})"
            ),
            scenarios=dialect["names"].format("scenario"),
            metrics=dialect["names"].format("metric"),
        )
    )


def downgrade() -> None:
    """Drop every view."""
    for name in ("bigtcp_incident_history", "bigtcp_noise_of_pair", "bigtcp_night", "bigtcp_valid_run"):
        op.execute(f"DROP VIEW {name}")
