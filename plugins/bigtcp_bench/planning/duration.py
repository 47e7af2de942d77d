"""How long a run takes: the traffic that its plan asks for, and what comes on top, as timed runs had it."""

from __future__ import annotations

from dataclasses import dataclass

from bigtcp_bench.planning.plan import (
    CAPTURE_S,
    CONTROL_MAX_S,
    Plan,
    blocks,
    captured_places,
    captured_ways,
    pair_count,
    rerun_plan,
)

#: Of what comes on top of the traffic, the seconds of one: (quick, slow). Quick is from runs of the lab under
#: Airflow's scheduler on two cores (``python -m benchmarks.run_cost``); of two pods the second starts while the
#: first gets Ready. Slow is for clusters with real agents and slower API servers: an agent is Ready after 10 to
#: 30 s (two took 23 s on a small cluster), and a pod of a cached image starts within 10 s.
TASK_S = (3.0, 8.0)
LOOK_S = (3.0, 8.0)
RESTART_S = (3.0, 30.0)
PODS_S = (2.0, 12.0)
REPETITION_S = (0.3, 1.0)


@dataclass(frozen=True)
class Part:
    """One part of a run's time, in seconds: how much if all goes quickly, and how much if not."""

    name: str
    quick_s: float
    slow_s: float


@dataclass(frozen=True)
class Estimate:
    """The expected duration of a run, with its parts."""

    parts: tuple[Part, ...]

    @property
    def quick_s(self) -> float:
        """Return the seconds of a run in which nothing is slow."""
        return sum(part.quick_s for part in self.parts)

    @property
    def slow_s(self) -> float:
        """Return the seconds of a run in which everything is slow, and nothing goes wrong."""
        return sum(part.slow_s for part in self.parts)


def estimate(plan: Plan, restarts: int) -> Estimate:
    """Return how long a run of ``plan`` takes with ``restarts`` of single agents.

    Neither a wait for quiet nodes nor measuring again is in it.
    """
    # Check, snapshot, counters, compare, notify, restore, close; of these the first two and the restore look once.
    return _estimate(plan, restarts, tasks=7, looks=3)


def estimate_again(plan: Plan) -> Estimate:
    """Return how much longer a run of ``plan`` takes when all of its scenarios are measured again."""
    again = rerun_plan(plan, plan.scenarios).model_copy(update={"control": False})
    switches = len(blocks(again)) - (blocks(plan)[-1].arm == blocks(again)[0].arm)
    return _estimate(again, 2 * switches, tasks=0, looks=0)


def _estimate(plan: Plan, restarts: int, *, tasks: int, looks: int) -> Estimate:
    """Return the parts of all blocks of ``plan``, with these tasks and looks besides."""
    turns = sum(block.generations for block in blocks(plan))
    generations = pair_count(plan)
    count = len(blocks(plan))
    # One for each switch and each pair of pods.
    tasks += count + generations
    # At both ends of a block. Before a first one the gate looks, and where nothing is captured, the proof.
    ways = captured_ways(plan)
    looks += 2 * count + (plan.load_gate.mode != "warn") + (0 if ways else count)
    control_s = count * (min(plan.duration_s, CONTROL_MAX_S) + 1) if plan.control else 0
    parts = [
        Part("measured and omitted traffic", plan.measuring_time_s, plan.measuring_time_s),
        _part("repetitions, around the traffic", turns * plan.repetitions * len(plan.scenarios), REPETITION_S),
        _part(f"{generations} fresh pairs of pods", generations, PODS_S),
        _part(f"{restarts} restarts of a Cilium agent", restarts, RESTART_S),
        _part(f"{looks} looks at both nodes", looks, LOOK_S),
        _part(f"{tasks} tasks of Airflow", tasks, TASK_S),
    ]
    if plan.control:
        pods = _part("", count, PODS_S)
        parts.insert(1, Part("the control", control_s + pods.quick_s, control_s + pods.slow_s))
    if ways:
        sent = [(way.path, captured_places(way, block)) for block in blocks(plan) for way in ways]
        streams_s = sum(len(places) for _, places in sent) * CAPTURE_S
        # One pair between the nodes, whatever goes through a Service; and one on each node.
        pairs = count * any(path != "same-node" for path, _ in sent)
        pairs += max((len(places) for path, places in sent if path == "same-node"), default=0) * count
        pods = _part("", pairs, PODS_S)
        parts.insert(1, Part("packet sizes", streams_s + pods.quick_s, streams_s + pods.slow_s))
    return Estimate(tuple(part for part in parts if part.slow_s))


def _part(name: str, count: int, each_s: tuple[float, float]) -> Part:
    return Part(name, count * each_s[0], count * each_s[1])
