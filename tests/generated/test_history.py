"""Generated nights go the way of measured ones: stored, judged, with incidents; and each says what it is."""

from __future__ import annotations

import json

import pytest

from bigtcp_bench.commands.main import main
from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.generated.history import write_history
from bigtcp_bench.report.view import RunView
from bigtcp_bench.warehouse.queries import trend
from bigtcp_bench.warehouse.store import Warehouse
from tests.generated.summary import KEPT, LAST, NIGHTS, history_in, summary_of


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    return history_in(tmp_path_factory.mktemp("history"))


def test_the_same_arguments_write_the_same_figures(history):
    """What is kept was written before the writing was made faster; a change of story or verdicts shows here."""
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    written = summary_of(history)
    assert list(written) == list(kept)
    for night, expected in kept.items():
        for name, value in expected.items():
            found = written[night][name]
            assert found == (
                pytest.approx(value, rel=1e-6) if name in ("measured", "compared", "judged") else value
            ), f"{night}; if that is meant: python -m tests.generated.summary"


def test_every_run_says_that_it_was_generated(history):
    for number in (1, NIGHTS // 2):
        assert RunView.from_warehouse(history, number).generated


def test_the_last_night_is_the_one_asked_for(history):
    runs = history.runs_frame(limit=500)
    assert runs["started_at"].iloc[0].date() == LAST
    assert runs["is_night"].sum() <= NIGHTS
    assert runs["status"].value_counts().to_dict().keys() == {"valid", "invalid", "failed"}


def test_the_detector_finds_what_the_story_tells(history):
    found = trend(history, "incident_history", since="2026-01-01", until="2027-01-01")
    big_tcp = found[found["attribution"] == "big-tcp"].sort_values("changed_on")
    assert big_tcp["state"].tolist() == ["recovered", "regression"]
    assert [text.split(",") for text in big_tcp["scenarios"]] == [["ipv6-stream-1"], ["ipv4-stream-1"]]


def test_a_restore_was_not_verified_once(history):
    runs = history.runs_frame(limit=500)
    failed = runs[runs["reasons"].map(lambda reasons: "restore_config" in " ".join(reasons))]
    (number,) = failed["id"]
    view = RunView.from_warehouse(history, int(number))
    assert view.restore_failed
    assert view.status == "failed"
    assert view.comparisons


def test_each_upgrade_and_each_run_by_hand_is_answered(history):
    runs = history.runs_frame(limit=500)
    between = runs[~runs["is_night"]].sort_values("started_at")
    views = [RunView.from_warehouse(history, int(number)) for number in between["id"]]
    told = {(view.note or "").partition(" since run ")[0]: view.headline for view in views}
    assert all(view.compared is not None for view in views)
    assert "(Cilium 1.18.1 → 1.18.2): worse, ipv6-stream-1 throughput" in views[1].headline.needs[0]
    assert "(same Cilium)" in told["new firmware 28.43.1014 on both NICs"].rest[0]
    assert told["after the upgrade to Cilium 1.19.1"].needs[0] == (
        "the note names Cilium 1.19.1, measured was 1.19.0"
    )


def test_an_a_a_run_measured_noise(history):
    assert not history.noise_frame("demo-1").empty


def test_a_cluster_is_written_only_once(history):
    with pytest.raises(InvalidInput, match="has runs of cluster demo-1"):
        write_history(history, 1)


def test_numbers_must_be_positive(history):
    with pytest.raises(InvalidInput, match="nights = 0: must be 1 or more"):
        write_history(history, 0)


def test_the_command_creates_the_tables(tmp_path, capsys):
    url = f"sqlite:///{tmp_path}/warehouse.db"
    assert main(["demo-history", "--nights", "1", "--clusters", "2", "--warehouse", url]) == 0
    assert "wrote 2 generated runs of demo-1, demo-2" in capsys.readouterr().out
    assert Warehouse(url).clusters() == ["demo-1", "demo-2"]
