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

import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from bigtcp_bench.in_cluster import iperf3
from bigtcp_bench.in_cluster.capture import Capture
from bigtcp_bench.in_cluster.kind import Unreadable
from bigtcp_bench.in_cluster.output import VERSION, CannotStart, Failed, Json, Stopped, print_frame, reason, say
from bigtcp_bench.in_cluster.partner import SERVICE_DEADLINE_S, Partner
from bigtcp_bench.in_cluster.probe import probe
from bigtcp_bench.in_cluster.server import serve
from bigtcp_bench.in_cluster.snapshot import describe, snapshot
from bigtcp_bench.in_cluster.traffic import KINDS


def reach(orders: Json) -> int:
    """Connect to a server over each of its families and print one frame with those it cannot be reached over."""
    found = {"unreachable": Partner(orders["server"], orders["control_port"]).try_all()}
    if orders.get("service"):
        found["service"] = Partner(orders["service"], orders["control_port"]).try_all(SERVICE_DEADLINE_S)
    print_frame("reach", found)
    return 0


def _through_service(orders: Json) -> Partner:
    """Return the server as it is reached by its Service's addresses; without any it is not reached at all."""
    return Partner(orders.get("service") or {}, orders["control_port"], orders["token"], orders["server"])


def measure(orders: Json) -> int:
    """Run every scenario × repetition in the order given and print one frame for each, failed ones too."""
    server = Partner(orders["server"], orders["control_port"], orders["token"])
    unreachable = server.wait()
    service = _through_service(orders)
    # What fails now fails each repetition over it.
    for why in (*unreachable.values(), *service.try_all(SERVICE_DEADLINE_S).values()):
        say(f"going on without it: {why}")
    context = {name: orders[name] for name in ("run_key", "block", "arm", "generation")}
    _print_hello(server, orders, context, unreachable)
    wanted = [
        (scenario, repetition)
        for scenario in orders["scenarios"]
        for repetition in range(1, orders["repetitions"] + 1)
    ]
    started, finished, failed = time.monotonic(), 0, 0
    try:
        for scenario, repetition in wanted:
            label = f"{scenario['name']} {repetition}/{orders['repetitions']}"
            say(f"{label}: measuring {orders['duration_s']} s after {orders['omit_s']} s of warm-up")
            way = service if scenario.get("path") == "service" else server
            fields, document = _repetition(way, orders, scenario)
            finished += 1
            failed += fields["error"] is not None
            print_frame("repetition", {**context, **_identity(scenario, repetition), **fields}, document)
            say(f"{label}: {_headline(scenario, fields, document)}")
            if KINDS[scenario["traffic"]].keeps_time:
                time.sleep(max(0.0, orders["omit_s"] + orders["duration_s"] - fields["elapsed_s"]))
    except Stopped:
        say(f"client ends: stopped by SIGTERM after {finished} of {len(wanted)} repetitions, printed above")
        raise
    elapsed_s = round(time.monotonic() - started, 3)
    print_frame("done", {**context, "repetitions": finished, "failed": failed, "elapsed_s": elapsed_s})
    say(f"client ends: {finished} repetitions, {failed} of them failed")
    return 0


def _identity(scenario: Json, repetition: int) -> Json:
    return {
        "scenario": scenario["name"],
        "family": scenario["family"],
        "traffic": scenario["traffic"],
        "streams": scenario["streams"],
        "repetition": repetition,
    }


def _print_hello(server: Partner, orders: Json, context: Json, unreachable: dict[str, str]) -> None:
    family = next(family for family in server.addresses if family not in unreachable)
    try:
        far = server.ask("hello", family)
    except Failed as failure:
        raise CannotStart(str(failure)) from failure
    near = {**describe(), "snapshot": snapshot(server.own_address(family))}
    wanted = {scenario["traffic"] for scenario in orders["scenarios"]}
    if near["tools"]["iperf3"] is None and any(KINDS[name].needs_iperf3 for name in wanted):
        raise CannotStart("iperf3 cannot be run: it is not in this image")
    versions = {"client_iperf3": near["tools"]["iperf3"], "server_iperf3": far["tools"]["iperf3"]}
    fields = {**context, **versions, "unreachable": unreachable}
    print_frame("hello", fields, {"client": near, "server": far})


