"""The actions of ``bigtcp-bench lab``: start, stop, status, faults."""

from __future__ import annotations

import argparse
import signal
import time
from pathlib import Path
from typing import Any

from bigtcp_bench.commands.common import add_command, add_folder


def add(commands: Any) -> None:
    """Add the command to ``commands``."""
    lab = commands.add_parser("lab", help="the one-machine cluster").add_subparsers(
        required=True, metavar="ACTION"
    )
    lab_up = add_command(lab, "up", "start it, and print its kubeconfig", _lab_up)
    lab_up.add_argument("--nodes", type=int, default=2, help="number of nodes (default: 2)")
    lab_up.add_argument("--fault", action="append", default=[], metavar="NAME", help="misbehave from the start")
    lab_up.add_argument("--rbac", action="store_true", help="enforce RBAC")
    lab_up.add_argument(
        "--listen", metavar="HOST:PORT", help="let others reach its API here, too, as its kubeconfig then says"
    )
    lab_up.add_argument("--foreground", action="store_true", help="stay until interrupted")
    lab_up.add_argument(
        "--manifests",
        action="store_true",
        help="apply namespace, priority class and rights, as before a first run",
    )
    lab_fault = add_command(lab, "fault", "switch a misbehaviour on or off, or list them", _lab_fault)
    lab_fault.add_argument("name", nargs="?", help="name of the fault; without it they are listed")
    lab_fault.add_argument("state", nargs="?", choices=("on", "off"), default="on")
    for command in (
        lab_up,
        lab_fault,
        add_command(lab, "down", "stop it", _lab_down),
        add_command(lab, "status", "say whether it runs", _lab_status),
    ):
        add_folder(command)


def _lab_folder(options: argparse.Namespace) -> Path:
    return Path(options.folder).resolve() / "lab"


def _lab_up(options: argparse.Namespace) -> int:
    from bigtcp_lab import administrator, daemon

    info = daemon.up(
        _lab_folder(options), nodes=options.nodes, faults=options.fault, rbac=options.rbac, listen=options.listen
    )
    if options.manifests:
        administrator.apply_manifests(info.kubeconfig)
    print(
        f"the lab is up (process {info.pid}, API at {info.url}); its Kubernetes API and Cilium agent are emulated"
    )
    print(f"export KUBECONFIG={info.kubeconfig}", flush=True)
    if options.foreground:
        # What a container engine stops its containers with.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            while daemon.status(_lab_folder(options)).running:
                time.sleep(1)
        finally:
            daemon.down(_lab_folder(options))
    return 0


def _lab_down(options: argparse.Namespace) -> int:
    from bigtcp_lab import daemon

    daemon.down(_lab_folder(options))
    print("the lab is down")
    return 0


def _lab_status(options: argparse.Namespace) -> int:
    from bigtcp_lab import daemon

    status = daemon.status(_lab_folder(options))
    if not status.url:
        print("the lab is starting" if status.running else "the lab is down")
        return 1
    print(f"the lab is up (process {status.pid}, API at {status.url})")
    for name, is_ready in status.nodes.items():
        agent = {True: "ready", False: "not ready", None: "none"}[status.agents.get(name)]
        print(f"{name}: {'ready' if is_ready else 'not ready'}, Cilium agent {agent}")
    print(f"faults: {', '.join(status.faults) or 'none'}")
    return 0


def _lab_fault(options: argparse.Namespace) -> int:
    from bigtcp_lab import daemon
    from bigtcp_lab.faults import FAULTS

    if options.name is None:
        for name, text in FAULTS.items():
            print(f"{name:18} {text}")
        return 0
    daemon.set_fault(_lab_folder(options), options.name, options.state == "on")
    print(f"{options.name} is {options.state}")
    return 0
