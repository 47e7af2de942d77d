"""The command `bigtcp-bench`: the lab, the demo, stored results, and putting a cluster back by hand."""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bigtcp_bench import __version__
from bigtcp_bench.commands import check, config, generated, history, install_dags, notify, plan, report, results
from bigtcp_bench.commands.common import Handler, add_cluster, add_command, add_folder, api_of, warehouse_of
from bigtcp_bench.demo.lab import the_lab, the_lab_is_installed
from bigtcp_bench.demo.local_airflow import DEFAULT_PORT, LocalAirflow
from bigtcp_bench.errors import BenchError, InvalidInput, clean

if TYPE_CHECKING:
    from bigtcp_bench.warehouse.store import Warehouse


def run() -> int:
    """Do what the program `bigtcp-bench` does, and return its exit status."""
    # All goes with the process. Looking for garbage in what it has imported takes some commands a second.
    atexit.register(gc.freeze)
    return main()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; errors for people are one sentence on standard error."""
    options = command_parser().parse_args(arguments)
    handler: Handler = options.handler
    try:
        status = handler(options)
        sys.stdout.flush()
        return status
    except BenchError as error:
        print(f"bigtcp-bench: {clean(str(error))}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read our output has seen enough; what is still buffered must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("bigtcp-bench: interrupted", file=sys.stderr)
        return 130


def command_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(prog="bigtcp-bench", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = add_command(commands, "demo", "run the comparison once on a one-machine cluster", _demo)
    demo.add_argument("--plan", default="quick", help="name of the plan (default: quick)")
    demo.add_argument("--kubeconfig", type=Path, help="run it on the cluster of this file instead")
    add_folder(demo)

    up = add_command(commands, "up", "start the lab and Airflow in the background", _up)
    up.add_argument("--port", type=int, default=DEFAULT_PORT, help="of Airflow's UI (default: %(default)s)")
    up.add_argument(
        "--history",
        type=int,
        nargs="?",
        const=120,
        metavar="NIGHTS",
        help="with generated nights for the pages to show, which say so (default of NIGHTS: %(const)s)",
    )
    add_folder(up)
    add_folder(add_command(commands, "down", "stop what up started", _down))

    if the_lab_is_installed():
        from bigtcp_lab import commands as lab_commands

        lab_commands.add(commands)
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
    from bigtcp_bench.demo.run import run_demo

    # As Ctrl-C: the run ends with its teardowns, and nothing of it stays behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return run_demo(options.folder, options.plan, options.kubeconfig)


def _background(options: argparse.Namespace, port: int = DEFAULT_PORT) -> LocalAirflow:
    folder = options.folder.resolve()
    return LocalAirflow(folder, folder / "lab" / "kubeconfig", folder / "warehouse.db", port)


def _up(options: argparse.Namespace) -> int:
    administrator, daemon = the_lab()
    airflow = _background(options, options.port)
    running = airflow.as_running()
    if running is None:
        airflow.check_port()
    elif running.port != airflow.port:
        print(f"Airflow runs here already, on port {running.port}; `make down` stops it")
    airflow = running or airflow
    try:
        airflow.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"--folder {airflow.folder} cannot be used: {error.strerror}") from error
    print("starting the lab", flush=True)
    administrator.apply_manifests(daemon.up(airflow.kubeconfig.parent).kubeconfig)
    print("preparing the warehouse", flush=True)
    options.warehouse = None
    warehouse = warehouse_of(options)
    warehouse.migrate()
    if options.history:
        _write_history(warehouse, options.history)
    print("starting Airflow (about half a minute)", flush=True)
    airflow.start()
    print(
        f"Open {airflow.url} and log in as admin with the password {airflow.password()}\n"
        f"The DAG is bigtcp_benchmark. For kubectl: export KUBECONFIG={airflow.kubeconfig}\n"
        "`make down` stops everything."
    )
    return 0


def _write_history(warehouse: Warehouse, nights: int) -> None:
    """Write generated nights for the pages to show, unless they are there."""
    from bigtcp_bench.generated.history import cluster_names, write_history

    if set(cluster_names(1)) & set(warehouse.clusters()):
        print("the generated history is there already")
        return
    print(f"writing {nights} generated nights of {cluster_names(1)[0]}; nothing in them is measured", flush=True)
    write_history(warehouse, nights)


def _down(options: argparse.Namespace) -> int:
    _, daemon = the_lab()
    if not options.folder.is_dir():
        print(f"there is no folder {options.folder}, so nothing runs there")
        return 0
    airflow = _background(options)
    airflow.stop()
    print("Airflow is stopped")
    daemon.down(airflow.kubeconfig.parent)
    print("the lab is down")
    return 0


def _restore(options: argparse.Namespace) -> int:
    from bigtcp_bench.cluster import restore

    api = api_of(options)
    reason = "asked for on the command line"
    report = restore.restore(api, reason, force=options.force, afresh=True, progress=print)
    if report.outcome == "nothing":  # else the restore has said it itself
        print(report)
    return 0
