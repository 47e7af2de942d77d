"""All that knows Airflow: steps, operators, connections, params, the upgrade watch."""
