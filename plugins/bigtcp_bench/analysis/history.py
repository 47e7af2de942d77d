"""Judge a series night by night: learning, steady, suspect, regression or recovered, and what is to blame.

A ``Detector`` carries everything it needs from night to night, so the newest night costs the same after ten years
as after a month, and a replay from the first night gives the same answers. It is a one-sided robust CUSUM: each
night's deviation from the usual level, in standard deviations and limited in size, adds up while it is worse by
more than a slack. What the numbers buy is shown by simulation in docs/statistics.md.

``ArmsDetector`` watches log(on/off), in which whatever befalls both arms of a night cancels, beside the two arms
themselves, and says which of them moved.
"""

from __future__ import annotations

import math
import operator
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from bigtcp_bench.analysis import second_opinion
from bigtcp_bench.planning.metrics import Better, Scale
from bigtcp_bench.planning.plan import Thresholds

State = Literal["learning", "steady", "suspect", "regression", "recovered"]
Attribution = Literal["big-tcp", "platform", "infrastructure", "off-improved"]

#: Values further out than this many (MAD-based) standard deviations do not count for the usual level ...
_TRIM_SDS = 3.0

#: ... and for the usual spread those beyond this many count as if they were there. The factor makes the result
#: right for Gaussian values.
_WINSOR_SDS = 2.0
_WINSOR_FACTOR = 1.042

#: The autocorrelation of neighbouring nights is believed beyond this many of its standard errors, up to a maximum.
_ECHO_ERRORS = 1.0
_MAX_ECHO = 0.8

#: Makes the median absolute deviation of Gaussian values their standard deviation.
_MAD_FACTOR = 1.4826

#: Makes the mean absolute deviation of Gaussian values their standard deviation.
_MEAN_FACTOR = 1.2533

#: A CUSUM that stays above zero this long without an alarm is the usual level moving slowly: its oldest nights are
#: then taken for usual.
_MAX_WAITING = 20

#: Newest nights whose median is the level of an open regression.
_LEVEL_NIGHTS = 10

#: Nights kept by ArmsDetector to tell which arm moved, and by EpochLog to tell what changed when.
_RECENT_NIGHTS = 80
_EPOCH_NIGHTS = 120

#: The estimated night of a change is right to within a night or two; an epoch this close to it is named with it.
_COINCIDENCE_NIGHTS = 3

#: Stands for the logarithm of zero or less (a total loss of throughput), far below any real value.
_LOG_OF_NOTHING = -690.0


@dataclass(frozen=True)
class Judgement:
    """What one night says about a series, given the nights before.

    ``change`` is relative to the usual level (−0.1 = 10 % below it): of this night, or, in a regression, of the
    newest nights together. None while learning, for a missing night, or relative to zero. ``since`` is the night
    on which the state began: for a regression the estimated night of the change. ``sds`` is the night's deviation
    in standard deviations, positive when better. ``alarm`` is true on the one night a regression is first called.
    """

    night: str
    state: State
    change: float | None = None
    since: str | None = None
    sds: float | None = None
    alarm: bool = False
    attribution: Attribution | None = None
    #: What of the environment is new on this night, name → (before, now): an epoch begins here.
    epoch: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    #: For a regression: what of the environment changed within a few nights of its beginning.
    coincides_with: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass
class _Open:
    """A regression that has not recovered: since when, how many nights, and the newest of them."""

    since: str
    nights: int
    levels: list[float]
    normal: list[float] = field(default_factory=list)
    first_normal: str | None = None


