"""The end that sends: what it asks of a server, measures against it and captures, printed frame by frame."""

from __future__ import annotations

import contextlib
import time

from bigtcp_bench.in_cluster import iperf3
from bigtcp_bench.in_cluster.capture import Capture
from bigtcp_bench.in_cluster.kind import Unreadable
from bigtcp_bench.in_cluster.output import CannotStart, Failed, Json, Stopped, print_frame, reason, say
from bigtcp_bench.in_cluster.partner import SERVICE_DEADLINE_S, Partner
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
        # Both ends wait until all is quiet.
        near.end()
        receiver = server.ask("end_capture", family)
    finally:
        sender = near.stop()
    port = seen["iperf3"]["start"]["connected"][0]["local_port"]
    found: Json = {"iperf3": seen["iperf3"]}
    for end, ports, sizes in (("sender", "near_port", sender), ("receiver", "far_port", receiver)):
        # iperf3 has a second connection, over which the ends agree on what to do.
        connections = [one for one in sizes.pop("connections") if one[ports] == port]
        if not connections:
            raise Failed(f"no packet of the stream was seen at the {end}", found)
        found[end] = {**sizes, "sent": connections[0]["sent"], "received": connections[0]["received"]}
    return found
