"""What to start and where: a container's program, or a command inside one."""

from __future__ import annotations

from dataclasses import dataclass, field

from bigtcp_lab.become import OWN_DIRECTORIES


@dataclass(frozen=True)
class Bind:
    """A file or directory of the machine that a container sees; without a source, an empty directory in memory."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Launch:
    """What to execute and where; descriptors are those of the launching process, inherited."""

    argv: list[str]
    environment: dict[str, str]
    directory: str
    #: (descriptor, CLONE_NEW… flag) of existing namespaces to join, in this order; process namespaces last.
    join: list[tuple[int, int]]
    #: An empty directory to build a new container's root on; None for a command in an existing container.
    root: str | None = None
    hostname: str = ""
    binds: list[Bind] = field(default_factory=list)
    read_only_root: bool = False
    #: None leaves the user as it is (root).
    user: int | None = None
    group: int | None = None
    #: Numbers of capabilities(7) that the program may have; None for all.
    capabilities: list[int] | None = None
    #: Faults under which it suffers, see ``hardship.py``.
    hardships: list[str] = field(default_factory=list)
    terminal: bool = False


def is_shared(path: str) -> bool:
    """Return whether a container sees the machine's file ``path`` without a bind of its own."""
    return path.split("/")[1] not in OWN_DIRECTORIES
