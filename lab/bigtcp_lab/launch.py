"""Becomes a container, or a command inside one: joins and makes namespaces, builds the root, executes.

Runs as a process of its own (standard library only, started by ``containers.py``), because a process with
threads cannot do this. The specification comes as JSON over a socket, whose number is the only argument. Back over
it come ``ready`` (the kernel attaches the sender's process id, which is how the lab learns it), then nothing if
the program could be executed, or else a sentence why not.

Three processes, each killed with the one before it: the outermost is the lab's child, the middle one is in the
lab's process namespace, the innermost is process 1 of the container's own. (A command inside an existing container
needs only two.) A process enters a process namespace only by being born there, hence the forks.

Nothing may be imported late: once the root has changed, the interpreter's own files are out of reach.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import termios
from dataclasses import dataclass, field

from bigtcp_lab import hardship, syscalls

START_ERROR = 128
"""Exit code of a container that could not be started, as containerd gives it."""
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_OWN_DIRECTORIES = {
    "dev",
    "home",
    "lost+found",
    "media",
    "mnt",
    "proc",
    "root",
    "run",
    "srv",
    "sys",
    "tmp",
    "var",
}
"""Top-level directories that a container does not share with the machine; all others are bound read-only."""
_OLD_ROOT = "/.machine"


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
    return path.split("/")[1] not in _OWN_DIRECTORIES


def main() -> None:
    """Read the specification and become what it says."""
    syscalls.die_with_parent()
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)  # its end is how the lab learns that the program was executed
    received = bytearray()
    while chunk := control.recv(1 << 16):
        received += chunk
    if not received:
        sys.exit("the lab ended before it said what to run")
    document = json.loads(received)
    launch = Launch(**{**document, "binds": [Bind(**bind) for bind in document["binds"]]})
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        for descriptor, kind in launch.join:
            syscalls.setns(descriptor, kind)
            os.close(descriptor)
        _continue_in_child(control)
        if launch.root is not None:
            syscalls.unshare(
                syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC
            )
            _continue_in_child(control)
            socket.sethostname(launch.hostname)
            _build_root(launch.root, launch.binds)
            if launch.read_only_root:
                syscalls.make_read_only("/", below=False)
        _execute(launch, control)
    except Exception as error:  # whatever it is, the lab must hear of it
        control.sendall(f"{error}".encode())
        os._exit(START_ERROR)


def _continue_in_child(control: socket.socket) -> None:
    """Fork; the parent waits and ends as its child did, the child goes on."""
    child = os.fork()
    if child == 0:
        syscalls.die_with_parent()
        return
    control.close()
    for descriptor in (0, 1, 2):  # the child's output ends with the child
        os.close(descriptor)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(code if code >= 0 else 128 - code)


def _execute(launch: Launch, control: socket.socket) -> None:
    os.chdir(launch.directory)
    os.setsid()
    if launch.terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for name in launch.hardships:
        hardship.begin(name, control)
    if launch.capabilities is not None:
        syscalls.drop_capabilities_except(set(launch.capabilities))
    if launch.group is not None:
        os.setgroups([])
        os.setgid(launch.group)
    if launch.user is not None:
        os.setuid(launch.user)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    program = launch.argv[0]
    control.sendall(b"ready\n")
    try:
        os.execvpe(program, launch.argv, launch.environment)
    except FileNotFoundError:
        why = (
            f"stat {program}: no such file or directory"
            if "/" in program
            else "executable file not found in $PATH"
        )
        raise OSError(f'exec: "{program}": {why}') from None
    except PermissionError:
        raise OSError(f'exec: "{program}": permission denied') from None


def _build_root(root: str, binds: list[Bind]) -> None:
    """Make ``root`` the root of this mount namespace: own directories, and the machine's others read-only."""
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("tmpfs", root, "tmpfs", syscalls.MS_NOSUID, "mode=0755")
    for name in os.listdir("/"):
        if name in _OWN_DIRECTORIES:
            continue
        source, target = f"/{name}", f"{root}/{name}"
        if os.path.islink(source):
            os.symlink(os.readlink(source), target)
        elif os.path.isdir(source):
            os.mkdir(target)
            syscalls.mount(source, target, "", syscalls.MS_BIND | syscalls.MS_REC)
            syscalls.make_read_only(target)
    for name in sorted(_OWN_DIRECTORIES - {"lost+found"}):
        os.mkdir(f"{root}/{name}")
    os.chmod(f"{root}/tmp", 0o1777)
    for name in ("cache", "lib", "log", "tmp"):
        os.mkdir(f"{root}/var/{name}")
    os.chmod(f"{root}/var/tmp", 0o1777)
    os.symlink("/run", f"{root}/var/run")
    _mount_devices(f"{root}/dev")
    plain = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount("sysfs", f"{root}/sys", "sysfs", plain | syscalls.MS_RDONLY)
    syscalls.mount("proc", f"{root}/proc", "proc", plain)
    for name in ("sys", "sysrq-trigger", "irq", "bus"):  # what would reach beyond the container
        if os.path.exists(f"{root}/proc/{name}"):
            syscalls.mount(f"{root}/proc/{name}", f"{root}/proc/{name}", "", syscalls.MS_BIND)
            syscalls.make_read_only(f"{root}/proc/{name}")
    os.mkdir(root + _OLD_ROOT)
    syscalls.pivot_root(root, root + _OLD_ROOT)
    os.chdir("/")
    for bind in binds:
        _bind(bind)
    syscalls.unmount_lazily(_OLD_ROOT)
    os.rmdir(_OLD_ROOT)


def _mount_devices(dev: str) -> None:
    syscalls.mount("tmpfs", dev, "tmpfs", syscalls.MS_NOSUID, "mode=0755")
    for name in _DEVICES:
        with open(f"{dev}/{name}", "xb"):
            syscalls.mount(f"/dev/{name}", f"{dev}/{name}", "", syscalls.MS_BIND)
    for name, target in (
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
        ("ptmx", "pts/ptmx"),
    ):
        os.symlink(target, f"{dev}/{name}")
    os.mkdir(f"{dev}/pts")
    syscalls.mount("devpts", f"{dev}/pts", "devpts", syscalls.MS_NOSUID, "newinstance,ptmxmode=0666")
    os.mkdir(f"{dev}/shm")
    os.chmod(f"{dev}/shm", 0o1777)


def _bind(bind: Bind) -> None:
    if not bind.source:
        os.makedirs(bind.target, exist_ok=True)
        syscalls.mount("tmpfs", bind.target, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=1777")
        return
    source = _OLD_ROOT + bind.source
    if os.path.isdir(source):
        os.makedirs(bind.target, exist_ok=True)
    elif not os.path.lexists(bind.target):
        os.makedirs(os.path.dirname(bind.target), exist_ok=True)
        with open(bind.target, "xb"):
            pass
    syscalls.mount(source, bind.target, "", syscalls.MS_BIND | syscalls.MS_REC)
    if bind.read_only:
        syscalls.make_read_only(bind.target)
