-- Before and after a Cilium version: the nights up to its first one against those from it on.
--
-- Parameters, all needed:
--   :cluster  name of the cluster, for example lab
--   :metric   one metric, for example throughput_bps
--   :scenario a scenario, or a pattern: % is any text, for example %
--   :version  a Cilium version, or a pattern, for example 1.18.2
--   :nights   how many nights on either side, for example 30
-- Columns:
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
WITH first_night AS (
    SELECT MIN(started_at) AS started_at
    FROM bigtcp_run
    WHERE cluster = :cluster AND cilium_version = :version AND status = 'valid' AND NOT is_aa
),

runs_before AS (
    SELECT id
    FROM bigtcp_run
    WHERE
        cluster = :cluster
        AND status = 'valid'
        AND NOT is_aa
        AND started_at < (SELECT started_at FROM first_night)
    ORDER BY started_at DESC
    LIMIT :nights
),

runs_after AS (
    SELECT id
    FROM bigtcp_run
    WHERE cluster = :cluster AND cilium_version = :version AND status = 'valid' AND NOT is_aa
    ORDER BY started_at
    LIMIT :nights
),

sides AS (
    SELECT id, 'before' AS side FROM runs_before
    UNION ALL
    SELECT id, 'after' AS side FROM runs_after
),

means AS (
    SELECT
        night.scenario,
        MIN(night.unit) AS unit,
        MAX(CASE WHEN side = 'before' THEN night.cilium_version END) AS version_before,
        SUM(CASE WHEN side = 'before' THEN 1 ELSE 0 END) AS nights_before,
        SUM(CASE WHEN side = 'after' THEN 1 ELSE 0 END) AS nights_after,
        AVG(CASE WHEN side = 'before' THEN night.off_median END) AS off_before,
        AVG(CASE WHEN side = 'after' THEN night.off_median END) AS off_after,
        AVG(CASE WHEN side = 'before' THEN night.on_median END) AS on_before,
        AVG(CASE WHEN side = 'after' THEN night.on_median END) AS on_after,
        AVG(CASE WHEN side = 'before' THEN night.benefit END) AS benefit_before,
        AVG(CASE WHEN side = 'after' THEN night.benefit END) AS benefit_after
    FROM sides
    JOIN bigtcp_night AS night ON night.run = sides.id
    WHERE night.metric = :metric AND night.scenario LIKE :scenario
    GROUP BY night.scenario
)

SELECT
    scenario,
    version_before,
    nights_before,
    nights_after,
    off_before,
    off_after,
    off_after / NULLIF(off_before, 0) - 1 AS off_moved,
    on_before,
    on_after,
    on_after / NULLIF(on_before, 0) - 1 AS on_moved,
    unit,
    benefit_before,
    benefit_after
FROM means
ORDER BY scenario;
