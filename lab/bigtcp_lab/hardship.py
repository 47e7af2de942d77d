"""What makes the life of a pod's processes hard: a CPU shared with a busy process, or a CPU limit.

Standard library only: it runs in the process that becomes the container's program, before that gives up
its rights. What is started here is in the pod's own process namespace, so it ends with the pod.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from bigtcp_lab import syscalls

CGROUP_DIRECTORY = "/sys/fs/cgroup"
"""Where a pod finds the ``cpu.stat`` of its own cgroup."""
LOWEST_PRIORITY = 15
"""Nice value of a pod on a crowded CPU: the process beside it, of value 0, gets 28 times as much (sched(7))."""
PERIOD_S = 0.1
"""The kernel's own period of a CPU limit (cpu.max in Documentation/admin-guide/cgroup-v2.rst)."""
RUN_SHARE = 0.3
"""Of each period, what a limited pod may run."""


def begin(name: str, control: int) -> None:
    """Let this process and its children suffer from the fault ``name``; what is started has no ``control``."""
    if name == "crowded-cpu":
        cpu = max(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpu})
        if _is_child(control):
            while True:
                pass
        os.setpriority(os.PRIO_PROCESS, 0, LOWEST_PRIORITY)
    elif name == "cpu-limit":
        _count(0)
        if _is_child(control):
            _limit()


def _is_child(control: int) -> bool:
    """Fork; return whether this is the child, which holds nothing open that others wait for the end of."""
    if os.fork():
        return False
    syscalls.die_with_parent()
    for descriptor in (0, 1, 2, control):
        os.close(descriptor)
    return True


def _limit() -> None:
    """Stop and continue, for ever, all processes of this namespace but its first, and count that in cpu.stat.

    The first is the agent itself: nothing stops the first process of a namespace from within.
    """
    periods = 0
    while True:
        time.sleep(PERIOD_S * RUN_SHARE)
        periods += 1
        _count(periods)
        _signal_all(signal.SIGSTOP)
        time.sleep(PERIOD_S * (1 - RUN_SHARE))
        _signal_all(signal.SIGCONT)


def _count(periods: int) -> None:
    throttled_us = round(periods * PERIOD_S * (1 - RUN_SHARE) * 1e6)
    with open(f"{CGROUP_DIRECTORY}/cpu.stat.new", "w", encoding="ascii") as file:
        file.write(f"nr_periods {periods}\nnr_throttled {periods}\nthrottled_usec {throttled_us}\n")
    os.rename(f"{CGROUP_DIRECTORY}/cpu.stat.new", f"{CGROUP_DIRECTORY}/cpu.stat")


def _signal_all(number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # nobody is there but the first process
        os.kill(-1, number)
