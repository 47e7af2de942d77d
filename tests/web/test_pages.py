"""Every page and file over HTTP: what it shows, what it refuses, and what it says when there is nothing."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import zipfile
import zlib

import pytest

from bigtcp_bench.warehouse import outbox, pages, schema
from bigtcp_bench.web.rendering import POLICY, static_version
from tests.web.history import CLUSTER, DAG_ID, HOSTILE, LAB, LAB_DAG_ID, NIGHTS

#: Runs of the lab come after those of the other cluster: one valid, one failed, one that goes on.
LAB_VALID, LAB_FAILED, LAB_RUNNING = (NIGHTS + number for number in (1, 2, 3))
PAGES = (
    "overview",
    "trend",
    "trend?scenario=ipv6-stream-1",
    "runs",
    "runs?status=failed",
    f"run/{NIGHTS}",
    f"run/{LAB_VALID}",
    f"run/{LAB_FAILED}",
    f"run/{LAB_RUNNING}",
    "compare",
    f"compare?a={NIGHTS - 1}&b={NIGHTS}",
    f"compare?a={NIGHTS}&b={LAB_FAILED}",
    f"compare?cluster={CLUSTER}&before=1.18.1&after=1.18.3",
    "incidents",
    "incidents?state=open",
    "incidents/2",
    "incidents/3",
)


def text_of(answer):
    """Return what a reader sees of a page, on one line."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", answer.text)).split())


@pytest.fixture
def reader(client, filled):
    return client("vera")


def test_every_page_is_sent_with_its_headers_and_nothing_unescaped(reader):
    for path in PAGES:
        answer = reader.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert HOSTILE not in answer.text, path
        # The policy lets nothing inline run, so there must be nothing of the kind.
        scripts = re.findall(r"<script(?![^>]*\bsrc=)[^>]*>", answer.text)
        assert not scripts, path
        assert not re.search(r"\son\w+=|\sstyle=|<style|javascript:", answer.text), path


def test_hostile_texts_are_there_escaped(reader):
    assert "&lt;script&gt;alert(1)" in reader.get(f"run/{NIGHTS}").text
    assert "&lt;script&gt;alert(1)" in reader.get("runs").text
    assert "&lt;script&gt;alert(1)" in reader.get("incidents/2").text
    assert "&lt;script&gt;" in reader.get("runs?cluster=<script>").text
    assert "<script>" not in reader.get("trend?scenario=<script>").text.replace("<script src", "")


def test_the_policy_allows_no_eval_and_nothing_inline():
    assert "unsafe" not in POLICY
    assert "default-src 'none'" in POLICY
    assert "frame-ancestors 'self'" in POLICY


def test_pages_say_what_is_emulated_and_what_is_generated(reader):
    for path in (
        "overview",
        "trend",
        "runs",
        f"run/{NIGHTS}",
        f"compare?a={NIGHTS - 1}&b={NIGHTS}",
        "incidents/3",
    ):
        assert "Generated, not measured." in text_of(reader.get(path)), path
    for path in ("overview", "runs", f"run/{LAB_VALID}", f"compare?a={NIGHTS}&b={LAB_VALID}"):
        assert "The Kubernetes API and the Cilium agent are" in text_of(reader.get(path)), path
    assert "emulated" not in text_of(reader.get(f"runs?cluster={CLUSTER}"))


def test_overview(reader):
    answer = reader.get("overview")
    shown = text_of(answer)
    assert re.search(
        r"Incident 3 : regression since .* ipv6-stream-1 throughput, gain fell from \+4\d % to", shown
    )
    assert "; nobody has acknowledged it" in shown
    assert "; known to grace" in shown
    assert re.search(r"Last run run 420 , \d+ h ago", shown)
    assert "VALID · helps 23, worse 0, unchanged 2" in shown
    assert re.search(
        r"Last upgrade run 396 : against run 395 of .* \(Cilium 1\.18\.1 → 1\.18\.3\): worse, ipv6-stream-1",
        shown,
    )
    assert "Restore verified" in shown
    # Airflow's own API says when; without a script there is a link.
    assert f'data-next-run="/api/v2/dags/{DAG_ID}"' in answer.text
    assert "Next run as Airflow has planned it" in shown
    assert "RUNNING · before the first of 3 blocks" in shown
    assert "Restore not yet" in shown
    assert "No valid run has compared both arms yet." in shown


