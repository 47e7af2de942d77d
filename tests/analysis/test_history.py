from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from bigtcp_bench.analysis.detector import Detector, Judgement
from bigtcp_bench.analysis.history import ArmsDetector, EpochLog
from bigtcp_bench.analysis.levels import changed_at, robust_level, two_modes
from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.planning.thresholds import Thresholds


def nights(count: int, seed: int = 1, sd: float = 0.02, level: float = 10.0) -> list[float]:
    return list(level * np.exp(np.random.default_rng(seed).normal(0, sd, count)))


def replay(values: list[float | None], better="higher", scale="log", **thresholds) -> list[Judgement]:
    detector = Detector(Thresholds.model_validate(thresholds), better, scale)
    return [detector.judge(str(night), value) for night, value in enumerate(values)]


def replay_arms(off, on, **fields) -> list[Judgement]:
    detector = ArmsDetector()
    return [detector.judge(str(i), a, b, **fields) for i, (a, b) in enumerate(zip(off, on, strict=True))]


def states(judgements: list[Judgement]) -> list[str]:
    return [judgement.state for judgement in judgements]


def test_learning_then_steady():
    found = states(replay(nights(40, sd=0.01)))
    assert found == ["learning"] * 14 + ["steady"] * 26


@pytest.mark.parametrize(("better", "factor"), [("higher", 0.85), ("lower", 1.18)])
def test_a_lasting_change_for_the_worse_is_a_regression_until_it_recovers(better, factor):
    values = nights(80)
    values[40:60] = [value * factor for value in values[40:60]]
    found = replay(values, better)
    (alarm,) = [judgement for judgement in found if judgement.alarm]
    assert int(alarm.night) <= 43
    assert alarm.since == "40"
    assert alarm.change == pytest.approx(factor - 1, abs=0.04)
    assert set(states(found[int(alarm.night) : 62])) == {"regression"}
    assert (found[62].state, found[62].since) == ("recovered", "60")
    assert found[63].state == "steady"


def test_a_change_for_the_better_is_no_alarm_but_its_loss_is():
    values = nights(90)
    values[40:70] = [value * 1.2 for value in values[40:70]]
    found = replay(values)
    alarms = [int(judgement.night) for judgement in found if judgement.alarm]
    assert len(alarms) == 1
    assert 70 <= alarms[0] <= 74


def test_one_bad_night_is_suspect_and_no_more():
    values = nights(50)
    values[30] *= 0.8
    found = replay(values)
    assert (found[30].state, found[30].since) == ("suspect", "30")
    assert found[30].change == pytest.approx(-0.2, abs=0.05)
    assert "regression" not in states(found)


def test_a_significant_change_below_the_margin_is_no_regression():
    values = nights(80, sd=0.002)
    values[40:] = [value * 0.98 for value in values[40:]]
    assert set(states(replay(values)[14:])) == {"steady"}


def test_rerun_is_due_on_either_side_and_its_median_counts():
    detector = Detector()
    for night, value in enumerate(nights(30)):
        detector.judge(str(night), value)
    assert detector.rerun_due(12.0)
    assert detector.rerun_due(8.0)
    assert not detector.rerun_due(10.2)
    assert not detector.rerun_due(None)
    assert not detector.rerun_due(math.inf)
    judgement = detector.judge("30", 8.0, reruns=[9.9, 10.1])
    assert judgement.state == "steady"
    assert judgement.change == pytest.approx(-0.01, abs=0.02)


def test_no_rerun_while_learning():
    assert not Detector().rerun_due(1.0)


def test_a_lasting_regression_becomes_the_new_normal():
    values = nights(60) + nights(120, seed=2, level=8.0)
    found = replay(values, new_normal_nights=30)
    alarm = next(int(judgement.night) for judgement in found if judgement.alarm)
    assert states(found)[alarm] == "regression"
    assert found[-1].state == "steady"
    assert found[-1].change == pytest.approx(0, abs=0.1)
    assert sum(judgement.alarm for judgement in found) == 1


