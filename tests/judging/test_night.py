"""Judging across nights with a real warehouse: from the first night to a regression that somebody acknowledges."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest

from bigtcp_bench.judging import night as judging
from bigtcp_bench.judging.night import NEAR_NIGHTS, REPLAY_NIGHTS, Night, Nightly, Rerun, rerun_pairs
from bigtcp_bench.planning.plan import Plan, blocks, rerun_plan, validate_plan
from bigtcp_bench.planning.thresholds import Thresholds
from bigtcp_bench.report.history import HistoryView
from bigtcp_bench.report.outcomes import headlines
from bigtcp_bench.report.view import RunView
from bigtcp_bench.warehouse import incidents
from bigtcp_bench.warehouse.controls import control_history, control_values
from bigtcp_bench.warehouse.judgements import CARRIED
from bigtcp_bench.warehouse.store import Warehouse
from tests.analysis.runs import make_frame
from tests.support.nights import CLUSTER, FIRST_NIGHT, SCENARIO_NAMES, add_night

LIMITS = Thresholds.model_validate({})
#: As LIMITS, but that a state left under those is none to go on from: the history is judged from its values again.
OTHER_LIMITS = LIMITS.model_copy(update={"margin": 0.06})
STREAM, OTHER_STREAM, RR = SCENARIO_NAMES
FALL = {STREAM: 0.8}


def judge(warehouse: Warehouse, number: int, rerun: Rerun | None = None, **fields) -> Night:
    return Nightly(warehouse, add_night(warehouse, number, **fields), LIMITS).judge(rerun)


def states(night: Night) -> dict[str, str]:
    return {item.scenario: item.judgement.state for item in night.judgements}


def test_many_nights_in_their_order_are_judged_as_one_by_one(warehouse, tmp_path, new_warehouse):
    """With what the night before has in memory, with what it has left in the warehouse, and from all values."""
    learned(warehouse, 8)
    alone = Warehouse(f"sqlite:///{copied(warehouse, tmp_path / 'alone.db')}")
    after, seen = None, set()
    for number in range(8, 30):
        fields = {"on": FALL} if 21 <= number < 25 else {}
        both = [add_night(one, number, controls=(100.0, 101.0), **fields) for one in (warehouse, alone)]
        if number in (9, 17, 18):
            # A scenario that could not be judged that night: its detector catches up later.
            for one, run in zip((warehouse, alone), both, strict=True):
                row = one.comparisons_frame(run).to_dict("records")[0]
                known = {name: value for name, value in row.items() if isinstance(value, list) or value == value}
                one.store_comparisons(run, [known | {"verdict": "invalid"}])
        tonight = Nightly(warehouse, both[0], LIMITS, after=after)
        due = tonight.due()
        assert due == Nightly(alone, both[1], LIMITS).due()
        rerun = Rerun(tuple(due)) if due else None
        tonight.judge(rerun)
        judged = Nightly(alone, both[1], LIMITS).judge(rerun)
        if number == 20:
            # It failed after all, and counts for nothing.
            for one, run in zip((warehouse, alone), both, strict=True):
                one.finish_run(run, "failed", ["x"])
        else:
            after = tonight
        frames = [one.judgements_frame(run) for one, run in zip((warehouse, alone), both, strict=True)]
        pd.testing.assert_frame_equal(*frames)
        seen |= set(frames[0]["state"])
    assert seen >= {"learning", "steady", "regression", "recovered"}
    assert Nightly(alone, both[1], OTHER_LIMITS).judge(rerun).judgements == judged.judgements


def learned(warehouse: Warehouse, nights: int) -> None:
    for number in range(nights):
        add_night(warehouse, number)


def copied(warehouse: Warehouse, path: Path) -> Path:
    """Return a copy of a warehouse's file, which is complete only when its last connection is closed."""
    warehouse.engine.dispose()
    return shutil.copy(str(warehouse.engine.url.database), path)


@pytest.fixture(scope="module")
def learned_file(tmp_path_factory, new_warehouse) -> Path:
    folder = tmp_path_factory.mktemp("learned")
    warehouse = new_warehouse(folder / "warehouse.db")
    learned(warehouse, 22)
    return copied(warehouse, folder / "learned.db")