def test_the_bare_address_leads_to_the_overview(reader):
    assert reader.get("").headers["location"] == "/bigtcp-bench/overview"


def test_runs_are_listed_in_pages(reader):
    numbers = []
    path = f"runs?cluster={CLUSTER}"
    while path:
        answer = reader.get(path)
        numbers += [
            int(number) for number in re.findall(r'<th scope="row"><a href="[^"]*/run/(\d+)"', answer.text)
        ]
        older = re.search(r'href="/bigtcp-bench/(runs\?[^"]*)">Older', answer.text)
        path = older and older[1].replace("&amp;", "&")
    assert numbers == list(range(NIGHTS, 0, -1))
    assert "There are no older runs." in reader.get("runs?before=1").text
    assert "No run is like that." in reader.get(f"runs?cluster={LAB}&status=invalid").text


def test_airflows_names_lead_to_the_run(reader, warehouse):
    run = warehouse.run(NIGHTS)
    answer = reader.get("run", params={"dag_id": DAG_ID, "run_id": run["run_id"]})
    assert (answer.status_code, answer.headers["location"]) == (302, f"/bigtcp-bench/run/{NIGHTS}")
    answer = reader.get("run", params={"dag_id": DAG_ID, "run_id": "manual__never"})
    assert answer.status_code == 404
    assert "Nothing is stored of run manual__never" in answer.text
    other = warehouse.start_run({"cluster": "other", "dag_id": DAG_ID, "run_id": run["run_id"]})
    answer = reader.get("run", params={"dag_id": DAG_ID, "run_id": run["run_id"]})
    assert f"/bigtcp-bench/run/{NIGHTS}" in answer.text
    assert f"/bigtcp-bench/run/{other}" in answer.text
    params = {"dag_id": DAG_ID, "run_id": run["run_id"], "cluster": "other"}
    assert reader.get("run", params=params).headers["location"].endswith(f"/{other}")


def test_a_dag_leads_to_the_trend_of_its_cluster(reader):
    assert reader.get(f"dag?dag_id={DAG_ID}").headers["location"] == f"/bigtcp-bench/trend?cluster={CLUSTER}"
    assert reader.get(f"dag?dag_id={LAB_DAG_ID}").headers["location"] == f"/bigtcp-bench/trend?cluster={LAB}"
    answer = reader.get("dag?dag_id=etl")
    assert answer.status_code == 404
    assert "has stored no run of the benchmark" in answer.text


def test_a_run_has_its_verdicts_its_files_and_its_neighbours(reader):
    answer = reader.get(f"run/{NIGHTS}")
    shown = text_of(answer)
    for words in (
        "helps 23, worse 0, unchanged 2",
        "Proof of effect",
        "worker-1",
        "snmp/TcpRetransSegs",
        "verified",
    ):
        assert words in shown, words
    for path in (f"run/{NIGHTS - 1}", f"compare?a={NIGHTS - 1}&amp;b={NIGHTS}", f"trend?cluster={CLUSTER}"):
        assert f'href="/bigtcp-bench/{path}"' in answer.text, path
    assert f'href="/dags/{DAG_ID}/runs/scheduled__' in answer.text
    assert "The raw documents of this run are not stored" in text_of(reader.get("run/10"))


def test_every_chart_of_a_page_can_be_loaded(reader):
    for path in ("overview", "trend", f"run/{NIGHTS}", f"compare?a={NIGHTS - 1}&b={NIGHTS}", "incidents/3"):
        places = re.findall(r'data-src="/bigtcp-bench/([^"]+)"', reader.get(path).text)
        assert places, path
        for place in places:
            answer = reader.get(place.replace("&amp;", "&"))
            assert answer.status_code == 200, place
            assert answer.headers["content-type"] == "application/json"
            specification = answer.json()
            assert specification["$schema"].startswith("https://vega.github.io/schema/vega-lite/")
            assert specification["description"], place
    assert len(re.findall("data-src", reader.get(f"run/{NIGHTS}").text)) >= 8


