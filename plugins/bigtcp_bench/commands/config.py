"""The command that prints the settings in force and where each comes from."""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import asdict
from typing import Any

from bigtcp_bench.commands.common import (
    add_command,
    add_plan,
    add_warehouse,
    before_airflow,
    default_warehouse,
    plan_fields,
)
from bigtcp_bench.settings import WAREHOUSE


def add(commands: Any) -> None:
    """Add the command to ``commands``."""
    config = add_command(commands, "config", "print every setting in force, and where it comes from", _config)
    config.epilog = (
        "Connections are read as Airflow does on this machine: from the environment, a secrets backend, or "
        "Airflow's own database. Secrets are never printed. The exit status is 1 when a setting cannot be used."
    )
    add_plan(config)
    add_warehouse(config)
    config.add_argument("--json", action="store_true", help="print JSON")


def _config(options: argparse.Namespace) -> int:
    from bigtcp_bench.commands import settings_in_force

    given = {} if options.warehouse in (None, WAREHOUSE.given()) else {WAREHOUSE.name: options.warehouse}
    before_airflow(options.folder)
    found = [
        *settings_in_force.environment(given, {WAREHOUSE.name: default_warehouse(options)}),
        *settings_in_force.connections(),
        *settings_in_force.plan(options.plan, plan_fields(options)),
    ]
    if options.json:
        print(json.dumps([asdict(one) for one in found], indent=1))
    else:
        width = max(len(one.name) for one in found)
        for section, rows in itertools.groupby(found, key=lambda one: one.section):
            print(section)
            for one in rows:
                print(f"  {one.name:{width}}  {one.value}  ({one.source})")
                if one.problem:
                    print(f"  {'':{width}}  PROBLEM: {one.problem}")
    return 1 if any(one.problem for one in found) else 0
