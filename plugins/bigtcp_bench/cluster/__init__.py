"""All that reads or changes the cluster under test; plain data comes out, and nothing here knows Airflow."""