class Detector:
    """Judges one series of nightly values.

    ``better`` says which way is better (``neither`` is judged as ``higher``). ``scale`` is ``log`` for positive
    quantities, ``linear`` where zero is an ordinary value, and None to decide by the learning nights. On the
    linear scale ``floor`` is the least that margins and spreads are shares of: where the usual value is zero, a
    negligible one is no alarm.
    """

    def __init__(
        self,
        thresholds: Thresholds | None = None,
        better: Better = "higher",
        scale: Scale | None = "log",
        floor: float = 0.0,
    ) -> None:
        self.thresholds = thresholds or Thresholds.model_validate({})
        self.floor = floor
        self.sign = -1.0 if better == "lower" else 1.0
        self.scale: Scale | None = scale
        #: Values of usual nights, oldest first; raw while learning, then on the scale and with better = higher.
        self.usual: list[float] = []
        self.learning = True
        self.cusum = 0.0
        self.rise = 0.0
        #: Nights since the CUSUM left zero: not yet known to be usual.
        self.waiting: list[tuple[str, float]] = []
        self.rising: list[float] = []
        self.open: _Open | None = None
        self._level: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the carried state as plain JSON values (for ``from_dict``)."""
        return {
            "scale": self.scale,
            "usual": list(self.usual),
            "learning": self.learning,
            "cusum": self.cusum,
            "rise": self.rise,
            "waiting": [list(item) for item in self.waiting],
            "rising": list(self.rising),
            "open": asdict(self.open) if self.open else None,
        }

    @classmethod
    def from_dict(
        cls,
        state: Mapping[str, Any],
        thresholds: Thresholds | None = None,
        better: Better = "higher",
        floor: float = 0.0,
    ) -> Detector:
        """Return a detector that goes on where the one of ``to_dict`` stopped."""
        detector = cls(thresholds, better, state["scale"], floor)
        detector.usual = list(state["usual"])
        detector.learning = state["learning"]
        detector.cusum = state["cusum"]
        detector.rise = state["rise"]
        detector.waiting = [(night, value) for night, value in state["waiting"]]
        detector.rising = list(state["rising"])
        detector.open = _Open(**state["open"]) if state["open"] else None
        return detector

    @property
    def state(self) -> State:
        """The lasting state after the nights so far: learning, steady or regression."""
        if self.learning:
            return "learning"
        return "regression" if self.open else "steady"

    def take_for_usual(self) -> None:
        """Make the level of the open regression the usual one: it turned out to be none, or to last."""
        if self.open:
            change = statistics.median(self.open.levels) - self._usual()[0]
            self.usual = [value + change for value in self.usual]
            self.open = None
            self._reset()

    def usual_level(self) -> float | None:
        """Return the usual value in the unit of the series, or None while learning."""
        if self.learning:
            return None
        centre = self.sign * self._usual()[0]
        return math.exp(centre) if self.scale == "log" else centre

    def rerun_due(self, value: float | None, reference: float | None = None) -> bool:
        """Return whether a night with ``value`` is so far off, either way, that it is to be measured again.

        Both ways, because repeating only the bad nights would move the usual level up. Arguments as for ``judge``.
        """
        if self.learning or self.open or not _is_number(value):
            return False
        deviation, sds, unit = self._deviation(self._scaled(float(value)), reference)  # type: ignore[arg-type]
        return abs(sds) > self.thresholds.rerun_sds and abs(deviation) > self.thresholds.rerun_margin * unit

    def judge(
        self,
        night: str,
        value: float | None,
        reruns: Sequence[float] = (),
        reference: float | None = None,
    ) -> Judgement:
        """Take one night into account and return what it says.

        ``night`` is any text that names it, ``value`` the night's value (None or NaN: missing or not valid),
        ``reruns`` the values of its repetitions by the re-run rule: the median of all counts. ``reference`` is,
        on the linear scale, the level that relative changes refer to; by default the series' own usual one.
        """
        if not _is_number(value):
            since = self.open.since if self.open else None
            return Judgement(night, self.state, since=since)
        settled = statistics.median([float(value), *(item for item in reruns if _is_number(item))])  # type: ignore[arg-type]
        if self.learning:
            return self._learn(night, settled)
        scaled = self._scaled(settled)
        deviation, sds, unit = self._deviation(scaled, reference)
        if self.open:
            return self._judge_open(self.open, night, scaled, deviation, sds, unit)

        limits = self.thresholds
        counted = max(-limits.cusum_clip, min(limits.cusum_clip, sds))
        self.cusum = max(0.0, self.cusum - counted - limits.cusum_slack)
        self.rise = max(0.0, self.rise + counted - limits.cusum_slack)
        alarm = self._fall_found(night, scaled, sds, unit)
        if alarm is not None:
            return alarm
        self._follow_rise(scaled, unit)
        if sds < -limits.suspect_sds and -deviation > limits.suspect_margin * unit:
            return Judgement(night, "suspect", self._relative(deviation, unit), since=night, sds=sds)
        return Judgement(night, "steady", self._relative(deviation, unit), sds=sds)

    def _learn(self, night: str, value: float) -> Judgement:
        self.usual.append(value)
        if len(self.usual) >= self.thresholds.learning_nights:
            self.learning = False
            if self.scale is None:
                self.scale = "log" if min(self.usual) > 0 else "linear"
            self.usual = [self._scaled(item) for item in self.usual]
        return Judgement(night, "learning")

    def _fall_found(self, night: str, scaled: float, sds: float, unit: float) -> Judgement | None:
        """Update the nights in waiting; return the regression when the CUSUM and the estimate agree on one."""
        limits = self.thresholds
        if self.cusum == 0.0:
            self._accept([value for _, value in self.waiting])
            self.waiting = []
            self._accept([scaled])
            return None
        self.waiting.append((night, scaled))
        limit = limits.cusum_limit * (second_opinion.CUSUM_SHARE if limits.use_otava else 1.0)
        if self.cusum > limit:
            centre, sd = self._usual()
            first = self._change_point(centre, sd)
            values = [value for _, value in self.waiting[first:]]
            change = statistics.median(values) - centre
            least = limits.history_margin * unit
            if -change >= least and (not limits.use_otava or self._second_opinion(first, least)):
                self._accept([value for _, value in self.waiting[:first]])
                since = self.waiting[first][0]
                self.open = _Open(since, len(values), values[-_LEVEL_NIGHTS:])
                self._reset()
                return Judgement(night, "regression", self._relative(change, unit), since, sds, alarm=True)
        if len(self.waiting) > _MAX_WAITING:
            self._accept([self.waiting.pop(0)[1]])
        return None

    def _second_opinion(self, first: int, least: float) -> bool:
        values = [*self.usual, *(value for _, value in self.waiting)]
        return second_opinion.fell(values, len(self.usual) + first, least, self.thresholds)

    def _change_point(self, centre: float, sd: float) -> int:
        """Return the index in ``waiting`` from which a lower level explains the nights best (least deviations)."""
        deviations = [(value - centre) / sd for _, value in self.waiting]
        best, best_index, before = math.inf, 0, 0.0
        for index, deviation in enumerate(deviations):
            level = min(0.0, statistics.median(deviations[index:]))
            cost = before + sum(abs(later - level) for later in deviations[index:])
            if cost < best:
                best, best_index = cost, index
            before += abs(deviation)
        return best_index

    def _follow_rise(self, scaled: float, unit: float) -> None:
        """Move the usual nights up to a level that has improved for good, so that its loss is seen later."""
        if self.rise == 0.0:
            self.rising = []
            return
        self.rising.append(scaled)
        if len(self.rising) > _MAX_WAITING:
            self.rising.pop(0)
        if self.rise > self.thresholds.cusum_limit:
            change = statistics.median(self.rising) - self._usual()[0]
            if change >= self.thresholds.history_margin * unit:
                kept = len(self.usual) - min(len(self.rising), len(self.usual))
                self.usual = [value + change for value in self.usual[:kept]] + self.rising
                self._reset()

    def _judge_open(
        self, current: _Open, night: str, scaled: float, deviation: float, sds: float, unit: float
    ) -> Judgement:
        centre = self._usual()[0]
        level = statistics.median(current.levels) - centre
        current.nights += 1
        if deviation > level / 2:
            current.first_normal = current.first_normal or night
            current.normal.append(scaled)
            if len(current.normal) >= self.thresholds.recovery_nights:
                change = statistics.median(current.normal) - centre
                self.open = None
                self._accept(current.normal)
                return Judgement(
                    night, "recovered", self._relative(change, unit), current.first_normal or night, sds
                )
        else:
            current.levels = [*current.levels, *current.normal, scaled][-_LEVEL_NIGHTS:]
            current.normal, current.first_normal = [], None
            level = statistics.median(current.levels) - centre
        if current.nights >= self.thresholds.new_normal_nights and not current.normal:
            self.take_for_usual()
        return Judgement(night, "regression", self._relative(level, unit), current.since, sds)

    def _reset(self) -> None:
        self.cusum = self.rise = 0.0
        self.waiting, self.rising, self._level = [], [], None

    def _accept(self, values: Iterable[float]) -> None:
        self.usual = [*self.usual, *values][-self.thresholds.baseline_nights :]
        self._level = None

    def _scaled(self, value: float) -> float:
        if self.scale == "linear":
            return self.sign * value
        return self.sign * (math.log(value) if value > 0 else _LOG_OF_NOTHING)

    def _usual(self) -> tuple[float, float]:
        """Return centre and standard deviation of the usual nights, both robust, on the scale of the series."""
        if self._level is None:
            self._level = robust_level(self.usual)
        centre, sd = self._level
        unit = 1.0 if self.scale == "log" else max(abs(centre), self.floor)
        return centre, max(sd, self.thresholds.min_sd * unit, 1e-300)

    def _deviation(self, scaled: float, reference: float | None) -> tuple[float, float, float]:
        """Return deviation from the usual level, the same in standard deviations, and the unit of 100 %."""
        centre, sd = self._usual()
        usual = centre if reference is None else reference
        unit = 1.0 if self.scale == "log" else max(abs(usual), self.floor)
        # The level of n nights is itself uncertain, and so is their spread: the t distribution's quantiles are
        # brought to the normal distribution's by Wallace's approximation.
        freedom = len(self.usual) - 1
        t = (scaled - centre) / (sd * math.sqrt(1 + 1 / len(self.usual)))
        size = math.sqrt(freedom * math.log1p(min(t * t, 1e100) / freedom)) * (8 * freedom + 1) / (8 * freedom + 3)
        return scaled - centre, math.copysign(size, t), unit

    def _relative(self, deviation: float, unit: float) -> float | None:
        if self.scale == "log":
            return math.expm1(min(self.sign * deviation, 700.0))
        return self.sign * deviation / unit if unit else None


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
    arms themselves are watched with a higher limit: where both fell, the platform did, which the ratio cannot
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
        platform = self.thresholds.model_copy(update={"cusum_limit": self.thresholds.platform_cusum_limit})
        self.benefit = Detector(self.thresholds, better, "linear" if scale == "linear" else "log", floor)
        self.off = Detector(platform, better, scale, floor)
        self.on = Detector(platform, better, scale, floor)
        self.epochs = EpochLog()
        #: Newest nights as (night, off, on, control).
        self.recent: list[tuple[str, float, float, float | None]] = []
        self.blamed: Attribution | None = None
        self.platform_since: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the carried state as plain JSON values (for ``from_dict``)."""
        return {
            "scale": self.scale,
            "benefit": self.benefit.to_dict(),
            "off": self.off.to_dict(),
            "on": self.on.to_dict(),
            "known": dict(self.epochs.known),
            "nights": [
                [night, {key: list(pair) for key, pair in new.items()}] for night, new in self.epochs.nights
            ],
            "recent": [list(item) for item in self.recent],
            "blamed": self.blamed,
            "platform_since": self.platform_since,
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
        detector.benefit = Detector.from_dict(state["benefit"], detector.benefit.thresholds, better, floor)
        detector.off = Detector.from_dict(state["off"], detector.off.thresholds, better, floor)
        detector.on = Detector.from_dict(state["on"], detector.on.thresholds, better, floor)
        detector.epochs.known = dict(state["known"])
        detector.epochs.nights = [
            (night, {key: (pair[0], pair[1]) for key, pair in new.items()}) for night, new in state["nights"]
        ]
        detector.recent = [(night, off, on, control) for night, off, on, control in state["recent"]]
        detector.blamed = state["blamed"]
        detector.platform_since = state["platform_since"]
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
            since = self.benefit.open.since if self.benefit.open else self.platform_since
            state: State = "regression" if since else self.benefit.state
            return Judgement(night, state, since=since, attribution=self.blamed)
        repeated = [item for pair in reruns if (item := self._benefit(*pair)) is not None]
        judgement = self.benefit.judge(night, value, repeated, self._reference())
        off_now = self.off.judge(night, off, [pair[0] for pair in reruns])
        on_now = self.on.judge(night, on, [pair[1] for pair in reruns])
        self.recent = [*self.recent, (night, off, on, control)][-_RECENT_NIGHTS:]

        if judgement.alarm and judgement.since:
            self.blamed = self._blame(judgement.since)
            if self.blamed == "off-improved":
                self.benefit.take_for_usual()
                self.blamed = None
                return Judgement(night, "steady", judgement.change, sds=judgement.sds, attribution="off-improved")
        if judgement.state in ("regression", "recovered"):
            judgement = replace(judgement, attribution=self.blamed)
            if judgement.state == "recovered":
                self.blamed = self.platform_since = None
            return judgement
        return self._judge_platform(judgement, off_now, on_now)

    def _judge_platform(self, judgement: Judgement, off: Judgement, on: Judgement) -> Judgement:
        """Return ``judgement``, or the regression of both arms together that the ratio cannot show."""
        both = off.state == "regression" and on.state == "regression"
        if both and on.since and off.since:
            alarm = self.platform_since is None
            if self.platform_since is None:
                self.platform_since = min(on.since, off.since)
                fell = self._moved(3, self.platform_since) == "worse"
                self.blamed = "infrastructure" if fell else "platform"
            return Judgement(
                judgement.night,
                "regression",
                on.change,
                self.platform_since,
                on.sds,
                alarm,
                self.blamed,
            )
        if self.platform_since is not None:
            blamed, self.blamed, self.platform_since = self.blamed, None, None
            ended = on if on.state == "recovered" else off
            if ended.state == "recovered":
                return replace(judgement, state="recovered", since=ended.since, attribution=blamed)
        return judgement

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
        unit = 1.0 if self.scale == "log" else max(abs(centre), self.benefit.floor)
        error = max(sd, self.thresholds.min_sd * unit) * math.sqrt(1 / len(after) + 1 / len(before))
        if abs(change) < max(self.thresholds.history_margin * unit, self.thresholds.moved_sds * error):
            return "still"
        return "better" if change > 0 else "worse"

    def _benefit(self, off: float | None, on: float | None) -> float | None:
        """Return on/off (judged on the log scale) or on − off; None when a night has no such pair."""
        if not _is_number(off) or not _is_number(on) or off is None or on is None:
            return None
        if self.scale == "linear":
            return on - off
        return on / off if off > 0 else None

    def _reference(self) -> float | None:
        return self.off.usual_level() if self.scale == "linear" else None


def robust_level(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation that single outliers hardly move.

    The mean is of the values within three (MAD-based) standard deviations of the median; for the standard
    deviation, values further out than ``_WINSOR_SDS`` count as if they were there.
    """
    median = statistics.median(values)
    distances = [abs(value - median) for value in values]
    # Where most nights are the same (often: no retransmits at all), the few others are all there is to go by.
    spread = _MAD_FACTOR * statistics.median(distances) or _MEAN_FACTOR * math.fsum(distances) / len(values)
    inside = [value for value in values if abs(value - median) <= _TRIM_SDS * spread]
    centre = math.fsum(inside) / len(inside)
    limit = _WINSOR_SDS * spread
    deviations = [max(-limit, min(limit, value - centre)) for value in values]
    squares = sum(map(operator.mul, deviations, deviations))
    if squares <= 0:
        return centre, 0.0
    # Nights that resemble their neighbours carry less news each; only what cannot be chance is believed.
    echo = sum(map(operator.mul, deviations, deviations[1:])) / squares - _ECHO_ERRORS / math.sqrt(len(values))
    echo = max(0.0, min(_MAX_ECHO, echo))
    variance = squares / max(1, len(values) - 1) * (1 + echo) / (1 - echo)
    return centre, _WINSOR_FACTOR * math.sqrt(variance)


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
