"""Pure statistics: frames in, verdicts out; knows neither Airflow nor Kubernetes nor the clock."""
