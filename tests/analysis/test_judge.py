from __future__ import annotations

import json
from datetime import date, timedelta

import numpy as np
import pytest

from bigtcp_bench.analysis.judge import judge_file, judge_lines
from bigtcp_bench.errors import InvalidInput


def day(number: int) -> str:
    return (date(2026, 1, 1) + timedelta(days=number)).isoformat()


def judged(text: str, **fields):
    return list(judge_lines(text.splitlines(keepends=True), "nights.csv", **fields))


@pytest.fixture
def falling() -> list[str]:
    values = 10 * np.exp(np.random.default_rng(3).normal(0, 0.02, 40))
    values[30:] *= 0.8
    return [f"{day(i)},{value:.4f}" for i, value in enumerate(values)]


def test_a_regression_as_json_lines(falling):
    found = judged("date,value\n" + "\n".join(falling), default_series="gbps")
    documents = [json.loads(night.to_json_line()) for night in found]
    assert [set(document) for document in documents] == [{"series", "date", "state", "change_pct", "since"}] * 40
    assert documents[0] == {
        "series": "gbps",
        "date": "2026-01-01",
        "state": "learning",
        "change_pct": None,
        "since": None,
    }
    assert documents[-1]["state"] == "regression"
    assert documents[-1]["since"] == day(30)
    assert documents[-1]["change_pct"] == pytest.approx(-20, abs=3)


def test_rows_in_any_order_are_judged_by_date(falling):
    text = "date,value\n"
    assert judged(text + "\n".join(falling)) == judged(text + "\n".join(falling[::-1]))


def test_judged_as_it_would_have_been_then(falling):
    whole = judged("date,value\n" + "\n".join(falling))
    for cut in (1, 14, 31, 35):
        assert judged("date,value\n" + "\n".join(falling[:cut])) == whole[:cut]


def test_the_other_direction(falling):
    assert {night.state for night in judged("date,value\n" + "\n".join(falling), better="lower")} == {
        "learning",
        "steady",
    }


def test_both_arms_several_series_and_missing_nights():
    random = np.random.default_rng(1)
    rows = ["Date, off ,on,version,series,comment"]
    for i in range(40):
        off = 10 * np.exp(random.normal(0, 0.01))
        on = 20 * np.exp(random.normal(0, 0.01)) * (0.7 if i >= 30 else 1)
        on_text = "" if i == 33 else f"{on}"
        rows += [f"{day(i)},{off},{on_text},1.18,fallen,x", f"{day(i)},{off},20,1.18,flat,"]
    found = judged("\n".join(rows))
    assert [night.series for night in found] == ["fallen"] * 40 + ["flat"] * 40
    assert (found[39].state, found[39].attribution) == ("regression", "big-tcp")
    assert (found[33].state, found[33].change_pct) == ("regression", None)
    assert found[-1].state == "steady"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "nights.csv, line 1: the header is missing"),
        ("day,value\n", "nights.csv, line 1: column date is missing"),
        ("date,off\n", "nights.csv, line 1: column on is missing"),
        ("date,number\n", "nights.csv, line 1: column value is missing"),
        ("date,value,value\n", "nights.csv, line 1, column value: the column is there 2 times"),
        ("date,value,off\n", "nights.csv, line 1: there are columns value and off"),
        ("date,value\n", "nights.csv has a header but no nights"),
        (
            "date,value\n2026-01-01,1\n2026-01-02,fast\n",
            "nights.csv, line 3, column value: 'fast' is not a number",
        ),
        ("date,value\n2026-01-01,inf\n", "nights.csv, line 2, column value: 'inf' is not a finite number"),
        ("date,value\n01/02/2026,1\n", "nights.csv, line 2, column date: '01/02/2026' is not a date"),
        ("date,value\n2026-01-01,1\n2026-01-01,2\n", "line 3, column date: 2026-01-01 was already given"),
        ("date,value\n2026-01-01,1,2\n", "nights.csv, line 2: there are 3 cells, but the header has 2 columns"),
        ("date,off,on\n2026-01-01,1,-2\n", "nights.csv, line 2, column on: -2 is negative"),
        (
            "date,value,series\n2026-01-01,1,\n",
            "nights.csv, line 2, column series: the name of the series is empty",
        ),
        ('date,value\n2026-01-01,"1\n', "not CSV"),
    ],
)
def test_a_bad_file_gets_one_sentence_with_line_and_column(text, sentence):
    with pytest.raises(InvalidInput) as caught:
        judged(text)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(InvalidInput, match=r"absent.csv cannot be read: No such file"):
        list(judge_file(tmp_path / "absent.csv"))
    (tmp_path / "binary.csv").write_bytes(b"date,value\n\xff\xfe")
    with pytest.raises(InvalidInput, match="is not a text file in UTF-8"):
        list(judge_file(tmp_path / "binary.csv"))


def test_the_file_names_its_series(tmp_path):
    path = tmp_path / "throughput.csv"
    path.write_bytes(b"\xef\xbb\xbfdate,value\r\n2026-01-01,1\r\n\r\n2026-01-02,NaN\r\n")
    assert [(night.series, night.state) for night in judge_file(path)] == [("throughput", "learning")] * 2


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "date;value\n2026-01-01;31,6\n",
            "nights.csv, line 1: the columns are separated by semicolons; allowed are commas between columns, "
            "and a decimal point in numbers",
        ),
        ("date;off;on\n2026-01-01;1,5;2,5\n", "separated by semicolons"),
        ("series; Date ;value\n", "separated by semicolons"),
        ("date\tvalue\n2026-01-01\t31\n", "separated by tabs"),
        ("date,value\n2026-01-01,31,6\n", "if that is a decimal comma: allowed is a decimal point"),
        ('date,value\n2026-01-01,"31,6"\n', "'31,6' is not a number; if that is a decimal comma"),
    ],
)
def test_what_spreadsheets_of_other_countries_write_is_named(text, sentence):
    with pytest.raises(InvalidInput) as caught:
        judged(text)
    assert sentence in str(caught.value)


def test_a_second_drop_has_its_own_date_from_then_on(falling):
    values = [float(row.split(",")[1]) for row in falling] + [
        float(row.split(",")[1]) * (0.55 if i >= 10 else 0.8) for i, row in enumerate(falling[:30])
    ]
    documents = [
        json.loads(night.to_json_line())
        for night in judged("date,value\n" + "\n".join(f"{day(i)},{value}" for i, value in enumerate(values)))
    ]
    (at,) = [i for i, document in enumerate(documents) if document.get("event") == "worse"]
    assert 50 <= at <= 53
    assert {document["since"] for document in documents[33:at]} == {day(30)}
    assert {document["since"] for document in documents[at:]} == {day(50)}
    assert {document["state"] for document in documents[33:]} == {"regression"}
    assert documents[-1]["change_pct"] == pytest.approx(-45, abs=3)
