"""One run as an object for programs: what `show` prints, with stored words and plain numbers."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bigtcp_bench.report.expectation import unexpected
from bigtcp_bench.warehouse.output import rounded

if TYPE_CHECKING:
    from bigtcp_bench.report.view import RunView


def run_object(view: RunView) -> dict[str, Any]:
    """Return the run of ``view`` for JSON: moments in ISO form, changes relative, verdicts as they are stored."""
    return {
        "run": view.number,
        "cluster": view.cluster,
        "dag_id": view.dag_id,
        "run_id": view.run_id,
        "status": view.status,
        "headline": view.headline.text,
        "reasons": list(view.reasons),
        "plan": view.plan_name,
        "order": list(view.order),
        "trigger": view.trigger,
        "note": view.note,
        "cilium_version": view.cilium_version,
        "emulated": view.emulated,
        "generated": view.generated,
        "started_at": view.started.isoformat() if view.started else None,
        "finished_at": view.finished.isoformat() if view.finished else None,
        "restore": asdict(view.restore),
        "history": view.history.lines(),
        "unexpected": unexpected(view),
        "unknown": view.unknown,
        "causes": [_plain(asdict(cause)) for cause in view.causes],
        "comparisons": [_plain(asdict(one)) for one in view.judged],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return rounded(value) if isinstance(value, float) else value
