"""`make kind-demo` without Docker: its calls in their order, and its files against what kind and Cilium know."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bigtcp_bench.planning.plan import load_plan
from bigtcp_bench.resources import load_manifests
from tests.lab.helpers import eventually

ROOT = Path(__file__).resolve().parent.parent
KIND = ROOT / "include" / "kind"
DELETION = "kind delete cluster --name bigtcp-bench --kubeconfig .bigtcp/kind/admin.kubeconfig"
TOOLS = ("docker", "kind", "kubectl", "helm", "bigtcp-bench")

#: What a tool says and how it ends is in a line of the file `answers`: words of the call, status, text.
STUB = """#!/bin/sh
here=${0%/*}
call="${0##*/} $*"
echo "$call" >>"$here/calls"
case "$call" in *raise-veths*|*" -s -- "*) cat >"$here/stdin" ;; esac
while IFS='|' read -r words status text; do
  case "$call" in *"$words"*) [ -z "$text" ] || echo "$text"; exit "$status" ;; esac
done <"$here/answers"
"""
ANSWERS = {
    "link show lo": (0, "gso_max_size 65536 gso_ipv4_max_size 65536"),
    "docker exec bigtcp-bench-worker cat": (0, "41"),
    "docker exec bigtcp-bench-worker2 cat": (0, "43"),
    "cluster.server": (0, "https://127.0.0.1:40123"),
    "certificate-authority-data": (0, "Q0E="),
    "create token": (0, "the-token"),
}


SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
#: Undoes what the tests may have been started with: nohup and a shell's background ignore some of them.
HEED_SIGNALS = ("env", "--default-signal=TERM,HUP,INT")


class Demo:
    """A checkout of its own for the script, and tools that only write down how they are called."""

    def __init__(self, folder: Path) -> None:
        self.root, self.tools = folder / "checkout", folder / "tools"
        (self.root / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "kind-demo", self.root / "scripts")
        shutil.copytree(ROOT / "include", self.root / "include")
        self.tools.mkdir()
        for name in TOOLS:
            (self.tools / name).write_text(STUB)
            (self.tools / name).chmod(0o755)
        self.calls: list[str] = []

    def run(
        self, *options: str, answers: dict[str, tuple[int, str]] | None = None, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        process = self.start(*options, answers=answers, **settings)
        out, err = process.communicate(timeout=30)
        self.calls = self.called
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start(
        self, *options: str, answers: dict[str, tuple[int, str]] | None = None, **settings: str
    ) -> subprocess.Popen[str]:
        asked = {
            **(answers or {}),
            **{words: said for words, said in ANSWERS.items() if words not in (answers or {})},
        }
        lines = [f"{words}|{status}|{text}\n" for words, (status, text) in asked.items()]
        (self.tools / "answers").write_text("".join(lines))
        return subprocess.Popen(
            [*HEED_SIGNALS, str(self.root / "scripts" / "kind-demo"), *options],
            env={"PATH": f"{self.tools}:/usr/bin:/bin", "HOME": str(self.root), **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def called(self) -> list[str]:
        calls = self.tools / "calls"
        return calls.read_text().splitlines() if calls.exists() else []

    @property
    def steps(self) -> list[str]:
        """The first three words of each call that is no question, without the kubeconfig."""
        questions = (
            "info",
            "network inspect",
            "link show",
            "get clusters",
            "config view",
            "create token",
            "cat /sys",
        )
        return [
            " ".join(word for word in call.split() if not word.startswith(("--kubeconfig", ".bigtcp")))[:30]
            for call in self.calls
            if not any(question in call for question in questions)
        ]


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    return Demo(tmp_path)


def test_everything_is_done_in_order_and_deleted_again(demo):
    done = demo.run()
    assert done.returncode == 0, done.stderr
    assert demo.steps == [
        "kind create cluster --name big",
        "helm install cilium cilium --r",
        "kubectl wait --for=condition=R",
        "kubectl --namespace kube-syste",
        "docker run --rm --interactive ",
        "docker exec bigtcp-bench-worke",
        "docker exec bigtcp-bench-worke",
        "kubectl apply -f include/manif",
        "bigtcp-bench demo --plan quick",
        "kind delete cluster --name big",
    ]
    # The outer veths are named by their index, in the host's network, with a script on standard input.
    looked, raised = [call for call in demo.calls if call.startswith("docker run")]
    assert looked == f"docker run --rm --network none --entrypoint ip {load_plan('quick').image} -d link show lo"
    assert demo.calls.index(looked) < demo.calls.index(next(call for call in demo.calls if "kind create" in call))
    assert "--network host --cap-add NET_ADMIN" in raised
    assert raised.endswith(f"{load_plan('quick').image} -s -- 41 43")
    assert (demo.tools / "stdin").read_text() == (KIND / "raise-veths.sh").read_text()
    assert not (demo.root / ".bigtcp" / "kind").exists()


def test_another_cilium_is_installed_on_request(demo):
    for settings, version in ({}, "1.18.3"), ({"CILIUM_VERSION": "1.20.2"}, "1.20.2"):
        assert demo.run(**settings).returncode == 0
        assert f"--version {version} " in next(call for call in reversed(demo.calls) if "helm" in call)


def test_a_kept_cluster_can_be_used_by_the_benchmarks_own_account_only(demo):
    assert demo.run(KEEP="1").returncode == 0
    assert not any("delete" in call for call in demo.calls)
    path = demo.root / ".bigtcp" / "kind" / "bench.kubeconfig"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    config = yaml.safe_load(path.read_text())
    assert config["users"] == [{"name": "bigtcp-bench", "user": {"token": "the-token"}}]
    assert config["clusters"][0]["cluster"] == {
        "server": "https://127.0.0.1:40123",
        "certificate-authority-data": "Q0E=",
    }
    assert config["contexts"][0]["name"] == config["current-context"] == "kind-bigtcp-bench"
    accounts = [item for item in load_manifests("rbac.yaml") if item["kind"] == "ServiceAccount"]
    assert "bigtcp-bench" in [item["metadata"]["name"] for item in accounts]
    assert demo.run("--delete").returncode == 0
    assert demo.steps[-1].startswith("kind delete cluster")
    assert not path.exists()


@pytest.mark.parametrize(
    ("failing", "last"),
    [("kind create", "kind create"), ("helm", "helm"), ("bigtcp-bench demo", "bigtcp-bench demo")],
)
def test_whatever_fails_the_cluster_is_deleted_and_the_status_says_so(demo, failing, last):
    done = demo.run(answers={failing: (3, ""), "kind version": (0, "kind v0.33.0")})
    assert done.returncode == 3
    assert "it ended with status 3" in done.stderr
    assert "with KEEP=1 the cluster is kept" in done.stderr
    assert "this is kind v0.33.0; include/kind/cluster.yaml names the node image of kind v0.30.0" in done.stderr
    *before, pods, events, _logs, version, deletion = demo.steps
    assert before[-1].startswith(last)
    assert (pods, events[:18], version) == ("kubectl --namespace kube-syste", "kubectl get events", "kind version")
    assert any("logs --selector k8s-app=cilium --container cilium-agent" in call for call in demo.calls)
    assert deletion.startswith("kind delete cluster")


def test_a_kept_cluster_is_not_recommended_to_be_kept(demo):
    done = demo.run(answers={"bigtcp-bench demo": (3, "")}, KEEP="1")
    assert done.returncode == 3
    assert "the cluster is kept: export" in done.stderr
    assert "with KEEP=1" not in done.stderr


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (
            {"link show lo": (0, "gso_max_size 65536"), "KernelVersion": (0, "5.15.0-91-generic")},
            "kernel (5.15.0-91-generic) has no BIG TCP for IPv4; Linux 6.3 or newer is needed",
        ),
        (
            {"network inspect kind": (0, "false")},
            "network kind is there already and has no IPv6; docker network rm",
        ),
    ],
)
def test_a_host_that_cannot_is_said_before_there_is_a_cluster(demo, answers, words):
    done = demo.run(answers=answers)
    assert done.returncode == 1
    assert words in done.stderr
    assert demo.steps == []


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupted_benchmark_ends_before_its_cluster(demo, number):
    # As `bigtcp-bench demo` does: it puts back what it changed, and then ends.
    (demo.tools / "bigtcp-bench").write_text(
        """#!/bin/sh
