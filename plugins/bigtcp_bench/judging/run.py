"""A run as it is judged: its blocks, the verdict on them, what is to be measured again, and how the run ended."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from bigtcp_bench.analysis import again
from bigtcp_bench.analysis.compare import Comparison, generation_medians
from bigtcp_bench.analysis.noise import measure_noise, switch_sds
from bigtcp_bench.analysis.verdicts import RunVerdict, judge_run
from bigtcp_bench.judging.attempts import planned_blocks
from bigtcp_bench.judging.comparisons import stored_comparisons
from bigtcp_bench.judging.facts import captures_of, facts_of, throttled_of
from bigtcp_bench.judging.night import Nightly, Rerun, rerun_pairs
from bigtcp_bench.judging.noise import advice, headlines, known_noise, noise_line
from bigtcp_bench.planning.plan import RERUN_PREFIX, Block, Plan, blocks, rerun_plan
from bigtcp_bench.warehouse.controls import control_history, control_values

if TYPE_CHECKING:
    import pandas as pd

    from bigtcp_bench.warehouse.records import RunStatus
    from bigtcp_bench.warehouse.store import Warehouse

#: States of tasks after which the run cannot count. Skipped ones are slots that the order of blocks does not use.
_BAD_STATES = {"failed", "upstream_failed"}


class Outcome(NamedTuple):
    """How a run ended, and why it is not valid."""

    status: RunStatus
    reasons: list[str]


@dataclass(frozen=True)
class JudgedRun:
    """One run of ``warehouse``."""

    warehouse: Warehouse
    number: int

    @functools.cached_property
    def plan(self) -> Plan:
        """Return the plan that the run was checked with."""
        return self.warehouse.plan_of(self.number)

    @functools.cached_property
    def _cluster(self) -> str:
        cluster: str = self.warehouse.run(self.number)["cluster"]
        return cluster

    def rerun_blocks(self, scenarios: Sequence[str]) -> list[Block]:
        """Return the blocks of the re-run, numbered on from those of the plan."""
        before = len(planned_blocks(self.warehouse, self.number))
        return [
            block.model_copy(update={"number": before + block.number})
            for block in blocks(rerun_plan(self.plan, scenarios))
        ]

    def failures(self, of_blocks: Sequence[Block]) -> list[str]:
        """Return why repetitions of ``of_blocks`` have no measurement."""
        found = self.warehouse.failures_frame(self.number)
        reasons: list[str] = found[found["block"].isin([block.number for block in of_blocks])]["reason"].tolist()
        return reasons

    def verdict(self) -> RunVerdict:
        """Return the verdict on the blocks of the plan."""
        return self._verdict(self.plan, 0)

    def nightly(self) -> Nightly:
        """Return the run among the nights of its cluster."""
        return Nightly(self.warehouse, self.number, self.plan.thresholds)

    def due(self) -> list[str]:
        """Return the scenarios to measure again: those far off what is usual, or not known well enough.

        None unless the run is valid and compares the arms. It is the stored comparisons that are asked: those of
        the plan's own blocks.
        """
        if self.plan.is_aa or not self.plan.again or self.warehouse.run(self.number)["status"] != "valid":
            return []
        found = stored_comparisons(self.warehouse.comparisons_frame(self.number))
        names = {*self.nightly().due(), *again.wanted(found, self.plan)}
        return [name for name in self.plan.scenarios if name in names]

    def rerun(self, scenarios: Sequence[str]) -> Rerun:
        """Return what measuring ``scenarios`` again gave, if it passes the gates that the run itself passed."""
        plan, before = rerun_plan(self.plan, scenarios), len(planned_blocks(self.warehouse, self.number))
        verdict = self._verdict(plan, before)
        if verdict.reasons:
            reasons = dict.fromkeys([*self.failures(self.rerun_blocks(scenarios)), *verdict.reasons])
            return self.uncounted(scenarios, tuple(reasons))
        wrong = {(one.scenario, one.metric) for one in verdict.comparisons if one.verdict == "invalid"}
        pairs = rerun_pairs(self._results(plan, before), plan)
        kept = {series: values for series, values in pairs.items() if series not in wrong}
        return Rerun(plan.scenarios, kept, far_off=tuple(self.nightly().due()))

    def uncounted(self, scenarios: Sequence[str], reasons: tuple[str, ...]) -> Rerun:
        """Return that measuring ``scenarios`` again does not count, for these ``reasons``."""
        return Rerun(tuple(scenarios), reasons=reasons, far_off=tuple(self.nightly().due()))

    def pooled(self, rerun: Rerun) -> list[Comparison]:
        """Return the comparisons of the run by all that was measured of it, with what of ``rerun`` counts."""
        plan, before = rerun_plan(self.plan, rerun.scenarios), len(planned_blocks(self.warehouse, self.number))
        own = generation_medians(self._results(self.plan, 0), self.plan)
        later = generation_medians(self._results(plan, before), plan)
        counted = [series in rerun.pairs for series in zip(later["scenario"], later["metric"], strict=True)]
        found = again.pooled(own, later[counted], self.plan, self._switch_sds())
        return again.replaced(stored_comparisons(self.warehouse.comparisons_frame(self.number)), found)

    def calibrate(self) -> list[str]:
        """Store the noise that an A/A run measured; return what is said of it, a line each."""
        noises = measure_noise(self._results(self.plan, 0), self.plan)
        self.warehouse.store_noise(self.number, noises)
        return [noise_line(one) for one in headlines(advice(noises, self.plan))]

    def outcome(self, states: Mapping[str, str], last_task: str) -> Outcome:
        """Return how the run ended, by the ``states`` of its tasks; ``last_task`` is the one that asks."""
        row = self.warehouse.run(self.number)
        bad = bad_tasks(states, last_task)
        status: RunStatus = row["status"]
        reasons = list(row["reasons"])
        if bad or status == "running" or row["restore_result"] is None:
            status = "failed"
            reasons = list(dict.fromkeys([*reasons, *self.failures(planned_blocks(self.warehouse, self.number))]))
            reasons += [f"task {task} ended {states[task]}" for task in bad if states[task] != "upstream_failed"]
        if status == "failed" and not reasons:
            reasons = ["the run was ended before it was judged"]
        return Outcome(status, [] if status == "valid" else reasons)

    def _verdict(self, plan: Plan, before: int) -> RunVerdict:
        """Return the verdict on the blocks of ``plan``, which were measured after ``before`` others."""
        numbers = _numbers(plan, before)
        reports = self.warehouse.blocks_frame(self.number).set_index("block")["switch_report"].to_dict()
        documents = [
            one
            for one in self.warehouse.raw_documents(self.number, repetitions=False)
            if one.block <= max(numbers)
        ]
        facts = facts_of(
            [
                document.model_copy(update={"block": numbers[document.block]})
                for document in documents
                if document.block in numbers
            ],
            {numbers[block]: report for block, report in reports.items() if block in numbers},
        )
        if before:
            # The night is judged by all of its blocks together, so all of them must have had the same Cilium.
            of_nodes = [one for one in documents if one.kind.startswith("node-")]
            facts = replace(facts, environments=facts_of(of_nodes, reports).environments)
        facts = replace(
            facts,
            captures=captures_of(_renumbered(self.warehouse.packet_sizes_frame(self.number), numbers)),
            throttled=throttled_of(_renumbered(self.warehouse.pod_counters_frame(self.number), numbers)),
            control=control_values(self.warehouse, [self.number]).get(self.number),
            control_history=control_history(self.warehouse, self.number, plan.thresholds.control_nights),
        )
        return judge_run(self._results(plan, before), plan, facts, self._switch_sds())

    def _switch_sds(self) -> dict[tuple[str, str], float]:
        return switch_sds(known_noise(self.warehouse, self._cluster), self.plan.thresholds)

    def _results(self, plan: Plan, before: int) -> pd.DataFrame:
        return _renumbered(self.warehouse.results_frame(self.number), _numbers(plan, before))


def bad_tasks(states: Mapping[str, str], last_task: str) -> list[str]:
    """Return the tasks but ``last_task`` by whose state the run cannot count, sorted."""
    return sorted(
        task
        for task, state in states.items()
        if state in _BAD_STATES and task != last_task and not task.startswith(RERUN_PREFIX)
    )


def _numbers(plan: Plan, before: int) -> dict[int, int]:
    """Return the number in ``plan`` of each of its blocks, by that in the warehouse."""
    return {before + block.number: block.number for block in blocks(plan)}


def _renumbered(frame: pd.DataFrame, numbers: Mapping[int, int]) -> pd.DataFrame:
    """Return the rows of the blocks in ``numbers``, under the numbers that these have in their plan."""
    return frame[frame["block"].isin(numbers)].assign(block=lambda rows: rows["block"].map(numbers))
