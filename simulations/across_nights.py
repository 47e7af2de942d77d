"""How often ``history`` is wrong across nights, and how soon it is right: false alarms, delays, attribution.

Usage: python -m simulations.across_nights [--null 1200] [--shifts 2000] [--seed 1] [--tables across-nights ...]
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
from bigtcp_bench.planning.thresholds import Thresholds
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

#: Nights until something that did not happen.
_NEVER = 10_000

#: Nights of a pair of arms: a moody platform takes its time.
ARMS_NIGHTS = 174

#: Nights of a series with two modes: a year.
YEAR = 365

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
    series: int = 0
    worse: int = 0
    early: int = 0
    two_modes: int = 0
    delays: list[int] = field(default_factory=list)
    since_errors: list[int] = field(default_factory=list)
    recoveries: list[int] = field(default_factory=list)
    blamed: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Add the counts of ``other``."""
        self.nights += other.nights
        self.alarms += other.alarms
        self.repeated += other.repeated
        self.series += other.series
        self.worse += other.worse
        self.early += other.early
        self.two_modes += other.two_modes
        self.delays += other.delays
        self.since_errors += other.since_errors
        self.recoveries += other.recoveries
        self.blamed += other.blamed

    def take(self, judgements: Sequence[Judgement], changed: bool, ends: int | None = None) -> None:
        """Count one series; ``changed`` says whether its level fell on night CHANGE, until night ``ends``."""
        self.series += 1
        self.nights += sum(judgement.state != "learning" for judgement in judgements)
        self.two_modes += any(judgement.event == "two-modes" for judgement in judgements)
        alarms = [int(judgement.night) for judgement in judgements if judgement.alarm]
        self.alarms += len(alarms)
        late = [night for night in alarms if night >= CHANGE]
        if changed:
            self.delays.append(late[0] - CHANGE + 1 if late else _NEVER)
        if changed and late:
            judgement = judgements[late[0]]
            self.since_errors.append(abs(int(judgement.since or 0) - CHANGE))
            self.blamed[judgement.attribution or "?"] += 1
        if ends is not None and late:
            recovered = [int(j.night) for j in judgements if j.state == "recovered" and int(j.night) >= ends]
            self.recoveries.append(recovered[0] - ends + 1 if recovered else _NEVER)
            self.early += any(j.state == "recovered" and late[0] <= int(j.night) < ends for j in judgements)

    def false_alarms(self) -> str:
        """Return alarms per judged night with its standard error."""
        rate = self.alarms / self.nights
        return f"{rate:.4f} ± {math.sqrt(max(self.alarms, 1)) / self.nights:.4f}"

    def delay(self, most: int = NIGHTS - CHANGE) -> str:
        """Return median and 90th percentile of the nights to an alarm, the night of the change being the first.

        ``most`` is the number of nights after the change.
        """
        return " / ".join(_nights(np.percentile(self.delays, share), most) for share in (50, 90))

    def within(self, nights: int) -> str:
        """Return the share of changes detected within ``nights``."""
        return f"{np.mean(np.array(self.delays) <= nights):.2f}"


def _nights(value: Any, most: int = NIGHTS - CHANGE) -> str:
    return f"{value:.0f}" if value <= most else f"> {most}"


def _share(count: int, of: int) -> str:
    return f"{count / of:.3f}"


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


def recovery(work: tuple[float, float, list[int], int]) -> Tally:
    """Return the tally of ``count`` series that fall by ``drop``, and have only ``rest`` of it 20 nights later."""
    drop, rest, seed, count = work
    random = np.random.default_rng(seed)
    tally = Tally()
    for _ in range(count):
        logs = make_nights("Gaussian", random, False)
        logs[CHANGE : CHANGE + 20] += math.log1p(-drop)
        logs[CHANGE + 20 :] += math.log1p(-rest)
        detector = Detector()
        tally.take([detector.judge(str(i), row[0]) for i, row in enumerate(np.exp(logs))], True, CHANGE + 20)
    return tally


