"""The command that copies the DAG files into the folder of an existing Airflow."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from bigtcp_bench.commands.common import add_command


def add(commands: Any) -> None:
    """Add the command to ``commands``."""
    install = add_command(commands, "install-dags", "copy the DAG files into the folder of your Airflow", _install)
    install.add_argument("folder", type=Path, metavar="FOLDER", help="where Airflow looks for DAG files")
    install.add_argument("--force", action="store_true", help="replace files that somebody has changed, too")
    install.epilog = (
        "Repeating it changes nothing; after an upgrade of the package it replaces what it had written. The DAG "
        "bundle bigtcp_bench.airflow.dag_bundle.PackageDagBundle needs no copy."
    )


def _install(options: argparse.Namespace) -> int:
    from bigtcp_bench.airflow.dag_files import install

    for name, what in install(options.folder, force=options.force).items():
        print(f"{options.folder / name}: {what}")
    return 0
