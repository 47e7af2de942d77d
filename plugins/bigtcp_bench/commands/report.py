"""The command that writes one run into a file that stands alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bigtcp_bench.commands.common import add_command, add_json, add_warehouse, newest_run, tell, usable_warehouse


def add(commands: Any) -> None:
    """Add this command to ``commands``."""
    report = add_command(commands, "report", "write a run with its charts into one HTML file", _report)
    report.add_argument("run", nargs="?", type=int, help="the run's number; the newest run without it")
    report.add_argument(
        "--output", type=Path, metavar="FILE", help="default: bigtcp-run-NUMBER.html in the present folder"
    )
    add_json(report)
    add_warehouse(report)


def _report(options: argparse.Namespace) -> int:
    from bigtcp_bench.report.html import write_report

    warehouse = usable_warehouse(options)
    number = options.run if options.run is not None else newest_run(warehouse)
    path = options.output or Path(f"bigtcp-run-{number}.html")
    write_report(warehouse, number, path)
    tell(options, str(path), run=number, file=str(path))
    return 0
