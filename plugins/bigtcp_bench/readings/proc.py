"""The kernel's text files as the agent copied them, each read in this one place: names → numbers.

Whatever a file holds, nothing is raised: what is no number that a kernel can count to is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

#: The kinds of CPU time in the first line of ``/proc/stat``, see proc(5); guest time, which follows, is contained
#: in user and nice.
CPU_KINDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
#: Kinds on the ``softirq`` line of ``/proc/stat``, after its total: softirq_to_name in kernel/softirq.c.
SOFTIRQ_KINDS = ("HI", "TIMER", "NET_TX", "NET_RX", "BLOCK", "IRQ_POLL", "TASKLET", "SCHED", "HRTIMER", "RCU")
#: Columns of a line of ``/proc/net/softnet_stat``, hexadecimal, one line per CPU (net/core/net-procfs.c).
SOFTNET_COLUMNS = {0: "processed", 1: "dropped", 2: "time_squeeze"}
#: The column that has the line's CPU, since Linux 5.10. Lines of CPUs that are offline are left out.
_SOFTNET_CPU = 12
#: 64 bits have at most 20 decimal digits.
_NUMBER = re.compile(r"[0-9]{1,20}")
#: Microseconds since boot in which at least one task waited (Documentation/accounting/psi.rst).
_PRESSURE = re.compile(r"^some .*\btotal=([0-9]{1,20})\b", re.MULTILINE)


def number(word: str | None) -> int | None:
    """Return the number that ``word`` is, or None: signs (an unlimited setting) are no count."""
    text = (word or "").strip()
    return int(text) if _NUMBER.fullmatch(text) else None


def cpu_ticks(stat: str | None) -> dict[str, int] | None:
    """Return kind → ticks since boot of all CPUs, or None if ``stat`` does not begin as ``/proc/stat`` does."""
    line, end, _ = (stat or "").partition("\n")
    words = line.split()
    ticks = [number(word) for word in words[1:]]
    if not end or not words or words[0] != "cpu" or len(ticks) < len(CPU_KINDS) or None in ticks:
        return None
    return {kind: one for kind, one in zip(CPU_KINDS, ticks, strict=False) if one is not None}


def interrupts(stat: str | None) -> tuple[int | None, dict[str, int]]:
    """Return from ``/proc/stat`` all interrupts since boot, and softirqs by kind."""
    lines = {words[0]: words[1:] for line in (stat or "").splitlines() if (words := line.split())}
    total = number(lines["intr"][0]) if lines.get("intr") else None
    kinds = zip(SOFTIRQ_KINDS, map(number, lines.get("softirq", [])[1:]), strict=False)
    return total, {kind: count for kind, count in kinds if count is not None}


def softnet(text: str | None) -> dict[str, dict[str, int]]:
    """Return counter → CPU → count of ``/proc/net/softnet_stat``; empty if it is not such a file."""
    rows = [line.split() for line in (text or "").splitlines() if line.strip()]
    if not all(re.fullmatch(r"[0-9a-f]{1,16}", word) for row in rows for word in row):
        return {}
    found: dict[str, dict[str, int]] = {}
    for position, words in enumerate(rows):
        row = [int(word, 16) for word in words]
        cpu = f"CPU {row[_SOFTNET_CPU]}" if len(row) > _SOFTNET_CPU else f"line {position} of {len(rows)}"
        for column, name in SOFTNET_COLUMNS.items():
            if column < len(row):
                found.setdefault(name, {})[cpu] = row[column]
    return found


def two_line_table(text: str | None) -> Iterator[tuple[str, int]]:
    """Read ``/proc/net/snmp`` and ``netstat``: a line of names, then a line of values, under one heading."""
    lines = (text or "").splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        heading, _, rest = names.partition(":")
        if not values.startswith(f"{heading}:"):
            continue
        for name, word in zip(rest.split(), values.partition(":")[2].split(), strict=False):
            value = number(word)
            if value is not None:
                yield f"{heading}{name}", value


def named_lines(text: str | None) -> dict[str, int]:
    """Read ``/proc/net/snmp6`` and a cgroup's ``cpu.stat``: on each line a name and a number."""
    pairs = (words for line in (text or "").splitlines() if len(words := line.split()) == 2)
    return {name: value for name, word in pairs if (value := number(word)) is not None}


def memory(meminfo: str | None) -> dict[str, int]:
    """Return what ``/proc/meminfo`` says in kB, in bytes."""
    rows = (line.split() for line in (meminfo or "").splitlines())
    return {
        words[0].rstrip(":"): kilobytes * 1024
        for words in rows
        if len(words) > 2 and words[2] == "kB" and (kilobytes := number(words[1])) is not None
    }


def waited_us(pressure: str | None) -> int | None:
    """Return for how long something waited, of a file in ``/proc/pressure``; None before Linux 4.20."""
    found = _PRESSURE.search(pressure or "")
    return int(found[1]) if found else None


def load_average(text: str | None) -> tuple[float, float, float] | None:
    """Return the load of the last 1, 5 and 15 minutes, of ``/proc/loadavg``."""
    found = re.match(r"([0-9]{1,9}\.[0-9]{1,9}) ([0-9]{1,9}\.[0-9]{1,9}) ([0-9]{1,9}\.[0-9]{1,9})\s", text or "")
    return (float(found[1]), float(found[2]), float(found[3])) if found else None
