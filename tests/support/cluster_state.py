"""Everything in a cluster that a run may touch, in one value to hold against itself before and after."""

from __future__ import annotations

import json
from typing import Any

from bigtcp_bench.cluster.api import CONFIGMAP, LEASE, NODE, POD, SERVICE, ClusterApi
from bigtcp_bench.cluster.cilium import AGENT_CONTAINER, find_cilium, ready_agent
from bigtcp_bench.cluster.guardian_objects import CRONJOB
from bigtcp_bench.cluster.pods import AGENT_CONFIGMAP, ROLE_LABEL

NAMESPACE = "bigtcp-bench"
NODES = ("node1", "node2")
#: The lab's agents are on the nodes' own network, as a probe is, and have the library. A probe is two pods more.
_PRINT_LIMITS = (
    "import json, sys; sys.path.append('/.lab/lib'); from bigtcp_bench.in_cluster.devices import device_limits; "
    "print(json.dumps(device_limits()['eth0']))"
)


def device_limits(api: ClusterApi) -> dict[str, dict[str, int]]:
    """Return node → the limits of its device, as the kernel says."""
    cilium = find_cilium(api)
    agents = {node: ready_agent(api, cilium, node)["metadata"]["name"] for node in NODES}
    argv = ["python3", "-S", "-c", _PRINT_LIMITS]
    return {
        node: json.loads(api.exec(cilium.namespace, agent, AGENT_CONTAINER, argv))
        for node, agent in agents.items()
    }


def cluster_state(api: ClusterApi) -> dict[str, Any]:
    """Return Cilium's objects, node labels, device limits, and our own leftovers and hold on the cluster."""
    cilium = find_cilium(api)
    assert cilium.node_config is not None
    lease = api.find(LEASE, "bigtcp-bench", NAMESPACE)
    ours = api.select(CONFIGMAP, NAMESPACE, labels="app.kubernetes.io/name=bigtcp-bench")
    return {
        "cilium-config": api.get(CONFIGMAP, "cilium-config", cilium.namespace)["data"],
        "node configs": [
            {"name": item["metadata"]["name"], "spec": item["spec"]}
            for item in api.select(cilium.node_config, cilium.namespace)
        ],
        "labels": {node["metadata"]["name"]: node["metadata"]["labels"] for node in api.select(NODE)},
        "limits": device_limits(api),
        "holder": ((lease or {}).get("spec") or {}).get("holderIdentity") or "",
        # The first run on a cluster leaves the agent's source.
        "config maps": sorted(name for item in ours if (name := item["metadata"]["name"]) != AGENT_CONFIGMAP),
        "services": sorted(item["metadata"]["name"] for item in api.select(SERVICE, NAMESPACE)),
        "cron jobs": sorted(item["metadata"]["name"] for item in api.select(CRONJOB, NAMESPACE)),
        # The pods of a guardian that has restored stay for a day, so that its log can be read.
        "pods": sorted(
            pod["metadata"]["name"]
            for pod in api.select(POD, NAMESPACE)
            if pod["metadata"]["labels"].get(ROLE_LABEL) != "guardian"
        ),
    }