def test_a_trend_is_what_its_address_says_and_its_csv_has_the_same_nights(reader, warehouse):
    last = warehouse.run(NIGHTS)["started_at"].date().isoformat()
    choice = f"cluster={CLUSTER}&scenario=ipv6-stream-1&metric=throughput_bps&version=1.18.3&until={last}"
    answer = reader.get(f"trend?{choice}")
    nights = pages.nights_of_version(warehouse, CLUSTER, [DAG_ID], "1.18.3", nights=60)["run_id"].nunique()
    assert f"CSV of these {nights} nights" in answer.text
    for name, value in (("scenario", "ipv6-stream-1"), ("metric", "throughput_bps"), ("version", "1.18.3")):
        assert re.search(rf'name="{name}".*?<option value="{re.escape(value)}" selected>', answer.text, re.DOTALL)
    link = re.search(r'href="/bigtcp-bench/(trend\.csv[^"]+)"', answer.text)[1].replace("&amp;", "&")
    file = reader.get(link)
    assert file.headers["content-type"] == "text/csv; charset=utf-8"
    assert re.fullmatch(r'attachment; filename="prod-eu-[\w.-]+\.csv"', file.headers["content-disposition"])
    rows = list(csv.DictReader(io.StringIO(file.text)))
    assert len(rows) == nights
    assert {row["cilium_version"] for row in rows} == {"1.18.3"}
    shown = re.findall(r'/run/(\d+)">', answer.text)
    assert shown == [row["run_id"] for row in reversed(rows)]
    assert float(rows[-1]["on_median"]) == pytest.approx(5e10, rel=0.1)
    assert rows[-1]["started_at"] == f"{last}T02:00:00+0000"


def test_a_trend_without_nights_says_so(reader):
    shown = text_of(reader.get(f"trend?cluster={LAB}"))
    assert "No valid night measured throughput (bit/s) of ipv4-stream-1 on lab" in shown
    assert "No night has been measured" in str(reader.get(f"chart/trend.json?cluster={LAB}").json())


def test_a_long_trend_shows_its_newest_nights_as_a_table(reader):
    answer = reader.get("trend?since=2020-01-01")
    assert re.search(r"The newest 100 of \d+; charts and CSV have all of them", text_of(answer))
    assert len(re.findall(r"<tr>", answer.text)) == 102


def test_formulas_in_texts_do_no_harm_in_a_spreadsheet(reader, warehouse):
    warehouse.update_run(NIGHTS, cilium_version="=HYPERLINK(1)")
    assert ",'=HYPERLINK(1)," in reader.get("trend.csv").text


def test_two_runs_are_compared_with_what_differs(reader):
    shown = text_of(reader.get(f"compare?a={NIGHTS - 40}&b={NIGHTS}"))
    assert "Cilium 1.18.1 1.18.3" in shown
    assert re.search(r"ipv6-stream-1 throughput \S+ Gbit/s → \S+ Gbit/s \S+ % \[", shown)
    shown = text_of(reader.get(f"compare?a={NIGHTS}&b={NIGHTS}"))
    assert "Nothing that is recorded" in shown
    assert "Left out" not in shown
    shown = text_of(reader.get(f"compare?a={NIGHTS}&b={LAB_FAILED}"))
    assert "no scenario in common" in shown
    assert "not measured" in shown


def test_a_scenario_that_one_of_two_runs_could_not_judge_is_named(reader, warehouse):
    row = warehouse.comparisons_frame(NIGHTS).set_index("metric").query("scenario == 'ipv6-rr'")
    known = {name: value for name, value in row.loc["transactions_per_s"].to_dict().items() if value is not None}
    warehouse.store_comparisons(NIGHTS, [known | {"metric": "transactions_per_s", "verdict": "invalid"}])
    shown = text_of(reader.get(f"compare?a={NIGHTS - 1}&b={NIGHTS}"))
    assert "Left out, because one of the runs could not judge it: ipv6-rr." in shown


