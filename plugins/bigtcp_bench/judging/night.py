"""Judge a night across nights: history out of the warehouse, every series through its detector, incidents kept.

Knows neither Airflow nor Kubernetes. A series is one scenario and one judged metric on one cluster. Its detector
goes on from the state that the last judgement left; where there is none (the first night, other thresholds,
another version of this package) the newest ``REPLAY_NIGHTS`` nights are judged again, in memory.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from bigtcp_bench import __version__
from bigtcp_bench.analysis import incidents as decisions
from bigtcp_bench.analysis.compare import generation_medians
from bigtcp_bench.analysis.history import ArmsDetector, Judgement
from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.planning.plan import Plan, Thresholds, blocks
from bigtcp_bench.warehouse import incidents, judgements
from bigtcp_bench.warehouse.controls import control_values
from bigtcp_bench.warehouse.judgements import CARRIED, Judged, Series
from bigtcp_bench.warehouse.store import ENVIRONMENT, Warehouse

if TYPE_CHECKING:
    import pandas as pd

#: Nights that are judged again when no state was carried over, or more where the thresholds look back further: a
#: detector remembers its baseline and the nights of an open regression.
REPLAY_NIGHTS = 200

#: Nights that are read in any case; a state carried over from longer ago counts as none.
NEAR_NIGHTS = 10

#: Off and on of one measurement.
Pair = tuple[float, float]


@dataclass(frozen=True)
class Rerun:
    """What measuring scenarios again in the same night gave.

    ``pairs`` holds the (off, on) of each repetition by the re-run rule. When ``reasons`` says why the re-run does
    not count, there are none.
    """

    scenarios: tuple[str, ...]
    pairs: Mapping[Series, Sequence[Pair]] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Night:
    """What a run says about every series that it measured, and what became of the incidents by that."""

    night: str
    judgements: tuple[decisions.SeriesJudgement, ...]
    changes: tuple[decisions.Change, ...]


@dataclass(frozen=True)
class _Value:
    """One night of one series, as stored."""

    run: int
    night: str
    off: float | None
    on: float | None
    environment: Mapping[str, str | None]
    control: float | None


def rerun_pairs(frame: pd.DataFrame, plan: Plan) -> dict[Series, list[Pair]]:
    """Return the values of a re-run by ``plan`` (see plan.rerun_plan): off and on of each repetition, in order.

    ``frame`` holds its results with blocks numbered as in ``plan``. The n-th fresh pod pair of one arm goes with
    the n-th of the other; a series that lacks one is left out.
    """
    medians = generation_medians(frame, plan).sort_values(["block", "generation"])
    arms: dict[Series, dict[bool, list[float]]] = {}
    for row in medians.itertuples(index=False):
        arms.setdefault((str(row.scenario), str(row.metric)), {True: [], False: []})[bool(row.on)].append(
            float(str(row.value))
        )
    count = sum(block.generations for block in blocks(plan) if block.arm == "on")
    return {
        series: list(zip(values[False], values[True], strict=True))
        for series, values in arms.items()
        if len(values[False]) == len(values[True]) == count
    }


class Nightly:
    """The series of one run of ``warehouse``, with their detectors as they were before that run.

    ``run`` must be a valid run with stored comparisons. Scenarios that the run could not judge are missing nights.
    ``after`` is the night before, judged in this process by the same thresholds: whoever judges many nights in
    their order need not read from the warehouse what the last one has left there.
    """

    def __init__(
        self, warehouse: Warehouse, run: int, thresholds: Thresholds, *, after: Nightly | None = None
    ) -> None:
        self._warehouse = warehouse
        self._run = run
        self._thresholds = thresholds
        row = warehouse.run(run)
        self._cluster: str = row["cluster"]
        self._night: str = row["started_at"].date().isoformat()
        self._mark = _mark(thresholds)
        self._last = after._left() if after else judgements.last_judged(warehouse, run)
        #: Detectors as the last judgement of their series left them, where these are at hand.
        self._states: dict[Series, ArmsDetector] = {**after._states, **after._detectors} if after else {}
        self._detectors: dict[Series, ArmsDetector] = {}
        self._tonight: dict[Series, _Value] = {}
        self._near = after._newest() | {run: self._read_tonight(row)} if after else self._read(NEAR_NIGHTS)
        self._load()

    def due(self) -> list[str]:
        """Return the scenarios that are so far off, either way, that they are to be measured again tonight."""
        return sorted(
            {
                scenario
                for (scenario, metric), value in self._tonight.items()
                if self._detectors[scenario, metric].rerun_due(value.off, value.on)
            }
        )

    def judge(self, rerun: Rerun | None = None) -> Night:
        """Judge the night, store every judgement, and revise the cluster's incidents by them.

        To be called once: it moves the detectors on. A second object for the same run judges the same way again.
        """
        judged, rows = [], []
        for (scenario, metric), value in self._tonight.items():
            detector = self._detectors[scenario, metric]
            pairs = list(rerun.pairs.get((scenario, metric), ())) if rerun else []
            judgement = detector.judge(
                self._night,
                value.off,
                value.on,
                reruns=pairs,
                environment=value.environment,
                control=value.control,
            )
            judged.append(decisions.SeriesJudgement(self._cluster, scenario, metric, judgement))
            repeated = (
                {"pairs": pairs, "reasons": list(rerun.reasons)} if rerun and scenario in rerun.scenarios else None
            )
            rows.append(self._row(scenario, metric, judgement, detector, repeated))
        self._warehouse.store_judgements(self._run, rows)
        judgements.forget_carried(
            self._warehouse,
            [
                (last.older_run, *series)
                for series, last in self._last.items()
                if series in self._tonight and last.older_run is not None
            ],
        )
        return Night(self._night, tuple(judged), tuple(self._revise(judged)))

    def _row(
        self,
        scenario: str,
        metric: str,
        judgement: Judgement,
        detector: ArmsDetector,
        repeated: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        details: dict[str, Any] = {
            "sds": judgement.sds,
            "alarm": judgement.alarm,
            "event": judgement.event,
            "nights": len(detector.benefit.usual),
            "epoch": {name: list(pair) for name, pair in judgement.epoch.items()},
            "coincides_with": {name: list(pair) for name, pair in judgement.coincides_with.items()},
            "mark": self._mark,
            CARRIED: _packed(detector.to_dict()),
        }
        if repeated is not None:
            details["rerun"] = repeated
        return {
            "scenario": scenario,
            "metric": metric,
            "state": judgement.state,
            "change": judgement.change,
            "since": judgement.since,
            "attribution": judgement.attribution,
            "details": details,
        }

    def _revise(self, judged: Sequence[decisions.SeriesJudgement]) -> list[decisions.Change]:
        changes: list[decisions.Change] = []
        given_up = incidents.unmeasured(self._warehouse, self._run, self._thresholds.unmeasured_nights)

        def decide(known: list[incidents.Incident]) -> list[decisions.Incident]:
            changes[:] = decisions.incident_transitions(map(_decidable, known), judged, self._thresholds, given_up)
            return [change.incident for change in changes]

        incidents.revise(self._warehouse, self._cluster, decide)
        return changes

    def _load(self) -> None:
        near = self._near
        tonight = near.get(self._run, {})
        self._tonight = {
            series: value for series, value in tonight.items() if value.off is not None and value.on is not None
        }
        unknown = set()
        for series in self._tonight:
            metric = METRICS[series[1]]
            last = self._last.get(series)
            state = self._state(series, last) if last and last.run in near else None
            if state is None:
                unknown.add(series)
                self._detectors[series] = ArmsDetector(self._thresholds, metric.better, metric.scale, metric.floor)
            else:
                self._detectors[series] = ArmsDetector.from_dict(
                    state, self._thresholds, metric.better, metric.floor
                )
        limits = self._thresholds
        remembered = limits.learning_nights + limits.baseline_nights + limits.new_normal_nights
        history = self._read(max(REPLAY_NIGHTS, remembered)) if unknown else near
        self._catch_up(history, unknown)

    def _state(self, series: Series, last: Judged) -> dict[str, Any] | None:
        """Return the detector's state after the ``last`` judgement of ``series``, if anything has kept it."""
        if series in self._states:
            return self._states[series].to_dict()
        carried = last.details.get(CARRIED) if last.details.get("mark") == self._mark else None
        return None if carried is None else _unpacked(carried)

    def _left(self) -> dict[Series, Judged]:
        """Return what ``judgements.last_judged`` would find after this night."""
        older = {series: self._last[series].run for series in self._tonight if series in self._last}
        return self._last | {series: Judged(self._run, older_run=older.get(series)) for series in self._tonight}

    def _newest(self) -> dict[int, dict[Series, _Value]]:
        """Return the nights of which, with the next one, there are NEAR_NIGHTS."""
        return dict(list(self._near.items())[-(NEAR_NIGHTS - 1) :])

    def _catch_up(self, history: Mapping[int, Mapping[Series, _Value]], unknown: set[Series]) -> None:
        """Move every detector on over the nights between the one it knows last and this run's."""
        order = {run: position for position, run in enumerate(history)}
        begin = {series: -1 if series in unknown else order[self._last[series].run] for series in self._detectors}
        missed = [
            (series, value)
            for run, values in history.items()
            if run != self._run
            for series, value in values.items()
            if series in begin and order[run] > begin[series]
        ]
        if not missed:
            return
        details = judgements.details_of_runs(self._warehouse, sorted({value.run for _, value in missed}))
        for series, value in missed:
            repeated = details.get((value.run, *series), {}).get("rerun") or {}
            self._detectors[series].judge(
                value.night,
                value.off,
                value.on,
                reruns=[(off, on) for off, on in repeated.get("pairs", ())],
                environment=value.environment,
                control=value.control,
            )

    def _read_tonight(self, row: Mapping[str, Any]) -> dict[Series, _Value]:
        """Return what ``_read`` has of this run, whose columns are ``row``, without looking at any other."""
        frame = self._warehouse.comparisons_frame(self._run)
        environment = {name: None if row[name] is None else str(row[name]) for name in ENVIRONMENT}
        control = control_values(self._warehouse, [self._run]).get(self._run)
        columns = (frame[name].tolist() for name in ("scenario", "metric", "off_median", "on_median", "verdict"))
        return {
            (scenario, metric): _Value(self._run, self._night, *_arms(off, on, verdict), environment, control)
            for scenario, metric, off, on, verdict in zip(*columns, strict=True)
            if METRICS[metric].judged
        }

    def _read(self, nights: int) -> dict[int, dict[Series, _Value]]:
        """Return this run and the valid ones before it, oldest first: run → series → value."""
        metrics = [metric.name for metric in METRICS.values() if metric.judged]
        frame = self._warehouse.series_frame(self._cluster, metrics=metrics, nights=nights, until_run=self._run)
        controls = control_values(self._warehouse, sorted({int(run) for run in frame["run_id"]}))
        found: dict[int, dict[Series, _Value]] = {}
        for number, rows in frame.groupby("run_id", sort=False):
            run = int(str(number))
            night = rows["started_at"].iloc[0].date().isoformat()
            environment = _environment(rows)
            columns = (rows[name] for name in ("scenario", "metric", "off_median", "on_median", "verdict"))
            found[run] = {
                (scenario, metric): _Value(
                    run,
                    night,
                    *_arms(off, on, verdict),
                    environment,
                    controls.get(run),
                )
                for scenario, metric, off, on, verdict in zip(*columns, strict=True)
            }
        return found


