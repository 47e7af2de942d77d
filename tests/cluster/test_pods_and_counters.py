"""Pods as they are applied, and counters as they are read."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import kubernetes.client
import pytest

from bigtcp_bench.cluster import pods
from bigtcp_bench.cluster.api import ClusterApi
from bigtcp_bench.cluster.node_counters import CILIUM_METRICS, counters_of, deltas, node_growth
from bigtcp_bench.in_cluster.protocol import epoch
from bigtcp_bench.readings.orders import ProbeOrders
from bigtcp_bench.resources import include_dir, load_manifests

RECORDED = Path(__file__).parents[1] / "recorded"


@pytest.mark.parametrize("role", ["server", "client", "probe"])
def test_pods_are_good_neighbours(role: pods.Role) -> None:
    pod = pods.build_pod(
        role,
        image="registry/x:1",
        node="n1",
        orders='{"do":"x"}',
        deadline_s=77,
        labels={"a": "b"},
        pull_secrets=["s"],
    )
    spec = pod["spec"]
    (container,) = spec["containers"]
    assert (container["name"], container["image"], container["args"]) == ("base", "registry/x:1", ['{"do":"x"}'])
    assert pods.node_of(pod) == "n1"
    assert "nodeName" not in spec
    assert spec["activeDeadlineSeconds"] == 77
    assert spec["restartPolicy"] == "Never"
    assert spec["automountServiceAccountToken"] is False
    assert spec["priorityClassName"] == "bigtcp-bench"
    anything_new = [{"operator": "Exists", "effect": "NoSchedule"}] if role == "probe" else []
    assert spec["tolerations"] == [{"key": "bigtcp-bench", "operator": "Exists"}, *anything_new]
    assert spec["imagePullSecrets"] == [{"name": "s"}]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert "cpu" not in container["resources"]["limits"]
    assert container["resources"]["requests"]["cpu"] == ("10m" if role == "probe" else "100m")
    assert spec.get("hostNetwork", False) is (role == "probe")
    labels = {"app.kubernetes.io/name": "bigtcp-bench", "bigtcp-bench/role": role, "a": "b"}
    assert labels.items() <= pod["metadata"]["labels"].items()
    assert pods.build_pod(role, image="y")["spec"]["containers"][0]["image"] == "y", "the template is not shared"


def test_a_probe_may_live_longer_than_it_is_waited_for() -> None:
    limits = ProbeOrders.model_fields["sample_s"].metadata
    longest_sample_s = next(limit.le for limit in limits if hasattr(limit, "le"))
    deadline_s = pods.build_pod("probe", image="x")["spec"]["activeDeadlineSeconds"]
    assert deadline_s > pods.POD_START_S + longest_sample_s


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("deadline", "failed: DeadlineExceeded: Pod was active on the node longer than the specified deadline"),
        ("failed", "ended with Error 3: boom"),
    ],
)
def test_why_a_pod_failed_is_said_as_the_cluster_says_it(name: str, words: str) -> None:
    recorded = json.loads((RECORDED / "pods" / f"{name}.json").read_text(encoding="utf-8"))
    api = SimpleNamespace(find=lambda *_: recorded, poll=lambda *_: iter([0.0]))
    with pytest.raises(pods.PodFailed, match=rf"^pod bigtcp-bench/x {words}$"):
        pods.wait_ended(cast(ClusterApi, api), "x")


@pytest.mark.parametrize(
    ("name", "since"),
    [
        ("succeeded", "2026-11-23T00:43:00Z"),
        ("failed", "2026-11-23T00:43:00Z"),
        ("deadline", "2026-11-23T00:43:08Z"),
        ("unschedulable", None),
    ],
)
def test_a_pod_is_forgotten_a_while_after_its_end(name: str, since: str | None) -> None:
    recorded = json.loads((RECORDED / "pods" / f"{name}.json").read_text(encoding="utf-8"))

    def forgotten(now: float) -> bool:
        api = SimpleNamespace(select=lambda *_, **__: [recorded], now=lambda: now)
        return pods.forgotten(cast(ClusterApi, api)) == [recorded["metadata"]["name"]]

    if since is None:
        assert not forgotten(epoch("2026-12-24T00:00:00Z")), "it may still run"
        return
    assert not forgotten(epoch(since) + pods.FORGOTTEN_S)
    assert forgotten(epoch(since) + pods.FORGOTTEN_S + 1)
    # Nobody knows how it ended: its node went away, or it was evicted before it started.
    for unknown in ([{"state": {"terminated": {"exitCode": 137, "finishedAt": None}}}], None):
        recorded["status"]["containerStatuses"] = unknown
        assert forgotten(epoch(recorded["metadata"]["creationTimestamp"]) + pods.FORGOTTEN_S + 1)


def test_pods_stay_out_of_a_service_mesh_whatever_else_they_are_given() -> None:
    for role in pods.TRAFFIC_ROLES:
        meta = pods.build_pod(role, image="x", labels={"a": "b"})["metadata"]
        out = {"sidecar.istio.io/inject": "false", "istio.io/dataplane-mode": "none", "a": "b"}
        assert out.items() <= meta["labels"].items()
        assert meta["annotations"] == {"linkerd.io/inject": "disabled"}


def test_every_manifest_is_complete_and_no_right_is_wild() -> None:
    for path in sorted((include_dir() / "manifests").glob("*.yaml")):
        for body in load_manifests(path.name):
            assert body["apiVersion"]
            assert body["kind"]
            assert body["metadata"].get("name") or body["metadata"].get("generateName")
            for rule in body.get("rules", []):
                assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
                assert "secrets" not in rule["resources"]


def test_the_admission_policy_has_only_fields_that_kubernetes_knows() -> None:
    """An unknown field would be dropped, and with it perhaps the check that it was meant to be."""
    bodies = load_manifests("admission-policy.yaml")
    for body in bodies:
        _refuse_unknown(body, f"V1{body['kind']}")
    for policy, binding in zip(bodies[::2], bodies[1::2], strict=True):
        assert binding["spec"]["policyName"] == policy["metadata"]["name"]
        selected = binding["spec"]["matchResources"]["namespaceSelector"]["matchLabels"]
        assert selected == {"kubernetes.io/metadata.name": pods.BENCH_NAMESPACE}
    misspelt = {"spec": {"matchConstraints": {"resourcerules": []}}}
    with pytest.raises(AssertionError, match="resourcerules"):
        _refuse_unknown(misspelt, "V1ValidatingAdmissionPolicy")


def _refuse_unknown(value: Any, kind: str) -> None:
    if kind.startswith("list["):
        for item in value:
            _refuse_unknown(item, kind[5:-1])
    elif kind.startswith("V1"):
        model = getattr(kubernetes.client, kind)
        known = {wire: model.openapi_types[name] for name, wire in model.attribute_map.items()}
        for name, item in value.items():
            assert name in known, f"{kind} has no {name}"
            _refuse_unknown(item, known[name])


def _document(moment: str) -> dict[str, Any]:
    text = (RECORDED / f"proc-client-{moment}-on.txt").read_text(encoding="utf-8")
    sections: dict[str, str] = {}
    for part in text.split("== ")[1:]:
        name, _, body = part.partition("\n")
        sections[name.strip().rsplit("/", 1)[-1]] = body
    return {
        "boot_id": "b",
        "snapshot": {
            "user_hz": 100,
            "devices": {"eth0": {"tx_packets": 10 if moment == "before" else 30}, "lxc1": {"tx_packets": 1}},
            **{name: sections.get(name) for name in ("snmp", "snmp6", "netstat", "softnet_stat")},
            "proc_stat": sections.get("stat"),
        },
        CILIUM_METRICS: json.loads(
            (RECORDED / f"cilium-bpf-metrics-{'off' if moment == 'before' else 'on'}.json").read_text()
        ),
    }


def test_counters_grow_as_recorded() -> None:
    before, after = _document("before"), _document("after")
    grown = node_growth(before, after).grown
    assert grown["device/eth0/tx_packets"] == 20
    assert grown["snmp/IpOutRequests"] > 1000
    assert grown["netstat/IpExtOutOctets"] / grown["snmp/IpOutRequests"] > 65_536, "the packets were big"
    assert grown["cpu/softirq_s"] > 0
    assert grown["interrupts/total"] > 0
    assert grown["softirqs/NET_RX"] > 0
    assert grown["softnet/processed"] > 0
    assert grown["cilium/Success/egress/bytes"] > 0
    assert not any(name.startswith("device/lxc") for name in counters_of(after))
    assert "snmp/TcpCurrEstab" not in counters_of(after)


def test_an_agent_that_could_not_say_its_counters_has_not_counted_from_zero() -> None:
    before, after = _document("before"), _document("after")
    silent = {**before, CILIUM_METRICS: None}
    for first, last in ((silent, after), (after, silent)):
        found = node_growth(first, last)
        assert not any(name.startswith("cilium/") for name in {**found.grown, **found.unknown})
    # A reason to drop that the map has no entry of before has not dropped anything before.
    dropped = {"reason": "Stale or unroutable IP", "direction": "ingress", "packets": 3, "bytes": 300}
    later = {**before, CILIUM_METRICS: [*before[CILIUM_METRICS], {**dropped, "line": 1, "file": "bpf_lxc.c"}]}
    assert node_growth(before, later).grown == {
        "cilium/Stale or unroutable IP/ingress/packets": 3,
        "cilium/Stale or unroutable IP/ingress/bytes": 300,
    }


@dataclass(frozen=True)
class Stored:
    document: bytes


def test_deltas_need_both_ends_of_a_block_and_one_boot() -> None:
    def stored(document: dict[str, Any]) -> Stored:
        return Stored(zlib.compress(json.dumps(document).encode()))

    before, after = _document("before"), _document("after")
    documents = {
        (1, "node-begin:n1"): stored(before),
        (1, "node-end:n1"): stored(after),
        (1, "node-begin:n2"): stored(before),
        (2, "node-begin:n1"): stored(before),
        (2, "node-end:n1"): stored({**after, "boot_id": "another"}),
    }
    rows, gaps = deltas(documents, {1: "off", 2: "on"})
    assert {(row["block"], row["arm"], row["node"]) for row in rows} == {(1, "off", "n1")}
    assert gaps == [
        "block 1: node n2 has no counters of the block's end",
        "block 2: node n1 was restarted, so its counters tell nothing",
    ]


def test_gauges_are_stored_with_their_moment_and_what_ran_back_is_said() -> None:
    before, after = _document("before"), _document("after")
    before["snapshot"].update(conntrack_count="5\n", conntrack_max="100\n", monotonic_s=12.0)
    after["snapshot"].update(conntrack_count="3\n", conntrack_max="100\n", monotonic_s=30.0)
    before["snapshot"]["devices"]["eth0"]["tx_packets"] = 50
    earlier = before["snapshot"]["proc_stat"].replace("cpu  ", "cpu  0", 1)
    before["earlier"] = {"monotonic_s": 10.0, "user_hz": 100, "proc_stat": earlier}
    documents = {
        (1, f"node-{moment}:n1"): Stored(zlib.compress(json.dumps(document).encode()))
        for moment, document in (("begin", before), ("end", after))
    }
    rows, gaps = deltas(documents, {1: "off"})
    values = {row["counter"]: row["value"] for row in rows}
    assert (values["conntrack/count_begin"], values["conntrack/count_end"]) == (5, 3)
    assert values["conntrack/max_end"] == 100
    assert values["idle/busy_cpus_begin"] == 0
    assert "device/eth0/tx_packets" not in values
    (gap,) = gaps
    assert "device/eth0/tx_packets ran back from 50 to 30" in gap
