"""Everything a report of one run says, in one frozen object that every rendering reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.in_cluster.treatment import ARMS, proves
from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.planning.plan import SCENARIOS, Arm, Expectation, Plan, main_metric, unproven_ways
from bigtcp_bench.planning.thresholds import thresholds_of
from bigtcp_bench.report.change import ChangeView, NotCompared, note_conflict
from bigtcp_bench.report.headline import Gain, Headline, Outcome, Series, gains_of, headline, regressions
from bigtcp_bench.report.history import HistoryView
from bigtcp_bench.report.links import airflow_run_url
from bigtcp_bench.report.precision import unknown_line
from bigtcp_bench.report.running import progress_line
from bigtcp_bench.report.stored import StoredRun
from bigtcp_bench.report.units import known, signs

if TYPE_CHECKING:
    import pandas as pd

    from bigtcp_bench.analysis.compare import Comparison
    from bigtcp_bench.analysis.diagnosis import Cause
    from bigtcp_bench.warehouse.records import RunStatus
    from bigtcp_bench.warehouse.store import Warehouse

RestoreState = Literal["pending", "verified", "not_verified", "not_needed"]


@dataclass(frozen=True)
class NodeView:
    """One node of the measured pair; ``role`` is what its pod did."""

    role: Literal["client", "server"]
    name: str
    kernel: str | None = None
    nic_driver: str | None = None


@dataclass(frozen=True)
class Proof:
    """Mean bytes per packet on the pods' own interfaces, for one scenario in one arm: what BIG TCP really did.

    ``sender_b`` and ``receiver_b`` are medians over ``repetitions`` repetitions, in bytes. The run's validity
    hangs on those that are ``required``: of bulk streams, which fill packets to the limit, and of the streams
    captured in their place, whose ``scenario`` is the way that they prove.
    """

    scenario: str
    arm: Arm
    sender_b: float | None
    receiver_b: float | None
    repetitions: int
    required: bool

    @property
    def as_intended(self) -> bool:
        """Whether both ends saw packets above 65,536 B in arm on, or none above it in arm off."""
        ends = (self.sender_b, self.receiver_b)
        return all(end is not None and proves(end, self.arm) for end in ends)


@dataclass(frozen=True)
class ControlView:
    """Transactions per second between the nodes themselves; ``usual`` is the median of the nights before."""

    value: float
    usual: float | None = None


@dataclass(frozen=True)
class RestoreView:
    """How far the cluster is back in the state before the run; ``detail`` is one sentence.

    These two fields are what ``bigtcp_run.restore_result`` holds; ``pending`` stands for no result so far.
    """

    state: RestoreState
    detail: str = ""


@dataclass(frozen=True)
class RunView:
    """One run as every report tells it. Texts come as they are in the warehouse; times are aware."""

    cluster: str
    dag_id: str
    run_id: str
    status: RunStatus
    #: Where the results are, with any password masked.
    data_at: str
    #: The run's number in the warehouse, the key of every other table.
    number: int | None = None
    #: Name of the plan and its order of blocks; None when the run failed before it had a valid plan.
    plan_name: str | None = None
    order: tuple[str, ...] = ()
    trigger: str | None = None
    note: str | None = None
    reasons: tuple[str, ...] = ()
    nodes: tuple[NodeView, ...] = ()
    cilium_version: str | None = None
    comparisons: tuple[Comparison, ...] = ()
    #: What BIG TCP should do for each scenario; none of it for those that this version does not know.
    expectations: Mapping[str, Expectation] = field(default_factory=dict)
    proofs: tuple[Proof, ...] = ()
    #: None when no control was measured.
    control: ControlView | None = None
    restore: RestoreView = field(default_factory=lambda: RestoreView("pending"))
    started: datetime | None = None
    finished: datetime | None = None
    #: Seconds spent on measured and omitted traffic, of all that was stored.
    measuring_time_s: float | None = None
    #: The Kubernetes API and the Cilium agent are the lab's; the traffic is real.
    emulated: bool = False
    #: Every figure of the run was made up by `bigtcp-bench demo-history`; nothing was measured.
    generated: bool = False
    #: The run's page in Airflow, when Airflow's address is known.
    url: str | None = None
    history: HistoryView = field(default_factory=HistoryView)
    #: Which scenarios are not known to the plan's precision, and what it would take; empty when all are.
    unknown: str = ""
    #: Of an A/A run: the noise that it measured, one line for each scenario.
    noise: tuple[str, ...] = ()
    #: The likely causes of what is wrong with the run, the likeliest first.
    causes: tuple[Cause, ...] = ()
    #: That what is wrong with it was looked into, and none of the known causes shows.
    no_cause: str = ""
    #: Against an earlier run, or why there is none to compare with; None where nobody asks.
    change: ChangeView | NotCompared | None = None
    #: Of every series that is a regression: what BIG TCP gained before, and gains now.
    gains: Mapping[Series, Gain] = field(default_factory=dict)
    #: How far a run that has not ended has come; empty for others.
    progress: str = ""

    @classmethod
    def from_warehouse(cls, warehouse: Warehouse, number: int, airflow_url: str | None = None) -> RunView:
        """Return all that ``warehouse`` knows of run ``number``.

        ``airflow_url`` is the address of Airflow's own pages, for the link. Raises InvalidInput if the run is
        unknown.
        """
        return cls.of(StoredRun(warehouse, number), airflow_url)

    @classmethod
    def of(cls, stored: StoredRun, airflow_url: str | None = None) -> RunView:
        """Return all that is known of the run ``stored``; ``airflow_url`` as above."""
        warehouse, number, row = stored.warehouse, stored.number, stored.row
        plan: Mapping[str, Any] = row["plan"] or {}
        environment: Mapping[str, Any] = row["environment"] or {}
        scenarios = list(plan.get("scenarios", SCENARIOS))
        results, blocks, sizes = stored.results, stored.blocks, stored.packet_sizes
        again = set(blocks[blocks["purpose"] == "rerun"]["block"])
        of_plan = results[results["scenario"].isin(scenarios)]
        repetitions = len(of_plan[["block", "generation", "scenario", "repetition"]].drop_duplicates())
        comparisons = _comparisons(warehouse.comparisons_frame(number), scenarios)
        history = HistoryView.from_warehouse(warehouse, row)
        return cls(
            cluster=row["cluster"],
            dag_id=row["dag_id"],
            run_id=row["run_id"],
            status=row["status"],
            data_at=warehouse.url,
            number=number,
            plan_name=row["plan_name"],
            order=tuple((row["block_order"] or "").split(",")) if row["block_order"] else (),
            trigger=row["trigger"],
            note=row["note"],
            reasons=tuple(row["reasons"]),
            nodes=_nodes(row),
            cilium_version=row["cilium_version"],
            comparisons=comparisons,
            expectations=_expectations(plan, scenarios),
            # A re-run has gates of its own; these are the run's.
            proofs=(
                *_proofs(results[~results["block"].isin(again)], scenarios),
                *_captured_proofs(sizes[~sizes["block"].isin(again)], scenarios),
            ),
            control=_control(warehouse, number, plan),
            restore=_restore(row["restore_result"]),
            started=row["started_at"],
            finished=row["finished_at"],
            measuring_time_s=repetitions * ((plan.get("duration_s") or 0) + (plan.get("omit_s") or 0)),
            emulated=bool(environment.get("emulated")),
            generated=bool(environment.get("generated")),
            url=airflow_run_url(airflow_url, row["dag_id"], row["run_id"]) if airflow_url else None,
            history=history,
            unknown=unknown_line(comparisons, plan) if row["status"] == "valid" else "",
            **_causes(warehouse.diagnosis_frame(number)),
            noise=_noise(warehouse, row) if row["is_aa"] else (),
            change=ChangeView.from_warehouse(warehouse, row),
            gains=_gains(warehouse, row["cluster"], history, comparisons),
            progress=progress_line(row, blocks) if row["status"] == "running" else "",
        )

    @property
    def is_aa(self) -> bool:
        """Whether the run compares one arm with itself, to measure the cluster's own noise."""
        return len(set(self.order)) == 1

    @property
    def judged(self) -> list[Comparison]:
        """Return the comparisons that have a verdict; the others are evidence and stand in the proof of effect."""
        return [comparison for comparison in self.comparisons if METRICS[comparison.metric].judged]

    @property
    def wall_time_s(self) -> float | None:
        """Return the seconds from start to finish, or None while either is unknown."""
        if self.started is None or self.finished is None:
            return None
        return (self.finished - self.started).total_seconds()

    @property
    def restore_failed(self) -> bool:
        """Whether the cluster may still be in another state than before the run."""
        return self.restore.state == "not_verified"

    @property
    def headline(self) -> Headline:
        """Return the run's news in one line."""
        return headline(
            Outcome(
                status=self.status,
                night=self.started.date() if self.started else None,
                reasons=self.reasons,
                is_aa=self.is_aa,
                restore_failed=self.restore_failed,
                restore_detail=self.restore.detail,
                verdicts=self.verdict_counts(),
                worse=[(one.scenario, one.metric) for one in self.judged if one.verdict == "slower"],
                series=self.history.series,
                gains=self.gains,
                learning_nights=self.history.learning_nights,
                known=self.history.known,
                progress=self.progress,
                **against_of(self.change, self.note, self.cilium_version, self.started),
            )
        )

    @property
    def compared(self) -> ChangeView | None:
        """Return the comparison with an earlier run, where there is one."""
        return self.change if isinstance(self.change, ChangeView) else None

    def verdict_counts(self) -> Counter[str]:
        """Return how many comparisons have which verdict."""
        return Counter(comparison.verdict for comparison in self.judged)

    def headline_comparisons(self) -> list[Comparison]:
        """Return the one comparison that stands for each scenario, in the order of the scenarios."""
        return [one for one in self.comparisons if one.metric == main_metric(one.scenario)]


