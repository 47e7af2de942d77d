"""What a kind of traffic is: its scenarios, how it runs in a pod, how its output is read, and its metrics.

A kind is one module of ``traffic``, which names it ``KIND``. The pods mount it, and whoever reads what they print
imports it: what is run and what is understood stand next to each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bigtcp_bench.in_cluster.output import Json

Better = Literal["higher", "lower", "neither"]
Scale = Literal["log", "linear"]

#: Bytes of one gigabyte in "per gigabyte": decimal, as link speeds are.
GIGABYTE = 10**9

#: A measured window shorter than this share of the ordered one was cut off; iperf3's own jitter is below 1 %.
MIN_DURATION_SHARE = 0.9


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
    scale: Scale = "log"
    judged: bool = True
    short: str = ""
    #: On the linear scale: the least amount that a margin is a share of, because 5 % of nothing is nothing.
    floor: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what nobody could judge."""
        if self.judged and self.better == "neither":
            raise ValueError(f"metric {self.name}: better is 'neither', so judged must be False")

    @property
    def short_label(self) -> str:
        """Return the label for tables, of at most 17 characters."""
        return self.short or self.label


class Unreadable(Exception):
    """What a tool printed lacks a value, or has one that cannot be; the text says which."""


@dataclass(frozen=True)
class Kind:
    """One kind of traffic."""

    #: As ``traffic`` of its scenarios.
    name: str
    #: The name of each of its scenarios, behind the IP family and ``-``, and its number of parallel streams.
    scenarios: Mapping[str, int]
    #: ``run(address, orders, scenario)`` runs it in the client pod, against the server at ``address``, and returns
    #: what was seen: a part of the repetition's document, beside the snapshots of both ends. Raises Failed.
    run: Callable[[str, Json, Json], Json]
    #: ``problems(document, orders, scenario)`` yields why what was seen is no sound measurement. An Unreadable is
    #: one more reason.
    problems: Callable[[Json, Json, Json], Iterator[str]]
    #: What it measures beside the counters of both ends, in the order of reports, and how that is read from a
    #: document. Raises Unreadable.
    metrics: Mapping[Metric, Callable[[Json], float]]
    #: The metric that stands for a scenario where only one can be shown.
    headline: str
    #: The fields of the plan that its figures depend on.
    terms: tuple[str, ...] = ()
    #: Request and response size of its scenarios; None: the plan's, or none at all.
    request_bytes: int | None = None
    #: Whether the server must start iperf3 for it.
    needs_iperf3: bool = False
    #: Whether what is left of a repetition's time is waited for when it ends early.
    keeps_time: bool = False
    #: Whether its packets are as large as they may be, which proves that BIG TCP acts.
    fills_packets: bool = False
    #: Whether it can fill packets beyond the classic limit. All other is measured to see that it pays nothing.
    should_gain: bool = False


def value_at(document: Any, path: str, what: str) -> Any:
    """Return what ``document`` (``what``, in a sentence) has at ``path``, its names joined by dots.

    Raises Unreadable.
    """
    here = document
    for name in path.split("."):
        if not isinstance(here, dict) or name not in here:
            raise Unreadable(f"{what}: {path} is missing")
        here = here[name]
    return here


def number_at(document: Any, path: str, what: str) -> float:
    """Return the number at ``path``, at least 0. Raises Unreadable."""
    value = value_at(document, path, what)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0:
        raise Unreadable(f"{what}: {path} = {str(value)[:60]!r}; expected a number of at least 0")
    return value


def too_short(seconds: float, orders: Json) -> Iterator[str]:
    """Yield a sentence if much less was measured than ordered."""
    if seconds < MIN_DURATION_SHARE * orders["duration_s"]:
        yield f"measured for {seconds:.2f} s instead of {orders['duration_s']} s"
