"""How often ``history`` is wrong across nights, and how soon it is right: false alarms, delays, attribution.

Usage: python -m simulations.across_nights [--null 600] [--shifts 1000] [--seed 1] [--processes 2]
"""

from __future__ import annotations

import argparse
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pool
from typing import Any

import numpy as np

from bigtcp_bench.analysis.history import ArmsDetector, Detector, Judgement
from bigtcp_bench.plan import Thresholds
from simulations.document import replace_section, table

#: Nights of one series (80 of them judged), and the night of the change where there is one.
NIGHTS = 94
CHANGE = 54
SD = 0.03
SERIES_OF_A_CLUSTER = 24

#: Share of nights that are 15 % low in the model "bad nights", and how often the cause is still there when the
#: night is measured again.
BAD_SHARE = 0.04
BAD_SIZE = math.log(0.85)
PERSISTS = 0.5

MODELS = ("Gaussian", "bad nights", "autocorrelated")


def autoregressive(random: np.random.Generator, count: int, sd: float, phi: float) -> np.ndarray:
    """Return a stationary series of standard deviation ``sd`` and lag-1 autocorrelation ``phi``."""
    values = np.empty(count)
    values[0] = random.normal(0, sd)
    steps = random.normal(0, sd * math.sqrt(1 - phi**2), count)
    for index in range(1, count):
        values[index] = phi * values[index - 1] + steps[index]
    return values


def make_nights(model: str, random: np.random.Generator, reruns: bool) -> np.ndarray:
    """Return log values, one row per night: the night's own, and with ``reruns`` two repetitions of it.

    Half of the variance belongs to the night and is there in its repetitions too. "Autocorrelated" is a lag-1
    autocorrelation of 0.5 of the whole or, with repetitions, of 0.7 of the night's half.
    """
    columns = 3 if reruns else 1
    half = SD / math.sqrt(2)
    if model == "autocorrelated" and not reruns:
        return autoregressive(random, NIGHTS, SD, 0.5)[:, None]
    night = autoregressive(random, NIGHTS, half, 0.7 if model == "autocorrelated" else 0.0)
    values = night[:, None] + random.normal(0, half, (NIGHTS, columns))
    if model == "bad nights":
        bad = random.random(NIGHTS) < BAD_SHARE
        stays = np.ones((NIGHTS, columns), dtype=bool)
        stays[:, 1:] = (random.random(NIGHTS) < PERSISTS)[:, None]
        values = values + np.where(bad[:, None] & stays, BAD_SIZE, 0.0)
    return values


