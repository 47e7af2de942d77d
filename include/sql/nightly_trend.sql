-- Nightly trend of a scenario by arm: what each arm reached, night by night.
--
-- Parameters, all needed:
--   :cluster  name of the cluster, for example lab
--   :metric   one metric, for example throughput_bps
--   :scenario a scenario, or a pattern: % is any text, for example ipv6-stream-1
--   :since    first moment, in UTC, for example 2026-01-01
--   :until    moment after the last, in UTC, for example 2027-01-01
--   :version  a Cilium version, or a pattern, for example %
-- Columns:
--   value: median of the arm's generations, in unit
--   change: on/off - 1 of that night (0.05 = 5 % more in arm on), with its verdict
-- On SQLite (the inner quotes belong to the values):
--   sqlite3 -header -column warehouse.db \
--     ".parameter set :cluster \"'lab'\"" \
--     ".parameter set :metric \"'throughput_bps'\"" \
--     ".parameter set :scenario \"'ipv6-stream-1'\"" \
--     ".parameter set :since \"'2026-01-01'\"" \
--     ".parameter set :until \"'2027-01-01'\"" \
--     ".parameter set :version \"'%'\"" \
--     ".read include/sql/nightly_trend.sql"
-- On PostgreSQL:
--   PGTZ=UTC psql "$WAREHOUSE_URL" \
--     -v cluster="'lab'" -v metric="'throughput_bps'" -v scenario="'ipv6-stream-1'" \
--     -v since="'2026-01-01'" -v until="'2027-01-01'" -v version="'%'" \
--     -f include/sql/nightly_trend.sql
SELECT
    scenario,
    night,
    started_at,
    arms.arm,
    CASE WHEN arms.arm = 'off' THEN off_median ELSE on_median END AS value,
    unit,
    change,
    ci_low,
    ci_high,
    verdict,
    cilium_version,
    is_night,
    run
FROM bigtcp_night
CROSS JOIN (SELECT 'off' AS arm UNION ALL SELECT 'on' AS arm) AS arms
WHERE
    cluster = :cluster
    AND metric = :metric
    AND scenario LIKE :scenario
    AND started_at >= :since
    AND started_at < :until
    AND cilium_version LIKE :version
ORDER BY scenario, started_at, run, arm;