def test_two_versions_are_compared_by_their_nights(reader):
    shown = text_of(reader.get(f"compare?cluster={CLUSTER}&before=1.18.1&after=1.18.3"))
    found = re.search(r"ipv6-stream-1 throughput .*? ipv6-rate", shown)[0]
    assert re.search(r"−1[345]\.\d % \[−1\d\.\d, −1\d\.\d\]", found)
    assert "means over the newest 60 valid nights with 1.18.1 and 24 with 1.18.3" in shown
    # Its first sentence has the one thing that is worse, and nothing that moved by chance.
    assert re.search(
        r"eu From 1\.18\.1 to 1\.18\.3: worse, ipv6-stream-1 throughput, gain went from \+4\d % to \+2\d % 1",
        shown,
    )


def test_incidents(reader):
    shown = text_of(reader.get("incidents"))
    assert re.search(
        r"3 prod-eu regression [\d-]+ open ipv6-stream-1 throughput, gain fell from \+4\d % to \+\d+ % BIG TCP",
        shown,
    )
    assert re.search(
        r"1 prod-eu recovered [\d-]+ [\d-]+ ipv6-stream-1 throughput fell by 14 % in both arms", shown
    )
    assert "the platform, in both arms" in shown
    assert "grace: the switch was replaced" in shown
    assert len(re.findall("regression", text_of(reader.get("incidents?state=open")))) == 2
    assert "No incident is like that." in reader.get(f"incidents?cluster={LAB}").text
    one = text_of(reader.get("incidents/3"))
    assert re.search(r"regression on prod-eu since [\d-]+: ipv6-stream-1 throughput, gain fell from \+4", one)
    assert "About then changed Cilium 1.18.1 → 1.18.3 ( compare the two versions )" in one
    assert "Last good, first bad run" in one
    assert "Blamed BIG TCP : arm on got worse" in one
    assert "Do next Compare the runs" in one
    assert "nobody has acknowledged it" in one
    assert "Acknowledging needs Airflow's permission to edit" in one
    assert "acknowledged by grace" in text_of(reader.get("incidents/2"))


def test_raw_documents_can_be_downloaded(reader, warehouse):
    answer = reader.get(f"run/{NIGHTS}")
    links = [
        link.replace("&amp;", "&")
        for link in re.findall(r'href="/bigtcp-bench/(run/\d+/document\?[^"]+)"', answer.text)
    ]
    stored = warehouse.raw_documents(NIGHTS)
    assert len(links) == len(stored)
    file = reader.get(links[0])
    assert file.headers["content-type"] == "application/json"
    assert "attachment" in file.headers["content-disposition"]
    assert file.content == zlib.decompress(stored[0].document)
    archive = reader.get(f"run/{NIGHTS}/documents.zip")
    assert archive.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(archive.content)) as opened:
        assert len(opened.namelist()) == len(set(opened.namelist())) == len(stored)
        assert json.loads(opened.read(opened.namelist()[0])) == json.loads(file.content)
    missing = reader.get(f"run/{NIGHTS}/document?block=9&generation=1&kind=hello")
    assert missing.status_code == 400
    assert "has no such document" in missing.text


