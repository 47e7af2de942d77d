"""The verdict on a run in ten lines: what is left on the screen when everything else has scrolled away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.report import summary, units
from bigtcp_bench.report.words import series_text

if TYPE_CHECKING:
    from bigtcp_bench.report.view import RunView

#: More causes than these are left to `show`.
_MOST_CAUSES = 3


def verdict_lines(view: RunView) -> list[str]:
    """Return the run's headline, each scenario's main figures, the proof, and how the cluster was left."""
    # What a valid run found is in its headline.
    causes = [] if view.status == "valid" else summary.cause_lines(view, _MOST_CAUSES)
    lines = [summary.headline(view), *_main_figures(view), *(f"likely cause: {cause}" for cause in causes)]
    if proof := _proof(view):
        lines.append(f"proof of effect: {proof}")
    took = ""
    if view.wall_time_s is not None and view.measuring_time_s:
        measuring = units.duration(view.measuring_time_s)
        took = f"; the run took {units.duration(view.wall_time_s)}, {measuring} of it traffic"
    lines.append(f"restore: {summary.RESTORE_WORDS[view.restore.state]}{took}")
    if view.emulated:
        lines.append("lab: real traffic and kernel, emulated Kubernetes and Cilium; not what a cluster would gain")
    return lines


def _main_figures(view: RunView) -> list[str]:
    rows = []
    for one in view.headline_comparisons():
        unit = METRICS[one.metric].unit
        rows.append(
            (
                series_text(one.scenario, one.metric),
                units.value_text(one.off_median, unit),
                units.value_text(one.on_median, unit),
                units.change_with_interval(one.change, one.ci_low, one.ci_high),
                summary.verdict_text(one),
            )
        )
    return [f"  {name}  {off} → {on}  {change}  {verdict}" for name, off, on, change, verdict in _columns(rows)]


def _columns(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return ``rows`` with the cells of each column equally wide; names and verdicts begin at the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        (
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True)),
            row[-1],
        )
        for row in rows
    ]


def _proof(view: RunView) -> str:
    required = [proof for proof in view.proofs if proof.required]
    if not required:
        return ""
    if wrong := [f"{proof.scenario}, arm {proof.arm}" for proof in required if not proof.as_intended]:
        return f"NOT PROVEN: {'; '.join(wrong)}"
    sizes = {
        arm: [end for proof in required if proof.arm == arm for end in (proof.sender_b, proof.receiver_b) if end]
        for arm in ("off", "on")
    }
    told = []
    if sizes["on"]:
        told.append(f"packets of {units.byte_count(min(sizes['on']))} or more on the average with BIG TCP on")
    if sizes["off"]:
        told.append(f"of at most {units.byte_count(max(sizes['off']))} with it off")
    return ", ".join(told)