@pytest.fixture
def after_22_nights(learned_file, tmp_path) -> Warehouse:
    """A warehouse of its own with 22 usual nights, none of them judged."""
    return Warehouse(f"sqlite:///{shutil.copy(learned_file, tmp_path / 'learned.db')}")


def test_from_learning_to_a_regression_that_is_acknowledged_and_recovers(warehouse):
    seen = [set(states(judge(warehouse, number)).values()) for number in range(22)]
    assert seen == [{"learning"}] * 14 + [{"steady"}] * 8

    night = judge(warehouse, 22, on=FALL)
    assert states(night) == {STREAM: "suspect", OTHER_STREAM: "steady", RR: "steady"}
    (suspicion,) = incidents.open_incidents(warehouse, CLUSTER)
    assert (suspicion.state, suspicion.suspected_on) == ("suspect", "2026-03-23")
    assert [change.kind for change in night.changes] == ["opened"]

    later = [judge(warehouse, number, on=FALL) for number in (23, 24, 25)]
    assert states(later[-1])[STREAM] == "regression"
    (judgement,) = [item.judgement for item in later[-1].judgements if item.scenario == STREAM]
    assert judgement.change == pytest.approx(-0.2, abs=0.03)
    assert (judgement.since, judgement.attribution) == ("2026-03-23", "big-tcp")
    assert [change.kind for night in later for change in night.changes].count("confirmed") == 1

    (confirmed,) = incidents.open_incidents(warehouse, CLUSTER)
    assert (confirmed.id, confirmed.state, confirmed.attribution) == (suspicion.id, "regression", "big-tcp")
    assert incidents.acknowledge(warehouse, confirmed.id, by="kim", note="the driver, we know")
    # Another scenario falls as much for the same cause: it joins, and the acknowledgement holds.
    both = [judge(warehouse, number, on={**FALL, OTHER_STREAM: 0.8}) for number in (26, 27, 28)]
    assert {change.kind for night in both for change in night.changes} == {"updated"}
    (joined,) = incidents.open_incidents(warehouse, CLUSTER)
    assert joined.acknowledged
    assert {member.scenario for member in joined.members} == {STREAM, OTHER_STREAM}

    back = [judge(warehouse, number) for number in range(29, 33)]
    assert "recovered" in {state for night in back for state in states(night).values()}
    assert incidents.open_incidents(warehouse, CLUSTER) == []
    assert incidents.get(warehouse, confirmed.id).state == "recovered"


def test_only_the_last_two_nights_keep_the_state_of_their_detectors(warehouse):
    for number in range(5):
        judge(warehouse, number)
    runs = warehouse.runs_frame(CLUSTER)["id"].tolist()
    kept = [all(CARRIED in details for details in warehouse.judgements_frame(run)["details"]) for run in runs]
    assert kept == [True, True, False, False, False]


def test_no_more_nights_are_read_than_must_be(warehouse, monkeypatch):
    """All only where no state can be gone on from, and none where the night before is at hand."""
    read, nights_until = [], Warehouse.nights_until

    def recorded(self: Warehouse, *of, nights: int, **known):
        read.append(nights)
        return nights_until(self, *of, nights=nights, **known)

    monkeypatch.setattr(Warehouse, "nights_until", recorded)

    def nights_read(number: int, limits: Thresholds = LIMITS, after: Nightly | None = None) -> list[int]:
        nonlocal last
        read.clear()
        last = Nightly(warehouse, add_night(warehouse, number), limits, after=after)
        last.judge()
        return [*read]

    last: Nightly | None = None
    assert nights_read(0) == [NEAR_NIGHTS, REPLAY_NIGHTS]
    assert nights_read(1) == [NEAR_NIGHTS]
    assert nights_read(2, after=last) == nights_read(3, after=last) == []
    assert nights_read(4) == [NEAR_NIGHTS]
    assert nights_read(5, OTHER_LIMITS) == [NEAR_NIGHTS, REPLAY_NIGHTS]
    assert nights_read(6, LIMITS.model_copy(update={"new_normal_nights": 900})) == [NEAR_NIGHTS, 14 + 60 + 900]
    monkeypatch.setattr(judging, "__version__", "another")
    assert nights_read(7, LIMITS.model_copy(update={"new_normal_nights": 900}))[1:] == [14 + 60 + 900]