def second_fall(work: tuple[str, float, list[int], int]) -> Tally:
    """Return the tally of ``count`` series 20 % low since night CHANGE − 20 that fall by ``drop`` more at CHANGE.

    Its alarms are the second ones ("worse"); those before CHANGE, or of no second fall, are false.
    """
    model, drop, seed, count = work
    random = np.random.default_rng(seed)
    tally = Tally()
    for _ in range(count):
        logs = make_nights(model, random, False)
        logs[CHANGE - 20 :] += math.log(0.8)
        logs[CHANGE:] += math.log1p(-drop)
        detector = Detector()
        found = [detector.judge(str(i), row[0]) for i, row in enumerate(np.exp(logs))]
        worse = [j for j in found if j.event == "worse"]
        late = [j for j in worse if drop and int(j.night) >= CHANGE]
        tally.nights += sum(j.state == "regression" for j in found)
        tally.worse += len(worse) - len(late[:1])
        if drop:
            tally.delays.append(int(late[0].night) - CHANGE + 1 if late else _NEVER)
        if late:
            tally.since_errors.append(abs(int(late[0].since or 0) - CHANGE))
    return tally


def while_learning(work: tuple[float, float, int, list[int], int]) -> Tally:
    """Return the tally of ``count`` series that fall by ``drop`` on night ``at`` of the learning nights.

    Its alarms are those of the five nights after these.
    """
    drop, sd, at, seed, count = work
    random = np.random.default_rng(seed)
    learning = Thresholds.model_validate({}).learning_nights
    tally = Tally()
    for _ in range(count):
        logs = random.normal(0, sd, learning + 5)
        logs[at:] += math.log1p(-drop)
        detector = Detector()
        alarms = [j for i, value in enumerate(np.exp(logs)) if (j := detector.judge(str(i), value)).alarm]
        tally.series += 1
        tally.alarms += len(alarms[:1])
        tally.since_errors += [abs(int(j.since or 0) - at) for j in alarms[:1]]
    return tally


def modes(work: tuple[float, float, float, float, list[int], int]) -> Tally:
    """Return the tally of ``count`` years of a series that moves between two levels ``gap`` apart.

    ``stay_low`` and ``stay_high`` are the probabilities of another night at either; both levels fall by ``drop``
    in the last 40 nights.
    """
    gap, stay_low, stay_high, drop, seed, count = work
    random = np.random.default_rng(seed)
    tally = Tally()
    for _ in range(count):
        low, logs = False, random.normal(0, SD, YEAR)
        for night in range(YEAR):
            logs[night] += math.log1p(-gap) if low else 0.0
            low = random.random() < (stay_low if low else 1 - stay_high)
        logs[YEAR - 40 :] += math.log1p(-drop)
        detector = Detector()
        judgements = [detector.judge(str(i), value) for i, value in enumerate(np.exp(logs))]
        tally.take(judgements[: YEAR - 40] if drop else judgements, False)
        if drop and judgements[YEAR - 41].state != "regression":
            late = [j for j in judgements[YEAR - 40 :] if j.alarm]
            tally.delays.append(int(late[0].night) - (YEAR - 40) + 1 if late else _NEVER)
    return tally


def both_arms(work: tuple[str, float, float, str, list[int], int]) -> Tally:
    """Return the tally of ``count`` pairs of series that share the platform's mood; the control is still."""
    model, mood_sd, arm_sd, what, seed, count = work
    random = np.random.default_rng(seed)
    fall = math.log(0.9)
    shifts = {"nothing": (0.0, 0.0), "on": (0.0, fall), "both": (fall, fall), "off up": (-fall, 0.0)}
    tally = Tally()
    for _ in range(count):
        mood = autoregressive(random, ARMS_NIGHTS, mood_sd, 0.5 if model == "autocorrelated" else 0.0)
        off, on = (mood + random.normal(0, arm_sd, ARMS_NIGHTS) for _ in range(2))
        control = np.exp(random.normal(0, arm_sd, ARMS_NIGHTS))
        off[CHANGE:] += shifts[what][0]
        on[CHANGE:] += shifts[what][1]
        detector = ArmsDetector()
        judgements = [
            detector.judge(str(night), math.exp(a), 1.8 * math.exp(b), control=float(still))
            for night, (a, b, still) in enumerate(zip(off, on, control, strict=True))
        ]
        tally.take(judgements, what != "nothing")
    return tally


