"""The plan at the door: what is accepted, what is refused with which sentence, and the blocks it leads to."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigtcp_bench.airflow.params import dag_params, plan_of_params
from bigtcp_bench.errors import InvalidInput
from bigtcp_bench.planning.plan import (
    PATHS,
    SCENARIOS,
    SLOT_ARMS,
    Way,
    blocks,
    captured_ways,
    load_plan,
    plan_names,
    pod_pairs,
    rerun_tasks,
    scenario_order,
    task_ids,
    turn_of,
    turns,
    unused_tasks,
    validate_plan,
)


def plan_of(**fields):
    return validate_plan({"scenarios": ["ipv4-stream-1"], **fields})


def test_every_shipped_plan_is_valid():
    assert {"quick", "nightly", "upgrade"} <= set(plan_names())
    for name in plan_names():
        assert load_plan(name).measuring_time_s > 0
        assert load_plan(name, conn_id="edge") == load_plan(name), "a cluster without a file of its own has this"


def test_plans_that_are_shipped_take_every_path_and_a_night_is_short_enough():
    for name in ("nightly", "upgrade"):
        plan = load_plan(name)
        assert {SCENARIOS[one].path for one in plan.scenarios} == set(PATHS)
        assert {one.partition("@")[0] for one in plan.scenarios} <= set(plan.scenarios), "each beside its like"
        # What streams on a path prove is not captured again.
        assert all(way.path == "pod" for way in captured_ways(plan))
    assert load_plan("nightly").measuring_time_s <= 75 * 60
    assert {SCENARIOS[one].path for one in load_plan("quick").scenarios} == {"pod"}


@pytest.mark.parametrize("image", ["x/netshoot", "x/netshoot:latest", "registry:5000/netshoot"])
def test_an_image_that_may_be_another_tomorrow_is_refused(image):
    with pytest.raises(InvalidInput, match="must name a tag other than latest, or a digest"):
        plan_of(image=image)


@pytest.mark.parametrize(
    "image",
    ["nicolaka/netshoot:v0.14", "registry:5000/netshoot:v1", "netshoot@sha256:0123", "x:latest@sha256:0123"],
)
def test_a_pinned_image_of_any_registry_is_taken(image):
    assert plan_of(image=image).image == image


def test_pull_secrets_are_a_list_or_a_text():
    assert plan_of(image_pull_secrets="a, b").image_pull_secrets == ("a", "b")
    assert plan_of(image_pull_secrets=["a"]).image_pull_secrets == ("a",)
    assert plan_of().image_pull_secrets == ()


def test_task_ids_of_slots():
    assert [task_ids(SLOT_ARMS, slot) for slot in (1, 2, 3, 6)] == [
        ("disable_big_tcp", "baseline_iperf3"),
        ("enable_big_tcp", "test_iperf3"),
        ("disable_big_tcp_2", "baseline_iperf3_2"),
        ("enable_big_tcp_3", "test_iperf3_3"),
    ]
    assert task_ids(("off", "on", "off"), 3, "rerun_") == ("rerun_disable_big_tcp_2", "rerun_baseline_iperf3_2")


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        # (number, arm, slot, generations with generations=2)
        ("off,on,off", [(1, "off", 1, 2), (2, "on", 2, 4), (3, "off", 3, 2)]),
        ("off,on,on,off", [(1, "off", 1, 2), (2, "on", 2, 4), (3, "off", 3, 2)]),
        ("on,off,on", [(1, "on", 2, 2), (2, "off", 3, 4), (3, "on", 4, 2)]),
        ("off,on", [(1, "off", 1, 2), (2, "on", 2, 2)]),
        ("off,off", [(1, "off", 1, 2), (2, "off", 3, 2)]),
        ("on,on", [(1, "on", 2, 2), (2, "on", 4, 2)]),
        ("on,off,off,on,on,off", [(1, "on", 2, 2), (2, "off", 3, 4), (3, "on", 4, 4), (4, "off", 5, 2)]),
    ],
)
def test_order_becomes_blocks(order, expected):
    found = blocks(plan_of(order=order, generations=2))
    assert [(block.number, block.arm, block.slot, block.generations) for block in found] == expected


@given(st.lists(st.sampled_from(["off", "on"]), min_size=1, max_size=10), st.integers(1, 5))
def test_blocks_of_any_order_fit_their_slots_or_are_refused(order, generations):
    try:
        plan = plan_of(order=order, generations=generations)
    except InvalidInput:
        assert len(order) == 1 or len(set(order)) == 1 or len(order) > 5
        return
    found = blocks(plan)
    assert [SLOT_ARMS[block.slot - 1] for block in found] == [block.arm for block in found]
    assert all(left.slot < right.slot for left, right in itertools.pairwise(found))
    if not plan.is_aa:
        assert all(left.arm != right.arm for left, right in itertools.pairwise(found))
    for arm in set() if plan.is_aa else set(order):
        of_arm = [block for block in found if block.arm == arm]
        ends = list(itertools.accumulate(block.generations for block in of_arm))
        assert [block.arm_offset for block in of_arm] == [0, *ends[:-1]]


def test_either_half_of_an_aa_run_begins_the_sequence_of_shuffles():
    assert [block.arm_offset for block in blocks(plan_of(order="on,on"))] == [0, 0]


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("ipv6-stream-1", Way("ipv6", "pod")),
        ("ipv6-stream-1@same-node", Way("ipv6", "same-node")),
        ("ipv4-rr@service", Way("ipv4", "service")),
    ],
)
def test_a_scenario_s_name_says_its_path(name, way):
    assert SCENARIOS[name].way == way


@pytest.mark.parametrize(
    ("name", "request_bytes", "expected"),
    [
        ("ipv4-stream-1", 1_000, "gain"),
        ("ipv4-rr", 65_536, "gain"),
        ("ipv4-rr", 65_535, "no change"),
        ("ipv4-rate", 1_000, "gain"),
        ("ipv4-small-rr", 80_000, "no change"),
    ],
)
def test_only_what_fills_more_than_an_ordinary_packet_should_gain(name, request_bytes, expected):
    assert SCENARIOS[name].expectation(request_bytes) == expected


def test_every_traffic_may_take_every_path():
    bare = [name for name in SCENARIOS if "@" not in name]
    assert list(SCENARIOS)[: len(bare)] == bare
    assert set(SCENARIOS) == {name + path for name in bare for path in ("", "@same-node", "@service")}
    for name, scenario in SCENARIOS.items():
        other = SCENARIOS[name.partition("@")[0]]
        changed = {"name": other.name, "path": "pod"}
        assert scenario.name == name
        assert scenario.model_copy(update=changed) == other


@given(st.lists(st.sampled_from(list(SCENARIOS)), min_size=1, unique=True), st.integers(1, 4))
def test_every_scenario_is_measured_by_one_pair_in_each_turn(names, generations):
    """Nodes are shared on one path only, and numbers, turns and pairs of any block belong together."""
    plan = plan_of(scenarios=names, generations=generations)
    for block in blocks(plan):
        found = turns(block, plan.scenarios)
        assert [one.generation for one in found] == list(range(1, len(found) + 1))
        assert [turn_of(plan, one.generation) for one in found] == [one.turn for one in found]
        for turn in range(block.generations):
            pairs = [one.scenarios for one in found if one.turn == turn]
            assert pairs == pod_pairs(names)
            assert sorted(name for pair in pairs for name in pair) == sorted(names)
        for one in found:
            assert len({SCENARIOS[name].path == "same-node" for name in one.scenarios}) == 1


def test_what_has_pods_of_its_own_has_a_task_of_its_own():
    long = {"duration_s": 300, "omit_s": 0, "repetitions": 20}
    assert plan_of(scenarios="ipv4-rr,ipv4-rr@same-node", **long).measuring_time_s > 10_800
    with pytest.raises(InvalidInput, match=r"^plan: one generation would take 12000 s"):
        plan_of(scenarios="ipv4-rr,ipv4-rr@service,ipv4-rr@same-node", **long)


@pytest.mark.parametrize("palindrome", ["off,on,off", "on,off,on", "off,on,off,on,off", "off,on,on,off"])
def test_a_linear_drift_cancels_in_palindromes(palindrome):
    times: dict[str, list[int]] = {"off": [], "on": []}
    clock = itertools.count()
    for block in blocks(plan_of(order=palindrome, generations=3)):
        times[block.arm] += itertools.islice(clock, block.generations)
    assert sum(times["off"]) / len(times["off"]) == sum(times["on"]) / len(times["on"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"scenarios": ["ipv4-stream-2"]}, ["scenarios", "ipv4-stream-2", "ipv6-rr"]),
        ({"scenarios": ["ipv4-rr@pod"]}, ["'ipv4-rr@pod'", ", each also with @same-node or @service"]),
        ({"scenarios": []}, ["scenarios"]),
        ({"scenarios": ["ipv4-rr", "ipv4-rr"]}, ["only once"]),
        ({"order": "off"}, ["order", "'off'", "off,on,off", "off,off"]),
        ({"order": "on,on,on"}, ["order", "one arm"]),
        ({"order": "off,up"}, ["order", "up"]),
        ({"order": "on,off,on,off,on,off"}, ["too many switches"]),
        (
            {"duration_s": 300, "omit_s": 30, "repetitions": 20, "scenarios": "ipv4-rr,ipv6-rr"},
            ["13200 s", "10800"],
        ),
        ({"duration_s": 0}, ["duration_s", "0", "greater than or equal to 1"]),
        ({"generations": 10_000}, ["generations", "less than or equal to 20"]),
        ({"client_node": "a"}, ["client_node", "server_node", "together"]),
        ({"client_node": "a", "server_node": "a"}, ["two different nodes"]),
        ({"warmup": 3}, ["warmup", "not a known field"]),
        ({"thresholds": {"margin": 0}}, ["thresholds.margin", "greater than 0"]),
    ],
)
def test_what_is_wrong_gets_one_sentence(fields, words):
    with pytest.raises(InvalidInput) as caught:
        plan_of(**fields)
    sentence = str(caught.value)
    assert "\n" not in sentence
    for word in words:
        assert word in sentence


def test_a_plan_file_is_read_and_overridden(tmp_path, monkeypatch):
    path = tmp_path / "mine.yaml"
    # YAML 1.1 reads these as booleans.
    path.write_text("scenarios: [ipv6-rr]\norder: [off, on, off]\n")
    plan = load_plan(str(path), {"duration_s": 5, "repetitions": None})
    assert (plan.name, plan.order, plan.duration_s, plan.repetitions) == ("mine", ("off", "on", "off"), 5, 2)
    monkeypatch.chdir(tmp_path)
    assert load_plan("mine.yaml").scenarios == ("ipv6-rr",)


@pytest.mark.parametrize(
    ("text", "words"),
    [("[1, 2]", "must be a mapping"), ("a: [", "is not YAML"), ("scenarios: 7", "scenarios = 7")],
)
def test_a_broken_plan_file_is_named(tmp_path, text, words):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(InvalidInput, match=r"broken\.yaml") as caught:
        load_plan(str(path))
    assert words in str(caught.value)


def test_an_unknown_plan_names_the_known_ones():
    with pytest.raises(InvalidInput, match=r"'weekly' does not exist; allowed are .*nightly.*quick"):
        load_plan("weekly")


def test_both_arms_share_one_sequence_of_shuffles():
    plan = load_plan("nightly")
    shuffles = [tuple(scenario.name for scenario in scenario_order(plan, 7, number)) for number in range(12)]
    assert len(set(shuffles)) > 6
    assert all(set(shuffle) == set(plan.scenarios) for shuffle in shuffles)
    again = [tuple(scenario.name for scenario in scenario_order(plan, 7, number)) for number in range(12)]
    assert shuffles == again


def test_a_cluster_may_have_its_own_file_of_a_plan(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGTCP_BENCH_PLANS", str(tmp_path))
    (tmp_path / "nightly.edge.yaml").write_text("scenarios: [ipv4-rr]\n")
    (tmp_path / "weekly.yaml").write_text("scenarios: [ipv6-rr]\n")
    params = {name: param.value for name, param in dag_params().items()}
    own = plan_of_params(params, "edge")
    # It is the same plan to whoever compares nights or clusters.
    assert (own.name, own.scenarios) == ("nightly", ("ipv4-rr",))
    assert plan_of_params(params, "prod") == load_plan("nightly")
    assert plan_of_params({**params, "plan": "weekly"}, "edge").scenarios == ("ipv6-rr",)
    with pytest.raises(InvalidInput, match=r"plan = 'nightly.edge': must be the name of a plan"):
        plan_of_params({**params, "plan": "nightly.edge"}, "prod")
    assert load_plan("nightly.edge").scenarios == ("ipv4-rr",)
    assert plan_names() == ["nightly", "quick", "upgrade", "weekly"]


@pytest.mark.parametrize(
    ("order", "slot", "unused"),
    [
        ("off,on,off", 3, []),
        ("off,on,off,on,off", 6, ["enable_big_tcp_3", "test_iperf3_3"]),
        ("off,on,off,on", 5, ["disable_big_tcp_3", "baseline_iperf3_3", "enable_big_tcp_3", "test_iperf3_3"]),
        ("on,off,on", 1, ["disable_big_tcp", "baseline_iperf3"]),
        ("off,off", 2, ["enable_big_tcp", "test_iperf3"]),
    ],
)
def test_unused_slots_in_a_row_end_before_the_next_block(order: str, slot: int, unused: list[str]) -> None:
    assert unused_tasks(load_plan("quick", {"order": order}), slot) == unused


def test_all_tasks_of_a_rerun_are_tasks_of_the_dag() -> None:
    found = rerun_tasks()
    assert (len(found), found[0], found[-1]) == (7, "rerun_disable_big_tcp", "compare_rerun")
