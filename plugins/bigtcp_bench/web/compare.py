"""Two runs, or two Cilium versions, against each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.planning.plan import SCENARIOS, list_place, main_metric
from bigtcp_bench.planning.thresholds import thresholds_of
from bigtcp_bench.warehouse import pages
from bigtcp_bench.web.access import Access, AccessDep
from bigtcp_bench.web.data import open_warehouse
from bigtcp_bench.web.one_run import readable_run
from bigtcp_bench.web.params import CompareChoice, CompareQuery
from bigtcp_bench.web.rendering import page
from bigtcp_bench.web.runs import newest_cluster, origin_of

if TYPE_CHECKING:
    import pandas as pd

    from bigtcp_bench.analysis.change import ScenarioChange
    from bigtcp_bench.report.differences import Difference
    from bigtcp_bench.warehouse.store import Warehouse

router = APIRouter()

#: Newest nights of a version that are compared: more would reach into other times of the cluster.
NIGHTS = 60


@dataclass(frozen=True)
class TwoRuns:
    """Two runs: where their conditions differ, how the main figures moved, and what each said by itself."""

    a: dict[str, Any]
    b: dict[str, Any]
    differences: list[Difference]
    moved: list[ScenarioChange]
    #: What that comes to, in a clause; empty where nothing can be compared.
    answer: str
    #: Scenarios of both runs that one of them could not judge.
    left_out: list[str]
    #: Scenario, metric's label, comparison of A, comparison of B; None where one of them did not measure it.
    verdicts: list[tuple[str, str, Mapping[Any, Any] | None, Mapping[Any, Any] | None]]
    level: float


@dataclass(frozen=True)
class TwoVersions:
    """Two versions: how every series moved, the main ones apart; and how many nights either of them has."""

    cluster: str
    before: str
    after: str
    nights_before: int
    nights_after: int
    runs: list[int]
    main: list[ScenarioChange]
    #: What the main ones come to, in a clause; empty where there are none.
    answer: str
    rest: list[ScenarioChange]


@router.get("/compare")
def compare(request: Request, access: AccessDep, choice: CompareQuery) -> Response:
    """Show two runs or two versions against each other, and the forms to choose them."""
    warehouse = open_warehouse()
    runs = _two_runs(warehouse, access, choice) if choice.a and choice.b else None
    cluster = choice.cluster or (runs.b["cluster"] if runs else newest_cluster(warehouse, access))
    if cluster is not None and cluster not in access.clusters:
        raise InvalidInput(f"there are no runs of cluster {cluster!r} that you may read")
    dags = access.readable_of(cluster) if cluster else frozenset()
    known = pages.versions(warehouse, cluster, dags) if cluster else []
    versions = None
    if runs is None and cluster and choice.before and choice.after:
        versions = _two_versions(warehouse, cluster, dags, choice, known)
    newest = pages.runs(warehouse, access.readable, cluster=cluster, compared=True, limit=2) if cluster else []
    return page(
        request,
        "compare.html",
        access,
        runs=runs,
        versions=versions,
        choice=choice,
        cluster=cluster,
        known_versions=known,
        newest=newest,
        nights=NIGHTS,
        origin=origin_of(warehouse, [runs.a["id"], runs.b["id"]] if runs else versions.runs if versions else []),
    )


def _two_runs(warehouse: Warehouse, access: Access, choice: CompareChoice) -> TwoRuns:
    from bigtcp_bench.analysis.change import compare_runs
    from bigtcp_bench.report.change import moved_answer, runs_like
    from bigtcp_bench.report.differences import differences

    a, b = (readable_run(warehouse, access, number).row for number in (choice.a or 0, choice.b or 0))
    before, after = (warehouse.comparisons_frame(row["id"]) for row in (a, b))
    thresholds = thresholds_of(b["plan"])
    scenarios = [name for name in SCENARIOS if all(name in set(frame["scenario"]) for frame in (before, after))]
    # How much runs differ by chance is read from the runs before A, which must be the user's to read, too.
    if a["cluster"] == b["cluster"] and a["cluster"] in access.whole_clusters:
        history = runs_like(warehouse, a["cluster"], a["id"], scenarios)
    else:
        history = before.iloc[:0]
    comparing = not (a["is_aa"] or b["is_aa"])
    moved = compare_runs(before, after, history, scenarios, thresholds) if comparing else []
    shown = {change.scenario for change in moved}
    return TwoRuns(
        a=a,
        b=b,
        differences=differences(a, b),
        moved=moved,
        answer=moved_answer(moved)[0] if moved else "",
        left_out=[name for name in scenarios if comparing and name not in shown],
        verdicts=_verdicts(before.to_dict("records"), after.to_dict("records")),
        level=thresholds.confidence_level,
    )


def _two_versions(
    warehouse: Warehouse, cluster: str, dags: frozenset[str], choice: CompareChoice, known: list[str]
) -> TwoVersions:
    from bigtcp_bench.report.change import moved_answer

    chosen = [version for version in (choice.before, choice.after) if version is not None]
    for version in chosen:
        if version not in known:
            listed = ", ".join(known) or "none"
            raise InvalidInput(f"no valid run of cluster {cluster!r} had Cilium {version!r}; known are {listed}")
    before, after = (
        pages.nights_of_version(warehouse, cluster, dags, version, nights=NIGHTS) for version in chosen
    )
    main = _moved_nights(before, after, main=True)
    return TwoVersions(
        cluster=cluster,
        before=chosen[0],
        after=chosen[1],
        nights_before=before["run_id"].nunique(),
        nights_after=after["run_id"].nunique(),
        runs=sorted({*before["run_id"].tolist(), *after["run_id"].tolist()}),
        main=main,
        answer=moved_answer(main)[0] if main else "",
        rest=_moved_nights(before, after, main=False),
    )


def _moved_nights(before: pd.DataFrame, after: pd.DataFrame, *, main: bool) -> list[ScenarioChange]:
    """Return how the ``main`` metrics moved between two sets of nights, or all others, by scenario."""
    from bigtcp_bench.analysis.nights import compare_nights

    def wanted(nights: pd.DataFrame) -> pd.DataFrame:
        series = zip(nights["scenario"], nights["metric"], strict=True)
        return nights.loc[[(main_metric(scenario) == metric) == main for scenario, metric in series]]

    changes = compare_nights(wanted(before), wanted(after))
    return sorted(changes, key=lambda change: _place(change.scenario, change.metric))


def _verdicts(
    a: list[dict[Any, Any]], b: list[dict[Any, Any]]
) -> list[tuple[str, str, Mapping[Any, Any] | None, Mapping[Any, Any] | None]]:
    found = [
        {(row["scenario"], row["metric"]): row for row in rows if METRICS[row["metric"]].judged} for rows in (a, b)
    ]
    keys = sorted({*found[0], *found[1]}, key=lambda key: _place(*key))
    return [(key[0], METRICS[key[1]].short_label, found[0].get(key), found[1].get(key)) for key in keys]


def _place(scenario: str, metric: str) -> tuple[int, str, int]:
    return *list_place(scenario), list(METRICS).index(metric)
