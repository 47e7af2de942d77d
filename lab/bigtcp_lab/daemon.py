"""Starts, stops and describes the lab, and is its one process: API server, controllers and kubelets together.

Nothing of a lab outlives its process: every other process dies with it (``containers.py``), network namespaces are
held by its descriptors only, mounts are private to the containers, and sockets close. What stays after a kill are
files in the state directory, which the next ``up`` replaces.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import yaml

from bigtcp_bench.errors import InvalidInput, PreconditionFailed
from bigtcp_lab import control
from bigtcp_lab.containers import PATH
from bigtcp_lab.faults import parse_fault
from bigtcp_lab.listening import ListenAddress
from bigtcp_lab.network import MAX_NODES

log = logging.getLogger(__name__)

_STOP_S = 2.0
"""How long a lab may take to end by itself before it is killed."""
_LOCK_S = 1.0
OWNER = "BIGTCP_LAB_OWNER"
"""Environment variable with the id of a process; a lab that is started with it ends with that, however it ends."""
_NEEDED_COMMANDS = {"ip": "iproute2", "tc": "iproute2", "iperf3": "iperf3"}
"""Command → Debian package."""


@dataclass(frozen=True)
class LabInfo:
    """A running lab: where its kubeconfig is, which process it is, and the address of its API."""

    kubeconfig: Path
    pid: int
    url: str


@dataclass(frozen=True)
class LabStatus:
    """What ``lab status`` shows; without a running lab only ``running`` is meaningful."""

    running: bool
    kubeconfig: Path | None = None
    pid: int | None = None
    url: str = ""
    #: Node name → whether it is ready.
    nodes: dict[str, bool] = field(default_factory=dict)
    #: Node name → whether its Cilium agent is ready; empty without Cilium.
    agents: dict[str, bool] = field(default_factory=dict)
    #: Faults that are on, as ``name`` or ``name:node``.
    faults: list[str] = field(default_factory=list)


# From outside


def up(
    state_dir: Path,
    *,
    nodes: int = 2,
    faults: Sequence[str] = (),
    rbac: bool = False,
    listen: str | None = None,
    owner: int | None = None,
    timeout_s: float = 60,
) -> LabInfo:
    """Start a lab and return once its agents are ready; a lab that already runs there is returned as it is.

    ``faults`` are those of ``faults.py``; with ``rbac`` the API enforces access rules for service accounts. With a
    fault that keeps agents from becoming ready, this returns without waiting for them. ``listen``, as
    ``HOST:PORT``, is a further address of the API for others: the kubeconfig names it, and the file's group may
    read it. The lab ends with the process ``owner``, or, if that is None, with the one that ``OWNER`` names;
    without either it stays until ``down``. Raises InvalidInput for arguments, PreconditionFailed when this machine
    cannot run a lab or it does not come up in time.
    """
    if not 1 <= nodes <= MAX_NODES:
        raise InvalidInput(f"lab: {nodes} nodes: a lab has 1 to {MAX_NODES}")
    for text in faults:
        parse_fault(text, [f"node{number}" for number in range(1, nodes + 1)])
    if listen is not None:
        ListenAddress.parse(listen)
    missing = {package for command, package in _NEEDED_COMMANDS.items() if shutil.which(command) is None}
    if missing:
        raise PreconditionFailed(f"lab: install {' and '.join(sorted(missing))} first (apt-get install …)")
    state_dir = state_dir.resolve()
    state_dir.mkdir(parents=True, exist_ok=True)
    daemon: subprocess.Popen[bytes] | None = None
    if _running(state_dir) is None:
        options = [f"--nodes={nodes}", *(f"--fault={text}" for text in faults), *(["--rbac"] if rbac else [])]
        options += [] if listen is None else [f"--listen={listen}"]
        owner = owner or int(os.environ.get(OWNER) or 0)
        options += [f"--owner={owner}:{_start_time(owner)}"] if owner else []
        daemon = _start(state_dir, options)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        state = _running(state_dir)
        if state is not None and state["ready"]:
            return LabInfo(state_dir / "kubeconfig", state["pid"], state["url"])
        if daemon is not None and daemon.poll() is not None and _running(state_dir) is None:
            words = _last_words(state_dir)
            if words.startswith("lab: "):  # its own sentence
                raise PreconditionFailed(words)
            hint = "" if os.geteuid() == 0 else " (without root, this machine must allow user namespaces)"
            raise PreconditionFailed(f"lab: it ended while starting: {words}{hint}")
        time.sleep(0.05)
    if daemon is not None:
        daemon.kill()
    log_file = state_dir / "lab.log"
    raise PreconditionFailed(f"lab: not ready within {timeout_s:g} s ({log_file}: {_last_words(state_dir)})")


def down(state_dir: Path) -> None:
    """Stop the lab, if one runs there, and remove what it wrote, except its log."""
    state_dir = state_dir.resolve()
    state = _running(state_dir)
    if state is not None:
        descriptor = os.pidfd_open(state["pid"])
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            if not _ended(state_dir, _STOP_S):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                _ended(state_dir, _STOP_S)
        finally:
            os.close(descriptor)
    if state_dir.is_dir():
        _clean(state_dir)


def status(state_dir: Path) -> LabStatus:
    """Return what the lab in ``state_dir`` is doing; raises PreconditionFailed when it does not answer."""
    state_dir = state_dir.resolve()
    state = _running(state_dir)
    if state is None or not state["url"]:
        return LabStatus(running=state is not None)
    kubeconfig = state_dir / "kubeconfig"
    try:
        told = control.request(kubeconfig, "status")
    except PreconditionFailed:
        if _ended(state_dir, _LOCK_S):  # it was about to
            return LabStatus(False)
        raise
    return LabStatus(True, kubeconfig, state["pid"], state["url"], told["nodes"], told["agents"], told["faults"])


def set_fault(state_dir: Path, fault: str, on: bool) -> list[str]:
    """Switch a fault of the running lab and return the faults that are now on.

    Raises InvalidInput for a fault that is unknown or only chosen at the start, PreconditionFailed without a lab.
    """
    state_dir = state_dir.resolve()
    if _running(state_dir) is None:
        raise PreconditionFailed(f"lab: none is running in {state_dir}; start one with: bigtcp-bench lab up")
    answer = control.request(state_dir / "kubeconfig", "faults", {"fault": fault, "on": on})
    return list(answer["faults"])


def _start(state_dir: Path, options: list[str]) -> subprocess.Popen[bytes]:
    # The virtual environment's own interpreter; -c instead of -m, so that it needs no installed package.
    boot = f"import sys; sys.path[:0] = {PATH!r}; from bigtcp_lab.daemon import main; main()"
    command = [sys.executable, "-c", boot, f"--state-dir={state_dir}", *options]
    if os.geteuid() != 0:  # root inside a user namespace of its own; the machine's network stays as it is
        command = ["unshare", "--user", "--map-root-user", "--", *command]
    with open(state_dir / "lab.log", "wb") as log_file:
        daemon = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log_file, stderr=log_file, start_new_session=True, cwd="/"
        )
    # Somebody must take note of its end, should it come while this process lives.
    threading.Thread(target=daemon.wait, name="lab-daemon", daemon=True).start()
    return daemon


def _last_words(state_dir: Path) -> str:
    with contextlib.suppress(OSError):
        lines = (state_dir / "lab.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        if lines:
            return lines[-1]
    return "it said nothing"


def _running(state_dir: Path) -> dict[str, Any] | None:
    """Return the state that the running lab has written, or None when none runs (judged by its lock)."""
    try:
        with open(state_dir / "lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except FileNotFoundError:
        return None
    except BlockingIOError:
        pass
    with contextlib.suppress(OSError, ValueError):
        state: dict[str, Any] = json.loads((state_dir / "state.json").read_text(encoding="utf-8"))
        if state["started"] == _start_time(state["pid"]):
            return state
    return {"pid": 0, "url": "", "ready": False}


def _start_time(pid: int) -> str:
    """Return when a process started, in clock ticks since boot: it tells apart two uses of one process id."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19]


