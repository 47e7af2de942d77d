"""The command that tells what a run would do, object by object, and does none of it."""

from __future__ import annotations

import argparse
import json
from typing import Any

from bigtcp_bench.commands.common import add_cluster, add_command, add_json, add_plan, api_of, plan_of

#: Stands for the run in what is printed: who holds the cluster, what pods are labelled with.
HOLDER = "bigtcp_benchmark/RUN-ID"


def add(commands: Any) -> None:
    """Add the command to ``commands``."""
    plan = add_command(commands, "plan", "print what a run would create, change and delete, and do nothing", _plan)
    add_plan(plan)
    add_cluster(plan)
    plan.add_argument("--no-manifests", action="store_true", help="without the objects themselves")
    add_json(plan)


def _plan(options: argparse.Namespace) -> int:
    from bigtcp_bench.cluster.nodes import choose_pair
    from bigtcp_bench.measuring.dry_run import outline
    from bigtcp_bench.report.dry_run import outline_object, print_outline

    plan, api = plan_of(options), api_of(options)
    found = outline(api, plan, choose_pair(api, plan), HOLDER)
    if options.json:
        print(json.dumps(outline_object(found, manifests=not options.no_manifests), indent=1))
    else:
        print_outline(found, manifests=not options.no_manifests)
    return 0
