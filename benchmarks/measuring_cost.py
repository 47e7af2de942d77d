"""What the measuring costs: throughput with the agent, and by hand with bare iperf3, in the same two pods.

Usage: ``python -m benchmarks.measuring_cost [--pairs 10] [--duration 5] [--omit 1] [--scenario ipv4-stream-1]
[--kubeconfig FILE]``. Starts a lab of its own unless it is given a cluster. Both ways alternate and take turns in
beginning, so that whatever drifts meets them alike. Prints every pair, and the ratio of the agent's throughput to
that by hand with a 95 % confidence interval: of the mean of the logarithms, by Student's t over the pairs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from bigtcp_bench.cluster import pods
from bigtcp_bench.cluster.api import ClusterApi
from bigtcp_bench.cluster.nodes import choose_pair
from bigtcp_bench.errors import MeasurementFailed
from bigtcp_bench.in_cluster.iperf3 import WRITE_SIZE
from bigtcp_bench.planning.plan import SCENARIOS, Plan, Scenario, validate_plan
from bigtcp_bench.readings.agent_log import Repetition, parse_log
from bigtcp_bench.readings.measurements import measurements, problems
from bigtcp_bench.readings.orders import MeasureOrders, ServeOrders
from bigtcp_lab import administrator, daemon

RUN_KEY = "benchmarks/measuring_cost"
LEVEL = 0.95
#: A quieter machine makes a narrower interval; above this load average its figures are not worth quoting.
QUIET_LOAD = 0.5
#: How far the agent may be from equal.
TOLERANCE = 0.01
#: Of the iperf3 that is started by hand.
HAND_PORT = 5301
#: The least number of pairs whose interval means anything.
MIN_PAIRS = 2


@dataclass(frozen=True)
class Bench:
    """Two pods on two nodes, one of which serves, and what is measured between them."""

    api: ClusterApi
    server: str
    client: str
    token: str
    addresses: dict[str, str]
    plan: Plan
    scenario: Scenario

    def by_hand(self) -> float:
        """Return bits per second received, from bare iperf3 at both ends."""
        address, port = self.addresses[self.scenario.family], str(HAND_PORT)
        serve = ["iperf3", "-s", "-1", "-D", "-B", address, "-p", port]
        self.api.exec(pods.BENCH_NAMESPACE, self.server, pods.CONTAINER, serve)
        command = ["iperf3", "-c", address, "-p", port, "-t", str(self.plan.duration_s)]
        command += ["-l", WRITE_SIZE, "-P", str(self.scenario.streams), "-J"]
        command += ["-O", str(self.plan.omit_s)] if self.plan.omit_s else []
        output = self.api.exec(pods.BENCH_NAMESPACE, self.client, pods.CONTAINER, command)
        return float(json.loads(output)["end"]["sum_received"]["bits_per_second"])

    def by_agent(self) -> float:
        """Return bits per second received, from the agent: with its snapshots of both ends around iperf3."""
        return next(one.value for one in measurements(self.repetition()) if one.metric == "throughput_bps")

    def repetition(self) -> Repetition:
        """Return one sound repetition of the agent. Raises MeasurementFailed."""
        orders = MeasureOrders.model_validate(
            {
                "token": self.token,
                "run_key": RUN_KEY,
                "block": 1,
                "arm": "off",
                "generation": 1,
                "server": self.addresses,
                "scenarios": [self.scenario],
                "repetitions": 1,
                "duration_s": self.plan.duration_s,
                "omit_s": self.plan.omit_s,
                "rate_bps": self.plan.rate_bps,
                "request_bytes": self.plan.request_bytes,
            }
        )
        command = ["python3", "-m", "bigtcp_bench.in_cluster.measure", orders.to_argument()]
        output = self.api.exec(pods.BENCH_NAMESPACE, self.client, pods.CONTAINER, command)
        for repetition in parse_log(output).repetitions:
            for problem in problems(repetition, orders):
                raise MeasurementFailed(problem)
            return repetition
        raise MeasurementFailed("the agent printed no measurement")


@contextlib.contextmanager
def cluster(kubeconfig: Path | None) -> Iterator[ClusterApi]:
    """Yield a connection to the cluster of ``kubeconfig``, or to a lab that ends afterwards."""
    with contextlib.ExitStack() as stack:
        if kubeconfig is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bigtcp-cost-")))
            kubeconfig = daemon.up(folder, owner=os.getpid()).kubeconfig
            stack.callback(daemon.down, folder)
            administrator.apply_manifests(kubeconfig)
        api = ClusterApi.from_kubeconfig(kubeconfig)
        stack.callback(api.close)
        yield api


@contextlib.contextmanager
def bench(api: ClusterApi, plan: Plan, lifetime_s: int) -> Iterator[Bench]:
    """Yield the two pods, and delete them afterwards. The one that sends only waits to be told what to run."""
    pods.ensure_namespace(api)
    pods.ensure_agent_configmap(api)
    pair = choose_pair(api, plan)
    labels = pods.run_labels(RUN_KEY)
    orders = ServeOrders(lifetime_s=lifetime_s)
    common = {"image": plan.image, "deadline_s": lifetime_s, "labels": labels}
    server = pods.build_pod("server", node=pair.server.name, orders=orders.to_argument(), **common)
    client = pods.build_pod("client", node=pair.client.name, **common)
    container = client["spec"]["containers"][0]
    container["command"], container["args"] = ["sleep", str(lifetime_s)], []
    try:
        serving = pods.wait_ready(api, pods.create_pod(api, server)["metadata"]["name"])
        addresses = pods.pod_addresses(serving)
        name = pods.wait_ready(api, pods.create_pod(api, client)["metadata"]["name"])["metadata"]["name"]
        where = serving["metadata"]["name"], name
        yield Bench(api, *where, orders.token, addresses, plan, SCENARIOS[plan.scenarios[0]])
    finally:
        pods.delete_pods(api, run_key=RUN_KEY)


def measure(found: Bench, pairs: int) -> list[tuple[float, float]]:
    """Return (agent, by hand) in bits per second for each pair; every second pair begins by hand."""
    # The first stream between fresh pods resolves addresses and fills caches.
    found.by_hand()
    values = []
    for number in range(pairs):
        if number % 2:
            hand = found.by_hand()
            agent = found.by_agent()
        else:
            agent = found.by_agent()
            hand = found.by_hand()
        values.append((agent, hand))
        print(f"| {number + 1} | {agent / 1e9:.2f} | {hand / 1e9:.2f} | {agent / hand:.4f} |", flush=True)
    return values


def ratio(values: list[tuple[float, float]], level: float = LEVEL) -> tuple[float, float, float]:
    """Return the geometric mean of agent/by hand over the pairs, and its confidence interval."""
    logs = np.log([agent / hand for agent, hand in values])
    mean, error = float(logs.mean()), float(logs.std(ddof=1)) / math.sqrt(len(logs))
    half = float(stats.t.ppf(0.5 + level / 2, len(logs) - 1)) * error
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def main() -> int:
    """Measure and print; return 0 if the interval lies within TOLERANCE of equal, else 1."""
    parser = argparse.ArgumentParser(description="What the measuring costs.")
    parser.add_argument("--pairs", type=int, default=10, help="pairs of measurements, at least 2 (default: 10)")
    parser.add_argument("--duration", type=int, default=5, help="measured seconds of each (default: 5)")
    parser.add_argument("--omit", type=int, default=1, help="seconds before that which do not count (default: 1)")
    streams = [name for name, scenario in SCENARIOS.items() if scenario.traffic == "stream"]
    parser.add_argument("--scenario", choices=streams, default="ipv4-stream-1")
    parser.add_argument("--kubeconfig", type=Path, help="a cluster (default: a lab of its own)")
    options = parser.parse_args()
    if options.pairs < MIN_PAIRS:
        parser.error(f"--pairs {options.pairs}: at least {MIN_PAIRS} are needed")
    plan = validate_plan(
        {"scenarios": options.scenario, "duration_s": options.duration, "omit_s": options.omit}, "options"
    )
    # Each of them may wait for as long as it measures, and then as long again.
    lifetime_s = 600 + 4 * options.pairs * (options.duration + options.omit + 5)
    load = os.getloadavg()[0]
    print("| pair | with the agent (Gbit/s) | by hand (Gbit/s) | ratio |\n|--:|--:|--:|--:|", flush=True)
    with cluster(options.kubeconfig) as api, bench(api, plan, lifetime_s) as found:
        values = measure(found, options.pairs)
    mean, low, high = ratio(values)
    print(f"\nAgent / by hand: {mean:.4f}, {LEVEL:.0%} interval {low:.4f} to {high:.4f}, {len(values)} pairs")
    if load > QUIET_LOAD:
        print(f"The load average was {load:.2f} before, so these figures are not worth quoting.")
    return 0 if low >= 1 - TOLERANCE and high <= 1 + TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
