"""A run against the last one before Cilium was changed, as data: what changed, and how both arms moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from bigtcp_bench.cluster.fingerprint import Fingerprint
from bigtcp_bench.planning.plan import SCENARIOS, Thresholds
from bigtcp_bench.warehouse.store import ENVIRONMENT

if TYPE_CHECKING:
    import pandas as pd

    from bigtcp_bench.analysis.change import ScenarioChange
    from bigtcp_bench.warehouse.cilium_runs import CiliumRun
    from bigtcp_bench.warehouse.store import Warehouse

#: Runs that are not of the same of these say nothing about how much runs like the one before differ.
_MACHINES = ("client_node", "server_node", "client_kernel", "server_kernel", "nic_driver", "mtu")


@dataclass(frozen=True)
class ChangeView:
    """What a run says about a change of Cilium.

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
        return any(item.off.low is not None for item in self.scenarios)

    @classmethod
    def from_warehouse(cls, warehouse: Warehouse, row: Mapping[str, Any]) -> ChangeView | None:
        """Return what the run of ``row`` says about a change of Cilium, or None where that is no question.

        It is one for a run with a note, which says why it was started, and for the first valid run of a Cilium.
        The run it is compared with is the last valid one of another Cilium that measured a scenario of it on the
        same terms.
        """
        from bigtcp_bench.analysis.change import MIN_RUNS, compare_runs, same_terms
        from bigtcp_bench.warehouse.cilium_runs import newest

        now = Fingerprint.of_row(row)
        if row["status"] != "valid" or row["is_aa"] or now is None:
            return None
        plan: Mapping[str, Any] = row["plan"] or {}

        def differs(run: CiliumRun) -> bool:
            return bool(run.fingerprint.differences(now))

        last = newest(warehouse, row["cluster"], before=row["id"])
        if last is None or not (row["note"] or differs(last)):
            return None

        def comparable(run: CiliumRun) -> list[str]:
            return [
                name
                for name in plan.get("scenarios", ())
                if name in SCENARIOS and same_terms(name, run.plan, plan)
            ]

        found = newest(
            warehouse, row["cluster"], lambda run: differs(run) and bool(comparable(run)), before=row["id"]
        )
        if found is None:
            return None
        thresholds = Thresholds.model_validate(plan.get("thresholds", {}))
        scenarios = comparable(found)
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
        return cls(
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
    """Return the history of run ``number``, oldest first: runs of its plan on its machines."""
    from bigtcp_bench.analysis.change import MAX_RUNS

    frame = warehouse.series_frame(cluster, scenarios=scenarios, nights=MAX_RUNS, until_run=number)
    machines = frame.loc[frame["run_id"] == number, list(_MACHINES)].drop_duplicates()
    return frame.merge(machines, on=list(_MACHINES), how="inner") if len(machines) == 1 else frame.iloc[:0]
