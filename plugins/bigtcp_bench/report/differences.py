"""What differs between the recorded conditions of two runs: machines, kernel, NIC, Cilium, plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bigtcp_bench.cluster.fingerprint import BIG_TCP_KEYS
from bigtcp_bench.warehouse.verdicts import ENVIRONMENT

#: Of the plan and the package; the rest of a run's columns is its course.
_OF_PLAN = ("plan_name", "block_order", "package_version")


@dataclass(frozen=True)
class Difference:
    """One recorded condition of two runs; None: not recorded."""

    name: str
    before: Any
    after: Any

    def __str__(self) -> str:
        before, after = ("not recorded" if value is None else value for value in (self.before, self.after))
        return f"{self.name} {before} → {after}"


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Difference]:
    """Return what differs between two rows of ``bigtcp_run``; BIG TCP, which runs switch, is no difference."""
    columns = (*ENVIRONMENT, *_OF_PLAN)
    found = [Difference(_name(column), before[column], after[column]) for column in columns]
    images = [(row["images"] or {}).get("cilium") for row in (before, after)]
    if before["cilium_version"] == after["cilium_version"]:
        found.append(Difference("Cilium image", *images))
    first, last = (row["cilium_config"] or {} for row in (before, after))
    # A key that one of them does not have at all was not recorded by an older package.
    keys = sorted((first.keys() & last.keys()) - BIG_TCP_KEYS)
    found += [Difference(f"Cilium {key}", first[key], last[key]) for key in keys]
    return [one for one in found if one.before != one.after]


def _name(column: str) -> str:
    return "Cilium" if column == "cilium_version" else column.replace("_", " ")
