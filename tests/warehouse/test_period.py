"""What the runs of a few days were, on both databases."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bigtcp_bench.warehouse.period import Gain, Period, period
from bigtcp_bench.warehouse.store import Warehouse
from tests.support.nights import FIRST_NIGHT, add_night

WEEK = (FIRST_NIGHT + timedelta(days=1), FIRST_NIGHT + timedelta(days=8))


def test_a_period_counts_runs_and_gains(warehouse: Warehouse) -> None:
    assert period(warehouse, "lab", *WEEK) == Period({}, (), True)
    for number in range(4):
        add_night(warehouse, number, scenarios=("ipv4-rr",), sd=0, environment={"emulated": True})
    warehouse.update_run(3, status="invalid", reasons=["x"])
    add_night(warehouse, 4, scenarios=("ipv4-rr",), is_aa=True, plan={"order": ["off", "off"]})
    add_night(warehouse, 5, cluster="prod", environment={"generated": True})
    found = period(warehouse, "lab", *WEEK)
    assert (found.statuses, found.is_first) == ({"valid": 3, "invalid": 1}, False)
    assert (found.emulated, found.generated) == (True, False)
    gains = [Gain("ipv4-rr", "transactions_per_s", pytest.approx(0.5), None)] * 2
    assert list(found.gains) == gains
    assert period(warehouse, "prod", *WEEK).generated


def test_a_benefit_is_positive_when_less_is_better(warehouse: Warehouse) -> None:
    run = add_night(warehouse, 2, scenarios=())
    row = {"scenario": "ipv4-rate", "metric": "cpu_s_per_gb_sender", "change": -0.2, "verdict": "faster"}
    other = {"scenario": "ipv6-rate", "metric": "cpu_s_per_gb_sender", "change": 0.1, "verdict": "invalid"}
    evidence = row | {"metric": "cpu_s_per_gb_receiver"}
    warehouse.store_comparisons(run, [row, other, evidence])
    assert period(warehouse, "lab", *WEEK).gains == (Gain("ipv4-rate", "cpu_s_per_gb_sender", 0.2, None),)
