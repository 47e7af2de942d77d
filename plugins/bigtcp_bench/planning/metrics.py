"""Every metric once: its name, unit, which way is better, and how it is computed.

Those of one kind of traffic are in its module (``in_cluster/traffic``), those of every kind are here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from bigtcp_bench.in_cluster.kind import Metric
from bigtcp_bench.in_cluster.traffic import KINDS

End = Literal["sender", "receiver"]


class Ends(Protocol):
    """What was counted at both ends of a repetition. A figure that cannot be had is raised as an Unreadable."""

    def cpu_s_per_gb(self, end: End, part: str) -> float:
        """Return CPU seconds (``busy``, or a part of them) per gigabyte moved, less the idle load of the node."""

    def softirq_share(self, end: End) -> float:
        """Return the share of softirq in the CPU seconds of the end's node."""

    def bytes_per_packet(self, end: End) -> float:
        """Return the mean size of the packets on the end's device, in the direction of the data."""


#: What is measured of every traffic, and how it is computed.
OF_ENDS: dict[Metric, Callable[[Ends], float]] = {
    Metric(
        "cpu_s_per_gb_sender", "s/GB", "lower", "CPU seconds per gigabyte, sending node", short="CPU sender"
    ): lambda seen: seen.cpu_s_per_gb("sender", "busy"),
    Metric(
        "cpu_s_per_gb_receiver",
        "s/GB",
        "lower",
        "CPU seconds per gigabyte, receiving node",
        short="CPU receiver",
    ): lambda seen: seen.cpu_s_per_gb("receiver", "busy"),
    Metric(
        "user_s_per_gb_sender",
        "s/GB",
        "lower",
        "CPU seconds per gigabyte in user, sending node",
        "linear",
        judged=False,
        short="user sender",
    ): lambda seen: seen.cpu_s_per_gb("sender", "user"),
    Metric(
        "system_s_per_gb_sender",
        "s/GB",
        "lower",
        "CPU seconds per gigabyte in system, sending node",
        "linear",
        judged=False,
        short="system sender",
    ): lambda seen: seen.cpu_s_per_gb("sender", "system"),
    Metric(
        "softirq_s_per_gb_sender",
        "s/GB",
        "lower",
        "CPU seconds per gigabyte in softirq, sending node",
        "linear",
        judged=False,
        short="softirq sender",
    ): lambda seen: seen.cpu_s_per_gb("sender", "softirq"),
    Metric(
        "user_s_per_gb_receiver",
        "s/GB",
        "lower",
        "CPU seconds per gigabyte in user, receiving node",
        "linear",
        judged=False,
        short="user receiver",
    ): lambda seen: seen.cpu_s_per_gb("receiver", "user"),
    Metric(
        "system_s_per_gb_receiver",
        "s/GB",
        "lower",
        "CPU seconds per gigabyte in system, receiving node",
        "linear",
        judged=False,
        short="system receiver",
    ): lambda seen: seen.cpu_s_per_gb("receiver", "system"),
    Metric(
        "softirq_s_per_gb_receiver",
        "s/GB",
        "lower",
        "CPU seconds per gigabyte in softirq, receiving node",
        "linear",
        judged=False,
        short="softirq receiver",
    ): lambda seen: seen.cpu_s_per_gb("receiver", "softirq"),
    Metric(
        "softirq_share_sender",
        "1",
        "lower",
        "share of softirq in CPU time, sending node",
        "linear",
        short="softirq sender",
        floor=0.1,
    ): lambda seen: seen.softirq_share("sender"),
    Metric(
        "softirq_share_receiver",
        "1",
        "lower",
        "share of softirq in CPU time, receiving node",
        "linear",
        short="softirq receiver",
        floor=0.1,
    ): lambda seen: seen.softirq_share("receiver"),
    Metric(
        "bytes_per_packet_sender",
        "B",
        "neither",
        "mean bytes per packet, sender",
        judged=False,
        short="packet sender",
    ): lambda seen: seen.bytes_per_packet("sender"),
    Metric(
        "bytes_per_packet_receiver",
        "B",
        "neither",
        "mean bytes per packet, receiver",
        judged=False,
        short="packet receiver",
    ): lambda seen: seen.bytes_per_packet("receiver"),
}

METRICS: dict[str, Metric] = {
    metric.name: metric for metrics in (*(kind.metrics for kind in KINDS.values()), OF_ENDS) for metric in metrics
}


def gained(metric: str, change: float) -> float:
    """Return a relative change as what it gains: positive when better in the metric's own direction."""
    return -change if METRICS[metric].better == "lower" else change


def metrics_of(traffic: str) -> list[Metric]:
    """Return the metrics that a scenario of ``traffic`` yields, in the order they are reported."""
    return [*KINDS[traffic].metrics, *OF_ENDS]
