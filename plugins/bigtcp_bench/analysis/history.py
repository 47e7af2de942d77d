"""Judge the nightly pairs of a scenario, and say which arm is to blame and what of the environment changed.

``ArmsDetector`` watches log(on/off), in which whatever befalls both arms of a night cancels, and beside it the two
arms together, and says which of them moved.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from bigtcp_bench.analysis.detector import Attribution, Detector, Event, Judgement, is_number
from bigtcp_bench.analysis.levels import robust_level
from bigtcp_bench.in_cluster.kind import Better, Scale
from bigtcp_bench.planning.thresholds import Thresholds

#: Nights kept by ArmsDetector to tell which arm moved, and by EpochLog to tell what changed when.
_RECENT_NIGHTS = 80
_EPOCH_NIGHTS = 120

#: The estimated night of a change is right to within a night or two; an epoch this close to it is named with it.
_COINCIDENCE_NIGHTS = 3


class EpochLog:
    """Remembers when the environment (kernel, NIC, node, Cilium, iperf3, …) changed, over the newest nights."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self.nights: list[tuple[str, dict[str, tuple[str, str]]]] = []

    def note(self, night: str, environment: Mapping[str, str | None]) -> dict[str, tuple[str, str]]:
        """Return what changed with ``night``: name → (before, now). Names without a value are unchanged."""
        now = {name: value for name, value in environment.items() if value}
        changes = {
            name: (self.known[name], value)
            for name, value in now.items()
            if name in self.known and self.known[name] != value
        }
        self.known.update(now)
        self.nights = [*self.nights, (night, changes)][-_EPOCH_NIGHTS:]
        return changes

    def near(self, since: str) -> dict[str, tuple[str, str]]:
        """Return what changed within ``_COINCIDENCE_NIGHTS`` nights of ``since``."""
        index = next((i for i, (night, _) in enumerate(self.nights) if night == since), None)
        if index is None:
            return {}
        first, last = max(0, index - _COINCIDENCE_NIGHTS), index + _COINCIDENCE_NIGHTS + 1
        return {name: change for _, changes in self.nights[first:last] for name, change in changes.items()}

    def mark(self, judgement: Judgement, environment: Mapping[str, str | None]) -> Judgement:
        """Return ``judgement`` with the epoch of its night, and with what coincides with its regression."""
        epoch = self.note(judgement.night, environment)
        near = self.near(judgement.since) if judgement.state == "regression" and judgement.since else {}
        return replace(judgement, epoch=epoch, coincides_with=near) if epoch or near else judgement


