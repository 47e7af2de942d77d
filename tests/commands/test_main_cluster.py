"""`bigtcp-bench check` and `plan` without a cluster to talk to; with one they run in the tests of the lab."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bigtcp_bench.commands import check
from bigtcp_bench.commands.main import main

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: k, user: u}}]
clusters: [{name: k, cluster: {server: "http://127.0.0.1:9"}}]
users: [{name: u, user: {token: t}}]
"""


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(check, "AWAY_S", 0.2)
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    return str(tmp_path / "kubeconfig")


def test_a_cluster_that_cannot_be_reached_is_status_2(kubeconfig: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--kubeconfig", kubeconfig]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "the Kubernetes API at http://127.0.0.1:9 gave no usable answer" in said.err
    assert main(["check", "--kubeconfig", kubeconfig, "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert (document["status"], document["checks"]) == ("fail", [])
    assert "no usable answer" in document["problem"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--plan", "weekly"], "plan 'weekly' does not exist"),
        (["--order", "off,maybe"], "order"),
        (["--client-node", "a"], "client_node and server_node must be given together"),
        (["--image", "x:latest"], "must name a tag other than latest"),
        (["--generations", "99"], "generations = 99"),
    ],
)
def test_a_wrong_plan_is_one_sentence(
    options: list[str], sentence: str, kubeconfig: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--kubeconfig", kubeconfig, *options]) == 2
    assert sentence in capsys.readouterr().err
    assert main(["plan", "--kubeconfig", kubeconfig, *options]) == 1
    assert sentence in capsys.readouterr().err


def test_a_kubeconfig_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--kubeconfig", "/nowhere/kubeconfig"]) == 2
    assert "kubeconfig /nowhere/kubeconfig cannot be used" in capsys.readouterr().err


def test_a_check_that_fails_itself_is_not_mistaken_for_one_with_warnings(
    kubeconfig: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("spec")

    monkeypatch.setattr("bigtcp_bench.cluster.nodes.choose_pair", broken)
    assert main(["check", "--kubeconfig", kubeconfig, "--json"]) == 2
    said = capsys.readouterr()
    assert json.loads(said.out) == {
        "status": "fail",
        "problem": "the check itself failed: KeyError: 'spec'",
        "checks": [],
    }
    assert "Traceback" in said.err