@dataclass
class Tally:
    """What was seen over many series."""

    nights: int = 0
    alarms: int = 0
    repeated: int = 0
    delays: list[int] = field(default_factory=list)
    since_errors: list[int] = field(default_factory=list)
    recoveries: list[int] = field(default_factory=list)
    blamed: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Add the counts of ``other``."""
        self.nights += other.nights
        self.alarms += other.alarms
        self.repeated += other.repeated
        self.delays += other.delays
        self.since_errors += other.since_errors
        self.recoveries += other.recoveries
        self.blamed += other.blamed

    def take(self, judgements: Sequence[Judgement], changed: bool, ends: int | None = None) -> None:
        """Count one series; ``changed`` says whether its level fell on night CHANGE, until night ``ends``."""
        self.nights += sum(judgement.state != "learning" for judgement in judgements)
        alarms = [int(judgement.night) for judgement in judgements if judgement.alarm]
        self.alarms += len(alarms)
        late = [night for night in alarms if night >= CHANGE]
        if changed:
            self.delays.append(late[0] - CHANGE + 1 if late else NIGHTS)
        if changed and late:
            judgement = judgements[late[0]]
            self.since_errors.append(abs(int(judgement.since or 0) - CHANGE))
            self.blamed[judgement.attribution or "?"] += 1
        if ends is not None and late:
            recovered = [int(j.night) for j in judgements if j.state == "recovered" and int(j.night) >= ends]
            self.recoveries.append(recovered[0] - ends + 1 if recovered else NIGHTS)

    def false_alarms(self) -> str:
        """Return alarms per judged night with its standard error."""
        rate = self.alarms / self.nights
        return f"{rate:.4f} ± {math.sqrt(max(self.alarms, 1)) / self.nights:.4f}"

    def delay(self) -> str:
        """Return median and 90th percentile of the nights to an alarm, the night of the change being the first."""
        return f"{_nights(np.median(self.delays))} / {_nights(np.percentile(self.delays, 90))}"

    def within(self, nights: int) -> str:
        """Return the share of changes detected within ``nights``."""
        return f"{np.mean(np.array(self.delays) <= nights):.2f}"


def _nights(value: Any) -> str:
    return f"{value:.0f}" if value <= NIGHTS - CHANGE else f"> {NIGHTS - CHANGE}"


def one_series(work: tuple[str, float, bool, dict[str, Any], list[int], int]) -> Tally:
    """Return the tally of ``count`` series of one model, judged by ``Detector`` with the given thresholds."""
    model, drop, reruns, fields, seed, count = work
    random = np.random.default_rng(seed)
    thresholds = Thresholds.model_validate(fields)
    tally = Tally()
    for _ in range(count):
        logs = make_nights(model, random, reruns)
        logs[CHANGE:] += math.log1p(-drop)
        detector = Detector(thresholds)
        judgements = []
        for night, row in enumerate(np.exp(logs)):
            repeated = reruns and detector.rerun_due(row[0])
            tally.repeated += repeated
            judgements.append(detector.judge(str(night), row[0], row[1:].tolist() if repeated else ()))
        tally.take(judgements, drop > 0)
    return tally


def recovery(work: tuple[float, list[int], int]) -> Tally:
    """Return the tally of ``count`` series that fall and come back 20 nights later."""
    drop, seed, count = work
    random = np.random.default_rng(seed)
    tally = Tally()
    for _ in range(count):
        logs = make_nights("Gaussian", random, False)
        logs[CHANGE : CHANGE + 20] += math.log1p(-drop)
        detector = Detector()
        tally.take([detector.judge(str(i), row[0]) for i, row in enumerate(np.exp(logs))], True, CHANGE + 20)
    return tally


def both_arms(work: tuple[str, float, float, str, list[int], int]) -> Tally:
    """Return the tally of ``count`` pairs of series whose nights share the platform's mood."""
    model, mood_sd, arm_sd, what, seed, count = work
    random = np.random.default_rng(seed)
    fall = math.log(0.9)
    shifts = {"nothing": (0.0, 0.0), "on": (0.0, fall), "both": (fall, fall), "off up": (-fall, 0.0)}
    tally = Tally()
    for _ in range(count):
        mood = autoregressive(random, NIGHTS, mood_sd, 0.5 if model == "autocorrelated" else 0.0)
        off, on = (mood + random.normal(0, arm_sd, NIGHTS) for _ in range(2))
        off[CHANGE:] += shifts[what][0]
        on[CHANGE:] += shifts[what][1]
        detector = ArmsDetector()
        judgements = [
            detector.judge(str(night), math.exp(a), 1.8 * math.exp(b))
            for night, (a, b) in enumerate(zip(off, on, strict=True))
        ]
        tally.take(judgements, what != "nothing")
    return tally


class Runner:
    """Spreads series over processes; every call has seeds of its own, made from ``seed``."""

    def __init__(self, processes: int, seed: int) -> None:
        self.processes, self.seed, self.calls = processes, seed, 0
        self.pool = Pool(processes, initializer=os.nice, initargs=(10,))

    def __call__(self, function: Callable[[Any], Tally], fields: Sequence[Any], count: int) -> Tally:
        """Return the tally of ``count`` series of ``function``, called with ``fields``, a seed and a count."""
        self.calls += 1
        each = math.ceil(count / self.processes)
        work = [(*fields, [self.seed, self.calls, index], each) for index in range(self.processes)]
        total = Tally()
        for tally in self.pool.map(function, work):
            total.add(tally)
        return total