def _repetition(server: Partner, orders: Json, scenario: Json) -> tuple[Json, Json]:
    """Return the frame's fields and its document: both ends before and after, and the traffic between.

    The server is asked first and last, so that its window contains the client's. What happens in between, the
    omitted seconds too, is inside both windows, for CPU time and for bytes alike.
    """
    family, kind = scenario["family"], KINDS[scenario["traffic"]]
    started_s, started = time.time(), time.monotonic()
    document: Json = {"client": {}, "server": {}}
    error: str | None = None
    try:
        server.reach(family)
        if kind.needs_iperf3:
            server.ask("iperf3", family)
        document["server"]["before"] = server.ask("snapshot", family)
        own_address = server.own_address(family)
        document["client"]["before"] = snapshot(own_address)
        try:
            document.update(kind.run(server.addresses[family], orders, scenario))
        except Failed as failure:
            error = str(failure)
            document.update(failure.seen)
        document["client"]["after"] = snapshot(own_address)
        document["server"]["after"] = server.ask("snapshot", family)
    except (Failed, OSError) as failure:
        error = error or reason(failure)
    elapsed_s = round(time.monotonic() - started, 3)
    return {"started_s": round(started_s, 3), "elapsed_s": elapsed_s, "error": error}, document


def _headline(scenario: Json, fields: Json, document: Json) -> str:
    """Return the result of a repetition in a few words for the log; nothing reads them back."""
    if fields["error"]:
        return f"FAILED: {fields['error']}"
    shown = []
    for metric, read in KINDS[scenario["traffic"]].metrics.items():
        with contextlib.suppress(Unreadable):
            shown.append(f"{metric.label} {read(document):,.1f} {metric.unit}")
    return ", ".join(shown) or "done"


def capture(orders: Json) -> int:
    """Send a stream on each of the ways to a server and print for each a frame: packet sizes at both ends."""
    server = Partner(orders["server"], orders["control_port"], orders["token"])
    unreachable = server.wait()
    service = _through_service(orders)
    unserved = service.try_all(SERVICE_DEADLINE_S)
    context = {name: orders[name] for name in ("run_key", "block", "arm")}
    for family, path in orders["ways"]:
        way, missing = (service, unserved) if path == "service" else (server, unreachable)
        document: Json = {}
        error = missing.get(family)
        if error is None:
            try:
                document = _captured(way, orders, family)
            except Failed as failure:
                error, document = str(failure), failure.seen
            except OSError as failure:
                error = f"packets cannot be captured: {reason(failure)}"
        print_frame("capture", {**context, "family": family, "path": path, "error": error}, document)
        say(f"{family} ({path}): {error or 'captured'}")
    return 0


def _captured(server: Partner, orders: Json, family: str) -> Json:
    """Return how large the packets of one stream were: ``sender`` and ``receiver``. Raises Failed or OSError."""
    server.reach(family)
    server.ask("iperf3", family)
    server.ask("capture", family)
    near = Capture(server.own_address(family), orders["iperf_port"])
    try:
        scenario = {"family": family, "streams": 1}
        seen = iperf3.Client(server.addresses[family], {**orders, "omit_s": 0}, scenario).finish()
    finally:
        sender = near.stop()
    receiver = server.ask("end_capture", family)
    port = seen["iperf3"]["start"]["connected"][0]["local_port"]
    found: Json = {"iperf3": seen["iperf3"]}
    for end, ports, sizes in (("sender", "near_port", sender), ("receiver", "far_port", receiver)):
        # iperf3 has a second connection, over which the ends agree on what to do.
        connections = [one for one in sizes.pop("connections") if one[ports] == port]
        if not connections:
            raise Failed(f"no packet of the stream was seen at the {end}", found)
        found[end] = {**sizes, "sent": connections[0]["sent"], "received": connections[0]["received"]}
    return found


#: What can be ordered: the function, and the fields its orders must have.
TASKS: dict[str, tuple[Callable[[Json], int], str]] = {
    "serve": (serve, "token addresses iperf_port rr_port control_port families lifetime_s"),
    "measure": (
        measure,
        "token run_key block arm generation server iperf_port rr_port control_port scenarios repetitions "
        "duration_s omit_s rate_bps request_bytes",
    ),
    "capture": (capture, "token run_key block arm ways server iperf_port control_port duration_s"),
    "reach": (reach, "server control_port"),
    "probe": (probe, ""),
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
        task, fields = TASKS[do]
        missing = [field for field in fields.split() if field not in orders]
        if missing:
            raise CannotStart(f"orders to {do} lack the field {missing[0]!r}")
        return task(orders)
    except CannotStart as reason:
        sys.stderr.write(f"bigtcp-bench agent: {reason}\n")
        return 1
    except Stopped:
        return 128 + signal.SIGTERM


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