def _packed(state: Mapping[str, Any]) -> str:
    """Return ``state`` as short text: it is of use to nobody else, and some kilobytes for each series."""
    return base64.b64encode(zlib.compress(json.dumps(state).encode())).decode("ascii")


def _unpacked(text: str) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(text)))
    return state


def _mark(thresholds: Thresholds) -> str:
    """Return what must be the same for a carried state to be gone on from."""
    return f"{__version__}/{hashlib.sha256(thresholds.model_dump_json().encode()).hexdigest()[:16]}"


def _decidable(incident: incidents.Incident) -> decisions.Incident:
    attribution: Any = incident.attribution
    return decisions.Incident(
        uid=incident.uid,
        cluster=incident.cluster,
        state=incident.state,
        attribution=attribution,
        changed_on=incident.changed_on,
        suspected_on=incident.suspected_on,
        members=tuple(decisions.Member(**asdict(member)) for member in incident.members),
        confirmed_on=incident.confirmed_on,
        worse_on=incident.worse_on,
        closed_on=incident.closed_on,
        acknowledged=incident.acknowledged,
    )


def _environment(rows: pd.DataFrame) -> dict[str, str | None]:
    import pandas as pd

    first = rows.iloc[0]
    return {name: None if pd.isna(first[name]) else str(first[name]) for name in ENVIRONMENT}


def _arms(off: float, on: float, verdict: str) -> tuple[float | None, float | None]:
    return (None, None) if verdict == "invalid" else (_known(off), _known(on))


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
