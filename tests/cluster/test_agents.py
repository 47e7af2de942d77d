"""One Cilium from the first minute to the last: whatever happens to it within a block is named."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from bigtcp_bench.analysis.verdicts import RunFacts, judge_run
from bigtcp_bench.cluster.api import CommandFailed
from bigtcp_bench.cluster.bigtcp_switch import switch
from bigtcp_bench.cluster.node_counters import read_nodes
from bigtcp_bench.cluster.nodes import choose_pair
from bigtcp_bench.cluster.window import open_window
from bigtcp_bench.judging.facts import facts_of
from bigtcp_bench.planning.plan import blocks, validate_plan
from bigtcp_bench.readings.frames import packed
from bigtcp_bench.warehouse.records import RawDocument
from bigtcp_lab.api.discovery import DAEMONSETS, PODS
from tests.analysis.runs import make_frame

from .simulated import Cluster, run
from .test_environment import set_config


class Night:
    """A run of the plan's blocks on a simulated cluster; ``in_block`` is done within a block."""

    def __init__(self, **plan: Any) -> None:
        self.cluster = Cluster()
        self.plan = validate_plan({"scenarios": "ipv4-stream-1", **plan})

    def facts(self, in_block: dict[int, Callable[[Cluster], None]]) -> RunFacts:
        api = self.cluster.client()
        pair = choose_pair(api, self.plan)
        window = open_window(api, "bigtcp_benchmark/night", self.plan, pair)
        reports: dict[int, Any] = {}
        documents = []
        for block in blocks(self.plan):
            report = switch(api, window.fence, block.arm, pair, self.plan).to_dict()
            reports[block.number] = json.loads(json.dumps(report))
            for moment in ("begin", "end"):
                if moment == "end" and block.number in in_block:
                    in_block[block.number](self.cluster)
                    self.cluster.reconcile()
                found = read_nodes(api, self.plan, pair, agents=moment == "end")
                documents += [
                    RawDocument(
                        block=block.number, generation=0, kind=f"node-{moment}:{name}", document=packed(document)
                    )
                    for name, document in found.items()
                ]
        return facts_of(documents, reports)

    def reasons(self, in_block: dict[int, Callable[[Cluster], None]]) -> tuple[str, ...]:
        return judge_run(make_frame(self.plan), self.plan, self.facts(in_block)).reasons


def roll(cluster: Cluster) -> None:
    """Do what ``kubectl rollout restart`` does."""
    (daemonset,) = run(cluster.store.list(DAEMONSETS))
    annotations = daemonset["spec"]["template"]["metadata"].setdefault("annotations", {})
    annotations["kubectl.kubernetes.io/restartedAt"] = "2026-11-28T02:10:00Z"
    run(cluster.store.update(DAEMONSETS, daemonset))


def helm_upgrade(cluster: Cluster) -> None:
    set_config(cluster, "monitor-aggregation", "none")
    roll(cluster)


def other_setting(cluster: Cluster) -> None:
    set_config(cluster, "some-key-of-a-later-release", "true")
    roll(cluster)


def lower_limits(cluster: Cluster) -> None:
    cluster.nodes["node2"].limits["gso_max_size"] = 1_234


def restart_container(cluster: Cluster) -> None:
    (pod,) = run(cluster.store.list(PODS, "kube-system", None, "spec.nodeName=node1"))
    pod["status"]["containerStatuses"][0]["restartCount"] = 1
    run(cluster.store.update(PODS, pod, "status"))


def new_image(cluster: Cluster) -> None:
    """Change what agents are made from, which none of them has followed yet."""
    (daemonset,) = run(cluster.store.list(DAEMONSETS))
    daemonset["spec"]["template"]["spec"]["containers"][0]["image"] = "quay.io/cilium/cilium:v9.9.9"
    run(cluster.store.update(DAEMONSETS, daemonset))


@pytest.mark.parametrize("scope", ["nodes", "cluster"])
@pytest.mark.parametrize("order", ["off,on,off", "off,on", "off,off"])
def test_a_run_in_which_nobody_does_anything_has_one_cilium(scope: str, order: str) -> None:
    assert Night(scope=scope, order=order).reasons({}) == ()


@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (roll, r"block {0}: the Cilium agent on node1 changed within the block, from 'cilium-\w+ \(.+\)' to"),
        (roll, r"block {0}: generation of Cilium's DaemonSet changed within the block, from '\d+' to '\d+'"),
        (
            helm_upgrade,
            r"Cilium's monitor-aggregation on node1 changed during the run: 'medium' in block 1, "
            r"'none' at the end of block {0}",
        ),
        (
            other_setting,
            r"Cilium's other settings on node2 \(their digest\) changed during the run: '\w+' in block 1, "
            r"'\w+' at the end of block {0}",
        ),
        (
            lower_limits,
            r"block {0}: gso_max_size of eth0 on node2 changed within the block, from '.* B' to '1,234 B'",
        ),
        (
            restart_container,
            r"block {0}: restarts of the Cilium agent on node1 changed within the block, from '0' to '1'",
        ),
        (new_image, r"block {0}: generation of Cilium's DaemonSet changed within the block"),
    ],
)
def test_whatever_happens_to_cilium_within_a_block_makes_the_run_invalid_by_name(
    change: Callable[[Cluster], None], words: str, block: int
) -> None:
    reasons = Night().reasons({block: change})
    assert any(re.match(words.format(block), reason) for reason in reasons), reasons


def test_an_agent_that_does_not_answer_at_the_end_of_a_block_proves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hang(name: str) -> dict[str, Any]:
        raise CommandFailed("timed out")

    reasons = Night().reasons({3: lambda cluster: monkeypatch.setattr(cluster, "agent_status", hang)})
    assert [reason.partition(":")[0] for reason in reasons] == ["block 3", "block 3"]
    assert "what Cilium was on node1 at the end of the block could not be read: the Cilium agent" in reasons[0]


def test_another_boot_at_the_end_of_a_block_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    night = Night()
    log = night.cluster.pod_log

    def other_boot(pod: str) -> str:
        found = log(pod)
        start, _, packed_document = found.partition('"doc": "')
        document = json.loads(zlib.decompress(base64.b64decode(packed_document.rstrip('"}\n'))))
        document |= {"boot_id": "c", "kernel_release": "6.19.0"}
        packed_again = base64.b64encode(zlib.compress(json.dumps(document).encode())).decode()
        return f'{start}"doc": "{packed_again}"}}\n'

    reasons = night.reasons({3: lambda cluster: monkeypatch.setattr(cluster, "pod_log", other_boot)})
    for words in (
        "boot of node1 changed during the run: 'b' in block 1, 'c' at the end of block 3",
        "kernel of node2",
    ):
        assert any(reason.startswith(words) for reason in reasons), reasons
