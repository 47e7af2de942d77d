"""What ``bigtcp-bench check`` says of the lab with each of its faults, and of each combination that is known bad.

Usage: ``python -m benchmarks.check_faults``. Starts one lab, switches every fault on and off again and runs the
command each time; then does the same with changes that an administrator could make. Prints two Markdown tables: of
the lab, only the lines that are not as on the lab without any fault; and the known-bad combinations of the tests,
judged from a recorded cluster. Takes about three minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.cluster.test_known_bad import BAD, World

from bigtcp_bench.cluster import restore
from bigtcp_bench.cluster.api import CONFIGMAP, DAEMONSET, LEASE, NODE, POD, ClusterApi, Conflict, Kind
from bigtcp_bench.cluster.cilium import AGENT_LABELS
from bigtcp_bench.cluster.nodes import choose_pair
from bigtcp_bench.cluster.window import open_window
from bigtcp_bench.in_cluster import protocol
from bigtcp_bench.planning.plan import load_plan
from bigtcp_lab import administrator, daemon
from bigtcp_lab.faults import FAULTS, WHOLE_CLUSTER

PLAN = "quick"
SYSTEM = "kube-system"
NODE_CONFIG = Kind("cilium.io", "v2", "ciliumnodeconfigs")
#: Not visible before traffic flows, or before the setting is changed; this is where each of them comes out.
NOTICED_LATER = {
    "api-errors": "nobody: every request is made again",
    "api-slow": "nobody: it only takes longer",
    "slow-starts": "nobody: it only takes longer",
    "setting-ignored": "the switch: agent and devices contradict each other, the run fails",
    "slow-path": "no single run, since both arms are slow alike; across nights, as a regression of the platform",
    "ip-forwarding-hop": "the proof of effect: IPv6 packets stay small with BIG TCP on, the run is invalid",
    "lossy-path": "the gate of retransmits; the diagnosis names the loss",
    "cilium-drops": "the gate of retransmits; the diagnosis names Cilium's own reason",
    "no-service-route": "the check of a plan with scenarios @service: a pod does not reach one by its Service",
    "policy-within-node": "the check of a plan with scenarios @same-node: pods of the node do not reach another",
    "noisy-neighbour": "the line on load, which this table leaves out, and the load gate",
    "crowded-cpu": "the diagnosis of a run that is slow by it",
    "cpu-limit": "the gate of throttled pods",
    "stolen-cpu": "the gate of stolen time",
    "outer-veth-64k": "the proof of effect: large at the sender, small at the receiver, the run is invalid",
}
#: Differs from one look to the next without any fault.
_NOISE = ("load", "memory", "Kubernetes API")
_PATIENCE_S = 60.0

Result = tuple[int, dict[tuple[str, str], dict[str, str]], str]


def check(kubeconfig: Path, *options: str) -> Result:
    """Run the command; return its exit status, its lines by (name, node), and the sentence if there are none."""
    program = Path(sys.executable).with_name("bigtcp-bench")
    done = subprocess.run(
        [program, "check", "--plan", PLAN, "--kubeconfig", kubeconfig, "--json", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    document = json.loads(done.stdout)
    lines = {(line["name"], line["node"]): line for line in document["checks"]}
    return done.returncode, lines, document.get("problem", "")


class Table:
    """Prints rows about a lab, each as what differs from the lab as it should be."""

    def __init__(self, kubeconfig: Path, usual: Result) -> None:
        self._kubeconfig = kubeconfig
        self._usual = usual

    def row(self, what: str, *options: str, later: str = "") -> None:
        """Run the command and print one row."""
        status, lines, problem = check(self._kubeconfig, *options)
        said: dict[str, list[str]] = {}
        for (name, node), line in lines.items():
            if line["status"] != "pass" and name not in _NOISE and line != self._usual[1].get((name, node)):
                advice = f"; *{line['advice']}*" if line["advice"] else ""
                where = said.setdefault(f"{line['status']} **{name}**{{}}: {line['found']}{advice}", [])
                where += [node] * bool(node)
        texts = [text.replace("{}", f" on {' and '.join(nodes)}" if nodes else "") for text, nodes in said.items()]
        if problem:
            texts = [problem]
        text = "<br>".join(texts) or f"nothing more than usual; noticed by {later}"
        print(f"| {what} | {status} | {_cell(text)} |", flush=True)


def _cell(text: str) -> str:
    # The port is another one each time.
    return re.sub(r"(//127\.0\.0\.1:)\d+", r"\1PORT", text).replace("|", "\\|").replace("\n", " ")


@contextlib.contextmanager
def lab(*faults: str) -> Iterator[tuple[Path, Path]]:
    """Yield the folder and the kubeconfig of a lab of our own, prepared as an administrator would."""
    with tempfile.TemporaryDirectory(prefix="bigtcp-check-") as folder:
        info = daemon.up(Path(folder), faults=list(faults), owner=os.getpid())
        try:
            administrator.apply_manifests(info.kubeconfig)
            yield Path(folder), info.kubeconfig
        finally:
            daemon.down(Path(folder))


def await_effect(folder: Path, fault: str) -> None:
    """Wait until a fault that takes its time has taken it."""
    deadline = time.monotonic() + _PATIENCE_S
    node = fault.partition(":")[2]
    while time.monotonic() < deadline:
        status = daemon.status(folder)
        shown = {"agent-never-ready": status.agents, "node-dies": status.nodes}.get(fault.partition(":")[0], {})
        if not shown.get(node, False):
            return
        time.sleep(0.5)


def await_calm(folder: Path) -> None:
    """Wait until nodes and agents are ready again."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            status = daemon.status(folder)
            if all(status.nodes.values()) and len(status.agents) == 2 and all(status.agents.values()):
                return
        time.sleep(0.5)


