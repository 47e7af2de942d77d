"""Starts everything that runs in the lab's process namespace, whose first process it makes.

Run by ``containers.py``. A process with threads cannot become a container, and a fresh interpreter for each would
take longer to import what it needs than most of them live: so all are forked from this one, which has imported it.
The namespace's first process reaps what is left over; its end (standard input closed, or its parent dead) ends
every process in the namespace.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys

from bigtcp_lab import become, cilium_agent, syscalls

_IMPORTED_FOR_CILIUM = cilium_agent, ssl, subprocess
"""Which the emulated Cilium would else import in each of its processes."""
MOST_DESCRIPTORS = 16
"""Handed over for one process: see ``become``."""


def main() -> None:
    """Make the namespace, say so, and fork what is asked for at the socket whose number is the only argument."""
    syscalls.die_with_parent()
    try:
        syscalls.unshare(syscalls.CLONE_NEWPID)
    except OSError as error:
        print(error, flush=True)
        sys.exit(1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    requests = socket.socket(fileno=int(sys.argv[1]))
    if os.fork() == 0:
        requests.close()
        _be_the_first()
        os._exit(0)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    print("ready", flush=True)
    _serve(requests)


def _be_the_first() -> None:
    syscalls.die_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel then reaps orphans by itself
    while os.read(0, 1):
        pass


def _serve(requests: socket.socket) -> None:
    """Fork a process for each request and answer with a descriptor of it; when the lab hangs up, reap all."""
    while True:
        asked, descriptors, _, _ = socket.recv_fds(requests, 1, MOST_DESCRIPTORS)
        if not asked:
            break
        pid = os.fork()
        if pid == 0:
            requests.close()
            become.main(*descriptors)
        process = os.pidfd_open(pid)
        socket.send_fds(requests, [b"."], [process])
        for descriptor in (process, *descriptors):
            os.close(descriptor)
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    try:
        while True:
            os.wait()
    except ChildProcessError:
        pass
