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
    sender.scenario,
    sender.night,
    sender.started_at,
    sender.off_median AS sender_off,
    sender.on_median AS sender_on,
    sender.change AS sender_change,
    receiver.off_median AS receiver_off,
    receiver.on_median AS receiver_on,
    receiver.change AS receiver_change,
    sender.cilium_version,
    sender.is_night,
    sender.run
FROM bigtcp_night AS sender
LEFT JOIN bigtcp_comparison AS receiver
    ON
        receiver.run_id = sender.run
        AND receiver.metric = 'cpu_s_per_gb_receiver'
        AND receiver.scenario = sender.scenario
WHERE
    sender.cluster = :cluster
    AND sender.metric = 'cpu_s_per_gb_sender'
    AND sender.scenario LIKE :scenario
    AND sender.started_at >= :since
    AND sender.started_at < :until
    AND sender.cilium_version LIKE :version
ORDER BY sender.scenario, sender.started_at, sender.run;
