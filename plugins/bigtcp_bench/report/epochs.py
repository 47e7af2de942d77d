"""When what the figures of a series depend on was changed: Cilium, the kernels, and the terms of the plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bigtcp_bench.planning.terms import changed_terms, terms_of

if TYPE_CHECKING:
    import pandas as pd


def changes_of(trend: pd.DataFrame) -> pd.DataFrame:
    """Return when something was changed in the frame of a trend, oldest first: started_at, what, text, label.

    ``trend`` is of one scenario; of cilium_version, client_kernel, server_kernel and plan, a column that it lacks
    has not changed. ``label`` is for where there is little room.
    """
    import pandas as pd

    ordered = trend.sort_values("started_at") if "started_at" in trend else trend.iloc[:0]
    rows = [*_versions(ordered), *_plans(ordered)]
    frame = pd.DataFrame(rows, columns=["started_at", "what", "text", "label"])
    return frame.sort_values("started_at", kind="stable", ignore_index=True)


def _versions(ordered: pd.DataFrame) -> list[tuple[Any, str, str, str]]:
    columns = {
        "cilium_version": ("Cilium", "Cilium {}"),
        "client_kernel": ("kernel", "kernel {} (client)"),
        "server_kernel": ("kernel", "kernel {} (server)"),
    }
    found: dict[tuple[Any, str], list[str]] = {}
    for name, (what, text) in columns.items():
        if name not in ordered:
            continue
        known = ordered.dropna(subset=[name])
        changed = known[name].ne(known[name].shift()) & known[name].shift().notna()
        for moment, value in zip(known.loc[changed, "started_at"], known.loc[changed, name], strict=True):
            # "1.18.3 (v1.18.3-dd29cc335e)": the first word is the version.
            found.setdefault((moment, what), []).append(text.format(str(value).partition(" ")[0]))
    rows = []
    for (moment, what), texts in found.items():
        kernels = {text.partition(" (")[0] for text in texts}
        text = kernels.pop() if len(texts) == 2 and len(kernels) == 1 else ", ".join(texts)
        rows.append((moment, what, text, text))
    return rows


def _plans(ordered: pd.DataFrame) -> list[tuple[Any, str, str, str]]:
    """Return the nights from which on the plan measures on other terms: each begins another series."""
    if "plan" not in ordered or "scenario" not in ordered:
        return []
    # What somebody tries by hand changes no series.
    nights = ordered[ordered["is_night"]] if "is_night" in ordered else ordered
    rows = []
    before: Mapping[str, str] | None = None
    for moment, plan, scenario in zip(nights["started_at"], nights["plan"], nights["scenario"], strict=True):
        terms = terms_of(plan or {}, scenario)
        if before is not None and (changed := changed_terms(before, terms)):
            told = ", ".join(
                f"{name.replace('_', ' ')} {was} \N{RIGHTWARDS ARROW} {now}"
                for name, (was, now) in changed.items()
            )
            rows.append((moment, "plan", f"plan: {told}", "plan edited"))
        before = terms
    return rows
