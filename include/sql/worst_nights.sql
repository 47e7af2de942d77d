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
WITH nights AS (
    SELECT run, scenario, off_median, on_median, better
    FROM bigtcp_night
    WHERE
        cluster = :cluster
        AND metric = :metric
        AND scenario LIKE :scenario
        AND started_at >= :since
        AND started_at < :until
        AND cilium_version LIKE :version
        AND off_median IS NOT NULL
        AND on_median IS NOT NULL
),

off_places AS (
    SELECT
        scenario,
        off_median,
        ROW_NUMBER() OVER (PARTITION BY scenario ORDER BY off_median) AS place,
        COUNT(*) OVER (PARTITION BY scenario) AS of_nights
    FROM nights
),

on_places AS (
    SELECT
        scenario,
        on_median,
        ROW_NUMBER() OVER (PARTITION BY scenario ORDER BY on_median) AS place,
        COUNT(*) OVER (PARTITION BY scenario) AS of_nights
    FROM nights
),

-- The one in the middle, or the mean of the two in the middle; a median of 0 has no relative deviations.
usual_off AS (
    SELECT scenario, NULLIF(AVG(off_median), 0) AS off_median
    FROM off_places
    WHERE place IN ((of_nights + 1) / 2, (of_nights + 2) / 2)
    GROUP BY scenario
),

usual_on AS (
    SELECT scenario, NULLIF(AVG(on_median), 0) AS on_median
    FROM on_places
    WHERE place IN ((of_nights + 1) / 2, (of_nights + 2) / 2)
    GROUP BY scenario
),

deviations AS (
    SELECT
        nights.run,
        nights.scenario,
        CASE
            WHEN nights.better = 'lower' THEN nights.on_median / usual_on.on_median - 1
            ELSE 1 - nights.on_median / usual_on.on_median
        END AS on_worse_by,
        CASE
            WHEN nights.better = 'lower' THEN nights.off_median / usual_off.off_median - 1
            ELSE 1 - nights.off_median / usual_off.off_median
        END AS off_worse_by
    FROM nights
    JOIN usual_on ON usual_on.scenario = nights.scenario
    JOIN usual_off ON usual_off.scenario = nights.scenario
),

worst AS (
    SELECT run, scenario, on_worse_by, off_worse_by
    FROM deviations
    WHERE on_worse_by > 0
    ORDER BY on_worse_by DESC, run DESC, scenario
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
JOIN bigtcp_night AS night ON night.run = worst.run AND night.metric = :metric AND night.scenario = worst.scenario
ORDER BY worst.on_worse_by DESC, night.run DESC, night.scenario;
