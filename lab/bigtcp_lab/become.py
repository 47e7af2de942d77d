"""Becomes a container, or a command inside one: joins and makes namespaces, builds the root, executes.

Runs in a process forked from ``init.py``, because a process with threads cannot do this. The fields of a
``Launch`` come over a socket. Back over it come ``ready`` (the kernel attaches the sender's process id, which is
how the lab learns it), then nothing if the program could be executed, or else a sentence why not.

Two processes, the second killed with the first: the outer one waits and tells the lab the exit code, the inner one
is process 1 of the container's own namespace, or in an existing one's. (A process enters a process namespace only
by being born there.)

Nothing may be imported late: once the root has changed, the interpreter's own files are out of reach.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import warnings
from types import SimpleNamespace

from bigtcp_lab import cilium, syscalls

START_ERROR = 128
"""Exit code of a container that could not be started, as containerd gives it."""
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
OWN_DIRECTORIES = frozenset(
    ("dev", "home", "lost+found", "media", "mnt", "proc", "root", "run", "srv", "sys", "tmp", "var")
)
"""Top-level directories that a container does not share with the machine; all others are bound read-only."""
CILIUM_DIRECTORY, CILIUM_COMMANDS = "/.lab/cilium", ("cilium-agent", "cilium-dbg")
"""Where the emulated Cilium's scripts are in its containers, and which there are."""
_OLD_ROOT = "/.machine"
_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ)
"""Those that the forking process ignores, and those that Python does; a program expects neither."""
_IMPORTED_BY_EXEC = warnings
"""``os.execvpe`` imports it, which is late."""


def main(control: int, ended: int, stdin: int, stdout: int, stderr: int, *join: int) -> None:
    """Read the specification from ``control`` and become what it says; the exit code goes to ``ended``, a byte."""
    try:
        syscalls.die_with_parent()
        os.set_inheritable(control, False)  # its end is how the lab learns that the program was executed
        for number, stream in enumerate((stdin, stdout, stderr)):
            os.dup2(stream, number)
            os.close(stream)
        received = b"".join(iter(lambda: os.read(control, 1 << 16), b""))
        if received:
            _become(SimpleNamespace(**json.loads(received)), control, ended, join)
    except Exception as error:  # whatever it is, the lab must hear of it
        os.write(control, f"{error}".encode())
    finally:  # never back to what forked this process
        os._exit(START_ERROR)


def _become(launch: SimpleNamespace, control: int, ended: int, join: tuple[int, ...]) -> None:
    if launch.hardships:
        from bigtcp_lab import hardship

        launch.begin = hardship.begin
    for descriptor, (_, kind) in zip(join, launch.join, strict=True):
        syscalls.setns(descriptor, kind)
        os.close(descriptor)
    if launch.root is not None:
        syscalls.unshare(
            syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC
        )
    _continue_in_child(control, ended)
    if launch.root is not None:
        syscalls.sethostname(launch.hostname)
        _build_root(launch.root, [SimpleNamespace(**bind) for bind in launch.binds])
        if launch.read_only_root:
            syscalls.make_read_only("/", below=False)
    _execute(launch, control)


def _continue_in_child(control: int, ended: int) -> None:
    """Fork; the parent waits and tells how its child ended, the child goes on."""
    child = os.fork()
    if child == 0:
        os.close(ended)
        syscalls.die_with_parent()
        return
    for descriptor in (0, 1, 2, control):  # the child's output ends with the child
        os.close(descriptor)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.write(ended, bytes([code if code >= 0 else 128 - code]))
    os._exit(0)


def _execute(launch: SimpleNamespace, control: int) -> None:
    os.chdir(launch.directory)
    os.setsid()
    if launch.terminal:
        syscalls.take_terminal(0)
    for name in launch.hardships:
        launch.begin(name, control)
    if launch.capabilities is not None:
        syscalls.drop_capabilities_except(set(launch.capabilities))
    if launch.group is not None:
        os.setgroups([])
        os.setgid(launch.group)
    if launch.user is not None:
        os.setuid(launch.user)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    program = launch.argv[0]
    os.write(control, b"ready\n")
    if _is_emulated(launch):
        os.close(control)
        _emulate(launch)
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


def _is_emulated(launch: SimpleNamespace) -> bool:
    """Return whether the program is one of the emulated Cilium's scripts, without the disguise of a fault."""
    path = launch.environment.get("PATH", "").partition(":")[0]
    return (
        path == CILIUM_DIRECTORY and launch.argv[0] in CILIUM_COMMANDS and "LAB_DISGUISE" not in launch.environment
    )


def _emulate(launch: SimpleNamespace) -> None:
    """Do what the script does in this process: a new interpreter would take longer to start than to do it."""
    os.environ.clear()
    os.environ.update(launch.environment)
    sys.argv[1:] = launch.argv
    code: object = 0
    try:
        cilium.main()
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _build_root(root: str, binds: list[SimpleNamespace]) -> None:
    """Make ``root`` the root of this mount namespace: own directories, and the machine's others read-only."""
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("tmpfs", root, "tmpfs", syscalls.MS_NOSUID, "mode=0755")
    for name in os.listdir("/"):
        if name in OWN_DIRECTORIES:
            continue
        source, target = f"/{name}", f"{root}/{name}"
        if os.path.islink(source):
            os.symlink(os.readlink(source), target)
        elif os.path.isdir(source):
            os.mkdir(target)
            syscalls.mount(source, target, "", syscalls.MS_BIND | syscalls.MS_REC)
            syscalls.make_read_only(target)
    for name in sorted(OWN_DIRECTORIES - {"lost+found"}):
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


def _bind(bind: SimpleNamespace) -> None:
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
