"""The command that writes one run into a file that stands alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigtcp_bench.commands.common import add_command, add_warehouse, newest_run, usable_warehouse
from bigtcp_bench.errors import InvalidInput

if TYPE_CHECKING:
    from bigtcp_bench.warehouse.store import Warehouse


def add(commands: Any) -> None:
    """Add this command to ``commands``."""
    report = add_command(commands, "report", "write a run with its charts into one HTML file", _report)
    report.add_argument("run", nargs="?", type=int, help="the run's number; the newest run without it")
    report.add_argument(
        "--output", type=Path, metavar="FILE", help="default: bigtcp-run-NUMBER.html in the present folder"
    )
    add_warehouse(report)


def write_report(warehouse: Warehouse, number: int, path: Path) -> None:
    """Write run ``number`` into the file ``path``. Raises InvalidInput if that cannot be done."""
    from bigtcp_bench.report.detail import RunDetail
    from bigtcp_bench.report.html import report_file
    from bigtcp_bench.report.view import RunView

    text = report_file(RunView.from_warehouse(warehouse, number), RunDetail.from_warehouse(warehouse, number))
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror or error}") from error


def _report(options: argparse.Namespace) -> int:
    warehouse = usable_warehouse(options)
    number = options.run if options.run is not None else newest_run(warehouse)
    path = options.output or Path(f"bigtcp-run-{number}.html")
    write_report(warehouse, number, path)
    print(path)
    return 0
