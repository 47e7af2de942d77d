"""The headlines of many runs, for lists, in a few queries; ``RunView.headline`` has the same words for one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from bigtcp_bench.cluster.fingerprint import Fingerprint
from bigtcp_bench.planning.thresholds import Thresholds
from bigtcp_bench.report.change import ChangeView, asks
from bigtcp_bench.report.headline import Gain, Headline, Outcome, Series, headline
from bigtcp_bench.report.history import SeriesView
from bigtcp_bench.report.view import RunView, against_of

if TYPE_CHECKING:
    from bigtcp_bench.warehouse.lists import ListedComparison, ListedRun, ListedSeries
    from bigtcp_bench.warehouse.store import Warehouse

#: Scenario, metric, and the night since when it is a regression, → the change of arm on against off before.
_Before = dict[tuple[str, str, str], float]


def headlines(
    warehouse: Warehouse, numbers: Collection[int], whole_clusters: Collection[str] | None = None
) -> dict[int, Headline]:
    """Return the headline of each of these runs.

    What other runs of its cluster say goes in where all of them may be read: ``whole_clusters``; None: everywhere.
    """
    from bigtcp_bench.warehouse.gains import gains_before
    from bigtcp_bench.warehouse.incidents import open_incidents
    from bigtcp_bench.warehouse.lists import listed_comparisons, listed_runs, listed_series

    runs = listed_runs(warehouse, numbers)
    comparisons, series = listed_comparisons(warehouse, numbers), listed_series(warehouse, numbers)
    before: dict[str, _Before] = {}
    whole = {
        number: run for number, run in runs.items() if whole_clusters is None or run.cluster in whole_clusters
    }
    for cluster in {run.cluster for run in whole.values()}:
        of = [one for number, run in runs.items() if run.cluster == cluster for one in series[number]]
        before[cluster] = gains_before(
            warehouse,
            cluster,
            [(one.scenario, one.metric, one.since) for one in of if one.state == "regression" and one.since],
        )
    changes = {number: ChangeView.from_warehouse(warehouse, warehouse.run(number)) for number in _asking(whole)}
    incidents = [one for cluster in before for one in open_incidents(warehouse, cluster) if one.acknowledged_by]
    found = {}
    for number, run in runs.items():
        if run.status == "running":
            # There are few, and how far one has come stands in its blocks and its plan.
            found[number] = RunView.from_warehouse(warehouse, number).headline
            continue
        night = run.started_at.date()
        known = {
            (member.scenario, member.metric): one.acknowledged_by or ""
            for one in incidents
            if one.cluster == run.cluster and one.suspected_on <= night.isoformat()
            for member in one.members
        }
        restore = run.restore or {}
        found[number] = headline(
            Outcome(
                status=run.status,
                night=night,
                reasons=run.reasons,
                is_aa=run.is_aa,
                restore_failed=restore.get("state") == "not_verified",
                restore_detail=restore.get("detail") or "",
                verdicts=Counter(one.verdict for one in comparisons[number]),
                worse=[(one.scenario, one.metric) for one in comparisons[number] if one.verdict == "slower"],
                series=[SeriesView(**vars(one) | {"nights": one.nights or 0}) for one in series[number]],
                gains=_gains(series[number], comparisons[number], before.get(run.cluster, {})),
                learning_nights=run.learning_nights or Thresholds.model_validate({}).learning_nights,
                known=known,
                **against_of(changes.get(number), run.note, run.cilium_version, run.started_at),
            )
        )
    return found


def _asking(runs: Mapping[int, ListedRun]) -> list[int]:
    """Return the runs that may have to be compared with an earlier one, the oldest of each cluster among them."""
    found = []
    newest_first = sorted(runs.values(), key=lambda run: (run.started_at, run.number), reverse=True)
    valid = [run for run in newest_first if run.status == "valid" and not run.is_aa]
    for place, run in enumerate(valid):
        before = next((one for one in valid[place + 1 :] if one.cluster == run.cluster), None)
        known = [Fingerprint.of_row(vars(one)) for one in (before, run) if one is not None]
        same = (
            len(known) == 2
            and known[0] is not None
            and known[1] is not None
            and not known[0].differences(known[1])
        )
        if asks(run.note, run.trigger, run.run_id) or not same:
            found.append(run.number)
    return found


def _gains(series: list[ListedSeries], comparisons: list[ListedComparison], before: _Before) -> dict[Series, Gain]:
    now = {(one.scenario, one.metric): one.change for one in comparisons}
    return {
        (one.scenario, one.metric): Gain.of(
            one.metric, before.get((one.scenario, one.metric, one.since)), now.get((one.scenario, one.metric))
        )
        for one in series
        if one.state == "regression" and one.since
    }