def test_constant_values_are_judged_by_the_least_spread():
    found = replay([10.0] * 30 + [9.0] * 5)
    assert "regression" in states(found)
    assert set(states(replay([10.0] * 30 + [9.99] * 30)[14:])) == {"steady"}


def test_a_total_loss_is_a_fall_by_everything():
    found = replay([*nights(30), 0.0, 0.0, 0.0])
    assert found[30].state == "suspect"
    assert found[-1].state == "regression"
    assert found[-1].change == pytest.approx(-1)


def test_linear_scale_where_zero_is_ordinary():
    values = [0.0, 1.0, 0.0, 2.0, 0.0, 0.0, 1.0, 3.0] * 4
    found = replay([*values, 20.0, 22.0, 19.0, 21.0, 20.0], "lower", scale=None)
    assert "regression" in states(found)
    assert "regression" not in states(found[:32])


@given(seed=st.integers(0, 500), gaps=st.lists(st.integers(0, 69), max_size=25), shift=st.floats(-0.2, 0.2))
@settings(max_examples=40)
def test_a_missing_night_never_raises_an_alarm(seed, gaps, shift):
    values: list[float | None] = nights(70, seed, sd=0.03)
    values[40:] = [value * (1 + shift) for value in values[40:]]
    for gap in gaps:
        values[gap] = None if gap % 2 else math.nan
    found = replay(values)
    without = replay([value for value in values if value is not None and not math.isnan(value)])
    assert [
        j.state for j, value in zip(found, values, strict=True) if value == value and value is not None
    ] == states(without)
    for gap in gaps:
        assert not found[gap].alarm
        assert found[gap].state in ("learning", "steady", "regression")
        if found[gap].state == "regression":
            assert found[gap - 1].state == "regression"


@given(seed=st.integers(0, 500), factor=st.floats(1e-9, 1e9), scale=st.sampled_from(["log", "linear"]))
@settings(max_examples=30)
def test_scaling_units_never_changes_a_state(seed, factor, scale):
    values = nights(70, seed, sd=0.03)
    values[40:55] = [value * 0.9 for value in values[40:55]]
    before, after = replay(values, scale=scale), replay([value * factor for value in values], scale=scale)
    assert states(before) == states(after)
    assert [judgement.since for judgement in before] == [judgement.since for judgement in after]


@given(seed=st.integers(0, 500), cut=st.integers(1, 99))
@settings(max_examples=12)
def test_carrying_the_state_equals_a_replay(seed, cut):
    off, on = nights(100, seed), nights(100, seed + 1000, level=20.0)
    on[50:70] = [value * 0.85 for value in on[50:70]]
    environments = [{"cilium": "1.18" if night < 50 else "1.19"} for night in range(100)]
    whole, first = ArmsDetector(), ArmsDetector()
    expected = [whole.judge(str(i), off[i], on[i], environment=environments[i]) for i in range(100)]
    found = [first.judge(str(i), off[i], on[i], environment=environments[i]) for i in range(cut)]
    second = ArmsDetector.from_dict(json.loads(json.dumps(first.to_dict())))
    found += [second.judge(str(i), off[i], on[i], environment=environments[i]) for i in range(cut, 100)]
    assert found == expected


@pytest.mark.parametrize(
    ("off_factor", "on_factor", "blamed"),
    [(1.0, 0.85, "big-tcp"), (0.85, 0.85, "platform"), (0.9, 0.7, "platform"), (1.0, 1.0, None), (1.2, 1.0, None)],
)
def test_what_moved_is_to_blame(off_factor, on_factor, blamed):
    off, on = nights(80, 1), nights(80, 12, level=20.0)
    off[40:] = [value * off_factor for value in off[40:]]
    on[40:] = [value * on_factor for value in on[40:]]
    alarms = [judgement for judgement in replay_arms(off, on) if judgement.alarm]
    assert [judgement.attribution for judgement in alarms] == ([blamed] if blamed else [])
    assert all(abs(int(judgement.since) - 40) <= 2 for judgement in alarms)