def test_no_name_out_of_a_pod_becomes_a_path(reader, warehouse):
    names = ("../../../etc/cron.d/x", "a/b", "a\\b", "a:b", "c\nd", "C:x", "..", "x" * 253)
    rows = [{"block": 7, "generation": 1, "kind": name, "document": zlib.compress(b"{}")} for name in names]
    warehouse.store_raw(NIGHTS, rows)
    place = {"block": 7, "generation": 1, "kind": "hello", "scenario": "../../x", "repetition": 1}
    warehouse.store_raw(NIGHTS, [place | {"document": zlib.compress(b"{}")}])
    archive = reader.get(f"run/{NIGHTS}/documents.zip")
    with zipfile.ZipFile(io.BytesIO(archive.content)) as opened:
        found = opened.namelist()
    assert len(found) == len(set(found)) == len(warehouse.raw_documents(NIGHTS))
    for name in found:
        assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}", name), name
    for name in names:
        if name.isprintable():
            query = {"block": 7, "generation": 1, "kind": name}
            one = reader.get(f"run/{NIGHTS}/document", params=query)
            assert re.fullmatch(r'attachment; filename="[A-Za-z0-9._-]+"', one.headers["content-disposition"])


def test_documents_of_an_unknown_encoding_come_as_they_are(reader, warehouse):
    row = {"block": 7, "generation": 1, "kind": "capture", "encoding": "pcap", "document": b"\\x00\\x01"}
    warehouse.store_raw(NIGHTS, [row])
    file = reader.get(f"run/{NIGHTS}/document?block=7&generation=1&kind=capture")
    assert (file.headers["content-type"], file.content) == ("application/octet-stream", b"\\x00\\x01")
    assert file.headers["content-disposition"].endswith('capture.bin"')


def test_figures_can_be_downloaded(reader, warehouse):
    rows = list(csv.DictReader(io.StringIO(reader.get(f"run/{NIGHTS}/results.csv").text)))
    assert len(rows) == len(warehouse.results_frame(NIGHTS))
    rows = list(csv.DictReader(io.StringIO(reader.get(f"run/{NIGHTS}/counters.csv").text)))
    assert len(rows) == len(warehouse.counters_frame(NIGHTS))
    (row,) = csv.DictReader(io.StringIO(reader.get(f"run/{NIGHTS}/pod-counters.csv").text))
    assert (row["end"], row["counter"], row["value"]) == ("sender", "snmp/TcpRetransSegs", "3.0")
    (row,) = csv.DictReader(io.StringIO(reader.get(f"run/{NIGHTS}/packet-sizes.csv").text))
    assert (row["family"], row["upper_bytes"], row["packets"]) == ("ipv6", "196608", "5")
    report = reader.get(f"run/{NIGHTS}/report.html")
    assert report.headers["content-disposition"] == f'attachment; filename="run-{NIGHTS}.html"'
    assert "helps 23, worse 0, unchanged 2" in report.text


def test_figures_from_prometheus_are_offered_where_there_are_some(reader, warehouse):
    address = f"run/{NIGHTS}/prometheus.csv"
    assert address not in reader.get(f"run/{NIGHTS}").text
    assert list(csv.DictReader(io.StringIO(reader.get(address).text))) == []
    row = {"block": 2, "arm": "on", "query": "cpu_s_per_gb", "series": '{"instance": "a"}', "unit": "s/GB"}
    warehouse.store_prometheus(NIGHTS, [row | {"mean": 0.4, "lowest": 0.3, "highest": 0.5, "samples": 7}])
    assert address in reader.get(f"run/{NIGHTS}").text
    (found,) = csv.DictReader(io.StringIO(reader.get(address).text))
    assert (found["series"], found["mean"], found["arm"]) == ('{"instance": "a"}', "0.4", "on")


