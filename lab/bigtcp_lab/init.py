"""The first process of the lab's process namespace: reaps what is left over, and ends when the lab does.

Run by ``containers.py``. It prints its process id as seen from outside, and its end (standard input closed, or its
parent dead) ends every process in the namespace.
"""

from __future__ import annotations

import os
import signal
import sys

from bigtcp_lab import syscalls


def main() -> None:
    """Make the namespace, print the id of its first process, and wait for the end of standard input."""
    syscalls.die_with_parent()
    try:
        syscalls.unshare(syscalls.CLONE_NEWPID)
    except OSError as error:
        print(error, flush=True)
        sys.exit(1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    child = os.fork()
    if child:
        print(child, flush=True)
        os.close(0)
        os.waitpid(child, 0)
        return
    syscalls.die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel then reaps orphans by itself
    while os.read(0, 1):
        pass
