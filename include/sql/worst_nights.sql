-- Worst nights: where arm on was furthest on the wrong side of its own median of the period.
--
-- Parameters, all needed:
--   :cluster  name of the cluster, for example lab
--   :metric   one metric, for example throughput_bps
--   :scenario a scenario, or a pattern: % is any text, for example %
--   :since    first moment, in UTC, for example 2026-01-01
--   :until    moment after the last, in UTC, for example 2027-01-01
--   :version  a Cilium version, or a pattern, for example %
--   :limit    how many rows at most, for example 20
-- The median is that of all nights up to 500; of more, of some hundreds spread evenly over the period.
-- Columns:
--   on_worse_by: how much worse arm on was than usual (0.1 = 10 %), in the metric's own direction
--   off_worse_by: the same of arm off; when it is as large, the night was bad, not BIG TCP
-- On SQLite (the inner quotes belong to the values):
--   sqlite3 -header -column warehouse.db \
--     ".parameter set :cluster \"'lab'\"" \
--     ".parameter set :metric \"'throughput_bps'\"" \
--     ".parameter set :scenario \"'%'\"" \
--     ".parameter set :since \"'2026-01-01'\"" \
--     ".parameter set :until \"'2027-01-01'\"" \
--     ".parameter set :version \"'%'\"" \
--     ".parameter set :limit \"20\"" \
--     ".read include/sql/worst_nights.sql"
-- On PostgreSQL:
--   PGTZ=UTC psql "$WAREHOUSE_URL" \
--     -v cluster="'lab'" -v metric="'throughput_bps'" -v scenario="'%'" -v since="'2026-01-01'" \
--     -v until="'2027-01-01'" -v version="'%'" -v limit="20" \
--     -f include/sql/worst_nights.sql
WITH runs AS MATERIALIZED (
    SELECT run
    FROM bigtcp_valid_run
    WHERE cluster = :cluster AND is_night AND started_at >= :since AND started_at < :until AND cilium_version LIKE :version
),

steps AS (
    SELECT CASE WHEN COUNT(*) < 500 THEN 1 ELSE COUNT(*) / 250 END AS step
    FROM runs
),

-- Every n-th run, shifted by one each time so that it is not always the same day of the week.
sampled AS MATERIALIZED (
    SELECT runs.run
    FROM runs
    CROSS JOIN steps
    WHERE runs.run % steps.step = (runs.run / steps.step) % steps.step
),

halves AS (
    SELECT
        comparison.scenario,
        comparison.off_median,
        comparison.on_median,
        NTILE(2) OVER (PARTITION BY comparison.scenario ORDER BY comparison.off_median) AS off_half,
        NTILE(2) OVER (PARTITION BY comparison.scenario ORDER BY comparison.on_median) AS on_half
    FROM sampled
    CROSS JOIN bigtcp_comparison AS comparison
    WHERE
        comparison.run_id = sampled.run
        AND comparison.metric = :metric
        AND comparison.scenario LIKE :scenario
        AND comparison.off_median IS NOT NULL
        AND comparison.on_median IS NOT NULL
),

-- The medians: of an odd number the last of the first half, which then has one more. Of 0 there are no relative
-- deviations.
usual AS MATERIALIZED (
    SELECT
        scenario,
        NULLIF(
            CASE
                WHEN COUNT(*) % 2 = 1 THEN MAX(off_median) FILTER (WHERE off_half = 1)
                ELSE (MAX(off_median) FILTER (WHERE off_half = 1) + MIN(off_median) FILTER (WHERE off_half = 2)) / 2
            END,
            0
        ) AS off_level,
        NULLIF(
            CASE
                WHEN COUNT(*) % 2 = 1 THEN MAX(on_median) FILTER (WHERE on_half = 1)
                ELSE (MAX(on_median) FILTER (WHERE on_half = 1) + MIN(on_median) FILTER (WHERE on_half = 2)) / 2
            END,
            0
        ) AS on_level
    FROM halves
    GROUP BY scenario
),

worst AS MATERIALIZED (
    SELECT
        comparison.run_id,
        comparison.scenario,
        CASE
            WHEN comparison.better = 'lower' THEN comparison.on_median / usual.on_level - 1
            ELSE 1 - comparison.on_median / usual.on_level
        END AS on_worse_by
    FROM runs
    CROSS JOIN bigtcp_comparison AS comparison
    CROSS JOIN usual
    WHERE
        comparison.run_id = runs.run
        AND comparison.metric = :metric
        AND comparison.off_median IS NOT NULL
        AND comparison.on_median IS NOT NULL
        AND usual.scenario = comparison.scenario
        AND usual.on_level IS NOT NULL
    ORDER BY on_worse_by DESC, comparison.run_id DESC, comparison.scenario
    LIMIT :limit
)

SELECT
    night.scenario,
    night.night,
    night.started_at,
    worst.on_worse_by,
    CASE
        WHEN night.better = 'lower' THEN night.off_median / usual.off_level - 1
        ELSE 1 - night.off_median / usual.off_level
    END AS off_worse_by,
    night.off_median,
    night.on_median,
    night.unit,
    night.change,
    night.verdict,
    night.cilium_version,
    night.node_pair,
    night.note,
    night.run
FROM worst
JOIN usual ON usual.scenario = worst.scenario
JOIN bigtcp_night AS night ON night.run = worst.run_id AND night.metric = :metric AND night.scenario = worst.scenario
WHERE worst.on_worse_by > 0
ORDER BY worst.on_worse_by DESC, night.run DESC, night.scenario;
