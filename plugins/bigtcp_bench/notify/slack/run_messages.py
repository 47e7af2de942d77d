"""Slack messages about one run: how it ended, and loudest that the cluster may not be as it was before."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bigtcp_bench.cluster.checks import Check
from bigtcp_bench.notify.slack import blocks
from bigtcp_bench.notify.slack.blocks import SlackMessage, escaped
from bigtcp_bench.report import summary

if TYPE_CHECKING:
    from slack_sdk.models.blocks import Block

    from bigtcp_bench.analysis.compare import Comparison
    from bigtcp_bench.notify.slack.settings import ClusterSettings
    from bigtcp_bench.report.view import RunView

#: The run's page has all of them.
_MOST_CAUSES = 2

_EMOJI = {"valid": ":white_check_mark:", "invalid": ":warning:", "failed": ":x:", "running": ":hourglass:"}


def run_message(view: RunView, mention: str = "", failed_checks: Sequence[str] = ()) -> SlackMessage:
    """Return the message of a run that ended, however it did.

    ``mention`` (Slack's markup) is used only where somebody must act at once: the restore was not verified.
    ``failed_checks`` are those for which the run was refused before it changed anything.
    """
    loud = mention if view.restore_failed else ""
    headline = escaped(summary.headline(view))
    lines = [f"*{headline}*" if view.restore_failed else headline]
    if view.compared is not None and view.compared.cilium:
        lines.append(escaped(f"Cilium was changed before it: {'; '.join(view.compared.cilium)}"))
    parts: list[Block] = [blocks.header(_title(view)), blocks.lines_section(lines, loud)]
    if failed_checks:
        parts += blocks.bullets(failed_checks, "Failed checks; nothing was changed")
    elif view.restore_failed or len(view.reasons) > 1:
        parts += blocks.bullets(summary.reason_lines(view))
    parts += likely_causes(view)
    parts += blocks.bullets(summary.history_lines(view))
    if view.compared is not None:
        parts += blocks.code(summary.change_text(view.compared, summary.MIN_WIDTH))
    if comparisons := _worth_showing(view):
        parts += blocks.code(summary.comparison_text(view, comparisons, summary.MIN_WIDTH))
    if proofs := [proof for proof in view.proofs if proof.required]:
        parts += blocks.code(summary.proof_text(view, proofs, summary.MIN_WIDTH))
    parts += blocks.facts(conditions(view))
    return blocks.message([headline, *lines[1:]], parts, loud)


def likely_causes(view: RunView) -> list[Block]:
    """Return the likeliest causes of what is wrong with a run, if it was diagnosed."""
    lines = summary.cause_lines(view, _MOST_CAUSES)
    return blocks.bullets(lines, "Likely cause" if len(lines) == 1 else "Likely causes")


def failed_checks(row: Mapping[str, Any]) -> list[str]:
    """Return the preflight checks that failed in the run of ``row`` (of ``bigtcp_run``), a sentence each."""
    return [Check(**check).sentence for check in row["checks"] or () if check["status"] == "fail"]


def try_message(cluster: str | None, settings: ClusterSettings) -> SlackMessage:
    """Return the message that tries whether ``settings`` work; it says what they are, and mentions nobody."""
    whom = f"`{escaped(settings.mention)}`" if settings.mention else "nobody"
    lines = [
        f"bigtcp-bench can post here{f' for cluster {escaped(cluster)}' if cluster else ''}.",
        f"min_severity: {settings.min_severity}, digest: {settings.digest}; mentioned when a restore was not "
        f"verified: {whom}.",
    ]
    return blocks.message(lines, [blocks.header(":wave: Test message"), blocks.lines_section(lines)])


def conditions(view: RunView, links: Sequence[str] = (), without: Collection[str] = ()) -> list[str]:
    """Return the conditions of a run as lines of small print; the first one leads to its page and ``links``.

    ``without`` names facts that matter elsewhere.
    """
    found = [
        f"*{label}* {escaped(text)}"
        for label, text in summary.facts(view)
        # Where the warehouse is is nobody's business in a channel.
        if label not in ("page", "data") and label not in without
    ]
    own = [blocks.link(view.url, "The run in Airflow")] if view.url else []
    return [" · ".join([*own, *links]), *found] if own or links else found


def origin(view: RunView) -> str:
    """Return what of the run is not real, in few words; empty when everything is."""
    if view.generated:
        return "generated, nothing was measured"
    return "lab, its Cilium is emulated" if view.emulated else ""


def _title(view: RunView) -> str:
    if view.restore_failed:
        return f":rotating_light: RESTORE NOT VERIFIED on {view.cluster}"
    return f"{_EMOJI[view.status]} BIG TCP on {view.cluster}: {view.status}"


def _worth_showing(view: RunView) -> list[Comparison]:
    """Return the comparison that stands for each scenario, and every one that got worse; the log has all."""
    headlines = view.headline_comparisons()
    return [comparison for comparison in view.judged if comparison in headlines or comparison.verdict == "slower"]
