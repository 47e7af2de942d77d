"""The kinds of traffic that there are: every module here is one, and nothing else has to name it."""

from __future__ import annotations

import importlib
import pkgutil

from bigtcp_bench.in_cluster.kind import Kind


def _found() -> dict[str, Kind]:
    """Return name → kind: first those that fill packets, which every question of BIG TCP begins with."""
    modules = [importlib.import_module(f"{__name__}.{one.name}") for one in pkgutil.iter_modules(__path__)]
    kinds: list[Kind] = [module.KIND for module in modules]
    return {kind.name: kind for kind in sorted(kinds, key=lambda kind: (not kind.fills_packets, kind.name))}


KINDS: dict[str, Kind] = _found()