def test_far_off_scenarios_are_due_again_either_way_and_the_median_of_three_counts(after_22_nights):
    warehouse = after_22_nights
    run = add_night(warehouse, 22, on={STREAM: 0.8, RR: 1.3})
    assert Nightly(warehouse, run, LIMITS).due() == [RR, STREAM]
    series = (STREAM, "throughput_bps")
    again = Rerun((STREAM,), {series: [(10.0, 15.1), (10.0, 14.9)]}, far_off=(STREAM,))
    assert states(Nightly(warehouse, run, LIMITS).judge(again))[STREAM] == "steady"
    details = warehouse.judgements_frame(run).set_index("scenario")["details"]
    first = details[STREAM]["rerun"].pop("first")
    assert first[1] / first[0] == pytest.approx(1.5 * 0.8, rel=0.05)
    assert details[STREAM]["rerun"] == {"pairs": [[10.0, 15.1], [10.0, 14.9]], "reasons": [], "far_off": True}
    assert "rerun" not in details[OTHER_STREAM]
    # The nights to come know of it, too, when they judge the history again; the comparison is of all by then.
    warehouse.store_comparisons(run, [{**row_of(warehouse, run, STREAM), "off_median": 10.0, "on_median": 30.0}])
    later = add_night(warehouse, 23)
    carried, replayed = (Nightly(warehouse, later, limits).judge() for limits in (LIMITS, OTHER_LIMITS))
    assert states(carried)[STREAM] == "steady"
    assert carried.judgements == replayed.judgements
    assert incidents.open_incidents(warehouse) == []


def test_a_rerun_that_does_not_count_leaves_the_first_measurement(after_22_nights):
    warehouse = after_22_nights
    night = judge(warehouse, 22, Rerun((STREAM,), reasons=("the switch failed",)), on=FALL)
    assert states(night)[STREAM] == "suspect"
    details = warehouse.judgements_frame(int(warehouse.runs_frame(CLUSTER)["id"].iloc[0]))["details"]
    assert ([], ["the switch failed"], False) in [
        (again["pairs"], again["reasons"], again["far_off"]) for row in details if (again := row.get("rerun"))
    ]


def test_runs_and_scenarios_that_are_not_valid_are_nights_that_did_not_happen(after_22_nights):
    warehouse = after_22_nights
    for number in (22, 23, 24):
        warehouse.update_run(add_night(warehouse, number, on=FALL), status="invalid")
    night = judge(warehouse, 25, verdict="invalid", on=FALL)
    assert night.judgements == ()
    assert set(states(judge(warehouse, 26)).values()) == {"steady"}
    assert incidents.open_incidents(warehouse) == []


def test_a_changed_version_is_named_with_the_regression(after_22_nights):
    warehouse = after_22_nights
    nights = [judge(warehouse, number, on=FALL, cilium_version="1.18.4") for number in range(22, 26)]
    (judgement,) = [item.judgement for item in nights[-1].judgements if item.scenario == STREAM]
    assert judgement.coincides_with == {"cilium_version": ("1.18.3", "1.18.4")}


def test_when_the_control_falls_too_it_is_the_infrastructure(warehouse):
    for number in range(22):
        add_night(warehouse, number, controls=[36_000.0] * 3)
    everything = dict.fromkeys(SCENARIO_NAMES, 0.7)
    for number in range(22, 32):
        night = judge(warehouse, number, off=everything, on=everything, controls=[31_000.0] * 3)
    assert {item.judgement.attribution for item in night.judgements} == {"infrastructure"}
    (incident,) = incidents.open_incidents(warehouse)
    assert (incident.attribution, len(incident.members)) == ("infrastructure", 3)


