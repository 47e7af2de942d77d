"""The programs that the agent starts."""

from __future__ import annotations

import contextlib
import subprocess

#: One that only says what it is, or what it sees, takes no longer.
LOOK_S = 5


def output_of(*command: str) -> str | None:
    """Return all that a command prints, None if it cannot be run or does not end."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LOOK_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a child: politely, then not."""
    for end in (process.terminate, process.kill):
        if process.poll() is not None:
            return
        end()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(2)