@pytest.mark.parametrize(("off_factor", "blamed"), [(1.0, "big-tcp"), (0.85, "platform")])
@pytest.mark.parametrize("gap", [(None, None), (None, 20.0), (10.0, math.nan), (0.0, 20.0)])
def test_a_night_without_a_pair_goes_on_with_what_was_before(off_factor, blamed, gap):
    pairs = list(zip(nights(80, 1), nights(80, 12, level=20.0), strict=True))
    pairs[40:60] = [(off * off_factor, on * 0.85) for off, on in pairs[40:60]]
    expected = replay_arms(*zip(*pairs, strict=True))
    for at in (70, 50, 30, 5):
        pairs.insert(at, gap)
    found = replay_arms(*zip(*pairs, strict=True))
    missing = [found.pop(at) for at in (73, 52, 31, 5)]
    assert states(missing) == ["steady", "regression", "steady", "learning"]
    before = next(one for one in found if one.night == "51")
    assert [one.since for one in missing] == [None, before.since, None, None]
    assert [one.attribution for one in missing] == [None, blamed, None, None]
    assert [(one.state, one.change, one.alarm, one.attribution) for one in found] == [
        (one.state, one.change, one.alarm, one.attribution) for one in expected
    ]
    assert [one.attribution for one in found if one.state == "recovered"] == [blamed]


def test_what_changed_within_three_nights_coincides():
    for changed in (1, 10):
        log = EpochLog()
        for night in range(20):
            log.note(str(night), {"cilium": "1.19" if night >= changed else "1.18"})
        near = [night for night in range(20) if log.near(str(night))]
        assert near == list(range(max(0, changed - 3), changed + 4))
    assert log.near("long ago") == {}


def test_an_improved_baseline_is_named_but_is_no_regression():
    off, on = nights(80, 1), nights(80, 12, level=20.0)
    off[40:] = [value * 1.2 for value in off[40:]]
    found = replay_arms(off, on)
    assert "regression" not in states(found)
    assert [judgement.attribution for judgement in found].count("off-improved") == 1


@pytest.mark.parametrize("on_factor", [0.85, 0.7])
def test_a_fallen_control_is_the_infrastructure(on_factor):
    off, on, control = nights(80, 1), nights(80, 12, level=20.0), nights(80, 3)
    detector = ArmsDetector()
    found = []
    for i in range(80):
        factors = (0.85, on_factor, 0.85) if i >= 40 else (1.0, 1.0, 1.0)
        night = [arm[i] * factor for arm, factor in zip((off, on, control), factors, strict=True)]
        found.append(detector.judge(str(i), *night[:2], control=night[2]))
    (alarm,) = [judgement for judgement in found if judgement.alarm]
    assert alarm.attribution == "infrastructure"


@pytest.mark.parametrize(
    ("off", "on", "control", "blamed"),
    [
        # Off moves by 1 %, which is less than the margin.
        (101.0, 150.0, 100.0, "big-tcp"),
        (110.0, 150.0, 100.0, "platform"),
        (110.0, 150.0, 70.0, "infrastructure"),
        (110.0, 150.0, 130.0, "platform"),
        (80.0, 100.0, 100.0, "off-improved"),
        (80.0, 125.0, 100.0, "big-tcp"),
    ],
)
def test_where_less_is_better_and_zero_ordinary_what_moved_is_to_blame(off, on, control, blamed):
    detector = ArmsDetector(better="lower", scale="linear")
    pairs = [(100.0, 100.0, 100.0)] * 40 + [(off, on, control)] * 10
    found = [detector.judge(str(night), *pair[:2], control=pair[2]) for night, pair in enumerate(pairs)]
    assert {one.attribution for one in found} == {None, blamed}


def test_what_befalls_both_arms_of_a_night_cancels():
    random = np.random.default_rng(5)
    mood = np.exp(random.normal(0, 0.15, 120))
    off = mood * np.exp(random.normal(0, 0.01, 120))
    on = 2 * mood * np.exp(random.normal(0, 0.01, 120))
    assert "regression" not in states(replay_arms(list(off), list(on)))


