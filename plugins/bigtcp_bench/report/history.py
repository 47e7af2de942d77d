"""What a night says across nights, as data and as lines of text: states of the series, re-runs, open incidents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.planning.plan import main_metric
from bigtcp_bench.planning.thresholds import thresholds_of
from bigtcp_bench.report import units
from bigtcp_bench.report.words import CAUSES, events_text

if TYPE_CHECKING:
    from bigtcp_bench.warehouse.store import Warehouse

#: States in the order in which they are counted; the first three are worth a line of their own.
STATES = ("regression", "suspect", "recovered", "steady", "learning")
_TOLD = STATES[:3]
#: What a number of them is called, where that is not the state's own word.
_COUNTED = {"regression": "in regression"}


@dataclass(frozen=True)
class SeriesView:
    """The state of one scenario and metric after a night; ``nights`` is how many usual ones are known.

    ``coincides_with`` names what of the environment changed about the time of a regression, with before and now.
    ``rerun`` is None when the scenario was measured once, else why the second measurement does not count, if so.
    """

    scenario: str
    metric: str
    state: str
    change: float | None = None
    since: str | None = None
    attribution: str | None = None
    nights: int = 0
    coincides_with: tuple[tuple[str, str, str], ...] = ()
    rerun: tuple[str, ...] | None = None
    #: Whether that was because it was far off what is usual.
    far_off: bool = True
    #: As in ``analysis.detector.Judgement``.
    event: str | None = None
    #: The night from which on the plan measures it on other terms, and these, while they are news.
    plan_changed_on: str | None = None
    plan_changes: tuple[tuple[str, str, str], ...] = ()

    @property
    def series(self) -> tuple[str, str]:
        """Scenario and metric."""
        return self.scenario, self.metric


@dataclass(frozen=True)
class IncidentView:
    """An open incident; ``series`` are its (scenario, metric)."""

    number: int
    state: str
    changed_on: str
    attribution: str | None
    series: frozenset[tuple[str, str]]
    acknowledged_by: str | None = None
    acknowledged_note: str | None = None

    @property
    def text(self) -> str:
        """Return what it is, and who knows of it."""
        cause = f", attributed to {CAUSES[self.attribution]}" if self.attribution in CAUSES else ""
        text = f"{self.state} since {self.changed_on}, {len(self.series)} series{cause}"
        if self.acknowledged_by is None:
            return text
        note = f": {self.acknowledged_note}" if self.acknowledged_note else ""
        return f"{text}; acknowledged by {self.acknowledged_by}{note}"


@dataclass(frozen=True)
class HistoryView:
    """One night among the others."""

    series: tuple[SeriesView, ...] = ()
    incidents: tuple[IncidentView, ...] = ()
    #: Valid nights before a series is judged.
    learning_nights: int = 0
    #: Series whose incident somebody has ended by hand, with the night and the name: what began before is silent.
    closed: Mapping[tuple[str, str], tuple[str, str]] = field(default_factory=dict)

    @classmethod
    def from_warehouse(cls, warehouse: Warehouse, run: Mapping[str, Any]) -> HistoryView:
        """Return what ``warehouse`` knows about the night of ``run``, a row of ``bigtcp_run``."""
        from bigtcp_bench.warehouse import incidents

        thresholds = thresholds_of(run["plan"])
        night = run["started_at"].date().isoformat()
        return cls(
            series=tuple(map(_series, warehouse.judgements_frame(run["id"]).to_dict("records"))),
            incidents=tuple(
                IncidentView(
                    number=one.id,
                    state=one.state,
                    changed_on=one.changed_on,
                    attribution=one.attribution,
                    series=frozenset(member.series for member in one.members),
                    acknowledged_by=one.acknowledged_by if one.acknowledged else None,
                    acknowledged_note=one.acknowledged_note,
                )
                for one in incidents.open_incidents(warehouse, run["cluster"])
                if one.suspected_on <= night
            ),
            closed={
                member.series: (one.closed_on or "", one.closed_by or "somebody")
                for one in incidents.closed_by_hand(warehouse, run["cluster"])
                for member in one.members
            },
            learning_nights=thresholds.learning_nights,
        )

    def of(self, series: tuple[str, str]) -> SeriesView | None:
        """Return what the night says of one ``series``, scenario and metric."""
        return next((one for one in self.series if one.series == series), None)

    @property
    def known(self) -> dict[tuple[str, str], str]:
        """Return the series of incidents that somebody has acknowledged or closed, each with that name."""
        since = {one.series: one.since for one in self.series if one.since is not None}
        found = {
            series: by for series, (night, by) in self.closed.items() if series in since and since[series] <= night
        }
        return found | {
            series: one.acknowledged_by
            for one in self.incidents
            if one.acknowledged_by is not None
            for series in one.series
        }

    def state_line(self) -> str:
        """Return the states of all series in one line; empty when the night was not judged."""
        counts = Counter(one.state for one in self.series)
        if not counts:
            return ""
        if set(counts) == {"learning"}:
            return f"learning ({min(one.nights for one in self.series)} of {self.learning_nights} nights)"
        words = {state: _COUNTED.get(state, state) for state in STATES if counts[state]}
        if len(words) == 1:
            return f"{len(self.series)} series, all {next(iter(words.values()))}"
        told = ", ".join(f"{counts[state]} {word}" for state, word in words.items())
        return f"{len(self.series)} series: {told}"

    def lines(self) -> list[str]:
        """Return one line for everything that is not as usual and that nobody has acknowledged or closed."""
        return [*self.series_lines(), *(f"incident {one.number}: {one.text}" for one in self.incidents)]

    def series_lines(self) -> list[str]:
        """Return those of these lines that are about series, not about incidents."""
        found = []
        for scenario in dict.fromkeys(one.scenario for one in self.series):
            of = [one for one in self.series if one.scenario == scenario]
            found += _plan_line(of)
            for state in _TOLD:
                told = [one for one in of if one.state == state and one.series not in self.known]
                if told:
                    found.append(_told_line(scenario, state, told))
            modes = [METRICS[one.metric].short_label for one in of if one.event == "two-modes"]
            if modes:
                found.append(f"{scenario}: two modes: {', '.join(modes)}; each night is judged by the nearer one")
            found += _rerun_line(of[0])
        return found


def _series(row: Mapping[Any, Any]) -> SeriesView:
    details: Mapping[str, Any] = row["details"] or {}
    change, since, attribution = (units.known(row[name]) for name in ("change", "since", "attribution"))
    rerun, changed = details.get("rerun"), details.get("plan_changed") or {}
    return SeriesView(
        scenario=row["scenario"],
        metric=row["metric"],
        state=row["state"],
        change=change,
        since=since,
        attribution=attribution,
        nights=int(details.get("nights", 0)),
        coincides_with=tuple(
            (name, before, now) for name, (before, now) in (details.get("coincides_with") or {}).items()
        ),
        rerun=None if rerun is None else tuple(rerun.get("reasons", ())),
        far_off=rerun is None or rerun.get("far_off", True),
        event=details.get("event"),
        plan_changed_on=changed.get("on"),
        plan_changes=tuple((name, before, now) for name, (before, now) in changed.get("terms", {}).items()),
    )


def _told_line(scenario: str, state: str, told: list[SeriesView]) -> str:
    main = main_metric(scenario)
    told = sorted(told, key=lambda one: one.metric != main)
    sizes = ", ".join(f"{METRICS[one.metric].short_label} {units.change_text(one.change)}" for one in told)
    first = told[0]
    since = f" since {min(one.since for one in told if one.since)}" if first.since and state != "suspect" else ""
    causes = list(dict.fromkeys(CAUSES[one.attribution] for one in told if one.attribution in CAUSES))
    cause = f"; attributed to {' and '.join(causes)}" if causes else ""
    changed = dict.fromkeys(change for one in told for change in one.coincides_with)
    coincides = f"; about then changed {changes_text(changed)}"
    line = f"{scenario}: {state}{since}{events_text(one.event for one in told)}: {sizes}{cause}"
    return f"{line}{coincides if changed else ''}"


def _plan_line(of: list[SeriesView]) -> list[str]:
    """Return that a scenario is measured on other terms than before, and what that means for its history."""
    one = next((one for one in of if one.plan_changed_on is not None), None)
    if one is None:
        return []
    what = changes_text(one.plan_changes) or "its scenario"
    then = "is learned anew" if one.state == "learning" else "goes on from the nights on the same terms"
    return [f"{one.scenario}: the plan changed on {one.plan_changed_on}: {what}; its history {then}"]


def changes_text(changes: Iterable[tuple[str, str, str]]) -> str:
    """Return what was changed, name, before and now, as ``Cilium 1.18.1 → 1.18.2, client kernel …``."""
    names = {"cilium_version": "Cilium"}
    told = ((names.get(name, name.replace("_", " ")), before, now) for name, before, now in changes)
    return ", ".join(f"{name} {before} → {now}" for name, before, now in told)


def _rerun_line(one: SeriesView) -> list[str]:
    if one.rerun is None:
        return []
    if not one.rerun:
        told = f"{one.scenario}: was far off, so measured twice more; the median of the three counts"
        return [told] if one.far_off else []
    was = "was far off" if one.far_off else "was not known well enough"
    return [f"{one.scenario}: {was}, but its re-run does not count: {one.rerun[0]}"]
