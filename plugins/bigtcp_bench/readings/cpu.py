"""CPU time of a whole machine, as the first line of ``/proc/stat`` counts it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bigtcp_bench.readings.proc import CPU_KINDS, cpu_ticks

#: Time in which nothing ran here. What the hypervisor took (``steal``) was used too, but not by this machine.
NOT_BUSY = ("idle", "iowait", "steal")


def busy_share(before: str | None, after: str | None) -> float | None:
    """Return the share of all CPU time between two readings that was used, 0 to 1.

    None if one of them cannot be read, no time passed between them, or a counter ran back.
    """
    grown = _grown(before, after)
    if grown is None or sum(grown.values()) <= 0:
        return None
    return sum(ticks for kind, ticks in grown.items() if kind not in NOT_BUSY) / sum(grown.values())


def _grown(before: str | None, after: str | None) -> dict[str, int] | None:
    """Return the ticks of each kind between two readings; None if one cannot be read, or a counter was reset."""
    first, last = cpu_ticks(before), cpu_ticks(after)
    if first is None or last is None:
        return None
    grown = {kind: last[kind] - first[kind] for kind in CPU_KINDS}
    # Idle time of a single CPU may run back by a tick (proc(5)); anything else was a reset.
    return None if any(ticks < 0 for kind, ticks in grown.items() if kind not in NOT_BUSY) else grown


#: What CPU cost is split into. The rest of what is busy is interrupts and what the hypervisor took.
CPU_PARTS = {"user": ("user", "nice"), "system": ("system",), "softirq": ("softirq",)}


def cpu_parts(seconds: Mapping[str, float]) -> dict[str, float]:
    """Return ``busy`` and the parts of it, from seconds by kind.

    Of a machine that is measured, what the hypervisor took is busy too: the work had to wait for it.
    """
    parts = {name: sum(seconds[kind] for kind in kinds) for name, kinds in CPU_PARTS.items()}
    return {"busy": sum(seconds[kind] for kind in CPU_KINDS if kind not in ("idle", "iowait")), **parts}


def cpu_load(earlier: Mapping[str, Any] | None, later: Mapping[str, Any] | None) -> dict[str, float] | None:
    """Return how many CPUs were busy between two snapshots, and with what: ``busy`` and the parts of it.

    None if one of them is missing or cannot be read, no time passed, or a counter ran back.
    """
    if earlier is None or later is None:
        return None
    grown = _grown(earlier.get("proc_stat"), later.get("proc_stat"))
    passed_s = later["monotonic_s"] - earlier["monotonic_s"]
    if grown is None or passed_s <= 0:
        return None
    return cpu_parts({kind: ticks / later["user_hz"] / passed_s for kind, ticks in grown.items()})
