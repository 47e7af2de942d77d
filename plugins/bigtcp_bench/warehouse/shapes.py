"""What is read of the JSON columns: the parts that have the shape their readers rely on, and nothing else.

Other versions of this package have filled these columns, and whoever may write the database can. A part of another
shape is as if nobody had stored it; names that no shape knows pass as they are. A shape is a type (``date``: its
text), a set of words of which an object must have one, ``[shape]`` for a list of any length, ``(shape, …)`` for
one of exactly these items, or a mapping of names to shapes, in which ``...`` stands for every other name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date
from types import UnionType
from typing import Any, get_args

from bigtcp_bench.warehouse.records import IncidentState

#: Of values that are only shown, or compared with each other.
_SCALAR = str | int | float | None
_TEXTS = [str]
_NODE = {
    **dict.fromkeys(("os_image", "architecture", "kubelet_version", "zone"), str),
    **dict.fromkeys(("cpu", "memory_bytes"), float),
}
#: What was in force on a node, by family, and the limits in bytes, by device.
_PROOF = {
    "wanted": {...: bool | None},
    "merged": {...: bool | None},
    "max_gso": {...: int | None},
    "limits": {...: {...: int | None}},
}

#: Table and column → shape.
SHAPES: Mapping[str, Any] = {
    "run.reasons": _TEXTS,
    "run.plan": {
        "name": str,
        "order": _TEXTS,
        "scenarios": _TEXTS,
        "image": str,
        **dict.fromkeys(("duration_s", "omit_s", "request_bytes"), float | None),
        "thresholds": {},
    },
    "run.cilium_config": {...: str | None},
    "run.images": {"cilium": str | None},
    "run.tool_versions": {...: str | None},
    "run.environment": {
        **dict.fromkeys(("emulated", "generated"), bool),
        **dict.fromkeys(("kubernetes_version", "cluster_uid"), str | None),
        "pair": {...: _NODE},
        "busy_cpus": {...: float},
        "tso_max_size": {...: {...: int}},
    },
    "run.checks": [dict.fromkeys(("name", "node", "status", "found", "advice"), str)],
    "run.restore_result": {
        "state": frozenset({"verified", "not_verified", "not_needed"}),
        "detail": str,
        "nodes": {...: _PROOF},
    },
    "block.switch_report": {"restarted": bool, "nodes": {...: _PROOF}},
    "comparison.reasons": _TEXTS,
    "diagnosis.explains": _TEXTS,
    "diagnosis.figures": {},
    "outbox.payload": {
        "text": str,
        "broadcast": bool,
        "told": {
            "state": frozenset(get_args(IncidentState)),
            "acknowledged": bool,
            "acknowledged_by": str | None,
            "changes": {...: float | None},
        },
    },
    "judgement.details": {
        **dict.fromkeys(("event", "mark", "carried"), str),
        "nights": int,
        "coincides_with": {...: (_SCALAR, _SCALAR)},
        "plan_changed": {"on": date, "terms": {...: (_SCALAR, _SCALAR)}},
        "rerun": {"pairs": [(float, float)], "reasons": _TEXTS},
    },
}
#: Stands for a part that has another shape.
_UNFIT = object()


def fitting(column: str, value: Any) -> Any:
    """Return what of ``value`` has the shape of ``column``: where nothing has, an empty list, or None."""
    found = _fitting(value, SHAPES[column])
    if found is _UNFIT:
        return [] if isinstance(SHAPES[column], list) else None
    return found


def _fitting(value: Any, shape: Any) -> Any:
    if isinstance(shape, dict):
        return _object(value, shape) if isinstance(value, dict) else _UNFIT
    if isinstance(shape, list):
        return _items(value, shape * len(value)) if isinstance(value, list) else _UNFIT
    if isinstance(shape, tuple):
        same_length = isinstance(value, list) and len(value) == len(shape)
        items = _items(value, shape) if same_length else []
        return items if len(items) == len(shape) else _UNFIT
    if isinstance(shape, frozenset):
        return value if isinstance(value, str) and value in shape else _UNFIT
    if shape is date:
        return _UNFIT if day_or_none(value) is None else value
    return value if _is_a(value, shape) else _UNFIT


def day_or_none(value: Any) -> str | None:
    """Return a day as it is stored, ``2026-03-01``; None for anything else."""
    try:
        return value if isinstance(value, str) and date.fromisoformat(value).isoformat() == value else None
    except ValueError:
        return None


def _object(value: dict[str, Any], shape: dict[Any, Any]) -> Any:
    found = {name: _fitting(one, shape.get(name, shape.get(..., object))) for name, one in value.items()}
    needed = (name for name, one in shape.items() if isinstance(one, frozenset))
    if any(found.get(name, _UNFIT) is _UNFIT for name in needed):
        return _UNFIT
    return {name: one for name, one in found.items() if one is not _UNFIT}


def _items(values: list[Any], shapes: Any) -> list[Any]:
    found = (_fitting(value, shape) for value, shape in zip(values, shapes, strict=True))
    return [one for one in found if one is not _UNFIT]


def _is_a(value: Any, kind: type | UnionType) -> bool:
    """Return whether ``value`` is of ``kind``; a whole number is a float too, a truth value is no number."""
    if isinstance(value, bool):
        return kind in (object, bool, bool | None)
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return isinstance(value, kind) or (isinstance(value, int) and isinstance(0.0, kind))
