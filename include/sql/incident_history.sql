-- Incident history: every regression from first suspicion to its end, newest first.
--
-- Parameters, all needed:
--   :cluster  name of the cluster, for example lab
--   :since    first night, for example 2026-01-01
--   :until    last night, for example 2027-01-01
-- Columns:
--   changed_on: the night from which on the figures are different, as estimated
--   open_days: days from first suspicion to its end, or until today
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
WHERE
    cluster = :cluster
    AND suspected_on >= substr(:since, 1, 10)
    AND suspected_on <= substr(:until, 1, 10)
ORDER BY suspected_on DESC, incident DESC;