def test_static_files_are_kept_for_good_under_an_address_of_their_own(reader):
    page = reader.get("overview").text
    found = re.findall(r'(?:src|href|data-charts)="/bigtcp-bench/(static/[^"]+)"', page)
    assert len(found) == 4
    for path in found:
        answer = reader.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
        kind = "text/css" if path.endswith(".css") else "text/javascript"
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
        assert answer.headers["x-content-type-options"] == "nosniff"
    for path in (
        "static/old/pages.css",
        f"static/{static_version()}/nothing.js",
        f"static/{static_version()}/..%2fapp.py",
    ):
        assert reader.get(path).status_code == 404, path


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("trend?metric=speed", 422, "metric = 'speed': must be one of throughput_bps"),
        ("trend?since=yesterday", 422, "since = 'yesterday': input should be a valid date"),
        (
            "trend?since=2026-02-01&until=2026-01-01",
            422,
            "since (2026-02-01) must not be after until (2026-01-01)",
        ),
        ("trend?until=9999-12-31", 422, "until = '9999-12-31': input should be less than or equal to 2100-01-01"),
        ("trend?since=0001-01-01", 422, "greater than or equal to 2000-01-01"),
        ("trend?scenario=%00", 422, "scenario = '\\x00': must not hold control characters"),
        (f"trend?scenario={'x' * 300}", 422, "scenario = 'xxx"),
        ("trend?cluster=nowhere", 404, "no runs of cluster 'nowhere' that you may read; known are: lab, prod-eu"),
        ("runs?status=odd", 422, "status = 'odd': must be one of running, valid, invalid, failed"),
        ("runs?before=-1", 422, "before = '-1': input should be greater than or equal to 1"),
        ("runs?before=99999999999", 422, "before = '99999999999'"),
        ("incidents?state=odd", 422, "state = 'odd': must be one of open, closed"),
        ("run", 422, "dag_id is missing"),
        ("run/0", 422, "number = '0'"),
        ("run/x", 422, "number = 'x': input should be a valid integer"),
        ("run/99999", 404, "no run 99999 that you may read"),
        ("compare?a=1&b=99999", 404, "no run 99999"),
        (
            "compare?cluster=prod-eu&before=1.0&after=1.18.3",
            400,
            "No valid run of cluster 'prod-eu' had Cilium '1.0'",
        ),
        ("chart/trend.json?metric=speed", 422, "metric = 'speed'"),
        ("chart/run/420/nothing.json", 404, "Run 420 has no chart 'nothing'; it has comparison"),
        ("chart/run/420/a_b.json", 422, "name = 'a_b'"),
        ("nothing/here", 404, "There is no page 'nothing/here'."),
    ],
)
def test_parameters_are_validated_in_one_sentence(reader, path, status, words):
    answer = reader.get(path)
    assert answer.status_code == status
    if path.startswith("chart/"):
        assert words in answer.json()["detail"]
    else:
        assert words in text_of(answer)
        assert answer.headers["content-security-policy"] == POLICY


def test_empty_fields_of_forms_mean_nothing_chosen(reader):
    assert reader.get("trend?cluster=&scenario=&metric=&since=&until=&version=").status_code == 200
    assert reader.get("runs?cluster=&status=").status_code == 200
    assert reader.get("incidents?cluster=&state=").status_code == 200
    assert reader.get("compare?a=&b=&cluster=&before=&after=").status_code == 200


def test_an_empty_warehouse_says_so_on_every_page(reader, warehouse):
    def empty(connection):
        for table in reversed(schema.metadata.sorted_tables):
            connection.execute(table.delete())

    warehouse.write(empty)
    for path in ("overview", "trend", "runs", "compare"):
        assert "Nothing has been stored yet" in text_of(reader.get(path)), path
    assert DAG_ID in reader.get("overview").text
    assert "There has been no incident yet." in reader.get("incidents").text
    assert reader.get("chart/trend.json").json()["detail"] == "The warehouse has no run that you may read."


def test_a_warehouse_that_cannot_be_used_is_said(client, monkeypatch, tmp_path):
    monkeypatch.setenv("AIRFLOW_CONN_BIGTCP_WAREHOUSE", f"sqlite:///{tmp_path}/old.db")
    answer = client("vera").get("overview")
    assert answer.status_code == 503
    assert "run `bigtcp-bench warehouse migrate`" in answer.text
    monkeypatch.delenv("AIRFLOW_CONN_BIGTCP_WAREHOUSE")
    answer = client("vera").get("chart/trend.json")
    assert answer.status_code == 503
    assert "does not exist; create it" in answer.json()["detail"]


