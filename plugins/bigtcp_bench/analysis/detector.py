"""Judge one series night by night: learning, steady, suspect, regression or recovered.

A ``Detector`` carries everything it needs from night to night, so the newest night costs the same after ten years
as after a month, and a replay from the first night gives the same answers. It is a one-sided robust CUSUM: each
night's deviation from the usual level, in standard deviations and limited in size, adds up while it is worse by
more than a slack. What the numbers buy is shown by simulation in docs/statistics.md.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal, TypeGuard

from bigtcp_bench.analysis.levels import MEDIAN_FACTOR, change_point, changed_at, moves, robust_level, two_modes
from bigtcp_bench.in_cluster.kind import Better, Scale
from bigtcp_bench.planning.thresholds import Thresholds

State = Literal["learning", "steady", "suspect", "regression", "recovered"]
Attribution = Literal["big-tcp", "platform", "infrastructure", "off-improved"]

#: What happens to a series beside its state: an open regression gets worse, or better but not as it was, or has
#: lasted so long that its level is the usual one from now on; or the nights move between two levels.
Event = Literal["worse", "eased", "new-normal", "two-modes"]

#: A CUSUM that stays above zero this long without an alarm is the usual level moving slowly: its oldest nights are
#: then taken for usual.
_MAX_WAITING = 20

#: Newest nights whose median is the level of an open regression.
_LEVEL_NIGHTS = 20

#: A regression becomes the usual level only if the newest of its nights, one in so many, were all at its level.
_SHARE_AT_LEVEL = 3

#: Standard errors of that level that are added to the slack of the CUSUMs of an open regression.
_LEVEL_ERRORS = 0.4

#: Nights after which it is decided whether a regression is over or has only become smaller.
_DECIDING_NIGHTS = 10

#: Newest nights among which two modes are looked for, and how often they are, beside each time that a fall is
#: about to be called.
_MODES_NIGHTS = 180
_MODES_EVERY = 10

#: A stay in the worse of two modes that is less likely than this, by how long stays were before, is no mode but a
#: regression.
_LONG_STAY = 0.0005

#: Stands for the logarithm of zero or less (a total loss of throughput), far below any real value.
_LOG_OF_NOTHING = -690.0


@dataclass(frozen=True)
class Judgement:
    """What one night says about a series, given the nights before.

    ``change`` is relative to the usual level (−0.1 = 10 % below it): of this night, or, in a regression, of the
    newest nights together. None while learning, for a missing night, or relative to zero. ``since`` is the night
    on which the state began: for a regression the estimated night of the change, or, once it got worse, of that.
    ``sds`` is the night's deviation in standard deviations, positive when better. ``alarm`` is true on the one
    night a regression is first called.
    """

    night: str
    state: State
    change: float | None = None
    since: str | None = None
    sds: float | None = None
    alarm: bool = False
    attribution: Attribution | None = None
    #: "two-modes" is there on every night for as long as it is so, the others on one.
    event: Event | None = None
    #: What of the environment is new on this night, name → (before, now): an epoch begins here.
    epoch: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    #: For a regression: what of the environment changed within a few nights of its beginning.
    coincides_with: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass
class _Open:
    """A regression that has not ended: since when, for how many nights, and the newest of them at this level."""

    since: str
    nights: int
    levels: list[float]
    #: Nights of it before the level was this.
    before: int = 0
    #: Evidence that the nights are nearer to the usual level, and that they are worse still; and the nights since
    #: either left zero, which do not count for the level yet.
    back: float = 0.0
    worse: float = 0.0
    sudden: float = 0.0
    pending: list[tuple[str, float]] = field(default_factory=list)
    #: Whether its first judgement is still to come: it was found within the learning nights.
    untold: bool = False

    def settle(self, count: int) -> None:
        """Let the first ``count`` pending nights count for the level."""
        if count > 0:
            self.levels = [*self.levels, *(value for _, value in self.pending[:count])][-_LEVEL_NIGHTS:]
            self.pending = self.pending[count:]

    def start_again(self) -> None:
        """Make the level of the pending nights that of the regression."""
        self.before, self.levels = self.nights - len(self.pending), []
        self.back = self.worse = self.sudden = 0.0
        self.settle(len(self.pending))


@dataclass
class _Measure:
    """How values of a series are compared: on which scale, which way is better, the least that shares are of.

    ``kind`` is None until the learning nights decide.
    """

    kind: Scale | None
    sign: float
    floor: float

    def scaled(self, value: float) -> float:
        """Return a value on the scale, with better = higher."""
        if self.kind == "linear":
            return self.sign * value
        return self.sign * (math.log(value) if value > 0 else _LOG_OF_NOTHING)

    def unit(self, centre: float, reference: float | None = None) -> float:
        """Return what 100 % is on the scale, where ``centre`` is usual; of ``reference``, if that is given."""
        usual = centre if reference is None else reference
        return 1.0 if self.kind == "log" else max(abs(usual), self.floor)

    def relative(self, deviation: float, unit: float) -> float | None:
        """Return a deviation on the scale as a share of the usual value, positive when that is higher."""
        if self.kind == "log":
            return math.expm1(min(self.sign * deviation, 700.0))
        return self.sign * deviation / unit if unit else None


class Detector:
    """Judges one series of nightly values.

    ``better`` says which way is better (``neither`` is judged as ``higher``). ``scale`` is ``log`` for positive
    quantities, ``linear`` where zero is an ordinary value, and None to decide by the learning nights. On the
    linear scale ``floor`` is the least that margins and spreads are shares of: where the usual value is zero, a
    negligible one is no alarm. ``platform`` is for both arms together: a higher limit, and a second CUSUM for
    falls that are large at once (see ``Thresholds.sudden_cusum_limit``).
    """

    def __init__(
        self,
        thresholds: Thresholds | None = None,
        better: Better = "higher",
        scale: Scale | None = "log",
        floor: float = 0.0,
        platform: bool = False,
    ) -> None:
        self.thresholds = thresholds or Thresholds.model_validate({})
        self.measure = _Measure(scale, -1.0 if better == "lower" else 1.0, floor)
        self.platform = platform
        self.limit = self.thresholds.platform_cusum_limit if platform else self.thresholds.cusum_limit
        #: Values of usual nights, oldest first, on the scale and with better = higher; those in the worse of two
        #: modes are lifted by ``gap``.
        self.usual: list[float] = []
        self.learning = True
        self.cusum = self.sudden = self.rise = 0.0
        #: Nights since a CUSUM left zero: not yet known to be usual.
        self.waiting: list[tuple[str, float]] = []
        self.rising: list[float] = []
        self.open: _Open | None = None
        #: How far apart two modes are, where there are two.
        self.gap: float | None = None
        #: The newest nights as they were: raw while learning, then on the scale.
        self.newest: list[tuple[str, float]] = []
        self.seen = 0
        self._level: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the carried state as plain JSON values (for ``from_dict``)."""
        return {
            "scale": self.measure.kind,
            "usual": list(self.usual),
            "learning": self.learning,
            "cusum": self.cusum,
            "sudden": self.sudden,
            "rise": self.rise,
            "waiting": [list(item) for item in self.waiting],
            "rising": list(self.rising),
            "open": asdict(self.open) if self.open else None,
            "gap": self.gap,
            "newest": [list(item) for item in self.newest],
            "seen": self.seen,
        }

    @classmethod
    def from_dict(
        cls,
        state: Mapping[str, Any],
        thresholds: Thresholds | None = None,
        better: Better = "higher",
        floor: float = 0.0,
        platform: bool = False,
    ) -> Detector:
        """Return a detector that goes on where the one of ``to_dict`` stopped."""
        detector = cls(thresholds, better, state["scale"], floor, platform)
        for name in ("learning", "cusum", "sudden", "rise", "gap", "seen"):
            setattr(detector, name, state[name])
        detector.usual, detector.rising = list(state["usual"]), list(state["rising"])
        detector.waiting = [(night, value) for night, value in state["waiting"]]
        detector.newest = [(night, value) for night, value in state["newest"]]
        if state["open"]:
            detector.open = _Open(**state["open"])
            detector.open.pending = [(night, value) for night, value in detector.open.pending]
        return detector

    @property
    def state(self) -> State:
        """The lasting state after the nights so far: learning, steady or regression."""
        if self.learning:
            return "learning"
        return "regression" if self.open and not self.open.untold else "steady"

    @property
    def known_nights(self) -> int:
        """How many usual nights are known; while they are learned, how many of them have been."""
        return len(self.newest if self.learning else self.usual)

    def take_for_usual(self) -> None:
        """Make the level of the open regression the usual one: it turned out to be none, or to last."""
        if self.open:
            change = statistics.median(self.open.levels) - self._usual()[0]
            self.usual = [value + change for value in self.usual]
            self.open = None
            self._reset()

    def rerun_due(self, value: float | None, reference: float | None = None) -> bool:
        """Return whether a night with ``value`` is so far off, either way, that it is to be measured again.

        Both ways, because repeating only the bad nights would move the usual level up. Arguments as for ``judge``.
        """
        if self.learning or self.open or not is_number(value):
            return False
        scaled = self._lifted(self.measure.scaled(float(value)))
        deviation, sds, unit = self._deviation(scaled, reference)
        return abs(sds) > self.thresholds.rerun_sds and abs(deviation) > self.thresholds.rerun_margin * unit

    def judge(
        self,
        night: str,
        value: float | None,
        reruns: Sequence[float] = (),
        reference: float | None = None,
        agreed: Callable[[str], bool] | None = None,
    ) -> Judgement:
        """Take one night into account and return what it says.

        ``night`` is any text that names it, ``value`` the night's value (None or NaN: missing or not valid),
        ``reruns`` the values of its repetitions by the re-run rule: the median of all counts. ``reference`` is,
        on the linear scale, the level that relative changes refer to; by default the series' own usual one.
        ``agreed`` is asked, with the night of the change, whether a regression may be called.
        """
        if not is_number(value):
            since = self.open.since if self.open and self.state == "regression" else None
            return Judgement(night, self.state, since=since)
        settled = statistics.median([float(value), *filter(is_number, reruns)])
        self.seen += 1
        if self.learning:
            self.newest.append((night, settled))
            if len(self.newest) >= self.thresholds.learning_nights:
                self._learn(reference)
            return Judgement(night, "learning")
        scaled = self.measure.scaled(settled)
        self.newest = [*self.newest, (night, scaled)][-_MODES_NIGHTS:]
        return self._judge(night, scaled, reference, agreed)

    def _judge(
        self, night: str, scaled: float, reference: float | None, agreed: Callable[[str], bool] | None
    ) -> Judgement:
        if self.open is None and self.gap is not None:
            self._follow_modes(self.gap)
        value = self._lifted(scaled)
        deviation, sds, unit = self._deviation(value, reference)
        if self.open:
            return self._judge_open(self.open, night, value, sds, unit)
        self._add_up(sds)
        quiet: Event | None = "two-modes" if self.gap is not None else None
        change = self.measure.relative(deviation, unit)
        if self.seen % _MODES_EVERY == 0 and self._found_modes(unit):
            return Judgement(night, "steady", change, sds=sds, event="two-modes")
        found = self._fall_found(night, value, sds, unit, agreed)
        if found is not None:
            return found
        self._follow_rise(value, unit)
        limits = self.thresholds
        if sds < -limits.suspect_sds and -deviation > limits.suspect_margin * unit:
            return Judgement(night, "suspect", change, since=night, sds=sds, event=quiet)
        return Judgement(night, "steady", change, sds=sds, event=quiet)

    def _learn(self, reference: float | None) -> None:
        """Take the learning nights for usual, or those of them before a change, after which the rest is judged."""
        self.learning = False
        if self.measure.kind is None:
            self.measure.kind = "log" if min(value for _, value in self.newest) > 0 else "linear"
        self.newest = [(night, self.measure.scaled(value)) for night, value in self.newest]
        self.usual = [value for _, value in self.newest]
        unit = self.measure.unit(robust_level(self.usual)[0], reference)
        if self._found_modes(unit):
            return
        limits = self.thresholds
        at = changed_at(self.usual, limits.history_margin * unit, limits.min_sd * unit)
        if at is not None:
            self.usual = self.usual[:at]
            for night, scaled in self.newest[at:]:
                self._judge(night, scaled, reference, None)
            if self.open:
                self.open.untold = True

    def _add_up(self, sds: float) -> None:
        limits = self.thresholds
        counted = _clipped(sds, limits.cusum_clip)
        self.cusum = max(0.0, self.cusum - counted - limits.cusum_slack)
        self.rise = max(0.0, self.rise + counted - limits.cusum_slack)
        if self.platform:
            self.sudden = max(
                0.0, self.sudden - _clipped(sds, limits.sudden_cusum_clip) - limits.sudden_cusum_slack
            )

    def _fall_found(
        self, night: str, value: float, sds: float, unit: float, agreed: Callable[[str], bool] | None
    ) -> Judgement | None:
        """Update the nights in waiting; return a regression when a CUSUM and the estimate agree on one."""
        limits = self.thresholds
        if self.cusum == self.sudden == 0.0:
            self._accept([*(value for _, value in self.waiting), value])
            self.waiting = []
            return None
        self.waiting.append((night, value))
        if self.cusum > self.limit or self.sudden > limits.sudden_cusum_limit:
            centre, sd = self._usual()
            first = change_point([(value - centre) / sd for _, value in self.waiting])
            values = [value for _, value in self.waiting[first:]]
            since = self.waiting[first][0]
            change = statistics.median(values) - centre
            if -change >= limits.history_margin * unit and (agreed is None or agreed(since)):
                if self._found_modes(unit):
                    return Judgement(night, "steady", self.measure.relative(0.0, unit), sds=sds, event="two-modes")
                self._accept([value for _, value in self.waiting[:first]])
                self.open = _Open(since, len(values), list(values[-_LEVEL_NIGHTS:]))
                self._reset()
                return Judgement(night, "regression", self.measure.relative(change, unit), since, sds, alarm=True)
        if len(self.waiting) > _MAX_WAITING:
            self._accept([self.waiting.pop(0)[1]])
        return None

    def _follow_rise(self, value: float, unit: float) -> None:
        """Move the usual nights up to a level that has improved for good, so that its loss is seen later."""
        if self.rise == 0.0 or self.gap is not None:
            self.rising = []
            return
        self.rising.append(value)
        if len(self.rising) > _MAX_WAITING:
            self.rising.pop(0)
        if self.rise > self.thresholds.cusum_limit:
            change = statistics.median(self.rising) - self._usual()[0]
            if change >= self.thresholds.history_margin * unit:
                kept = len(self.usual) - min(len(self.rising), len(self.usual))
                self.usual = [value + change for value in self.usual[:kept]] + self.rising
                self._reset()

    def _judge_open(self, current: _Open, night: str, value: float, sds: float, unit: float) -> Judgement:
        limits = self.thresholds
        centre, sd = self._usual()
        level = statistics.median(current.levels)
        better = (value - level) / sd
        # The level of a few nights is off by some of its standard errors, and every night is held against it.
        extra = _LEVEL_ERRORS * MEDIAN_FACTOR / math.sqrt(len(current.levels))
        counted = _clipped(better, limits.cusum_clip)
        current.back = max(0.0, current.back + counted - limits.cusum_slack - extra)
        current.worse = max(0.0, current.worse - counted - limits.cusum_slack - extra)
        counted = _clipped(better, limits.sudden_cusum_clip)
        current.sudden = max(0.0, current.sudden - counted - limits.sudden_cusum_slack - extra)
        current.nights += 1
        current.pending.append((night, value))
        settled = len(current.pending) if current.back == current.worse == current.sudden == 0.0 else 0
        current.settle(max(settled, len(current.pending) - _MAX_WAITING))
        event: Event | None = None
        worse = current.worse > limits.platform_cusum_limit or current.sudden > limits.sudden_cusum_limit
        if worse and self._fell_again(current, level, unit):
            event = "worse"
        elif current.back > limits.cusum_limit:
            since = self._came_back(current, level, sd, unit)
            if since is not None:
                change = self.measure.relative(
                    statistics.median(value for _, value in current.pending) - centre, unit
                )
                # What was found within the learning nights, and is over before it was told, never was.
                return Judgement(night, "steady" if current.untold else "recovered", change, since, sds)
            event = "eased" if not current.pending else None
        if current.untold and value > (level + centre) / 2:
            return Judgement(night, "steady", self.measure.relative(value - centre, unit), sds=sds)
        change = self.measure.relative(statistics.median(current.levels) - centre, unit)
        at_level = current.nights - current.before
        if min(current.nights, _SHARE_AT_LEVEL * at_level) >= limits.new_normal_nights and not current.back:
            self.take_for_usual()
            # What was before is no second mode.
            self.newest = self.newest[-at_level:]
            event = "new-normal"
        alarm, current.untold = current.untold, False
        return Judgement(night, "regression", change, current.since, sds, alarm, event=event)

    def _fell_again(self, current: _Open, level: float, unit: float) -> bool:
        """Move the open regression to the lower level that its newest nights have, if they have one."""
        sd = self._usual()[1]
        first = change_point([(value - level) / sd for _, value in current.pending])
        now = statistics.median(value for _, value in current.pending[first:])
        if level - now < self.thresholds.history_margin * unit:
            return False
        current.pending = current.pending[first:]
        current.since = current.pending[0][0]
        current.start_again()
        return True

    def _came_back(self, current: _Open, level: float, sd: float, unit: float) -> str | None:
        """End the open regression and return since when, or move it to the better level of its newest nights.

        Neither while it is too early to tell which. As usual again is a level within half of the margin; ten
        nights must do for within the margin and a standard error of their mean.
        """
        first = change_point([(level - value) / sd for _, value in current.pending])
        values = [value for _, value in current.pending[first:]]
        mean = statistics.fmean(values)
        below, better = self._usual()[0] - mean, mean - level
        margin = self.thresholds.history_margin * unit
        error = sd / math.sqrt(len(values))
        enough = len(values) >= _DECIDING_NIGHTS
        if len(values) < self.thresholds.recovery_nights:
            return None
        if below <= margin / 2 or (enough and below <= margin + error):
            current.pending = current.pending[first:]
            self.open = None
            self._accept(values)
            return current.pending[0][0]
        if better >= margin and (enough or below > margin + 2 * error):
            current.pending = current.pending[first:]
            current.start_again()
        return None

    def _found_modes(self, unit: float) -> bool:
        """Return whether the newest nights move between two levels; from then on each is judged by its own."""
        if self.gap is not None:
            return False
        found = two_modes([value for _, value in self.newest], self.thresholds.suspect_margin * unit)
        if found is None:
            return False
        self._use_modes(*found)
        self._reset()
        return True

    def _use_modes(self, border: float, gap: float) -> None:
        """Take the newest nights for usual, those below ``border`` lifted by ``gap``."""
        lifted = [value if value > border else value + gap for _, value in self.newest]
        self.usual, self.gap, self._level = lifted[-self.thresholds.baseline_nights :], gap, None

    def _follow_modes(self, gap: float) -> None:
        """Judge by one level again when the nights stay at one: at the worse for too long, or at the better."""
        border = self._border()
        values = [value for _, value in self.newest]
        low = [value for value in values if value < border]
        high = [value for value in values if value >= border]
        stay = next((n for n, value in enumerate(reversed(values)) if value >= border), len(values))
        if not stay:
            if moves(values, self._usual()[0] - gap / 2, gap) < 2:
                self.usual, self.gap = high[-self.thresholds.baseline_nights :], None
                self._reset()
                return
        elif len(high) > 2:
            before = [value < border for value in values[: len(values) - stay]]
            again = sum(one and other for one, other in pairwise(before))
            # Few stays say little: two nights more are counted as stays, and one as an end.
            if ((again + 2) / (sum(before) + 3)) ** stay < _LONG_STAY:
                self.usual, self.gap = high[-self.thresholds.baseline_nights :], None
                # This night is still to be judged.
                nights = self.newest[-stay:-1]
                self.open = _Open(nights[0][0], len(nights), [value for _, value in nights[-_LEVEL_NIGHTS:]])
                self.open.untold = True
                self._reset()
                return
        if self.seen % _MODES_EVERY == 0 and not self.waiting and low and high:
            # The more nights, the better it is known how far apart the modes are.
            self._use_modes(border, statistics.median(high) - statistics.median(low))

    def _border(self) -> float:
        """Return the value below which a night is in the worse of two modes."""
        if self.gap is None:
            return -math.inf
        centre, sd = self._usual()
        if self.open:
            centre = statistics.median(self.open.levels)
        # What lies between the modes is the better one fallen, not the worse one risen.
        return min(centre - self.gap / 2, centre - self.gap + 4 * sd)

    def _lifted(self, scaled: float) -> float:
        return scaled + self.gap if self.gap is not None and scaled < self._border() else scaled

    def _reset(self) -> None:
        self.cusum = self.sudden = self.rise = 0.0
        self.waiting, self.rising, self._level = [], [], None

    def _accept(self, values: Iterable[float]) -> None:
        self.usual = [*self.usual, *values][-self.thresholds.baseline_nights :]
        self._level = None

    def _usual(self) -> tuple[float, float]:
        """Return centre and standard deviation of the usual nights, both robust, on the scale of the series."""
        if self._level is None:
            self._level = robust_level(self.usual)
        centre, sd = self._level
        return centre, max(sd, self.thresholds.min_sd * self.measure.unit(centre), 1e-300)

    def _deviation(self, scaled: float, reference: float | None) -> tuple[float, float, float]:
        """Return deviation from the usual level, the same in standard deviations, and the unit of 100 %."""
        centre, sd = self._usual()
        # The level of n nights is itself uncertain, and so is their spread: the t distribution's quantiles are
        # brought to the normal distribution's by Wallace's approximation.
        freedom = max(1, len(self.usual) - 1)
        t = (scaled - centre) / (sd * math.sqrt(1 + 1 / len(self.usual)))
        size = math.sqrt(freedom * math.log1p(min(t * t, 1e100) / freedom)) * (8 * freedom + 1) / (8 * freedom + 3)
        return scaled - centre, math.copysign(size, t), self.measure.unit(centre, reference)


def is_number(value: float | None) -> TypeGuard[float]:
    """Return whether there is a finite number."""
    return value is not None and math.isfinite(value)


def _clipped(value: float, most: float) -> float:
    return max(-most, min(most, value))
