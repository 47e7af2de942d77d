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
SELECT
    scenario,
    month,
    COUNT(*) AS nights,
    AVG(benefit) AS benefit,
    MIN(benefit) AS worst_night,
    MAX(benefit) AS best_night,
    AVG(off_median) AS off_mean,
    AVG(on_median) AS on_mean,
    MIN(unit) AS unit,
    SUM(CASE WHEN verdict = 'faster' THEN 1 ELSE 0 END) AS faster,
    SUM(CASE WHEN verdict = 'slower' THEN 1 ELSE 0 END) AS slower,
    SUM(CASE WHEN verdict = 'equivalent' THEN 1 ELSE 0 END) AS equivalent,
    SUM(CASE WHEN verdict = 'inconclusive' THEN 1 ELSE 0 END) AS inconclusive
FROM bigtcp_night
WHERE
    cluster = :cluster
    AND metric = :metric
    AND scenario LIKE :scenario
    AND started_at >= :since
    AND started_at < :until
    AND cilium_version LIKE :version
GROUP BY scenario, month
ORDER BY scenario, month;
