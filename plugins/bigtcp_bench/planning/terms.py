"""What of a plan a scenario's figures depend on: its terms. Nights on other terms are another series.

How often something is measured (blocks, generations, repetitions) only makes figures more certain, and is no term.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bigtcp_bench.planning.plan import SCENARIOS, Plan

#: Fields of a plan that matter to every scenario.
_OF_ALL = ("duration_s", "omit_s", "image")

#: Fields of a scenario that only say which one it is, or that a plan's field stands in for.
_NAMES = {"name", "request_bytes"}


def terms_of(plan: Mapping[str, Any], scenario: str) -> dict[str, str]:
    """Return the terms of ``scenario`` in a stored ``plan``, by name, as text.

    A field that the plan lacks has its default: plans are stored by every version of this package.
    """
    known = SCENARIOS.get(scenario)
    found: dict[str, Any] = {} if known is None else known.model_dump(exclude=_NAMES)
    for name in (*_OF_ALL, *(known.kind.terms if known else ())):
        found[name] = plan.get(name, Plan.model_fields[name].default)
    if known is not None and known.request_bytes is not None:
        found["request_bytes"] = known.request_bytes
    return {name: str(value) for name, value in found.items()}


def changed_terms(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the terms that differ, name → (before, now); one that either side lacks is left out."""
    return {name: (before[name], now[name]) for name in now if name in before and before[name] != now[name]}


def same_terms(scenario: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two stored plans measure ``scenario`` on the same terms, so that its figures compare."""
    both = all(scenario in (plan.get("scenarios") or ()) for plan in (one, other))
    return both and terms_of(one, scenario) == terms_of(other, scenario)