def against_of(
    change: ChangeView | NotCompared | None, note: str | None, cilium: str | None, started: datetime | None
) -> dict[str, Any]:
    """Return what an Outcome says of a comparison with an earlier run, and of the run's note."""
    found: dict[str, Any] = {"note_conflict": note_conflict(note, cilium)}
    if change is not None:
        found["against"], found["against_worse"] = change.answer(started.date() if started else None)
    return found


def _expectations(plan: Mapping[str, Any], scenarios: Iterable[str]) -> dict[str, Expectation]:
    request_bytes = plan.get("request_bytes") or Plan.model_fields["request_bytes"].default
    return {name: SCENARIOS[name].expectation(request_bytes) for name in scenarios if name in SCENARIOS}


def _causes(frame: pd.DataFrame) -> dict[str, Any]:
    """Return the fields ``causes`` and ``no_cause``; that none was found is stored as one, and is none."""
    from bigtcp_bench.analysis.diagnosis import Cause
    from bigtcp_bench.judging.causes import NONE_FOUND

    found = tuple(
        Cause(
            name=row["cause"],
            sentence=row["sentence"],
            figures=row["figures"] or {},
            strength=row["strength"],
            scenario=known(row["scenario"]),
            arm=known(row["arm"]),
            node=known(row["node"]),
            explains=tuple(row["explains"]),
        )
        for row in frame.to_dict("records")
    )
    none = next((cause.sentence for cause in found if cause.name == NONE_FOUND), "")
    return {"causes": tuple(cause for cause in found if cause.name != NONE_FOUND), "no_cause": none}


