"""Judge a night across nights: history out of the warehouse, every series through its detector, incidents kept.

Knows neither Airflow nor Kubernetes. A series is one scenario and one judged metric on one cluster, measured by
one plan on the same terms (``planning.terms``). Runs by hand are no nights, and of several runs of one night the
newest counts. The detector of a series goes on from the state that the last judgement left; where there is none
(the first night, other thresholds, another version of this package) the newest ``REPLAY_NIGHTS`` nights are judged
again, in memory.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import pandas as pd

from bigtcp_bench import __version__
from bigtcp_bench.analysis import incidents as decisions
from bigtcp_bench.analysis.compare import generation_medians
from bigtcp_bench.analysis.history import ArmsDetector, Judgement
from bigtcp_bench.judging.comparisons import known
from bigtcp_bench.planning.metrics import METRICS
from bigtcp_bench.planning.plan import Plan, blocks
from bigtcp_bench.planning.terms import changed_terms, terms_of
from bigtcp_bench.planning.thresholds import Thresholds
from bigtcp_bench.warehouse import incidents, judgements
from bigtcp_bench.warehouse.controls import control_values
from bigtcp_bench.warehouse.judgements import CARRIED, Judged, Series
from bigtcp_bench.warehouse.store import Warehouse
from bigtcp_bench.warehouse.verdicts import ENVIRONMENT

#: Nights that are judged again when no state was carried over, or more where the thresholds look back further: a
#: detector remembers its baseline and the nights of an open regression.
REPLAY_NIGHTS = 200

#: Nights that are read in any case; a state carried over from longer ago counts as none.
NEAR_NIGHTS = 10

#: Key of a judgement's details under which the night stands on which the plan changed, and what of it.
PLAN_CHANGED = "plan_changed"

#: Newest earlier judgements of a series that may still have a state: of the night before, and of its other runs.
_REMEMBERED = 3

#: Off and on of one measurement.
Pair = tuple[float, float]


@dataclass(frozen=True)
class Rerun:
    """What measuring scenarios again in the same night gave.

    ``pairs`` holds the (off, on) of each half of it. When ``reasons`` says why it does not count, there are none.
    ``far_off`` are those of the ``scenarios`` that were measured again because they were far off what is usual.
    """

    scenarios: tuple[str, ...]
    pairs: Mapping[Series, Sequence[Pair]] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    far_off: tuple[str, ...] = ()


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
    #: What of the plan it depends on.
    terms: Mapping[str, str]

    @property
    def usable(self) -> bool:
        return self.off is not None and self.on is not None


def rerun_pairs(frame: pd.DataFrame, plan: Plan) -> dict[Series, list[Pair]]:
    """Return the values of a re-run by ``plan`` (see plan.rerun_plan): the medians of off and on in either half.

    ``frame`` holds its results with blocks numbered as in ``plan``. The generations of the middle block's first
    half go with the block before it, the others with the one after it; a series that lacks any of these four is
    left out.
    """
    medians = generation_medians(frame, plan)
    middle = sum(block.generations for block in blocks(plan)) / 2
    medians["half"] = (medians["position"] >= middle).astype(int)
    cells = medians.groupby(["scenario", "metric", "half", "on"])["value"].median().unstack(["half", "on"])
    order = [(0, False), (0, True), (1, False), (1, True)]
    whole = cells.reindex(columns=pd.MultiIndex.from_tuples(order)).dropna()
    return {
        (str(scenario), str(metric)): [(first_off, first_on), (last_off, last_on)]
        for (scenario, metric), first_off, first_on, last_off, last_on in whole.itertuples(name=None)
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
        self._detectors: dict[Series, ArmsDetector] = {}
        self._tonight: dict[Series, _Value] = {}
        self._plan_changes: dict[Series, dict[str, Any]] = {}
        self._plan: Mapping[str, Any] = row["plan"] or {}
        self._is_night: bool = row["is_night"]
        #: The night before, as far as it is at hand: a run that is no night passes it on.
        self._before: Nightly | None = after if after is None or after._is_night else after._before
        if not self._is_night:
            return
        before = self._before
        #: Earlier judgements of each series, newest first.
        self._judged = before._judged_after() if before else judgements.judged_before(warehouse, run)
        #: Detectors as these judgements left them, where they are at hand, by series and run.
        self._states: dict[tuple[Series, int], ArmsDetector] = before._states_after() if before else {}
        self._near = before._newest() | {run: self._read_tonight(row)} if before else self._read(NEAR_NIGHTS)
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

        To be called once: it moves the detectors on. A second object for the same run judges the same way again,
        as long as the stored comparisons are those of the plan's own blocks.
        A run that is no night changes nothing and says nothing: it is compared with the last one of its like.
        """
        if not self._is_night:
            return Night(self._night, (), ())
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
            repeated = None
            if rerun and scenario in rerun.scenarios:
                repeated = {
                    "first": [value.off, value.on],
                    "pairs": pairs,
                    "reasons": list(rerun.reasons),
                    "far_off": scenario in rerun.far_off,
                }
            rows.append(self._row(scenario, metric, judgement, detector, repeated))
        self._warehouse.store_judgements(self._run, rows)
        judgements.forget_carried(
            self._warehouse, [(run, *series) for series in self._last for run in self._outlived(series)]
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
            "nights": detector.benefit.known_nights,
            "epoch": {name: list(pair) for name, pair in judgement.epoch.items()},
            "coincides_with": {name: list(pair) for name, pair in judgement.coincides_with.items()},
            "mark": self._mark,
            CARRIED: _packed(detector.to_dict()),
        }
        if (scenario, metric) in self._plan_changes:
            details[PLAN_CHANGED] = self._plan_changes[scenario, metric]
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
            # A series that is being learned says nothing of an incident from when it was another one.
            told = [item for item in judged if item.judgement.state != "learning"]
            changes[:] = decisions.incident_transitions(map(_decidable, known), told, self._thresholds, given_up)
            return [change.incident for change in changes]

        incidents.revise(self._warehouse, self._cluster, decide)
        return changes

    def _load(self) -> None:
        near = self._near
        tonight = near.get(self._run, {})
        self._tonight = {series: value for series, value in tonight.items() if value.usable}
        self._last = self._chosen()
        stored = {series: one for series, one in self._last.items() if (series, one.run) not in self._states}
        self._last |= judgements.with_details(self._warehouse, stored)
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
            changed = self._plan_change(series)
            if changed:
                self._plan_changes[series] = changed
        limits = self._thresholds
        remembered = limits.learning_nights + limits.baseline_nights + limits.new_normal_nights
        history = self._read(max(REPLAY_NIGHTS, remembered)) if unknown else near
        self._catch_up(history, unknown)

    def _chosen(self) -> dict[Series, Judged]:
        """Return the judgement that each series goes on from: of an earlier night, and on tonight's terms."""
        found = {}
        for series, value in self._tonight.items():
            of_terms = (
                one
                for one in self._judged.get(series, ())
                if one.night < self._night and terms_of(one.plan, series[0]) == value.terms
            )
            last = next(of_terms, None)
            if last is not None:
                found[series] = last
        return found

    def _outlived(self, series: Series) -> list[int]:
        """Return the runs whose state of ``series`` no night will go on from, now that tonight is judged."""
        last = self._last[series]
        older = (one.run for one in self._judged[series] if one.night <= last.night and one.run != last.run)
        return list(itertools.islice(older, _REMEMBERED))

    def _plan_change(self, series: Series) -> dict[str, Any] | None:
        """Return since which night ``series`` is another one than before, and what of its terms has changed."""
        value, last = self._tonight[series], self._last.get(series)
        earlier = [
            values[series]
            for values in self._near.values()
            if series in values and values[series].night < self._night
        ]
        if earlier and earlier[-1].terms != value.terms:
            return {"on": self._night, "terms": changed_terms(earlier[-1].terms, value.terms)}
        known: dict[str, Any] | None = last.details.get(PLAN_CHANGED) if last else None
        is_learning = last is not None and last.details.get("nights", 0) < self._thresholds.learning_nights
        return known if is_learning else None

    def _state(self, series: Series, last: Judged) -> dict[str, Any] | None:
        """Return the detector's state after the ``last`` judgement of ``series``, if anything has kept it."""
        if (series, last.run) in self._states:
            return self._states[series, last.run].to_dict()
        carried = last.details.get(CARRIED) if last.details.get("mark") == self._mark else None
        return None if carried is None else _unpacked(carried)

    def _judged_after(self) -> dict[Series, list[Judged]]:
        """Return what ``judgements.judged_before`` would find after this night."""
        found = dict(self._judged)
        for series, detector in self._detectors.items():
            details: dict[str, Any] = {"nights": detector.benefit.known_nights}
            if series in self._plan_changes:
                details[PLAN_CHANGED] = self._plan_changes[series]
            tonight = Judged(self._run, self._night, self._plan, details)
            found[series] = [tonight, *found.get(series, [])][:_REMEMBERED]
        return found

    def _states_after(self) -> dict[tuple[Series, int], ArmsDetector]:
        """Return the detectors that another run of this night, or the next night, may go on from."""
        kept = {
            (series, last.run): self._states[series, last.run]
            for series, last in self._last.items()
            if (series, last.run) in self._states
        }
        others = {key: state for key, state in self._states.items() if key[0] not in self._tonight}
        return kept | others | {(series, self._run): one for series, one in self._detectors.items()}

    def _newest(self) -> dict[int, dict[Series, _Value]]:
        """Return the nights of which, with the next one, there are NEAR_NIGHTS."""
        return dict(list(self._near.items())[-(NEAR_NIGHTS - 1) :])

    def _catch_up(self, history: Mapping[int, Mapping[Series, _Value]], unknown: set[Series]) -> None:
        """Move every detector on over the nights between the one it knows last and this run's.

        Several runs of one night are one night: the newest that has a value. Nights on other terms are none.
        """
        missed: dict[tuple[Series, str], _Value] = {}
        for values in history.values():
            for series, value in values.items():
                if series not in self._detectors or value.terms != self._tonight[series].terms:
                    continue
                first = "" if series in unknown else self._last[series].night
                if first < value.night < self._night and (value.usable or (series, value.night) not in missed):
                    missed[series, value.night] = value
        if not missed:
            return
        details = judgements.details_of_runs(self._warehouse, sorted({value.run for value in missed.values()}))
        for (series, night), value in sorted(missed.items()):
            repeated = details.get((value.run, *series), {}).get("rerun") or {}
            # What was measured again has the comparison of all its blocks; the first value is of the plan's own.
            off, on = repeated.get("first") or (value.off, value.on)
            self._detectors[series].judge(
                night,
                off,
                on,
                reruns=[(off, on) for off, on in repeated.get("pairs", ())],
                environment=value.environment,
                control=value.control,
            )

    def _read_tonight(self, row: Mapping[str, Any]) -> dict[Series, _Value]:
        """Return what ``_read`` has of this run, whose columns are ``row``, without looking at any other."""
        figures = self._warehouse.comparisons_frame(self._run).to_dict("records")
        judged = [one for one in figures if METRICS[one["metric"]].judged]
        return _values(self._run, row, judged, control_values(self._warehouse, [self._run]).get(self._run))

    def _read(self, nights: int) -> dict[int, dict[Series, _Value]]:
        """Return this run and the valid ones before it, oldest first: run → series → value."""
        metrics = [metric.name for metric in METRICS.values() if metric.judged]
        read = self._warehouse.nights_until(self._cluster, self._run, metrics=metrics, nights=nights)
        controls = control_values(self._warehouse, [row["run_id"] for row, _ in read])
        return {
            row["run_id"]: _values(row["run_id"], row, figures, controls.get(row["run_id"]))
            for row, figures in read
        }


def _values(
    run: int, row: Mapping[Any, Any], figures: Sequence[Mapping[Any, Any]], control: float | None
) -> dict[Series, _Value]:
    """Return the value of each series of a run, by its ``row`` and what its comparisons say."""
    plan = row["plan"] or {}
    night = row["started_at"].date().isoformat()
    environment = {name: None if row[name] is None else str(row[name]) for name in ENVIRONMENT}
    terms = {scenario: terms_of(plan, scenario) for scenario in {one["scenario"] for one in figures}}
    found = {}
    for one in figures:
        scenario, metric, off, on = (one[name] for name in ("scenario", "metric", "off_median", "on_median"))
        off, on = (None, None) if one["verdict"] == "invalid" else (known(off), known(on))
        found[scenario, metric] = _Value(run, night, off, on, environment, control, terms[scenario])
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
    return decisions.Incident(**{item.name: getattr(incident, item.name) for item in fields(decisions.Incident)})
