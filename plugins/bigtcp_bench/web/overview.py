"""The page that says at a glance how every cluster is."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from bigtcp_bench.planning.plan import list_place, main_metric
from bigtcp_bench.warehouse import outbox, pages
from bigtcp_bench.web.access import AccessDep
from bigtcp_bench.web.data import open_warehouse
from bigtcp_bench.web.rendering import page

if TYPE_CHECKING:
    from bigtcp_bench.report.change import Upgrade
    from bigtcp_bench.report.headline import Headline
    from bigtcp_bench.report.incident import IncidentStory
    from bigtcp_bench.warehouse.store import Warehouse
    from bigtcp_bench.web.access import Access

router = APIRouter()

#: Runs of a cluster among which the DAGs are found that measure it now.
_RECENT = 10


@dataclass(frozen=True)
class ClusterCard:
    """One cluster: its newest run, the newest that compared both arms, what is open, and what comes next."""

    name: str
    last: dict[str, Any]
    headline: Headline
    compared: dict[str, Any] | None
    #: Headline comparisons of that run: scenario, metric, change, ci_low, ci_high, verdict.
    benefits: list[dict[Any, Any]]
    #: Open incidents; None where they may not be seen.
    incidents: list[IncidentStory] | None
    #: None where there was none, or it may not be seen.
    upgrade: Upgrade | None
    origin: pages.Origin
    #: Messages that Slack refuses for what is in them, each with the reason.
    refused: list[str]
    #: DAGs that have measured it lately.
    dag_ids: list[str] = field(default_factory=list)


@router.get("/overview")
def overview(request: Request, access: AccessDep) -> HTMLResponse:
    """Show every cluster that the user may see."""
    warehouse = open_warehouse()
    cards = [_card(warehouse, access, name) for name in access.clusters]
    origin = pages.Origin.of_all(card.origin for card in cards)
    planned = [] if cards else sorted(access.readable)
    refresh = any(card.last["status"] == "running" for card in cards)
    return page(request, "overview.html", access, cards=cards, origin=origin, planned=planned, refresh=refresh)


def _card(warehouse: Warehouse, access: Access, name: str) -> ClusterCard:
    from bigtcp_bench.report.outcomes import headlines

    recent = pages.runs(warehouse, access.readable, cluster=name, limit=_RECENT)
    last = warehouse.run(recent[0]["id"])
    compared = next(iter(pages.runs(warehouse, access.readable, cluster=name, compared=True, limit=1)), None)
    return ClusterCard(
        name=name,
        last=last,
        headline=headlines(warehouse, [last["id"]], access.whole_clusters)[last["id"]],
        compared=compared,
        benefits=_main_comparisons(warehouse, compared["id"]) if compared else [],
        incidents=_open_incidents(warehouse, name) if name in access.whole_clusters else None,
        upgrade=_upgrade(warehouse, name) if name in access.whole_clusters else None,
        origin=pages.origins(warehouse, [last["id"]])[last["id"]],
        refused=outbox.set_aside(warehouse, name),
        dag_ids=list(dict.fromkeys(row["dag_id"] for row in recent)),
    )


def _upgrade(warehouse: Warehouse, cluster: str) -> Upgrade | None:
    from bigtcp_bench.warehouse.cilium_runs import first_of_version

    number = first_of_version(warehouse, cluster)
    return None if number is None else _upgrade_of(warehouse, number, datetime.now(UTC).date())


# What a past run says stays, and is half of this page's time.
@functools.lru_cache(maxsize=100)
def _upgrade_of(warehouse: Warehouse, number: int, today: date) -> Upgrade | None:
    from bigtcp_bench.report.change import Upgrade

    return Upgrade.from_warehouse(warehouse, number, today)


def _open_incidents(warehouse: Warehouse, cluster: str) -> list[IncidentStory]:
    from bigtcp_bench.report.incident import IncidentStory
    from bigtcp_bench.warehouse.incidents import open_incidents

    return [IncidentStory.from_warehouse(warehouse, one) for one in open_incidents(warehouse, cluster)]


def _main_comparisons(warehouse: Warehouse, number: int) -> list[dict[Any, Any]]:
    """Return the comparison that stands for each scenario of a run, in the order of the scenarios."""
    rows = warehouse.comparisons_frame(number).to_dict("records")
    found = [row for row in rows if row["metric"] == main_metric(row["scenario"])]
    return sorted(found, key=lambda row: list_place(row["scenario"]))
