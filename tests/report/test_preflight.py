"""The preflight's table: one line for what is the same on both nodes, and what to do below what did not pass."""

from __future__ import annotations

import io

from rich.console import Console

from bigtcp_bench.cluster.checks import Check, counted, worst
from bigtcp_bench.report.preflight import checks_text, print_checks

CHECKS = [
    Check("Kubernetes API", "", "pass", "v1.36.2 at https://x"),
    Check("memory", "node1", "pass", "7.0 GiB available"),
    Check("device", "node1", "warn", "eth0: veth", "raise the other end"),
    Check("memory", "node2", "pass", "6.9 GiB available"),
    Check("device", "node2", "warn", "eth0: veth", "raise the other end"),
    Check("host routing", "node2", "fail", "Legacy", "needs bpf.masquerade " + "and more words " * 10),
]


def test_the_table_as_text() -> None:
    lines = checks_text(CHECKS).splitlines()
    assert lines[0].split() == ["check", "node", "found"]
    assert [line.split()[0] for line in lines[1:] if not line.startswith(" ") and line] == [
        *("pass", "pass", "warn", "pass", "fail"),
        "3",
    ]
    assert sum("node1, node2" in line for line in lines) == 1
    assert sum("→ raise the other end" in line for line in lines) == 1
    assert lines[-1] == "3 of 6 checks passed, 2 warn, 1 failed"
    assert max(map(len, lines)) <= 100


def test_a_terminal_gets_colours_and_a_file_does_not() -> None:
    terminal, file = io.StringIO(), io.StringIO()
    print_checks(CHECKS, Console(file=terminal, force_terminal=True, width=90))
    print_checks(CHECKS, Console(file=file))
    assert "\x1b[" in terminal.getvalue()
    assert "\x1b[" not in file.getvalue()


def test_the_worst_counts() -> None:
    assert [worst(CHECKS), worst(CHECKS[:-1]), worst(CHECKS[:2]), worst([])] == ["fail", "warn", "pass", "pass"]
    assert counted(CHECKS[:2]) == "2 of 2 checks passed"