RULES: tuple[tuple[str, dict[str, Any], bool], ...] = (
    ("as shipped (k 0.8, h 4.2, nights count at most 2.5)", {}, False),
    ("as shipped, with re-runs", {}, True),
    ("k 0.8, h 5, nights count at most 3", {"cusum_limit": 5.0, "cusum_clip": 3.0}, False),
    ("k 0.8, h 5, at most 3, with re-runs", {"cusum_limit": 5.0, "cusum_clip": 3.0}, True),
    ("k 0.8, h 6, at most 2.5", {"cusum_limit": 6.0}, False),
    ("as shipped, and Otava must agree", {"use_otava": True}, False),
)


def main() -> None:
    """Run all cases and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--null", type=int, default=600, help="series without a change per number")
    parser.add_argument("--shifts", type=int, default=1000, help="series with a change per number")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    run = Runner(options.processes, options.seed)

    rows = []
    for label, fields, reruns in RULES:
        # Otava takes milliseconds a call, so its row stands on fewer series.
        share = 3 if fields.get("use_otava") else 1
        for model in MODELS:
            null = run(one_series, (model, 0.0, reruns, fields), options.null // share)
            five, ten = (
                run(one_series, (model, drop, reruns, fields), options.shifts // share) for drop in (0.05, 0.10)
            )
            month = 30 * SERIES_OF_A_CLUSTER * null.alarms / null.nights
            rows.append(
                [
                    label,
                    model,
                    null.false_alarms(),
                    f"{null.nights:,}",
                    f"{month:.1f}",
                    five.delay(),
                    five.within(7),
                    ten.delay(),
                    ten.within(3),
                    f"{np.mean(np.array(ten.since_errors) <= 1):.2f}",
                    f"{100 * null.repeated / null.nights:.1f} %" if reruns else "",
                ]
            )
            print(rows[-1], flush=True)
    header = ["rule", "nights are", "false alarms per night", "judged nights", "per month, 24 series"]
    header += ["5 %: median / p90", "within 7", "10 %: median / p90", "within 3", "since right ±1", "re-run"]
    note = f"\n\nSeed {options.seed}; {options.shifts} series with a change per number."
    replace_section("across-nights", table(header, rows) + note)

    rows = []
    for drop in (0.05, 0.10, 0.20):
        tally = run(recovery, (drop,), options.shifts)
        values = np.array(tally.recoveries)
        rows.append(
            [f"{drop:.0%}", _nights(np.median(values)), _nights(np.percentile(values, 90)), f"{len(values):,}"]
        )
        print(rows[-1], flush=True)
    header = ["fell by, for 20 nights", "nights to recovered, median", "p90", "detected series"]
    replace_section("recovery", table(header, rows))

    rows = []
    for model, mood in (("Gaussian", 0.03), ("Gaussian", 0.10), ("autocorrelated", 0.06)):
        for what in ("nothing", "on", "both", "off up"):
            count = options.null if what == "nothing" else options.shifts
            tally = run(both_arms, (model, mood, 0.02, what), count)
            blamed = ", ".join(f"{name} {n / len(tally.delays):.0%}" for name, n in tally.blamed.most_common())
            rows.append(
                [
                    f"{mood:.0%} {model}",
                    what if what == "nothing" else {"off up": "off 10 % up"}.get(what, f"{what} 10 % down"),
                    tally.false_alarms() if what == "nothing" else "",
                    tally.delay() if what != "nothing" else "",
                    blamed,
                ]
            )
            print(rows[-1], flush=True)
    header = ["mood of the nights", "what changed", "false alarms per night", "median / p90 nights", "blamed"]
    replace_section("arms", table(header, rows))


if __name__ == "__main__":
    main()
