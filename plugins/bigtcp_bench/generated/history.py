"""Writes generated nights into a warehouse, through the same storing, judging and incidents as measured ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from bigtcp_bench import __version__
from bigtcp_bench.cluster.fingerprint import Fingerprint, note, run_id
from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.generated.figures import night_results
from bigtcp_bench.generated.story import Intervention, NightStory, interventions, stories
from bigtcp_bench.in_cluster.treatment import settings_of, switched
from bigtcp_bench.planning.plan import Block, Plan, blocks, load_plan, rerun_plan

if TYPE_CHECKING:
    import pandas as pd

    from bigtcp_bench.analysis.verdicts import RunVerdict
    from bigtcp_bench.judging.night import Nightly
    from bigtcp_bench.warehouse.store import Warehouse

DAG_ID = "bigtcp_benchmark"
SEED = 20260301
#: What is measured: some of the nightly plan's.
SCENARIO_NAMES = ("ipv4-stream-1", "ipv6-stream-1", "ipv6-stream-8", "ipv6-rate", "ipv6-rr")
#: When a night's run begins, and how long one block of it takes.
_BEGIN = time(2, tzinfo=UTC)
_BLOCK = timedelta(minutes=18)
#: When a run between two nights begins.
_AFTERNOON = time(14, tzinfo=UTC)
_BIG, _CLASSIC = 196_608, 65_536
_NODES = ("worker-3", "worker-7")
#: Speed of the clusters, the first one's again after the last.
_SCALES = (1.0, 0.62, 1.35)


def cluster_names(clusters: int) -> list[str]:
    """Return the names of that many generated clusters."""
    return [f"demo-{number}" for number in range(1, clusters + 1)]


def write_history(
    warehouse: Warehouse,
    nights: int,
    clusters: int = 1,
    *,
    last_night: date | None = None,
    scenarios: Sequence[str] = SCENARIO_NAMES,
    progress: Callable[[str], None] = lambda text: None,
) -> int:
    """Write ``nights`` nights of each of ``clusters`` clusters, the last one ``last_night``; return how many runs.

    Nothing of these clusters may be there before: InvalidInput is raised, as for numbers below 1. Default of
    ``last_night`` is today in UTC. The same arguments write the same figures.
    """
    for name, value in (("nights", nights), ("clusters", clusters)):
        if value < 1:
            raise InvalidInput(f"{name} = {value}: must be 1 or more")
    known = set(warehouse.clusters()) & set(cluster_names(clusters))
    if known:
        raise InvalidInput(
            f"the warehouse {warehouse.url} has runs of cluster {sorted(known)[0]} already; name another one"
        )
    last = last_night or datetime.now(UTC).date()
    total = 0
    for index, cluster in enumerate(cluster_names(clusters)):
        writer = _Writer(warehouse, cluster, SEED + index, _SCALES[index % len(_SCALES)], scenarios)
        told = stories(nights, SEED + index)
        between = interventions(told)
        for story in told:
            night = last - timedelta(days=nights - 1 - story.number)
            if story.fate != "missed":
                writer.write(story, datetime.combine(night, _BEGIN))
                total += 1
            for one in between:
                if one.after == story.number:
                    writer.write(one.story, datetime.combine(night, _AFTERNOON), one)
                    total += 1
            if story.number % 50 == 49:
                progress(f"{cluster}: {story.number + 1} of {nights} nights")
    return total


class _Writer:
    """Writes the nights of one cluster, each as its run would have."""

    def __init__(
        self, warehouse: Warehouse, cluster: str, seed: int, scale: float, scenarios: Sequence[str]
    ) -> None:
        self._warehouse = warehouse
        self._cluster = cluster
        self._seed = seed
        self._scale = scale
        size = {"scenarios": list(scenarios), "generations": 2, "repetitions": 2}
        # Made-up nights need not be known to any precision: they would only be longer.
        self._plan = load_plan("nightly", size).model_copy(update={"precision": None})
        #: The night that was judged last, and what the A/A runs so far say; None where it is to be asked for.
        self._nightly: Nightly | None = None
        self._switch_sds: dict[tuple[str, str], float] | None = None
        #: The run that was stored last, and the Cilium that it measured.
        self._before: tuple[int, Fingerprint] | None = None
        self._aa_plan = load_plan("nightly", size | {"order": "off,off"})

    def write(self, story: NightStory, started: datetime, between: Intervention | None = None) -> None:
        """Write one night, judged and with what became of incidents, or a run ``between`` two nights."""
        plan = self._aa_plan if story.fate == "aa" else self._plan
        number = self._start(story, plan, started, between)
        planned = blocks(plan)
        results = night_results(story, plan, planned, self._seed, self._scale)
        if story.fate == "failed":
            self._fail(number, story, planned, results, started)
            return
        self._measure(number, story, planned, results, started)
        if self._judge(number, plan, results) and not plan.is_aa and between is None:
            nightly = self._judge_across_nights(number, story, plan, started)
            # A run that will have failed is not among the nights of the next one.
            self._nightly = self._nightly if story.fate == "unrestored" else nightly
        self._finish(number, story, started + (len(planned) + 1) * _BLOCK)

    def _start(self, story: NightStory, plan: Plan, started: datetime, between: Intervention | None) -> int:
        config = settings_of(switched("off"))
        config |= {"datapath-mode": "veth", "routing-mode": "native"}
        cilium = Fingerprint(f"quay.io/cilium/cilium:v{story.cilium}", config)
        number = self._warehouse.start_run(
            {
                "cluster": self._cluster,
                "dag_id": DAG_ID,
                **self._named(started, cilium, between),
                "started_at": started,
                "is_night": between is None,
                "client_node": _NODES[0],
                "server_node": _NODES[1],
                "client_kernel": story.kernel,
                "server_kernel": story.kernel,
                "nic_driver": "mlx5_core",
                "nic_tso_max_size": 524_280,
                "mtu": 9_000,
                "cilium_version": story.cilium,
                "iperf3_version": "3.19",
                "package_version": __version__,
                "plan": plan.model_dump(mode="json"),
                "cilium_config": config,
                "images": {"cilium": cilium.image},
                "environment": {"generated": True, "kubernetes_version": "v1.36.2", "path_devices": ["eth0"]},
            }
        )
        self._before = (number, cilium)
        return number

    def _named(self, started: datetime, cilium: Fingerprint, between: Intervention | None) -> dict[str, Any]:
        """Return run_id, trigger and note as Airflow and whoever starts such a run make them."""
        if between is None:
            return {"run_id": f"scheduled__{started.isoformat()}", "trigger": "scheduled"}
        if between.note or self._before is None:
            name = f"manual__{started.isoformat()}"
            return {"run_id": name, "trigger": "manual", "note": between.note or None}
        before, known = self._before
        return {
            "run_id": run_id(self._cluster, f"{DAG_ID}/{before}", cilium),
            "trigger": "manual",
            "note": note(before, known.differences(cilium)),
        }

    def _measure(
        self, number: int, story: NightStory, planned: Sequence[Block], results: pd.DataFrame, begin: datetime
    ) -> None:
        """Store ``planned`` blocks, the first of which begins at ``begin``, with their results and counters."""
        for place, block in enumerate(planned):
            self._warehouse.store_block(
                number,
                {
                    "block": block.number,
                    "arm": block.arm,
                    "purpose": "plan" if place + 1 == block.number else "rerun",
                    "started_at": begin + place * _BLOCK,
                    "finished_at": begin + (place + 1) * _BLOCK,
                    "switch_report": _switch_report(block, story),
                },
            )
        self._warehouse.store_results(number, results.to_dict("records"))
        self._warehouse.store_counters(number, _counters(planned, self._seed + story.number))

    def _judge(self, number: int, plan: Plan, results: pd.DataFrame) -> bool:
        """Judge a run by itself and store it; return whether it is valid."""
        from bigtcp_bench.analysis.noise import measure_noise

        verdict = self._verdict(number, plan, results)
        self._warehouse.store_comparisons(number, verdict.comparisons)
        self._warehouse.update_run(number, status=verdict.status, reasons=list(verdict.reasons))
        if verdict.status == "valid" and plan.is_aa:
            self._warehouse.store_noise(number, measure_noise(results, plan))
            self._switch_sds = None
        return verdict.status == "valid"

    def _verdict(self, number: int, plan: Plan, results: pd.DataFrame) -> RunVerdict:
        from bigtcp_bench.analysis.noise import switch_sds
        from bigtcp_bench.analysis.verdicts import RunFacts, judge_run
        from bigtcp_bench.judging.noise import known_noise
        from bigtcp_bench.warehouse.controls import control_history, control_values

        facts = RunFacts(
            control=control_values(self._warehouse, [number]).get(number),
            control_history=control_history(self._warehouse, number, plan.thresholds.control_nights),
        )
        if self._switch_sds is None:
            self._switch_sds = switch_sds(known_noise(self._warehouse, self._cluster), plan.thresholds)
        return judge_run(results, plan, facts, self._switch_sds)

    def _judge_across_nights(self, number: int, story: NightStory, plan: Plan, started: datetime) -> Nightly:
        """Judge a valid night among the others, and return it; what is far off is measured twice more before."""
        from bigtcp_bench.judging.night import Nightly, Rerun, rerun_pairs
        from bigtcp_bench.judging.run import JudgedRun

        nightly = Nightly(self._warehouse, number, plan.thresholds, after=self._nightly)
        due = nightly.due()
        if not due:
            nightly.judge()
            return nightly
        again, before = rerun_plan(plan, due), len(blocks(plan))
        later = [block.model_copy(update={"number": block.number + before}) for block in blocks(again)]
        results = night_results(story, again, later, self._seed, self._scale)
        self._measure(number, story, later, results, started + before * _BLOCK)
        results = results.assign(block=results["block"] - before)
        verdict = self._verdict(number, again, results)
        wrong = {one.scenario for one in verdict.comparisons if one.verdict == "invalid"}
        pairs = {series: pair for series, pair in rerun_pairs(results, again).items() if series[0] not in wrong}
        counted = Rerun(again.scenarios, {} if verdict.reasons else pairs, tuple(verdict.reasons), again.scenarios)
        # The re-run has measured the control again, too.
        nightly = Nightly(self._warehouse, number, plan.thresholds, after=self._nightly)
        nightly.judge(counted)
        if not counted.reasons:
            self._warehouse.store_comparisons(number, JudgedRun(self._warehouse, number).pooled(counted))
        return nightly

    def _fail(
        self, number: int, story: NightStory, planned: Sequence[Block], results: pd.DataFrame, started: datetime
    ) -> None:
        """Store a run whose node went away in its second block."""
        first, second = planned[0], planned[1]
        self._measure(number, story, [first], results[results["block"] == first.number], started)
        reason = f"test_iperf3: node {_NODES[1]} became NotReady, and the server pod was lost with it"
        self._warehouse.store_failures(
            number, [{"block": second.number, "arm": second.arm, "generation": 1, "reason": reason}]
        )
        self._finish(number, story, started + 3 * _BLOCK, failed=reason)

    def _finish(self, number: int, story: NightStory, finished: datetime, failed: str = "") -> None:
        if story.fate == "unrestored":
            detail = (
                f"node {_NODES[0]}: the Cilium agent was not ready within 300 s after its restart, so the device "
                "limits could not be read back"
            )
            self._warehouse.update_run(number, restore_result={"state": "not_verified", "detail": detail})
            failed = f"restore_config: {detail}"
        else:
            self._warehouse.update_run(number, restore_result=_restored())
        if failed:
            self._warehouse.finish_run(number, "failed", [failed], finished_at=finished)
        else:
            self._warehouse.update_run(number, finished_at=finished)


def _merged(is_on: bool) -> dict[str, Any]:
    size = _BIG if is_on else _CLASSIC
    limits = {
        "gso_max_size": size,
        "gro_max_size": size,
        "tso_max_size": 524_280,
        "gso_ipv4_max_size": size,
        "gro_ipv4_max_size": size,
    }
    return {"merged": {"ipv4": is_on, "ipv6": is_on}, "limits": {"eth0": limits}}


def _switch_report(block: Block, story: NightStory) -> dict[str, Any]:
    restarted = block.number > 1
    nodes = {
        node: {"node": node, "restarted": restarted, "cilium": story.cilium, **_merged(block.arm == "on")}
        for node in _NODES
    }
    return {"arm": block.arm, "scope": "nodes", "nodes": nodes, "restarted": restarted}


def _restored() -> dict[str, Any]:
    nodes = {
        node: {"wanted": {"ipv4": False, "ipv6": False}, "restarted": True, **_merged(False)} for node in _NODES
    }
    return {
        "state": "verified",
        "detail": "configuration and device limits equal those before the run",
        "outcome": "restored",
        "nodes": nodes,
    }


def _counters(planned: Sequence[Block], seed: int) -> Iterator[dict[str, Any]]:
    random = np.random.default_rng([seed, planned[0].number])
    usual = {
        "cpu/user_s": 60.0,
        "cpu/system_s": 820.0,
        "cpu/softirq_s": 410.0,
        "cpu/idle_s": 60_000.0,
        "snmp/TcpRetransSegs": 21_000.0,
        "snmp/TcpOutSegs": 140_000_000.0,
        "softnet/time_squeeze": 900.0,
        "device/eth0/rx_bytes": 9.1e12,
        "device/eth0/tx_bytes": 9.1e12,
    }
    for block in planned:
        for node in _NODES:
            for counter, value in usual.items():
                grown = round(value * block.generations * float(np.exp(random.normal(0, 0.05))))
                yield {"block": block.number, "arm": block.arm, "node": node, "counter": counter, "value": grown}
