"""Every metric once: its name, unit, which way is better, and which traffic yields it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower", "neither"]
Scale = Literal["log", "linear"]
Traffic = Literal["stream", "rate", "rr"]

#: Bytes of one gigabyte in "seconds of CPU per gigabyte": decimal, as link speeds are.
GIGABYTE = 10**9


@dataclass(frozen=True)
class Metric:
    """One measured quantity of a repetition.

    ``scale`` says how two arms are compared: on the log scale (ratio of positive values) or, where zero is an
    ordinary value, on the linear scale (difference). ``judged`` metrics get a verdict; the others are evidence.
    ``short`` is the label in tables where ``label`` is longer than 17 characters: a table must fit 80 columns.
    """

    name: str
    unit: str
    better: Better
    label: str
    traffic: tuple[Traffic, ...]
    scale: Scale = "log"
    judged: bool = True
    short: str = ""
    #: On the linear scale: the least amount that a margin is a share of, because 5 % of nothing is nothing.
    floor: float = 0.0

    @property
    def short_label(self) -> str:
        """Return the label for tables, of at most 17 characters."""
        return self.short or self.label


_STREAMS: tuple[Traffic, ...] = ("stream",)
_RR: tuple[Traffic, ...] = ("rr",)
_ALL: tuple[Traffic, ...] = ("stream", "rate", "rr")

_METRICS = (
    Metric("throughput_bps", "bit/s", "higher", "throughput", _STREAMS),
    Metric("transactions_per_s", "1/s", "higher", "transactions per second", _RR, short="transactions"),
    Metric("latency_p50_us", "us", "lower", "latency p50", _RR),
    Metric("latency_p90_us", "us", "lower", "latency p90", _RR),
    Metric("latency_p99_us", "us", "lower", "latency p99", _RR),
    Metric(
        "cpu_s_per_gb_sender", "s/GB", "lower", "CPU seconds per gigabyte, sending node", _ALL, short="CPU sender"
    ),
    Metric(
        "cpu_s_per_gb_receiver",
        "s/GB",
        "lower",
        "CPU seconds per gigabyte, receiving node",
        _ALL,
        short="CPU receiver",
    ),
    Metric(
        "user_s_per_gb_sender",
        "s/GB",
        "lower",
        "CPU seconds per gigabyte in user, sending node",
        _ALL,
        "linear",
        judged=False,
        short="user sender",
    ),
    Metric(
        "system_s_per_gb_sender",
        "s/GB",
        "lower",
        "CPU seconds per gigabyte in system, sending node",
        _ALL,
        "linear",
        judged=False,
        short="system sender",
    ),
    Metric(
        "softirq_s_per_gb_sender",
        "s/GB",
        "lower",
        "CPU seconds per gigabyte in softirq, sending node",
        _ALL,
        "linear",
        judged=False,
        short="softirq sender",
    ),
    Metric(
        "user_s_per_gb_receiver",
        "s/GB",
        "lower",
        "CPU seconds per gigabyte in user, receiving node",
        _ALL,
        "linear",
        judged=False,
        short="user receiver",
    ),
    Metric(
        "system_s_per_gb_receiver",
        "s/GB",
        "lower",
        "CPU seconds per gigabyte in system, receiving node",
        _ALL,
        "linear",
        judged=False,
        short="system receiver",
    ),
    Metric(
        "softirq_s_per_gb_receiver",
        "s/GB",
        "lower",
        "CPU seconds per gigabyte in softirq, receiving node",
        _ALL,
        "linear",
        judged=False,
        short="softirq receiver",
    ),
    Metric(
        "softirq_share_sender",
        "1",
        "lower",
        "share of softirq in CPU time, sending node",
        _ALL,
        "linear",
        short="softirq sender",
        floor=0.1,
    ),
    Metric(
        "softirq_share_receiver",
        "1",
        "lower",
        "share of softirq in CPU time, receiving node",
        _ALL,
        "linear",
        short="softirq receiver",
        floor=0.1,
    ),
    Metric(
        "retransmits_per_gb",
        "1/GB",
        "lower",
        "retransmitted segments per gigabyte",
        ("stream", "rate"),
        "linear",
        short="retransmits",
        # A gigabyte is about 690,000 segments of an ordinary connection: this is 0.15 % of them.
        floor=1_000.0,
    ),
    Metric(
        "bytes_per_packet_sender",
        "B",
        "neither",
        "mean bytes per packet, sender",
        _ALL,
        judged=False,
        short="packet sender",
    ),
    Metric(
        "bytes_per_packet_receiver",
        "B",
        "neither",
        "mean bytes per packet, receiver",
        _ALL,
        judged=False,
        short="packet receiver",
    ),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _METRICS}


def metrics_of(traffic: Traffic) -> list[Metric]:
    """Return the metrics that a scenario of ``traffic`` yields, in the order they are reported."""
    return [metric for metric in _METRICS if traffic in metric.traffic]


#: The metric that stands for a scenario where only one can be shown.
HEADLINE: dict[Traffic, str] = {
    "stream": "throughput_bps",
    "rate": "cpu_s_per_gb_sender",
    "rr": "transactions_per_s",
}
