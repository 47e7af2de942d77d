"""What commands share: how one is added, the folder and warehouse options, and writing a frame."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigtcp_bench.demo.local_airflow import DEFAULT_FOLDER
from bigtcp_bench.errors import InvalidInput, clean
from bigtcp_bench.settings import WAREHOUSE

if TYPE_CHECKING:
    import pandas as pd

    from bigtcp_bench.cluster.api import ClusterApi
    from bigtcp_bench.planning.plan import Plan
    from bigtcp_bench.warehouse.store import Warehouse

Handler = Callable[[argparse.Namespace], int]


def add_command(commands: Any, name: str, text: str, handler: Handler) -> argparse.ArgumentParser:
    """Add a command to the group ``commands`` and return its parser, for its options."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=f"{text[:1].upper()}{text[1:]}."
    )
    parser.set_defaults(handler=handler)
    return parser


def add_folder(parser: argparse.ArgumentParser) -> None:
    """Add ``--folder``."""
    parser.add_argument(
        "--folder", type=Path, default=DEFAULT_FOLDER, help="where everything is kept (default: %(default)s)"
    )


def add_warehouse(parser: argparse.ArgumentParser) -> None:
    """Add ``--warehouse``, and the folder in which it is by default."""
    parser.add_argument(
        "--warehouse",
        metavar="URL",
        default=WAREHOUSE.given(),
        help="SQLAlchemy URL (default: $BIGTCP_BENCH_WAREHOUSE, else the demo's database)",
    )
    add_folder(parser)


def before_airflow(folder: Path) -> None:
    """Prepare this process for importing Airflow, and reading connections as Airflow's own command does."""
    # Importing Airflow makes its home; where there is none, it must not be in that of the person.
    if not Path("~/airflow").expanduser().exists():
        os.environ.setdefault("AIRFLOW_HOME", str((folder / "airflow").resolve()))
    # As `airflow connections get` does, to see the connections in Airflow's database too.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a cluster."""
    parser.add_argument("--kubeconfig", type=Path, help="default: $KUBECONFIG, else the user's own")
    parser.add_argument("--context", help="context in the kubeconfig (default: its current one)")


def api_of(options: argparse.Namespace, **settings: float) -> ClusterApi:
    """Return the API of the cluster that ``options`` name; ``settings`` are those of ClusterApi."""
    from bigtcp_bench.cluster.api import ClusterApi

    return ClusterApi.from_kubeconfig(options.kubeconfig, options.context, **settings)


def add_plan(parser: argparse.ArgumentParser) -> None:
    """Add ``--plan`` and the fields of it that can be given in its place."""
    parser.add_argument(
        "--plan", default="nightly", help="name of the plan, or a YAML file (default: %(default)s)"
    )
    parser.add_argument("--scope", choices=("nodes", "cluster"), help="of the change (default: the plan's)")
    for name, text in (
        ("scenarios", "separated by commas"),
        ("order", "order of blocks, such as off,on,off"),
        ("client-node", "node that sends; with --server-node"),
        ("server-node", "node that receives"),
        ("image", "of the benchmark's pods"),
    ):
        parser.add_argument(f"--{name}", help=f"{text} (default: the plan's)")
    for name in ("generations", "repetitions", "duration-s"):
        parser.add_argument(f"--{name}", type=int, help="default: the plan's")


def plan_of(options: argparse.Namespace) -> Plan:
    """Return the plan that the options of ``add_plan`` ask for. Raises InvalidInput."""
    from bigtcp_bench.planning.plan import load_plan

    return load_plan(options.plan, plan_fields(options))


def plan_fields(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields that the options of ``add_plan`` give in place of the plan's; None is the plan's own."""
    from bigtcp_bench.planning.plan import Plan

    fields = [name for name in Plan.model_fields if name not in ("name", "description")]
    return {name: getattr(options, name, None) for name in fields}


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add ``--format`` and ``--output``."""
    from bigtcp_bench.warehouse.output import FORMATS

    form = parser.add_mutually_exclusive_group()
    form.add_argument("--format", choices=("table", *FORMATS), default="table", help="default: %(default)s")
    form.add_argument(
        "--json", dest="format", action="store_const", const="json", help="the same as --format json"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write it there, not to standard output")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``, for a command that says what it did with ``tell``."""
    parser.add_argument("--json", action="store_true", help="as one object, for programs")


def tell(options: argparse.Namespace, sentence: str, **found: Any) -> None:
    """Print ``sentence`` for people, or ``found`` as one object, as the option of ``add_json`` says."""
    print(
        json.dumps(found, allow_nan=False)
        if options.json
        else "\n".join(clean(line) for line in sentence.split("\n"))
    )


def warehouse_of(options: argparse.Namespace) -> Warehouse:
    """Return the warehouse that ``options`` name; its tables may be of any version, or absent."""
    from bigtcp_bench.warehouse.store import Warehouse

    return Warehouse(options.warehouse or default_warehouse(options))


def default_warehouse(options: argparse.Namespace) -> str:
    """Return the URL of the warehouse in ``--folder``."""
    return f"sqlite:///{(options.folder / 'warehouse.db').resolve()}"


def usable_warehouse(options: argparse.Namespace) -> Warehouse:
    """Return the warehouse after a check that its tables are of the version that this package works with."""
    from bigtcp_bench.warehouse.engine import parsed_url

    url = parsed_url(options.warehouse or default_warehouse(options))
    # SQLite would make a file of whatever is mistyped.
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).expanduser().is_file():
        raise InvalidInput(
            f"there is no warehouse {url.database}; name it with --warehouse or BIGTCP_BENCH_WAREHOUSE, "
            "or create it with `bigtcp-bench warehouse migrate`"
        )
    warehouse = warehouse_of(options)
    warehouse.check_version()
    return warehouse


def cluster_of(warehouse: Warehouse, name: str | None) -> str:
    """Return ``name`` if there is such a cluster, and the only one when nothing was named."""
    known = warehouse.clusters()
    if not known:
        raise InvalidInput(f"the warehouse {warehouse.url} has no runs yet")
    if name in known:
        return str(name)
    if name is None and len(known) == 1:
        return known[0]
    wrong = "--cluster must be given" if name is None else f"cluster {name!r} is not in the warehouse"
    raise InvalidInput(f"{wrong}; known are {', '.join(known)}")


def newest_run(warehouse: Warehouse) -> int:
    """Return the number of the newest run. Raises InvalidInput if there is none."""
    newest = warehouse.runs_frame(limit=1)
    if newest.empty:
        raise InvalidInput(f"the warehouse {warehouse.url} holds no run yet")
    return int(newest["id"].iloc[0])


def write(frame: pd.DataFrame, options: argparse.Namespace) -> None:
    """Write ``frame`` as the options of ``add_output`` say."""
    from bigtcp_bench.report.plain import PLAIN_WIDTH
    from bigtcp_bench.report.tables import frame_text, print_frame
    from bigtcp_bench.warehouse.output import write_frame

    try:
        if options.format != "table":
            write_frame(frame, options.format, options.output)
        elif options.output is not None:
            options.output.write_text(frame_text(frame, PLAIN_WIDTH), encoding="utf-8")
        else:
            print_frame(frame)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InvalidInput(f"{options.output} cannot be written: {error.strerror or error}") from error