class Runner:
    """Spreads series over processes; every call has seeds of its own, made from ``seed`` and the table's name."""

    def __init__(self, pool: Any, processes: int, seed: int, name: str) -> None:
        self.pool, self.processes, self.calls = pool, processes, 0
        self.seeds = [seed, *name.encode()]

    def __call__(self, function: Callable[[Any], Tally], fields: Sequence[Any], count: int) -> Tally:
        """Return the tally of ``count`` series of ``function``, called with ``fields``, a seed and a count."""
        self.calls += 1
        each = math.ceil(count / self.processes)
        work = [(*fields, [*self.seeds, self.calls, index], each) for index in range(self.processes)]
        total = Tally()
        for tally in self.pool.map(function, work):
            total.add(tally)
        return total


#: Label, thresholds, and with re-runs.
RULES: tuple[tuple[str, dict[str, Any], bool], ...] = (
    ("as shipped (k 0.85, h 3.35, nights count at most 2.1)", {}, False),
    ("as shipped, with re-runs", {}, True),
    ("k 0.8, h 5, at most 3", {"cusum_slack": 0.8, "cusum_limit": 5.0, "cusum_clip": 3.0}, False),
)


def across_nights(run: Runner, null: int, shifts: int) -> str:
    """Return the table of false alarms and delays of all RULES."""
    rows = []
    for label, fields, reruns in RULES:
        for model in MODELS:
            quiet = run(one_series, (model, 0.0, reruns, fields), null)
            five, ten = (run(one_series, (model, drop, reruns, fields), shifts) for drop in (0.05, 0.10))
            month = 30 * SERIES_OF_A_CLUSTER * quiet.alarms / quiet.nights
            rows.append(
                [
                    label,
                    model,
                    quiet.false_alarms(),
                    f"{quiet.nights:,}",
                    f"{month:.1f}",
                    five.delay(),
                    five.within(5),
                    ten.delay(),
                    ten.within(3),
                    f"{np.mean(np.array(ten.since_errors) <= 1):.2f}",
                    f"{100 * quiet.repeated / quiet.nights:.1f} %" if reruns else "",
                ]
            )
            print(rows[-1], flush=True)
    header = ["rule", "nights are", "false alarms per night", "judged nights", "per month, 24 series"]
    header += ["5 %: median / p90", "within 5", "10 %: median / p90", "within 3", "since right ±1", "re-run"]
    return table(header, rows)


def recoveries(run: Runner, _null: int, shifts: int) -> str:
    """Return the table of the nights that recovery takes, and of what is told as one though it is none."""
    rows = []
    for drop, rest in ((0.05, 0.0), (0.10, 0.0), (0.20, 0.0), (0.20, 0.10), (0.20, 0.07)):
        tally = run(recovery, (drop, rest), shifts)
        values, detected = np.array(tally.recoveries), len(tally.recoveries)
        told = f"{np.mean(values < _NEVER):.3f}"
        times = [_nights(np.percentile(values, share), 20) if not rest else "" for share in (50, 90)]
        rows.append([f"{drop:.0%}", f"{rest:.0%}", *times, told, _share(tally.early, detected), f"{detected:,}"])
        print(rows[-1], flush=True)
    header = ["fell by, for 20 nights", "then lower by", "nights to recovered, median", "p90"]
    return table([*header, "told as recovered within 20", "told before", "detected series"], rows)


def second_falls(run: Runner, null: int, shifts: int) -> str:
    """Return the table of falls within an open regression."""
    rows = []
    for model in MODELS:
        quiet = run(second_fall, (model, 0.0), null)
        five, ten = (run(second_fall, (model, drop), shifts) for drop in (0.05, 0.10))
        near = np.mean(np.array(ten.since_errors) <= 1)
        rows.append([model, f"{quiet.worse / quiet.nights:.4f}", five.delay(), ten.delay(), f"{near:.2f}"])
        print(rows[-1], flush=True)
    header = ["nights are", "false per night", "5 % more: median / p90", "10 % more: median / p90"]
    return table([*header, "since right ±1"], rows)


