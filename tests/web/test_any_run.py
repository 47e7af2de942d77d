"""No stored run, whatever rows it has, breaks a page, a chart on it, or a file behind it."""

from __future__ import annotations

import html
import re

from hypothesis import given

from tests.any_run import HISTORIES, SEARCH, filled


def addresses_of(numbers):
    """Return the pages of the runs, and those on which they stand among others."""
    last = numbers[-1]
    charts = ("trend", "chart/trend.json", "chart/benefit.json", "trend.csv")
    return [
        *("overview", "runs", "compare", "incidents", "incidents?state=open", "incidents/1"),
        *(f"run/{number}" for number in numbers),
        *(f"run/{last}/{name}" for name in ("results.csv", "counters.csv", "report.html", "documents.zip")),
        *(f"compare?a={a}&b={last}" for a in numbers),
        "compare?cluster=lab&before=x&after=x",
        *(f"{page}?since=2026-01-01&until=2026-04-01" for page in charts),
    ]


@SEARCH
@given(history=HISTORIES)
def test_every_page_of_whatever_is_stored_is_shown_or_refused_in_words(
    client, migrated_file, monkeypatch, tmp_path_factory, history
):
    folder = tmp_path_factory.mktemp("one")
    monkeypatch.setenv("AIRFLOW_CONN_BIGTCP_WAREHOUSE", f"sqlite:///{folder / 'warehouse.db'}")
    reader = client("vera")
    with filled(migrated_file, folder, history) as (_, numbers):
        wanted = addresses_of(numbers)
        while wanted:
            path = wanted.pop(0)
            answer = reader.get(path)
            # Not there, or not to be compared, is an answer; that something is broken is none.
            assert answer.status_code in (200, 400, 404), (path, answer.text)
            assert answer.status_code == 200 or not path.startswith(("run", "overview", "trend?", "chart/")), path
            if path.startswith("run/"):
                page = html.unescape(answer.text)
                wanted += re.findall(r'"/bigtcp-bench/(chart/run/[^"]+|run/[0-9]+/document\?[^"]+)"', page)
