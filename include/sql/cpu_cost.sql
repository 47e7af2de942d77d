-- CPU cost per gigabyte, night by night: both nodes, both arms.
--
-- Parameters, all needed:
--   :cluster  name of the cluster, for example lab
--   :scenario a scenario, or a pattern: % is any text, for example ipv6-rate
--   :since    first moment, in UTC, for example 2026-01-01
--   :until    moment after the last, in UTC, for example 2027-01-01
--   :version  a Cilium version, or a pattern, for example %
-- Columns:
--   sender_off ... receiver_on: CPU seconds per gigabyte (10^9 bytes), median of the arm's generations
--   sender_change, receiver_change: on/off - 1 of that night; negative is cheaper with BIG TCP
-- On SQLite (the inner quotes belong to the values):
--   sqlite3 -header -column warehouse.db \
--     ".parameter set :cluster \"'lab'\"" \
--     ".parameter set :scenario \"'ipv6-rate'\"" \
--     ".parameter set :since \"'2026-01-01'\"" \
--     ".parameter set :until \"'2027-01-01'\"" \
--     ".parameter set :version \"'%'\"" \
--     ".read include/sql/cpu_cost.sql"
-- On PostgreSQL:
--   PGTZ=UTC psql "$WAREHOUSE_URL" \
--     -v cluster="'lab'" -v scenario="'ipv6-rate'" -v since="'2026-01-01'" -v until="'2027-01-01'" \
--     -v version="'%'" \
--     -f include/sql/cpu_cost.sql
SELECT
    scenario,
    night,
    started_at,
    MAX(CASE WHEN metric = 'cpu_s_per_gb_sender' THEN off_median END) AS sender_off,
    MAX(CASE WHEN metric = 'cpu_s_per_gb_sender' THEN on_median END) AS sender_on,
    MAX(CASE WHEN metric = 'cpu_s_per_gb_sender' THEN change END) AS sender_change,
    MAX(CASE WHEN metric = 'cpu_s_per_gb_receiver' THEN off_median END) AS receiver_off,
    MAX(CASE WHEN metric = 'cpu_s_per_gb_receiver' THEN on_median END) AS receiver_on,
    MAX(CASE WHEN metric = 'cpu_s_per_gb_receiver' THEN change END) AS receiver_change,
    MIN(cilium_version) AS cilium_version,
    run
FROM bigtcp_night
WHERE
    cluster = :cluster
    AND metric IN ('cpu_s_per_gb_sender', 'cpu_s_per_gb_receiver')
    AND scenario LIKE :scenario
    AND started_at >= :since
    AND started_at < :until
    AND cilium_version LIKE :version
GROUP BY scenario, night, started_at, run
ORDER BY scenario, started_at, run;
