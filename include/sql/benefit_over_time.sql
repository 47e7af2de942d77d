-- Benefit of BIG TCP over time: month by month, what arm on gains over arm off.
--
-- Parameters, all needed:
--   :cluster  name of the cluster, for example lab
--   :metric   one metric, for example throughput_bps
--   :scenario a scenario, or a pattern: % is any text, for example %
--   :since    first moment, in UTC, for example 2026-01-01
--   :until    moment after the last, in UTC, for example 2027-01-01
--   :version  a Cilium version, or a pattern, for example %
-- Columns:
--   benefit: mean of the nights' changes, positive when arm on is better in the metric's own direction
--   worst_night, best_night: smallest and largest benefit of a night
--   faster ... inconclusive: how many nights had this verdict
-- On SQLite (the inner quotes belong to the values):
--   sqlite3 -header -column warehouse.db \
--     ".parameter set :cluster \"'lab'\"" \
--     ".parameter set :metric \"'throughput_bps'\"" \
--     ".parameter set :scenario \"'%'\"" \
--     ".parameter set :since \"'2026-01-01'\"" \
--     ".parameter set :until \"'2027-01-01'\"" \
--     ".parameter set :version \"'%'\"" \
--     ".read include/sql/benefit_over_time.sql"
-- On PostgreSQL:
--   PGTZ=UTC psql "$WAREHOUSE_URL" \
--     -v cluster="'lab'" -v metric="'throughput_bps'" -v scenario="'%'" -v since="'2026-01-01'" \
--     -v until="'2027-01-01'" -v version="'%'" \
--     -f include/sql/benefit_over_time.sql
WITH runs AS MATERIALIZED (
    SELECT run, night, month
    FROM bigtcp_valid_run
    WHERE cluster = :cluster AND is_night AND started_at >= :since AND started_at < :until AND cilium_version LIKE :version
),

months AS (
    SELECT
        comparison.scenario,
        runs.month,
        COUNT(DISTINCT runs.night) AS nights,
        AVG(comparison.change) AS change,
        MIN(comparison.change) AS lowest,
        MAX(comparison.change) AS highest,
        AVG(comparison.off_median) AS off_mean,
        AVG(comparison.on_median) AS on_mean,
        COUNT(*) FILTER (WHERE comparison.verdict = 'faster') AS faster,
        COUNT(*) FILTER (WHERE comparison.verdict = 'slower') AS slower,
        COUNT(*) FILTER (WHERE comparison.verdict = 'equivalent') AS equivalent,
        COUNT(*) FILTER (WHERE comparison.verdict = 'inconclusive') AS inconclusive
    FROM runs
    CROSS JOIN bigtcp_comparison AS comparison
    WHERE comparison.run_id = runs.run AND comparison.metric = :metric AND comparison.scenario LIKE :scenario
    GROUP BY comparison.scenario, runs.month
),

-- The same for every row of a metric.
of_metric AS (
    SELECT unit, better
    FROM bigtcp_comparison
    WHERE metric = :metric
    LIMIT 1
)

SELECT
    months.scenario,
    months.month,
    months.nights,
    CASE WHEN of_metric.better = 'lower' THEN -months.change ELSE months.change END AS benefit,
    CASE WHEN of_metric.better = 'lower' THEN -months.highest ELSE months.lowest END AS worst_night,
    CASE WHEN of_metric.better = 'lower' THEN -months.lowest ELSE months.highest END AS best_night,
    months.off_mean,
    months.on_mean,
    of_metric.unit,
    months.faster,
    months.slower,
    months.equivalent,
    months.inconclusive
FROM months
CROSS JOIN of_metric
ORDER BY months.scenario, months.month;