def with_faults(folder: Path, kubeconfig: Path, table: Table) -> None:
    """Print a row for every fault that can be switched."""
    for name in FAULTS:
        if name == "no-cilium":
            continue
        fault = name if name in WHOLE_CLUSTER else f"{name}:node2"
        daemon.set_fault(folder, fault, True)
        await_effect(folder, fault)
        table.row(f"`{fault}`", later=NOTICED_LATER.get(name, ""))
        daemon.set_fault(folder, fault, False)
        await_calm(folder)


# What an administrator could have done


def _edit(api: ClusterApi, kind: Kind, name: str, namespace: str | None, edit: Callable[[Any], object]) -> None:
    while True:
        found = api.get(kind, name, namespace)
        edit(found)
        try:
            api.replace(kind, found, namespace)
            return
        except Conflict:
            continue


def _configured(api: ClusterApi, folder: Path, **settings: str | None) -> None:
    """Set keys of cilium-config and restart the agents."""

    def edit(found: Any) -> None:
        for key, value in settings.items():
            key = key.replace("_", "-")
            found["data"].pop(key, None)
            if value is not None:
                found["data"][key] = value

    _edit(api, CONFIGMAP, "cilium-config", SYSTEM, edit)
    for pod in api.select(POD, SYSTEM, labels=AGENT_LABELS):
        api.delete(POD, pod["metadata"]["name"], SYSTEM)
    await_calm(folder)


def _labelled(api: ClusterApi, mark: str | None) -> None:
    def edit(found: Any) -> None:
        labels = found["metadata"].setdefault("labels", {})
        labels.pop("argocd.argoproj.io/instance", None)
        if mark:
            labels["argocd.argoproj.io/instance"] = mark

    _edit(api, CONFIGMAP, "cilium-config", SYSTEM, edit)


def _init_arguments(api: ClusterApi, folder: Path, arguments: list[str]) -> None:
    def edit(found: Any) -> None:
        containers = found["spec"]["template"]["spec"]["initContainers"]
        next(item for item in containers if item["name"] == "config")["args"] = arguments

    _edit(api, DAEMONSET, "cilium", SYSTEM, edit)
    time.sleep(1)
    await_calm(folder)


