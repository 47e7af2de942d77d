"""Where packets are captured: the rest of it needs real devices, and the end-to-end night has them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from bigtcp_bench.measuring.packet_sizes import places
from bigtcp_bench.planning.plan import blocks, validate_plan


def test_a_path_on_one_node_is_captured_on_those_that_the_block_measures_it_on() -> None:
    plan = validate_plan(
        {
            "scenarios": ["ipv4-stream-1", "ipv4-rr@same-node"],
            "order": "off,on,off",
            "generations": 1,
            "packet_sizes": True,
        }
    )
    pair: Any = SimpleNamespace(names=("node1", "node2"))
    found = [{(one.sender, one.receiver) for one in places(plan, pair, block)} for block in blocks(plan)]
    between = ("node1", "node2")
    assert found == [
        {between, ("node1", "node1")},
        {between, ("node1", "node1"), ("node2", "node2")},
        {between, ("node2", "node2")},
    ]