calls=${0%/*}/calls
trap 'sleep 0.3; echo "benchmark ended" >>"$calls"; exit 130' INT
echo "benchmark started" >>"$calls"
for _ in $(seq 200); do sleep 0.05; done
"""
    )
    process = demo.start()
    eventually(lambda: "benchmark started" in demo.called)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert demo.called.index("benchmark ended") < demo.called.index(DELETION)


def test_a_step_that_runs_ends_before_its_cluster(demo):
    (demo.tools / "helm").write_text(
        """#!/bin/sh
calls=${0%/*}/calls
echo "helm started" >>"$calls"
sleep 0.5
echo "helm ended" >>"$calls"
"""
    )
    process = demo.start()
    eventually(lambda: "helm started" in demo.called)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert demo.called.index("helm ended") < demo.called.index(DELETION)


def test_a_deletion_is_not_interrupted(demo):
    (demo.tools / "kind").write_text(
        """#!/bin/sh
calls=${0%/*}/calls
case "$*" in delete*) echo "deletion started" >>"$calls"; sleep 0.5; echo "deletion ended" >>"$calls" ;; esac
"""
    )
    process = demo.start()
    eventually(lambda: "deletion started" in demo.called)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, demo.called[-1]) == (0, "deletion ended"), err
    assert not (demo.root / ".bigtcp" / "kind").exists()


def test_no_proxy_stands_between_us_and_the_cluster(demo):
    (demo.tools / "bigtcp-bench").write_text('#!/bin/sh\nenv >"${0%/*}/environment"\n')
    ours = "127.0.0.1,localhost"
    for settings, wanted in (
        ({}, ours),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "a.example"}, f"a.example,{ours}"),
        ({"NO_PROXY": "a.example", "no_proxy": "b.example"}, f"a.example,b.example,{ours}"),
    ):
        assert demo.run(**settings).returncode == 0
        environment = (demo.tools / "environment").read_text().splitlines()
        assert {f"NO_PROXY={wanted}", f"no_proxy={wanted}"} <= set(environment)


def test_a_cluster_of_somebody_else_is_left_alone(demo):
    done = demo.run(answers={"kind get clusters": (0, "bigtcp-bench")})
    assert done.returncode == 1
    assert "a kind cluster named bigtcp-bench exists already" in done.stderr
    assert demo.steps == []


def test_what_is_missing_is_said_at_once(demo):
    for name in ("kind", "helm"):
        (demo.tools / name).unlink()
    done = demo.run()
    assert done.returncode == 1
    said = [line.split(":")[0].strip() for line in done.stderr.splitlines()[1:]]
    assert said == ["kind (v0.30.0)", "helm (v3.17 or newer)"]
    assert demo.calls == []


def test_a_docker_that_does_not_answer_is_said(demo):
    done = demo.run(answers={"docker info": (1, "")})
    assert done.returncode == 1
    assert "its daemon does not answer" in done.stderr
    assert demo.steps == []


def test_printing_runs_nothing(demo):
    done = demo.run("--print")
    assert done.returncode == 0
    assert demo.calls == []
    printed = [line.split()[0] for line in done.stdout.splitlines()]
    assert printed == [
        *("kind", "helm", "kubectl", "kubectl", "docker", "docker", "docker", "kubectl", "bigtcp-bench", "kind")
    ]
    assert not (demo.root / ".bigtcp").exists()


# What it installs


def test_nothing_but_python_is_wanted_on_the_host(tmp_path):
    """With everything of the host hidden but what the script itself calls, and .venv as it wants it."""
    checkout, tools = tmp_path / "checkout", tmp_path / "tools"
    checkout.mkdir()
    parts = ("requirements.lock", "pyproject.toml", "lab/pyproject.toml", "scripts/install")
    for name in parts:
        (checkout / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    stamp = hashlib.sha256(b"".join((checkout / name).read_bytes() for name in parts)).hexdigest()
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "installed").write_text(f"{stamp}\n")
    tools.mkdir()
    for name in ("bash", "dirname", "id", "cat", "sha256sum", "cut"):
        (tools / name).symlink_to(str(shutil.which(name)))

    def install(purpose: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(tools / "bash"), "scripts/install", purpose],
            cwd=checkout,
            env={"PATH": str(tools), "PYTHON": sys.executable},
            capture_output=True,
            text=True,
        )

    assert "apt-get install -y iperf3" in install("run").stdout
    done = install("kind")
    assert (done.returncode, done.stdout) == (0, ""), done
    recipe = (ROOT / "Makefile").read_text().partition("\nkind-demo:")[2].partition("\n\n")[0].splitlines()
    assert recipe[0].strip().startswith("##"), "it depends on no other target"
    assert recipe[1:] == ["\t@scripts/install kind", "\t@scripts/kind-demo"]


# The veths


@pytest.fixture
def raise_veths(tmp_path: Path):
    """Run the script with an `ip` that takes every size but those in `refused`, and a file among the devices."""
    calls = tmp_path / "calls"
    ip = tmp_path / "ip"
    devices = tmp_path / "net"
    (devices / "lo").mkdir(parents=True)
    (devices / "lo" / "ifindex").write_text("1\n")
    (devices / "bonding_masters").write_text("\n")

    def run(*indices: str, refused: str = "nothing") -> tuple[subprocess.CompletedProcess[str], list[str]]:
        ip.write_text(
            f'#!/bin/sh\ncase "$*" in\n"-d link show"*) echo " mtu 1500"; sed "s/.*veth //" {calls} '
            f'| grep -v {refused} ;;\n*) echo "$*" | sed "s/dev [^ ]*/dev veth/" >>{calls} ;;\nesac\n'
        )
        ip.chmod(0o755)
        calls.write_text("")
        done = subprocess.run(
            ["sh", "-s", "--", *indices],
            input=(KIND / "raise-veths.sh").read_text().replace("/sys/class/net", str(devices)),
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
        )
        return done, calls.read_text().splitlines()

    return run


