"""The command that looks at a cluster before a benchmark: every requirement, and what to do where one is unmet."""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from typing import Any

from bigtcp_bench.commands.common import add_cluster, add_command, add_plan, api_of, plan_of
from bigtcp_bench.errors import BenchError, clean

#: Exit statuses: all checks passed; something to know before a run; a run would refuse, or there is no answer.
PASSED, WARNED, FAILED = 0, 1, 2
#: How long an API that does not answer is asked again.
AWAY_S = 20.0


def add(commands: Any) -> None:
    """Add the command to ``commands``."""
    check = add_command(commands, "check", "say whether a cluster can be benchmarked, and what is missing", _check)
    check.epilog = (
        "Changes no setting. Creates the namespace bigtcp-bench, a ConfigMap and four short-lived pods in it; "
        "with --no-pods nothing at all. The exit status is 0 when every check passed, 1 with warnings, 2 when a "
        "run would refuse or the cluster cannot be reached."
    )
    add_plan(check)
    add_cluster(check)
    check.add_argument(
        "--no-pods", action="store_true", help="create nothing, and leave out what only pods can tell"
    )
    check.add_argument("--json", action="store_true", help="print JSON")


def _check(options: argparse.Namespace) -> int:
    try:
        return _checked(options)
    except BrokenPipeError:
        raise
    except Exception as error:
        problem = str(error)
        if not isinstance(error, BenchError):
            # Python's own status would be that of warnings.
            traceback.print_exc()
            problem = f"the check itself failed: {traceback.format_exception_only(error)[-1].strip()}"
        if options.json:
            print(json.dumps({"status": "fail", "problem": problem, "checks": []}))
        print(f"bigtcp-bench: {clean(problem)}", file=sys.stderr)
        return FAILED


def _checked(options: argparse.Namespace) -> int:
    from bigtcp_bench.cluster import requirements
    from bigtcp_bench.cluster.checks import worst
    from bigtcp_bench.cluster.nodes import choose_pair
    from bigtcp_bench.report.preflight import print_checks

    # Somebody is waiting for the answer.
    plan, api = plan_of(options), api_of(options, away_s=AWAY_S)
    pair = choose_pair(api, plan)
    checks = requirements.preflight(api, plan, pair, with_pods=not options.no_pods).checks
    status = worst(checks)
    if options.json:
        nodes = {"client_node": pair.client.name, "server_node": pair.server.name}
        print(json.dumps({"status": status, **nodes, "checks": [check.to_dict() for check in checks]}, indent=1))
    else:
        print_checks(checks)
        if options.no_pods:
            print(f"not looked at: {requirements.unknown_without_pods(plan)}")
    return {"pass": PASSED, "warn": WARNED, "fail": FAILED}[status]
