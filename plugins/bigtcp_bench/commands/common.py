"""What commands share: how one is added, the folder and warehouse options, and writing a frame."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.local import DEFAULT_FOLDER

if TYPE_CHECKING:
    import pandas as pd

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
        default=os.environ.get("BIGTCP_BENCH_WAREHOUSE"),
        help="SQLAlchemy URL (default: $BIGTCP_BENCH_WAREHOUSE, else the demo's database)",
    )
    add_folder(parser)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add ``--format`` and ``--output``."""
    from bigtcp_bench.warehouse.output import FORMATS

    parser.add_argument("--format", choices=FORMATS, default="table", help="default: %(default)s")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write it there, not to standard output")


def warehouse_of(options: argparse.Namespace) -> Warehouse:
    """Return the warehouse that ``options`` name; its tables may be of any version, or absent."""
    from bigtcp_bench.warehouse.store import Warehouse

    return Warehouse(options.warehouse or f"sqlite:///{(options.folder / 'warehouse.db').resolve()}")


def usable_warehouse(options: argparse.Namespace) -> Warehouse:
    """Return the warehouse after a check that its tables are of the version that this package works with."""
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


def write(frame: pd.DataFrame, options: argparse.Namespace) -> None:
    """Write ``frame`` as the options of ``add_output`` say."""
    from bigtcp_bench.warehouse.output import write_frame

    try:
        write_frame(frame, options.format, options.output)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InvalidInput(f"{options.output} cannot be written: {error.strerror or error}") from error
