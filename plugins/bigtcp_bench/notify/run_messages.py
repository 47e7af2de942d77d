"""Messages about one run: how it ended, and loudest that the cluster may not be as it was before."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bigtcp_bench.notify.message import Line, Link, Listing, Message
from bigtcp_bench.report import links, summary
from bigtcp_bench.report.preflight import stored_checks

if TYPE_CHECKING:
    from bigtcp_bench.analysis.compare import Comparison
    from bigtcp_bench.report.view import RunView

#: The run's page has all of them.
_MOST_CAUSES = 2

#: The page is a link; where the warehouse is is nobody's business in a channel.
_NO_FACTS = {"page", "data"}


def run_message(view: RunView, failed_checks: Sequence[str] = (), airflow_url: str | None = None) -> Message:
    """Return the message of a run that ended, however it did.

    ``failed_checks`` are those for which the run was refused before it changed anything, ``airflow_url`` is the
    address of Airflow's pages. It is urgent only where the restore was not verified, and then without figures.
    """
    lost = view.restore_failed
    headline = summary.headline(view)
    lines = [Line(headline, loud=lost)]
    tables = []
    if view.compared is not None:
        changed = "; ".join(view.compared.cilium)
        if changed not in headline:
            lines.append(Line(f"Cilium was changed before it: {changed}"))
        tables.append(summary.change_text(view.compared))
    judged = view.status in ("valid", "invalid") and not lost
    if judged and (comparisons := _worth_showing(view)):
        tables.append(summary.comparison_text(view, comparisons))
    if judged and (proofs := [proof for proof in view.proofs if proof.required]):
        tables.append(summary.proof_text(view, proofs))
    lists = [
        likely_causes(view),
        Listing((*summary.surprise_lines(view), *summary.history_lines(view)), "Besides"),
    ]
    if failed_checks:
        lists.insert(0, Listing(tuple(failed_checks), "Failed checks; nothing was changed"))
    else:
        lists[:0] = [_next(view), Listing(tuple(summary.further_reasons(view)))]
    worse = view.status == "valid" and bool(view.headline.needs)
    title = f"BIG TCP on {view.cluster}: {'valid, and needs a look' if worse else view.status}"
    return Message(
        kind="restore" if lost else "worse" if worse else view.status,
        title=f"RESTORE NOT VERIFIED on {view.cluster}" if lost else title,
        lines=tuple(lines),
        lists=tuple(listing for listing in lists if listing.lines),
        tables=tuple(tables),
        # Its first line says it already.
        facts=conditions(view, ("restore",) if lost else ()),
        links=(*_restore_link(view, airflow_url), *run_link(view)),
        urgent=lost,
    )


def _restore_link(view: RunView, airflow_url: str | None) -> tuple[Link, ...]:
    """Return the link to the DAG that puts the cluster back, where nobody knows that it is."""
    if not view.restore_failed or not airflow_url:
        return ()
    return (Link(links.restore_url(airflow_url, view.dag_id), "The DAG that puts it back"),)


def _next(view: RunView) -> Listing:
    """Return what to do about a run; where the restore was not verified, its headline says it."""
    advice = summary.advice(view)
    return Listing((advice,) if advice else (), "Do next")


def likely_causes(view: RunView) -> Listing:
    """Return the likeliest causes of what is wrong with a run, if it was diagnosed."""
    lines = summary.cause_lines(view, _MOST_CAUSES)
    return Listing(tuple(lines), "Likely cause" if len(lines) == 1 else "Likely causes")


def failed_checks(row: Mapping[str, Any]) -> list[str]:
    """Return the preflight checks that failed in the run of ``row`` (of ``bigtcp_run``), a sentence each."""
    return [check.sentence for check in stored_checks(row) if check.status == "fail"]


def conditions(view: RunView, without: Collection[str] = ()) -> tuple[tuple[str, str], ...]:
    """Return the conditions of a run as label and text; ``without`` names some that matter elsewhere."""
    return tuple(
        (label, text) for label, text in summary.facts(view) if label not in _NO_FACTS and label not in without
    )


def run_link(view: RunView, label: str = "The run in Airflow") -> tuple[Link, ...]:
    """Return the link to a run's page; none where that is not known."""
    return (Link(view.url, label),) if view.url else ()


def origin(view: RunView) -> str:
    """Return what of the run is not real, in few words; empty when everything is."""
    if view.generated:
        return "generated, nothing was measured"
    return "lab, its Cilium is emulated" if view.emulated else ""


def _worth_showing(view: RunView) -> list[Comparison]:
    """Return the comparison that stands for each scenario, and every one that got worse; the log has all."""
    headlines = view.headline_comparisons()
    return [comparison for comparison in view.judged if comparison in headlines or comparison.verdict == "slower"]
