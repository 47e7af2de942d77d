"""Connections: how many a pod may make, what comes of its share, and when it was too short."""

from __future__ import annotations

import io
from typing import Any

import pytest

from bigtcp_bench.in_cluster import client, exchange
from bigtcp_bench.in_cluster.output import Failed
from bigtcp_bench.in_cluster.traffic import KINDS, crr

FILES = {
    "/proc/sys/net/ipv4/ip_local_port_range": "32768\t60999\n",
    "/proc/sys/net/ipv4/tcp_max_tw_buckets": "65536\n",
}


def kernel(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    files = {path: values.get(path.rpartition("/")[2], text) for path, text in FILES.items()}
    monkeypatch.setattr(crr, "read_file", files.get)


@pytest.mark.parametrize(
    ("values", "most"),
    [
        ({}, 11_292),
        ({"ip_local_port_range": "1024 65535"}, crr.MAX_CONNECTIONS),
        ({"ip_local_port_range": "40000 40999"}, 399),
        ({"tcp_max_tw_buckets": "8192"}, 3_276),
    ],
)
def test_a_pod_makes_no_more_than_its_kernel_can_hold(
    values: dict[str, str], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel(monkeypatch, **values)
    assert crr.limit() == most


def test_no_connection_is_made_where_the_shares_tell_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel(monkeypatch, ip_local_port_range="40000 40999")
    scenario = {"name": "ipv4-crr", "family": "ipv4", "traffic": "crr", "streams": 1, "request_bytes": 1_000}
    orders = {"scenarios": [scenario, {"traffic": "rr"}, scenario], "repetitions": 4, "rr_port": 9}
    with pytest.raises(
        Failed, match=r"this pod may make 399, and 8 repetitions share them, of which each needs 50"
    ):
        crr.KIND.run("127.0.0.1", orders, scenario)


@pytest.mark.parametrize(("duration_s", "connections"), [(1, 600), (3, 1_800), (300, crr.MAX_CONNECTIONS)])
def test_pods_that_follow_each_other_leave_room_in_connection_tracking(
    duration_s: int, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With connections that cost nothing, so that only their number ends a repetition."""
    kernel(monkeypatch, ip_local_port_range="1024 65535")
    made: list[str] = []

    class Connection(io.BytesIO):
        def sendall(self, data: bytes) -> None:
            made.append(str(len(data)))

    def answered(connection: Any, view: memoryview) -> memoryview:
        return view

    monkeypatch.setattr(exchange, "connect", lambda address, orders: Connection())
    monkeypatch.setattr(exchange, "receive_exactly", answered)
    scenario = {"name": "ipv4-crr", "family": "ipv4", "traffic": "crr", "streams": 1, "request_bytes": 1_000}
    orders = {"scenarios": [scenario], "repetitions": 1, "token": "", "omit_s": 0, "duration_s": duration_s}
    document = crr.KIND.run("127.0.0.1", orders, scenario)
    assert document["crr"] == {"allowed": connections, "used_up": True}
    assert len(made) == connections
    assert connections / duration_s * 120 < 0.6 * 131_072
    assert list(crr.KIND.problems(document, orders, scenario)) == []


def _document(transactions: int, seconds: float, allowed: int = 1_000) -> dict[str, Any]:
    latency = dict.fromkeys(("p50", "p90", "p99", "p999"), 200.0)
    counted = {"request_bytes": 1_000, "transactions": transactions, "seconds": seconds, "latency_us": latency}
    return {"rr": counted, "crr": {"allowed": allowed}}


@pytest.mark.parametrize(
    ("document", "problems"),
    [
        (_document(900, 0.3), []),
        (_document(500, 9.9), []),
        (_document(500, 3.0), ["measured for 3.00 s instead of 10 s"]),
    ],
)
def test_it_ends_when_its_share_or_its_time_is_used_up(document: dict[str, Any], problems: list[str]) -> None:
    orders = {"duration_s": 10, "request_bytes": 80_000}
    assert list(crr.KIND.problems(document, orders, {"request_bytes": 1_000})) == problems
    read = KINDS["crr"].metrics[crr.CONNECTIONS]
    assert read(document) == document["rr"]["transactions"] / document["rr"]["seconds"]


def test_the_log_says_what_was_measured() -> None:
    scenario = {"traffic": "crr"}
    shown = client._headline(scenario, {"error": None}, _document(900, 0.3))
    assert shown == "connections per second 3,000.0 1/s, latency p99 200.0 us"
