"""A run against an earlier one: what changed between them, how both arms moved, and the answer in one line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from bigtcp_bench.cluster.fingerprint import Fingerprint
from bigtcp_bench.planning.metrics import gained
from bigtcp_bench.planning.plan import SCENARIOS
from bigtcp_bench.planning.terms import same_terms
from bigtcp_bench.planning.thresholds import thresholds_of
from bigtcp_bench.report import units
from bigtcp_bench.report.words import day_text, gain_text, series_text
from bigtcp_bench.warehouse.controls import MACHINES
from bigtcp_bench.warehouse.records import BY_HAND
from bigtcp_bench.warehouse.verdicts import ENVIRONMENT

if TYPE_CHECKING:
    import pandas as pd

    from bigtcp_bench.analysis.change import Moved, ScenarioChange
    from bigtcp_bench.warehouse.cilium_runs import CiliumRun
    from bigtcp_bench.warehouse.store import Warehouse

#: How the ids of the upgrade watch's runs begin.
_BY_WATCH = "upgrade__"
#: A run by hand that says nothing is about the last change of Cilium when that is not longer ago.
_RECENT = timedelta(days=14)
_ABOUT_CILIUM = re.compile(r"cilium|upgrade|downgrade|rollout", re.IGNORECASE)
#: A version of Cilium in a note: 1.18, 1.18.2, v1.19.0-rc.0.
_VERSION = re.compile(r"\bv?(1\.\d{1,2}(?:\.\d+)?(?:-[0-9A-Za-z.]*[0-9A-Za-z])?)(?![\w.]*\d)")


@dataclass(frozen=True)
class NotCompared:
    """Why a run that asks for it is not compared with an earlier one, in one clause."""

    reason: str

    def answer(self, seen_from: date | None = None) -> tuple[str, bool]:
        """Return that in one line, and that nothing got worse, as a ChangeView answers."""
        return f"not compared with an earlier run: {self.reason}", False


@dataclass(frozen=True)
class ChangeView:
    """What a run says against an earlier one.

    ``before`` is the number of the run that it is compared with, ``before_started`` when that began. ``cilium``
    are the differences between the two Cilium, ``others`` what else of the environment differs, one text each.
    ``level`` is that of the intervals in ``scenarios``, ``min_runs`` how many runs before the change they need.
    """

    before: int
    before_run_id: str
    before_started: datetime
    cilium: tuple[str, ...]
    others: tuple[str, ...]
    scenarios: tuple[ScenarioChange, ...]
    level: float
    min_runs: int

    @property
    def has_intervals(self) -> bool:
        """Whether enough runs before the change are known, for at least one scenario."""
        return _has_intervals(self.scenarios)

    @property
    def title(self) -> str:
        """Return which run this one is compared with."""
        what = "the last run before Cilium was changed" if self.cilium else "the last run before"
        return f"against {what}: run {self.before} of {self.before_started:%Y-%m-%d %H:%M}"

    def answer(self, seen_from: date | None = None) -> tuple[str, bool]:
        """Return the answer in one line, and whether something got worse by more than chance."""
        what = "; ".join((f"Cilium {'; '.join(self.cilium)}" if self.cilium else "same Cilium", *self.others[:1]))
        against = f"against run {self.before} of {day_text(self.before_started.date(), seen_from)} ({what})"
        said, worse = moved_answer(self.scenarios)
        return f"{against}: {said}", worse

    @classmethod
    def from_warehouse(cls, warehouse: Warehouse, row: Mapping[str, Any]) -> ChangeView | NotCompared | None:
        """Return what the run of ``row`` says against an earlier one, or why it says nothing; None: nobody asks.

        Asked for is a run with a note, which says why it was started, a run by hand, one of the upgrade watch, and
        the first valid run of a Cilium. It is compared with the last valid run that measured a scenario of it on
        the same terms: of another Cilium where Cilium is the question, else with whatever was before.
        """
        from bigtcp_bench.warehouse.cilium_runs import newest

        if row["status"] != "valid" or row["is_aa"]:
            return None
        asked = asks(row["note"], row["trigger"], row["run_id"])
        now = Fingerprint.of_row(row)
        if now is None:
            return NotCompared("its Cilium was not recorded") if asked else None
        plan: Mapping[str, Any] = row["plan"] or {}

        def comparable(run: CiliumRun) -> list[str]:
            return [
                name
                for name in plan.get("scenarios", ())
                if name in SCENARIOS and same_terms(name, run.plan, plan)
            ]

        def differs(run: CiliumRun) -> bool:
            return bool(run.fingerprint.differences(now))

        last = newest(warehouse, row["cluster"], before=row["id"])
        if last is None:
            return NotCompared("this is the cluster's first valid run") if asked else None
        if not (asked or differs(last)):
            return None
        other = newest(
            warehouse, row["cluster"], lambda run: differs(run) and bool(comparable(run)), before=row["id"]
        )
        recent = other is not None and row["started_at"] - other.started_at <= _RECENT
        if other is not None and (differs(last) or _is_about_cilium(row["note"], recent)):
            found: CiliumRun | None = other
        else:
            found = newest(warehouse, row["cluster"], lambda run: bool(comparable(run)), before=row["id"])
        if found is None:
            return NotCompared("no earlier valid run measured any of its scenarios on the same terms")
        made = _compared(warehouse, row, now, found, comparable(found))
        return made or NotCompared(f"run {found.number} and this one judged no scenario in common")


@dataclass(frozen=True)
class Upgrade:
    """The first run of the newest Cilium, what it said against the one before, and whether that is worse."""

    run: int
    answer: str
    worse: bool

    @classmethod
    def from_warehouse(cls, warehouse: Warehouse, number: int, seen_from: date) -> Upgrade | None:
        """Return what run ``number`` says, the one that ``warehouse.cilium_runs.first_of_version`` returns."""
        found = ChangeView.from_warehouse(warehouse, warehouse.run(number))
        return cls(number, *found.answer(seen_from)) if found is not None else None


def moved_answer(scenarios: Sequence[ScenarioChange]) -> tuple[str, bool]:
    """Return what became worse, else what became better, in a clause; and whether it is worse.

    There must be at least one scenario.
    """
    moved = [(item, arm, getattr(item, arm)) for item in scenarios for arm in ("off", "on", "benefit")]
    if not _has_intervals(scenarios):
        least = min(moved, key=lambda one: gained(one[0].metric, one[2].change))
        return f"at worst {_moved_text(*least)}; how much of it is chance nobody knows yet", False
    for word, sign in (("worse", -1), ("better", 1)):
        if of := [one for one in moved if _far(one[0], one[2]) * sign > 0]:
            most = max(of, key=lambda one: abs(_far(one[0], one[2])))
            others = len({one[0].scenario for one in of}) - 1
            more = f" (and {others} more scenario{'s' if others > 1 else ''})" if others else ""
            return f"{word}, {_moved_text(*most)}{more}", word == "worse"
    return "nothing moved by more than chance", False


def compared_before(warehouse: Warehouse, cluster: str, number: int, before: int) -> bool:
    """Return whether a run that began after ``before`` and before run ``number`` was compared with ``before``."""
    from bigtcp_bench.warehouse.cilium_runs import between

    found = (
        ChangeView.from_warehouse(warehouse, warehouse.run(one))
        for one in between(warehouse, cluster, before, number)
    )
    return any(isinstance(change, ChangeView) and change.before == before for change in found)


def asks(note: str | None, trigger: str | None, run_id: str) -> bool:
    """Return whether a run was started for a reason of its own, by a person or by the upgrade watch."""
    return bool(note) or trigger == BY_HAND or run_id.startswith(_BY_WATCH)


def note_conflict(note: str | None, cilium_version: str | None) -> str:
    """Return that a note names another Cilium than was measured; nothing when it does not, or names none."""
    if not note or not cilium_version or "cilium" not in note.lower():
        return ""
    measured = cilium_version.split()[0].removeprefix("v")
    named = [version.removeprefix("v") for version in _VERSION.findall(note)]
    if not named or any(measured == one or measured.startswith(f"{one}.") for one in named):
        return ""
    return f"the note names Cilium {', '.join(dict.fromkeys(named))}, measured was {measured}"


def _compared(
    warehouse: Warehouse, row: Mapping[str, Any], now: Fingerprint, found: CiliumRun, scenarios: list[str]
) -> ChangeView | None:
    from bigtcp_bench.analysis.change import MIN_RUNS, compare_runs

    thresholds = thresholds_of(row["plan"])
    changes = compare_runs(
        warehouse.comparisons_frame(found.number),
        warehouse.comparisons_frame(row["id"]),
        runs_like(warehouse, row["cluster"], found.number, scenarios),
        scenarios,
        thresholds,
    )
    if not changes:
        return None
    earlier = warehouse.run(found.number)
    return ChangeView(
        before=found.number,
        before_run_id=found.run_id,
        before_started=found.started_at,
        cilium=tuple(_cilium(earlier, row, found.fingerprint, now)),
        others=tuple(
            f"{name.replace('_', ' ')} {earlier[name]} → {row[name]}"
            for name in ENVIRONMENT
            if name != "cilium_version" and earlier[name] != row[name]
        ),
        scenarios=tuple(changes),
        level=thresholds.confidence_level,
        min_runs=MIN_RUNS,
    )


def _is_about_cilium(note: str | None, recent: bool) -> bool:
    """Return whether a run asks what a change of Cilium did, rather than one of a NIC, a kernel or a setting."""
    return bool(_ABOUT_CILIUM.search(note)) if note else recent


def _has_intervals(scenarios: Sequence[ScenarioChange]) -> bool:
    return any(item.off.low is not None for item in scenarios)


def _far(item: ScenarioChange, moved: Moved) -> float:
    """Return how much better a figure became; negative when worse, 0 where chance may do it."""
    return gained(item.metric, moved.change) if moved.beyond_chance else 0.0


def _moved_text(item: ScenarioChange, arm: str, moved: Moved) -> str:
    series = series_text(item.scenario, item.metric)
    if arm == "benefit":
        gains = (gain_text(gained(item.metric, ratio - 1)) for ratio in (moved.before, moved.after))
        return f"{series}, gain went from {' to '.join(gains)}"
    size = units.change_with_interval(moved.change, moved.low, moved.high)
    return f"{series} {size} with BIG TCP {arm}"


def _cilium(
    earlier: Mapping[str, Any], row: Mapping[str, Any], before: Fingerprint, now: Fingerprint
) -> list[str]:
    """Return the differences of Cilium; where the agents tell their versions, these and not the image."""
    versions = earlier["cilium_version"], row["cilium_version"]
    found = before.differences(now)
    if all(versions) and versions[0] != versions[1]:
        return [f"{versions[0]} → {versions[1]}", *(str(item) for item in found if item.name != "image")]
    return [str(item) for item in found]


def runs_like(warehouse: Warehouse, cluster: str, number: int, scenarios: list[str]) -> pd.DataFrame:
    """Return the history of run ``number``, oldest first: runs of its plan on its machines.

    Others say nothing about how much runs like it differ.
    """
    from bigtcp_bench.analysis.change import MAX_RUNS

    frame = warehouse.series_frame(cluster, scenarios=scenarios, nights=MAX_RUNS, until_run=number)
    machines = frame.loc[frame["run_id"] == number, list(MACHINES)].drop_duplicates()
    return frame.merge(machines, on=list(MACHINES), how="inner") if len(machines) == 1 else frame.iloc[:0]
