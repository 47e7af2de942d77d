"""What a run's figures depend on beside BIG TCP: the columns of its row that describe nodes, NIC and Cilium."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bigtcp_bench.cluster.api import NAMESPACE, NODE, ClusterApi, Forbidden, JsonObject
from bigtcp_bench.cluster.checks import Check
from bigtcp_bench.cluster.cilium import AgentStatus, Cilium, ready_agent
from bigtcp_bench.cluster.fingerprint import datapath_config
from bigtcp_bench.cluster.load import busy_cpus
from bigtcp_bench.cluster.nodes import NodeInfo, NodePair
from bigtcp_bench.cluster.probe import NodeProbe
from bigtcp_bench.in_cluster.protocol import NODE_CONFIG_NAME, selects

if TYPE_CHECKING:
    from bigtcp_bench.cluster.requirements import Preflight

#: What the lab's nodes name as their container runtime; reports say that they are emulated.
LAB_RUNTIME = "bigtcp-bench-lab://"
#: Every cluster has this namespace from its beginning to its end; its uid stands for the cluster.
FIRST_NAMESPACE = "kube-system"


def describe(api: ClusterApi, pair: NodePair, found: Preflight, checks: Sequence[Check]) -> dict[str, Any]:
    """Return the columns of ``bigtcp_run`` that describe the environment; NIC and MTU are the sending node's.

    ``found`` is complete; ``checks`` are its own, and others.
    """
    cilium, probes, statuses = found.seen.cilium, found.probes, found.seen.statuses
    agent = ready_agent(api, cilium, pair.client.name)
    status = statuses[pair.client.name]
    client, server = probes[pair.client.name], probes[pair.server.name]
    paths = {node.name: _path(node, probes, statuses) for node in pair.nodes}
    path = paths[pair.client.name]
    nic = client.devices[path[0]] if path else None
    config = found.seen.config.get("data") or {}
    tools = client.document.get("tools") or {}
    emulated = _runtime(api, pair.client.name).startswith(LAB_RUNTIME)
    return {
        "client_node": pair.client.name,
        "server_node": pair.server.name,
        "client_kernel": client.kernel_release,
        "server_kernel": server.kernel_release,
        "nic_driver": nic.driver if nic else None,
        "nic_tso_max_size": nic.tso_max_size if nic else None,
        "mtu": nic.mtu if nic else None,
        # Without the commit that the agent adds in brackets, so that one version is one word in every query.
        "cilium_version": status.version.partition(" ")[0],
        "cilium_config": merged_config(config, overriding(api, cilium, pair.names)),
        "images": {
            "cilium": cilium.image,
            "cilium_ids": [item.get("imageID") for item in agent["status"].get("containerStatuses") or []],
        },
        "tool_versions": tools,
        "iperf3_version": _iperf3_version(tools.get("iperf3")),
        "environment": {
            "pair": pair.to_dict(),
            "emulated": emulated,
            # Every lab is made anew.
            "cluster_uid": None if emulated else cluster_uid(api),
            "kubernetes_version": api.version(),
            "path_devices": path,
            "tso_max_size": {name: _ceilings(probes[name], of_node) for name, of_node in paths.items()},
            "busy_cpus": busy_cpus({name: probe.document for name, probe in probes.items()}),
            "boot_ids": {name: probe.document.get("boot_id") for name, probe in probes.items()},
        },
        "checks": [check.to_dict() for check in checks],
    }


def cluster_uid(api: ClusterApi) -> str | None:
    """Return what tells this cluster from every other one, or None if the account in use may not read it."""
    try:
        return str(api.get(NAMESPACE, FIRST_NAMESPACE)["metadata"]["uid"])
    except Forbidden:
        return None


def overriding(api: ClusterApi, cilium: Cilium, nodes: Sequence[str]) -> dict[str, list[JsonObject]]:
    """Return node → the CiliumNodeConfigs that select it, in the order in which Cilium applies them.

    The benchmark's own is not among them: it is there during a run only, and sets BIG TCP alone. A node that is
    gone is left out; empty where there is no CiliumNodeConfig of anybody else.
    """
    found = api.select(cilium.node_config, cilium.namespace) if cilium.node_config and nodes else []
    others = [item for item in found if item["metadata"]["name"] != NODE_CONFIG_NAME]
    others.sort(key=lambda item: str(item["metadata"]["name"]))
    there = {name: api.find(NODE, name) for name in nodes} if others else {}
    return {
        name: [
            item
            for item in others
            if selects((item.get("spec") or {}).get("nodeSelector"), node["metadata"].get("labels") or {})
        ]
        for name, node in there.items()
        if node is not None
    }


def merged_config(
    data: Mapping[str, str], overriding: Mapping[str, Sequence[JsonObject]]
) -> dict[str, str | None]:
    """Return the datapath's configuration as new agents would be told it; None for a key that is not set.

    ``data`` is that of ``cilium-config``, ``overriding`` says what each node has over it. Where nodes would be
    told different values, all of them are given, each with its node.
    """
    told = {}
    for name, configs in overriding.items():
        merged = dict(data)
        for item in configs:
            merged.update((item.get("spec") or {}).get("defaults") or {})
        told[name] = datapath_config(merged)
    result = datapath_config(data)
    for key in result:
        values = {name: config[key] for name, config in told.items()}
        if len(set(values.values())) > 1:
            shown = {name: "not set" if value is None else value for name, value in values.items()}
            result[key] = ", ".join(f"{value} on {name}" for name, value in shown.items())
        elif values:
            result[key] = next(iter(values.values()))
    return result


def _path(node: NodeInfo, probes: Mapping[str, NodeProbe], statuses: Mapping[str, AgentStatus]) -> list[str]:
    return probes[node.name].path_devices(statuses[node.name], node.internal_ips)


def _ceilings(seen: NodeProbe, path: Sequence[str]) -> dict[str, int]:
    """Return device → ``tso_max_size`` in bytes: of the devices of ``path``, and of those below."""
    names = [*path, *(below for name in path for below in seen.carriers(name))]
    return {name: size for name in names if (size := seen.devices[name].tso_max_size)}


def _iperf3_version(line: str | None) -> str | None:
    """Return ``3.12`` of ``iperf 3.12 (cJSON 1.7.15)``."""
    words = (line or "").split()
    return words[1] if len(words) > 1 else None


def _runtime(api: ClusterApi, node: str) -> str:
    return str(api.get(NODE, node)["status"]["nodeInfo"]["containerRuntimeVersion"])
