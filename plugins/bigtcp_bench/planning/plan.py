"""What to measure: the plan, its scenarios and its order of blocks, validated once, at the door."""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from bigtcp_bench.errors import InvalidInput, validation_sentence
from bigtcp_bench.in_cluster.kind import Kind
from bigtcp_bench.in_cluster.traffic import KINDS
from bigtcp_bench.in_cluster.treatment import CLASSIC_MAX_PACKET_BYTES
from bigtcp_bench.in_cluster.treatment import Arm as Arm
from bigtcp_bench.in_cluster.treatment import Family as Family
from bigtcp_bench.planning.thresholds import Thresholds
from bigtcp_bench.resources import include_dir, read_yaml
from bigtcp_bench.settings import PLANS, pinned_image

#: Between which ends traffic runs: pods on the two nodes; both pods on one node, each of the two in its turn; or
#: as ``pod``, but to the address of a Service.
NetworkPath = Literal["pod", "same-node", "service"]
Scope = Literal["nodes", "cluster"]

PATHS: tuple[NetworkPath, ...] = ("pod", "same-node", "service")

#: The DAG has one pair of tasks (switch, measure) for each of these; a block takes the next one of its arm.
SLOT_ARMS: tuple[Arm, ...] = ("off", "on", "off", "on", "off", "on")

#: The fewest blocks that tell an effect from a drift that bends (docs/statistics.md).
TELLING_BLOCKS = 5

#: A generation must end well within the time that its task is given by the DAG.
MAX_GENERATION_S = 3 * 3600


#: The DAG files are parsed every few seconds and validate nothing: validators are made when first used.
_WHEN_NEEDED = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Way(NamedTuple):
    """Over which IP family, and between which ends, packets travel. Whatever is judged is proven way by way."""

    family: Family
    path: NetworkPath = "pod"

    def __str__(self) -> str:
        return self.family if self.path == "pod" else f"{self.family} ({self.path})"


#: What a scenario is expected to do with BIG TCP, for the report.
Expectation = Literal["gain", "no change"]


def _known_traffic(name: str) -> str:
    if name not in KINDS:
        raise ValueError(f"unknown traffic {name!r}; allowed are {', '.join(KINDS)}")
    return name


#: The name of a kind of traffic.
Traffic = Annotated[str, AfterValidator(_known_traffic)]