def test_the_control_of_a_run_and_of_the_nights_before_on_the_same_machines(warehouse):
    add_night(warehouse, 0, controls=[1.0], server_kernel="6.12.0")
    warehouse.update_run(add_night(warehouse, 1, controls=[100.0, 400.0]), status="invalid")
    warehouse.update_run(add_night(warehouse, 2, controls=[2.0]), status="failed")
    add_night(warehouse, 3)
    add_night(warehouse, 4, controls=[300.0])
    run = add_night(warehouse, 5, controls=[8.0, 8.0, 27.0])
    assert control_values(warehouse, [run]) == {run: pytest.approx(12.0)}
    assert control_history(warehouse, run, 20) == pytest.approx([200.0, 300.0])
    assert control_history(warehouse, run, 1) == [pytest.approx(300.0)]


def test_two_runs_that_judge_at_once_open_one_incident(after_22_nights):
    warehouse = after_22_nights
    runs = [add_night(warehouse, 22, on={STREAM: 0.7, RR: 0.7}, run_id=name) for name in ("one", "two")]

    def judge_once(run: int) -> None:
        Nightly(Warehouse(warehouse.url), run, LIMITS).judge()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(judge_once, runs))
    (incident,) = incidents.open_incidents(warehouse)
    assert {member.scenario for member in incident.members} == {STREAM, RR}


def row_of(warehouse: Warehouse, run: int, scenario: str) -> dict[str, object]:
    """Return the stored comparison of ``scenario``, to be stored anew."""
    frame = warehouse.comparisons_frame(run)
    (row,) = frame[frame["scenario"] == scenario].to_dict("records")
    return {str(name): value for name, value in row.items() if value == value}


def frame_of(plan: Plan) -> pd.DataFrame:
    return make_frame(plan, effect={"throughput_bps": 0.5})


def test_a_rerun_pairs_what_was_measured_next_to_each_other():
    plan = validate_plan({"scenarios": [STREAM, RR], "generations": 4, "repetitions": 2, "order": "on,off,on"})
    again = rerun_plan(plan, {STREAM})
    assert again.scenarios == (STREAM,)
    assert [(block.arm, block.generations) for block in blocks(again)] == [("off", 4), ("on", 8), ("off", 4)]
    frame = frame_of(again)
    pairs = rerun_pairs(frame, again)[STREAM, "throughput_bps"]
    values = frame[frame["metric"] == "throughput_bps"].groupby(["block", "generation"])["value"].median()
    halves = [values.loc[slot] for slot in (1, 2, 3)]
    assert pairs == [
        (halves[0].median(), halves[1].loc[:4].median()),
        (halves[2].median(), halves[1].loc[5:].median()),
    ]
    lost = frame[(frame["block"] != 3)]
    assert rerun_pairs(lost, again) == {}


def test_an_acknowledged_incident_that_gets_much_worse_is_open_to_all_again(warehouse):
    after = None

    def night(number: int, factor: float) -> Night:
        nonlocal after
        run = add_night(warehouse, number, on={STREAM: factor}, scenarios=(STREAM,))
        after = Nightly(warehouse, run, LIMITS, after=after)
        return after.judge()

    for number in range(18):
        add_night(warehouse, number, scenarios=(STREAM,))
    for number in range(18, 26):
        night(number, 0.94 if number >= 20 else 1.0)
    (known,) = incidents.open_incidents(warehouse, CLUSTER)
    assert incidents.acknowledge(warehouse, known.id, by="kim", note="known")
    found = [change.kind for number in range(26, 36) for change in night(number, 0.55).changes]
    assert found.count("worse") == 1
    (worse,) = incidents.open_incidents(warehouse, CLUSTER)
    assert (worse.id, worse.acknowledged, worse.worse_on) == (known.id, False, "2026-03-27")
    assert worse.members[0].change == pytest.approx(-0.45, abs=0.02)
    # What it is now may be acknowledged in its turn.
    assert incidents.acknowledge(warehouse, known.id, by="kim", note="that, too")
    assert {change.kind for number in range(36, 40) for change in night(number, 0.55).changes} == {"updated"}
    assert incidents.get(warehouse, known.id).acknowledged


def test_an_incident_of_a_series_that_is_measured_no_longer_ends_after_the_stated_nights(warehouse):
    after = None
    ended = None
    for number in range(18):
        add_night(warehouse, number, scenarios=(STREAM, RR))
    for number in range(18, 42):
        both = (STREAM, RR) if number < 24 else (RR,)
        run = add_night(warehouse, number, on={STREAM: 0.8} if number >= 20 else {}, scenarios=both)
        after = Nightly(warehouse, run, LIMITS, after=after)
        if "ended" in [change.kind for change in after.judge().changes]:
            ended = number
    assert ended == 23 + LIMITS.unmeasured_nights
    assert incidents.open_incidents(warehouse, CLUSTER) == []


