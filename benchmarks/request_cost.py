"""What the agent's request client costs: beside netperf, or a bare client and server in C, in the same two pods.

Usage: ``python -m benchmarks.request_cost [--against netperf] [--pairs 12] [--duration 3] [--scenario
ipv4-small-rr] [--kubeconfig FILE]``. ``--against c`` needs a C compiler, ``netperf`` that program in the pods: in
a lab they have the machine's. Starts a lab of its own unless it is given a cluster. Every pair has fresh pods, as
closed connections hold ports; both ways take turns in beginning. Prints every pair, and the ratio agent / other of
transactions or connections per second, of the median and of the 99th percentile, with 95 % confidence intervals.
"""

from __future__ import annotations

import argparse
import base64
import functools
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from benchmarks.measuring_cost import LEVEL, MIN_PAIRS, QUIET_LOAD, Bench, bench, cluster, ratio
from bigtcp_bench.cluster import pods
from bigtcp_bench.in_cluster import exchange
from bigtcp_bench.planning.plan import SCENARIOS, validate_plan

SOURCE = Path(__file__).with_name("exchange.c")
#: Of the other server.
PORT = "5302"
#: What fits into the URL of an exec.
PIECE = 6_000
#: Connections of the other client; the agent's are bounded by itself.
CONNECTIONS = "5000"
WRITE = (
    "import base64, os, sys, zlib; text = open('/tmp/packed').read()\n"
    "open('/tmp/exchange', 'wb').write(zlib.decompress(base64.b64decode(text))); os.chmod('/tmp/exchange', 0o755)"
)
#: Kinds of traffic that are compared → what the C client, and netperf, is told to do.
KINDS = {"small-rr": ("rr", "TCP_RR"), "crr": ("crr", "TCP_CRR")}


@functools.cache
def compiled() -> str:
    """Return the program of ``exchange.c``, packed as text."""
    with tempfile.TemporaryDirectory(prefix="bigtcp-exchange-") as folder:
        program = Path(folder) / "exchange"
        subprocess.run(["cc", "-O2", "-s", "-o", str(program), str(SOURCE)], check=True)
        return base64.b64encode(zlib.compress(program.read_bytes(), 9)).decode()


def put(found: Bench, pod: str, program: str) -> None:
    """Make ``/tmp/exchange`` in a pod."""
    for start in range(0, len(program), PIECE):
        piece = "import sys; open('/tmp/packed', 'a').write(sys.argv[1])"
        command = ["python3", "-c", piece, program[start : start + PIECE]]
        found.api.exec(pods.BENCH_NAMESPACE, pod, pods.CONTAINER, command)
    found.api.exec(pods.BENCH_NAMESPACE, pod, pods.CONTAINER, ["python3", "-c", WRITE])


#: Per second, and the median and the 99th percentile in microseconds.
Figures = tuple[float, float, float]


def _exec(found: Bench, pod: str, *command: str) -> str:
    return found.api.exec(pods.BENCH_NAMESPACE, pod, pods.CONTAINER, command)


def _asked(found: Bench) -> tuple[str, str]:
    """Return the server's address, and the bytes of a request."""
    return found.addresses[found.scenario.family], str(found.scenario.request_bytes)


def serve_c(found: Bench) -> None:
    """Put the C program into both pods, and start its server."""
    for pod in (found.server, found.client):
        put(found, pod, compiled())
    address, size = _asked(found)
    _exec(found, found.server, "/tmp/exchange", "serve", address, PORT, size)


def by_c(found: Bench, duration_s: int) -> Figures:
    """Return what the C client measures."""
    what = KINDS[found.scenario.traffic][0]
    (address, size), amount = _asked(found), CONNECTIONS if what == "crr" else str(duration_s)
    rate, p50_us, p99_us = _exec(found, found.client, "/tmp/exchange", what, address, PORT, size, amount).split()
    return float(rate), float(p50_us), float(p99_us)