def test_a_page_that_fails_says_so(reader, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("secret of the code")

    monkeypatch.setattr("bigtcp_bench.web.overview._card", broken)
    answer = reader.get("overview")
    assert answer.status_code == 500
    assert "the log of Airflow's API server says what" in text_of(answer)
    assert "secret" not in answer.text
    assert answer.headers["content-security-policy"] == POLICY


def test_addresses_follow_airflow_below_a_path(client, filled):
    answer = client("vera", prefix="/airflow").get(f"run/{NIGHTS}")
    assert answer.status_code == 200
    addresses = re.findall(r'(?:href|src|action|data-src|data-charts)="([^"#]+)', answer.text)
    assert len(addresses) > 20
    for address in addresses:
        assert address.startswith(("/airflow/bigtcp-bench/", "/airflow/dags/")), address


def test_a_new_address_of_the_warehouse_is_another_warehouse(reader, tmp_path, monkeypatch, new_warehouse):
    other = new_warehouse(tmp_path / "other.db")
    other.start_run({"cluster": "third", "dag_id": DAG_ID, "run_id": "r"})
    monkeypatch.setenv("AIRFLOW_CONN_BIGTCP_WAREHOUSE", f"sqlite:///{tmp_path}/other.db")
    assert "third" in reader.get("overview").text


def test_the_overview_says_that_slack_refuses_a_message(reader, warehouse):
    assert "Slack" not in text_of(reader.get("overview"))
    outbox.keep(warehouse, CLUSTER, [outbox.Draft(f"run 7: {HOSTILE}", "run", {"text": "x", "blocks": []})])
    for _ in range(outbox.MAX_REFUSALS):
        outbox.failed(warehouse, outbox.claim(warehouse, CLUSTER), "Slack refused it: msg_too_long", refused=True)
    answer = reader.get("overview")
    assert "1 message set aside, because Slack refuses what is in it." in text_of(answer)
    assert "Slack refused it: msg_too_long" in text_of(answer)
    assert HOSTILE not in answer.text


def test_the_metrics_of_the_trend_follow_the_scenario(reader):
    page = reader.get("trend?scenario=ipv6-rr&metric=throughput_bps").text
    offered = re.findall(r'<option value="([a-z0-9_]+_(?:bps|s|us|gb))"', page)
    assert "throughput_bps" not in offered
    assert '<option value="transactions_per_s" selected>' in page


def test_a_run_that_goes_on_says_how_far_it_is_and_its_page_is_loaded_again(reader, warehouse):
    run = NIGHTS + 3
    begun = text_of(reader.get(f"run/{run}"))
    assert (
        "before the first of 3 blocks: checks, and the state to be put back; the end is expected between" in begun
    )
    assert "No raw document is stored yet." in begun
    warehouse.store_block(run, {"block": 2, "arm": "on", "started_at": "2026-03-01T02:20:00Z"})
    page = reader.get(f"run/{run}")
    assert "RUNNING · block 2 of 3 (BIG TCP on) is being measured; the end is expected between" in text_of(page)
    assert '<meta http-equiv="refresh" content="30">' in page.text
    assert "block 2 of 3 (BIG TCP on)" in text_of(reader.get("runs"))
    assert "refresh" not in reader.get(f"run/{NIGHTS}").text


def test_the_runs_that_are_ticked_are_of_one_cluster(reader):
    page = reader.get("runs").text
    ticked = re.findall(r'name="([ab])" value="(\d+)" checked', page)
    assert len(ticked) == 2
    of = dict(re.findall(r'run/(\d+)">\d+</a></th>\s*<td>[^<]*</td>\s*<td>([\w-]+)', page))
    assert len({of[number] for _, number in ticked}) == 1
    # Between a run that failed, or one that still goes on, and another there is nothing to compare.
    told = dict(re.findall(r'run/(\d+)">\d+</a></th>.*?<span class="status-word (\w+)">', page, re.DOTALL))
    assert {told[number] for _, number in ticked} == {"valid"}


def test_a_run_leads_to_the_last_run_that_it_can_be_compared_with(reader):
    # The night before it failed.
    page = text_of(reader.get("run/400"))
    assert "Compare with run 398" in page
    assert reader.get("compare?a=398&b=400").text.count("From A to B") >= 1
