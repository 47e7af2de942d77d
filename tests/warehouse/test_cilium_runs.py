from __future__ import annotations

from typing import Any

import pytest

from bigtcp_bench.cluster.fingerprint import Fingerprint
from bigtcp_bench.warehouse import sightings
from bigtcp_bench.warehouse.cilium_runs import first_of_version, newest
from bigtcp_bench.warehouse.store import Warehouse
from tests.support.nights import CLUSTER, add_night

OLD, NEW = "quay.io/cilium/cilium:v1.18.3", "quay.io/cilium/cilium:v1.18.4"


def add(warehouse: Warehouse, number: int, image: str | None = OLD, **columns: Any) -> int:
    status = columns.pop("status", "valid")
    run = add_night(warehouse, number, images={"cilium": image} if image else None, **columns)
    warehouse.update_run(run, status=status)
    return run


def test_the_newest_valid_run_is_found(warehouse):
    assert newest(warehouse, CLUSTER) is None
    first, second = add(warehouse, 0), add(warehouse, 1, NEW, cilium_config={"mtu": None})
    for night, bad in enumerate(({"status": "invalid"}, {"status": "failed"}, {"is_aa": True}, {"image": None})):
        add(warehouse, 2 + night, **bad)
    add(warehouse, 9, cluster="another")
    found = newest(warehouse, CLUSTER)
    assert (found.number, found.fingerprint) == (second, Fingerprint(NEW, {"mtu": None}))
    assert (found.key, found.plan["name"]) == ("bigtcp_benchmark/night 1", "nightly")
    assert found.nodes == ("node1", "node2")
    assert newest(warehouse, CLUSTER, before=second).number == first
    assert newest(warehouse, CLUSTER, before=first) is None
    assert newest(warehouse, "nowhere") is None


def test_a_run_knows_its_cluster_by_more_than_its_name(warehouse):
    add(warehouse, 0)
    assert newest(warehouse, CLUSTER).cluster_uid is None
    assert sightings.newest(warehouse) is None
    number = add(warehouse, 1, environment={"cluster_uid": "A"}, status="failed")
    add(warehouse, 2, cluster="other", environment={"cluster_uid": None})
    add(warehouse, 3, cluster="other", environment={"cluster_uid": "B"})
    assert newest(warehouse, "other").cluster_uid == "B"
    found = sightings.newest(warehouse, not_cluster="other")
    assert (found.number, found.cluster, found.uid) == (number, CLUSTER, "A")
    assert sightings.newest(warehouse, uid="A") == sightings.newest(warehouse, cluster=CLUSTER) == found
    assert sightings.newest(warehouse, cluster="other", uid="A") is None


@pytest.mark.parametrize("later", [0, 52])
def test_the_newest_run_of_another_cilium_is_found_however_long_ago(warehouse, later):
    old = add(warehouse, 0)
    for night in range(1, 2 + later):
        add(warehouse, night, NEW)
    live = Fingerprint(NEW, {})
    found = newest(warehouse, CLUSTER, lambda run: bool(run.fingerprint.differences(live)))
    assert found.number == old


def test_the_first_run_of_the_newest_version_is_that_of_its_last_coming(warehouse):
    def of_version(number: int, version: str, **columns: Any) -> int:
        return add_night(warehouse, number, cilium_version=version, **columns)

    assert first_of_version(warehouse, CLUSTER) is None
    of_version(0, "1.18.3"), of_version(1, "1.18.3")
    # One version only is no upgrade, and what is no valid run of this cluster tells of none.
    warehouse.update_run(of_version(2, "1.19.0"), status="invalid")
    of_version(3, "1.19.0", cluster="far"), of_version(4, "1.19.0", is_aa=True)
    assert first_of_version(warehouse, CLUSTER) is None
    up, _ = of_version(5, "1.19.0"), of_version(6, "1.19.0")
    assert first_of_version(warehouse, CLUSTER) == up
    back, _ = of_version(7, "1.18.3"), of_version(8, "1.18.3")
    assert first_of_version(warehouse, CLUSTER) == back
