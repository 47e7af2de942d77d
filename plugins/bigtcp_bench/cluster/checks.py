"""One line of the preflight: what was looked at, what was found, how it is judged, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from bigtcp_bench.errors import PreconditionFailed

Status = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One requirement: what was found, whether it will do, and what to do if not (``node`` empty: the cluster)."""

    name: str
    node: str
    status: Status
    found: str
    advice: str = ""

    def __str__(self) -> str:
        where = f" on {self.node}" if self.node else ""
        return f"{self.status:4} {self.name}{where}: {self.found}" + (f"; {self.advice}" if self.advice else "")

    @property
    def sentence(self) -> str:
        """Return the finding and the advice as one sentence for people."""
        where = f"node {self.node}: " if self.node else ""
        return f"{where}{self.name}: {self.found}" + (f"; {self.advice}" if self.advice else "")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for the warehouse."""
        return asdict(self)


def worst(checks: Sequence[Check]) -> Status:
    """Return ``fail`` if one of ``checks`` failed, else ``warn`` if one warns, else ``pass``."""
    found = {check.status for check in checks}
    return "fail" if "fail" in found else "warn" if "warn" in found else "pass"


def counted(checks: Sequence[Check]) -> str:
    """Return how many of ``checks`` passed, warn and failed, in words."""
    counts = Counter(check.status for check in checks)
    words = [f"{counts['pass']} of {len(checks)} checks passed"]
    words += [f"{counts['warn']} warn"] * bool(counts["warn"])
    words += [f"{counts['fail']} failed"] * bool(counts["fail"])
    return ", ".join(words)


def refuse_failed(checks: Sequence[Check]) -> None:
    """Raise PreconditionFailed with the first failed check, and how many more there are, if any failed."""
    failed = [check for check in checks if check.status == "fail"]
    if failed:
        more = f" (and {len(failed) - 1} more failed checks)" if len(failed) > 1 else ""
        raise PreconditionFailed(f"{failed[0].sentence}{more}")