def test_a_platform_that_recovers():
    off, on = nights(90, 1), nights(90, 12, level=20.0)
    off[40:60] = [value * 0.8 for value in off[40:60]]
    on[40:60] = [value * 0.8 for value in on[40:60]]
    found = states(replay_arms(off, on))
    assert "regression" in found[40:50]
    assert "recovered" in found[60:64]
    assert set(found[66:]) == {"steady"}


def test_epochs_are_marked_and_not_reset():
    off, on = nights(60, 1), nights(60, 12, level=20.0)
    on[40:] = [value * 0.85 for value in on[40:]]
    detector = ArmsDetector()
    found = [
        detector.judge(str(i), off[i], on[i], environment={"cilium": "1.18" if i < 41 else "1.19", "nic": None})
        for i in range(60)
    ]
    assert [judgement.night for judgement in found if judgement.epoch] == ["41"]
    assert found[41].epoch == {"cilium": ("1.18", "1.19")}
    (alarm,) = [judgement for judgement in found if judgement.alarm]
    assert alarm.coincides_with == {"cilium": ("1.18", "1.19")}
    assert "learning" not in states(found[14:])


def test_few_false_alarms_and_prompt_true_ones():
    alarms, judged, delays = 0, 0, []
    for seed in range(60):
        found = replay(nights(94, seed, sd=0.03))
        alarms += sum(judgement.alarm for judgement in found)
        judged += 80
        values = nights(94, seed + 500, sd=0.03)
        values[54:] = [value * 0.9 for value in values[54:]]
        late = [int(judgement.night) - 53 for judgement in replay(values) if judgement.alarm]
        delays.append(next((delay for delay in late if delay > 0), 99))
    assert alarms / judged < 0.003
    assert np.median(delays) <= 3


def test_level_and_spread_withstand_outliers():
    values = nights(60, sd=0.03)
    centre, sd = robust_level([math.log(value) for value in values])
    spoilt, spoilt_sd = robust_level([math.log(value) for value in values[:57]] + [0.0, 0.1, -0.5])
    assert spoilt == pytest.approx(centre, abs=0.01)
    assert spoilt_sd < 1.5 * sd


def test_nights_between_two_levels_are_no_two_modes():
    """As many of them as a level must have, 15 % of all."""
    to_and_fro = [0.0, 10.0] * 20
    border, gap = two_modes([*to_and_fro, *[4.9] * 7], 1.0)
    assert (round(border), gap) == (5, 10)
    assert two_modes([*to_and_fro, *[4.9] * 8], 1.0) is None
    assert two_modes(to_and_fro, 10.1) is None


def test_two_levels_are_told_apart_beyond_four_and_a_half_standard_errors():
    values = [-1.0, 1.0, 0.0, -1.0, 1.0, 0.0]
    later = [-1.0, 1.0, 0.0, 0.0]
    # By the mean absolute deviation, with two degrees of freedom less than nights.
    error = 1.2533 * (4 + 2) / (10 - 2) * math.sqrt(1 / 6 + 1 / 4)
    for share, at in ((0.99, None), (1.01, 6)):
        assert changed_at([*values, *(value + share * 4.5 * error for value in later)], 0.0, 0.0) == at
    assert changed_at([*values, *(value + 9.0 for value in later)], 8.9, 0.0) == 6
    assert changed_at([*values, *(value + 9.0 for value in later)], 9.1, 0.0) is None


def test_a_few_retransmits_after_quiet_nights_are_no_alarm_but_many_are():
    floor = METRICS["retransmits_per_gb"].floor
    assert floor > 0
    quiet = ArmsDetector(better="lower", scale="linear", floor=floor)
    for night in range(30):
        assert quiet.judge(f"n{night:03}", 0.0, 0.0).state in ("learning", "steady")
    assert not quiet.rerun_due(0.0, 3.0)
    assert quiet.judge("n030", 0.0, 3.0).state == "steady"
    assert quiet.rerun_due(0.0, 5_000.0)
    assert quiet.judge("n031", 0.0, 5_000.0).state == "suspect"