class Scenario(BaseModel):
    """One IP family × traffic × path: what is sent, how, and between which ends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    family: Family
    traffic: Traffic
    streams: int = 1
    #: Size of requests and responses; None: the plan's.
    request_bytes: int | None = Field(default=None, ge=1)
    path: NetworkPath = "pod"

    @property
    def way(self) -> Way:
        """Return which way the packets travel."""
        return Way(self.family, self.path)

    def expectation(self, request_bytes: int) -> Expectation:
        """Return what BIG TCP should do for it, in a plan whose ``rr`` exchanges ``request_bytes``."""
        # Requests and responses that an ordinary packet holds are carried as without BIG TCP.
        small = self.traffic == "rr" and (self.request_bytes or request_bytes) < CLASSIC_MAX_PACKET_BYTES
        return "gain" if self.kind.should_gain and not small else "no change"

    @property
    def kind(self) -> Kind:
        """Return all that is known of its traffic."""
        return KINDS[self.traffic]


def _scenarios() -> dict[str, Scenario]:
    families: tuple[Family, ...] = ("ipv4", "ipv6")
    found = [
        Scenario(
            # The names of the path that was the only one once have no suffix.
            name=f"{family}-{name}" + ("" if path == "pod" else f"@{path}"),
            family=family,
            traffic=kind.name,
            streams=streams,
            request_bytes=kind.request_bytes,
            path=path,
        )
        for path in PATHS
        for family in families
        for kind in KINDS.values()
        for name, streams in kind.scenarios.items()
    ]
    return {scenario.name: scenario for scenario in found}


#: What a plan can choose from.
SCENARIOS: dict[str, Scenario] = _scenarios()


def main_metric(scenario: str) -> str | None:
    """Return the metric that stands for a scenario where only one can be shown; None for an unknown scenario.

    Results of other versions of this package may have scenarios that this one does not know.
    """
    return SCENARIOS[scenario].kind.headline if scenario in SCENARIOS else None


def list_place(scenario: str) -> tuple[int, str]:
    """Return by what scenarios are sorted: those that are known in their order, then the others by name."""
    names = list(SCENARIOS)
    return names.index(scenario) if scenario in SCENARIOS else len(names), scenario


#: The control is no scenario of a plan: it runs between the nodes themselves, once per block, and what moves it is
#: the infrastructure. This is its name in the results.
CONTROL = "host-control"
#: Request and response of the control fit into one ordinary packet each, whatever the limits are.
CONTROL_REQUEST_BYTES = 1_000
#: The control takes as long as a repetition, but at most this.
CONTROL_MAX_S = 10

#: Seconds of the stream over each family whose packets are captured, once per block: some 10,000 packets and more.
CAPTURE_S = 1


def control_scenario(family: Family) -> Scenario:
    """Return the control over ``family``."""
    return Scenario(name=CONTROL, family=family, traffic="rr", request_bytes=CONTROL_REQUEST_BYTES)


class LoadGate(BaseModel):
    """What a run does about nodes that are busy with other work, before its first change and before each block."""

    model_config = _WHEN_NEEDED

    mode: Literal["wait", "refuse", "warn"] = Field(
        "wait", description="wait for quiet nodes, refuse busy ones at once, or only say it, once"
    )
    busy_share: float = Field(
        0.5, gt=0, le=1, description="share of a node's CPU time that others may use, sampled over some seconds"
    )
    wait_s: int = Field(600, ge=0, le=600, description="longest wait before one block; then the run is refused")
    rest_s: int = Field(
        60,
        ge=0,
        le=600,
        description="longest wait for nodes to rest after agents were restarted; then a block has no CPU cost",
    )


class Plan(BaseModel):
    """What one run measures. Frozen: a changed plan is another plan."""

    model_config = _WHEN_NEEDED

    name: str = Field(
        "custom", min_length=1, max_length=63, description="name in reports; a file's own is its default"
    )
    description: str = Field("", description="what the plan is for, in a few words")
    scenarios: tuple[str, ...] = Field(min_length=1, description="what is measured, each once")
    order: tuple[Arm, ...] = Field(
        ("off", "on", "off"), description="order of blocks; one arm twice is an A/A run"
    )
    generations: int = Field(3, ge=1, le=20, description="fresh pod pairs per outer block")
    repetitions: int = Field(2, ge=1, le=20, description="measurements per scenario in one generation")
    precision: float | None = Field(
        0.03,
        gt=0,
        le=0.5,
        description="half-width to which the interval of a scenario's main metric shall be known; wider ones are "
        "measured again in the same run. null: none are for that",
    )
    again: Literal[0, 3] = Field(
        3, description="blocks in which scenarios are measured again, for precision or because far off; 0: never"
    )
    duration_s: int = Field(10, ge=1, le=300, description="measured seconds of one repetition")
    omit_s: int = Field(2, ge=0, le=30, description="seconds before that which are not counted")
    rate_bps: int = Field(
        1_000_000_000, ge=1_000_000, le=400_000_000_000, description="rate of the fixed-rate scenarios"
    )
    request_bytes: int = Field(80_000, ge=1, le=10_000_000, description="request and response size of rr")
    control: bool = Field(True, description="measure a control between the nodes themselves, once per block")
    packet_sizes: bool = Field(
        True,
        description="capture a short stream over each IP family once per block; false: only where no bulk stream "
        "proves that BIG TCP acts",
    )
    scope: Scope = Field("nodes", description="what is switched: the two nodes, or the whole cluster")
    guardian: bool = Field(True, description="a CronJob in the cluster puts it back when Airflow never comes back")
    client_node: str | None = Field(None, description="node that sends; empty: the labelled pair, or any pair")
    server_node: str | None = Field(None, description="node that receives")
    image: str = Field(
        "nicolaka/netshoot:v0.14", min_length=1, description="of the pods, pinned; needs python3 and iperf3"
    )
    image_pull_secrets: tuple[str, ...] = Field(
        (), description="secrets in namespace bigtcp-bench that a private registry needs"
    )
    load_gate: LoadGate = Field(default_factory=lambda: LoadGate.model_validate({}))
    seed: int = Field(0, ge=0, description="of the shuffled order of scenarios; 0: from the run's id")
    thresholds: Thresholds = Field(default_factory=lambda: Thresholds.model_validate({}))

    @field_validator("scenarios", mode="before")
    @classmethod
    def _split_scenarios(cls, value: Any) -> Any:
        return _split(value)

    @field_validator("scenarios")
    @classmethod
    def _known_scenarios(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in SCENARIOS]
        if unknown:
            known = ", ".join(name for name, scenario in SCENARIOS.items() if scenario.path == "pod")
            others = " or ".join(f"@{path}" for path in PATHS if path != "pod")
            raise ValueError(f"unknown scenario {unknown[0]!r}; allowed are {known}, each also with {others}")
        if len(set(value)) != len(value):
            raise ValueError("a scenario may be named only once")
        return value

    @field_validator("image_pull_secrets", mode="before")
    @classmethod
    def _split_secrets(cls, value: Any) -> Any:
        return _split(value)

    @field_validator("image")
    @classmethod
    def _pinned_image(cls, value: str) -> str:
        return pinned_image(value)

    @field_validator("order", mode="before")
    @classmethod
    def _split_order(cls, value: Any) -> Any:
        # YAML 1.1 reads a bare on or off as a boolean.
        words = {True: "on", False: "off"}
        value = _split(words.get(value, value) if isinstance(value, bool) else value)
        if isinstance(value, Sequence):
            value = [words[arm] if isinstance(arm, bool) else arm for arm in value]
        return value

    @field_validator("order")
    @classmethod
    def _valid_order(cls, value: tuple[Arm, ...]) -> tuple[Arm, ...]:
        text = ",".join(value)
        if len(set(value)) < 2 and text not in ("off,off", "on,on"):
            raise ValueError(
                f"order {text!r} has blocks of one arm only; allowed are orders with both arms, such as "
                "off,on,off, and the A/A runs off,off and on,on"
            )
        if _slots_of([arm for arm, _ in _runs(value)]) is None:
            raise ValueError(
                f"order {text!r} has too many switches; allowed are up to {len(SLOT_ARMS)} blocks beginning "
                f"with off, or {len(SLOT_ARMS) - 1} beginning with on"
            )
        return value

    @model_validator(mode="after")
    def _one_generation_fits_its_task(self) -> Plan:
        most = max(len(scenarios) for scenarios in pod_pairs(self.scenarios))
        seconds = most * self.repetitions * (self.duration_s + self.omit_s)
        if seconds > MAX_GENERATION_S:
            raise ValueError(
                f"one generation would take {seconds} s (scenarios × repetitions × (duration_s + omit_s)); "
                f"at most {MAX_GENERATION_S} s are allowed: use more generations with fewer repetitions"
            )
        return self

    @model_validator(mode="after")
    def _two_nodes(self) -> Plan:
        if (self.client_node is None) != (self.server_node is None):
            raise ValueError("client_node and server_node must be given together, or neither")
        if self.client_node is not None and self.client_node == self.server_node:
            raise ValueError(
                f"client_node and server_node are both {self.client_node!r}; they must be two different nodes"
            )
        return self

    @property
    def is_aa(self) -> bool:
        """Whether this is an A/A run: one arm against itself, to measure the cluster's own noise."""
        return len(set(self.order)) == 1

    @property
    def measuring_time_s(self) -> int:
        """Return the seconds the run spends on measured and omitted traffic, without any overhead."""
        repetitions = sum(block.generations for block in blocks(self)) * self.repetitions * len(self.scenarios)
        return repetitions * (self.duration_s + self.omit_s)


