from datetime import date

import pytest

from bigtcp_bench.report.headline import Gain, Outcome, headline, moved_text
from bigtcp_bench.report.history import SeriesView
from bigtcp_bench.report.outcomes import headlines
from bigtcp_bench.report.view import RunView
from bigtcp_bench.warehouse import incidents
from tests.support.nights import add_night

THROUGHPUT = ("ipv4-stream-1", "throughput_bps")
NIGHT = date(2026, 11, 28)


def series(name=THROUGHPUT, state="regression", change=-0.093, since="2026-11-09", **fields):
    return SeriesView(*name, state, change, since, "big-tcp", **{"nights": 60} | fields)


def outcome(**fields):
    return Outcome(**{"status": "valid", "night": NIGHT, "verdicts": {"faster": 27, "inconclusive": 4}} | fields)


def test_a_regression_comes_first_then_whether_it_helps():
    told = headline(
        outcome(
            series=[series(("ipv4-stream-1", "cpu_s_per_gb_sender"), change=0.3), series()],
            gains={THROUGHPUT: Gain(0.41, 0.28)},
        )
    )
    assert told.text == (
        "VALID · regression since 9 Nov: ipv4-stream-1 throughput, gain fell from +41 % to +28 % (and 1 more) · "
        "helps 27, worse 0, unchanged 0, too noisy 4"
    )


def test_a_quiet_night_says_that_nothing_got_worse_and_a_learning_one_does_not():
    usual = series(state="steady", since=None)
    assert headline(outcome(series=[usual])).text.endswith(
        "too noisy 4 · nothing got worse since the nights before"
    )
    learning = series(state="learning", since=None, nights=3)
    assert headline(outcome(series=[learning], learning_nights=14)).rest[-1] == (
        "learning what is usual: 3 of 14 nights"
    )
    assert headline(outcome(series=[usual, learning])).rest[-1] == (
        "nothing got worse since the nights before, 1 of 2 series still learning"
    )


def test_what_is_worse_with_big_tcp_is_named_its_main_metric_first():
    worse = [("ipv6-rr", "latency_p99_us"), ("ipv6-rr", "transactions_per_s")]
    told = headline(outcome(verdicts={"faster": 1, "slower": 2, "equivalent": 1, "invalid": 3}, worse=worse))
    assert told.text == (
        "VALID · helps 1, worse 2 (ipv6-rr transactions and 1 more), unchanged 1, too noisy 0, not judged 3"
    )


@pytest.mark.parametrize("status", ["invalid", "failed"])
def test_a_run_without_verdict_says_why(status):
    assert headline(outcome(status=status, reasons=("node2 was rebooted", "b"))).text == (
        f"{status.upper()} · node2 was rebooted (and 1 more)"
    )


def test_an_unverified_restore_comes_before_everything_with_what_to_do_and_says_nothing_twice():
    told = headline(outcome(restore_failed=True, restore_detail="node2 differs"))
    assert told.text.startswith("RESTORE NOT VERIFIED · node2 differs · first run the DAG bigtcp_restore")
    assert told.text.endswith("the run itself: VALID · helps 27, worse 0, unchanged 0, too noisy 4")
    failed = outcome(
        status="failed",
        reasons=("restore_config: node2 differs",),
        restore_failed=True,
        restore_detail="node2 differs",
    )
    assert headline(failed).text.endswith("the run itself: FAILED")
    assert headline(failed).text.count("node2 differs") == 1


def test_regressions_of_several_nights_are_told_the_newest_first_and_known_ones_with_who_knows():
    other = series(("ipv6-rr", "transactions_per_s"), change=-0.2, since="2025-12-30")
    told = headline(outcome(series=[other, series()], known={THROUGHPUT: "kim"})).needs
    assert told[0].startswith("regression known to kim since 9 Nov: ipv4-stream-1 throughput")
    assert told[1] == "regression since 30 Dec 2025: ipv6-rr transactions −20.0 %"


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ("worse", "regression since 9 Nov (got worse): "),
        ("eased", "regression since 9 Nov (better, but not as usual again): "),
        ("new-normal", "regression since 9 Nov (from now on this is the usual level): "),
        (None, "regression since 9 Nov: "),
    ],
)
def test_what_befell_an_open_regression_tonight_is_said(event, words):
    (told,) = headline(outcome(series=[series(event=event)])).needs
    assert told == f"{words}ipv4-stream-1 throughput −9.3 %"