def _ended(state_dir: Path, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while _running(state_dir) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _clean(state_dir: Path) -> None:
    for name in ("state.json", "kubeconfig"):
        (state_dir / name).unlink(missing_ok=True)
    for name in ("nodes", "faults", "bin", "cilium-bin", "tls", "root"):
        shutil.rmtree(state_dir / name, ignore_errors=True)


# The process itself


def main() -> None:
    """Run a lab until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="bigtcp_lab.daemon", description=__doc__)
    parser.add_argument("--state-dir", type=Path, required=True)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--fault", action="append", default=[])
    parser.add_argument("--rbac", action="store_true")
    parser.add_argument("--listen", type=ListenAddress.parse)
    parser.add_argument("--owner")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with open(options.state_dir / "lock", "wb") as lock:
        _take(lock)
        _clean(options.state_dir)
        try:
            asyncio.run(_serve(options))
        except PreconditionFailed as error:
            sys.exit(str(error))


def _take(lock: IO[bytes]) -> None:
    """Take the state directory for this process; a moment's patience, because ``_running`` looks at the lock."""
    deadline = time.monotonic() + _LOCK_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                sys.exit(f"lab: another one runs in {Path(lock.name).parent}")
            time.sleep(0.01)


async def _serve(options: argparse.Namespace) -> None:
    from bigtcp_lab.cluster import Lab

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if options.owner is not None:
        _end_with(options.owner, stop)
    state = {"pid": os.getpid(), "started": _start_time(os.getpid()), "url": "", "ready": False}
    _write_state(options.state_dir, state)
    lab = Lab(
        options.state_dir, nodes=options.nodes, faults=options.fault, rbac=options.rbac, listen=options.listen
    )
    try:
        await lab.start()
        _write_kubeconfig(options.state_dir / "kubeconfig", lab.kubeconfig, shared=options.listen is not None)
        state["url"] = lab.url
        _write_state(options.state_dir, state)
        ready = asyncio.create_task(lab.wait_ready())
        stopping = asyncio.create_task(stop.wait())
        ends: list[asyncio.Future[Any]] = [stopping, lab.failed]
        await asyncio.wait([ready, *ends], return_when=asyncio.FIRST_COMPLETED)
        if ready.done() and not stop.is_set():
            await ready
            state["ready"] = True
            _write_state(options.state_dir, state)
            log.info("ready at %s", lab.url)
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in (ready, stopping):
            task.cancel()
        if lab.failed.done():
            lab.failed.result()
    finally:
        await lab.stop()


def _end_with(owner: str, stop: asyncio.Event) -> None:
    """Set ``stop`` when a process ends; ``owner`` is its id and, after a colon, when it started."""
    pid, _, started = owner.partition(":")
    loop = asyncio.get_running_loop()
    try:
        descriptor = os.pidfd_open(int(pid))
        if _start_time(int(pid)) != started:
            raise ProcessLookupError
    except (ProcessLookupError, FileNotFoundError):
        stop.set()
        return

    def ended() -> None:
        loop.remove_reader(descriptor)
        log.info("process %s has ended, and so does this lab", pid)
        stop.set()

    loop.add_reader(descriptor, ended)


def _write_kubeconfig(path: Path, content: dict[str, Any], *, shared: bool) -> None:
    """Write it for this user alone, who is the lab's administrator by it, or ``shared`` with the file's group."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        if shared:  # whatever the umask
            os.fchmod(descriptor, 0o640)
        yaml.safe_dump(content, file)


def _write_state(state_dir: Path, state: dict[str, Any]) -> None:
    fresh = state_dir / "state.json.new"
    fresh.write_text(json.dumps(state), encoding="utf-8")
    fresh.rename(state_dir / "state.json")


if __name__ == "__main__":
    main()
