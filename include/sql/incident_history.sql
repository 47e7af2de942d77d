-- Incident history: every regression from first suspicion to its end, newest first.
--
-- Parameters, all needed:
--   :cluster  name of the cluster, for example lab
--   :since    first moment, in UTC, for example 2026-01-01
--   :until    moment after the last, in UTC, for example 2027-01-01
-- Columns:
--   changed_at: the night from which on the figures are different, as estimated
--   open_days: days from first suspicion to its end, or until now
--   lowest_change, highest_change: estimated changes of its series (-0.1 = 10 % less)
-- On SQLite (the inner quotes belong to the values):
--   sqlite3 -header -column warehouse.db \
--     ".parameter set :cluster \"'lab'\"" \
--     ".parameter set :since \"'2026-01-01'\"" \
--     ".parameter set :until \"'2027-01-01'\"" \
--     ".read include/sql/incident_history.sql"
-- On PostgreSQL:
--   PGTZ=UTC psql "$WAREHOUSE_URL" \
--     -v cluster="'lab'" -v since="'2026-01-01'" -v until="'2027-01-01'" \
--     -f include/sql/incident_history.sql
SELECT *
FROM bigtcp_incident_history
WHERE cluster = :cluster AND suspected_at >= :since AND suspected_at < :until
ORDER BY suspected_at DESC, incident DESC;
