"""The command `bigtcp-bench`: the lab, the demo, stored results, and putting a cluster back by hand."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bigtcp_bench import __version__
from bigtcp_bench.commands import check, config, generated, history, install_dags, notify, plan, report, results
from bigtcp_bench.commands.common import Handler, add_cluster, add_command, add_folder, api_of, warehouse_of
from bigtcp_bench.errors import BenchError
from bigtcp_bench.local import DEFAULT_PORT, LocalAirflow


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; errors for people are one sentence on standard error."""
    options = _parser().parse_args(arguments)
    handler: Handler = options.handler
    try:
        status = handler(options)
        sys.stdout.flush()
        return status
    except BenchError as error:
        print(f"bigtcp-bench: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read our output has seen enough; what is still buffered must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("bigtcp-bench: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bigtcp-bench", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = add_command(commands, "demo", "run the comparison once on a one-machine cluster", _demo)
    demo.add_argument("--plan", default="quick", help="name of the plan (default: quick)")
    demo.add_argument("--kubeconfig", type=Path, help="run it on the cluster of this file instead")
    add_folder(demo)

    up = add_command(commands, "up", "start the lab and Airflow in the background", _up)
    up.add_argument("--port", type=int, default=DEFAULT_PORT, help="of Airflow's UI (default: %(default)s)")
    add_folder(up)
    add_folder(add_command(commands, "down", "stop what up started", _down))

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

    check.add(commands)
    plan.add(commands)
    config.add(commands)
    install_dags.add(commands)
    results.add(commands)
    report.add(commands)
    history.add(commands)
    generated.add(commands)
    notify.add(commands)

    restore = add_command(commands, "restore", "put a cluster's configuration back after a crashed run", _restore)
    add_cluster(restore)
    restore.add_argument("--force", action="store_true", help="even while a run holds the cluster")
    return parser


def _demo(options: argparse.Namespace) -> int:
    from bigtcp_bench.demo import run_demo

    # As Ctrl-C: the run ends with its teardowns, and nothing of it stays behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return run_demo(options.folder, options.plan, options.kubeconfig)


def _background(options: argparse.Namespace, port: int = DEFAULT_PORT) -> LocalAirflow:
    folder = options.folder.resolve()
    return LocalAirflow(folder, folder / "lab" / "kubeconfig", folder / "warehouse.db", port)


def _up(options: argparse.Namespace) -> int:
    from bigtcp_bench.lab import administrator, daemon

    airflow = _background(options, options.port)
    airflow.folder.mkdir(parents=True, exist_ok=True)
    print("starting the lab", flush=True)
    administrator.apply_manifests(daemon.up(airflow.kubeconfig.parent).kubeconfig)
    print("preparing Airflow's database and the warehouse", flush=True)
    airflow.prepare()
    options.warehouse = None
    warehouse_of(options).migrate()
    print("starting Airflow (about half a minute)", flush=True)
    airflow.start()
    print(
        f"Open {airflow.url} and log in as admin with the password {airflow.password()}\n"
        f"The DAG is bigtcp_benchmark. For kubectl: export KUBECONFIG={airflow.kubeconfig}\n"
        "`make down` stops everything."
    )
    return 0


def _down(options: argparse.Namespace) -> int:
    from bigtcp_bench.lab import daemon

    airflow = _background(options)
    airflow.stop()
    print("Airflow is stopped")
    daemon.down(airflow.kubeconfig.parent)
    print("the lab is down")
    return 0


def _lab_folder(options: argparse.Namespace) -> Path:
    return Path(options.folder).resolve() / "lab"


def _lab_up(options: argparse.Namespace) -> int:
    from bigtcp_bench.lab import administrator, daemon

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
    from bigtcp_bench.lab import daemon

    daemon.down(_lab_folder(options))
    print("the lab is down")
    return 0


def _lab_status(options: argparse.Namespace) -> int:
    from bigtcp_bench.lab import daemon

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
    from bigtcp_bench.lab import daemon
    from bigtcp_bench.lab.faults import FAULTS

    if options.name is None:
        for name, text in FAULTS.items():
            print(f"{name:18} {text}")
        return 0
    daemon.set_fault(_lab_folder(options), options.name, options.state == "on")
    print(f"{options.name} is {options.state}")
    return 0


def _restore(options: argparse.Namespace) -> int:
    from bigtcp_bench.cluster import guard

    api = api_of(options)
    report = guard.restore(api, "asked for on the command line", force=options.force, progress=print)
    print(report)
    return 0
