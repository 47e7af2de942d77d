"""What a scraper is told: as OpenMetrics and as text, of what it may see, and by a real Prometheus."""

from __future__ import annotations

import re

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from bigtcp_bench.monitoring.exposition import ARM_METRICS, PREFIX
from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.planning.plan import SCENARIOS
from bigtcp_bench.resources import include_dir
from tests.monitoring.servers import application, asked, prometheus, promtool, until
from tests.web.history import CLUSTER, DAG_ID, LAB, LAB_DAG_ID, NAMES, NIGHTS, connection_of

OPENMETRICS = {"Accept": "application/openmetrics-text;version=1.0.0"}


def scraped(user, headers=OPENMETRICS):
    """Return name → samples as (labels, value), as a strict parser reads them."""
    answer = user.get("metrics", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name.removeprefix(PREFIX), []).append((sample.labels, sample.value))
    return found


def of(samples, **labels):
    """Return the values of the samples that have these labels."""
    return [value for found, value in samples if labels.items() <= found.items()]


def test_figures_of_the_newest_valid_run(client, warehouse):
    found = scraped(client("vera"))
    newest = warehouse.comparisons_frame(NIGHTS).set_index(["scenario", "metric"])
    for (scenario, metric), row in newest.iterrows():
        series = {"cluster": CLUSTER, "scenario": scenario, "metric": metric}
        assert of(found["change_ratio"], **series) == [pytest.approx(row["change"])]
        assert of(found["change_low_ratio"], **series) == [pytest.approx(row["ci_low"])]
        assert of(found["change_high_ratio"], **series) == [pytest.approx(row["ci_high"])]
        in_force = [labels for labels, value in found["verdict"] if value and series.items() <= labels.items()]
        verdicts = [labels["bigtcp_bench_verdict"] for labels in in_force]
        assert verdicts == ([row["verdict"]] if METRICS[metric].judged else [])
        arm = ARM_METRICS[metric]
        for name in ("off", "on"):
            (value,) = of(found[arm.name], cluster=CLUSTER, scenario=scenario, arm=name)
            assert value == pytest.approx(row[f"{name}_median"] * arm.factor)
    began = warehouse.run(NIGHTS)["started_at"].timestamp()
    assert set(of(found["compared_run_start_timestamp_seconds"], cluster=CLUSTER)) == {began}


def test_runs_restores_and_incidents(client, warehouse):
    found = scraped(client("vera"))
    assert of(found["last_run_start_timestamp_seconds"], cluster=CLUSTER) == [
        warehouse.run(NIGHTS)["started_at"].timestamp()
    ]
    # The newest of the lab goes on; the one before has failed and has no restore.
    assert of(found["run_in_progress"], cluster=LAB) == [1]
    assert of(found["run_in_progress"], cluster=CLUSTER) == [0]
    for cluster, status in ((CLUSTER, "valid"), (LAB, "failed")):
        assert of(found["last_run_status"], cluster=cluster, bigtcp_bench_last_run_status=status) == [1]
        assert sum(of(found["last_run_status"], cluster=cluster)) == 1
    assert of(found["restore_verified"], cluster=CLUSTER) == [1]
    assert of(found["restore_verified"], cluster=LAB) == []
    assert of(found["open_incidents"], cluster=CLUSTER, state="regression", acknowledged="false") == [1]
    assert of(found["open_incidents"], cluster=CLUSTER, state="regression", acknowledged="true") == [1]
    assert of(found["cluster_info"], cluster=LAB, emulated="true", generated="false") == [1]
    assert of(found["cluster_info"], cluster=CLUSTER, emulated="false", generated="true") == [1]


def test_a_restore_that_failed_is_told_until_one_is_verified(client, warehouse):
    newer = {"cluster": CLUSTER, "dag_id": DAG_ID, "started_at": "2999-01-01T00:00:00Z"}
    failed = warehouse.start_run(newer | {"run_id": "a"})
    warehouse.finish_run(failed, "failed", ["x"])
    warehouse.update_run(failed, restore_result={"state": "not_verified", "detail": "x"})
    refused = warehouse.start_run(newer | {"run_id": "b", "started_at": "2999-01-02T00:00:00Z"})
    warehouse.finish_run(refused, "failed", ["refused before anything was changed"])
    assert of(scraped(client("vera"))["restore_verified"], cluster=CLUSTER) == [0]
    warehouse.update_run(refused, restore_result={"state": "not_needed"})
    assert of(scraped(client("vera"))["restore_verified"], cluster=CLUSTER) == [1]


