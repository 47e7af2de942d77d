"""Nothing without Airflow's permission: strangers, users of other DAGs, readers who would acknowledge."""

from __future__ import annotations

import re

import pytest

from bigtcp_bench.warehouse import incidents
from bigtcp_bench.web.rendering import static_version
from tests.web.history import CLUSTER, DAG_ID, LAB, LAB_DAG_ID, NIGHTS, connection_of

SAMPLES = {
    "number": str(NIGHTS),
    "name": "comparison",
    "version": static_version(),
    "path": "anything",
    "table": "results",
}
#: What FastAPI would serve by itself, and what is nowhere.
ALSO = ("docs", "redoc", "openapi.json", "", "static/pages.css", f"static/{static_version()}/charts.js")


def addresses() -> list[tuple[str, str]]:
    """Return every route of the pages as method and address, with sample values in the places of parameters."""
    from tests.web.logged_in import pages

    found = [
        (method, re.sub(r"\{(\w+)[^}]*\}", lambda match: SAMPLES[match[1]], route.path).lstrip("/"))
        for route in pages(known=False).routes
        for method in sorted(route.methods)
    ]
    return [*found, *(("GET", path) for path in ALSO)]


def test_every_route_is_known_to_the_tests():
    found = {path for _, path in addresses()}
    assert {"overview", "trend", "trend.csv", "runs", f"run/{NIGHTS}", "compare", "incidents"} <= found
    assert ("POST", f"incidents/{NIGHTS}/acknowledge") in addresses()
    assert ("POST", f"incidents/{NIGHTS}/unacknowledge") in addresses()


def test_strangers_get_nothing(client, filled):
    stranger = client()
    for method, path in addresses():
        answer = stranger.request(method, path)
        assert answer.status_code == 401, path
        assert CLUSTER not in answer.text, path
        assert "static/" not in answer.text, path


def test_users_without_permission_get_nothing(client, filled):
    for user in (client("mallory", role=None), client("mallory", role="admin", dags={"etl"})):
        for method, path in addresses():
            answer = user.request(method, path)
            assert answer.status_code == 403, path
            assert CLUSTER not in answer.text, path
            assert "static/" not in answer.text, path


def test_a_user_of_one_dag_sees_its_runs_alone(client, warehouse):
    lab = client("ada", dags={LAB_DAG_ID})
    for path in ("overview", "runs", "compare", "incidents", "trend"):
        answer = lab.get(path)
        assert answer.status_code == 200, path
        assert CLUSTER not in answer.text, path
    assert LAB in lab.get("overview").text
    for path in (
        f"run/{NIGHTS}",
        f"chart/run/{NIGHTS}/comparison.json",
        f"run/{NIGHTS}/results.csv",
        f"run/{NIGHTS}/counters.csv",
        f"run/{NIGHTS}/prometheus.csv",
        f"run/{NIGHTS}/pod-counters.csv",
        f"run/{NIGHTS}/packet-sizes.csv",
        f"run/{NIGHTS}/report.html",
        f"run/{NIGHTS}/documents.zip",
        f"run/{NIGHTS}/document?block=1&generation=1&kind=repetition&scenario=ipv6-rr&repetition=1",
        f"trend?cluster={CLUSTER}",
        f"runs?cluster={CLUSTER}",
        f"incidents?cluster={CLUSTER}",
        "incidents/3",
        f"dag?dag_id={DAG_ID}",
        f"compare?a={NIGHTS}&b={NIGHTS + 1}",
    ):
        assert lab.get(path).status_code == 404, path
    for path in (
        f"trend.csv?cluster={CLUSTER}",
        f"chart/trend.json?cluster={CLUSTER}",
        f"compare?cluster={CLUSTER}",
    ):
        assert lab.get(path).status_code == 400, path
    run = {"dag_id": DAG_ID, "run_id": warehouse.run(NIGHTS)["run_id"]}
    assert lab.get("run", params=run).status_code == 404


def test_what_may_not_be_read_answers_as_what_does_not_exist(client, filled):
    lab = client("ada", dags={LAB_DAG_ID})
    for what, path, hidden in (("run", "run", NIGHTS), ("incident", "incidents", 3)):
        one, other = lab.get(f"{path}/{hidden}").text, lab.get(f"{path}/99999").text
        assert one.replace(f"{what} {hidden} ", f"{what} 99999 ") == other


def test_incidents_are_judged_from_all_dags_of_their_cluster(client, warehouse):
    """Who may read only one of two DAGs that measure a cluster sees its runs, but not what both together say."""
    other = {"cluster": CLUSTER, "dag_id": "bigtcp_weekly", "run_id": "w1", "started_at": "2026-01-01T00:00:00Z"}
    number = warehouse.start_run(other)
    one = client("ada", role="admin", dags={DAG_ID})
    assert f"run/{NIGHTS}" in one.get("runs").text
    assert one.get(f"run/{number}").status_code == 404
    assert f"Incidents of {CLUSTER} are hidden" in one.get("incidents").text
    assert "Hidden: you may not read" in one.get("overview").text
    for path in ("runs", "overview"):
        assert "known to grace" not in one.get(path).text
        assert "gain fell" not in one.get(path).text
    assert one.get("incidents/3").status_code == 404
    assert one.post("incidents/3/acknowledge", data={"note": "x"}, headers=SAME_ORIGIN).status_code == 404
    assert "incident" not in str(one.get(f"chart/trend.json?cluster={CLUSTER}&scenario=ipv6-stream-1").json())
    both = client("ada", dags={DAG_ID, "bigtcp_weekly"})
    assert both.get("incidents/3").status_code == 200
    assert "incident" in str(both.get(f"chart/trend.json?cluster={CLUSTER}&scenario=ipv6-stream-1").json())


