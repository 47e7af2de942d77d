"""Measure inside a pod: serve or send the traffic, snapshot both ends around it, print it all, judge nothing.

Run as ``python3 -m bigtcp_bench.in_cluster.measure '<orders as JSON>'``. It is mounted, with all that it imports,
into any image with python3 and iperf3, so it uses the standard library only and no syntax newer than Python 3.9.
Five orders:

- ``serve``: an echo server for request/response, and a control server that answers with snapshots and starts
  ``iperf3 -s`` for each test; both only for whom has the token of the orders;
- ``measure``: every scenario × repetition against such a server, one frame printed for each;
- ``capture``: a second of traffic on each way to such a server, and one frame for each that says how large the
  packets were at both ends (both pods need CAP_NET_RAW);
- ``reach``: one frame that says over which IP families such a server answers, and its Service;
- ``probe``: one frame that describes the node (in a pod with ``hostNetwork``).
"""

from __future__ import annotations

import json
import signal
import sys
from importlib import import_module
from typing import NoReturn

from bigtcp_bench.in_cluster.output import VERSION, CannotStart, Stopped

#: What can be ordered: the module with the function of that name, and the fields its orders must have. Each pod
#: imports its own: most of them only probe, and took longer to import the others than for what they do.
TASKS = {
    "serve": ("server", "token addresses iperf_port rr_port control_port families lifetime_s"),
    "measure": (
        "client",
        "token run_key block arm generation server iperf_port rr_port control_port scenarios repetitions "
        "duration_s omit_s rate_bps request_bytes",
    ),
    "capture": ("client", "token run_key block arm ways server iperf_port control_port duration_s"),
    "reach": ("client", "server control_port"),
    "probe": ("probe", ""),
}


def _stop(number: int, _frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # one is enough: the second must not interrupt the cleaning up
    raise Stopped(number)


def main(arguments: list[str]) -> int:
    """Carry out the orders; return the exit status: 0 done, 1 could not start, 143 stopped by SIGTERM."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGALRM, _stop)
    try:
        if len(arguments) != 1:
            raise CannotStart("expected one argument, the orders as JSON")
        try:
            orders = json.loads(arguments[0])
            version, do = orders["version"], orders["do"]
        except (ValueError, TypeError, KeyError) as error:
            raise CannotStart(f"orders are not a JSON object with version and do: {error!r}") from error
        if version != VERSION:
            raise CannotStart(f"orders have version {version!r}; this agent knows {VERSION}")
        if do not in TASKS:
            raise CannotStart(f"orders say do {do!r}; allowed are {', '.join(TASKS)}")
        module, fields = TASKS[do]
        missing = [field for field in fields.split() if field not in orders]
        if missing:
            raise CannotStart(f"orders to {do} lack the field {missing[0]!r}")
        status: int = getattr(import_module(f"bigtcp_bench.in_cluster.{module}"), do)(orders)
        return status
    except CannotStart as reason:
        sys.stderr.write(f"bigtcp-bench agent: {reason}\n")
        return 1
    except Stopped:
        return 128 + signal.SIGTERM


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
