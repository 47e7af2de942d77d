-- Before and after a Cilium version: the nights just before its first one against its own first nights.
--
-- Parameters, all needed:
--   :cluster  name of the cluster, for example lab
--   :metric   one metric, for example throughput_bps
--   :scenario a scenario, or a pattern: % is any text, for example %
--   :version  a Cilium version, for example 1.18.2 (which is not 1.18.20), or a pattern, for example 1.18.%
--   :nights   how many nights on either side at most, for example 30
-- Columns:
--   version_before: of the last night before; version_after: of the first night after
--   off_moved, on_moved: mean after / mean before - 1 of that arm; both moved alike: not BIG TCP's doing
--   benefit_before, benefit_after: mean gain of arm on over arm off, positive when better
-- On SQLite (the inner quotes belong to the values):
--   sqlite3 -header -column warehouse.db \
--     ".parameter set :cluster \"'lab'\"" \
--     ".parameter set :metric \"'throughput_bps'\"" \
--     ".parameter set :scenario \"'%'\"" \
--     ".parameter set :version \"'1.18.2'\"" \
--     ".parameter set :nights \"30\"" \
--     ".read include/sql/before_after_version.sql"
-- On PostgreSQL:
--   PGTZ=UTC psql "$WAREHOUSE_URL" \
--     -v cluster="'lab'" -v metric="'throughput_bps'" -v scenario="'%'" -v version="'1.18.2'" \
--     -v nights="30" \
--     -f include/sql/before_after_version.sql
WITH versions AS MATERIALIZED (
    SELECT run, started_at, cilium_version
    FROM bigtcp_valid_run
    WHERE cluster = :cluster AND is_night AND cilium_version LIKE :version
),

runs_before AS MATERIALIZED (
    SELECT run, started_at, cilium_version
    FROM bigtcp_valid_run
    WHERE cluster = :cluster AND is_night AND started_at < (SELECT MIN(started_at) FROM versions)
    ORDER BY started_at DESC, run DESC
    LIMIT :nights
),

runs_after AS MATERIALIZED (
    SELECT run, started_at, cilium_version
    FROM versions
    ORDER BY started_at, run
    LIMIT :nights
),

sides AS (
    SELECT run, 1 AS is_before FROM runs_before
    UNION ALL
    SELECT run, 0 AS is_before FROM runs_after
),

means AS (
    SELECT
        comparison.scenario,
        MIN(comparison.unit) AS unit,
        MIN(CASE WHEN comparison.better = 'lower' THEN -1 ELSE 1 END) AS sign,
        COUNT(*) FILTER (WHERE sides.is_before = 1) AS nights_before,
        COUNT(*) FILTER (WHERE sides.is_before = 0) AS nights_after,
        AVG(comparison.off_median) FILTER (WHERE sides.is_before = 1) AS off_before,
        AVG(comparison.off_median) FILTER (WHERE sides.is_before = 0) AS off_after,
        AVG(comparison.on_median) FILTER (WHERE sides.is_before = 1) AS on_before,
        AVG(comparison.on_median) FILTER (WHERE sides.is_before = 0) AS on_after,
        AVG(comparison.change) FILTER (WHERE sides.is_before = 1) AS change_before,
        AVG(comparison.change) FILTER (WHERE sides.is_before = 0) AS change_after
    FROM sides
    CROSS JOIN bigtcp_comparison AS comparison
    WHERE comparison.run_id = sides.run AND comparison.metric = :metric AND comparison.scenario LIKE :scenario
    GROUP BY comparison.scenario
)

SELECT
    scenario,
    (SELECT cilium_version FROM runs_before ORDER BY started_at DESC, run DESC LIMIT 1) AS version_before,
    (SELECT cilium_version FROM runs_after ORDER BY started_at, run LIMIT 1) AS version_after,
    nights_before,
    nights_after,
    off_before,
    off_after,
    off_after / NULLIF(off_before, 0) - 1 AS off_moved,
    on_before,
    on_after,
    on_after / NULLIF(on_before, 0) - 1 AS on_moved,
    unit,
    sign * change_before AS benefit_before,
    sign * change_after AS benefit_after
FROM means
ORDER BY scenario;
