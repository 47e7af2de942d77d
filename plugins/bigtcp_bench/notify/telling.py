"""Tells of a run: keeps what it calls for, sends all that is kept, and fails nothing, whatever happens."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from bigtcp_bench.errors import PreconditionFailed
from bigtcp_bench.notify.channel import Wanted
from bigtcp_bench.warehouse import outbox

if TYPE_CHECKING:
    from bigtcp_bench.notify.channel import Settings
    from bigtcp_bench.report.view import RunView
    from bigtcp_bench.warehouse.store import Warehouse


def tell(
    warehouse: Warehouse,
    view: RunView,
    settings: Callable[[], Settings | None],
    *,
    airflow_url: str | None,
    budget_s: float,
) -> list[str]:
    """Tell of the run of ``view``, and return what became of that, a line each.

    ``settings`` returns those of the connection, or None without one. Nothing is raised: the run has measured, and
    the cluster must still be put back.
    """
    try:
        return _told(warehouse, view, settings, airflow_url, budget_s)
    except Exception as error:
        traceback.print_exc()
        return [f"not sent to Slack: {type(error).__name__}: {error}"]


def _told(
    warehouse: Warehouse,
    view: RunView,
    settings: Callable[[], Settings | None],
    airflow_url: str | None,
    budget_s: float,
) -> list[str]:
    from bigtcp_bench.notify.delivery import deliver
    from bigtcp_bench.notify.news import drafts_of_run
    from bigtcp_bench.notify.pictures import drawing

    def keep(own: Wanted) -> None:
        outbox.keep(warehouse, view.cluster, drafts_of_run(warehouse, view, own, airflow_url))

    try:
        known = settings()
    except PreconditionFailed as error:
        # Whoever has made a mistake in the connection wants to be told all the same.
        keep(Wanted())
        return [f"not sent to Slack, kept until that is mended: {error}"]
    if known is None:
        return ["not sent to Slack: there is no connection for it"]
    keep(known.of(view.cluster))
    return deliver(warehouse, view.cluster, known, draw=drawing(warehouse), budget_s=budget_s).lines()
