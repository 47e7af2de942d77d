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
    SELECT
        *,
        ROW_NUMBER() OVER (PARTITION BY scenario ORDER BY on_median) AS on_place,
        ROW_NUMBER() OVER (PARTITION BY scenario ORDER BY off_median) AS off_place,
        COUNT(*) OVER (PARTITION BY scenario) AS of_nights
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

usual AS (
    SELECT
        scenario,
        -- The one in the middle, or the mean of the two in the middle; a median of 0 has no relative deviations.
        NULLIF(AVG(CASE WHEN on_place IN ((of_nights + 1) / 2, (of_nights + 2) / 2) THEN on_median END), 0)
            AS on_median,
        NULLIF(AVG(CASE WHEN off_place IN ((of_nights + 1) / 2, (of_nights + 2) / 2) THEN off_median END), 0)
            AS off_median
    FROM nights
    GROUP BY scenario
),

ranked AS (
    SELECT
        nights.scenario,
        nights.night,
        nights.started_at,
        CASE
            WHEN nights.better = 'lower' THEN nights.on_median / usual.on_median - 1
            ELSE 1 - nights.on_median / usual.on_median
        END AS on_worse_by,
        CASE
            WHEN nights.better = 'lower' THEN nights.off_median / usual.off_median - 1
            ELSE 1 - nights.off_median / usual.off_median
        END AS off_worse_by,
        nights.off_median,
        nights.on_median,
        nights.unit,
        nights.change,
        nights.verdict,
        nights.cilium_version,
        nights.node_pair,
        nights.note,
        nights.run
    FROM nights
    JOIN usual ON usual.scenario = nights.scenario
)

SELECT *
FROM ranked
WHERE on_worse_by > 0
ORDER BY on_worse_by DESC, started_at DESC, scenario
LIMIT :limit;