def test_a_regression_that_stays_becomes_the_usual_level_and_is_told_as_that():
    values = nights(40) + [value * 0.8 for value in nights(110, seed=2)]
    found = replay(values)
    (new,) = [judgement for judgement in found if judgement.event == "new-normal"]
    assert 127 <= int(new.night) <= 134
    assert (new.state, new.since) == ("regression", "40")
    assert new.change == pytest.approx(-0.2, abs=0.02)
    assert "recovered" not in states(found)
    assert set(states(found[int(new.night) + 1 :])) == {"steady"}


def test_what_half_recovers_stays_open_with_its_new_size():
    values = nights(100, sd=0.015)
    values[40:60] = [value * 0.8 for value in values[40:60]]
    values[60:] = [value * 0.91 for value in values[60:]]
    found = replay(values)
    assert set(states(found[43:])) == {"regression"}
    (eased,) = [judgement for judgement in found if judgement.event == "eased"]
    assert 62 <= int(eased.night) <= 66
    assert eased.change == pytest.approx(-0.09, abs=0.02)
    assert found[-1].change == pytest.approx(-0.09, abs=0.015)


@pytest.mark.parametrize(
    ("level", "ended", "eased"),
    [
        # Within half of the margin (3 %) three nights must do, within the margin and its error ten.
        (0.99, 3, None),
        (0.98, 10, None),
        (0.97, None, 10),
        (0.96, None, 3),
    ],
)
def test_how_near_to_usual_is_recovered_and_after_how_many_nights(level, ended, eased):
    values = nights(80, sd=0.004)
    values[40:60] = [value * 0.8 for value in values[40:60]]
    values[60:] = [value * level for value in values[60:]]
    found = replay(values)[60:]
    assert [night for night, one in enumerate(found, 1) if one.state == "recovered"] == ([ended] if ended else [])
    assert [night for night, one in enumerate(found, 1) if one.event == "eased"] == ([eased] if eased else [])


def test_a_night_is_as_far_off_as_the_t_distribution_of_the_nights_before_says():
    known, values = Detector(), nights(14)
    for night, value in enumerate(values):
        known.judge(str(night), value)
    centre, sd = robust_level([math.log(value) for value in values])
    for share in (-6, -3, -1, 0.5, 2, 4):
        found = Detector.from_dict(known.to_dict()).judge("14", math.exp(centre + share * sd))
        expected = special.ndtri(special.stdtr(13, share / math.sqrt(1 + 1 / 14)))
        assert found.sds == pytest.approx(expected, rel=0.003)


def test_a_second_drop_is_an_event_of_its_own_and_so_is_a_third():
    values = nights(110, sd=0.015)
    for at, factor in ((40, 0.9), (60, 0.7), (80, 0.5)):
        values[at:] = [value * factor / (1 if at == 40 else {60: 0.9, 80: 0.7}[at]) for value in values[at:]]
    found = replay(values)
    worse = [judgement for judgement in found if judgement.event == "worse"]
    assert [judgement.since for judgement in worse] == ["60", "80"]
    assert all(int(judgement.night) - int(judgement.since) <= 3 for judgement in worse)
    assert sum(judgement.alarm for judgement in found) == 1
    assert found[-1].change == pytest.approx(-0.5, abs=0.03)


@pytest.mark.parametrize("at", range(5, 14))
def test_a_change_within_the_learning_nights_is_dated_rightly(at):
    values = nights(40, sd=0.006)
    values[at:] = [value * 0.88 for value in values[at:]]
    found = replay(values)
    assert set(states(found[:14])) == {"learning"}
    (alarm,) = [judgement for judgement in found if judgement.alarm]
    assert int(alarm.night) <= 16
    assert abs(int(alarm.since) - at) <= 1
    assert alarm.change == pytest.approx(-0.12, abs=0.01)