def pod_pairs(scenarios: Iterable[str]) -> list[tuple[str, ...]]:
    """Return ``scenarios`` by the pair of pods that measures them: one on two nodes, and one on a single node.

    Each is a generation of its own, and a task.
    """
    together: dict[bool, list[str]] = {}
    for name in scenarios:
        together.setdefault(SCENARIOS[name].path == "same-node", []).append(name)
    return [tuple(together[alone]) for alone in sorted(together)]


def takes(plan: Plan, path: NetworkPath) -> bool:
    """Return whether a scenario of ``plan`` takes ``path``."""
    return any(SCENARIOS[name].path == path for name in plan.scenarios)


def shares_node(scenarios: Iterable[str]) -> bool:
    """Return whether both pods that measure ``scenarios``, one of pod_pairs, are on one node."""
    return all(SCENARIOS[name].path == "same-node" for name in scenarios)


def pair_count(plan: Plan) -> int:
    """Return how many fresh pairs of pods a run of ``plan`` makes for its scenarios."""
    return sum(block.generations for block in blocks(plan)) * len(pod_pairs(plan.scenarios))


def place_of(block: Block, turn: int) -> int:
    """Return on which of the two nodes (0 or 1) pods on one node are in that turn, in both arms on the same."""
    return (block.arm_offset + turn) % 2


def captured_places(way: Way, block: Block) -> list[int]:
    """Return from which of the two nodes (0 or 1) a stream on ``way`` is sent when it is captured in ``block``."""
    if way.path != "same-node":
        return [0]
    return sorted({place_of(block, turn) for turn in range(block.generations)})


