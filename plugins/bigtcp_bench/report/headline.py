"""A run's news in one line, the same everywhere: what needs a person, whether BIG TCP helps, what got worse.

Pure: who shows a run (pages, terminal, Slack, the note in Airflow) hands over an ``Outcome`` and gets the words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

from bigtcp_bench.planning.metrics import METRICS, gained
from bigtcp_bench.planning.plan import main_metric
from bigtcp_bench.report import units
from bigtcp_bench.report.history import SeriesView
from bigtcp_bench.report.reasons import headline_reason
from bigtcp_bench.report.words import VERDICT_WORDS, day_text, events_text, gain_text, series_text

#: Scenario and metric.
Series = tuple[str, str]

_SEPARATOR = " · "
#: Regressions that begin on different nights and are told one by one; more are counted.
_MOST_TOLD = 2
_PLATFORM = {"platform": "in both arms", "infrastructure": "in both arms, as between the nodes themselves"}


@dataclass(frozen=True)
class Gain:
    """What BIG TCP gained in one series, positive when better: ``before`` it changed, and ``now``."""

    before: float | None
    now: float | None

    @classmethod
    def of(cls, metric: str, before: float | None, now: float | None) -> Gain:
        """Return the gain for two changes of ``metric``, on against off (0.1 = 10 % more)."""
        return cls(*(None if change is None else gained(metric, change) for change in (before, now)))


def regressions(series: Iterable[SeriesView]) -> list[tuple[str, str, str]]:
    """Return scenario, metric and first night of every one of ``series`` that is a regression."""
    return [(*one.series, one.since) for one in series if one.state == "regression" and one.since]


def gains_of(
    series: Iterable[SeriesView],
    before: Mapping[tuple[str, str, str], float],
    now: Mapping[Series, float | None],
) -> dict[Series, Gain]:
    """Return what BIG TCP gained in every regression among ``series``.

    ``before`` are the changes, on against off, before each of ``regressions(series)``; ``now`` are those of now.
    """
    return {
        (scenario, metric): Gain.of(metric, before.get((scenario, metric, night)), now.get((scenario, metric)))
        for scenario, metric, night in regressions(series)
    }


@dataclass(frozen=True)
class Outcome:
    """What became of one run, as far as its headline says it. Words are those that are stored."""

    status: str
    night: date | None = None
    reasons: Sequence[str] = ()
    is_aa: bool = False
    restore_failed: bool = False
    restore_detail: str = ""
    verdicts: Mapping[str, int] = field(default_factory=dict)
    #: The series that are worse with BIG TCP than without.
    worse: Sequence[Series] = ()
    #: The run among the other nights; nothing for a run that is none of them.
    series: Sequence[SeriesView] = ()
    gains: Mapping[Series, Gain] = field(default_factory=dict)
    learning_nights: int = 0
    #: Series of incidents that somebody has acknowledged, with that name.
    known: Mapping[Series, str] = field(default_factory=dict)
    #: What the comparison with an earlier run came to, or why there is none, and whether something got worse.
    against: str = ""
    against_worse: bool = False
    #: That the note says something else than was measured.
    note_conflict: str = ""
    #: How far a run has come that has not ended.
    progress: str = ""


@dataclass(frozen=True)
class Headline:
    """The parts of a headline: the state in capitals, what needs a person, and the rest."""

    state: str
    needs: tuple[str, ...]
    rest: tuple[str, ...]

    @property
    def text(self) -> str:
        """Return it in one line."""
        return _SEPARATOR.join((self.state, *self.needs, *self.rest))


#: What to do first when nobody knows whether the cluster is as it was before.
RESTORE_ADVICE = "first run the DAG bigtcp_restore, or the command bigtcp-bench restore"


def headline(outcome: Outcome) -> Headline:
    """Return the headline of a run."""
    found = _of_run(outcome)
    if not outcome.restore_failed:
        return found
    detail = outcome.restore_detail or "nobody knows whether the cluster is as it was before"
    # A run that failed by its restore has the same reason.
    own = found.state if any(detail in need for need in found.needs) else found.text
    return Headline("RESTORE NOT VERIFIED", (detail, RESTORE_ADVICE, f"the run itself: {own}"), ())


def _of_run(outcome: Outcome) -> Headline:
    state = outcome.status.upper()
    if outcome.status in ("invalid", "failed"):
        return Headline(state, (headline_reason(outcome.reasons),), ())
    if outcome.status == "running":
        return Headline(state, (), (outcome.progress or "the run has not ended",))
    needs = [outcome.note_conflict, outcome.against if outcome.against_worse else "", *_regressions(outcome)]
    rest = ["" if outcome.against_worse else outcome.against, _helps(outcome), _across_nights(outcome)]
    return Headline(state, *(tuple(filter(None, parts)) for parts in (needs, rest)))


def main_first(series: Series, change: float | None) -> tuple[bool, float, str, str]:
    """Return by what series are sorted to have the most telling one first.

    That is the one whose scenario's main metric got worse most; ``change`` is relative.
    """
    scenario, metric = series
    return (metric != main_metric(scenario), gained(metric, change or 0.0), scenario, metric)


def moved_text(series: Series, change: float | None, attribution: str | None, gain: Gain | None) -> str:
    """Return how one series got worse: ``ipv4-stream-1 throughput, gain fell from +41 % to +28 %``."""
    name, metric = series_text(*series), METRICS[series[1]]
    if attribution in _PLATFORM:
        went = "rose" if (change or 0) > 0 else "fell"
        return f"{name} {went} by {gain_text(change).lstrip('+−')} {_PLATFORM[attribution]}"
    if gain is None or gain.before is None or gain.now is None or metric.scale == "linear":
        return f"{name} {units.change_text(change)}"
    texts = gain_text(gain.before), gain_text(gain.now)
    if gain.now >= gain.before or texts[0] == texts[1]:
        # The newest night alone does not show what the newest nights together do.
        return f"{name} {units.change_text(change)} of its usual level"
    return f"{name}, gain fell from {texts[0]} to {texts[1]}"


def counts_text(verdicts: Mapping[str, int], worse: Sequence[Series] = (), helps: str = "helps") -> str:
    """Return counted verdicts, the four that answer always: ``helps 27, worse 0, unchanged 3, too noisy 4``.

    ``worse`` are the series behind the second one; the most telling of them is named.
    """
    counts = Counter(verdicts)
    named = ""
    if worse:
        first = series_text(*min(worse, key=lambda one: main_first(one, None)))
        named = f" ({first}{f' and {len(worse) - 1} more' if len(worse) > 1 else ''})"
    words = [f"{helps} {counts['faster']}", f"worse {counts['slower']}{named}"]
    words += [f"{VERDICT_WORDS[verdict]} {counts[verdict]}" for verdict in ("equivalent", "inconclusive")]
    if counts["invalid"]:
        words.append(f"{VERDICT_WORDS['invalid']} {counts['invalid']}")
    return ", ".join(words)


def _helps(outcome: Outcome) -> str:
    if not any(outcome.verdicts.values()):
        return "nothing to compare"
    if outcome.is_aa:
        return f"A/A run, the same arm twice: {counts_text(outcome.verdicts, outcome.worse, 'better')}"
    return counts_text(outcome.verdicts, outcome.worse)


def _regressions(outcome: Outcome) -> list[str]:
    by_night: dict[str, list[SeriesView]] = {}
    for one in outcome.series:
        if one.state == "regression":
            by_night.setdefault(one.since or "", []).append(one)
    told = [_regression(night, by_night[night], outcome) for night in sorted(by_night, reverse=True)]
    if len(told) > _MOST_TOLD:
        return [*told[:_MOST_TOLD], f"and regressions since {len(told) - _MOST_TOLD} earlier nights"]
    return told


def _regression(night: str, members: list[SeriesView], outcome: Outcome) -> str:
    lead, *others = sorted(members, key=lambda one: main_first(one.series, one.change))
    by = outcome.known.get(lead.series)
    word = f"regression known to {by}" if by else "regression"
    since = f" since {day_text(night, outcome.night)}" if night else ""
    more = f" (and {len(others)} more)" if others else ""
    events = events_text(one.event for one in members)
    moved = moved_text(lead.series, lead.change, lead.attribution, outcome.gains.get(lead.series))
    return f"{word}{since}{events}: {moved}{more}"


def _across_nights(outcome: Outcome) -> str:
    states = Counter(one.state for one in outcome.series)
    if not states:
        return ""
    learning = states["learning"]
    if learning == len(outcome.series):
        known = min(one.nights for one in outcome.series)
        return f"learning what is usual: {known} of {outcome.learning_nights} nights{_plan_changed(outcome)}"
    parts = [_told(outcome, "suspect", "suspicion"), _told(outcome, "recovered", "recovered")]
    if not states["regression"] and not any(parts):
        parts.append("nothing got worse since the nights before")
    if learning:
        parts.append(f"{learning} of {len(outcome.series)} series still learning{_plan_changed(outcome)}")
    parts.append(_first_of([one for one in outcome.series if one.event == "two-modes"], "two modes"))
    return ", ".join(part for part in parts if part)


def _told(outcome: Outcome, state: str, word: str) -> str:
    return _first_of([one for one in outcome.series if one.state == state], word)


def _first_of(found: Sequence[SeriesView], word: str) -> str:
    if not found:
        return ""
    lead = min(found, key=lambda one: main_first(one.series, one.change))
    size = f" {units.change_text(lead.change)}" if word == "suspicion" else ""
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{word}: {series_text(*lead.series)}{size}{more}"


def _plan_changed(outcome: Outcome) -> str:
    days = [one.plan_changed_on for one in outcome.series if one.state == "learning" and one.plan_changed_on]
    return f" since the plan changed on {day_text(max(days), outcome.night)}" if days else ""
