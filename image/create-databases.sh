#!/usr/bin/env bash
# Creates the two databases, each with a role of its own. The postgres image runs it once, on an empty data folder.
set -euo pipefail
psql --set ON_ERROR_STOP=1 --username postgres --dbname postgres \
  --set airflow_password="$AIRFLOW_DB_PASSWORD" --set bigtcp_password="$BIGTCP_DB_PASSWORD" <<'SQL'
CREATE ROLE airflow LOGIN PASSWORD :'airflow_password';
CREATE DATABASE airflow OWNER airflow;
CREATE ROLE bigtcp LOGIN PASSWORD :'bigtcp_password';
CREATE DATABASE bigtcp OWNER bigtcp;
SQL