def learning(run: Runner, null: int, shifts: int) -> str:
    """Return the table of changes within the learning nights."""
    rows = []
    for sd in (0.01, SD):
        for drop, at in ((0.0, 10), (0.10, 6), (0.10, 8), (0.10, 10), (0.10, 12), (0.20, 8)):
            tally = run(while_learning, (drop, sd, at), shifts if drop else 5 * null)
            right = f"{np.mean(np.array(tally.since_errors) <= 1):.2f}" if drop else ""
            what = f"{drop:.0%} on night {at + 1}" if drop else "nothing"
            rows.append([f"{sd:.0%}", what, _share(tally.alarms, tally.series), right])
            print(rows[-1], flush=True)
    return table(["noise per night", "what changed", "called by night 19", "since right ±1"], rows)


def two_modes(run: Runner, null: int, _shifts: int) -> str:
    """Return the table of series with two modes."""
    rows = []
    for gap, low, high in (
        (0.15, 0.85, 0.85),
        (0.25, 0.85, 0.85),
        (0.4, 0.5, 0.5),
        (0.4, 0.85, 0.85),
        (0.4, 0.8, 0.95),
    ):
        quiet = run(modes, (gap, low, high, 0.0), null // 4)
        fallen = run(modes, (gap, low, high, 0.1), null // 4)
        rows.append(
            [
                f"{gap:.0%}",
                f"{1 / (1 - high):.0f} / {1 / (1 - low):.0f}",
                f"{quiet.alarms / quiet.series:.2f}",
                _share(quiet.two_modes, quiet.series),
                fallen.delay(40),
            ]
        )
        print(rows[-1], flush=True)
    header = ["modes apart by", "nights at the better / worse", "alarms per year", "told as two modes"]
    return table([*header, "both fall by 10 %: median / p90"], rows)


def arms(run: Runner, null: int, shifts: int) -> str:
    """Return the table of who is blamed for what."""
    rows = []
    for model, mood in (("Gaussian", 0.03), ("Gaussian", 0.10), ("autocorrelated", 0.06)):
        for what in ("nothing", "on", "both", "off up"):
            tally = run(both_arms, (model, mood, 0.02, what), null if what == "nothing" else shifts)
            blamed = ", ".join(f"{name} {n / len(tally.delays):.0%}" for name, n in tally.blamed.most_common())
            rows.append(
                [
                    f"{mood:.0%} {model}",
                    what if what == "nothing" else {"off up": "off 10 % up"}.get(what, f"{what} 10 % down"),
                    tally.false_alarms() if what == "nothing" else "",
                    tally.delay(ARMS_NIGHTS - CHANGE) if what != "nothing" else "",
                    tally.within(4) if what != "nothing" else "",
                    blamed,
                ]
            )
            print(rows[-1], flush=True)
    header = ["mood of the nights", "what changed", "false alarms per night", "median / p90 nights", "within 4"]
    return table([*header, "blamed"], rows)


TABLES = {
    "across-nights": across_nights,
    "recovery": recoveries,
    "second-fall": second_falls,
    "learning": learning,
    "two-modes": two_modes,
    "arms": arms,
}


def main() -> None:
    """Run all cases and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--null", type=int, default=1200, help="series without a change per number")
    parser.add_argument("--shifts", type=int, default=2000, help="series with a change per number")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), help="default: all")
    options = parser.parse_args()
    with Pool(options.processes, initializer=os.nice, initargs=(10,)) as pool:
        for name in options.tables:
            run = Runner(pool, options.processes, options.seed, name)
            text = TABLES[name](run, options.null, options.shifts)
            note = f"Seed {options.seed}; {options.shifts:,} series with a change, {options.null:,} without."
            if name == "two-modes":
                note = f"Seed {options.seed}; {options.null // 4:,} years per number."
            replace_section(name, f"{text}\n\n{note}")


if __name__ == "__main__":
    main()
