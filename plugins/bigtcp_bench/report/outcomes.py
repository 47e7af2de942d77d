"""The headlines of many runs, for lists, in a few queries; ``RunView.headline`` has the same words for one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from bigtcp_bench.cluster.fingerprint import Fingerprint
from bigtcp_bench.planning.thresholds import Thresholds
from bigtcp_bench.report.change import ChangeView, asks
from bigtcp_bench.report.headline import Headline, Outcome, gains_of, headline, regressions
from bigtcp_bench.report.history import SeriesView
from bigtcp_bench.report.running import progress_line
from bigtcp_bench.report.view import against_of

if TYPE_CHECKING:
    from bigtcp_bench.warehouse.lists import ListedRun
    from bigtcp_bench.warehouse.store import Warehouse


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
    comparisons = listed_comparisons(warehouse, numbers)
    series = {
        number: [SeriesView(**vars(one) | {"nights": one.nights or 0}) for one in found]
        for number, found in listed_series(warehouse, numbers).items()
    }
    before: dict[str, dict[tuple[str, str, str], float]] = {}
    whole = {
        number: run for number, run in runs.items() if whole_clusters is None or run.cluster in whole_clusters
    }
    for cluster in {run.cluster for run in whole.values()}:
        of = [one for number, run in runs.items() if run.cluster == cluster for one in series[number]]
        before[cluster] = gains_before(warehouse, cluster, regressions(of))
    changes = {number: ChangeView.from_warehouse(warehouse, warehouse.run(number)) for number in _asking(whole)}
    incidents = [one for cluster in before for one in open_incidents(warehouse, cluster) if one.acknowledged_by]
    found = {}
    for number, run in runs.items():
        progress = ""
        if run.status == "running":
            # There are few, and how far one has come stands in its blocks and its plan.
            progress = progress_line(warehouse.run(number), warehouse.blocks_frame(number))
        now = {(one.scenario, one.metric): one.change for one in comparisons[number]}
        night = run.started_at.date()
        known = {
            member.series: one.acknowledged_by or ""
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
                series=series[number],
                gains=gains_of(series[number], before.get(run.cluster, {}), now),
                learning_nights=run.learning_nights or Thresholds.model_validate({}).learning_nights,
                known=known,
                progress=progress,
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
        earlier = Fingerprint.of_row(vars(before)) if before is not None else None
        now = Fingerprint.of_row(vars(run))
        same = earlier is not None and now is not None and not earlier.differences(now)
        if asks(run.note, run.trigger, run.run_id) or not same:
            found.append(run.number)
    return found
