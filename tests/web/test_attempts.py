"""A run that was cleared and measured anew: its earlier attempts are one step from its page, and nowhere else."""

from __future__ import annotations

import html
import re

from tests.web.history import LAB, LAB_DAG_ID

RUN = {"cluster": LAB, "dag_id": LAB_DAG_ID, "run_id": "manual__again", "trigger": "manual"}


def test_earlier_attempts_are_shown_when_they_are_asked_for(client, warehouse):
    numbers = []
    for note in ("the first try", "the second try", "the third try"):
        numbers.append(warehouse.start_run(RUN | {"note": note}))
        warehouse.finish_run(numbers[-1], "failed", [f"{note} was refused"])
    reader = client("vera")
    newest = reader.get(f"run/{numbers[-1]}").text
    folded = html.unescape(re.search(r"<details>\s*<summary>Earlier attempts.*?</details>", newest, re.S)[0])
    assert re.findall(r'href="/bigtcp-bench/run/(\d+)">Attempt (\d)', folded) == [
        (str(number), str(place)) for place, number in enumerate(numbers[:-1], start=1)
    ]
    assert "the first try" not in newest
    first = reader.get(f"run/{numbers[0]}").text
    assert "the first try was refused" in first
    assert "This is attempt 1 of a run that was cleared and measured anew" in first
    assert f'href="/bigtcp-bench/run/{numbers[-1]}">the run\'s newest attempt' in html.unescape(first)
    assert "Earlier attempts" not in first
    listed = reader.get(f"runs?cluster={LAB}").text
    assert [number for number in numbers if f"/run/{number}" in listed] == numbers[-1:]


def test_a_run_that_was_measured_once_says_nothing_of_attempts(client, warehouse):
    number = warehouse.start_run(RUN)
    assert "attempt" not in client("vera").get(f"run/{number}").text
