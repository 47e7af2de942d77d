"""One incident as people need it: what got worse, by how much, since which run, and what changed about then."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from bigtcp_bench.planning.metrics import gained
from bigtcp_bench.report.differences import Difference, differences
from bigtcp_bench.report.headline import Gain, main_first, moved_text
from bigtcp_bench.report.units import change_text
from bigtcp_bench.report.words import day_text, gain_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bigtcp_bench.warehouse.gains import RunOfSeries
    from bigtcp_bench.warehouse.incidents import Incident, Member
    from bigtcp_bench.warehouse.store import Warehouse


@dataclass(frozen=True)
class IncidentStory:
    """An incident with what the warehouse knows about its beginning.

    ``last_good`` and ``first_bad`` are the nights on either side of its estimated beginning that measured the
    leading series. ``changed`` is what was recorded and differs between some nights before and after it, None
    where one side is not known; ``versions`` are Cilium's, where it is among that.
    """

    incident: Incident
    gain: Gain | None = None
    last_good: RunOfSeries | None = None
    first_bad: RunOfSeries | None = None
    changed: tuple[Difference, ...] | None = None
    versions: tuple[str, str] | None = None

    @classmethod
    def from_warehouse(cls, warehouse: Warehouse, incident: Incident) -> IncidentStory:
        """Return what ``warehouse`` knows about ``incident``."""
        from bigtcp_bench.warehouse.gains import gains_before, runs_about

        lead = lead_of(incident.members)
        if lead is None:
            return cls(incident)
        about = runs_about(warehouse, incident.cluster, *lead.series, incident.changed_on, incident.closed_on)
        key = (*lead.series, incident.changed_on)
        before = gains_before(warehouse, incident.cluster, [key]).get(key)
        gain = Gain.of(lead.metric, before, about.newest_change)
        if not (about.before and about.after):
            return cls(incident, gain)
        ends = about.before[-1], about.after[-1]
        changed = tuple(differences(*(warehouse.run(one.number) for one in ends)))
        return cls(incident, gain, about.before[0], about.after[0], changed, _versions(*ends))

    @property
    def lead(self) -> Member | None:
        """Return the series that stands for the incident."""
        return lead_of(self.incident.members)

    def what(self) -> str:
        """Return what got worse by how much: ``ipv4-stream-1 throughput, gain fell from +41 % to +28 %``."""
        lead = self.lead
        if lead is None:
            return "no series (any more)"
        others = len(self.incident.members) - 1
        moved = moved_text(lead.series, lead.change, self.incident.attribution, self.gain)
        return f"{moved}{f' (and {others} more)' if others else ''}"

    def two_numbers(self) -> str:
        """Return why the lead's change and its gain are two numbers for one thing; empty where it is one."""
        lead, gain = self.lead, self.gain
        if lead is None or gain is None or "gain fell" not in self.what():
            return ""
        before, now = (1 + gained(lead.metric, part or 0.0) for part in (gain.before, gain.now))
        return (
            f"A gain from {gain_text(gain.before)} to {gain_text(gain.now)} is on against off from {before:.2f} "
            f"to {now:.2f}, which is {change_text(now / before - 1)}. That is the newest night; "
            f"{change_text(lead.change)} is all nights since."
        )

    def text(self, seen_from: date | None = None) -> str:
        """Return it in one line: ``regression since 9 Nov: …``."""
        return f"{self.incident.state} since {day_text(self.incident.changed_on, seen_from)}: {self.what()}"

    def changed_text(self) -> str:
        """Return what changed about that night, in words."""
        if self.changed is None:
            return "not known: there is no valid run on both sides of its beginning"
        return "; ".join(map(str, self.changed)) or "nothing that is recorded"


def _versions(before: RunOfSeries, after: RunOfSeries) -> tuple[str, str] | None:
    known = before.cilium_version, after.cilium_version
    return (known[0], known[1]) if known[0] and known[1] and known[0] != known[1] else None


def lead_of(members: Iterable[Member]) -> Member | None:
    """Return the member that stands for all: confirmed, a scenario's main metric, moved most."""
    return next(iter(most_telling(members)), None)


def most_telling(members: Iterable[Member]) -> list[Member]:
    """Return ``members``, the most telling first."""
    return sorted(members, key=lambda one: (not one.confirmed, *main_first(one.series, one.change)))