class ArmsDetector:
    """Judges the nightly pairs (off, on) of one scenario and metric, and says which arm is to blame.

    On the log scale the judged series is log(on/off), on the linear one on − off relative to the usual off. The
    arms together are watched beside it, as their mean: where both fell, the platform did, which the ratio cannot
    show.
    """

    def __init__(
        self,
        thresholds: Thresholds | None = None,
        better: Better = "higher",
        scale: Scale = "log",
        floor: float = 0.0,
    ) -> None:
        self.thresholds = thresholds or Thresholds.model_validate({})
        self.better: Better = better
        self.scale: Scale = scale
        self.benefit = Detector(self.thresholds, better, scale, floor)
        self.platform = Detector(self.thresholds, better, scale, floor, platform=True)
        self.epochs = EpochLog()
        #: Newest nights as (night, off, on, control).
        self.recent: list[tuple[str, float, float, float | None]] = []
        self.blamed: Attribution | None = None
        #: Whether the regression of both arms has been told; the ratio's comes first.
        self.platform_told = False

    def to_dict(self) -> dict[str, Any]:
        """Return the carried state as plain JSON values (for ``from_dict``)."""
        return {
            "scale": self.scale,
            "benefit": self.benefit.to_dict(),
            "platform": self.platform.to_dict(),
            "known": dict(self.epochs.known),
            "nights": [
                [night, {key: list(pair) for key, pair in new.items()}] for night, new in self.epochs.nights
            ],
            "recent": [list(item) for item in self.recent],
            "blamed": self.blamed,
            "platform_told": self.platform_told,
        }

    @classmethod
    def from_dict(
        cls,
        state: Mapping[str, Any],
        thresholds: Thresholds | None = None,
        better: Better = "higher",
        floor: float = 0.0,
    ) -> ArmsDetector:
        """Return a detector that goes on where the one of ``to_dict`` stopped."""
        detector = cls(thresholds, better, state["scale"], floor)
        detector.benefit = Detector.from_dict(state["benefit"], thresholds, better, floor)
        detector.platform = Detector.from_dict(state["platform"], thresholds, better, floor, platform=True)
        detector.epochs.known = dict(state["known"])
        detector.epochs.nights = [
            (night, {key: (pair[0], pair[1]) for key, pair in new.items()}) for night, new in state["nights"]
        ]
        detector.recent = [(night, off, on, control) for night, off, on, control in state["recent"]]
        detector.blamed = state["blamed"]
        detector.platform_told = state["platform_told"]
        return detector

    def rerun_due(self, off: float | None, on: float | None) -> bool:
        """Return whether this night's scenario is so far off, either way, that it is to be measured again."""
        return self.benefit.rerun_due(self._benefit(off, on), self._reference())

    def judge(
        self,
        night: str,
        off: float | None,
        on: float | None,
        *,
        reruns: Sequence[tuple[float, float]] = (),
        environment: Mapping[str, str | None] | None = None,
        control: float | None = None,
    ) -> Judgement:
        """Take one night into account and return what it says.

        ``off`` and ``on`` are the night's values (None or NaN: missing or not valid), ``reruns`` those of its
        repetitions by the re-run rule, ``environment`` what it was measured with, and ``control`` a measurement
        that BIG TCP cannot touch.
        """
        return self.epochs.mark(self._judge(night, off, on, reruns, control), environment or {})

    def _judge(
        self,
        night: str,
        off: float | None,
        on: float | None,
        reruns: Sequence[tuple[float, float]],
        control: float | None,
    ) -> Judgement:
        value = self._benefit(off, on)
        if value is None or off is None or on is None:
            known = self.benefit.judge(night, None)
            if known.state != "regression" and self.platform_told:
                known = self.platform.judge(night, None)
            return replace(known, attribution=self.blamed) if known.state == "regression" else known
        reference = self._reference()
        self.recent = [*self.recent, (night, off, on, control)][-_RECENT_NIGHTS:]
        repeated = [item for pair in reruns if (item := self._benefit(*pair)) is not None]
        judgement = self.benefit.judge(night, value, repeated, reference)
        repeated = [self._both(*pair) for pair in reruns]
        platform = self.platform.judge(night, self._both(off, on), repeated, reference, self._both_fell)

        if judgement.alarm and judgement.since:
            self.blamed = self._blame(judgement.since)
            if self.blamed == "off-improved":
                self.benefit.take_for_usual()
                self.blamed = None
                return Judgement(night, "steady", judgement.change, sds=judgement.sds, attribution="off-improved")
        if judgement.state == "regression":
            return replace(judgement, attribution=self.blamed)
        if platform.state == "regression":
            return self._judge_platform(platform)
        blamed, self.blamed = self.blamed, None
        told, self.platform_told = self.platform_told, False
        if judgement.state == "recovered":
            return replace(judgement, attribution=blamed)
        if told and platform.state == "recovered":
            return replace(platform, attribution=blamed)
        return replace(judgement, event=judgement.event or _modes_of(platform))

    def _judge_platform(self, platform: Judgement) -> Judgement:
        """Return the regression of both arms together, which the ratio cannot show."""
        alarm = not self.platform_told
        if alarm and platform.since:
            fell = self._moved(3, platform.since) == "worse"
            self.blamed = "infrastructure" if fell else "platform"
        self.platform_told = True
        return replace(platform, alarm=alarm, attribution=self.blamed)

    def _both_fell(self, since: str) -> bool:
        return self._moved(1, since) == self._moved(2, since) == "worse"

    def _blame(self, since: str) -> Attribution:
        """Return what moved at ``since``, given that the ratio fell."""
        if self._moved(3, since) == "worse":
            return "infrastructure"
        off, on = self._moved(1, since), self._moved(2, since)
        if off == "better" and on != "worse":
            return "off-improved"
        return "platform" if off == "worse" and on == "worse" else "big-tcp"

    def _moved(self, column: Literal[1, 2, 3], since: str) -> Literal["better", "worse", "still"]:
        """Return how off (1), on (2) or the control (3) moved at ``since``, beyond margin and chance."""
        sign = -1.0 if self.better == "lower" and column != 3 else 1.0
        before: list[float] = []
        after: list[float] = []
        index = next((i for i, item in enumerate(self.recent) if item[0] == since), len(self.recent))
        for i, item in enumerate(self.recent):
            value = item[column]
            if value is not None and (self.scale == "linear" or value > 0):
                scaled = math.log(value) if self.scale == "log" else value
                (after if i >= index else before).append(sign * scaled)
        if len(before) < 3 or not after:
            return "still"
        centre, sd = robust_level(before)
        change = statistics.median(after) - centre
        unit = 1.0 if self.scale == "log" else max(abs(centre), self.benefit.measure.floor)
        error = max(sd, self.thresholds.min_sd * unit) * math.sqrt(1 / len(after) + 1 / len(before))
        if abs(change) < max(self.thresholds.history_margin * unit, self.thresholds.moved_sds * error):
            return "still"
        return "better" if change > 0 else "worse"

    def _benefit(self, off: float | None, on: float | None) -> float | None:
        """Return on/off (judged on the log scale) or on − off; None when a night has no such pair."""
        if not is_number(off) or not is_number(on):
            return None
        if self.scale == "linear":
            return on - off
        return on / off if off > 0 else None

    def _both(self, off: float, on: float) -> float:
        """Return the mean of both arms, on the log scale the geometric one."""
        return (off + on) / 2 if self.scale == "linear" else math.sqrt(max(0.0, off) * max(0.0, on))

    def _reference(self) -> float | None:
        if self.scale != "linear" or self.benefit.learning:
            return None
        return statistics.median(off for _, off, _, _ in self.recent)


def _modes_of(judgement: Judgement) -> Event | None:
    return "two-modes" if judgement.event == "two-modes" else None
