from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from bigtcp_bench.report.epochs import changes_of

FIRST = datetime(2025, 1, 6, 2, 10, tzinfo=UTC)


def frame(**columns):
    count = len(next(iter(columns.values())))
    moments = [FIRST + timedelta(days=day) for day in range(count)]
    return pd.DataFrame({"started_at": moments, "scenario": "ipv6-rr", **columns})


def test_changes_of_cilium_and_kernel_are_found_once():
    found = changes_of(
        frame(
            cilium_version=["1.18.1"] * 2 + [None] + ["1.18.2 (v1.18.2-dd29)"] * 3,
            client_kernel=["6.12"] * 4 + ["6.18"] * 2,
            server_kernel=["6.12"] * 4 + ["6.18"] * 2,
        )
    )
    assert found["text"].tolist() == ["Cilium 1.18.2", "kernel 6.18"]
    assert found["started_at"].tolist() == [FIRST + timedelta(days=3), FIRST + timedelta(days=4)]


def test_what_is_measured_on_other_terms_is_named_and_how_often_is_not():
    usual = {"duration_s": 10, "request_bytes": 1}
    oftener = usual | {"generations": 9, "repetitions": 5}
    plans = [usual, oftener, usual | {"duration_s": 5}, usual | {"duration_s": 5, "image": "iperf3:3.19"}, None]
    found = changes_of(frame(plan=plans[:4]))
    assert found["what"].tolist() == ["plan", "plan"]
    assert found["text"].tolist()[0] == "plan: duration s 10 → 5"
    assert found["text"].tolist()[1].endswith("→ iperf3:3.19")
    assert set(found["label"]) == {"plan edited"}


def test_what_somebody_tries_by_hand_begins_no_series():
    usual, short = {"duration_s": 10}, {"duration_s": 2}
    tried = frame(plan=[usual, short, usual], is_night=[True, False, True])
    assert changes_of(tried).empty
    assert len(changes_of(frame(plan=[usual, short, usual], is_night=[True] * 3))) == 2


@pytest.mark.parametrize("given", [pd.DataFrame(), frame(plan=[None])])
def test_what_is_not_there_has_not_changed(given):
    assert changes_of(given).empty