def _gains(
    warehouse: Warehouse, cluster: str, history: HistoryView, comparisons: tuple[Comparison, ...]
) -> dict[Series, Gain]:
    from bigtcp_bench.warehouse.gains import gains_before

    before = gains_before(warehouse, cluster, regressions(history.series))
    return gains_of(history.series, before, {(one.scenario, one.metric): one.change for one in comparisons})


def _noise(warehouse: Warehouse, row: Mapping[str, Any]) -> tuple[str, ...]:
    from bigtcp_bench.judging.noise import advice, headlines, known_noise, noise_line

    if row["status"] != "valid":
        return ()
    noises = known_noise(warehouse, row["cluster"], row["id"])
    try:
        plan = warehouse.plan_of(row["id"])
    except InvalidInput:
        # Stored by another version of this package, or without any.
        return ()
    return tuple(signs(noise_line(one)) for one in headlines(advice(noises, plan)))


def _control(warehouse: Warehouse, number: int, plan: Mapping[str, Any]) -> ControlView | None:
    from bigtcp_bench.analysis.verdicts import usual_control
    from bigtcp_bench.warehouse.controls import control_history, control_values

    value = control_values(warehouse, [number]).get(number)
    if value is None:
        return None
    thresholds = thresholds_of(plan)
    history = control_history(warehouse, number, thresholds.control_nights)
    return ControlView(value, usual_control(history, thresholds))


