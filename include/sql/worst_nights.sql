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
    WHERE cluster = :cluster AND started_at >= :since AND started_at < :until AND cilium_version LIKE :version
),

-- Every n-th run, shifted by one each time so that it is not always the same day of the week.
steps AS (
    SELECT 1 + COUNT(*) / 500 AS step
    FROM runs
),

sampled AS MATERIALIZED (
    SELECT runs.run
    FROM runs
    CROSS JOIN steps
    WHERE runs.run % steps.step = (runs.run / steps.step) % steps.step
),

places AS (
    SELECT
        comparison.scenario,
        comparison.off_median,
        comparison.on_median,
        ROW_NUMBER() OVER (PARTITION BY comparison.scenario ORDER BY comparison.off_median) AS off_place,
        ROW_NUMBER() OVER (PARTITION BY comparison.scenario ORDER BY comparison.on_median) AS on_place,
        COUNT(*) OVER (PARTITION BY comparison.scenario) AS of_nights
    FROM sampled
    CROSS JOIN bigtcp_comparison AS comparison
    WHERE
        comparison.run_id = sampled.run
        AND comparison.metric = :metric
        AND comparison.scenario LIKE :scenario
        AND comparison.off_median IS NOT NULL
        AND comparison.on_median IS NOT NULL
),

-- The median: the one in the middle, or the mean of the two in the middle. Of 0 there are no relative deviations.
usual AS MATERIALIZED (
    SELECT
        scenario,
        NULLIF(AVG(off_median) FILTER (WHERE off_place IN ((of_nights + 1) / 2, (of_nights + 2) / 2)), 0) AS off_level,
        NULLIF(AVG(on_median) FILTER (WHERE on_place IN ((of_nights + 1) / 2, (of_nights + 2) / 2)), 0) AS on_level
    FROM places
    GROUP BY scenario
),

deviations AS (
    SELECT
        comparison.run_id,
        comparison.scenario,
        CASE
            WHEN comparison.better = 'lower' THEN comparison.on_median / usual.on_level - 1
            ELSE 1 - comparison.on_median / usual.on_level
        END AS on_worse_by,
        CASE
            WHEN comparison.better = 'lower' THEN comparison.off_median / usual.off_level - 1
            ELSE 1 - comparison.off_median / usual.off_level
        END AS off_worse_by
    FROM runs
    CROSS JOIN bigtcp_comparison AS comparison
    CROSS JOIN usual
    WHERE
        comparison.run_id = runs.run
        AND comparison.metric = :metric
        AND usual.scenario = comparison.scenario
        AND comparison.off_median IS NOT NULL
),

worst AS MATERIALIZED (
    SELECT run_id, scenario, on_worse_by, off_worse_by
    FROM deviations
    WHERE on_worse_by > 0
    ORDER BY on_worse_by DESC, run_id DESC, scenario
    LIMIT :limit
)

SELECT
    night.scenario,
    night.night,
    night.started_at,
    worst.on_worse_by,
    worst.off_worse_by,
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
JOIN bigtcp_night AS night ON night.run = worst.run_id AND night.metric = :metric AND night.scenario = worst.scenario
ORDER BY worst.on_worse_by DESC, night.run DESC, night.scenario;
