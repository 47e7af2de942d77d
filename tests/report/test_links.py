"""Addresses of the pages as Airflow's UI spells them."""

from __future__ import annotations

from bigtcp_bench.report import links

AIRFLOW = "https://airflow.example/prefix/"


def test_names_are_quoted_once():
    run_id = "manual__2026-03-01T02:00:00+00:00"
    wanted = "https://airflow.example/prefix/dags/my%2Fdag/runs/manual__2026-03-01T02%3A00%3A00%2B00%3A00"
    assert links.airflow_run_url(AIRFLOW, "my/dag", run_id) == wanted
    assert links.run_url(AIRFLOW, "my/dag", run_id) == f"{wanted}/plugin/bigtcp-run"


def test_pages_stand_behind_airflows_route_with_airflows_own_path():
    page = "https://airflow.example/prefix/plugin/bigtcp/prefix/bigtcp-bench"
    assert links.incident_url(AIRFLOW, 7) == f"{page}/incidents/7"
    assert links.page_url(AIRFLOW, "overview") == f"{page}/overview"


def test_without_an_address_of_airflow_they_are_paths():
    assert links.run_url("", "dag", "run") == "/dags/dag/runs/run/plugin/bigtcp-run"
    assert links.incident_url("http://127.0.0.1:8080", 7).endswith("/plugin/bigtcp/bigtcp-bench/incidents/7")
