"""What `make demo` does, as its own process: from nothing to the table, through Airflow's command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bigtcp_lab import daemon

pytestmark = [pytest.mark.lab, pytest.mark.e2e]

PLAN = """
scenarios: [ipv4-stream-1, ipv6-stream-1]
order: "off,on"
control: false
packet_sizes: false
generations: 1
repetitions: 1
duration_s: 1
omit_s: 0
load_gate: {mode: warn, rest_s: 0}
"""


@pytest.fixture
def start(tmp_path: Path):
    """Start the demo in a folder of its own, with a small plan, and leave nothing of it behind."""
    plans = tmp_path / "plans"
    plans.mkdir()
    (plans / "tiny.yaml").write_text(PLAN)
    command = [str(Path(sys.executable).with_name("bigtcp-bench")), "demo", "--plan", "tiny"]
    started = []

    def begin() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*command, "--folder", str(tmp_path / "work")],
            env={**os.environ, "BIGTCP_BENCH_PLANS": str(plans)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # A job in the background of a script ignores Ctrl-C, and so would everything it starts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()
    daemon.down(tmp_path / "work" / "demo" / "lab")


def read_until(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    pytest.fail(f"the demo ended before it said {words!r}")


def processes_of(folder: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found


def test_the_demo_survives_being_killed_and_then_runs_to_its_table(start, tmp_path):
    killed = start()
    read_until(killed, "fresh pods")
    killed.send_signal(signal.SIGKILL)
    killed.wait()

    output, _ = start().communicate(timeout=280)
    assert "proof of effect" in output
    for fact in ("ipv4-stream-1", "ipv6-stream-1", "proven", "emulated", "verified", "warehouse.db", "Wall time"):
        assert fact in output, f"{fact} is missing in:\n{output}"
    report = Path(output.splitlines()[-1].rpartition(": ")[2])
    assert "BIG TCP benchmark: run" in report.read_text(encoding="utf-8")
    assert processes_of(tmp_path / "work") == []


def test_ctrl_c_ends_with_the_teardowns_and_no_process_left(start, tmp_path):
    process = start()
    read_until(process, "fresh pods")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "restored what" in output
    deadline = time.monotonic() + 10
    while processes_of(tmp_path / "work") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(tmp_path / "work") == []
