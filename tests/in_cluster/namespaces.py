"""Two network namespaces joined by a veth pair, held by two processes only: when these end, nothing is left."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

End = Literal["client", "server"]

ADDRESSES: dict[End, dict[str, str]] = {
    "client": {"ipv4": "10.99.0.1", "ipv6": "fd99::1"},
    "server": {"ipv4": "10.99.0.2", "ipv6": "fd99::2"},
}


@dataclass(frozen=True)
class Pair:
    """The processes that hold the two namespaces; the device is called eth0 in both."""

    holders: dict[End, int]

    def command(self, end: End, *argv: str) -> list[str]:
        """Return ``argv`` to be run inside one end. Becomes the process itself, so signals reach it."""
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", "--target", str(self.holders[end]), *user, "--net", "--", *argv]

    def run(self, end: End, *argv: str) -> None:
        """Run one command inside one end. Raises CalledProcessError with what it said."""
        done = subprocess.run(self.command(end, *argv), capture_output=True, text=True)
        assert done.returncode == 0, f"{argv}: {done.stderr}"


def processes_in(namespaces: set[str]) -> list[int]:
    """Return the processes that live in any of the network namespaces."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and os.readlink(process / "ns" / "net") in namespaces:
                found.append(int(process.name))
        except OSError:  # it ended meanwhile, or is not ours to look at
            continue
    return found


@contextmanager
def joined_namespaces() -> Iterator[Pair]:
    """Make the pair, yield it, take it down, and fail if a process is left in it."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    started: list[subprocess.Popen[bytes]] = []
    namespaces: set[str] = set()

    def hold(*prefix: str) -> int:
        holder = subprocess.Popen([*prefix, "sleep", "600"])
        started.append(holder)
        outside = os.readlink("/proc/self/ns/net")
        deadline = time.monotonic() + 10
        while (inside := os.readlink(f"/proc/{holder.pid}/ns/net")) in {outside, *namespaces}:
            assert holder.poll() is None, f"{prefix} ended with {holder.returncode}"
            assert time.monotonic() < deadline, f"{prefix} made no namespace"
            time.sleep(0.01)
        namespaces.add(inside)
        return holder.pid

    try:
        client = hold("unshare", *user, "--net", "--")
        # The second one inside the first one's user namespace, so that a device can be moved between them.
        inner = Pair({"client": client}).command("client", "unshare", "--net", "--")
        pair = Pair({"client": client, "server": hold(*inner)})
        pair.run("client", "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far0")
        pair.run("client", "ip", "link", "set", "far0", "netns", str(pair.holders["server"]), "name", "eth0")
        for end, addresses in ADDRESSES.items():
            pair.run(end, "ip", "addr", "add", addresses["ipv4"] + "/24", "dev", "eth0")
            pair.run(end, "ip", "addr", "add", addresses["ipv6"] + "/64", "dev", "eth0", "nodad")
            for device in ("lo", "eth0"):
                pair.run(end, "ip", "link", "set", device, "up")
        yield pair
        left = set(processes_in(namespaces)) - {holder.pid for holder in started}
        assert not left, f"processes {left} are left in the namespaces"
    finally:
        for holder in started:
            holder.kill()
            holder.wait()
    assert not processes_in(namespaces)
