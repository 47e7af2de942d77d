"""What is written is what is read, twice is once, and nothing unusable gets in."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from bigtcp_bench.errors import InvalidInput, WarehouseError
from bigtcp_bench.planning.plan import load_plan
from bigtcp_bench.warehouse.engine import engine_of
from bigtcp_bench.warehouse.store import Warehouse
from tests.support.processes import side_by_side

RUN = {"cluster": "lab", "dag_id": "bigtcp_benchmark", "run_id": "manual__1"}


def result(**changes: Any) -> dict[str, Any]:
    row = {"block": 1, "arm": "off", "generation": 1, "scenario": "ipv4-rr", "repetition": 1}
    return row | {"metric": "transactions_per_s", "value": 1000.0} | changes


def test_results_come_back_typed_and_are_stored_once(warehouse: Warehouse) -> None:
    run = warehouse.start_run(RUN)
    rows = [result(repetition=np.int64(number), value=np.float64(number)) for number in (1, 2, 3)]
    warehouse.store_results(run, rows)
    warehouse.store_results(run, [*rows[:2], result(repetition=3, value=30)])

    frame = warehouse.results_frame(run)

    assert frame["value"].tolist() == [1, 2, 30]
    assert frame["unit"].unique().tolist() == ["1/s"]
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == {
        "block": "int64",
        "arm": "str",
        "generation": "int64",
        "scenario": "str",
        "repetition": "int64",
        "metric": "str",
        "value": "float64",
        "unit": "str",
    }
    assert warehouse.results_frame(run + 1).dtypes.equals(frame.dtypes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"value": math.nan}, "value = nan: Input should be a finite number"),
        ({"value": math.inf}, "value = inf: Input should be a finite number"),
        ({"metric": "speed"}, "unknown metric; known are throughput_bps"),
        ({"unit": "Gbit/s"}, "unit 'Gbit/s' is not that of transactions_per_s, which is '1/s'"),
        ({"repetition": 0}, "greater than or equal to 1"),
        ({"colour": "blue"}, "is not a known field"),
    ],
)
def test_unusable_rows_are_refused_whole(warehouse: Warehouse, changes: dict[str, Any], sentence: str) -> None:
    run = warehouse.start_run(RUN)
    with pytest.raises(InvalidInput) as refusal:
        warehouse.store_results(run, [result(), result(repetition=2) | changes])
    assert f"result of run {run}: 1" in str(refusal.value)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert warehouse.results_frame(run).empty


def test_rows_of_an_unknown_run_are_refused(warehouse: Warehouse) -> None:
    with pytest.raises(InvalidInput, match="unknown run"):
        warehouse.store_results(77, [result()])
    with pytest.raises(InvalidInput, match="run 77 is not in the warehouse"):
        warehouse.update_run(77, mtu=1500)


def test_a_generation_measured_again_replaces_its_first_attempt(warehouse: Warehouse) -> None:
    run = warehouse.start_run(RUN)
    warehouse.store_results(run, [result(generation=2)])
    raw = [{"block": 1, "generation": 1, "kind": "repetition", "scenario": "ipv4-rr", "document": b"\x00\xff"}]
    failure = {"block": 1, "arm": "off", "generation": 1, "scenario": "ipv4-rr", "repetition": 2, "reason": "died"}
    first = [result(repetition=number) for number in (1, 2, 3)]
    warehouse.store_generation(run, 1, 1, results=first, raw=raw)
    for _ in range(2):
        warehouse.store_generation(run, 1, 1, results=first[:1], failures=[failure], raw=raw)

    frame = warehouse.results_frame(run)
    assert list(zip(frame["generation"], frame["repetition"], strict=True)) == [(1, 1), (2, 1)]
    assert warehouse.failures_frame(run)["reason"].tolist() == ["died"]
    assert [document.document for document in warehouse.raw_documents(run)] == [b"\x00\xff"]
    with pytest.raises(InvalidInput, match="belongs to generation 1 of block 1 instead"):
        warehouse.store_generation(run, 1, 2, results=first)


def test_counters_of_pods_go_with_their_generation(warehouse: Warehouse) -> None:
    run = warehouse.start_run(RUN)
    place = {"block": 1, "arm": "off", "generation": 1, "scenario": "ipv4-rr", "repetition": 1}
    counters = [
        {**place, "end": end, "counter": "snmp/TcpRetransSegs", "value": value}
        for end, value in (("sender", 3), ("receiver", 4))
    ]
    warehouse.store_generation(run, 1, 1, results=[result()], counters=counters)
    other = {**place, "generation": 2}
    warehouse.store_pod_counters(run, [{**other, "end": "sender", "counter": "softnet/dropped", "value": 1}])
    for _ in range(2):
        warehouse.store_generation(run, 1, 1, results=[result()], counters=counters[:1])
    frame = warehouse.pod_counters_frame(run)
    columns = ["generation", "end", "counter", "value"]
    assert frame[columns].to_numpy().tolist() == [
        [1, "sender", "snmp/TcpRetransSegs", 3.0],
        [2, "sender", "softnet/dropped", 1.0],
    ]
    with pytest.raises(InvalidInput, match="end"):
        warehouse.store_pod_counters(run, [{**place, "end": "middle", "counter": "x", "value": 1}])


def test_packet_sizes_of_a_block_take_the_place_of_those_before(warehouse: Warehouse) -> None:
    run = warehouse.start_run(RUN)

    def size(block: int, upper_bytes: int, packets: int) -> dict[str, Any]:
        place = {"block": block, "arm": "on", "family": "ipv6", "end": "sender", "direction": "sent"}
        # More bytes than 32 bits hold: half a second on a fast link.
        return {**place, "upper_bytes": upper_bytes, "packets": packets, "bytes": packets * upper_bytes}

    warehouse.store_packet_sizes(run, [size(1, 1_500, 9), size(1, 196_608, 100_000), size(2, 9_000, 5)])
    for _ in range(2):
        warehouse.store_packet_sizes(run, [size(1, 196_608, 90_000)])
    frame = warehouse.packet_sizes_frame(run)
    assert frame[["block", "upper_bytes", "packets", "bytes"]].to_numpy().tolist() == [
        [1, 196_608, 90_000, 90_000 * 196_608],
        [2, 9_000, 5, 45_000],
    ]
    warehouse.store_packet_sizes(run, [])
    assert len(warehouse.packet_sizes_frame(run)) == 2
    with pytest.raises(InvalidInput, match="packets"):
        warehouse.store_packet_sizes(run, [size(1, 1_500, -1)])


def test_a_task_that_is_tried_again_begins_its_attempt_once_more(warehouse: Warehouse) -> None:
    plan = load_plan("quick")
    began = datetime(2026, 3, 1, 2, tzinfo=UTC)
    run = warehouse.start_run(RUN | {"plan": load_plan("nightly"), "started_at": began})
    warehouse.update_run(
        run, cilium_config={"enable-ipv6-big-tcp": "true"}, checks=[{"name": "kernel"}], reasons=["killed"]
    )
    warehouse.update_run(run, slack_channel="C1", slack_ts="1.2")

    assert warehouse.start_run(RUN | {"plan": plan, "note": "a\x00b"}) == run
    stored = warehouse.run(run)

    assert (stored["status"], stored["finished_at"], stored["reasons"]) == ("running", None, [])
    assert (stored["attempt"], stored["superseded"]) == (1, False)
    assert stored["started_at"] == began
    assert stored["started_at"].tzinfo is UTC
    # Of the first try nothing is left, but its message.
    assert (stored["cilium_config"], stored["checks"]) == (None, [])
    assert (stored["slack_channel"], stored["slack_ts"]) == ("C1", "1.2")
    assert stored["note"] == "a\ufffdb"
    assert (stored["plan_name"], stored["block_order"], stored["is_aa"]) == ("quick", ",".join(plan.order), False)
    assert warehouse.plan_of(run) == plan
    assert warehouse.find_run(**RUN) == run
    assert warehouse.find_run("lab", "bigtcp_benchmark", "another") is None
    for wrong in ({"mtu": -1}, {"status": "great"}, {"environment": {"load": math.nan}}, {"mood": "good"}):
        with pytest.raises(InvalidInput):
            warehouse.update_run(run, **wrong)


def test_verdicts_keep_what_is_unknown_unknown(warehouse: Warehouse) -> None:
    run = warehouse.start_run(RUN)
    row = {
        "scenario": "ipv4-rr",
        "metric": "latency_p99_us",
        "off_median": 80.0,
        "on_median": 70.0,
        "change": -0.125,
        "n_off": 6,
        "n_on": 6,
        "verdict": "faster",
        "reasons": ("worse than usual", "and more"),
    }
    for _ in range(2):
        warehouse.store_comparisons(run, [row, row | {"metric": "latency_p50_us", "change": None, "n_on": None}])

    frame = warehouse.comparisons_frame(run).set_index("metric")

    assert frame["better"].tolist() == ["lower", "lower"]
    assert frame.loc["latency_p99_us", "change"] == -0.125
    assert math.isnan(frame.loc["latency_p50_us", "change"])
    assert frame.loc["latency_p99_us", "reasons"] == ["worse than usual", "and more"]


def test_the_series_of_a_night_has_only_nights_that_count(warehouse: Warehouse) -> None:
    first = datetime(2026, 3, 1, 2, tzinfo=UTC)
    runs = []
    for night, status in enumerate(["valid", "invalid", "valid", "valid", "running", "valid"]):
        run = warehouse.start_run(
            {
                "cluster": "lab",
                "dag_id": "d",
                "run_id": str(night),
                "started_at": first + timedelta(days=night),
                "cilium_version": f"1.18.{night}",
                "plan": {"name": "x", "order": ["off", "off"] if night == 3 else ["off", "on", "off"]},
            }
        )
        row = {"scenario": "ipv4-rr", "metric": "transactions_per_s", "off_median": night, "verdict": "equivalent"}
        row |= {"ci_low": -0.01 * night, "ci_high": 0.02 * night}
        warehouse.store_comparisons(run, [row, row | {"metric": "latency_p50_us"}])
        if status != "running":
            warehouse.finish_run(run, status)  # type: ignore[arg-type]
        runs.append(run)

    frame = warehouse.series_frame("lab", metrics=["transactions_per_s"], until_run=runs[4])

    assert frame["run_id"].tolist() == [runs[0], runs[2], runs[4]]
    assert frame["cilium_version"].tolist() == ["1.18.0", "1.18.2", "1.18.4"]
    assert frame[["ci_low", "ci_high"]].values.tolist() == [[0, 0], [-0.02, 0.04], [-0.04, 0.08]]
    assert frame["started_at"].iloc[-1] == first + timedelta(days=4)
    assert warehouse.series_frame("lab", nights=2)["run_id"].unique().tolist() == [runs[2], runs[5]]
    assert warehouse.series_frame("other").empty


def test_the_newest_noise_counts(warehouse: Warehouse) -> None:
    for night, sd in ((1, 0.02), (2, 0.03)):
        run = warehouse.start_run(
            {
                "cluster": "lab",
                "dag_id": "d",
                "run_id": str(night),
                "started_at": datetime(2026, 3, night, tzinfo=UTC),
            }
        )
        row = {"metric": "throughput_bps", "scenario": "ipv4-stream-1", "level": "generation", "sd": sd, "n": 6}
        warehouse.store_noise(run, [row])
        warehouse.finish_run(run, "valid")
    assert warehouse.noise_frame("lab")[["sd", "run_id"]].values.tolist() == [[0.03, run]]


def test_pruning_takes_old_documents_and_nothing_else(warehouse: Warehouse) -> None:
    now = datetime(2026, 6, 1, tzinfo=UTC)
    runs = []
    for age in (40, 20):
        run = warehouse.start_run(RUN | {"run_id": str(age), "started_at": now - timedelta(days=age)})
        raw = [
            {"block": 1, "generation": 1, "kind": "repetition", "repetition": number, "document": b"x" * 100_000}
            for number in (1, 2)
        ]
        warehouse.store_generation(run, 1, 1, results=[result()], raw=raw)
        runs.append(run)

    assert warehouse.prune(30, now=now) == 2
    assert warehouse.prune(30, now=now) == 0

    assert [len(warehouse.raw_documents(run)) for run in runs] == [0, 2]
    assert [len(warehouse.results_frame(run)) for run in runs] == [1, 1]


def test_a_pruned_sqlite_file_is_smaller(tmp_path: Any) -> None:
    warehouse = Warehouse(f"sqlite:///{tmp_path}/w.db")
    warehouse.migrate()
    run = warehouse.start_run(RUN | {"started_at": datetime(2020, 1, 1, tzinfo=UTC)})
    document = {"block": 1, "generation": 1, "kind": "repetition", "document": b"x" * 3_000_000}
    warehouse.store_raw(run, [document])
    warehouse.prune(30)
    assert (tmp_path / "w.db").stat().st_size < 1_000_000


def _write(url: str, generation: int, barrier: Any) -> None:
    warehouse = Warehouse(url)
    barrier.wait()
    for _ in range(10):
        run = warehouse.start_run(RUN | {"attempt": 1})
        rows = [result(generation=generation, repetition=number) for number in range(1, 51)]
        warehouse.store_results(run, [*rows, result(generation=9)])
        warehouse.store_generation(run, 1, generation, results=rows)


def test_two_writers_at_once_lose_nothing(warehouse: Warehouse) -> None:
    context = side_by_side()
    barrier = context.Barrier(2)
    url = warehouse.engine.url.render_as_string(hide_password=False)
    writers = [context.Process(target=_write, args=(url, number, barrier)) for number in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0, 0]
    run = warehouse.find_run(**RUN)
    assert run is not None
    assert warehouse.results_frame(run).groupby("generation").size().to_dict() == {1: 50, 2: 50, 9: 1}


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("mysql://host/db", "cannot be 'mysql'"),
        ("nonsense", "cannot be read"),
        ("sqlite://", "names no file"),
    ],
)
def test_a_url_that_is_no_warehouse_gets_a_sentence(url: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence) as refusal:
        engine_of(url)
    assert "allowed are sqlite:///path" in str(refusal.value)


def test_a_server_that_is_away_gets_a_sentence_without_the_password() -> None:
    warehouse = Warehouse("postgres://user:secret@127.0.0.1:1/db")
    with pytest.raises(WarehouseError, match="cannot be used") as failure:
        warehouse.clusters()
    assert "secret" not in str(failure.value)


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("plan", ["nightly"], "plan .*must be a JSON object"),
        ("plan", {"order": "off,on"}, "order must be a list of names"),
        ("plan", {"scenarios": None}, "scenarios must be a list of names"),
        ("plan", {"duration_s": "3s"}, "duration_s must be a number of seconds"),
        ("plan", {"thresholds": [0.05]}, "thresholds must be a JSON object"),
        ("environment", "lab", "must be a JSON object"),
        ("images", [1], "must be a JSON object"),
        ("checks", {"kernel": "pass"}, "must be a list of JSON objects"),
        ("checks", ["kernel"], "must be a list of JSON objects"),
        ("restore_result", {"detail": "put back"}, "state is missing"),
    ],
)
def test_what_no_page_could_read_of_a_run_is_refused_in_a_sentence(warehouse, column, value, sentence):
    run = {"cluster": "lab", "dag_id": "d", "run_id": "r"}
    with pytest.raises(InvalidInput, match=sentence) as refusal:
        warehouse.start_run(run | {column: value})
    assert "\n" not in str(refusal.value)
    assert warehouse.clusters() == []