def with_changes(folder: Path, kubeconfig: Path, table: Table) -> None:
    """Print a row for each change that an administrator, or an earlier run, could have left behind."""
    api = ClusterApi.from_kubeconfig(kubeconfig)
    _configured(api, folder, routing_mode="tunnel")
    table.row("tunnel routing", "--no-pods")
    _configured(api, folder, routing_mode="native", enable_bpf_masquerade="false")
    table.row("no BPF masquerading, so legacy host routing", "--no-pods")
    _configured(api, folder, enable_bpf_masquerade="true")
    _labelled(api, "cilium")
    table.row("Argo CD keeps `cilium-config`", "--no-pods")
    table.row("the same, scope cluster", "--no-pods", "--scope", "cluster")
    _labelled(api, None)
    _init_arguments(api, folder, ["--deny-config-keys=enable-ipv4-big-tcp"])
    table.row("a denied key", "--no-pods")
    _init_arguments(api, folder, [])
    body = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNodeConfig",
        "metadata": {"name": "zzz", "namespace": SYSTEM},
        "spec": {"nodeSelector": {}, "defaults": {"enable-ipv6-big-tcp": "false"}},
    }
    api.create(NODE_CONFIG, body, SYSTEM)
    table.row("a CiliumNodeConfig that wins", "--no-pods")
    api.delete(NODE_CONFIG, "zzz", SYSTEM)
    api.patch(NODE, "node2", {"spec": {"unschedulable": True}})
    table.row("a cordoned node", "--no-pods")
    api.patch(NODE, "node2", {"spec": {"unschedulable": None}})
    plan = load_plan(PLAN)
    open_window(api, "bigtcp_benchmark/another run", plan, choose_pair(api, plan))
    table.row("another run", "--no-pods")

    def long_ago(found: Any) -> None:
        found["spec"]["renewTime"] = "2026-01-01T00:00:00.000000Z"

    _edit(api, LEASE, protocol.LEASE_NAME, "bigtcp-bench", long_ago)
    table.row("a run that crashed", "--no-pods")
    restore.restore(api, "end", force=True)
    with contextlib.ExitStack() as busy:
        for _ in range(os.cpu_count() or 1):
            process = busy.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
            busy.callback(process.kill)
        _, lines, _ = check(kubeconfig)
        load = lines["load", "node1"]
        print(f"| other load | | {load['status']} **load**: {load['found']}; *{load['advice']}* |", flush=True)


def main() -> None:
    """Print all tables."""
    print("# What the check says\n")
    print(
        "Written by `python -m benchmarks.check_faults > docs/generated/checks.md`, which switches each fault of "
        "the lab on and off, and then makes changes as an administrator or an earlier run could have.\n"
    )
    print("| on the lab | exit status | what the check says beyond the lab's own two warnings |")
    print("|---|---|---|")
    with lab() as (folder, kubeconfig):
        usual = check(kubeconfig)
        warnings = [line for line in usual[1].values() if line["status"] != "pass" and line["name"] not in _NOISE]
        shown = dict.fromkeys(f"{line['status']} **{line['name']}**: {line['found']}" for line in warnings)
        text = "<br>".join(shown)
        print(f"| no fault | {usual[0]} | {len(usual[1])} lines; {_cell(text)} |", flush=True)
        table = Table(kubeconfig, usual)
        with_faults(folder, kubeconfig, table)
        with_changes(folder, kubeconfig, table)
    with lab("no-cilium") as (_, kubeconfig):
        Table(kubeconfig, usual).row("`no-cilium`")
    print(
        "\nThe same from a recorded cluster (Cilium 1.18.3, Kubernetes 1.36.2), spoilt in one way at a time; a "
        "test holds each line to this."
    )
    print("\n| known bad, on a recorded cluster | line | judged | what it says |\n|---|---|---|---|")
    for what, (spoil, name, *_) in BAD.items():
        world = World()
        spoil(world)
        line = next(check for check in world.judged() if check.name == name and check.status != "pass")
        print(f"| {what} | {name} | {line.status} | {_cell(line.found)}; *{_cell(line.advice)}* |")


if __name__ == "__main__":
    main()
