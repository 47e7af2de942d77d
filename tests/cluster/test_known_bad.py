"""Combinations that are known to go wrong, made from a recorded cluster: how each is judged, and what to do."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bigtcp_bench.cluster.api import Kind
from bigtcp_bench.cluster.checks import Check
from bigtcp_bench.cluster.cilium import Cilium, Merged, parse_status, version_of_image
from bigtcp_bench.cluster.fingerprint import Difference
from bigtcp_bench.cluster.kernels import lacks_ipv4_fix
from bigtcp_bench.cluster.nodes import NodePair, node_info
from bigtcp_bench.cluster.probe import NodeProbe
from bigtcp_bench.cluster.requirements import AgentSeen, Seen, judge
from bigtcp_bench.planning.plan import SCENARIOS, Way, validate_plan
from bigtcp_bench.readings.agent_log import Probe
from bigtcp_lab.faults import FAULTS

from .simulated import status_before_1_16

RECORDED = Path(__file__).parents[1] / "recorded"


def recorded(name: str) -> Any:
    return json.loads((RECORDED / name).read_text(encoding="utf-8"))


class World:
    """A recorded cluster (Cilium 1.18.3, native routing, both families) with ordinary cards, to be spoilt."""

    def __init__(self) -> None:
        self.image = "quay.io/cilium/cilium:v1.18.3"
        self.daemonset = recorded("daemonset-cilium.json")
        self.config = recorded("configmap-cilium-config.json")
        self.nodes = recorded("nodes.json")["items"]
        self.statuses = {name: recorded("cilium-status-off.json") for name in ("node1", "node2")}
        self.node_configs: list[dict[str, Any]] = []
        self.served: Kind | None = Kind("cilium.io", "v2", "ciliumnodeconfigs")
        self.probes = {name: self._probe(name) for name in ("node1", "node2")}
        self.scenarios = "ipv4-stream-1,ipv6-rr"
        self.unreachable: dict[Way, str] = {}
        self.behind: set[str] = set()
        self.cpu_limits: dict[str, str] = {}
        self.pending: dict[str, list[Difference]] = {}
        for node in self.nodes:
            node["metadata"]["labels"]["topology.kubernetes.io/zone"] = "a"

    def _probe(self, name: str) -> dict[str, Any]:
        devices = {
            link["ifname"]: {
                "index": link["ifindex"],
                "kind": (link.get("linkinfo") or {}).get("info_kind"),
                **{key: value for key, value in link.items() if key.endswith("_max_size") or key == "mtu"},
            }
            for link in recorded("node-ip-link-off.json")
        }
        devices["eth0"].update(kind=None, driver="mlx5_core", speed_mbps=100_000)
        moment = {"time_s": 1.0, "monotonic_s": 1.0, "user_hz": 100, "devices": devices}
        return {
            "hostname": name,
            "kernel_release": "6.18.0",
            "capabilities": {"ipv4_big_tcp": True, "ipv6_big_tcp": True},
            "earlier": {**moment, "proc_stat": "cpu  0 0 0 0 0 0 0 0 0 0\n"},
            "snapshot": {
                **moment,
                "monotonic_s": 3.0,
                "proc_stat": "cpu  20 0 0 380 0 0 0 0 0 0\n",
                "meminfo": "MemTotal: 64000000 kB\nMemAvailable: 60000000 kB\n",
            },
        }

    # What is spoilt most often

    def cilium(self, tag: str, **config: str) -> None:
        self.image = f"quay.io/cilium/cilium:{tag}"
        self.status(cilium={"msg": f"{tag.removeprefix('v')} ({tag}-abc)" if tag.startswith("v") else ""})
        self.config["data"].update({key.replace("_", "-"): value for key, value in config.items()})

    def status(self, **sections: Any) -> None:
        for document in self.statuses.values():
            for name, value in sections.items():
                key = name.replace("_", "-")
                merged = isinstance(document.get(key), dict) and isinstance(value, dict)
                document[key] = {**document[key], **value} if merged else value

    def before_1_16(self, tag: str, **config: str) -> None:
        """Let an old Cilium run, whose agents tell neither routing nor datapath mode."""
        self.cilium(tag, **config)
        self.statuses = {name: status_before_1_16(document) for name, document in self.statuses.items()}

    def device(self, name: str, node: str = "node1", **fields: Any) -> None:
        for part in ("snapshot", "earlier"):
            devices = self.probes[node][part]["devices"]
            devices[name] = {"index": len(devices) + 70, "mtu": 1500, **devices.get(name, {}), **fields}

    def config_container(self, **fields: Any) -> None:
        containers = self.daemonset["spec"]["template"]["spec"]["initContainers"]
        next(item for item in containers if item["name"] == "config").update(fields)

    def takes(self, scenario: str, problem: str) -> None:
        """Let the plan take another path, too, on which nothing is reached."""
        self.scenarios += f",{scenario}"
        self.unreachable[SCENARIOS[scenario].way] = problem

    def judged(self, **plan: Any) -> list[Check]:
        the_plan = validate_plan({"scenarios": self.scenarios, **plan})
        pair = NodePair(*(node_info(node) for node in self.nodes[:2]))
        off: Merged = {"ipv4": False, "ipv6": False}
        seen = Seen(
            server="v1.36.2 at https://recorded",
            cilium=Cilium("kube-system", "cilium", self.image, version_of_image(self.image), self.served),
            daemonset=self.daemonset,
            config=self.config,
            node_configs=self.node_configs,
            nodes=self.nodes,
            agents={
                name: AgentSeen(
                    "cilium-x",
                    parse_status(document),
                    off,
                    current=name not in self.behind,
                    pending=self.pending.get(name, []),
                )
                for name, document in self.statuses.items()
            },
            hold=[],
        )
        probes = {
            name: NodeProbe(name, Probe.model_validate(one), self.cpu_limits.get(name, ""))
            for name, one in self.probes.items()
        }
        return judge(seen, the_plan, pair, probes, self.unreachable)


def test_the_recorded_cluster_itself_passes() -> None:
    assert [str(check) for check in World().judged() if check.status != "pass"] == []


@pytest.mark.parametrize("tag", ["v1.14.19", "v1.15.19"])
def test_releases_whose_agents_tell_less_pass(tag: str) -> None:
    world = World()
    world.before_1_16(tag)
    assert [str(check) for check in world.judged() if check.status != "pass"] == []


def test_native_routing_in_the_way_of_older_charts_passes() -> None:
    world = World()
    world.before_1_16("v1.14.2", tunnel="disabled")
    del world.config["data"]["routing-mode"]
    assert [str(check) for check in world.judged() if check.status != "pass"] == []


@pytest.mark.parametrize("kind", ["vxlan", "geneve"])
def test_a_tunnel_device_that_native_routing_does_not_use_is_only_mentioned(kind: str) -> None:
    world = World()
    for node in world.probes:
        world.device(f"cilium_{kind}", node=node, kind=kind, tso_max_size=65536)
    lines = [check for check in world.judged() if check.status != "pass"]
    assert {(line.name, line.status) for line in lines} == {("tunnel devices", "warn")}


def test_an_agents_own_version_counts_more_than_the_tag_of_its_image() -> None:
    world = World()
    world.image = "registry/cilium:2026.07.1"
    assert [str(check) for check in world.judged() if check.status != "pass"] == []
    world.status(cilium={"msg": "1.12.4 (v1.12.4-abc)"})
    lines = {check.name: check for check in world.judged() if check.status == "fail"}
    assert lines["Cilium version"].found == "1.12.4"
    world.image = "registry/cilium@sha256:0123"
    assert {check.name: check.found for check in world.judged()}["Cilium version"] == "1.12.4"


def test_an_agent_that_a_dead_node_keeps_from_following_stops_no_run_on_two_others() -> None:
    def line(**plan: Any) -> Check:
        return next(check for check in world.judged(**plan) if check.name == "Cilium rollout")

    world = World()
    world.daemonset["status"].update(desiredNumberScheduled=1000, updatedNumberScheduled=999, numberReady=999)
    assert (line().status, line(scope="cluster").status) == ("warn", "fail")
    world.behind = {"node2"}
    assert (line().status, "an older one on node2" in line().found) == ("fail", True)
    world.daemonset["spec"]["updateStrategy"]["type"] = "OnDelete"
    assert "delete the pods" in line().advice
    world.behind = set()
    assert line().status == "warn"
    world.daemonset["metadata"]["generation"] += 1
    assert line().status == "fail"


def test_every_device_below_is_looked_at_and_a_circle_ends() -> None:
    world = World()
    world.device("bond0", kind="bond", index=90)
    world.device("bond0.50", kind="vlan", peer_index=90)
    world.device("eth0", master="bond0")
    world.device("eth1", driver="mlx5_core", master="bond0")
    world.device("a", kind="vlan", index=101, peer_index=102)
    world.device("b", kind="vlan", index=102, peer_index=101)
    probed = NodeProbe("node1", Probe.model_validate(world.probes["node1"]))
    assert probed.carriers("bond0.50") == ["bond0", "eth0", "eth1"]
    assert probed.cards("bond0.50") == ["eth0", "eth1"]
    assert probed.cards("eth0") == ["eth0"]
    assert probed.carriers("a") == ["b"]


Spoil = Callable[[World], object]
BAD: dict[str, tuple[Spoil, str, str, str, str]] = {
    # What it is: how it comes about, the line, how it is judged, words of the finding, words of the advice.
    "1.19.0 with a tunnel device": (
        lambda w: (w.cilium("v1.19.0"), w.device("cilium_vxlan", kind="vxlan", tso_max_size=524280)),
        *("tunnel devices", "fail", "cilium_vxlan with Cilium 1.19.0", "upgrade to a later release first"),
    ),
    "1.19.5 with a tunnel device": (
        lambda w: (w.cilium("v1.19.5"), w.device("cilium_geneve", kind="geneve", tso_max_size=524280)),
        *("tunnel devices", "fail", "cilium_geneve with Cilium 1.19.5", "upgrade to a later release first"),
    ),
    "1.19.6 with a tunnel device": (
        lambda w: (w.cilium("v1.19.6"), w.device("cilium_vxlan", kind="vxlan", tso_max_size=524280)),
        *("tunnel devices", "warn", "cilium_vxlan", "no BIG TCP on most kernels"),
    ),
    "1.19.3 told by its agents only, with a tunnel device": (
        lambda w: (
            w.cilium("@sha256:0123"),
            w.status(cilium={"msg": "1.19.3 (v1.19.3-abc)"}),
            w.device("cilium_vxlan", kind="vxlan", tso_max_size=524280),
        ),
        *("tunnel devices", "fail", "with Cilium 1.19.3", "upgrade"),
    ),
    "tunnel routing on 1.20 with a weak tunnel device": (
        lambda w: (
            w.cilium("v1.20.0"),
            w.status(routing={"inter-host-routing-mode": "Tunnel"}),
            w.device("cilium_vxlan", kind="vxlan", tso_max_size=65536),
        ),
        *("device", "fail", "cilium_vxlan: vxlan", "native routing is needed"),
    ),
    "1.13": (lambda w: w.cilium("v1.13.9"), "Cilium version", "fail", "1.13.9", "from 1.14 on; upgrade"),
    "an image without a version": (
        lambda w: w.cilium("@sha256:0123"),
        *("Cilium version", "warn", "not told by image", "1.14 or newer"),
    ),
    "tunnel routing on 1.18": (
        lambda w: w.status(routing={"inter-host-routing-mode": "Tunnel"}),
        *("routing mode", "fail", "Tunnel", "does not start with BIG TCP and tunneling"),
    ),
    "tunnel routing on 1.19.1 without its flag": (
        lambda w: (w.cilium("v1.19.1"), w.status(routing={"inter-host-routing-mode": "Tunnel"})),
        *("routing mode", "fail", "Tunnel", "on others the agent may not start"),
    ),
    "tunnel routing on 1.20": (
        lambda w: (w.cilium("v1.20.0"), w.status(routing={"inter-host-routing-mode": "Tunnel"})),
        *("routing mode", "warn", "Tunnel", "needs a kernel whose tunnel devices can do it"),
    ),
    "tunnel routing on 1.15, whose agents do not tell it": (
        lambda w: w.before_1_16("v1.15.19", routing_mode="tunnel"),
        *("routing mode", "fail", "Tunnel", "does not start with BIG TCP and tunneling"),
    ),
    "no BPF host routing": (
        lambda w: w.status(routing={"intra-host-routing-mode": "Legacy"}),
        *("host routing", "fail", "Legacy", "kubeProxyReplacement and bpf.masquerade"),
    ),
    "WireGuard": (
        lambda w: w.status(encryption={"mode": "Wireguard"}),
        *("encryption", "fail", "Wireguard", "there is no BIG TCP to measure"),
    ),
    "IPsec": (
        lambda w: w.status(encryption={"mode": "IPsec"}),
        *("encryption", "fail", "IPsec", "with IPsec the agent would not start"),
    ),
    "netkit before 1.16": (
        lambda w: (w.cilium("v1.15.3"), w.status(datapath_mode="netkit")),
        *("datapath mode", "fail", "netkit", "any mode but veth"),
    ),
    "netkit on an image without a version": (
        lambda w: (w.cilium("@sha256:0123"), w.status(cilium={"msg": ""}, datapath_mode="netkit")),
        *("datapath mode", "warn", "netkit", "known to work with veth and netkit"),
    ),
    "another datapath on 1.15, whose agents do not tell it": (
        lambda w: w.before_1_16("v1.15.19", datapath_mode="lb-only"),
        *("datapath mode", "fail", "lb-only", "any mode but veth"),
    ),
    "CNI chaining with AWS": (
        lambda w: w.status(cni_chaining={"mode": "aws-cni"}),
        *("CNI chaining", "fail", "aws-cni", "Cilium sets no limits on these"),
    ),
    "CNI chaining in general": (
        lambda w: w.status(cni_chaining={"mode": "generic-veth"}),
        *("CNI chaining", "fail", "generic-veth", "has to be the CNI itself"),
    ),
    "CNI chaining that only the configuration tells": (
        lambda w: (w.cilium("v1.18.3", cni_chaining_mode="aws-cni"), w.status(cni_chaining={"mode": ""})),
        *("CNI chaining", "fail", "aws-cni", "no pod gets BIG TCP"),
    ),
    "a default CPU limit": (
        lambda w: w.cpu_limits.update(node1="200m"),
        *(
            "CPU limit",
            "fail",
            "pods get a CPU limit of 200m",
            "take the default out of the namespace's LimitRange",
        ),
    ),
    "agents that wait for a restart": (
        lambda w: w.pending.update(node1=[Difference("enable-host-legacy-routing", None, "true")]),
        *("pending settings", "fail", "enable-host-legacy-routing not set → true", "restart them first"),
    ),
    "an unknown datapath": (
        lambda w: w.status(datapath_mode="ipvlan"),
        *("datapath mode", "warn", "ipvlan", "known to work with veth and netkit"),
    ),
    "no kube-proxy replacement": (
        lambda w: w.status(kube_proxy_replacement={"mode": "False"}),
        *("kube-proxy replacement", "warn", "False", "documents BIG TCP with it only"),
    ),
    "masquerading by iptables": (
        lambda w: w.status(masquerading={"mode": "IPTables"}),
        *("masquerading", "warn", "IPTables", "bpf.masquerade=true"),
    ),
    "DSR by IPIP on 1.19": (
        lambda w: w.cilium("v1.19.6", bpf_lb_mode="dsr", bpf_lb_dsr_dispatch="ipip"),
        *("DSR dispatch", "fail", "ipip", "does not start with BIG TCP and this dispatch"),
    ),
    "DSR by Geneve on 1.19.1": (
        lambda w: w.cilium("v1.19.1", bpf_lb_mode="hybrid", bpf_lb_dsr_dispatch="geneve"),
        *("DSR dispatch", "fail", "geneve", "use opt"),
    ),
    "a dispatch by Geneve on 1.19.2, without DSR": (
        lambda w: w.cilium("v1.19.2", bpf_lb_mode="snat", bpf_lb_dsr_dispatch="geneve"),
        *("DSR dispatch", "fail", "geneve", "use opt"),
    ),
    "DSR by Geneve on 1.19.1, told by its agents only": (
        lambda w: (
            w.cilium("@sha256:0123", bpf_lb_mode="dsr", bpf_lb_dsr_dispatch="geneve"),
            w.status(cilium={"msg": "1.19.1 (v1.19.1-abc)"}),
        ),
        *("DSR dispatch", "fail", "geneve", "Cilium 1.19.1 does not start"),
    ),
    "DSR by Geneve on 1.18": (
        lambda w: w.cilium("v1.18.3", bpf_lb_mode="dsr", bpf_lb_dsr_dispatch="geneve"),
        *("DSR dispatch", "warn", "geneve", "pod to pod, which is measured, has"),
    ),
    "no IPv6 in the cluster": (
        lambda w: w.cilium("v1.18.3", enable_ipv6="false"),
        *("IP families", "fail", "pods have no ipv6 address", "leave the ipv6 scenarios out"),
    ),
    "a denied key": (
        lambda w: w.config_container(args=["--deny-config-keys=enable-ipv4-big-tcp"]),
        *(
            "config overrides",
            "fail",
            "enable-ipv4-big-tcp may not be overridden",
            "daemon.blockedConfigOverrides",
        ),
    ),
    "a key that is not allowed": (
        lambda w: w.config_container(args=["--allow-config-keys", "enable-ipv4-big-tcp"]),
        *("config overrides", "fail", "enable-ipv6-big-tcp is not among", "daemon.allowedConfigOverrides"),
    ),
    "no node configuration among the sources": (
        lambda w: w.config_container(args=["--source=config-map:cilium-config"]),
        *("config overrides", "fail", "the sources are config-map:cilium-config", "daemon.configSources"),
    ),
    "node configurations of another namespace only": (
        lambda w: w.config_container(args=["--source=config-map:cilium-config,cilium-node-config:site"]),
        *("config overrides", "fail", "cilium-node-config:site", "daemon.configSources"),
    ),
    "one node configuration by its name": (
        lambda w: w.config_container(
            args=["--source=config-map:cilium-config,cilium-node-config:kube-system/site"]
        ),
        *("config overrides", "fail", "cilium-node-config:kube-system/site", "daemon.configSources"),
    ),
    "another source after the node configurations": (
        lambda w: w.config_container(
            args=["--source=config-map:cilium-config,cilium-node-config,config-map:site"]
        ),
        *(
            "config overrides",
            "warn",
            "source config-map:site is applied after",
            "sets neither enable-ipv4-big-tcp",
        ),
    ),
    "an annotation of the node that wins": (
        lambda w: (
            w.config_container(args=["--source=config-map:cilium-config,cilium-node-config:kube-system,node:"]),
            w.nodes[0]["metadata"]["annotations"].update({"config.cilium.io/enable-ipv6-big-tcp": "false"}),
        ),
        *("node config", "fail", "annotation config.cilium.io/enable-ipv6-big-tcp of the node", "remove it"),
    ),
    "a packaging without the init container": (
        lambda w: w.config_container(name="mount-cgroup"),
        *("config overrides", "fail", "has no init container config", "scope cluster does without"),
    ),
    "a distribution without CiliumNodeConfig": (
        lambda w: setattr(w, "served", None),
        *("CiliumNodeConfig", "fail", "serves no cilium.io CiliumNodeConfig", "managed distributions"),
    ),
    "Argo CD": (
        lambda w: w.daemonset["metadata"]["annotations"].update({"argocd.argoproj.io/tracking-id": "cilium:apps"}),
        *("managed by", "warn", "Argo CD keeps Cilium's objects as they are in Git", "does not prune foreign"),
    ),
    "Flux": (
        lambda w: w.config["metadata"].setdefault("labels", {}).update({"helm.toolkit.fluxcd.io/name": "cilium"}),
        *("managed by", "warn", "Flux keeps", "does not prune foreign"),
    ),
    "Argo CD, by its label alone": (
        lambda w: (
            w.daemonset["metadata"]["labels"].update({"app.kubernetes.io/instance": "cilium"}),
            w.daemonset["metadata"]["annotations"].pop("meta.helm.sh/release-name"),
        ),
        *("managed by", "warn", "Argo CD (label tracking) or a similar tool keeps", "does not prune foreign"),
    ),
    "the addon manager of a managed cluster": (
        lambda w: w.daemonset["metadata"]["labels"].update({"addonmanager.kubernetes.io/mode": "Reconcile"}),
        *("managed by", "warn", "the addon manager keeps Cilium's objects as they are at their source", "foreign"),
    ),
    "kops": (
        lambda w: w.daemonset["metadata"]["labels"].update({"app.kubernetes.io/managed-by": "kops"}),
        *("managed by", "warn", "kops (app.kubernetes.io/managed-by)", "puts changed objects of Cilium back"),
    ),
    "another node configuration that wins": (
        lambda w: w.node_configs.append(
            {
                "metadata": {"name": "zzz"},
                "spec": {
                    "nodeSelector": {"matchLabels": {"kubernetes.io/hostname": "node1"}},
                    "defaults": {"enable-ipv6-big-tcp": "false"},
                },
            }
        ),
        *("node config", "fail", "zzz sets enable-ipv6-big-tcp", "rename it"),
    ),
    "a rollout under way": (
        lambda w: (w.daemonset["status"].update(updatedNumberScheduled=1), w.behind.add("node1")),
        *("Cilium rollout", "fail", "1 of the present template, an older one on node1", "wait for its end"),
    ),
    "a rollout that some other node does not follow": (
        lambda w: w.daemonset["status"].update(updatedNumberScheduled=1),
        *("Cilium rollout", "warn", "1 of the present template", "both nodes of the pair are through it"),
    ),
    "a kernel from 6.7 without the IPv4 fix": (
        lambda w: w.probes["node1"].update(kernel_release="6.8.0-90-generic"),
        *("kernel, IPv4 fix", "warn", "segments big IPv4 packets where only IPv4", "enables both families"),
    ),
    "a kernel without IPv4 BIG TCP": (
        lambda w: w.probes["node1"].update(capabilities={"ipv4_big_tcp": False, "ipv6_big_tcp": True}),
        *("kernel, ipv4", "fail", "lo has no gso_ipv4_max_size", "Linux 6.3 or a distribution's backport"),
    ),
    "a kernel without any BIG TCP": (
        lambda w: w.probes["node1"].update(capabilities={"ipv4_big_tcp": False, "ipv6_big_tcp": False}),
        *("kernel, ipv6", "fail", "lo has no tso_max_size", "Linux 5.19"),
    ),
    "kind: the node is a container": (
        lambda w: w.nodes[0]["spec"].update(providerID="kind://docker/kind/kind-worker"),
        *("node", "warn", "itself a container (kind)", "its figures say little"),
    ),
    "kind: the outer veth": (
        lambda w: w.device("eth0", kind="veth", driver="veth"),
        *("device", "warn", "eth0: veth", "of its other end too, or packets arrive segmented"),
    ),
    "virtio_net": (
        lambda w: w.device("eth0", driver="virtio_net", tso_max_size=65536),
        *("device", "fail", "virtio_net, 100 Gbit/s, MTU 1500, tso_max_size 65536", "BIG TCP cannot be on"),
    ),
    "dummy0 among Cilium's devices": (
        lambda w: (
            w.device("dummy0", kind="dummy", tso_max_size=65536),
            w.status(kube_proxy_replacement={"devices": ["eth0", "dummy0"], "deviceList": []}),
        ),
        *("device", "fail", "dummy0: dummy", "take it out of Cilium's devices"),
    ),
    "a bond with one weak port": (
        lambda w: (
            w.device("bond0", kind="bond", tso_max_size=524280, index=90),
            w.device("eth0", master="bond0"),
            w.device("eth1", driver="tg3", tso_max_size=65536, master="bond0"),
            w.status(kube_proxy_replacement={"devices": ["bond0"], "deviceList": []}),
        ),
        *("device", "fail", "eth1 (carries bond0): tg3", "cannot take packets above 65536"),
    ),
    "a VLAN on a bond with one weak port": (
        lambda w: (
            w.device("bond0", kind="bond", tso_max_size=524280, index=90),
            w.device("bond0.50", kind="vlan", tso_max_size=524280, peer_index=90),
            w.device("eth0", master="bond0"),
            w.device("eth1", driver="tg3", tso_max_size=65536, master="bond0"),
            w.status(kube_proxy_replacement={"devices": ["bond0.50"], "deviceList": []}),
        ),
        *("device", "fail", "eth1 (carries bond0.50): tg3", "cannot take packets above 65536"),
    ),
    "a VLAN on a weak card": (
        lambda w: (
            w.device("eth1", driver="ena", tso_max_size=65536, index=91),
            w.device("eth1.5", kind="vlan", tso_max_size=524280, peer_index=91),
            w.status(kube_proxy_replacement={"devices": ["eth1.5"], "deviceList": []}),
        ),
        *("device", "fail", "eth1 (carries eth1.5): ena", "cannot take packets above 65536"),
    ),
    "devices that do not exist": (
        lambda w: (
            w.status(kube_proxy_replacement={"devices": ["ens9"], "deviceList": []}, host_firewall=None),
            w.nodes[0]["status"].update(addresses=[]),
        ),
        *("devices", "fail", "Cilium selects ens9", "the card that carries pod traffic"),
    ),
    "limits set by hand": (
        lambda w: w.device("eth0", gro_max_size=32768),
        *("limits", "fail", "gro_max_size is 32768 although BIG TCP is off", "Cilium would leave 65536 behind"),
    ),
    "little memory": (
        lambda w: w.probes["node1"]["snapshot"].update(meminfo="MemAvailable: 200000 kB\n"),
        *("memory", "warn", "0.2 GiB available", "short of memory"),
    ),
    "memory pressure": (
        lambda w: next(
            item for item in w.nodes[0]["status"]["conditions"] if item["type"] == "MemoryPressure"
        ).update(status="True"),
        *("node", "warn", "MemoryPressure", "evicts pods"),
    ),
    "a busy node": (
        lambda w: w.probes["node1"]["snapshot"].update(proc_stat="cpu  320 0 0 80 0 0 0 0 0 0\n"),
        *("load", "warn", "80% of the CPU time used", "a run waits up to 600 s for less"),
    ),
    "nodes that differ": (
        lambda w: w.device("eth0", node="node2", driver="bnxt_en", mtu=9000),
        *("nodes alike", "warn", "NIC driver mlx5_core and bnxt_en; MTU 1500 and 9000", "which of them sends"),
    ),
    "bonds that differ in their ports": (
        lambda w: [
            (
                w.device("bond0", node=node, kind="bond", index=90, tso_max_size=524280),
                w.device("eth0", node=node, master="bond0"),
                w.device("eth1", node=node, driver=driver, tso_max_size=524280, master="bond0"),
                w.status(kube_proxy_replacement={"devices": ["bond0"], "deviceList": []}),
            )
            for node, driver in (("node1", "ice"), ("node2", "mlx5_core"))
        ],
        *("nodes alike", "warn", "NIC driver mlx5_core + ice and mlx5_core + mlx5_core", "which of them sends"),
    ),
    "pods that do not reach each other": (
        lambda w: w.unreachable.update({Way("ipv6"): "cannot reach fd44::9 port 5203 over ipv6: timed out"}),
        *("pod to pod, ipv6", "fail", "cannot reach fd44::9", "routes and firewalls"),
    ),
    "pods that a policy keeps apart": (
        lambda w: w.unreachable.update(
            {
                Way("ipv4"): "cannot reach 10.244.0.9 port 5203 over ipv4: timed out; Cilium on node2 dropped 4 "
                "packets meanwhile: Policy denied"
            }
        ),
        *("pod to pod, ipv4", "fail", "dropped 4 packets meanwhile: Policy denied", "networkpolicy.yaml"),
    ),
    "Services without a route": (
        lambda w: w.takes(
            "ipv6-rr@service", "cannot reach fd00:10:96::9 port 5203 over ipv6: Network is unreachable"
        ),
        *(
            "pod to Service, ipv6",
            "fail",
            "cannot reach fd00:10:96::9",
            "a route to the cluster's Service addresses",
        ),
    ),
    "Services of one IP family": (
        lambda w: w.takes(
            "ipv6-rr@service", "Service bigtcp-bench has no ipv6 address, so the cluster gives Services none"
        ),
        *("pod to Service, ipv6", "fail", "has no ipv6 address", "or leave @service out"),
    ),
    "a policy within one node": (
        lambda w: w.takes("ipv4-rr@same-node", "cannot reach 10.244.1.9 port 5203 over ipv4: timed out"),
        *("pod to pod on one node, ipv4", "fail", "cannot reach 10.244.1.9", "or leave @same-node out"),
    ),
    "nodes that nobody has chosen": (
        lambda w: (
            [node["metadata"]["labels"].pop("bigtcp-bench") for node in w.nodes],
            w.nodes.append(_renamed(w.nodes[1], "node3")),
        ),
        *("choice of nodes", "warn", "the first two of 3 by name", "label two nodes bigtcp-bench=true"),
    ),
    "more labelled nodes than two": (
        lambda w: w.nodes.append(_renamed(w.nodes[1], "node3")),
        *(
            "choice of nodes",
            "warn",
            "first usable two of 3 labelled bigtcp-bench=true",
            "take the label off the others",
        ),
    ),
}


def _renamed(node: dict[str, Any], name: str) -> dict[str, Any]:
    other = copy.deepcopy(node)
    other["metadata"]["name"] = name
    return other


@pytest.mark.parametrize("what", BAD)
def test_a_known_bad_combination(what: str) -> None:
    spoil, name, status, found, advice = BAD[what]
    world = World()
    spoil(world)
    lines = [check for check in world.judged() if check.name == name and check.status != "pass"]
    assert lines, f"no line {name!r} says anything"
    line = next((line for line in lines if found in line.found), lines[0])
    assert (line.status, found in line.found, advice in line.advice) == (status, True, True), str(line)
    assert line.node in ("", "node1"), "the other node is as it was"


@pytest.mark.parametrize("what", BAD)
def test_no_other_line_fails(what: str) -> None:
    spoil, name, _, _, _ = BAD[what]
    world = World()
    spoil(world)
    others = {check.name for check in world.judged() if check.status == "fail"} - {name}
    # Where the kernel knows no BIG TCP at all, it says so for either family.
    assert others <= ({"kernel, ipv4"} if what == "a kernel without any BIG TCP" else set())


OURS = "config-map:cilium-config,cilium-node-config"


@pytest.mark.parametrize(
    ("arguments", "marked"),
    [
        (["--source=config-map:cilium-config,cilium-node-config:"], False),
        # The sources are merged in their order.
        ([f"--source=node,{OURS}"], True),
        ([f"--source={OURS},node"], False),
        ([f"--source={OURS}"], True),
        # With a list of what is allowed, that of what is denied does not count.
        (
            [
                "--deny-config-keys=enable-ipv4-big-tcp",
                "--allow-config-keys=enable-ipv4-big-tcp,enable-ipv6-big-tcp",
            ],
            False,
        ),
        ([f"--source={OURS}", "--deny-config-keys=debug"], False),
    ],
)
def test_what_cilium_lets_a_node_configuration_override(arguments: list[str], marked: bool) -> None:
    world = World()
    world.config_container(args=arguments)
    if marked:
        world.nodes[0]["metadata"]["labels"]["config.cilium.io/enable-ipv4-big-tcp"] = "false"
    assert [str(check) for check in world.judged() if check.status != "pass"] == []


def test_a_dispatch_that_is_not_used_is_worth_no_warning() -> None:
    world = World()
    world.cilium("v1.18.3", bpf_lb_mode="snat", bpf_lb_dsr_dispatch="geneve")
    assert "DSR dispatch" not in {check.name for check in world.judged()}


@pytest.mark.parametrize(
    ("spoil", "name", "found"),
    [
        (lambda w: w.daemonset["spec"]["updateStrategy"].update(type="OnDelete"), "update strategy", "OnDelete"),
        (
            lambda w: w.daemonset["metadata"]["labels"].update({"argocd.argoproj.io/instance": "cilium"}),
            "managed by",
            "Argo CD",
        ),
        (
            lambda w: w.config["metadata"].update(labels={"app.kubernetes.io/instance": "cilium"}, annotations={}),
            "managed by",
            "label tracking",
        ),
        (
            lambda w: w.daemonset["metadata"]["labels"].update({"addonmanager.kubernetes.io/mode": "Reconcile"}),
            "managed by",
            "the addon manager",
        ),
    ],
)
def test_what_scope_cluster_cannot_do(spoil: Spoil, name: str, found: str) -> None:
    world = World()
    spoil(world)
    lines = {check.name: check for check in world.judged(scope="cluster")}
    assert (lines[name].status, found in lines[name].found) == ("fail", True)
    assert "use scope nodes" in lines[name].advice
    assert lines["scope"].status == "warn"


@pytest.mark.parametrize("scope", ["nodes", "cluster"])
def test_a_managed_cilium_that_can_be_measured_in_no_way_says_so(scope: str) -> None:
    """GKE's Dataplane V2: no CiliumNodeConfig, and an addon manager that puts cilium-config back."""
    world = World()
    world.daemonset["metadata"]["name"] = "anetd"
    world.daemonset["metadata"]["labels"]["addonmanager.kubernetes.io/mode"] = "Reconcile"
    world.served = None
    world.config_container(name="other")
    (line,) = [check for check in world.judged(scope=scope) if check.status == "fail"]
    assert "use scope" not in line.advice
    other = {"nodes": "cluster", "cluster": "nodes"}[scope]
    assert f"scope {other} is no way either: " in line.advice
    assert line.advice.endswith(
        "a managed Cilium like this cannot be measured, only one that you install yourself"
    )