def serve_netperf(found: Bench) -> None:
    """Start netperf's server, which goes to the background."""
    _exec(found, found.server, "netserver", "-p", PORT, "-L", _asked(found)[0])


def by_netperf(found: Bench, duration_s: int) -> Figures:
    """Return what netperf measures."""
    what = KINDS[found.scenario.traffic][1]
    address, size = _asked(found)
    # Less than zero is a number of transactions.
    amount = f"-{CONNECTIONS}" if what == "TCP_CRR" else str(duration_s)
    command = ["netperf", "-j", "-P", "0", "-H", address, "-p", PORT, "-t", what, "-l", amount]
    output = _exec(found, found.client, *command, "--", "-r", f"{size},{size}", "-k", ",".join(NETPERF_FIELDS))
    values = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    rate, p50_us, p99_us = (float(values[name]) for name in NETPERF_FIELDS)
    return rate, p50_us, p99_us


NETPERF_FIELDS = ("THROUGHPUT", "P50_LATENCY", "P99_LATENCY")
#: Name → how its server is started, and what its client measures.
REFERENCES: dict[str, tuple[Callable[[Bench], None], Callable[[Bench, int], Figures]]] = {
    "netperf": (serve_netperf, by_netperf),
    "c": (serve_c, by_c),
}


def by_agent(found: Bench) -> Figures:
    """Return what the agent measures."""
    seen = found.repetition().document.traffic
    return exchange.per_second(seen), exchange.latency("p50")(seen), exchange.latency("p99")(seen)


def main() -> int:
    """Measure and print; return 0."""
    parser = argparse.ArgumentParser(description="What the agent's request client costs.")
    parser.add_argument("--against", choices=REFERENCES, default="c")
    parser.add_argument("--pairs", type=int, default=12, help="pairs of measurements, at least 2 (default: 12)")
    parser.add_argument("--duration", type=int, default=3, help="measured seconds of each (default: 3)")
    names = [name for name, scenario in SCENARIOS.items() if scenario.traffic in KINDS and scenario.path == "pod"]
    parser.add_argument("--scenario", choices=names, default="ipv4-small-rr")
    parser.add_argument("--kubeconfig", type=Path, help="a cluster (default: a lab of its own)")
    options = parser.parse_args()
    if options.pairs < MIN_PAIRS:
        parser.error(f"--pairs {options.pairs}: at least {MIN_PAIRS} are needed")
    plan = validate_plan(
        {"scenarios": options.scenario, "duration_s": options.duration, "omit_s": 1, "repetitions": 1}, "options"
    )
    serve, other = REFERENCES[options.against]
    load, values = os.getloadavg()[0], []
    print(
        f"| pair | agent (1/s), p50, p99 (µs) | {options.against} (1/s), p50, p99 (µs) |\n|--:|--:|--:|",
        flush=True,
    )
    with cluster(options.kubeconfig) as api:
        for number in range(options.pairs):
            with bench(api, plan, 600) as found:
                serve(found)
                if number % 2:
                    theirs = other(found, options.duration)
                    agent = by_agent(found)
                else:
                    agent = by_agent(found)
                    theirs = other(found, options.duration)
            values.append((agent, theirs))
            shown = [f"{rate:,.0f}, {p50_us:.1f}, {p99_us:.1f}" for rate, p50_us, p99_us in (agent, theirs)]
            print(f"| {number + 1} | {' | '.join(shown)} |", flush=True)
    for place, what in enumerate(("per second", "p50", "p99")):
        mean, low, high = ratio([(agent[place], theirs[place]) for agent, theirs in values])
        print(
            f"\nAgent / {options.against}, {what}: {mean:.3f}, {LEVEL:.0%} interval {low:.3f} to {high:.3f}, "
            f"{len(values)} pairs"
        )
    if load > QUIET_LOAD:
        print(f"The load average was {load:.2f} before, so these figures are not worth quoting.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