def test_what_was_closed_by_hand_is_not_opened_again_by_the_next_night(warehouse):
    after = None
    for number in range(18):
        add_night(warehouse, number, scenarios=(STREAM,))
    for number in range(18, 34):
        run = add_night(warehouse, number, on={STREAM: 0.8} if number >= 20 else {}, scenarios=(STREAM,))
        after = Nightly(warehouse, run, LIMITS, after=after)
        after.judge()
        if number == 25:
            (known,) = incidents.open_incidents(warehouse, CLUSTER)
            incidents.close(warehouse, known.id, by="kim", note="it stays", on=date(2026, 3, 26))
    assert incidents.open_incidents(warehouse, CLUSTER) == []
    closed = incidents.get(warehouse, known.id)
    assert (closed.state, closed.closed_on, closed.closed_by, closed.closed_note) == (
        "closed",
        "2026-03-26",
        "kim",
        "it stays",
    )
    view = HistoryView.from_warehouse(warehouse, warehouse.run(run))
    assert [one.state for one in view.series] == ["regression"]
    assert view.lines() == []


def plan_of(request_bytes: int) -> dict[str, object]:
    return {
        "name": "nightly",
        "scenarios": [RR, STREAM],
        "order": ["off", "on", "off"],
        "request_bytes": request_bytes,
    }


def test_an_edited_plan_begins_a_series_and_is_named(warehouse):
    """Both arms of what it changes fall to 40 %, and nothing is wrong with the platform."""
    smaller = {RR: 0.4}

    def measured(number: int, request_bytes: int) -> int:
        factors = smaller if request_bytes > 80_000 else {}
        plan = plan_of(request_bytes)
        return add_night(warehouse, number, on=factors, off=factors, scenarios=[RR, STREAM], plan=plan)

    last: Nightly | None = None

    def night(number: int, request_bytes: int) -> tuple[int, Night]:
        """Judge a night, every second one with what the one before has in memory."""
        nonlocal last
        run = measured(number, request_bytes)
        last = Nightly(warehouse, run, LIMITS, after=last if number % 2 else None)
        return run, last.judge()

    for number in range(18):
        measured(number, 80_000)
    for number in (18, 19):
        night(number, 80_000)
    for number in range(20, 36):
        run, judged = night(number, 500_000)
        assert states(judged) == {RR: "learning" if number < 34 else "steady", STREAM: "steady"}
        if number in (20, 21, 33):
            history = RunView.from_warehouse(warehouse, run).history
            (line,) = history.lines()
            what = "the plan changed on 2026-03-21: request bytes 80000 → 500000"
            assert line == f"ipv4-rr: {what}; its history is learned anew"
            assert {one.scenario: one.nights for one in history.series}[RR] == number - 19
            # In lists of runs, too.
            assert headlines(warehouse, [run])[run].text.endswith(
                "1 of 2 series still learning since the plan changed on 21 Mar"
            )
    assert RunView.from_warehouse(warehouse, run).history.lines() == []
    assert incidents.open_incidents(warehouse) == []
    # Back on the old terms it goes on from the nights that were measured on them.
    run, judged = night(36, 80_000)
    assert states(judged) == {RR: "steady", STREAM: "steady"}
    (line,) = RunView.from_warehouse(warehouse, run).history.lines()
    assert line.endswith("request bytes 500000 → 80000; its history goes on from the nights on the same terms")


def test_a_changed_plan_ends_no_incident_and_calls_nothing_recovered(after_22_nights):
    warehouse = after_22_nights
    for number in range(22, 27):
        judge(warehouse, number, on=dict.fromkeys(SCENARIO_NAMES, 0.8))
    (before,) = incidents.open_incidents(warehouse)
    assert before.state == "regression"
    plan = {"name": "nightly", "scenarios": list(SCENARIO_NAMES), "order": ["off", "on", "off"], "image": "mine:1"}
    night = judge(warehouse, 27, plan=plan)
    assert set(states(night).values()) == {"learning"}
    assert [one.state for one in incidents.open_incidents(warehouse)] == ["regression"]