def test_a_managed_cilium_that_follows_ciliumnodeconfigs_is_measured_by_them() -> None:
    """AKS: the addon manager puts cilium-config back, but agents merge what a CiliumNodeConfig says."""
    world = World()
    world.daemonset["metadata"]["labels"]["addonmanager.kubernetes.io/mode"] = "Reconcile"
    assert [check.name for check in world.judged() if check.status == "fail"] == []
    (line,) = [check for check in world.judged(scope="cluster") if check.status == "fail"]
    assert line.advice.endswith("; use scope nodes")


def test_two_obstacles_of_ones_own_making_do_not_point_at_each_other() -> None:
    world = World()
    world.daemonset["spec"]["updateStrategy"]["type"] = "OnDelete"
    world.config_container(args=["--deny-config-keys=enable-ipv4-big-tcp"])
    for scope in ("nodes", "cluster"):
        (line,) = [check for check in world.judged(scope=scope) if check.status == "fail"]
        assert "is no way either: " in line.advice
        assert "managed" not in line.advice


def test_host_ports_by_chaining_portmap_are_no_obstacle() -> None:
    world = World()
    world.status(cni_chaining={"mode": "portmap"})
    assert [str(check) for check in world.judged() if check.status != "pass"] == []


def test_a_plan_that_refuses_busy_nodes() -> None:
    world = World()
    world.probes["node2"]["snapshot"].update(proc_stat="cpu  320 0 0 80 0 0 0 0 0 0\n")
    lines = {(check.name, check.node): check for check in world.judged(load_gate={"mode": "refuse"})}
    assert (lines["load", "node2"].status, lines["load", "node1"].status) == ("fail", "pass")
    assert "load_gate refuses that" in lines["load", "node2"].advice


