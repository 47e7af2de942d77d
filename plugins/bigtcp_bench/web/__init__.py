"""What the Airflow UI shows."""