def test_runs_by_hand_confirm_nothing_and_are_nobody_s_history(after_22_nights):
    warehouse = after_22_nights
    last = None
    for hour in (1, 2, 3):
        run = add_night(
            warehouse,
            22,
            on=FALL,
            first=FIRST_NIGHT + timedelta(hours=hour),
            run_id=f"by hand {hour}",
            trigger="manual",
            images={"cilium": "quay.io/cilium/cilium:v1.18.3"},
            cilium_config={"routing-mode": "native"},
        )
        last = Nightly(warehouse, run, LIMITS, after=last)
        assert last.due() == []
        assert last.judge() == Night("2026-03-23", (), ())
        assert warehouse.judgements_frame(run).empty
    assert incidents.open_incidents(warehouse) == []
    # They are compared with the last run of their like.
    change = RunView.from_warehouse(warehouse, run).change
    assert change is not None
    assert (change.before_run_id, change.cilium) == ("by hand 2", ())
    assert change.title.startswith("against the last run before: run ")
    night = Nightly(warehouse, add_night(warehouse, 23), LIMITS, after=last).judge()
    assert set(states(night).values()) == {"steady"}
    # A scheduler outside of Airflow says that its runs are nights.
    run = add_night(warehouse, 24, trigger="manual", is_night=True)
    assert Nightly(warehouse, run, LIMITS).judge().judgements != ()


def test_several_runs_of_one_night_count_once_and_the_newest_does(after_22_nights, tmp_path):
    """With what the run before has in memory, and without."""
    warehouse = after_22_nights
    once, chained = (
        Warehouse(f"sqlite:///{copied(warehouse, tmp_path / name)}") for name in ("once.db", "chained.db")
    )
    after = None
    for number in range(22, 28):
        hours = {22: (2,), 24: (0, 1, 2, 3), 27: (2,)}.get(number, (0, 1, 2))
        for hour in hours:
            # The first two of a night are far off, its last one is as usual; the one after it may not be judged.
            factors = {} if hour == 2 else dict.fromkeys(SCENARIO_NAMES, 0.7)
            verdict = "invalid" if hour == 3 else "faster"
            first = FIRST_NIGHT + timedelta(hours=hour)
            runs = [
                add_night(one, number, on=factors, first=first, run_id=f"{number} {hour}", verdict=verdict)
                for one in (warehouse, chained)
            ]
            after = Nightly(chained, runs[1], LIMITS, after=after)
            night = [one.judge().judgements for one in (Nightly(warehouse, runs[0], LIMITS), after)]
            if hour == 3:
                assert night == [(), ()]
            else:
                judged = night
        alone = Nightly(once, add_night(once, number, first=FIRST_NIGHT + timedelta(hours=2)), LIMITS).judge()
        assert judged == [alone.judgements] * 2
        for one in (warehouse, chained):
            assert "regression" not in {incident.state for incident in incidents.open_incidents(one)}
    # Judged again from its values alone, the history is the same.
    for one, run in zip((warehouse, chained), runs, strict=True):
        assert Nightly(one, run, OTHER_LIMITS).judge().judgements == alone.judgements


def test_a_night_that_was_cleared_is_judged_by_what_it_measured_then(after_22_nights, tmp_path):
    """Three nights are worse; measured anew they are not, and no night after them knows what they were."""
    warehouse = after_22_nights
    once = Warehouse(f"sqlite:///{copied(warehouse, tmp_path / 'once.db')}")
    for number in range(22, 25):
        judge(warehouse, number, on=FALL)
    numbers = warehouse.runs_frame(CLUSTER, limit=3)["run_id"].tolist()
    for place, run_id in enumerate(numbers):
        for one in (warehouse, once):
            add_night(one, 25, run_id=run_id, first=FIRST_NIGHT + timedelta(hours=place))
    assert [len(warehouse.attempts(run)) for run in warehouse.runs_frame(CLUSTER, limit=4)["id"]] == [2, 2, 2, 1]
    assert judge(warehouse, 26).judgements == judge(once, 26).judgements
