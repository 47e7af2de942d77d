"""Orders are refused in one sentence here, not by a pod."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from bigtcp_bench.in_cluster import iperf3, measure, output
from bigtcp_bench.readings.orders import MeasureOrders, ProbeOrders, ReachOrders, ServeOrders
from tests.readings.documents import orders


@pytest.mark.parametrize(
    "given_orders", [ServeOrders(), orders(), ProbeOrders(), ReachOrders(server={"ipv6": "fd44::5"})]
)
def test_an_argument_has_every_field_the_agent_asks_for(
    given_orders: ServeOrders | MeasureOrders | ProbeOrders | ReachOrders,
) -> None:
    argument = json.loads(given_orders.to_argument())
    assert argument["version"] == output.VERSION
    _, fields = measure.TASKS[argument["do"]]
    assert set(fields.split()) <= set(argument)
    assert type(given_orders).model_validate(argument) == given_orders


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"server": {"ipv4": "fd44::5"}}, "'fd44::5' is not an ipv4 address"),
        ({"server": {"ipv6": "node1"}}, "'node1' is not an ipv6 address"),
        ({"server": {}}, "at least 1 item"),
        ({"duration_s": 0}, "greater than or equal to 1"),
        ({"rr_port": 5201}, "must be three different ports"),
        ({"scenarios": []}, "at least 1 item"),
    ],
)
def test_wrong_orders_are_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        orders(**fields)


def test_a_reach_needs_addresses_of_their_family() -> None:
    with pytest.raises(ValidationError, match=r"'10\.0\.0\.1' is not an ipv6 address"):
        ReachOrders(server={"ipv6": "10.0.0.1"})


def test_the_time_limit_covers_every_repetition_at_its_own_limit() -> None:
    one, two = orders(repetitions=1).time_limit_s, orders(repetitions=2).time_limit_s
    assert two - one > orders().omit_s + orders().duration_s + iperf3.GRACE_S