def test_one_run_of_another_dag_hides_nothing_of_a_configured_cluster(client, warehouse, monkeypatch):
    """Who may see is what is configured, not who once ran there."""
    monkeypatch.setenv("BIGTCP_BENCH_CLUSTERS", "prod,staging")
    monkeypatch.setenv("AIRFLOW_CONN_PROD", connection_of(CLUSTER))
    stray = {"cluster": CLUSTER, "dag_id": f"{DAG_ID}_staging", "started_at": "2026-01-01T00:00:00Z"}
    number = warehouse.start_run({**stray, "run_id": "stray"})
    reader = client("ada", role="admin", dags={DAG_ID})
    assert "hidden" not in reader.get("incidents").text
    assert reader.get("incidents/3").status_code == 200
    assert reader.get(f"run/{number}").status_code == 404
    assert acknowledge(reader).status_code == 303
    # The reader of the other DAG sees its own run, and no incident of a cluster that is not its own.
    other = client("bob", role="admin", dags={f"{DAG_ID}_staging"})
    assert other.get(f"run/{number}").status_code == 200
    assert other.get("incidents/3").status_code == 404
    assert acknowledge(other).status_code == 404
    # Two DAGs that are configured for one cluster count both.
    monkeypatch.setenv("AIRFLOW_CONN_STAGING", connection_of(CLUSTER))
    assert client("ada", dags={DAG_ID}).get("incidents/3").status_code == 404
    assert client("ada", dags={DAG_ID, f"{DAG_ID}_staging"}).get("incidents/3").status_code == 200


SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}


def acknowledge(user, headers=SAME_ORIGIN, note="a known switch", number=3):
    return user.post(f"incidents/{number}/acknowledge", data={"note": note}, headers=headers)


def test_acknowledging_needs_the_permission_to_edit_the_dag(client, warehouse):
    viewer = client("vera", role="viewer")
    assert "<textarea" not in viewer.get("incidents/3").text
    answer = acknowledge(viewer)
    assert answer.status_code == 403
    assert "permission to edit" in answer.text
    assert not incidents.get(warehouse, 3).acknowledged

    editor = client("ada", role="user")
    assert "<textarea" in editor.get("incidents/3").text
    answer = acknowledge(editor, note="  a known \n switch ")
    assert (answer.status_code, answer.headers["location"]) == (303, "/bigtcp-bench/incidents/3")
    found = incidents.get(warehouse, 3)
    assert (found.acknowledged_by, found.acknowledged_note) == ("ada", "a known switch")
    assert "acknowledged by ada" in editor.get("incidents/3").text

    assert "Add as bob" in client("bob", role="user").get("incidents/3").text
    acknowledge(client("bob", role="user"), note="me too")
    found = incidents.get(warehouse, 3)
    assert found.acknowledged_by == "ada"
    assert re.fullmatch(r"a known switch; bob on [\d-]+: me too", found.acknowledged_note)


def test_undoing_an_acknowledgement_needs_the_same(client, warehouse):
    assert incidents.get(warehouse, 2).acknowledged
    viewer = client("vera", role="viewer")
    assert "Undo" not in viewer.get("incidents/2").text
    for user, headers in ((viewer, SAME_ORIGIN), (client("ada", role="user"), {"Sec-Fetch-Site": "same-site"})):
        answer = user.post("incidents/2/unacknowledge", headers=headers)
        assert answer.status_code == 403
        assert incidents.get(warehouse, 2).acknowledged

    editor = client("ada", role="user")
    assert "Undo the acknowledgement" in editor.get("incidents/2").text
    answer = editor.post("incidents/2/unacknowledge", headers=SAME_ORIGIN)
    assert (answer.status_code, answer.headers["location"]) == (303, "/bigtcp-bench/incidents/2")
    assert not incidents.get(warehouse, 2).acknowledged
    assert "nobody has acknowledged it" in editor.get("incidents/2").text
    assert "only open incidents" in editor.post("incidents/1/unacknowledge", headers=SAME_ORIGIN).text


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://airflow.example"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://evil.example"},
        {"Origin": "https://airflow.example.evil.example"},
        {"Origin": "null"},
        {},
    ],
)
def test_a_form_of_another_site_is_refused(client, warehouse, headers):
    answer = acknowledge(client("ada", role="user"), headers)
    assert answer.status_code == 403
    assert "not sent from Airflow" in answer.text
    assert not incidents.get(warehouse, 3).acknowledged


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://airflow.example"},
        {"Origin": "http://AIRFLOW.example"},
        {"Origin": "https://airflow.public.example:8443"},
        {"Authorization": "Bearer token"},
    ],
)
def test_airflows_own_pages_and_clients_with_a_token_are_not(client, warehouse, monkeypatch, headers):
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.public.example:8443/prefix")
    assert acknowledge(client("ada", role="user"), headers).status_code == 303


@pytest.mark.parametrize(
    ("note", "number", "status", "words"),
    [
        ("  ", 3, 400, "A note is needed"),
        ("x" * 1001, 3, 422, "note = "),
        ("late", 1, 400, "only open incidents can be"),
        ("none", 77, 404, "no incident 77"),
        ("none", 0, 422, "greater than or equal to 1"),
    ],
)
def test_an_acknowledgement_is_validated(client, warehouse, note, number, status, words):
    answer = acknowledge(client("ada", role="user"), note=note, number=number)
    assert answer.status_code == status
    assert words in answer.text
