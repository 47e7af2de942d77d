"""Everything in a cluster that a run may touch, in one value to hold against itself before and after."""

from __future__ import annotations

from typing import Any

from bigtcp_bench.cluster.api import CONFIGMAP, LEASE, NODE, POD, SERVICE, ClusterApi
from bigtcp_bench.cluster.cilium import find_cilium
from bigtcp_bench.cluster.guardian_objects import CRONJOB
from bigtcp_bench.cluster.pods import ROLE_LABEL
from bigtcp_bench.cluster.probe import probe_nodes
from bigtcp_bench.planning.plan import load_plan

NAMESPACE = "bigtcp-bench"


def cluster_state(api: ClusterApi) -> dict[str, Any]:
    """Return Cilium's objects, node labels, device limits, and our own leftovers and hold on the cluster."""
    cilium = find_cilium(api)
    assert cilium.node_config is not None
    probes = probe_nodes(api, ["node1", "node2"], load_plan("quick").image)
    lease = api.find(LEASE, "bigtcp-bench", NAMESPACE)
    ours = api.select(CONFIGMAP, NAMESPACE, labels="app.kubernetes.io/name=bigtcp-bench")
    return {
        "cilium-config": api.get(CONFIGMAP, "cilium-config", cilium.namespace)["data"],
        "node configs": [
            {"name": item["metadata"]["name"], "spec": item["spec"]}
            for item in api.select(cilium.node_config, cilium.namespace)
        ],
        "labels": {node["metadata"]["name"]: node["metadata"]["labels"] for node in api.select(NODE)},
        "limits": {name: probe.limits(["eth0"]) for name, probe in probes.items()},
        "holder": ((lease or {}).get("spec") or {}).get("holderIdentity") or "",
        "config maps": sorted(item["metadata"]["name"] for item in ours),
        "services": sorted(item["metadata"]["name"] for item in api.select(SERVICE, NAMESPACE)),
        "cron jobs": sorted(item["metadata"]["name"] for item in api.select(CRONJOB, NAMESPACE)),
        # The pods of a guardian that has restored stay for a day, so that its log can be read.
        "pods": sorted(
            pod["metadata"]["name"]
            for pod in api.select(POD, NAMESPACE)
            if pod["metadata"]["labels"].get(ROLE_LABEL) != "guardian"
        ),
    }