class Turn(NamedTuple):
    """One generation of a block: its number, which turn of its pods it is (from 0), and what they measure."""

    generation: int
    turn: int
    scenarios: tuple[str, ...]


def turns(block: Block, scenarios: Iterable[str]) -> list[Turn]:
    """Return the generations of ``block`` in order, when ``scenarios`` are measured in it."""
    pairs = pod_pairs(scenarios)
    each = [(turn, pair) for turn in range(block.generations) for pair in pairs]
    return [Turn(number, turn, pair) for number, (turn, pair) in enumerate(each, 1)]


def turn_of(plan: Plan, generation: int) -> int:
    """Return which turn of its pair of pods the generation of that number is within its block, from 0."""
    return (generation - 1) // len(pod_pairs(plan.scenarios))


def unproven_ways(scenarios: Iterable[str]) -> tuple[Way, ...]:
    """Return the ways of ``scenarios`` that no bulk stream among them takes; only these fill packets."""
    known = [SCENARIOS[name] for name in scenarios if name in SCENARIOS]
    proven = {scenario.way for scenario in known if scenario.kind.fills_packets}
    return tuple(dict.fromkeys(scenario.way for scenario in known if scenario.way not in proven))


def captured_ways(plan: Plan) -> tuple[Way, ...]:
    """Return the ways on which packets are captured in every block: those that nothing else proves.

    And, where the plan wants packet sizes, those between pods on two nodes: they show what the cards make of them.
    """
    unproven = unproven_ways(plan.scenarios)
    ways = dict.fromkeys(SCENARIOS[name].way for name in plan.scenarios)
    return tuple(way for way in ways if way in unproven or (plan.packet_sizes and way.path == "pod"))


#: Names of the two tasks of a slot, by its arm: the switch, and the measuring.
TASK_NAMES: dict[Arm, tuple[str, str]] = {
    "off": ("disable_big_tcp", "baseline_iperf3"),
    "on": ("enable_big_tcp", "test_iperf3"),
}


def task_ids(arms: Sequence[Arm], slot: int, prefix: str = "") -> tuple[str, str]:
    """Return the ids of the two tasks of ``slot`` (from 1) in a sequence of slots with these ``arms``."""
    arm = arms[slot - 1]
    nth = list(arms[:slot]).count(arm)
    suffix = "" if nth == 1 else f"_{nth}"
    switch, measure = TASK_NAMES[arm]
    return f"{prefix}{switch}{suffix}", f"{prefix}{measure}{suffix}"


class Block(BaseModel):
    """A stretch of time with one arm in force, measured in DAG slot ``slot``.

    ``generations`` is how many fresh pod pairs measure each of its scenarios (see pod_pairs). They are numbered
    from 1 in the order of time: with two pairs, 1 and 2 are the first turn of either (see turns).
    """

    model_config = _WHEN_NEEDED

    number: int
    arm: Arm
    slot: int
    generations: int
    #: How many generations of the same arm come before this block: both arms share one sequence of shuffles. In an
    #: A/A run the second block stands for the other arm.
    arm_offset: int


def blocks(plan: Plan) -> list[Block]:
    """Return the blocks of ``plan`` in order, numbered from 1.

    Neighbours of one arm are one block (no switch lies between them), except in an A/A run, where a restart
    separates them. A single block between two others has twice the generations, so that each arm is measured
    as often as the other and a linear drift cancels (the A|BB|A design).
    """
    runs = [(arm, 1) for arm in plan.order] if plan.is_aa else _runs(plan.order)
    slots = _slots_of([arm for arm, _ in runs])
    if slots is None:  # the validator of Plan.order lets no such plan through
        raise InvalidInput(f"order {','.join(plan.order)!r} does not fit into {len(SLOT_ARMS)} slots")
    result: list[Block] = []
    measured: dict[Arm, int] = {"off": 0, "on": 0}
    for index, ((arm, length), slot) in enumerate(zip(runs, slots, strict=True)):
        inner = 0 < index < len(runs) - 1
        generations = plan.generations * (max(length, 2) if inner else length)
        result.append(
            Block(number=index + 1, arm=arm, slot=slot, generations=generations, arm_offset=measured[arm])
        )
        measured[arm] += 0 if plan.is_aa else generations
    return result


def unused_tasks(plan: Plan, slot: int) -> list[str]:
    """Return the ids of the tasks from ``slot`` on, up to the next slot that a block of ``plan`` takes."""
    used = {block.slot for block in blocks(plan)}
    slots = itertools.takewhile(lambda one: one not in used, range(slot, len(SLOT_ARMS) + 1))
    return [task for one in slots for task in task_ids(SLOT_ARMS, one)]


