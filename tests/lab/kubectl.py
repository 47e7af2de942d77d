"""The machine's kubectl, whichever version that is, pointed at a cluster."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

#: kubectl before 1.30 speaks SPDY for commands in pods, and a newer one does when told so; the lab does not.
FIRST_WITH_WEBSOCKETS = 30
SPDY_ONLY = {"KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "false"}
SPDY_REFUSED = "the lab runs commands over WebSocket only, not over SPDY: use kubectl 1.30 or newer"


class Kubectl:
    """Calls the kubectl on the PATH with a kubeconfig and a cache of its own."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        found = shutil.which("kubectl")
        assert found is not None, "kubectl must be on the PATH: these tests hold the lab's API against it"
        self._command = [found, "--kubeconfig", str(kubeconfig), "--cache-dir", str(folder / "kubectl-cache")]
        #: 20 for kubectl 1.20
        self.minor = _minor(found)

    @property
    def has_websockets(self) -> bool:
        """Whether it can run commands in the lab's pods."""
        return self.minor >= FIRST_WITH_WEBSOCKETS

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        """Start kubectl with pipes."""
        pipe = subprocess.PIPE
        return subprocess.Popen([*self._command, *arguments], stdout=pipe, stderr=pipe, stdin=pipe, text=True)

    def __call__(
        self, *arguments: str, stdin: str = "", exit_code: int = 0, environment: dict[str, str] | None = None
    ) -> str:
        """Run kubectl and return its output; fails when it does not end with ``exit_code``."""
        done = subprocess.run(
            [*self._command, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, **(environment or {})},
        )
        assert done.returncode == exit_code, (
            f"kubectl {arguments}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done.stdout + done.stderr


@functools.cache
def _minor(program: str) -> int:
    command = [program, "version", "--client", "-o", "json"]
    told = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    minor = re.match(r"\d+", told["clientVersion"]["minor"])  # such as "32+"
    assert minor is not None
    return int(minor[0])
