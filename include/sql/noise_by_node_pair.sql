-- Noise by node pair: how small a change each pair of nodes can show.
--
-- Parameters, all needed:
--   :cluster  name of the cluster, for example lab
--   :metric   one metric, for example throughput_bps
--   :scenario a scenario, or a pattern: % is any text, for example %
--   :since    first moment, in UTC, for example 2026-01-01
--   :until    moment after the last, in UTC, for example 2027-01-01
--   :version  a Cilium version, or a pattern, for example %
-- Columns:
--   mean_half_width: mean half width of the nights' confidence intervals of the change (0.02 = 2 %)
--   mean_detectable: mean of the smallest change that a night could have detected
--   repetition_sd ... switch_sd: relative standard deviations from the A/A runs of that pair, empty without any
-- On SQLite (the inner quotes belong to the values):
--   sqlite3 -header -column warehouse.db \
--     ".parameter set :cluster \"'lab'\"" \
--     ".parameter set :metric \"'throughput_bps'\"" \
--     ".parameter set :scenario \"'%'\"" \
--     ".parameter set :since \"'2026-01-01'\"" \
--     ".parameter set :until \"'2027-01-01'\"" \
--     ".parameter set :version \"'%'\"" \
--     ".read include/sql/noise_by_node_pair.sql"
-- On PostgreSQL:
--   PGTZ=UTC psql "$WAREHOUSE_URL" \
--     -v cluster="'lab'" -v metric="'throughput_bps'" -v scenario="'%'" -v since="'2026-01-01'" \
--     -v until="'2027-01-01'" -v version="'%'" \
--     -f include/sql/noise_by_node_pair.sql
WITH runs AS MATERIALIZED (
    SELECT run, node_pair
    FROM bigtcp_valid_run
    WHERE cluster = :cluster AND started_at >= :since AND started_at < :until AND cilium_version LIKE :version
),

spread AS (
    SELECT
        comparison.scenario,
        runs.node_pair,
        COUNT(*) AS nights,
        AVG(comparison.ci_high - comparison.ci_low) / 2 AS mean_half_width,
        MAX(comparison.ci_high - comparison.ci_low) / 2 AS widest_half_width,
        AVG(comparison.smallest_detectable_change) AS mean_detectable
    FROM runs
    CROSS JOIN bigtcp_comparison AS comparison
    WHERE comparison.run_id = runs.run AND comparison.metric = :metric AND comparison.scenario LIKE :scenario
    GROUP BY comparison.scenario, runs.node_pair
),

calibration AS (
    SELECT
        scenario,
        node_pair,
        COUNT(DISTINCT run) AS aa_runs,
        AVG(sd) FILTER (WHERE level = 'repetition') AS repetition_sd,
        AVG(sd) FILTER (WHERE level = 'generation') AS generation_sd,
        AVG(sd) FILTER (WHERE level = 'switch') AS switch_sd
    FROM bigtcp_noise_of_pair
    WHERE
        cluster = :cluster
        AND metric = :metric
        AND scenario LIKE :scenario
        AND started_at >= :since
        AND started_at < :until
        AND cilium_version LIKE :version
    GROUP BY scenario, node_pair
)

SELECT
    spread.node_pair,
    spread.scenario,
    spread.nights,
    spread.mean_half_width,
    spread.widest_half_width,
    spread.mean_detectable,
    COALESCE(calibration.aa_runs, 0) AS aa_runs,
    calibration.repetition_sd,
    calibration.generation_sd,
    calibration.switch_sd
FROM spread
LEFT JOIN calibration ON calibration.scenario = spread.scenario AND calibration.node_pair = spread.node_pair
ORDER BY spread.scenario, spread.mean_half_width DESC, spread.node_pair;