def test_a_scenario_that_last_night_did_not_measure_keeps_its_newest_verdict(client, warehouse):
    row = {"scenario": "ipv6-rr", "metric": "transactions_per_s", "verdict": "slower", "change": -0.2}
    run = {"cluster": CLUSTER, "dag_id": DAG_ID, "run_id": "rr", "started_at": "2999-01-01T00:00:00Z"}
    number = warehouse.start_run(run)
    warehouse.store_comparisons(number, [row | {"off_median": 10, "on_median": 8}])
    warehouse.store_judgements(number, [row | {"state": "suspect"}])
    before = scraped(client("vera"))
    assert of(before["change_ratio"], metric="transactions_per_s")[0] > 0, "a run that goes on counts for nothing"
    warehouse.finish_run(number, "valid")
    found = scraped(client("vera"))
    assert of(found["change_ratio"], metric="transactions_per_s") == [-0.2]
    assert of(found["change_ratio"], metric="throughput_bps") == of(
        before["change_ratio"], metric="throughput_bps"
    )
    suspect = {"scenario": "ipv6-rr", "bigtcp_bench_series_state": "suspect"}
    assert of(found["series_state"], **suspect) == [1]
    assert sum(of(found["series_state"], scenario="ipv6-rr")) == 1


def test_what_may_not_be_judged_has_a_verdict_and_no_figures(client, warehouse):
    row = {"scenario": "ipv4-rr", "metric": "transactions_per_s", "verdict": "invalid", "change": 0.1}
    warehouse.store_comparisons(NIGHTS, [row | {"off_median": 10, "on_median": 11}])
    found = scraped(client("vera"))
    assert of(found["verdict"], scenario="ipv4-rr", bigtcp_bench_verdict="invalid") == [1]
    assert of(found["change_ratio"], scenario="ipv4-rr") == []
    assert of(found["transactions_per_second"], scenario="ipv4-rr") == []


def test_labels_are_bounded_whatever_is_stored(client, warehouse):
    row = {"scenario": "my own <scenario>", "metric": "throughput_bps", "verdict": "faster", "change": 0.1}
    warehouse.store_comparisons(NIGHTS, [row])
    found = scraped(client("vera"))
    values: dict[str, set[str]] = {}
    for samples in found.values():
        for labels, _ in samples:
            for name, value in labels.items():
                values.setdefault(name, set()).add(value)
    assert values["scenario"] == set(NAMES)
    assert values["scenario"] <= set(SCENARIOS)
    assert values["metric"] <= set(METRICS)
    assert values["cluster"] == {CLUSTER, LAB}
    # Some of each metric for each of these few scenarios and clusters.
    assert sum(map(len, found.values())) < 25 * len(METRICS)


def test_a_scraper_sees_what_its_user_may_read(client, warehouse, monkeypatch):
    lab = client("ada", dags={LAB_DAG_ID})
    assert CLUSTER not in lab.get("metrics").text
    assert of(scraped(lab)["run_in_progress"], cluster=LAB) == [1]
    assert of(scraped(lab)["hidden_clusters"]) == [1]
    assert of(scraped(client("vera"))["hidden_clusters"]) == [0]
    # Incidents and states are judged from the runs of all DAGs.
    other = {"cluster": CLUSTER, "dag_id": "bigtcp_weekly", "run_id": "w1", "started_at": "2026-01-01T00:00:00Z"}
    warehouse.start_run(other)
    judgement = {"scenario": "ipv6-rr", "metric": "transactions_per_s", "state": "steady"}
    warehouse.store_judgements(NIGHTS, [judgement])
    found = scraped(client("ada", dags={DAG_ID}))
    assert not {"open_incidents", "series_state"} & set(found)
    assert of(found["judgements_hidden"], cluster=CLUSTER) == [1]
    assert of(found["run_in_progress"], cluster=CLUSTER) == [0]
    whole = client("ada", dags={DAG_ID, "bigtcp_weekly"})
    assert_all_is_seen(scraped(whole))
    # Where it is configured which DAG measures the cluster, one run of another hides nothing.
    monkeypatch.setenv("BIGTCP_BENCH_CLUSTERS", "prod")
    monkeypatch.setenv("AIRFLOW_CONN_PROD", connection_of(CLUSTER))
    assert_all_is_seen(scraped(client("ada", dags={DAG_ID})))