def _nodes(row: Mapping[str, Any]) -> tuple[NodeView, ...]:
    return tuple(
        NodeView(role, row[f"{role}_node"], row[f"{role}_kernel"], row["nic_driver"])
        for role in ("client", "server")
        if row[f"{role}_node"]
    )


def _comparisons(frame: pd.DataFrame, scenarios: list[str]) -> tuple[Comparison, ...]:
    """Return the rows of ``frame`` in the order of ``scenarios``, and in each in that of the metrics."""
    from bigtcp_bench.judging.comparisons import stored_comparisons

    places = {name: place for place, name in enumerate(dict.fromkeys((*scenarios, *SCENARIOS)))}
    metrics = list(METRICS)
    return tuple(
        sorted(
            stored_comparisons(frame),
            key=lambda item: (
                places.get(item.scenario, len(places)),
                item.scenario,
                metrics.index(item.metric),
            ),
        )
    )


def _proofs(results: pd.DataFrame, scenarios: list[str]) -> tuple[Proof, ...]:
    sizes: dict[tuple[str, str, str], list[float]] = {}
    arms: dict[tuple[Any, ...], str] = {}
    columns = ("block", "generation", "repetition", "scenario", "arm", "metric", "value")
    for *repetition, scenario, arm, metric, value in zip(
        *(results[name].tolist() for name in columns), strict=True
    ):
        arms.setdefault((scenario, *repetition), arm)
        if metric.startswith("bytes_per_packet_"):
            sizes.setdefault((scenario, arm, metric), []).append(value)
    medians = {key: median(values) for key, values in sizes.items()}
    counts = Counter((scenario, arm) for (scenario, *_), arm in arms.items())
    return tuple(
        Proof(
            scenario=scenario,
            arm=arm,
            sender_b=medians.get((scenario, arm, "bytes_per_packet_sender")),
            receiver_b=medians.get((scenario, arm, "bytes_per_packet_receiver")),
            repetitions=counts[scenario, arm],
            required=scenario in SCENARIOS and SCENARIOS[scenario].kind.fills_packets,
        )
        for scenario in scenarios
        for arm in ARMS
        if (scenario, arm) in counts
    )


def _captured_proofs(sizes: pd.DataFrame, scenarios: list[str]) -> Iterator[Proof]:
    """Yield what captured streams prove, for each way that no stream of the plan takes."""
    from bigtcp_bench.judging.facts import captures_of

    captures = captures_of(sizes)
    arms = dict(zip(sizes["block"], sizes["arm"], strict=True))
    for way in unproven_ways(scenarios):
        for arm in ARMS:
            found = {
                end: [
                    size
                    for (block, of, at), sizes_there in captures.items()
                    if (of, at, arms[block]) == (way, end, arm)
                    for size in sizes_there
                ]
                for end in ("sender", "receiver")
            }
            if any(found.values()):
                sender, receiver = (median(sizes) if sizes else None for sizes in found.values())
                yield Proof(f"{way}, captured", arm, sender, receiver, len(found["sender"]), required=True)


def _restore(result: Mapping[str, Any] | None) -> RestoreView:
    return RestoreView(result["state"], result.get("detail") or "") if result else RestoreView("pending")
