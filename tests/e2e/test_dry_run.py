"""A dry run of the real DAG: every object of the cluster stays in its version, and nothing is stored."""

from __future__ import annotations

import pytest

from bigtcp_bench.cluster.api import (
    CONFIGMAP,
    DAEMONSET,
    LEASE,
    NAMESPACE,
    NODE,
    POD,
    PRIORITYCLASS,
    ClusterApi,
    Kind,
)
from bigtcp_bench.cluster.guardian_objects import CRONJOB
from tests.e2e.runs import Installation, run_dag

pytestmark = [pytest.mark.lab, pytest.mark.e2e]

KINDS = (
    *(CONFIGMAP, CRONJOB, DAEMONSET, LEASE, NAMESPACE, NODE, POD, PRIORITYCLASS),
    Kind("cilium.io", "v2", "ciliumnodeconfigs"),
    Kind("", "v1", "events"),
)


def versions(api: ClusterApi) -> dict[tuple[str, str, str], str]:
    """Return the version of every object there is, but for the heartbeats of the nodes."""
    return {
        (kind.plural, meta.get("namespace", ""), meta["name"]): meta["resourceVersion"]
        for kind in KINDS
        for meta in (item["metadata"] for item in api.select(kind))
        if meta.get("namespace") != "kube-node-lease"
    }


def test_a_dry_run_changes_nothing_and_skips_everything(installation: Installation, capfd) -> None:
    before, runs = versions(installation.api), len(installation.warehouse.runs_frame())
    run = run_dag("bigtcp_benchmark", {"plan": "short", "dry_run": True})
    assert versions(installation.api) == before
    assert len(installation.warehouse.runs_frame()) == runs
    assert str(run.state) == "success"
    states = {task.task_id: str(task.state) for task in run.get_task_instances()}
    assert states.pop("check_kernel") == "success"
    assert set(states.values()) == {"skipped"}
    said = capfd.readouterr()
    printed = said.out + said.err
    for words in (
        "Dry run of plan short",
        "2. on: enable_big_tcp",
        "kind: CiliumNodeConfig",
        "unknown until pods",
    ):
        assert words in printed