def test_every_line_that_does_not_pass_says_what_to_do() -> None:
    for spoil, *_ in BAD.values():
        world = World()
        spoil(world)
        assert [check.name for check in world.judged() if check.status != "pass" and not check.advice] == []


def test_the_table_of_the_documents_has_every_case() -> None:
    table = (RECORDED.parents[1] / "docs" / "generated" / "checks.md").read_text(encoding="utf-8")
    missing = [name for name in BAD if f"\n| {name} |" not in table]
    missing += [name for name in FAULTS if not re.search(rf"\n\| `{name}(:node2)?` \|", table)]
    assert missing == [], "run: python -m benchmarks.check_faults > docs/generated/checks.md"


@pytest.mark.parametrize(
    ("release", "lacks"),
    [
        ("6.6.54", True),
        ("6.6.55", False),
        ("6.7.0", True),
        ("6.8.0-90-generic", True),
        ("6.9.12", True),
        ("6.10.13", True),
        ("6.10.14-arch1", False),
        ("6.11.2", True),
        ("6.11.3", False),
        ("6.11", True),
        ("6.12.0", False),
        ("6.18.44", False),
        ("7.0.1", False),
        ("6.4.16", False),
        ("5.14.0-503.el9", False),
        ("something else", False),
    ],
)
def test_kernels_without_the_ipv4_fix(release: str, lacks: bool) -> None:
    assert lacks_ipv4_fix(release) is lacks