def assert_all_is_seen(found):
    assert sum(of(found["open_incidents"], cluster=CLUSTER)) == 2
    assert sum(of(found["series_state"], cluster=CLUSTER)) == 1
    assert of(found["judgements_hidden"], cluster=CLUSTER) == [0]


def test_an_empty_warehouse_has_a_version_and_a_broken_one_is_an_error(client, warehouse, tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_BIGTCP_WAREHOUSE", f"sqlite:///{tmp_path}/empty.db")
    answer = client("vera").get("metrics")
    assert answer.status_code == 503
    assert "warehouse migrate" in answer.text
    type(warehouse)(f"sqlite:///{tmp_path}/empty.db").migrate()
    assert list(scraped(client("vera"))) == ["build_info", "hidden_clusters"]


@pytest.mark.prometheus
def test_promtool_finds_nothing_to_object_to(client, filled):
    answer = client("vera").get("metrics", headers={"Accept": "text/plain;version=0.0.4"})
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    promtool("check", "metrics", text=answer.text)


def test_every_family_is_in_the_document(client, filled):
    text = (include_dir().parent / "docs" / "monitoring.md").read_text(encoding="utf-8")
    answer = client("vera").get("metrics", headers=OPENMETRICS)
    families = {family.name for family in text_string_to_metric_families(answer.text)}
    documented = set(re.findall(rf"`({PREFIX}\w+)`", text))
    assert {name.removesuffix("_info") for name in documented} == families, "docs/monitoring.md lists them"


@pytest.mark.prometheus
def test_a_prometheus_scrapes_it_and_evaluates_the_rules(client, warehouse, tmp_path):
    with application(client("vera").app) as address:
        job = {
            "job_name": "bigtcp-bench",
            "metrics_path": "/bigtcp-bench/metrics",
            "scrape_interval": "2s",
            "static_configs": [{"targets": [address]}],
        }
        with prometheus(tmp_path, [job], [include_dir() / "monitoring" / "rules.yaml"]) as url:
            until(lambda: asked(url, 'ALERTS{alertname="BigTcpBenchRunNotValid"}'), "an alert")
            of_cluster = f'cluster="{CLUSTER}"'
            # A scrape of a busy machine may be given up, and ends the series until the next one.
            last = "last_over_time({}{{{}}}[1m])".format
            (up,) = asked(url, "max_over_time(up[1m])")
            (status,) = asked(url, f"{last('bigtcp_bench_last_run_status', of_cluster)} == 1")
            (not_valid,) = asked(url, last("ALERTS", 'alertname="BigTcpBenchRunNotValid"'))
            arms = asked(url, last("bigtcp_bench_throughput_bytes_per_second", f'scenario="{NAMES[0]}"'))
            (changes,) = asked(url, f"count({last('bigtcp_bench_change_ratio', of_cluster)})")
    assert up["value"][1] == "1"
    assert status["metric"]["bigtcp_bench_last_run_status"] == "valid"
    assert not_valid["metric"]["cluster"] == LAB
    newest = warehouse.comparisons_frame(NIGHTS).set_index(["scenario", "metric"])
    row = newest.loc[(NAMES[0], "throughput_bps")]
    found = {one["metric"]["arm"]: float(one["value"][1]) for one in arms}
    assert found == pytest.approx({"off": row["off_median"] / 8, "on": row["on_median"] / 8})
    assert changes["value"][1] == str(len(newest))
