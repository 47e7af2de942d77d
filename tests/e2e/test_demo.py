"""What `make demo` does, as its own process: from nothing to the table, through Airflow's command line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bigtcp_lab import daemon
from tests.e2e import newest_api

pytestmark = [pytest.mark.lab, pytest.mark.e2e]

PLAN = """
scenarios: [ipv4-stream-1]
order: "off,on"
control: false
packet_sizes: false
generations: 1
repetitions: 1
duration_s: 1
omit_s: 0
load_gate: {mode: warn, rest_s: 0}
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of all demos: what one has left must not trouble the next."""
    return tmp_path_factory.mktemp("demo") / "work"


@pytest.fixture
def start(tmp_path: Path, work: Path):
    """Start the demo with a small plan, and leave nothing of it running."""
    plans = tmp_path / "plans"
    plans.mkdir()
    (plans / "tiny.yaml").write_text(PLAN)
    command = [str(Path(sys.executable).with_name("bigtcp-bench")), "demo", "--plan", "tiny"]
    started = []

    def begin() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*command, "--folder", str(work)],
            env={**os.environ, "BIGTCP_BENCH_PLANS": str(plans), "PYTHONPATH": newest_api.path()},
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
    daemon.down(work / "demo" / "lab")


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


def test_the_demo_survives_being_killed_and_then_runs_to_its_table(start, work):
    killed = start()
    read_until(killed, "checks passed")
    killed.send_signal(signal.SIGKILL)
    killed.wait()

    output, _ = start().communicate(timeout=500)
    lines = output.splitlines()
    assert re.search(r"\[0:00\] plan tiny: .*; about .* in all", lines[0]), output
    assert re.search(r"block 2 of 2, BIG TCP on: fresh pods, pair 2 of 2; about \d+ s left", output), output
    verdict = lines[lines.index("") + 1 :]
    assert len(verdict) <= 10, output
    assert verdict[0].startswith("lab: "), output
    for fact in ("ipv4-stream-1", "proof of effect: packets of", "emulated", "restore: verified"):
        assert fact in "\n".join(verdict), f"{fact} is missing in:\n{output}"
    assert re.fullmatch(rf"every figure: \S+bigtcp-bench show \d+ --folder {work}", verdict[-2])
    report = Path(verdict[-1].removeprefix("with charts, for a browser: "))
    assert "BIG TCP benchmark: run" in report.read_text(encoding="utf-8")
    assert processes_of(work) == []


def test_ctrl_c_ends_with_the_teardowns_and_no_process_left(start, work):
    process = start()
    read_until(process, "fresh pods")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "restored what" in output
    deadline = time.monotonic() + 60
    while processes_of(work) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(work) == []