#: The blocks in which scenarios are measured again in the same run. The middle one is twice as long as the others,
#: so that either half of the generations has its off and its on next to each other in time.
RERUN_ORDER: tuple[Arm, ...] = ("off", "on", "off")
#: Of the ids of their tasks. Whatever becomes of them, the run is what its own blocks made of it.
RERUN_PREFIX = "rerun_"


def rerun_tasks() -> list[str]:
    """Return the ids of all tasks of a re-run, its judgement included."""
    slots = range(1, len(RERUN_ORDER) + 1)
    return [*(task for slot in slots for task in task_ids(RERUN_ORDER, slot, RERUN_PREFIX)), "compare_rerun"]


def rerun_plan(plan: Plan, scenarios: Collection[str]) -> Plan:
    """Return the plan that measures ``scenarios`` of ``plan`` twice more, with fresh pods in both arms."""
    names = tuple(name for name in plan.scenarios if name in scenarios)
    return plan.model_copy(update={"scenarios": names, "order": RERUN_ORDER, "packet_sizes": False})


def scenario_order(plan: Plan, seed: int, arm_generation: int) -> list[Scenario]:
    """Return the scenarios shuffled for the ``arm_generation``-th generation (from 0) of either arm."""
    names = list(plan.scenarios)
    random.Random(f"{seed}/{arm_generation}").shuffle(names)
    return [SCENARIOS[name] for name in names]


def plan_names() -> list[str]:
    """Return the names of all plans, sorted; a file with a dot in its name is one cluster's (see plan_path)."""
    names = {path.stem for folder in _plan_folders() for path in folder.glob("*.yaml")}
    return sorted(name for name in names if "." not in name)


def _plan_folders() -> list[Path]:
    return [folder for folder in (PLANS.value(), include_dir() / "plans") if folder]


def plan_path(name: str, conn_id: str = "") -> Path | None:
    """Return the file of the plan of that name, or the file of that path; None when there is none.

    ``NAME.CONNECTION.yaml`` in the folder of one's own plans takes the place of a plan for one cluster.
    """
    if "/" in name or name.endswith((".yaml", ".yml")):
        candidates = [Path(name)]
    else:
        candidates = [folder / f"{name}.yaml" for folder in _plan_folders()]
        if (own := PLANS.value()) and conn_id:
            candidates.insert(0, own / f"{name}.{conn_id}.yaml")
    return next((path for path in candidates if path.is_file()), None)


def load_plan(name_or_path: str, overrides: Mapping[str, Any] | None = None, conn_id: str = "") -> Plan:
    """Return the plan of that name for the cluster of ``conn_id``, or of a YAML file, with ``overrides`` on top.

    An override of ``None`` means "as the plan says". Raises InvalidInput, in one sentence, for anything wrong.
    """
    import yaml

    path = plan_path(name_or_path, conn_id)
    if path is None:
        known = ", ".join(plan_names())
        raise InvalidInput(
            f"plan {name_or_path!r} does not exist; allowed are {known}, or the path of a YAML file"
        )
    try:
        document = read_yaml(path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"plan {name_or_path!r} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise InvalidInput(f"plan {name_or_path!r} must be a mapping of fields, not {type(document).__name__}")
    document.setdefault("name", path.stem.removesuffix(f".{conn_id}"))
    document.update({key: value for key, value in (overrides or {}).items() if value is not None})
    return validate_plan(document, f"plan {name_or_path!r}")


def validate_plan(document: Mapping[str, Any], where: str = "plan") -> Plan:
    """Return ``document`` as a Plan. Raises InvalidInput, in one sentence, for anything wrong."""
    try:
        return Plan.model_validate(dict(document))
    except ValidationError as error:
        raise InvalidInput(validation_sentence(error, where)) from error


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _runs(order: Sequence[Arm]) -> list[tuple[Arm, int]]:
    return [(arm, len(list(group))) for arm, group in itertools.groupby(order)]


def _slots_of(arms: Sequence[Arm]) -> list[int] | None:
    """Return for each block the next slot of its arm (numbered from 1), or None if they do not fit."""
    slots: list[int] = []
    for arm in arms:
        start = slots[-1] if slots else 0
        later = [index + 1 for index in range(start, len(SLOT_ARMS)) if SLOT_ARMS[index] == arm]
        if not later:
            return None
        slots.append(later[0])
    return slots