def test_an_improvement_within_the_learning_nights_is_the_usual_level():
    values = nights(60, sd=0.006)
    values[8:] = [value * 1.15 for value in values[8:]]
    values[40:] = [value * 0.9 for value in values[40:]]
    found = replay(values)
    (alarm,) = [judgement for judgement in found if judgement.alarm]
    assert abs(int(alarm.since) - 40) <= 1


def between_two_modes(seed: int, count: int = 365, gap: float = 0.4, stay: float = 0.88) -> list[float]:
    random = np.random.default_rng(seed)
    low = np.cumsum(random.random(count) > stay) % 2 == 1
    return list(200 * np.exp(random.normal(0, 0.02, count)) * np.where(low, 1 - gap, 1.0))


@pytest.mark.parametrize("seed", range(5))
def test_two_modes_are_said_and_are_no_regressions(seed):
    found = replay(between_two_modes(seed), scale=None)
    said = [int(judgement.night) for judgement in found if judgement.event == "two-modes"]
    assert said
    assert sum(judgement.alarm for judgement in found) <= 3
    # Two falls are regressions that recover; from the third on it is known.
    assert sum(judgement.alarm for judgement in found[said[0] :]) <= 1


def test_a_fall_of_both_modes_is_seen():
    values = between_two_modes(1, 200)
    values[150:] = [value * 0.88 for value in values[150:]]
    late = [judgement for judgement in replay(values)[150:] if judgement.alarm]
    assert late
    assert int(late[0].night) <= 156
    assert late[0].since == "150"


def test_nights_that_stay_at_the_better_mode_have_one_level_again():
    late = nights(220, seed=9, level=200.0)
    found = replay([*between_two_modes(2, 200), *late, *(value * 0.9 for value in late[:4])])
    said = [int(one.night) for one in found if one.event == "two-modes"]
    assert 340 <= said[-1] <= 380, "a hundred and eighty nights are looked at"
    assert [one.since for one in found[200:] if one.alarm] == ["420"]


def test_staying_in_the_worse_mode_for_good_is_a_regression():
    values = [*between_two_modes(1, 150), *(value * 0.6 for value in nights(110, seed=9, level=200.0))]
    late = [judgement for judgement in replay(values)[150:] if judgement.alarm]
    assert late
    assert late[0].change == pytest.approx(-0.4, abs=0.03)


@pytest.mark.parametrize("seed", range(20))
def test_a_step_or_two_are_never_two_modes(seed):
    values = nights(90, seed, sd=0.03)
    values[20 + seed :] = [value * 0.8 for value in values[20 + seed :]]
    values[50 + seed :] = [value * 0.8 for value in values[50 + seed :]]
    assert "two-modes" not in {judgement.event for judgement in replay(values)}


def test_a_platform_that_gets_worse_and_stays_there_is_told_as_that():
    off, on = nights(220, 1), nights(220, 12, level=20.0)
    for arm in (off, on):
        arm[40:] = [value * 0.85 for value in arm[40:]]
        arm[70:] = [value * 0.85 for value in arm[70:]]
    found = replay_arms(off, on)
    events = [(judgement.event, judgement.since, judgement.attribution) for judgement in found if judgement.event]
    assert events == [("worse", "70", "platform"), ("new-normal", "70", "platform")]
    assert "recovered" not in states(found)
    assert sum(judgement.alarm for judgement in found) == 1


def test_both_arms_that_fall_by_a_tenth_are_seen_within_days():
    delays = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        mood = random.normal(0, 0.03, 94)
        mood[54:] += math.log(0.9)
        off, on = (10 * np.exp(mood + random.normal(0, 0.02, 94)) for _ in range(2))
        found = replay_arms(list(off), list(on))
        late = [judgement for judgement in found[54:] if judgement.alarm and judgement.attribution == "platform"]
        delays.append(int(late[0].night) - 53 if late else 99)
    assert np.median(delays) <= 4
