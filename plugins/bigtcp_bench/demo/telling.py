"""What a demo tells while it runs: where it is, how long that takes, and what goes wrong; the log has it all."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from bigtcp_bench.planning.duration import estimate
from bigtcp_bench.planning.plan import Plan, blocks, pair_count
from bigtcp_bench.report.words import listed

#: Airflow's database, the lab and the first import of everything, and the way back: seconds on two quiet cores.
AROUND_S = 40.0
#: Of a demo on a lab the share that is traffic (docs/performance.md), and the share before the first pair of pods.
_TRAFFIC, _BEFORE = 0.6, 0.2
#: Of the time after the last pair of pods: counters, verdict, restore, as a lab has it.
_AFTER_S = 20.0

_SWITCH = re.compile(r"block (?P<number>\d+): switching BIG TCP (?P<arm>off|on)$")
_PAIR = re.compile(r"block \d+ \((?:off|on)\), generation \d+: fresh pods ")
_CHECK = re.compile(r"(?:warn|fail) ")
_COUNTED = re.compile(r"\d+ of \d+ checks passed")
_RESTORED = re.compile(r"restored what (?P<who>\S+) had changed")
#: What went otherwise than planned, whoever says it.
_TROUBLE = re.compile(
    r"\b(?:failed|fails|could not|cannot|waiting|away|lost|refuse[sd]?|damaged|interrupted|another restore)\b"
    r"|\bhas no (?:control|packet sizes)\b|NOT |the run is (?:in|failed)"
)


class Telling:
    """Prints a line for each step of a run of ``plan``, with the time that is left, on a clock of its own.

    ``on_lab``: what a preflight warns of is the lab itself, and only counted.
    """

    def __init__(self, plan: Plan, *, on_lab: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._started, self._on_lab = clock, clock(), on_lab
        self._blocks = len(blocks(plan))
        self._pairs = pair_count(plan)
        expected = estimate(plan, restarts=2 * self._blocks)
        #: Seconds from beginning to end: how many if all goes quickly, and how many if not.
        self.expected_s = (expected.quick_s + AROUND_S, expected.slow_s + AROUND_S)
        if on_lab:
            # Nothing on a lab is slow, and no scheduler is waited for.
            self.expected_s = (plan.measuring_time_s / _TRAFFIC, expected.quick_s + AROUND_S)
        self._begun = 0
        self._first_pair_at = 0.0
        self._block = ""

    @property
    def passed_s(self) -> float:
        """Return the seconds since the beginning."""
        return self._clock() - self._started

    def say(self, text: str) -> None:
        """Print ``text`` behind the time that has passed."""
        passed = int(self.passed_s)
        print(f"[{passed // 60}:{passed % 60:02d}] {text}", flush=True)

    def hear(self, text: str) -> None:
        """Print what a run says, ``text``, if it is worth reading while one waits."""
        if told := self._told(text):
            self.say(told)

    def _told(self, text: str) -> str:
        if found := _SWITCH.match(text):
            self._block = f"block {found['number']} of {self._blocks}, BIG TCP {found['arm']}"
            return f"{self._block}: Cilium agents restart where they must"
        if _PAIR.match(text):
            self._begun += 1
            if self._begun == 1:
                self._first_pair_at = self._clock()
            return f"{self._block}: fresh pods, pair {self._begun} of {self._pairs}; {self._left()}"
        if _CHECK.match(text):
            return "" if self._on_lab and text.startswith("warn") else " ".join(text.split())
        if _COUNTED.match(text):
            return text.partition(", ")[0] if self._on_lab else text
        if found := _RESTORED.match(text):
            return f"restored what {found['who']} had changed, and verified it"
        return text if _TROUBLE.search(text) else ""

    def _left(self) -> str:
        """Return how long the rest takes at the pace so far; before there is one, as was expected."""
        done = self._begun - 1
        if not done:
            left_s = self.expected_s[0] * (1 - _BEFORE)
        else:
            pace_s = (self._clock() - self._first_pair_at) / done
            left_s = (self._pairs - done) * pace_s + _AFTER_S
        return about(max(left_s, _AFTER_S)) + " left"


def about(seconds: float, most: float | None = None) -> str:
    """Return a time as one says it: ``about 4 min``, ``about 40 s``, ``about 3 to 6 min``."""
    if most is not None and round(most / 60) > max(round(seconds / 60), 1):
        return f"about {max(round(seconds / 60), 1)} to {round(most / 60)} min"
    return f"about {round(seconds / 60)} min" if seconds >= 90 else f"about {round(seconds / 10) * 10} s"


def plan_text(plan: Plan) -> str:
    """Return what ``plan`` does, in one line."""
    return (
        f"plan {plan.name}: BIG TCP {listed(plan.order)}, {pair_count(plan)} fresh pairs of pods, "
        f"{len(plan.scenarios)} scenarios, {plan.measuring_time_s} s of traffic"
    )