def test_two_modes_and_an_edited_plan_are_said_and_are_no_regressions():
    modes = [
        series(name, "steady", since=None, event="two-modes")
        for name in (THROUGHPUT, ("ipv6-rr", "transactions_per_s"))
    ]
    told = headline(outcome(series=modes))
    assert told.needs == ()
    assert told.rest[-1] == (
        "nothing got worse since the nights before, two modes: ipv4-stream-1 throughput (and 1 more)"
    )
    edited = series(state="learning", since=None, nights=3, plan_changed_on="2026-11-25")
    told = headline(outcome(series=[edited], learning_nights=14))
    assert told.needs == ()
    assert told.rest[-1] == "learning what is usual: 3 of 14 nights since the plan changed on 25 Nov"


@pytest.mark.parametrize(
    ("metric", "change", "attribution", "gain", "words"),
    [
        ("throughput_bps", -0.1, "platform", Gain(0.4, 0.4), "throughput fell by 10 % in both arms"),
        ("cpu_s_per_gb_sender", 0.05, "platform", None, "CPU sender rose by 5.0 % in both arms"),
        ("cpu_s_per_gb_sender", 0.2, "big-tcp", Gain(0.26, 0.05), "CPU sender, gain fell from +26 % to +5.0 %"),
        ("throughput_bps", -0.1, "big-tcp", Gain(0.02, -0.12), "throughput, gain fell from +2.0 % to −12 %"),
        ("throughput_bps", -0.1, "big-tcp", None, "throughput −10.0 %"),
        # Tonight alone looks as before; the newest nights together do not.
        ("throughput_bps", -0.1, "big-tcp", Gain(0.4, 0.42), "throughput −10.0 % of its usual level"),
    ],
)
def test_how_a_series_got_worse(metric, change, attribution, gain, words):
    assert moved_text(("ipv4-stream-1", metric), change, attribution, gain) == f"ipv4-stream-1 {words}"


def test_a_list_of_runs_says_the_same_as_each_run(warehouse):
    from bigtcp_bench.judging.night import Nightly
    from bigtcp_bench.planning.thresholds import Thresholds

    numbers: list[int] = []
    judged = None
    for night in range(30):
        numbers.append(add_night(warehouse, night, on={"ipv4-stream-1": 0.8} if night >= 24 else None))
        judged = Nightly(warehouse, numbers[-1], Thresholds.model_validate({}), after=judged)
        judged.judge()
    numbers.append(add_night(warehouse, 30))
    warehouse.finish_run(numbers[-1], "failed", ["node2 is not ready"])
    numbers.append(
        add_night(
            warehouse,
            31,
            is_aa=True,
            plan={"scenarios": ["ipv4-stream-1", "ipv6-stream-1", "ipv4-rr"], "order": ["off", "off"]},
        )
    )
    (found,) = incidents.open_incidents(warehouse)
    incidents.acknowledge(warehouse, found.id, by="kim")
    texts = {number: one.text for number, one in headlines(warehouse, numbers).items()}
    # While it was learning, as usual, and whatever came then.
    for number in (numbers[0], numbers[13], numbers[14], *numbers[23:]):
        assert texts[number] == RunView.from_warehouse(warehouse, number).headline.text
    assert (
        "regression known to kim since 25 Mar: ipv4-stream-1 throughput, gain fell from +51 % to +2" in texts[30]
    )
    assert texts[31] == "FAILED · node2 is not ready"


@pytest.mark.parametrize(("stored", "told"), [("2026-03-01", True), ("a b", False), ({"ü": [None]}, False)])
def test_lists_leave_a_day_out_that_is_none(warehouse, stored, told):
    number = add_night(warehouse, 0)
    details = {"nights": 3, "plan_changed": {"on": stored}}
    row = {"scenario": "ipv4-rr", "metric": "transactions_per_s", "state": "learning", "details": details}
    warehouse.store_judgements(number, [row])
    for text in (
        headlines(warehouse, [number])[number].text,
        RunView.from_warehouse(warehouse, number).headline.text,
    ):
        assert ("since the plan changed on" in text) == told
