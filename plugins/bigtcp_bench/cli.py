"""The command `bigtcp-bench`: the lab, the demo, a run's summary, and putting a cluster back by hand."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigtcp_bench import __version__
from bigtcp_bench.errors import BenchError, InvalidInput
from bigtcp_bench.local import DEFAULT_FOLDER, DEFAULT_PORT, LocalAirflow

if TYPE_CHECKING:
    from bigtcp_bench.warehouse.store import Warehouse

Handler = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; errors for people are one sentence on standard error."""
    options = _parser().parse_args(arguments)
    handler: Handler = options.handler
    try:
        return handler(options)
    except BenchError as error:
        print(f"bigtcp-bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bigtcp-bench: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bigtcp-bench", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = _command(commands, "demo", "run the comparison once on a one-machine cluster", _demo)
    demo.add_argument("--plan", default="quick", help="name of the plan (default: quick)")
    _add_folder(demo)

    up = _command(commands, "up", "start the lab and Airflow in the background", _up)
    up.add_argument("--port", type=int, default=DEFAULT_PORT, help="of Airflow's UI (default: %(default)s)")
    _add_folder(up)
    _add_folder(_command(commands, "down", "stop what up started", _down))

    lab = commands.add_parser("lab", help="the one-machine cluster").add_subparsers(
        required=True, metavar="ACTION"
    )
    lab_up = _command(lab, "up", "start it, and print its kubeconfig", _lab_up)
    lab_up.add_argument("--nodes", type=int, default=2, help="number of nodes (default: 2)")
    lab_up.add_argument("--fault", action="append", default=[], metavar="NAME", help="misbehave from the start")
    lab_up.add_argument("--rbac", action="store_true", help="enforce RBAC")
    lab_up.add_argument(
        "--listen", metavar="HOST:PORT", help="let others reach its API here, too, as its kubeconfig then says"
    )
    lab_up.add_argument("--foreground", action="store_true", help="stay until interrupted")
    lab_fault = _command(lab, "fault", "switch a misbehaviour on or off, or list them", _lab_fault)
    lab_fault.add_argument("name", nargs="?", help="name of the fault; without it they are listed")
    lab_fault.add_argument("state", nargs="?", choices=("on", "off"), default="on")
    for command in (
        lab_up,
        lab_fault,
        _command(lab, "down", "stop it", _lab_down),
        _command(lab, "status", "say whether it runs", _lab_status),
    ):
        _add_folder(command)

    show = _command(commands, "show", "print the comparison of a stored run", _show)
    show.add_argument("run", nargs="?", type=int, help="the run's number; the newest run without it")
    _add_warehouse(show)

    warehouse = commands.add_parser("warehouse", help="the database of results")
    actions = warehouse.add_subparsers(required=True, metavar="ACTION")
    _add_warehouse(_command(actions, "migrate", "create its tables, or bring them up to date", _migrate))

    restore = _command(commands, "restore", "put a cluster's configuration back after a crashed run", _restore)
    restore.add_argument("--kubeconfig", type=Path, help="default: $KUBECONFIG, else the user's own")
    restore.add_argument("--context", help="context in the kubeconfig (default: its current one)")
    restore.add_argument("--force", action="store_true", help="even while a run holds the cluster")
    return parser


def _command(commands: Any, name: str, text: str, handler: Handler) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text.capitalize() + ".")
    parser.set_defaults(handler=handler)
    return parser


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--folder", type=Path, default=DEFAULT_FOLDER, help="where everything is kept (default: %(default)s)"
    )


def _add_warehouse(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--warehouse",
        metavar="URL",
        default=os.environ.get("BIGTCP_BENCH_WAREHOUSE"),
        help="SQLAlchemy URL (default: $BIGTCP_BENCH_WAREHOUSE, else the demo's database)",
    )
    _add_folder(parser)


def _warehouse(options: argparse.Namespace) -> Warehouse:
    from bigtcp_bench.warehouse.store import Warehouse

    return Warehouse(options.warehouse or f"sqlite:///{(options.folder / 'warehouse.db').resolve()}")


def _demo(options: argparse.Namespace) -> int:
    from bigtcp_bench.demo import run_demo

    return run_demo(options.folder, options.plan)


def _background(options: argparse.Namespace, port: int = DEFAULT_PORT) -> LocalAirflow:
    folder = options.folder.resolve()
    return LocalAirflow(folder, folder / "lab" / "kubeconfig", folder / "warehouse.db", port)


def _up(options: argparse.Namespace) -> int:
    from bigtcp_bench.lab import daemon

    airflow = _background(options, options.port)
    airflow.folder.mkdir(parents=True, exist_ok=True)
    print("starting the lab", flush=True)
    daemon.up(airflow.kubeconfig.parent)
    print("preparing Airflow's database and the warehouse", flush=True)
    airflow.prepare()
    options.warehouse = None
    _warehouse(options).migrate()
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
    from bigtcp_bench.lab import daemon

    info = daemon.up(
        _lab_folder(options), nodes=options.nodes, faults=options.fault, rbac=options.rbac, listen=options.listen
    )
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
    print(status)
    return 0 if status.running else 1


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


def _show(options: argparse.Namespace) -> int:
    from bigtcp_bench.report.summary import print_summary
    from bigtcp_bench.report.view import RunView

    warehouse = _warehouse(options)
    warehouse.check_version()
    number = options.run
    if number is None:
        newest = warehouse.runs_frame(limit=1)
        if newest.empty:
            raise InvalidInput(f"the warehouse {warehouse.url} holds no run yet")
        number = int(newest["id"].iloc[0])
    print_summary(RunView.from_warehouse(warehouse, number))
    return 0


def _migrate(options: argparse.Namespace) -> int:
    warehouse = _warehouse(options)
    warehouse.migrate()
    print(f"the tables of {warehouse.url} are up to date")
    return 0


def _restore(options: argparse.Namespace) -> int:
    from bigtcp_bench.cluster import guard
    from bigtcp_bench.cluster.api import ClusterApi

    api = ClusterApi.from_kubeconfig(options.kubeconfig, options.context)
    report = guard.restore(api, "asked for on the command line", force=options.force, progress=print)
    print(report)
    return 0
