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
from bigtcp_bench.planning.plan import Thresholds
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


_FACTS = {"cusum_slack": 0.8, "cusum_limit": 5.0, "cusum_clip": 3.0}
_EARLIER = {"cusum_slack": 0.8, "cusum_limit": 4.2, "cusum_clip": 2.5}

#: Label, thresholds, with re-runs, and by which number of the series it is judged.
RULES: tuple[tuple[str, dict[str, Any], bool, int], ...] = (
    ("as shipped (k 0.85, h 3.35, nights count at most 2.1)", {}, False, 1),
    ("as shipped, with re-runs", {}, True, 1),
    ("k 0.8, h 5, at most 3", _FACTS, False, 1),
    ("k 0.8, h 5, at most 3, with re-runs", _FACTS, True, 1),
    ("k 0.8, h 4.2, at most 2.5", _EARLIER, False, 1),
    ("k 0.8, h 3.8, at most 2.5", {**_EARLIER, "cusum_limit": 3.8}, False, 1),
    ("k 0.8, h 3.5, at most 2", {"cusum_slack": 0.8, "cusum_limit": 3.5, "cusum_clip": 2.0}, False, 1),
    ("k 0.8, h 2.9, at most 1.8", {"cusum_slack": 0.8, "cusum_limit": 2.9, "cusum_clip": 1.8}, False, 1),
    ("k 1, h 2.9, at most 2.2", {"cusum_slack": 1.0, "cusum_limit": 2.9, "cusum_clip": 2.2}, False, 1),
    # Otava takes milliseconds a call, so its row stands on fewer series.
    ("as shipped, and Otava must agree", {"use_otava": True}, False, 6),
)


def across_nights(run: Runner, null: int, shifts: int) -> str:
    """Return the table of false alarms and delays of all RULES."""
    rows = []
    for label, fields, reruns, share in RULES:
        for model in MODELS:
            quiet = run(one_series, (model, 0.0, reruns, fields), null // share)
            five, ten = (run(one_series, (model, drop, reruns, fields), shifts // share) for drop in (0.05, 0.10))
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
    """Return the table of the nights that recovery takes."""
    rows = []
    for drop in (0.05, 0.10, 0.20):
        values = np.array(run(recovery, (drop,), shifts).recoveries)
        rows.append(
            [f"{drop:.0%}", _nights(np.median(values)), _nights(np.percentile(values, 90)), f"{len(values):,}"]
        )
        print(rows[-1], flush=True)
    return table(["fell by, for 20 nights", "nights to recovered, median", "p90", "detected series"], rows)


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
                    tally.delay() if what != "nothing" else "",
                    blamed,
                ]
            )
            print(rows[-1], flush=True)
    header = ["mood of the nights", "what changed", "false alarms per night", "median / p90 nights", "blamed"]
    return table(header, rows)


TABLES = {"across-nights": across_nights, "recovery": recoveries, "arms": arms}


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
            note = f"Seed {options.seed}; {options.shifts:,} series with a change per number"
            note += ", of Otava a sixth." if name == "across-nights" else "."
            replace_section(name, f"{text}\n\n{note}")


if __name__ == "__main__":
    main()
