"""CPU time of a whole machine, as the first line of ``/proc/stat`` counts it."""

from __future__ import annotations

import re

#: The kinds of CPU time in that line, see proc(5); guest time, which follows, is contained in user and nice.
CPU_KINDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
#: Time in which nothing ran here. What the hypervisor took (``steal``) was used too, but not by this machine.
NOT_BUSY = ("idle", "iowait", "steal")


def cpu_ticks(text: str | None) -> dict[str, int] | None:
    """Return kind → ticks since boot of all CPUs, or None if ``text`` does not begin as ``/proc/stat`` does."""
    line = re.match(rf"cpu((?: +\d+){{{len(CPU_KINDS)},}})\n", text or "")
    if line is None:
        return None
    return {kind: int(ticks) for kind, ticks in zip(CPU_KINDS, line[1].split(), strict=False)}


def busy_share(before: str | None, after: str | None) -> float | None:
    """Return the share of all CPU time between two readings that was used, 0 to 1.

    None if one of them cannot be read, no time passed between them, or a counter ran back.
    """
    first, last = cpu_ticks(before), cpu_ticks(after)
    if first is None or last is None:
        return None
    grown = {kind: last[kind] - first[kind] for kind in CPU_KINDS}
    total = sum(grown.values())
    # Idle time of a single CPU may run back by a tick (proc(5)); anything else was a reset.
    if total <= 0 or any(ticks < 0 for kind, ticks in grown.items() if kind not in NOT_BUSY):
        return None
    return sum(ticks for kind, ticks in grown.items() if kind not in NOT_BUSY) / total
