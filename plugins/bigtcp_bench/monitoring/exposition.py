"""What Prometheus is told of all runs, as metric families; names and labels are those of docs/monitoring.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric, StateSetMetricFamily

from bigtcp_bench import __version__
from bigtcp_bench.in_cluster.kind import GIGABYTE
from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.planning.plan import SCENARIOS
from bigtcp_bench.warehouse.records import State

if TYPE_CHECKING:
    from bigtcp_bench.warehouse.scrape import ClusterFacts, Series

PREFIX = "bigtcp_bench_"

#: Of runs that have ended; of comparisons that are judged; of series; of open incidents.
STATUSES = ("valid", "invalid", "failed")
VERDICTS = ("faster", "slower", "equivalent", "inconclusive", "invalid")
STATES: tuple[str, ...] = get_args(State)
INCIDENT_STATES = ("suspect", "regression")


@dataclass(frozen=True)
class ArmMetric:
    """How a metric of the warehouse is called in Prometheus, in base units: name, unit, and factor."""

    name: str
    unit: str
    factor: float = 1.0


#: Prometheus wants seconds and bytes, and names that end in the unit: https://prometheus.io/docs/practices/naming/
ARM_METRICS: dict[str, ArmMetric] = {
    "throughput_bps": ArmMetric("throughput_bytes_per_second", "bytes_per_second", 1 / 8),
    "transactions_per_s": ArmMetric("transactions_per_second", "per_second"),
    "latency_p50_us": ArmMetric("latency_p50_seconds", "seconds", 1e-6),
    "latency_p90_us": ArmMetric("latency_p90_seconds", "seconds", 1e-6),
    "latency_p99_us": ArmMetric("latency_p99_seconds", "seconds", 1e-6),
    "latency_p999_us": ArmMetric("latency_p999_seconds", "seconds", 1e-6),
    "connections_per_s": ArmMetric("connections_per_second", "per_second"),
    "cpu_s_per_gb_sender": ArmMetric("sender_cpu_seconds_per_byte", "seconds_per_byte", 1 / GIGABYTE),
    "cpu_s_per_gb_receiver": ArmMetric("receiver_cpu_seconds_per_byte", "seconds_per_byte", 1 / GIGABYTE),
    **{
        f"{kind}_s_per_gb_{end}": ArmMetric(f"{end}_{kind}_cpu_seconds_per_byte", "seconds_per_byte", 1 / GIGABYTE)
        for kind in ("user", "system", "softirq")
        for end in ("sender", "receiver")
    },
    "softirq_share_sender": ArmMetric("sender_softirq_ratio", "ratio"),
    "softirq_share_receiver": ArmMetric("receiver_softirq_ratio", "ratio"),
    "retransmits_per_gb": ArmMetric("retransmits_per_byte", "per_byte", 1 / GIGABYTE),
    "bytes_per_packet_sender": ArmMetric("sender_bytes_per_packet", "bytes_per_packet"),
    "bytes_per_packet_receiver": ArmMetric("receiver_bytes_per_packet", "bytes_per_packet"),
}


class Families:
    """A collector, as prometheus_client wants it: what is known of ``clusters`` as metric families.

    ``hidden`` is how many more there are that the scraper's user may not see.
    """

    def __init__(self, clusters: Sequence[ClusterFacts], hidden: int = 0) -> None:
        self._clusters = clusters
        self._hidden = hidden

    def collect(self) -> Iterator[Metric]:
        """Yield every family, also those that have no sample."""
        build = InfoMetricFamily(f"{PREFIX}build", "The version of bigtcp-bench.")
        build.add_metric([], {"version": __version__})
        yield build
        hidden = _gauge("hidden_clusters", "Clusters with runs, none of which the scraper's user may read.", [])
        hidden.add_metric([], self._hidden)
        yield hidden
        yield from self._of_clusters()
        yield from self._of_series()
        yield from self._of_arms()

    def _of_clusters(self) -> Iterator[Metric]:
        origin = InfoMetricFamily(
            f"{PREFIX}cluster",
            "Whether the newest run was on the lab (emulated), and whether its figures are made up (generated).",
            labels=["cluster"],
        )
        started = _gauge(
            "last_run_start_timestamp_seconds", "When the newest run began.", ["cluster"], unit="seconds"
        )
        running = _gauge("run_in_progress", "Whether the newest run goes on.", ["cluster"])
        status = _states("last_run_status", "How the newest run ended that has ended.", ["cluster"])
        restored = _gauge(
            "restore_verified", "Whether the newest restore is known to have put the cluster back.", ["cluster"]
        )
        incidents = _gauge("open_incidents", "Open incidents.", ["cluster", "state", "acknowledged"])
        hidden = _gauge(
            "judgements_hidden", "Whether open incidents and states of series are hidden.", ["cluster"]
        )
        for one in self._clusters:
            flags = {"emulated": _word(one.runs.emulated), "generated": _word(one.runs.generated)}
            origin.add_metric([one.name], flags)
            started.add_metric([one.name], one.runs.started_at.timestamp())
            running.add_metric([one.name], one.runs.running)
            if one.runs.ended is not None:
                status.add_metric([one.name], _one_of(STATUSES, one.runs.ended))
            if one.runs.restore is not None:
                restored.add_metric([one.name], one.runs.restore != "not_verified")
            hidden.add_metric([one.name], one.incidents is None)
            if one.incidents is not None:
                for state in INCIDENT_STATES:
                    for known in (False, True):
                        count = one.incidents.get((state, known), 0)
                        incidents.add_metric([one.name, state, _word(known)], count)
        yield from (origin, started, running, status, restored, incidents, hidden)

    def _of_series(self) -> Iterator[Metric]:
        labels = ["cluster", "scenario", "metric"]
        verdict = _states("verdict", "Verdict of the newest valid run that compared the series.", labels)
        state = _states("series_state", "State of the series across nights.", labels)
        figures = {
            "change": _gauge("change_ratio", "On over off, minus one.", labels, unit="ratio"),
            "ci_low": _gauge("change_low_ratio", "Lower end of the change's interval.", labels, unit="ratio"),
            "ci_high": _gauge("change_high_ratio", "Upper end of the change's interval.", labels, unit="ratio"),
        }
        compared = _gauge(
            "compared_run_start_timestamp_seconds",
            "When the newest valid run began that compared the series.",
            labels,
            unit="seconds",
        )
        for one in self._clusters:
            for scenario, metric, row in _known(one.comparisons):
                if METRICS[metric].judged:
                    verdict.add_metric([one.name, scenario, metric], _one_of(VERDICTS, row["verdict"]))
                compared.add_metric([one.name, scenario, metric], row["started_at"].timestamp())
                for column, family in figures.items():
                    if _counts(row, column):
                        family.add_metric([one.name, scenario, metric], row[column])
            for scenario, metric, row in _known(one.states or {}):
                state.add_metric([one.name, scenario, metric], _one_of(STATES, row["state"]))
        yield from (verdict, state, *figures.values(), compared)

    def _of_arms(self) -> Iterator[Metric]:
        for metric, arm_metric in ARM_METRICS.items():
            text = f"Median of both arms: {METRICS[metric].label}."
            family = _gauge(arm_metric.name, text, ["cluster", "scenario", "arm"], unit=arm_metric.unit)
            for one in self._clusters:
                for scenario, of_metric, row in _known(one.comparisons):
                    for arm in ("off", "on"):
                        if of_metric == metric and _counts(row, f"{arm}_median"):
                            value = row[f"{arm}_median"] * arm_metric.factor
                            family.add_metric([one.name, scenario, arm], value)
            yield family


def _known(series: Series) -> Iterable[tuple[str, str, Mapping[str, Any]]]:
    """Yield scenario, metric and row of what this package knows: whatever a table holds, labels are bounded."""
    for (scenario, metric), row in sorted(series.items()):
        if scenario in SCENARIOS and metric in METRICS:
            yield scenario, metric, row


def _counts(row: Mapping[str, Any], column: str) -> bool:
    # What may not be judged is evidence of something, but no figure of this cluster.
    return row[column] is not None and row["verdict"] != "invalid"


def _gauge(name: str, text: str, labels: list[str], unit: str = "") -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}{name}", text, labels=labels, unit=unit)


def _states(name: str, text: str, labels: list[str]) -> StateSetMetricFamily:
    return StateSetMetricFamily(f"{PREFIX}{name}", text, labels=labels)


def _one_of(all_of_them: Iterable[str], one: str) -> dict[str, bool]:
    return {state: state == one for state in all_of_them}


def _word(value: bool) -> str:
    return "true" if value else "false"