def test_a_device_is_found_by_its_index_and_raised_for_both_families(raise_veths):
    done, calls = raise_veths("1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "lo takes packets of 196608 bytes\n", "")
    assert calls == [
        "link set dev veth gso_max_size 196608 gro_max_size 196608",
        "link set dev veth gso_ipv4_max_size 196608 gro_ipv4_max_size 196608",
    ]


def test_a_device_that_does_not_take_the_size_is_named(raise_veths):
    done, _ = raise_veths("1", refused="ipv4")
    assert done.returncode == 1
    assert done.stderr == "lo did not take gso_ipv4_max_size 196608\n"


def test_a_device_that_is_not_there_is_an_error(raise_veths):
    done, calls = raise_veths("999999")
    assert done.returncode == 1
    assert "no network device with the index 999999" in done.stderr
    assert calls == []


# The files: what kind's v1alpha4 types and Cilium's chart know

CLUSTER_FIELDS = {"kind", "apiVersion", "nodes", "networking"}
NODE_FIELDS = {"role", "image", "labels"}
NETWORKING_FIELDS = {"ipFamily", "disableDefaultCNI", "kubeProxyMode", "podSubnet", "serviceSubnet"}

#: Value of the chart → the key of cilium-config that it becomes, as a real installation of the chart has it.
RENDERED = {
    "kubeProxyReplacement": "kube-proxy-replacement",
    "bpf.masquerade": "enable-bpf-masquerade",
    "routingMode": "routing-mode",
    "autoDirectNodeRoutes": "auto-direct-node-routes",
    "ipam.mode": "ipam",
    "ipv4.enabled": "enable-ipv4",
    "ipv6.enabled": "enable-ipv6",
    "ipv4NativeRoutingCIDR": "ipv4-native-routing-cidr",
    "ipv6NativeRoutingCIDR": "ipv6-native-routing-cidr",
    "enableIPv4BIGTCP": "enable-ipv4-big-tcp",
    "enableIPv6BIGTCP": "enable-ipv6-big-tcp",
    "hubble.enabled": "enable-hubble",
    "l7Proxy": "enable-l7-proxy",
}
#: Values that become other objects, or keys only where they are set.
OTHERS = {"bpf.hostLegacyRouting", "devices", "k8sServicePort", "operator.replicas", "envoy.enabled"}
CIDRS = {"ipv4NativeRoutingCIDR", "ipv6NativeRoutingCIDR"}


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@pytest.fixture
def cluster() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((KIND / "cluster.yaml").read_text())
    return found


@pytest.fixture
def values() -> dict[str, Any]:
    return flat(yaml.safe_load((KIND / "cilium-values.yaml").read_text()))


def test_the_cluster_is_what_kind_understands(cluster):
    # kind refuses any field that it does not know.
    assert (cluster["kind"], cluster["apiVersion"]) == ("Cluster", "kind.x-k8s.io/v1alpha4")
    assert cluster.keys() <= CLUSTER_FIELDS
    assert cluster["networking"].keys() <= NETWORKING_FIELDS
    assert cluster["networking"]["ipFamily"] in ("ipv4", "ipv6", "dual")
    assert cluster["networking"]["kubeProxyMode"] in ("iptables", "ipvs", "nftables", "none")
    for node in cluster["nodes"]:
        assert node.keys() <= NODE_FIELDS
        assert all(isinstance(value, str) for value in node.get("labels", {}).values())
    assert len({node["image"] for node in cluster["nodes"]}) == 1
    assert "@sha256:" in cluster["nodes"][0]["image"]


def test_two_workers_are_the_benchmarks_and_the_control_plane_is_not(cluster):
    roles = [(node["role"], node.get("labels")) for node in cluster["nodes"]]
    labelled = {"bigtcp-bench": "true"}
    assert roles == [("control-plane", None), ("worker", labelled), ("worker", labelled)]


def test_the_chart_of_that_version_knows_every_value(values):
    config = json.loads((ROOT / "tests" / "recorded" / "configmap-cilium-config.json").read_text())["data"]
    assert values.keys() == RENDERED.keys() | OTHERS
    for name, key in RENDERED.items():
        assert key in config, f"{name}: a cilium-config of Cilium 1.18.3 has no {key}"
    # The recorded cluster is one on which BIG TCP works: what BIG TCP asks for is the same here.
    wanted = RENDERED.keys() - CIDRS - {"hubble.enabled", "l7Proxy", "enableIPv4BIGTCP", "enableIPv6BIGTCP"}
    for name in wanted:
        value = values[name]
        assert config[RENDERED[name]] == (str(value).lower() if isinstance(value, bool) else value), name


def test_both_files_mean_the_same_pods(cluster, values):
    assert cluster["networking"]["podSubnet"] == ",".join(values[name] for name in sorted(CIDRS))
